"""Prints the forms of our kernels that images are launched in and that an actor does not launch at its start.

`python -m tests.pipeline.launched_forms MODE MULTIMASK`, in a process of its own, since kernels are replaced.
"""

import sys

import numpy as np
import torch

from sam_pipeline.config import AnnotateConfig, MaskConfig
from sam_pipeline.masks import generator, prompted
from sam_pipeline.masks.decoder.batched_image_side import BatchedImageSide
from sam_pipeline.masks.decoder.gpu import attention, folding, token_side
from sam_pipeline.masks.decoder.gpu import upscaling as mask_upscaling
from sam_pipeline.masks.decoder.gpu.image_side import TritonImageSide
from sam_pipeline.masks.decoder.gpu.token_side import TritonTokenSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.masks.full_resolution import triton_masks, upscaling
from sam_pipeline.masks.generator import MaskGenerator
from sam_pipeline.masks.geometry.crops import generate_crop_boxes
from sam_pipeline.masks.prompted import PromptedMaskGenerator
from sam_pipeline.masks.prompts import Prompt
from sam_pipeline.pipeline.workers.warming import warm_decoder
from tests.gpu.networks import random_sam
from tests.pipeline.jobs import job_of

SIZES = ((1500, 2250), (2250, 1500), (1024, 1024), (64, 3000), (37, 21))


class Recorder:
    """In a kernel's place: notes what Triton would compile, and computes nothing."""

    def __init__(self, kernel, forms):
        self.kernel, self.forms = kernel, forms

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, **constants):
        given = tuple(
            argument_form(argument, parameter.do_not_specialize)
            for argument, parameter in zip(arguments, self.kernel.params, strict=False)
        )
        self.forms.add((self.kernel.__name__, given, tuple(sorted(constants.items()))))


def argument_form(argument, do_not_specialize):
    if isinstance(argument, torch.Tensor):
        return str(argument.dtype), argument.data_ptr() % 16 == 0
    if isinstance(argument, int) and not do_not_specialize:
        return argument % 16 == 0, argument == 1
    return type(argument).__name__


def main(mode, multimask_output):
    torch.set_num_threads(1)
    torch.Tensor.new_empty = torch.Tensor.new_zeros  # what no kernel fills must be numbers all the same
    forms = set()
    kernels = {
        folding: ("fold_first", "fold_second"),
        attention: ("weigh_first", "weigh_second", "attend"),
        mask_upscaling: ("upscale",),
        token_side: ("embed_prompts", "add_norm", "head_layer"),
        triton_masks: ("_measure", "_edges"),
    }
    for module, names in kernels.items():
        for name in names:
            setattr(module, name, Recorder(getattr(module, name), forms))
    for module in (upscaling, generator, prompted):
        module.finds_runs = lambda device: True
    upscaling.measure_masks = lambda logits, *rest: triton_masks.measure_masks(torch.from_numpy(logits), *rest)

    sam = random_sam("cpu")
    decoder = SharedDecoder(sam)
    weights = ImageSideWeights.of(sam)
    decoder._token_side = TritonTokenSide(sam, torch.float32)
    decoder._image_sides = [TritonImageSide(weights, torch.float16), BatchedImageSide(weights)]
    masks = MaskConfig(points_per_side=3, pred_iou_thresh=0, stability_score_thresh=0, crop_n_layers=1)
    of_prompts = PromptedMaskGenerator(sam, decoder, multimask_output)
    config = AnnotateConfig(output="run", masks=masks, multimask_output=multimask_output)
    warm_decoder(sam, decoder, of_prompts, job_of(config, mode=mode))
    warmed = set(forms)
    forms.clear()
    for size in SIZES:
        crops = len(generate_crop_boxes(size, 1, masks.crop_overlap_ratio)[0])
        if mode != "prompted":
            MaskGenerator(sam, masks, "fp32", decoder).detect(torch.randn(crops, 256, 64, 64), size)
        if mode != "grid":
            of_prompts.detect(torch.randn(1, 256, 64, 64), size, list(prompts()))
    missing = sorted(forms - warmed)
    sys.stdout.write(f"{len(warmed)} forms at the start, {len(forms)} for images, not at the start: {missing}")


def prompts():
    for num_points in range(4):
        points = tuple((float(i), 3.0) for i in range(num_points))
        for box in (None, (1.0, 2.0, 20.0, 20.0)):
            if box or points:
                yield Prompt(box, points, (1,) * num_points)
    yield Prompt(mask_input=np.zeros((256, 256), np.float32))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "True")
