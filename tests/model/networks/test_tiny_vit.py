"""The forms that MobileSAM's encoder takes on a CPU without gradients, compared with its modules called one by one.

`tests/parity/test_networks.py` compares the latter with the official package.
"""

import pytest
import torch
from torch import nn

from sam_pipeline.model.networks import tiny_vit
from sam_pipeline.model.networks.conv_bn import ConvBN, activated_norm
from sam_pipeline.model.networks.tiny_vit import MBConv, TinyViT


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = TinyViT(img_size=128, embed_dims=(16, 32, 40, 80), num_heads=(1, 2, 2, 5))
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    return encoder.eval()


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_embeddings_are_those_with_gradients(encoder):
    x = images(2, 3, 128, 128)
    expected = encoder(x)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(x), expected, atol=2e-5, rtol=1e-4)
    assert expected.requires_grad


@pytest.mark.parametrize("rows", [1, 5, 16, 40])
def test_bands_of_rows_do_not_show(encoder, rows, monkeypatch):
    monkeypatch.setattr(tiny_vit, "_ROWS_AT_ONCE", rows)
    block, x = encoder.layers[0].blocks[0], images(1, 16, 33, 20)
    assert isinstance(block, MBConv)
    with torch.no_grad():
        torch.testing.assert_close(block(x), block._rows(x, 0, 33), atol=1e-5, rtol=1e-5)


def test_an_activation_with_a_hook_is_called(encoder):
    calls = []
    encoder.patch_embed.seq[1].register_forward_hook(lambda *_: calls.append("stem"))
    encoder.layers[1].blocks[0].mlp.act.register_forward_hook(lambda *_: calls.append("mlp"))
    encoder.layers[0].downsample.act.register_forward_hook(lambda *_: calls.append("merging"))
    encoder.layers[0].blocks[1].conv2.register_forward_hook(lambda *_: calls.append("block"))
    with torch.no_grad():
        encoder(images(1, 3, 128, 128))
    assert calls == ["stem", "block", "merging", "merging", "mlp"]


@pytest.mark.parametrize("part", ["c", "bn", None])
def test_a_convolution_with_a_hook_is_called(part):
    conv = ConvBN(4, 6, kernel_size=3).eval()
    calls = []
    (getattr(conv, part) if part else conv).register_forward_hook(lambda *_: calls.append(part))
    with torch.no_grad():
        activated_norm(conv, nn.GELU(), images(1, 4, 8, 8))
    assert calls == [part]


def test_norms_learn_from_whole_images_also_without_gradients(encoder):
    """As torch.optim.swa_utils.update_bn has them do."""
    x, block = images(2, 16, 40, 20), encoder.layers[0].blocks[0].train()
    expected = block(x)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)
    assert block.conv2.bn.num_batches_tracked == 2


def test_other_modules_in_the_place_of_layers_are_called(encoder):
    """Such as adapters, or norms that a script has folded itself."""
    x, block = images(1, 16, 40, 20), encoder.layers[0].blocks[0]
    block.conv1 = nn.Sequential(block.conv1, nn.Softplus())
    block.conv2.bn = nn.Identity()
    block.conv3.c = nn.Sequential(block.conv3.c)
    expected = block(x)
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)
