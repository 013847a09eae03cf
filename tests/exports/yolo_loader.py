"""What a loader of YOLO's labels makes of a folder, by the rules of ultralytics and supervision written out again."""

import cv2
import numpy as np
import yaml

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def label_path(image_path):
    """Where loaders look for the labels of an image."""
    head, _, tail = str(image_path).rpartition("/images/")
    return f"{head}/labels/{tail}".rsplit(".", 1)[0] + ".txt"


def images_of(folder, split):
    """The images of train or val, as data.yaml says."""
    place = folder / yaml.safe_load((folder / "data.yaml").read_text())[split]
    return sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES)


def read_rows(path):
    """Class and numbers of each row of a file, as they are; what loaders refuse is refused."""
    rows = [line.split() for line in path.read_text().splitlines()]
    found = [(int(row[0]), np.array(row[1:], np.float32)) for row in rows]
    for number, values in found:
        assert number >= 0
        assert ((values >= 0) & (values <= 1)).all()
        assert len(values) == 4 or (len(values) >= 6 and len(values) % 2 == 0)
    return found


def boxes_of(rows):
    """Boxes xywh of rows with polygons, as ultralytics makes them."""
    points = [values.reshape(-1, 2) for _, values in rows]
    return [np.concatenate([each.min(axis=0), each.max(axis=0)]) for each in points]


def keep(rows):
    """The rows that are left once those with the class and box of another one are dropped."""
    is_seg = any(len(values) > 4 for _, values in rows)
    boxes = boxes_of(rows) if is_seg else [values for _, values in rows]
    keys = [(number, *box.tolist()) for (number, _), box in zip(rows, boxes, strict=True)]
    return [row for place, row in enumerate(rows) if keys[place] not in keys[:place]]


def draw(values, height, width, *, rounding=np.rint):
    """The mask of a polygon, (H, W) bool. supervision rounds (np.rint), ultralytics truncates (np.trunc)."""
    corners = rounding(values.reshape(-1, 2) * np.array([width, height], np.float32)).astype(np.int32)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [corners], 1)
    return mask.astype(bool)
