import pytest
import torch

from sam_pipeline.masks.decoder import batched_image_side
from sam_pipeline.masks.decoder.batched_image_side import BatchedImageSide
from sam_pipeline.masks.decoder.image_side import ImageSideWeights
from sam_pipeline.masks.decoder.plain_decoder import PlainDecoder
from sam_pipeline.masks.decoder.shared_decoder import SharedDecoder


def decode(sam, decoder, num_prompts, iou_filter, num_rows=8):
    generator = torch.Generator().manual_seed(num_prompts)
    image_embedding = torch.randn(1, 256, 8, 8, generator=generator)
    coords = torch.rand(num_prompts, 2, 2, generator=generator, dtype=torch.float64) * 128
    labels = torch.randint(0, 2, (num_prompts, 2), generator=generator)
    with torch.inference_mode():
        return decoder.decode(decoder.share(image_embedding), (coords, labels), iou_filter, num_rows)


def batched_decoder(sam, dtype=torch.float32):
    decoder = SharedDecoder(sam)
    decoder._image_sides = [BatchedImageSide(ImageSideWeights.of(sam), dtype)]
    return decoder


@pytest.mark.parametrize("num_prompts", [1, 5])
def test_masks_and_scores_are_those_of_the_plain_networks(tiny_sam, num_prompts, monkeypatch):
    monkeypatch.setattr(batched_image_side, "_PROMPTS_UPSCALED_AT_ONCE", 2)

    def some_of_some(iou_predictions):
        kept = iou_predictions > iou_predictions.median()
        kept[0] = False
        return kept

    expected = decode(tiny_sam, PlainDecoder(tiny_sam), num_prompts, some_of_some, num_rows=5)
    decoded = decode(tiny_sam, batched_decoder(tiny_sam), num_prompts, some_of_some, num_rows=5)
    assert torch.equal(decoded.keep_mask, expected.keep_mask)
    torch.testing.assert_close(decoded.iou_predictions, expected.iou_predictions, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(decoded.low_res_masks, expected.low_res_masks, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("dtype", "bits_more"), [(torch.bfloat16, 0), (torch.float16, 3)])
def test_half_types_are_close_and_their_results_float32(tiny_sam, dtype, bits_more):
    expected = decode(tiny_sam, PlainDecoder(tiny_sam), 5, torch.isfinite)
    decoded = decode(tiny_sam, batched_decoder(tiny_sam, dtype), 5, torch.isfinite)
    assert decoded.low_res_masks.dtype == decoded.iou_predictions.dtype == torch.float32
    torch.testing.assert_close(decoded.iou_predictions, expected.iou_predictions, atol=0.01 / 2**bits_more, rtol=0)
    error = (decoded.low_res_masks - expected.low_res_masks).pow(2).mean().sqrt()
    assert 1e-5 < error < 0.02 / 2**bits_more * expected.low_res_masks.std()
