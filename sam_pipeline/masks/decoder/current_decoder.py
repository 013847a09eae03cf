"""The decoder of a model that a script may change: by training, another checkpoint, another device, other modules."""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import PromptDecoder, SharedDecoder
from sam_pipeline.model.networks.layers import computes_as_its_type
from sam_pipeline.model.sam import AbsentEncoder, Sam, assemble_sam

Structure = list[tuple[str, type[nn.Module] | None]]
"""The name and type of each module that decodes prompts; None where it computes something else than its type does."""


class CurrentDecoder:
    """Makes the decoder at its first use, and anew once the model is not what it was.

    A `SharedDecoder` computes with products of weights, and would go on with the old ones. It knows SAM's own modules:
    a model with others, or with hooks, gets a `PlainDecoder`.
    """

    def __init__(self) -> None:
        self._decoder: PromptDecoder | None = None
        self._state: tuple[Structure, list[tuple[object, ...]]] | None = None
        self._sums: list[float] = []

    def of(self, sam: Sam) -> PromptDecoder:
        """The decoder of a model as it is now, as far as torch's version counters show changes of its weights.

        Raises:
            ValueError: weights are not float32.
        """
        state = _structure(sam), [state_of(tensor) for tensor in _tensors(sam)]
        if self._decoder is None or state != self._state:
            is_sam = state[0] == _structure_of_sam()
            dtypes = {tensor.dtype for tensor in _tensors(sam) if tensor.is_floating_point()}
            others = dtypes - {torch.float32}
            # Modules of a script's own may have weights of any type beside SAM's.
            if others and (is_sam or others == dtypes):
                found = ", ".join(sorted(map(str, others)))
                raise ValueError(f"the decoder computes in float32, got weights of {found}; call sam.float()")
            if is_sam:
                self._decoder, self._sums = SharedDecoder(sam), _sums(sam)
            else:
                self._decoder = PlainDecoder(sam)
            self._state = state
        return self._decoder

    def __getstate__(self) -> dict[str, Any]:
        # A decoder has threads, which no copy and no other process can have.
        return CurrentDecoder().__dict__

    def compare_weights(self, sam: Sam) -> None:
        """Have the decoder made anew if the weights' sums are not what they were.

        Torch's version counters miss writes through `.data` and in inference mode. Sums cost a few percent of a prompt,
        so call this once an image.
        """
        if isinstance(self._decoder, SharedDecoder) and self._sums != _sums(sam):
            self._decoder = None


def state_of(tensor: Tensor) -> tuple[object, ...]:
    """What changes where a tensor's values may have changed: its memory, and how often it was written to."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device


def _structure(sam: Sam) -> Structure:
    return [
        (name, type(module) if computes_as_its_type(module) else None)
        for name, module in chain(sam.prompt_encoder.named_modules(), sam.mask_decoder.named_modules())
    ]


@cache
def _structure_of_sam() -> Structure:
    with torch.device("meta"):
        return _structure(assemble_sam(AbsentEncoder(img_size=1024)))


def _tensors(sam: Sam) -> chain[Tensor]:
    modules = (sam.prompt_encoder, sam.mask_decoder)
    return chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)


@torch.no_grad()
def _sums(sam: Sam) -> list[float]:
    sums: list[float] = torch.stack([tensor.sum().float() for tensor in _tensors(sam)]).tolist()
    return sums
