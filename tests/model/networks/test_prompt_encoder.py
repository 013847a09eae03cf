import pytest
import torch

from sam_pipeline.model.networks.prompt_encoder import PromptEncoder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return PromptEncoder(embed_dim=16, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=8).eval()


POINTS = (torch.tensor([[[3.0, 5.0], [60.0, 2.0]]]), torch.tensor([[1, 0]]))
BOXES = torch.tensor([[1.0, 2.0, 30.0, 40.0]])
MASKS = torch.ones(1, 1, 16, 16)


@pytest.mark.parametrize(
    ("points", "boxes", "masks", "embeddings"),
    [
        (POINTS, None, None, 3),  # two points and the padding point
        (None, BOXES, None, 2),
        (POINTS, BOXES, None, 4),
        (None, None, MASKS, 0),
        (None, None, None, 0),
    ],
)
def test_shapes(encoder, points, boxes, masks, embeddings):
    sparse, dense = encoder(points=points, boxes=boxes, masks=masks)
    assert sparse.shape == (1, embeddings, 16)
    assert dense.shape == (1, 16, 4, 4)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float64])
def test_labels_of_any_type_leave_the_padding_point_as_it_is(encoder, dtype):
    coords, labels = POINTS
    expected, _ = encoder(points=(coords, labels.float()), boxes=None, masks=None)
    sparse, _ = encoder(points=(coords, labels.to(dtype)), boxes=None, masks=None)
    assert torch.equal(sparse, expected)
    assert torch.equal(sparse[0, -1], encoder.not_a_point_embed.weight[0])


def test_float64_coordinates_are_rounded_only_after_division(encoder):
    # One of the few coordinates (1 in 600) for which rounding before the half pixel is added gives another value.
    coords = torch.full((1, 1, 2), 31.971669834776094, dtype=torch.float64)
    late = ((coords + 0.5) / 64).float()
    assert not torch.equal(late, (coords.float() + 0.5) / 64)
    expected = encoder.pe_layer._encode(late)[0, 0] + encoder.point_embeddings[1].weight[0]
    sparse, _ = encoder(points=(coords, torch.ones(1, 1)), boxes=None, masks=None)
    assert torch.equal(sparse[0, 0], expected)


def test_division_is_in_float64(encoder):
    coords = torch.full((1, 1, 2), 757.7212384336723, dtype=torch.float64)
    late = (coords / 60).float()
    assert not torch.equal(late, coords.float() / 60)
    assert torch.equal(encoder.pe_layer.forward_with_coords(coords, (60, 60)), encoder.pe_layer._encode(late))


def test_positions_are_x_then_y(encoder):
    wide = encoder.pe_layer.forward_with_coords(torch.tensor([[[32.0, 8.0]]]), (32, 64))
    tall = encoder.pe_layer.forward_with_coords(torch.tensor([[[32.0, 16.0]]]), (64, 64))
    assert torch.equal(wide, tall)


def test_dense_positions_are_those_of_cell_centres(encoder):
    grid = encoder.get_dense_pe()
    assert grid.shape == (1, 16, 4, 4)
    centre = encoder.pe_layer.forward_with_coords(torch.tensor([[[56.0, 24.0]]]), (64, 64))
    assert torch.allclose(grid[0, :, 1, 3], centre[0, 0])
