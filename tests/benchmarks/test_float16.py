import torch

from benchmarks.measured.float16 import ProductsOfFloat16
from sam_pipeline.masks.prediction import encode
from tests.small_sams import make_picture, make_tiny_sam


def test_the_encoder_errs_as_much_as_with_the_products_that_torch_has():
    sam, images = make_tiny_sam(), [make_picture(128, 100)]
    exact, rounded = encode(sam, images), encode(sam, images, "fp16")
    with ProductsOfFloat16():
        ours, still_exact = encode(sam, images, "fp16"), encode(sam, images)
    error, expected = (ours.float() - exact).abs().mean(), (rounded.float() - exact).abs().mean()
    assert ours.dtype == torch.float16
    assert 0.8 * expected < error < 1.2 * expected
    assert torch.equal(still_exact, exact)
