"""A first run of the networks on a GPU, when an actor starts: so that no image pays for it out of its time limit.

The first launch of a kernel loads it, and that of one of ours compiles it and, with a C compiler, its launcher. That
takes seconds for each form in which a kernel is launched; all of those that images will need are launched here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from sam_pipeline.config import ResolvedPrecision
from sam_pipeline.errors import ClusterError
from sam_pipeline.masks import prediction
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import Prompt
from sam_pipeline.model.sam import Sam
from sam_pipeline.pipeline.job import Job
from sam_pipeline.safety.clean_text import one_line


def warm_encoder(sam: Sam, precision: ResolvedPrecision) -> None:
    """Encode a black image."""
    img_size = sam.image_encoder.img_size
    with torch.inference_mode():
        prediction.encode(sam, [np.zeros((img_size, img_size, 3), np.uint8)], precision).cpu()


def warm_decoder(sam: Sam, decoder: SharedDecoder, prompted: PromptedMaskGenerator, job: Job) -> None:
    """Decode a few prompts of every kind that the run has.

    Raises:
        ClusterError: this machine has no C compiler, or not what it needs.
    """
    img_size = sam.image_encoder.img_size
    embedding = torch.zeros(1, 256, img_size // 16, img_size // 16)
    with _compiler_errors():
        if job.mode != "prompted":
            # Masks are only measured if there are any.
            all_masks = replace(
                job.config.masks, points_per_side=2, crop_n_layers=0, pred_iou_thresh=0, stability_score_thresh=0
            )
            MaskGenerator(sam, all_masks, job.precision, decoder).decode(embedding, (img_size, img_size))
        if job.mode != "grid":
            # A box and a point are 7 tokens each, a box with a point 8; with more there is no image side of ours. What
            # embeds prompts is compiled for points alone, for boxes alone, and for both.
            box, point, points = (0.0, 0.0, img_size / 2, img_size / 2), ((9.0, 9.0),), ((9.0, 9.0), (99.0, 9.0))
            prompts = [Prompt(box), Prompt(None, point, (1,)), Prompt(box, point, (1,)), Prompt(box, points, (1, 0))]
            prompted.decode(embedding, (img_size, img_size), prompts)


@contextmanager
def _compiler_errors() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, subprocess.CalledProcessError) as error:
        if isinstance(error, RuntimeError) and "C compiler" not in str(error):
            raise
        raise ClusterError(
            f"a machine with a GPU cannot compile what launches the kernels ({one_line(error)}); install gcc with the "
            "headers of C and of Python there, as infra/docker/Dockerfile does, or name another compiler in CC"
        ) from error
