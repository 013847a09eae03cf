"""Masks for prompts on one image at a time.

Has the methods of `SamPredictor` in segment_anything/predictor.py, and their results. It remembers its image because
its users expect that; all computing is done in prediction.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sam_pipeline.masks import prediction
from sam_pipeline.masks.decoder.current_decoder import CurrentDecoder, state_of
from sam_pipeline.masks.decoder.shared_decoder import PromptDecoder
from sam_pipeline.masks.full_resolution.upscaling import Upscaling
from sam_pipeline.masks.geometry.resize import check_image
from sam_pipeline.masks.geometry.transforms import ResizeLongestSide
from sam_pipeline.model.sam import Sam

Labels = TypeVar("Labels", Tensor, NDArray[np.generic])


class _Shared(NamedTuple):
    """What all prompts of an image share, and what it was computed from."""

    decoder: PromptDecoder
    features: Tensor
    """Kept alive, so that no other tensor gets their address, which features_state compares."""
    features_state: tuple[object, ...]
    image: Any
    """As the decoder's `share` returns it."""


class SamPredictor:
    """Embeds an image once, then predicts masks for any number of prompts on it.

    Args:
        sam_model: the networks, in evaluation mode, on the device to use.
    """

    def __init__(self, sam_model: Sam) -> None:
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.image_encoder.img_size)
        self.current_decoder = CurrentDecoder()
        self.reset_image()

    def set_image(self, image: NDArray[np.uint8], image_format: str = "RGB") -> None:
        """Embed an image.

        Args:
            image: (H, W, 3) uint8.
            image_format: order of its channels, RGB or BGR.

        Raises:
            ValueError: the image is not (H, W, 3) uint8, or the format is neither of the two.
        """
        if image_format not in ("RGB", "BGR"):
            raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
        check_image(image)
        if image_format != self.model.image_format:
            image = image[..., ::-1]
        input_image = self.transform.apply_image(image)
        features = prediction.encode(self.model, [input_image])
        self._set_features(features, original_size=image.shape[:2], input_size=input_image.shape[:2])

    @torch.no_grad()
    def set_torch_image(self, transformed_image: Tensor, original_image_size: tuple[int, int]) -> None:
        """Embed an image that has already been resized for the model.

        Args:
            transformed_image: (1, 3, h, w), values 0-255, model input frame, unpadded. A batch of B images of one size
                leaves B embeddings in `features`; prompts then take one embedding at a time.
            original_image_size: (H, W) before it was resized.

        Raises:
            ValueError: it is not a batch of RGB images whose long side is that of the model input.
        """
        img_size = self.transform.target_length
        shape = tuple(transformed_image.shape)
        if len(shape) != 4 or shape[1] != 3 or max(shape[2:]) != img_size:
            raise ValueError(
                f"transformed_image must be (1, 3, h, w) with a long side of {img_size}, got {shape}; "
                "resize it with predictor.transform"
            )
        with prediction.exact_float32():
            features = self.model.image_encoder(self.model.preprocess(transformed_image))
        self._set_features(features, original_image_size, input_size=(shape[2], shape[3]))

    def predict(
        self,
        point_coords: NDArray[np.generic] | None = None,
        point_labels: NDArray[np.generic] | None = None,
        box: NDArray[np.generic] | None = None,
        mask_input: NDArray[np.float32] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[NDArray[np.bool_] | NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Predict the masks of one object, described by any combination of points, a box and an earlier mask.

        Args:
            point_coords: (P, 2) x and y in pixels, original frame.
            point_labels: (P,) 1 for a point on the object, 0 for one off it.
            box: (4,) xyxy in pixels, original frame.
            mask_input: (1, 256, 256) low-resolution logits of an earlier prediction.
            multimask_output: three masks, for an ambiguous prompt, rather than one.
            return_logits: logits rather than booleans.

        Returns:
            Masks (M, H, W), original frame; iou_predictions (M,); low-resolution logits (M, 256, 256).

        Raises:
            RuntimeError: no image has been set.
            ValueError: points come without a label each, there is more than one box, or mask_input is not one mask.
        """
        _, _, original_size = self._image()
        coords_torch, labels_torch, box_torch, mask_input_torch = None, None, None, None
        if point_coords is not None:
            point_labels = _checked_labels(point_coords, point_labels)
            coords = self.transform.apply_coords(point_coords, original_size)
            coords_torch = torch.as_tensor(coords, dtype=torch.float, device=self.device)[None]
            labels_torch = torch.as_tensor(point_labels, dtype=torch.int, device=self.device)[None]
        if box is not None:
            boxes = self.transform.apply_boxes(np.asarray(box), original_size)
            if len(boxes) != 1:
                raise ValueError(f"predict takes one box, got {len(boxes)}; predict_torch takes many")
            box_torch = torch.as_tensor(boxes, dtype=torch.float, device=self.device)
        if mask_input is not None:
            if np.ndim(mask_input) != 3 or len(mask_input) != 1:
                raise ValueError(
                    f"mask_input must be (1, 256, 256), got {np.shape(mask_input)}; of the logits of predict, give "
                    "logits[i][None]"
                )
            mask_input_torch = torch.as_tensor(mask_input, dtype=torch.float, device=self.device)[None]
        masks, iou_predictions, low_res_masks = self.predict_torch(
            coords_torch, labels_torch, box_torch, mask_input_torch, multimask_output, return_logits
        )
        return masks[0].cpu().numpy(), iou_predictions[0].cpu().numpy(), low_res_masks[0].cpu().numpy()

    @torch.no_grad()
    def predict_torch(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        boxes: Tensor | None = None,
        mask_input: Tensor | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the masks of N objects at once, from prompts already moved to the model input frame.

        Args:
            point_coords: (N, P, 2) x and y in pixels, model input frame.
            point_labels: (N, P) 1 for a point on the object, 0 for one off it.
            boxes: (N, 4) xyxy in pixels, model input frame.
            mask_input: (N, 1, 256, 256) low-resolution logits of an earlier prediction.
            multimask_output: three masks for each object rather than one.
            return_logits: logits rather than booleans.

        Returns:
            Masks (N, M, H, W), original frame; iou_predictions (N, M); low-resolution logits (N, M, 256, 256).

        Raises:
            RuntimeError: no image has been set.
            ValueError: points come without a label each, shapes are not these, or several images were set at once.
        """
        features, input_size, original_size = self._image()
        if len(features) != 1:
            raise ValueError(
                f"prompts are for one image, and {len(features)} were set at once: put one embedding after the other "
                "into predictor.features, each as features[i : i + 1]"
            )
        points = None
        if point_coords is not None:
            points = (point_coords, _checked_labels(point_coords, point_labels))
        if mask_input is None:
            low_res_masks, iou_predictions = self._decode(points, boxes, multimask_output)
        else:  # image tokens differ from prompt to prompt, so nothing is shared
            low_res_masks, iou_predictions = prediction.decode_prompts(
                self.model, features, points, boxes, mask_input, multimask_output
            )
        if return_logits:
            masks = self.model.postprocess_masks(low_res_masks, input_size, original_size)
        else:
            binary = Upscaling(self.model, input_size, original_size).binarize(low_res_masks.flatten(0, 1))
            masks = torch.unflatten(binary, 0, low_res_masks.shape[:2])
        return masks, iou_predictions, low_res_masks

    def get_image_embedding(self) -> Tensor:
        """The embedding of the image, (1, 256, 64, 64) float32; RuntimeError if no image has been set."""
        features, _, _ = self._image()
        return features

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.model.device

    @property
    def decoder(self) -> PromptDecoder:
        """The decoder of the model as it is now: the fast one, or the plain one where a script changed modules."""
        return self.current_decoder.of(self.model)

    def __getstate__(self) -> dict[str, Any]:
        # A decoder has threads; it is made anew.
        return self.__dict__ | {"_shared": None}

    def reset_image(self) -> None:
        """Forget the image."""
        self.is_image_set = False
        self.features: Tensor | None = None
        self.original_size: tuple[int, int] | None = None
        self.input_size: tuple[int, int] | None = None
        self._shared: _Shared | None = None

    def _decode(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, M, 256, 256) and iou_predictions (N, M) of prompts without masks."""
        features, _, _ = self._image()
        decoder = self.decoder
        decoded = decoder.decode(
            self._share(decoder, features),
            points,
            iou_filter=lambda iou_predictions: torch.ones_like(iou_predictions, dtype=torch.bool),
            num_rows=features.shape[2],
            boxes=boxes,
            multimask_output=multimask_output,
        )
        return torch.unflatten(decoded.low_res_masks, 0, decoded.keep_mask.shape), decoded.iou_predictions

    def _share(self, decoder: PromptDecoder, features: Tensor) -> Any:
        """What prompts share, computed anew if weights or features are not what they were.

        Scripts put embeddings of their own into `features`, and train weights between two images. The sum notices
        writes that torch's version counter misses: through `.data` and in inference mode.
        """
        shared, state = self._shared, (*state_of(features), features.sum().item())
        if shared is None or shared.decoder is not decoder or shared.features_state != state:
            shared = _Shared(decoder, features, state, decoder.share(features.to(torch.float32)))
            self._shared = shared
        return shared.image

    def _set_features(self, features: Tensor, original_size: tuple[int, int], input_size: tuple[int, int]) -> None:
        self.features = features
        self.original_size = original_size
        self.input_size = input_size
        self.is_image_set = True
        self._shared = None
        self.current_decoder.compare_weights(self.model)

    def _image(self) -> tuple[Tensor, tuple[int, int], tuple[int, int]]:
        """Features, input size and original size of the image that is set."""
        if self.features is None or self.input_size is None or self.original_size is None:
            raise RuntimeError("no image has been set; call set_image or set_torch_image first")
        return self.features, self.input_size, self.original_size


def _checked_labels(point_coords: Any, point_labels: Labels | None) -> Labels:
    if point_labels is not None and np.shape(point_labels) == np.shape(point_coords)[:-1]:
        return point_labels
    found = "none" if point_labels is None else f"{tuple(np.shape(point_labels))} for {tuple(np.shape(point_coords))}"
    raise ValueError(f"point_coords needs point_labels: one 1 (object) or 0 (background) for each point, got {found}")
