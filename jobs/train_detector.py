"""Train a small detector on the masks of a run, and see what it finds on images that it has not seen.

    python jobs/train_detector.py RUN --steps 300

It shows that the masks can be learned from; it is no detector to deploy. RUN may be any run, one that `filter` wrote
among them. A part of its images is held out. The detector learns boxes and categories of the others' masks. On those
held out its boxes are compared with those of the masks, by COCO's average precision (AP).

The detector is that of "Objects as Points" (Zhou, Wang, Krähenbühl 2019), small: for each category a map of where
objects have their centres, and at each place the logarithms of width and height of the object there, and where in its
cell the centre is. N objects, K categories, S the side of an image in pixels, G = S / STRIDE that of the maps.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn

from sam_pipeline.config.base import check
from sam_pipeline.errors import ConfigError, SamPipelineError
from sam_pipeline.torch import MaskDataset, MaskSampler, Target

STRIDE = 4
"""Pixels of the image for a cell of the maps, in each direction."""

_MAX_OBJECTS = 100
_LEARNING_RATE = 2e-3
# Of the maps at first: nearly nothing is a centre.
_PRIOR_LOGIT = -4.6


class Detector(nn.Module):
    """From images to maps.

    Args:
        num_categories: K.
        width: channels of the first layer; deeper ones have up to four times as many.
    """

    def __init__(self, num_categories: int, width: int = 16) -> None:
        super().__init__()
        self.halved = _layer(3, width, stride=2)
        self.quartered = _layer(width, 2 * width, stride=2)
        self.deep = nn.Sequential(
            _layer(2 * width, 4 * width, stride=2),
            _layer(4 * width, 4 * width, stride=2),
            _layer(4 * width, 4 * width),
            _layer(4 * width, 4 * width),
        )
        self.joined = _layer(6 * width, 4 * width)
        self.maps = nn.Conv2d(4 * width, num_categories + 4, 1)
        nn.init.constant_(self.maps.bias[:num_categories], _PRIOR_LOGIT)
        self.num_categories = num_categories

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            images: (B, 3, S, S) float32 in [0, 1].

        Returns:
            (B, K, G, G) logits of centres, and (B, 4, G, G): logarithms of width and height in cells, x and y of the
            centre within its cell.
        """
        fine = self.quartered(self.halved(images - 0.5))
        coarse = F.interpolate(self.deep(fine), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        maps = self.maps(self.joined(torch.cat([fine, coarse], dim=1)))
        return maps[:, : self.num_categories], maps[:, self.num_categories :]


def _layer(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(num_in, num_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, num_out), nn.ReLU(inplace=True))


@dataclass(frozen=True)
class Fitted:
    """Puts images of any size into the corner of a square, with their boxes. Called with an image and its target."""

    side: int
    """S."""

    def __call__(self, image: Tensor, target: Target) -> tuple[Tensor, dict[str, Any]]:
        """(3, H, W) to (3, S, S); `scale` is by how much."""
        height, width = image.shape[-2:]
        scale = self.side / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        resized = F.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        fitted = F.pad(resized, (0, self.side - size[1], 0, self.side - size[0]))
        return fitted, {"boxes": target["boxes"] * scale, "labels": target["labels"], "image_id": target["image_id"]}


def loss_of(
    predicted: tuple[Tensor, Tensor], targets: Sequence[Mapping[str, Any]], channels: Mapping[int, int]
) -> Tensor:
    """The focal loss of the centres, and the distance of sizes and of centres within their cells.

    Args:
        predicted: as Detector returns it.
        targets: of each image, with boxes (N, 4) xyxy in pixels, and labels (N,).
        channels: of each label, its map.
    """
    logits, geometry = predicted
    wanted = torch.zeros_like(logits)
    grid = torch.arange(logits.shape[-1])
    distances = [geometry.sum() * 0]
    for number, target in enumerate(targets):
        for box, label in zip(target["boxes"] / STRIDE, target["labels"].tolist(), strict=True):
            center, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
            column, row = (int(value) for value in center.clamp(0, logits.shape[-1] - 1))
            bump = [
                torch.exp(-((grid - at) ** 2) / (2 * max(float(side) / 6, 0.5) ** 2))
                for at, side in ((column, sides[0]), (row, sides[1]))
            ]
            heat = wanted[number, channels[label]]
            torch.maximum(heat, bump[1][:, None] * bump[0], out=heat)
            there = torch.cat([sides.log(), center - torch.tensor([column, row])])
            distances.append((geometry[number, :, row, column] - there).abs().sum())
    num_objects = max(1, len(distances) - 1)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    is_center = wanted == 1
    focal = torch.where(is_center, log_not_p.exp() ** 2 * log_p, (1 - wanted) ** 4 * log_p.exp() ** 2 * log_not_p)
    return (torch.stack(distances).sum() - focal.sum()) / num_objects


def detect(predicted: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The objects of each image, highest score first: boxes (N, 4) xyxy in pixels, channels (N,) and scores (N,)."""
    logits, geometry = predicted
    scores = logits.sigmoid()
    peaks = scores * (F.max_pool2d(scores, 3, stride=1, padding=1) == scores)
    found = []
    for image_peaks, image_geometry in zip(peaks, geometry, strict=True):
        best, places = image_peaks.flatten().topk(min(_MAX_OBJECTS, image_peaks.numel()))
        grid = image_peaks.shape[-1]
        channel, row, column = places // grid**2, places // grid % grid, places % grid
        log_sides, within = image_geometry[:, row, column].split(2)
        center, half = torch.stack([column, row]) + within, log_sides.clamp(max=8).exp() / 2
        found.append((torch.cat([center - half, center + half]).T * STRIDE, channel, best))
    return found


def average_precision(
    found: Sequence[Any], targets: Sequence[Mapping[str, Any]], channels: Mapping[int, int]
) -> tuple[float, float]:
    """AP over IoU 0.5 to 0.95, and at 0.5, of boxes, by pycocotools; images and objects have ids from 1."""
    labels = {channel: label for label, channel in channels.items()}
    images, objects, results = [], [], []
    for number, ((boxes, channel, scores), target) in enumerate(zip(found, targets, strict=True), 1):
        images.append({"id": number})
        for box, label in zip(_xywh(target["boxes"]), target["labels"].tolist(), strict=True):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        for box, its_channel, score in zip(_xywh(boxes), channel.tolist(), scores.tolist(), strict=True):
            results.append({"image_id": number, "category_id": labels[its_channel], "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {"images": images, "annotations": objects, "categories": [{"id": each} for each in channels]}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _xywh(boxes: Tensor) -> list[list[float]]:
    converted: list[list[float]] = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    return converted


@dataclass(frozen=True)
class Outcome:
    """What training came to."""

    losses: list[float]
    """Of each step."""
    precision: float
    """AP over IoU 0.5 to 0.95 on images held out."""
    precision_at_50: float
    """AP at IoU 0.5."""
    num_seen: int
    num_held_out: int


def train(run: str, *, steps: int, side: int, batch_size: int, held_out: float, seed: int) -> Outcome:
    """Train and evaluate; see main for the arguments.

    Raises:
        ConfigError: a setting is out of range, or the run has too few images with masks.
        SamPipelineError: the run cannot be opened, or an image of it not be read.
    """
    for name, value in (("steps", steps), ("side", side), ("batch_size", batch_size)):
        check(value >= 1, name, "at least 1", value)
    check(0 < held_out < 1, "held_out", "in (0, 1)", held_out)
    check(0 <= seed < 2**63, "seed", "in [0, 2**63)", seed)
    torch.manual_seed(seed)
    dataset = MaskDataset(run, transforms=Fitted(side), keep_empty=False)
    channels = {label: channel for channel, label in enumerate(sorted(dataset.categories))}
    is_held_out = _is_held_out(len(dataset), held_out, seed)
    detector = Detector(len(channels)).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
    losses, start = [], time.monotonic()
    for _, samples in zip(range(steps), _batches(dataset, ~is_held_out, batch_size, seed), strict=False):
        flipped = [_flipped(*sample) if torch.rand(()) < 0.5 else sample for sample in samples]
        loss = loss_of(detector(torch.stack([image for image, _ in flipped])), [each for _, each in flipped], channels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if len(losses) % 50 == 0 or len(losses) == steps:
            mean = sum(losses[-50:]) / len(losses[-50:])
            print(f"step {len(losses):5}  loss {mean:7.3f}  {time.monotonic() - start:5.0f} s", flush=True)
    detector.eval()
    found, targets = [], []
    with torch.inference_mode():
        for position in np.flatnonzero(is_held_out).tolist():
            image, target = dataset[position]
            found += detect(detector(image[None]))
            targets.append(target)
    num_held_out = int(is_held_out.sum())
    return Outcome(losses, *average_precision(found, targets, channels), len(dataset) - num_held_out, num_held_out)


def _is_held_out(num_images: int, share: float, seed: int) -> NDArray[np.bool_]:
    num_held_out = round(share * num_images)
    if not 0 < num_held_out < num_images:
        raise ConfigError(f"{num_images} images with masks cannot be divided; {share:g} of them are to be held out")
    is_held_out = np.zeros(num_images, dtype=bool)
    is_held_out[np.random.default_rng(seed).choice(num_images, num_held_out, replace=False)] = True
    return is_held_out


def _batches(dataset: MaskDataset, is_wanted: NDArray[np.bool_], size: int, seed: int) -> Iterator[list[Any]]:
    """Samples without end, in another order each epoch, read as they are stored."""
    sampler, batch = MaskSampler(dataset, seed=seed), []
    for epoch in count():
        sampler.set_epoch(epoch)
        for position in sampler:
            if is_wanted[position]:
                batch.append(dataset[position])
            if len(batch) == size:
                yield batch
                batch = []


def _flipped(image: Tensor, target: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    x0, y0, x1, y1 = target["boxes"].T
    side = image.shape[-1]
    return image.flip(-1), {**target, "boxes": torch.stack([side - x1, y0, side - x0, y1], dim=1)}


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of the run, or a URI")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--side", type=int, default=192, help="pixels to which the longer side of an image is resized")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--held-out", type=float, default=0.25, help="share of the images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; more hardly help so small a network")
    arguments = vars(parser.parse_args())
    threads = arguments.pop("threads")
    try:
        check(threads >= 1, "threads", "at least 1", threads)
        torch.set_num_threads(threads)
        outcome = train(arguments.pop("run"), **arguments)
    except SamPipelineError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    few = max(1, len(outcome.losses) // 10)
    first, last = (sum(some) / len(some) for some in (outcome.losses[:few], outcome.losses[-few:]))
    print(f"loss               {first:.3f} at first, {last:.3f} at last")
    print(f"images             {outcome.num_seen} seen, {outcome.num_held_out} held out")
    print(f"AP on held-out     {outcome.precision:.3f}")
    print(f"AP50 on held-out   {outcome.precision_at_50:.3f}")


if __name__ == "__main__":
    main()
