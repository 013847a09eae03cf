"""Every import statement for segment_anything works with this package's name, and calls have its parameters."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch

import sam_pipeline
from tests.parity.oracle import official_module

MODULES = [
    "build_sam",
    "predictor",
    "automatic_mask_generator",
    "modeling",
    "modeling.sam",
    "modeling.image_encoder",
    "modeling.mask_decoder",
    "modeling.prompt_encoder",
    "modeling.transformer",
    "modeling.common",
    "utils",
    "utils.amg",
    "utils.transforms",
]

NOT_THERE = {
    "modeling.image_encoder": {
        "Block", "Attention", "PatchEmbed", "window_partition", "window_unpartition", "get_rel_pos",
        "add_decomposed_rel_pos",
    },
    "build_sam": {"_build_sam"},
}  # fmt: skip
"""Parts of the encoder, which is built another way here."""


def names_of(module):
    return {
        name
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_the_official_names(name):
    ours = importlib.import_module(f"sam_pipeline.{name}")
    missing = {official for official in names_of(official_module(name)) if not hasattr(ours, official)}
    assert missing == NOT_THERE.get(name, set())


def test_the_package_has_the_official_names():
    official = importlib.import_module(official_module("predictor").__package__)
    public = {name for name in vars(official) if not name.startswith("_") and name[0] != "_"}
    assert {name for name in public if not hasattr(sam_pipeline, name)} == {"modeling", "utils"} - set(
        vars(sam_pipeline)
    )


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values() if p.name != "self"]


CALLS = [
    ("predictor", "SamPredictor", "set_image set_torch_image predict predict_torch get_image_embedding reset_image"),
    ("automatic_mask_generator", "SamAutomaticMaskGenerator", "__init__ generate postprocess_small_regions"),
    ("utils.transforms", "ResizeLongestSide", "__init__ apply_image apply_coords apply_boxes apply_image_torch "
     "apply_coords_torch apply_boxes_torch get_preprocess_shape"),
    ("modeling", "Sam", "forward postprocess_masks"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "methods"), CALLS)
def test_methods_have_the_official_parameters_and_defaults(module, name, methods):
    ours, theirs = (
        getattr(found, name) for found in (importlib.import_module(f"sam_pipeline.{module}"), official_module(module))
    )
    for method in methods.split():
        assert parameters(getattr(ours, method)) == parameters(getattr(theirs, method)), method


def test_prompt_encoder_and_mask_decoder_have_the_official_attributes():
    """But for private ones, and MLP's, which has an option less."""
    made = []
    for modeling in (importlib.import_module("sam_pipeline.modeling"), official_module("modeling")):
        transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=48)
        made.append(modeling.MaskDecoder(transformer_dim=32, transformer=transformer, num_multimask_outputs=2))
        made.append(modeling.PromptEncoder(32, (4, 6), (64, 96), 8))
    for ours, theirs in zip(made[:2], made[2:], strict=True):
        theirs.load_state_dict(ours.state_dict())
        for name, module in theirs.named_modules():
            if not type(module).__module__.startswith("torch.") and "mlps" not in name and "head" not in name:
                own = ours.get_submodule(name)
                assert {each for each in dir(module) if each[0] != "_" and not hasattr(own, each)} == set(), name
                numbers = {each: value for each, value in vars(module).items() if isinstance(value, int | tuple)}
                assert {each: getattr(own, each) for each in numbers} == numbers, name
    ours, theirs = made[1].pe_layer, made[3].pe_layer
    coords = torch.rand(2, 3, 2) * 64
    torch.testing.assert_close(ours((4, 6)), theirs((4, 6)))
    torch.testing.assert_close(ours.forward_with_coords(coords, (64, 96)), theirs.forward_with_coords(coords, (64, 96)))


ORDERS = [
    "from sam_pipeline.build_sam import build_sam_vit_b; from sam_pipeline import build_sam",
    "from sam_pipeline import build_sam; import sam_pipeline.build_sam",
    "import sam_pipeline.build_sam; build_sam = sam_pipeline.build_sam",
    "import sam_pipeline.automatic_mask_generator; from sam_pipeline import build_sam",
]


@pytest.mark.parametrize("imports", ORDERS)
def test_build_sam_is_the_function_whatever_is_imported_first(imports):
    code = f"{imports}\nimport sys, sam_pipeline\n"
    code += "assert build_sam is sam_pipeline.build_sam is sys.modules['sam_pipeline.build_sam'].build_sam_vit_h\n"
    code += "assert sam_pipeline.sam_model_registry['default'] is build_sam is sam_pipeline.build_sam_vit_h\n"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
