"""What is made of a run, as its selection shows it: figures, a page, a comparison with ground truth, exports.

What each needs is imported when it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Unpack

from sam_pipeline.config.base import settings_by_name
from sam_pipeline.config.keywords import StrPath
from sam_pipeline.report.settings import NUM_PICTURES, PICTURE_SIZE, check_pictures
from sam_pipeline.results.results import Results

if TYPE_CHECKING:
    from sam_pipeline.evaluation.figures import Evaluation
    from sam_pipeline.exports.exporting import Summary
    from sam_pipeline.exports.settings import ExportFormat
    from sam_pipeline.report.statistics import RunStatistics
    from sam_pipeline.run.keywords import EvaluationKeywords, ExportKeywords

OnProgress = Callable[[int], object]
"""Is called with the number of images that were done since the last call, as `tqdm(total=len(run)).update` takes it."""


class RunProducts:
    """The methods of a run that make something of it.

    They raise OutputError where a file of the run is missing or damaged, or a destination cannot be written, and
    StorageUnavailableError if storage does not answer.
    """

    results: Results
    """What the run is read through, for the rest of this package."""

    def stats(self, *, categories: StrPath | None = None, on_progress: OnProgress = lambda _: None) -> RunStatistics:
        """Compute the figures of the run in bounded memory: counts, errors, distributions; pixels are not read.

        Args:
            categories: names of categories: a COCO file, a data.yaml, or a text file with a name a line. Default: what
                the run's prompts or images were read from.
            on_progress: see OnProgress.

        Raises:
            InputError: categories cannot be read.
        """
        from sam_pipeline.report.statistics import read_statistics
        from sam_pipeline.results.categories import read_names_to_show

        names = read_names_to_show(self.results, _text(categories))
        return read_statistics(self.results, names, lambda numbers: _tell(on_progress, numbers.rows.num_rows))

    def report(
        self,
        dest: StrPath,
        *,
        review: bool = False,
        gallery: int = NUM_PICTURES,
        picture_size: int = PICTURE_SIZE,
        categories: StrPath | None = None,
        overwrite: bool = False,
        on_progress: OnProgress = lambda _: None,
    ) -> None:
        """Write a page with the figures of the run, charts and pictures: one HTML file that loads nothing.

        Args:
            dest: the file, a local path or a URI.
            review: let images and masks be ticked in the page, which saves a file for `export --reviewed`.
            gallery: pictures in the gallery, at most.
            picture_size: longest side of the pictures, in pixels.
            categories: as for stats.
            overwrite: replace the file if it exists.
            on_progress: see OnProgress.

        Raises:
            ConfigError: a value is out of range.
            InputError: categories, or the storage of the images, cannot be read.
        """
        from sam_pipeline.report.report import make_report
        from sam_pipeline.report.writing import NewFile

        check_pictures(gallery, picture_size)
        file = NewFile(os.fspath(dest), self.results.output, self.results.storage_options, overwrite=overwrite)
        page = make_report(
            self.results,
            num_pictures=gallery,
            picture_size=picture_size,
            is_review=review,
            categories=_text(categories),
            advance=lambda num_images: _tell(on_progress, num_images),
        )
        file.write(page.encode())

    def evaluate(
        self,
        ground_truth: StrPath,
        *,
        on_progress: OnProgress = lambda _: None,
        **settings: Unpack[EvaluationKeywords],
    ) -> Evaluation:
        """Compare the masks of the run with the objects of a COCO file.

            evaluation = run.evaluate("instances.json", class_agnostic=True)
            print(evaluation.figures["mask"]["AR@1000"])

        Args:
            ground_truth: annotation file with polygons, RLE, or boxes alone. Images are found by their file_name.
            on_progress: see OnProgress.
            **settings: those of evaluation.settings.EvaluationSettings by name.

        Raises:
            ConfigError: there is no setting of a name, a value is out of range, or the extra `eval` is not installed.
            InputError: the ground truth cannot be read, or has no object of any image of the run.
        """
        from sam_pipeline.evaluation.evaluate import evaluate
        from sam_pipeline.evaluation.settings import EvaluationSettings

        given = settings_by_name(EvaluationSettings, {"ground_truth": ground_truth, **settings})
        return evaluate(self.results, given, lambda num_images: nullcontext(on_progress))

    def export(
        self,
        dest: StrPath,
        format: ExportFormat,
        *,
        on_progress: OnProgress = lambda _: None,
        **settings: Unpack[ExportKeywords],
    ) -> Summary:
        """Write the masks of the run in the format of another program, in bounded memory.

            summary = run.filter(pred_iou_thresh=0.95).export("coco", format="coco", split=0.9)
            print(summary.num_images, summary.num_masks, summary.masks_left_out)

        Args:
            dest: a folder that is empty or not there, local or a URI; or one with the same export, cut off, which is
                then gone on with.
            format: what to write.
            on_progress: see OnProgress.
            **settings: those of exports.settings.ExportSettings by name.

        Returns:
            What was written, what was left out and why, and what the format lost.

        Raises:
            ConfigError: there is no format or setting of a name, a value is out of range, or a category has no name.
        """
        from sam_pipeline.exports.exporting import export
        from sam_pipeline.exports.settings import ExportSettings

        given = settings_by_name(ExportSettings, {"format": format, **settings})
        return export(self.results, os.fspath(dest), given, on_progress)

    def to_coco(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as a COCO annotation file; see export."""
        return self.export(dest, "coco", **settings)

    def to_coco_results(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as a COCO results file; see export."""
        return self.export(dest, "coco-results", **settings)

    def to_sa1b(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as SA-1B's JSON files, one an image; see export."""
        return self.export(dest, "sa1b", **settings)

    def to_amg(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as the files of scripts/amg.py; see export."""
        return self.export(dest, "amg", **settings)

    def to_yolo_seg(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as YOLO's labels with polygons; see export."""
        return self.export(dest, "yolo-seg", **settings)

    def to_yolo_box(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as YOLO's labels with boxes; see export."""
        return self.export(dest, "yolo-box", **settings)

    def to_png(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as PNG files that hold the number of the mask at each pixel; see export."""
        return self.export(dest, "png", **settings)

    def to_labelme(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as labelme's JSON files, one an image; see export."""
        return self.export(dest, "labelme", **settings)

    def to_webdataset(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as tar shards of images and masks for WebDataset; see export."""
        return self.export(dest, "webdataset", **settings)

    def to_hf(self, dest: StrPath, **settings: Unpack[ExportKeywords]) -> Summary:
        """Export as Parquet files with images and masks that Hugging Face's datasets loads; see export."""
        return self.export(dest, "hf", **settings)


def _tell(on_progress: OnProgress, num_images: int) -> None:
    on_progress(num_images)


def _text(path: StrPath | None) -> str | None:
    return None if path is None else os.fspath(path)
