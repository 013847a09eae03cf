from sam_pipeline.masks.decoder.shared_decoder import DecodedPrompts
from sam_pipeline.masks.prediction import decode_prompts


class PlainDecoder:
    """The networks as they are, behind the interface of SharedDecoder."""

    def __init__(self, sam):
        self._sam = sam

    def share(self, image_embedding):
        return image_embedding

    def decode(self, shared, points, iou_filter, num_rows, boxes=None, multimask_output=True):
        low_res_masks, iou_predictions = decode_prompts(
            self._sam, shared, points, boxes, multimask_output=multimask_output
        )
        keep_mask = iou_filter(iou_predictions)
        return DecodedPrompts(iou_predictions, keep_mask, low_res_masks[keep_mask][:, : 4 * num_rows])
