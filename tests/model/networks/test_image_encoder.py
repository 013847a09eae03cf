"""The encoder's three forms of attention, its windows and its bands, against softmax(q k + bias) v written out."""

import pytest
import torch
import torch.nn.functional as F

from sam_pipeline.model.networks import image_encoder
from sam_pipeline.model.networks.image_encoder import (
    ImageEncoderViT,
    augmented_attention,
    bands,
    masked_attention,
    relative_positions,
    tiled_attention,
)
from sam_pipeline.model.networks.windows import window_partition, window_unpartition

FORMS = [masked_attention, tiled_attention, augmented_attention]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_attention(q, k, v, rel_h, rel_w):
    H, W = rel_h.shape[-1], rel_w.shape[-1]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    for key in range(H * W):
        scores[..., key] += rel_h[..., key // W] + rel_w[..., key % W]
    return scores.softmax(dim=-1) @ v


def plain_block(block, x):
    """What a block does in the order of the paper: pad zero tokens, project, attend, project, cut off."""
    attn, hw = block.attn, x.shape[1:3]
    y = block.norm1(x)
    if block.window_size > 0:
        y = window_partition(y, block.window_size)
    B, H, W, C = y.shape
    qkv = F.linear(y, attn.qkv.weight, attn.qkv.bias).view(B, H * W, 3, attn.num_heads, -1)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    by_axis = q.view(B, attn.num_heads, H, W, -1, 1)
    rel_h = relative_positions(H, attn.rel_pos_h)[:, None] @ by_axis
    rel_w = relative_positions(W, attn.rel_pos_w) @ by_axis
    y = plain_attention(q, k, v, rel_h.view(*q.shape[:3], H), rel_w.view(*q.shape[:3], W))
    y = F.linear(y.transpose(1, 2).reshape(B, H, W, C), attn.proj.weight, attn.proj.bias)
    if block.window_size > 0:
        y = window_unpartition(y, hw)
    x = x + y
    y = F.gelu(F.linear(block.norm2(x), block.mlp.lin1.weight, block.mlp.lin1.bias))
    return x + F.linear(y, block.mlp.lin2.weight, block.mlp.lin2.bias)


def plain_encoder(encoder, images):
    x = encoder.patch_embed(images) + encoder.pos_embed
    for block in encoder.blocks:
        x = plain_block(block, x)
    return encoder.neck(x.permute(0, 3, 1, 2))


def small_encoder(tokens, window_size, global_attn_indexes=(1,)):
    encoder = ImageEncoderViT(
        img_size=tokens * 2,
        patch_size=2,
        embed_dim=24,
        depth=2,
        num_heads=2,
        out_chans=8,
        window_size=window_size,
        global_attn_indexes=global_attn_indexes,
    )
    with torch.no_grad():
        for seed, parameter in enumerate(encoder.parameters()):
            parameter.copy_(random(*parameter.shape, seed=seed) * parameter[0].numel() ** -0.5)
    return encoder


def qkv_and_positions(H, W, D=12):
    """Two images and three heads, laid out as the projection leaves them, with unequal axes so that a swap shows."""
    q, k, v = random(2, H * W, 3, 3, D).permute(2, 0, 3, 1, 4)
    return q, k, v, random(2, 3, H * W, H, seed=1), random(2, 3, H * W, W, seed=2)


@pytest.fixture
def small_cache(monkeypatch):
    """Several bands and tiles, the last ones partial, where a test's images would be one."""
    monkeypatch.setattr(image_encoder, "BAND_TOKENS", 30)
    monkeypatch.setattr(image_encoder, "TILE_SCORES", 300)


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize("hw", [(1, 1), (3, 5), (6, 7)])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_attention(form, hw):
    arguments = qkv_and_positions(*hw)
    attended = form(*arguments)
    assert attended.shape == arguments[0].shape
    assert torch.allclose(attended, plain_attention(*arguments), atol=1e-5)


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_gradients(form):
    arguments = [t.detach().requires_grad_() for t in qkv_and_positions(6, 7)]
    pull = random(2, 3, 42, 12, seed=3)
    ours = torch.autograd.grad((form(*arguments) * pull).sum(), arguments)
    plain = torch.autograd.grad((plain_attention(*arguments) * pull).sum(), arguments)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("D", [64, 80])
@pytest.mark.parametrize("size", [14, 64])
def test_augmented_attention_suits_flash_kernels(monkeypatch, dtype, D, size):
    """No mask, one head size for all three, a multiple of 8 and at most 256: else CUDA falls back to L * L memory."""
    calls = []

    def attend(q, k, v, **settings):
        calls.append((q, k, v, settings))
        return v

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    augmented_attention(
        *(torch.zeros(1, 2, size * size, D, dtype=dtype) for _ in "qkv"),
        *(torch.zeros(1, 2, size * size, size, dtype=dtype) for _ in "hw"),
    )
    [(q, k, v, settings)] = calls
    assert q.shape == k.shape == v.shape
    assert q.dtype == k.dtype == v.dtype == dtype
    assert q.shape[-1] % 8 == 0
    assert q.shape[-1] <= 256
    assert settings == {"scale": 1.0}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_form_is_chosen_by_device_and_size(monkeypatch, device):
    used = []
    for form in FORMS:
        monkeypatch.setattr(image_encoder, form.__name__, lambda *a, form=form: used.append(form) or form(*a))
    monkeypatch.setattr(image_encoder, "TILE_SCORES", 4**4)
    encoder = small_encoder(tokens=8, window_size=4).to(device)
    assert encoder(torch.zeros(2, 3, 16, 16, device=device)).shape == (2, 8, 8, 8)
    expected = [masked_attention, tiled_attention] if device == "cpu" else [augmented_attention] * 2
    assert used == expected


# Windows that fit, that are padded on both sides, that are larger than the image, and two global blocks.
ENCODERS = [(8, 4, (1,)), (10, 4, (0,)), (11, 7, ()), (5, 7, (1,)), (9, 3, (0, 1))]


@pytest.mark.usefixtures("small_cache")
@pytest.mark.parametrize(("tokens", "window_size", "global_attn_indexes"), ENCODERS)
def test_encoder_is_the_plain_one(tokens, window_size, global_attn_indexes):
    encoder = small_encoder(tokens, window_size, global_attn_indexes)
    images = random(2, 3, tokens * 2, tokens * 2, seed=99)
    with torch.no_grad():
        embeddings, plain = encoder(images), plain_encoder(encoder, images)
    assert plain.std() > 0.05, "degenerate weights compare nothing"
    assert torch.allclose(embeddings, plain, atol=1e-4)


@pytest.mark.usefixtures("small_cache")
def test_gradients_reach_every_parameter():
    encoder = small_encoder(tokens=10, window_size=4)
    images = random(2, 3, 20, 20, seed=99)
    pull = random(2, 8, 10, 10, seed=100)
    parameters = list(encoder.parameters())
    ours = torch.autograd.grad((encoder(images) * pull).sum(), parameters)
    plain = torch.autograd.grad((plain_encoder(encoder, images) * pull).sum(), parameters)
    for (name, _), a, b in zip(encoder.named_parameters(), ours, plain, strict=True):
        assert (a - b).abs().max() <= 1e-3 * b.abs().max(), name


@pytest.mark.usefixtures("small_cache")
def test_autocast_stays_close():
    encoder = small_encoder(tokens=10, window_size=4)
    images = random(2, 3, 20, 20, seed=99)
    with torch.no_grad():
        exact = encoder(images)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours, plain = encoder(images), plain_encoder(encoder, images)
    error, plain_error = (ours - exact).abs().mean(), (plain - exact).abs().mean()
    # bfloat16 has 8 bits; our order of operations must not cost more of them than the plain one does.
    assert error < 0.05 * exact.std()
    assert error < 1.5 * plain_error


def test_weights_loaded_later_count():
    encoder, other = small_encoder(tokens=8, window_size=3), small_encoder(tokens=8, window_size=3)
    images = random(1, 3, 16, 16)
    with torch.no_grad():
        other.blocks[0].attn.rel_pos_h.mul_(2)
        before = encoder(images)
        encoder.load_state_dict(other.state_dict(), strict=True)
        after = encoder(images)
        assert not torch.allclose(before, after, atol=1e-4)
        assert torch.equal(after, other(images))


def test_bands_are_whole_windows_of_some_thousand_tokens():
    x = torch.zeros(1, 64, 64, 1)
    assert [band.shape[1] for band in bands(x, 14)] == [28, 28, 8]
    assert [band.shape[1] for band in bands(x)] == [32, 32]
    assert [band.shape[1] for band in bands(torch.zeros(1, 3, 5000, 1))] == [1, 1, 1]
    assert len(bands(x.to("meta"), 14)) == 1


def test_offsets_count_from_key_to_query():
    offsets = relative_positions(3, torch.arange(5)[:, None] - 2)
    assert offsets[..., 0].tolist() == [[0, -1, -2], [1, 0, -1], [2, 1, 0]]


class Adapted(torch.nn.Module):
    """As adapters for queries, keys and values are: around the layer, for tokens of an image."""

    def __init__(self, qkv, added):
        super().__init__()
        self.qkv, self.added = qkv, added

    def forward(self, x):
        qkv = self.qkv(x)
        qkv[:, :, :, :] += x @ self.added.T
        return qkv


def encoder_of_windows():
    torch.manual_seed(0)
    encoder = ImageEncoderViT(80, embed_dim=8, depth=2, num_heads=2, window_size=3, global_attn_indexes=(1,))
    return encoder.eval().requires_grad_(False)


def test_adapters_around_queries_keys_and_values_compute_also_where_windows_are_padded():
    images, added = random(1, 3, 80, 80), random(24, 8, seed=1)
    adapted, changed = encoder_of_windows(), encoder_of_windows()
    for block in adapted.blocks:
        block.attn.qkv = Adapted(block.attn.qkv, added)
    for block in changed.blocks:
        block.attn.qkv.weight += added
    torch.testing.assert_close(adapted(images), changed(images))


def test_hooks_of_queries_keys_and_values_see_the_padding_too():
    images = random(1, 3, 80, 80)
    hooked, changed = encoder_of_windows(), encoder_of_windows()
    for block in hooked.blocks:
        block.attn.qkv.register_forward_hook(lambda module, inputs, output: 2 * output + 1)
    for block in changed.blocks:
        block.attn.qkv.weight *= 2
        block.attn.qkv.bias.mul_(2).add_(1)
    torch.testing.assert_close(hooked(images), changed(images))
