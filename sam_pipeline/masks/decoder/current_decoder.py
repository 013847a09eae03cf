"""The fast decoder of a model whose weights may change: training, another checkpoint, another device."""

from __future__ import annotations

from itertools import chain

from torch import Tensor

from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder
from sam_pipeline.model.sam import Sam


class CurrentDecoder:
    """Makes the decoder at its first use, and anew once a weight is not what it was.

    A `SharedDecoder` computes with products of weights, and would go on with the old ones.
    """

    def __init__(self) -> None:
        self._decoder: SharedDecoder | None = None
        self._weights: list[tuple[object, ...]] = []

    def of(self, sam: Sam) -> SharedDecoder:
        """The decoder of a model as it is now."""
        weights = [state_of(tensor) for tensor in _tensors(sam)]
        if self._decoder is None or weights != self._weights:
            self._decoder, self._weights = SharedDecoder(sam), weights
        return self._decoder


def state_of(tensor: Tensor) -> tuple[object, ...]:
    """What changes where a tensor's values may have changed: its memory, and how often it was written to."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.dtype, tensor.device


def _tensors(sam: Sam) -> chain[Tensor]:
    modules = (sam.prompt_encoder, sam.mask_decoder)
    return chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
