"""What `report` does: figures and choice of pictures in one pass, the pictures, and the page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sam_pipeline.config.fingerprint import stored_places
from sam_pipeline.report.counting.mask_numbers import MaskNumbers
from sam_pipeline.report.page.gallery_choice import GalleryChoice
from sam_pipeline.report.page.pictures import Picture, read_pictures
from sam_pipeline.report.page.rendering import Page, render
from sam_pipeline.report.settings import NUM_PICTURES, PICTURE_SIZE
from sam_pipeline.report.statistics import read_statistics
from sam_pipeline.results.categories import read_names_to_show
from sam_pipeline.results.results import Results
from sam_pipeline.storage.tables.delta import table_metadata


def make_report(
    results: Results,
    *,
    num_pictures: int = NUM_PICTURES,
    picture_size: int = PICTURE_SIZE,
    is_review: bool = False,
    categories: str | None = None,
    advance: Callable[[int], None] = lambda num_images: None,
) -> str:
    """Make the page of a run, in bounded memory; its size grows with the number of pictures alone.

    Args:
        results: of the run, finished or not; its selection decides which images and masks are shown.
        num_pictures: in the gallery, at most.
        picture_size: longest side of the pictures, in pixels.
        is_review: with ticks for images and masks, which the page saves as a review.
        categories: where names of categories are, as for read_names_to_show.
        advance: called with the number of images that were read since the last call.

    Returns:
        One HTML document that loads nothing.

    Raises:
        InputError: categories, or the storage of the images, cannot be read.
        OutputError: a file of the run is missing or damaged.
        StorageUnavailableError: storage did not answer.
    """
    names = read_names_to_show(results, categories)
    choice = GalleryChoice(num_pictures)

    def watch(numbers: MaskNumbers) -> None:
        choice.watch(numbers)
        advance(numbers.rows.num_rows)

    statistics = read_statistics(results, names, watch)
    groups = choice.groups(names)
    ids = [image_id for group in groups for image_id in group.image_ids]
    pictures: dict[int, Picture] = {
        picture.image_id: picture for picture in read_pictures(results, ids, names, longest_side=picture_size)
    }
    shown = [
        (
            group.title,
            [
                (pictures[image_id], name)
                for image_id, name in zip(group.image_ids, group.names or [""] * len(group.image_ids), strict=True)
                if image_id in pictures
            ],
        )
        for group in groups
    ]
    places = stored_places(table_metadata(results.table))
    return render(Page(statistics, results.settings, places, shown, is_review, datetime.now(UTC)))
