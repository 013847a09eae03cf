"""The pipeline from Python: run or resume, then read the result as it stands in storage.

    run = annotate(input="photos/", output="masks/")    # or open_run("masks/")
    for row in run.rows(status="ok"):
        pixels = [decode_mask(mask) for mask in row["masks"]]

Reading needs neither Ray nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

import numpy as np
import numpy.typing as npt

from sam_pipeline.config import AnnotateConfig, EstimateConfig, PlanConfig
from sam_pipeline.config.base import settings_by_name
from sam_pipeline.config.keywords import AnnotateSettings, EstimateSettings, StrPath
from sam_pipeline.errors import ConfigError, NothingSucceededError
from sam_pipeline.masks.runs import rle
from sam_pipeline.results.results import Results
from sam_pipeline.results.rows import MaskDict
from sam_pipeline.run.run import Run
from sam_pipeline.safety.terminal import PlainConsole
from sam_pipeline.storage.objects.filesystem import absolute_uri

if TYPE_CHECKING:
    from sam_pipeline.pipeline.estimating.figures import Estimate


@overload
def annotate(config: AnnotateConfig, *, show_progress: bool = True) -> Run: ...


@overload
def annotate(*, show_progress: bool = True, **settings: Unpack[AnnotateSettings]) -> Run: ...


def annotate(config: AnnotateConfig | None = None, *, show_progress: bool = True, **settings: Any) -> Run:
    """Run, or resume, until every planned image has a row; as the command `annotate` does.

        run = annotate(input="photos", output="run", model_type="vit_t", points_per_side=16)
        run = annotate(output="run")  # goes on where it was, with the settings that decide masks

    Ray is the one that this process is connected to, or that RAY_ADDRESS names, or one started here for the time of the
    run. What the run has to say beyond its progress goes to the logger `sam_pipeline`.

    Args:
        config: the run's settings. A resume must have the same, and may leave out all but `output`.
        show_progress: a live line on standard error; where that is no terminal, a plain line every ten seconds.
        **settings: in place of config, each setting by its name, which is that of its flag.

    Returns:
        The finished run, opened.

    Raises:
        ConfigError: there is no setting of a name, or a value is of another type, or out of range.
        NothingSucceededError: the run is finished, but no image is ok, or no prompt has a mask; open_run reads why.
        SamPipelineError: see sam_pipeline.errors; after a RunFailedError the same call resumes.
    """
    if config is None:
        config = settings_by_name(AnnotateConfig, settings)
    elif settings:
        raise ConfigError(f"give settings in config or by name, not both: {', '.join(settings)}")
    elif not isinstance(config, AnnotateConfig):
        raise ConfigError(f"config must be an AnnotateConfig, got {config!r}; give settings by name: annotate(input=…)")
    from sam_pipeline.pipeline.annotate import annotate as run_annotate  # Ray and torch, which reading does without
    from sam_pipeline.pipeline.progress import RichDisplay

    # Were a silent console a terminal, rich would take over the standard output for its live line, and lose it.
    is_terminal = None if show_progress else False
    console = PlainConsole(stderr=True, quiet=not show_progress, force_terminal=is_terminal)
    summary = run_annotate(config, lambda num_images, num_before: RichDisplay(num_images, num_before, console))
    if summary.outcome.total_failure is not None:
        raise NothingSucceededError(summary.outcome.total_failure)
    return open_run(config.output, config.storage_options)


def estimate(**settings: Unpack[EstimateSettings]) -> Estimate:
    """Estimate what a run, or what is left of it, would take; as the command `plan --estimate` does.

        found = estimate(input="photos", output="run", model_type="vit_t", price_node_hour=2.5)
        print(found.run.time_s, found.run.cost.nodes, found.bottleneck)

    The plan is made, as for the run. A sample of its images goes through the stages for a minute, and is not kept.

    Args:
        **settings: those of annotate, and prices, each by its name, which is that of its flag.

    Raises:
        ConfigError: there is no setting of a name, or a value is of another type, or out of range.
        NothingSucceededError: no image of the sample is ok.
        SamPipelineError: see sam_pipeline.errors.
    """
    from sam_pipeline.pipeline.estimating.estimate import estimate as estimate_run  # Ray and torch, as for annotate

    return estimate_run(settings_by_name(EstimateConfig, settings))


def open_run(output: StrPath, storage_options: Mapping[str, Any] | None = None) -> Run:
    """Open the results of a run, finished or not, for reading; nothing is written, and no run is disturbed.

    Args:
        output: folder of the run: a local path or a URI.
        storage_options: fsspec options, as for annotate; credentials come from the environment.

    Raises:
        ConfigError: a URI or options that are refused, because of a credential in them for example.
        OutputError: there is no plan or there are no results; it cannot be read.
        StorageUnavailableError: storage did not answer.
    """
    # Checks both, and makes a string of a path.
    place = PlanConfig(output=cast(str, output), storage_options={} if storage_options is None else storage_options)
    return Run(Results.open(absolute_uri(place.output), place.storage_options))


def decode_mask(mask: MaskDict) -> npt.NDArray[np.bool_]:
    """The pixels of a stored mask: (H, W) bool, in the frame of the image after EXIF orientation."""
    return rle.decode(mask["segmentation"])
