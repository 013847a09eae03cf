"""The whole pipeline on photographs that ship with scikit-image: `make demo`.

Writes the photographs, the run and a coloured overlay of each into one folder, and prints where they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import skimage
from PIL import Image

from sam_pipeline import AnnotateConfig, InputConfig, MaskConfig, ModelConfig, draw_masks, open_run
from sam_pipeline.cli.commands import annotate

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def save_photographs(folder: Path) -> None:
    """Write each photograph as a PNG of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")


def draw_overlays(output: Path, folder: Path) -> None:
    """Write each annotated image with its masks as IMAGE_ID.png, and print where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    run = open_run(output)
    for row in run.rows(status="ok"):
        path = folder / f"{row['image_id']:06}.png"
        Image.fromarray(draw_masks(run.read_image(row), row["masks"], labels=False)).save(path)
        print(path)


def main() -> None:
    """Parse the folder's name, run, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"))
    parser.add_argument(
        "--points-per-side", type=int, default=16, help="the official default of 32 takes 4 times as long"
    )
    arguments = parser.parse_args()

    images, output = arguments.folder / "images", arguments.folder / "run"
    save_photographs(images)
    config = AnnotateConfig(
        images=InputConfig(input=str(images)),
        output=str(output),
        model=ModelConfig(model_type="vit_t"),
        masks=MaskConfig(points_per_side=arguments.points_per_side),
    )
    annotate(config)
    print("\noverlays")
    draw_overlays(output, arguments.folder / "overlays")


if __name__ == "__main__":
    main()
