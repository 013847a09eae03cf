"""Parameter names of Hugging Face's ``SamModel`` to and from the official ones.

The tensors are the same in both; only names differ, and Hugging Face stores the random frequencies of the positions
once more for its image-wide encoding. Facts from transformers' models/sam/modeling_sam.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

_FREQUENCIES = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
_HF_FREQUENCIES = (
    "shared_image_embedding.positional_embedding",
    "prompt_encoder.shared_embedding.positional_embedding",
)

# Official and Hugging Face beginnings of a name; # stands for a number, the same in both. The first that fits wins.
_PREFIXES = (
    ("image_encoder.patch_embed.proj.", "vision_encoder.patch_embed.projection."),
    ("image_encoder.blocks.#.norm1.", "vision_encoder.layers.#.layer_norm1."),
    ("image_encoder.blocks.#.norm2.", "vision_encoder.layers.#.layer_norm2."),
    ("image_encoder.blocks.#.", "vision_encoder.layers.#."),
    ("image_encoder.neck.0.", "vision_encoder.neck.conv1."),
    ("image_encoder.neck.1.", "vision_encoder.neck.layer_norm1."),
    ("image_encoder.neck.2.", "vision_encoder.neck.conv2."),
    ("image_encoder.neck.3.", "vision_encoder.neck.layer_norm2."),
    ("image_encoder.", "vision_encoder."),
    ("prompt_encoder.point_embeddings.", "prompt_encoder.point_embed."),
    ("prompt_encoder.mask_downscaling.0.", "prompt_encoder.mask_embed.conv1."),
    ("prompt_encoder.mask_downscaling.1.", "prompt_encoder.mask_embed.layer_norm1."),
    ("prompt_encoder.mask_downscaling.3.", "prompt_encoder.mask_embed.conv2."),
    ("prompt_encoder.mask_downscaling.4.", "prompt_encoder.mask_embed.layer_norm2."),
    ("prompt_encoder.mask_downscaling.6.", "prompt_encoder.mask_embed.conv3."),
    ("mask_decoder.transformer.layers.#.norm1.", "mask_decoder.transformer.layers.#.layer_norm1."),
    ("mask_decoder.transformer.layers.#.norm2.", "mask_decoder.transformer.layers.#.layer_norm2."),
    ("mask_decoder.transformer.layers.#.norm3.", "mask_decoder.transformer.layers.#.layer_norm3."),
    ("mask_decoder.transformer.layers.#.norm4.", "mask_decoder.transformer.layers.#.layer_norm4."),
    ("mask_decoder.transformer.norm_final_attn.", "mask_decoder.transformer.layer_norm_final_attn."),
    ("mask_decoder.output_upscaling.0.", "mask_decoder.upscale_conv1."),
    ("mask_decoder.output_upscaling.1.", "mask_decoder.upscale_layer_norm."),
    ("mask_decoder.output_upscaling.3.", "mask_decoder.upscale_conv2."),
    # The heads have three layers in every SAM checkpoint; Hugging Face numbers only the middle one.
    ("mask_decoder.output_hypernetworks_mlps.#.layers.0.", "mask_decoder.output_hypernetworks_mlps.#.proj_in."),
    ("mask_decoder.output_hypernetworks_mlps.#.layers.1.", "mask_decoder.output_hypernetworks_mlps.#.layers.0."),
    ("mask_decoder.output_hypernetworks_mlps.#.layers.2.", "mask_decoder.output_hypernetworks_mlps.#.proj_out."),
    ("mask_decoder.iou_prediction_head.layers.0.", "mask_decoder.iou_prediction_head.proj_in."),
    ("mask_decoder.iou_prediction_head.layers.1.", "mask_decoder.iou_prediction_head.layers.0."),
    ("mask_decoder.iou_prediction_head.layers.2.", "mask_decoder.iou_prediction_head.proj_out."),
)


def is_huggingface(names: Iterable[str]) -> bool:
    """Whether parameter names are those of Hugging Face's ``SamModel``."""
    return any(name.startswith("vision_encoder.") for name in names)


def from_huggingface(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a Hugging Face ``SamModel`` to the official names.

    Args:
        state_dict: as saved by transformers; the tied copy of the position frequencies may be left out.

    Returns:
        The same tensors under official names; names that are no SAM parameters are kept.
    """
    pairs = [(huggingface, official) for official, huggingface in _PREFIXES]
    converted = {_rename(name, pairs): value for name, value in state_dict.items() if name not in _HF_FREQUENCIES}
    for name in _HF_FREQUENCIES:
        if name in state_dict:
            converted[_FREQUENCIES] = state_dict[name]
    return converted


def to_huggingface(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename parameters with official names to those of Hugging Face's ``SamModel``.

    Args:
        state_dict: official names, of a model with a ViT encoder.

    Returns:
        The same tensors; both Hugging Face names of the position frequencies are there, and share one tensor.
    """
    converted = {_rename(name, _PREFIXES): value for name, value in state_dict.items() if name != _FREQUENCIES}
    converted.update({name: state_dict[_FREQUENCIES] for name in _HF_FREQUENCIES})
    return converted


def _rename(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    for before, after in pairs:
        match = re.match(re.escape(before).replace(r"\#", r"(\d+)"), name)
        if match:
            number = match.group(1) if match.groups() else ""
            return after.replace("#", number) + name[match.end() :]
    return name
