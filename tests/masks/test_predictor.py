import numpy as np
import pytest
import torch

from sam_pipeline.masks.predictor import SamPredictor
from sam_pipeline.model.networks.mask_decoder import MaskDecoder
from sam_pipeline.model.networks.two_way_transformer import TwoWayAttentionBlock
from sam_pipeline.model.sam import Sam
from tests.parity.oracle import official_predictor
from tests.random_weights import randomise
from tests.small_sams import make_tiny_sam

POINTS = {"point_coords": np.array([[30, 40], [100, 70]]), "point_labels": np.array([1, 0])}
BOX = {"box": np.array([20.5, 10, 120, 80])}
MASK = {"mask_input": np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32)}
# The fast decoder sums in another order, and logits of the random model reach some tens.
NEAR = 1e-4
PROMPTS = {
    "points": POINTS,
    "box": BOX,
    "box and points": {**BOX, **POINTS},
    "mask": MASK,
    "everything": {**BOX, **POINTS, **MASK},
    "single mask": {**POINTS, "multimask_output": False},
    "logits": {**BOX, "return_logits": True},
}


@pytest.fixture
def predictor(tiny_sam):
    return SamPredictor(tiny_sam)


@pytest.mark.parametrize("image_format", ["RGB", "BGR"])
@pytest.mark.parametrize("prompts", PROMPTS.values(), ids=PROMPTS)
def test_predict_is_the_official_predict(predictor, tiny_sam, picture, prompts, image_format):
    official = official_predictor(tiny_sam)
    for each in (predictor, official):
        each.set_image(picture(90, 140), image_format)
    (masks, *ours), (official_masks, *theirs) = predictor.predict(**prompts), official.predict(**prompts)
    assert masks.dtype == official_masks.dtype
    if masks.dtype == bool:
        logits, _, _ = official.predict(**prompts | {"return_logits": True})
        certain = np.abs(logits) > NEAR
        np.testing.assert_array_equal(masks[certain], official_masks[certain])
        assert certain.mean() > 0.99
    else:
        ours.append(masks)
        theirs.append(official_masks)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=NEAR)
    torch.testing.assert_close(predictor.get_image_embedding(), official.get_image_embedding(), rtol=1e-5, atol=1e-5)
    assert (predictor.input_size, predictor.original_size) == (official.input_size, official.original_size)


def test_channel_order_matters(predictor, picture):
    predictor.set_image(picture(90, 140), "RGB")
    rgb = predictor.get_image_embedding()
    predictor.set_image(picture(90, 140)[..., ::-1], "BGR")
    assert torch.equal(predictor.get_image_embedding(), rgb)
    predictor.set_image(picture(90, 140), "BGR")
    assert not torch.equal(predictor.get_image_embedding(), rgb)


def test_results_can_be_changed_in_place_and_features_trained_on(predictor, picture):
    """As the official package allows, which tensors made in inference mode do not."""
    predictor.set_image(picture(90, 140))
    box = torch.tensor([[10.0, 10.0, 90.0, 60.0]])
    for result in predictor.predict_torch(None, None, box):
        result[0] = 0
    weight = torch.ones((), requires_grad=True)
    (predictor.get_image_embedding() * weight).sum().backward()
    assert weight.grad is not None


def test_an_image_is_set_until_it_is_reset(predictor, picture):
    assert not predictor.is_image_set
    predictor.set_image(picture(90, 140))
    assert predictor.is_image_set
    assert predictor.device == torch.device("cpu")
    predictor.reset_image()
    assert not predictor.is_image_set
    for call in (predictor.predict, predictor.get_image_embedding, lambda: predictor.predict_torch(None, None)):
        with pytest.raises(RuntimeError, match="call set_image"):
            call()


def test_wrong_input_is_refused_with_a_remedy(predictor, picture):
    with pytest.raises(ValueError, match="'RGB' or 'BGR', got 'rgb'"):
        predictor.set_image(picture(90, 140), "rgb")
    with pytest.raises(ValueError, match="convert grayscale"):
        predictor.set_image(picture(90, 140)[..., 0])
    with pytest.raises(ValueError, match=r"long side of 128, got \(1, 3, 90, 140\)"):
        predictor.set_torch_image(torch.zeros(1, 3, 90, 140), (90, 140))
    predictor.set_image(picture(90, 140))
    with pytest.raises(ValueError, match="needs point_labels"):
        predictor.predict(point_coords=np.array([[1, 2]]))
    with pytest.raises(ValueError, match="needs point_labels"):
        predictor.predict_torch(torch.tensor([[[1.0, 2.0]]]), None)


def test_one_box_and_a_label_for_each_point_are_needed(predictor, picture):
    predictor.set_image(picture(90, 140))
    for box in (BOX["box"], BOX["box"][None]):
        assert predictor.predict(box=box)[0].shape == (3, 90, 140)
    with pytest.raises(ValueError, match="one box, got 2; predict_torch takes many"):
        predictor.predict(box=np.array([[1, 2, 30, 40], [5, 6, 70, 80]]))
    with pytest.raises(ValueError, match=r"for each point, got \(1,\) for \(2, 2\)"):
        predictor.predict(POINTS["point_coords"], np.array([1]), BOX["box"])
    # As lists, which scripts give.
    masks, _, _ = predictor.predict(POINTS["point_coords"], [1, 0])
    np.testing.assert_array_equal(masks, predictor.predict(**POINTS)[0])


def test_features_of_ones_own_are_those_that_masks_are_made_of(predictor, tiny_sam, picture):
    """Scripts keep embeddings and put them back."""
    kept = []
    for seed in (1, 2):
        predictor.set_image(picture(90, 140, seed=seed))
        kept.append((predictor.get_image_embedding().clone(), predictor.predict(**BOX)[2]))
    another = SamPredictor(tiny_sam)
    for features, expected in (*kept, *kept):
        another.features, another.original_size, another.input_size = features, [90, 140], (82, 128)
        another.is_image_set = True
        np.testing.assert_array_equal(another.predict(**BOX)[2], expected)
    another.features.copy_(kept[0][0])
    np.testing.assert_array_equal(another.predict(**BOX)[2], kept[0][1])


def test_masks_follow_weights_that_change_after_the_predictor_was_made(picture):
    """As where a script trains, or loads a checkpoint into the model."""
    sam = make_tiny_sam()
    predictor, official = SamPredictor(sam), official_predictor(sam)
    decoders = []
    for seed in (3, 4):
        randomise(sam.mask_decoder, seed)
        predictor.set_image(picture(90, 140))
        official.set_image(picture(90, 140))
        for _ in range(2):
            np.testing.assert_allclose(predictor.predict(**BOX)[2], official.predict(**BOX)[2], rtol=1e-5, atol=NEAR)
        decoders.append(predictor.decoder)
        assert predictor.decoder is decoders[-1], "made once, as long as weights stay"
    assert decoders[0] is not decoders[1]
    other = make_tiny_sam()
    sam.load_state_dict(other.state_dict(), assign=True)
    official.set_image(picture(90, 140))
    predictor.set_image(picture(90, 140))
    np.testing.assert_allclose(predictor.predict(**BOX)[2], official.predict(**BOX)[2], rtol=1e-5, atol=NEAR)


def test_autocast_of_a_script_changes_nothing(tiny_sam, picture):
    image = picture(90, 140)
    plain, cast = SamPredictor(tiny_sam), SamPredictor(tiny_sam)
    tensor = torch.as_tensor(plain.transform.apply_image(image)).permute(2, 0, 1)[None]
    for set_image in (lambda each: each.set_image(image), lambda each: each.set_torch_image(tensor, (90, 140))):
        set_image(plain)
        for prompts in (BOX, BOX | MASK):
            with torch.autocast("cpu", torch.bfloat16):
                set_image(cast)
                under_autocast = cast.predict(**prompts)
            for one, other in zip(under_autocast, plain.predict(**prompts), strict=True):
                np.testing.assert_array_equal(one, other)


def assert_as_officially(predictor, official, **prompts):
    for one, other in zip(predictor.predict(**prompts)[1:], official.predict(**prompts)[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=NEAR)


def both(sam, image):
    pair = SamPredictor(sam), official_predictor(sam)
    for each in pair:
        each.set_image(image)
    return pair


def test_weights_are_followed_from_the_next_image_where_torch_counts_no_change(picture):
    """Writing through `.data`, as scripts with averaged weights do, and in inference mode."""
    sam = make_tiny_sam()
    image = picture(90, 140)
    predictor, official = both(sam, image)
    decoder = predictor.decoder
    predictor.set_image(image)
    assert predictor.decoder is decoder
    sam.mask_decoder.iou_token.weight.data[0, 0] += 1e-3
    predictor.set_image(image)
    assert predictor.decoder is not decoder
    for parameter in sam.mask_decoder.parameters():
        parameter.data.copy_(parameter.data * 1.05)
    predictor.set_image(image)
    assert_as_officially(predictor, official, **BOX)


def test_weights_made_in_inference_mode_are_followed_from_the_next_image(picture):
    sam = make_tiny_sam()
    with torch.inference_mode():
        for parameter in sam.mask_decoder.parameters():
            parameter.data = parameter.data.clone()
        predictor, official = both(sam, picture(90, 140))
        assert_as_officially(predictor, official, **BOX)
        for parameter in sam.mask_decoder.parameters():
            parameter.mul_(1.05)
        predictor.set_image(picture(90, 140))
        assert_as_officially(predictor, official, **BOX)
        for each in (predictor, official):
            each.features.mul_(0.5)
        assert_as_officially(predictor, official, **BOX)


def test_features_written_through_data_are_followed_at_once(tiny_sam, picture):
    predictor, official = both(tiny_sam, picture(90, 140))
    predictor.predict(**BOX)
    for each in (predictor, official):
        each.features.data.mul_(0.5)
    assert_as_officially(predictor, official, **BOX)


class Scaled(torch.nn.Module):
    """As adapters are: around a layer, with its attributes."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x):
        return 1.5 * self.layer(x)


class Surer(MaskDecoder):
    """As subclasses are that change what is predicted."""

    def predict_masks(self, **inputs):
        masks, iou_predictions = super().predict_masks(**inputs)
        return masks + 5, iou_predictions + 7


class Sharper(TwoWayAttentionBlock):
    def forward(self, **inputs):
        queries, keys = super().forward(**inputs)
        return 1.5 * queries, keys


def subclass(sam):
    sam.mask_decoder.__class__ = Surer


def subclass_layer(sam):
    sam.mask_decoder.transformer.layers[0].__class__ = Sharper


def replace(sam):
    own = sam.mask_decoder
    sam.mask_decoder = torch.nn.Module()
    sam.mask_decoder.own = own
    sam.mask_decoder.forward = lambda **inputs: [2 * each for each in own(**inputs)]


def adapt(sam):
    layer = sam.mask_decoder.transformer.layers[1].cross_attn_image_to_token
    layer.q_proj = Scaled(layer.q_proj)


def activate(sam):
    sam.mask_decoder.output_upscaling[4] = torch.nn.ReLU()


def hook(sam):
    layer = sam.mask_decoder.transformer.layers[0].cross_attn_token_to_image.k_proj
    layer.register_forward_hook(lambda module, inputs, output: 1.5 * output)


def hook_prompts(sam):
    sam.prompt_encoder.register_forward_hook(lambda module, inputs, output: (2 * output[0], output[1] + 1))


def patch(sam):
    layer = sam.mask_decoder.transformer.final_attn_token_to_image.v_proj
    layer.forward = lambda x: 2 * torch.nn.functional.linear(x, layer.weight, layer.bias)


@pytest.mark.parametrize("change", [subclass, subclass_layer, replace, adapt, activate, hook, hook_prompts, patch])
def test_modules_that_a_script_changed_compute(picture, change):
    sam = make_tiny_sam()
    predictor, official = both(sam, picture(90, 140))
    before = predictor.predict(**BOX)
    change(sam)
    assert_as_officially(predictor, official, **BOX)
    assert any((one != other).any() for one, other in zip(before[1:], predictor.predict(**BOX)[1:], strict=True))
    assert_as_officially(predictor, official, **POINTS, multimask_output=False)


def test_hooks_see_each_call_and_the_fast_decoder_returns_when_they_are_gone(picture):
    sam = make_tiny_sam()
    predictor, _ = both(sam, picture(90, 140))
    fast = type(predictor.decoder)
    seen = []
    handle = sam.mask_decoder.register_forward_hook(lambda module, inputs, output: seen.append(len(output[0])))
    boxes = torch.tensor([[10.0, 10.0, 90.0, 60.0]]).expand(100, 4)
    assert predictor.predict_torch(None, None, boxes)[0].shape == (100, 3, 90, 140)
    assert sum(seen) == 100
    handle.remove()
    assert type(predictor.decoder) is fast


@pytest.mark.parametrize("return_logits", [False, True])
def test_a_decoder_may_give_masks_of_another_size(picture, return_logits):
    sam = make_tiny_sam()

    class Finer(MaskDecoder):
        def forward(self, **inputs):
            masks, iou_predictions = super().forward(**inputs)
            return torch.nn.functional.interpolate(masks, (64, 64)), iou_predictions

    sam.mask_decoder.__class__ = Finer
    predictor, official = both(sam, picture(90, 140))
    ours, theirs = (each.predict(**BOX, return_logits=return_logits)[0] for each in (predictor, official))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=NEAR)


def test_a_model_may_upscale_masks_in_its_own_way(picture):
    sam = make_tiny_sam()

    class Shifted(Sam):
        def postprocess_masks(self, *arguments):
            return super().postprocess_masks(*arguments) + 3

    sam.__class__ = Shifted
    predictor, official = both(sam, picture(90, 140))
    np.testing.assert_array_equal(predictor.predict(**BOX)[0], official.predict(**BOX)[0])
