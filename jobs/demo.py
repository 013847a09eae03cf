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
from sam_pipeline.errors import SamPipelineError

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def save_photographs(folder: Path) -> None:
    """Write each photograph as a PNG of its name, unless such a file is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PHOTOGRAPHS:
        path = folder / f"{name}.png"
        if not path.exists():
            Image.fromarray(getattr(skimage.data, name)()).save(path)


def draw_overlays(output: Path, folder: Path) -> None:
    """Write each annotated image with its masks as IMAGE_ID.png, and print where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    run = open_run(output)
    for row in run.rows(status="ok"):
        path = folder / f"{row['image_id']:06}.png"
        Image.fromarray(draw_masks(run.read_image(row), row["masks"], labels=False)).save(path)
        print(path)


def demo(folder: Path, points_per_side: int) -> None:
    """Run and draw.

    Raises:
        SamPipelineError: see annotate.
    """
    images, output = folder / "images", folder / "run"
    config = AnnotateConfig(
        images=InputConfig(input=str(images)),
        output=str(output),
        model=ModelConfig(model_type="vit_t"),
        masks=MaskConfig(points_per_side=points_per_side),
    )
    save_photographs(images)
    annotate(config)
    print("\noverlays")
    draw_overlays(output, folder / "overlays")


def main() -> None:
    """Parse, and call demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"))
    parser.add_argument(
        "--points-per-side", type=int, default=16, help="the official default of 32 takes 4 times as long"
    )
    arguments = parser.parse_args()

    try:
        demo(arguments.folder, arguments.points_per_side)
    except SamPipelineError as error:
        parser.exit(error.exit_code, f"error: {error}\n")


if __name__ == "__main__":
    main()
