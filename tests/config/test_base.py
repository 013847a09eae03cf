"""Types of settings, settings by name, and what was given; tests/config/test_config.py has what the values must be."""

import copy
import os
import pickle
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from sam_pipeline.config import (
    AnnotateConfig,
    EstimateConfig,
    MaskConfig,
    ModelConfig,
    PlanConfig,
    PoolConfig,
    PriceConfig,
)
from sam_pipeline.config.base import hints_of, is_settings, setting_names, settings_by_name
from sam_pipeline.config.inputs import InputConfig, SelectionConfig
from sam_pipeline.config.keywords import AnnotateSettings, EstimateSettings, StrPath
from sam_pipeline.config.prompting import PromptConfig
from sam_pipeline.errors import ConfigError

CLASSES = (InputConfig, SelectionConfig, PromptConfig, ModelConfig, MaskConfig, PoolConfig, PriceConfig, AnnotateConfig)


def made(settings_class, **values):
    return settings_class(**({"output": "out"} if settings_class is AnnotateConfig else {}) | values)


WRONG = {
    str: [4, b"bytes", True, ["a"]],
    int: ["4", 4.5, 4.0, True, [4]],
    float: ["4", True, [0.5], 1j],
    bool: [1, 0, "yes", "true"],
    tuple: ["*.jpg", 4, [4], [None], {"a": 1}],
    Mapping: ["{}", [], 4, {1: 2}],
    Literal: ["mps", "", 4, True, ["auto"]],
}


def wrong_values(hint):
    """Values of other types than a setting's."""
    if is_settings(hint):
        return [{}, "x", 4, None]
    if get_origin(hint) is UnionType:
        (kind,) = set(get_args(hint)) - {NoneType}
        return WRONG[kind]
    return [*WRONG[get_origin(hint) or hint], None]


FIELDS = [
    pytest.param(settings_class, name, hint, id=f"{settings_class.__name__}.{name}")
    for settings_class in CLASSES
    for name, hint in hints_of(settings_class).items()
]


@pytest.mark.parametrize(("settings_class", "name", "hint"), FIELDS)
def test_a_value_of_another_type_is_refused_by_name_for_every_setting(settings_class, name, hint):
    for value in wrong_values(hint):
        with pytest.raises(ConfigError, match=rf"^(each of )?{name} must be ") as caught:
            made(settings_class, **{name: value})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings_class", "values", "message"),
    [
        (MaskConfig, {"points_per_side": "4"}, "points_per_side must be an integer, got '4'"),
        (MaskConfig, {"points_per_side": 4.5}, "points_per_side must be an integer, got 4.5"),
        (MaskConfig, {"points_per_side": True}, "points_per_side must be an integer, got True"),
        (MaskConfig, {"pred_iou_thresh": None}, "pred_iou_thresh must be a number, got None"),
        (ModelConfig, {"device": "mps"}, "device must be one of auto, cpu, cuda, got 'mps'"),
        (SelectionConfig, {"include": "*.jpg"}, "include must be a list of strings, such as ['*.jpg'], got '*.jpg'"),
        (InputConfig, {"keep": [4]}, "each of keep must be a string, got 4"),
        (AnnotateConfig, {"extend": 1}, "extend must be True or False, got 1"),
        (InputConfig, {"input": b"in"}, "input must be a string, got b'in'"),
        (AnnotateConfig, {"masks": {}}, "masks must be a MaskConfig, got {}"),
    ],
)
def test_the_message_says_what_is_wanted_and_what_was_given(settings_class, values, message):
    with pytest.raises(ConfigError) as caught:
        made(settings_class, **values)
    assert str(caught.value) == message


def test_options_of_another_type_are_refused_without_showing_them():
    for options in ('{"key": "canary"}', ["canary"], {1: "canary"}):
        with pytest.raises(ConfigError, match=r"^storage_options must be a mapping ") as caught:
            PlanConfig(output="out", storage_options=options)
        assert "canary" not in str(caught.value)


def test_what_means_the_same_is_taken(tmp_path):
    config = AnnotateConfig(
        output=tmp_path,
        images=InputConfig(input=Path("in")),
        selection=SelectionConfig(include=["*.jpg"]),
        max_pixels=np.int64(7),
        commit_interval_s=np.float32(0.5),
        masks=MaskConfig(pred_iou_thresh=1),
    )
    assert (config.output, config.images.input, config.selection.include) == (str(tmp_path), "in", ("*.jpg",))
    assert (type(config.max_pixels), type(config.commit_interval_s)) == (int, float)
    assert config.masks.pred_iou_thresh == 1


def test_settings_are_given_by_keyword():
    for settings_class in CLASSES:
        with pytest.raises(TypeError):
            settings_class("in", "out")


def test_what_was_given_is_known_also_where_it_is_the_default():
    assert AnnotateConfig(output="out").given() == {"output": "out"}
    config = AnnotateConfig(
        output="out", selection=SelectionConfig(seed=0), masks=MaskConfig(points_per_side=32), model=ModelConfig()
    )
    expected = {"output": "out", "seed": 0, "points_per_side": 32}
    assert config.given() == expected
    assert pickle.loads(pickle.dumps(config)).given() == copy.deepcopy(config).given() == expected
    assert config == AnnotateConfig(output="out")


def test_settings_are_made_by_name_however_deep_they_are():
    values = {"output": "out", "points_per_side": 4, "model_type": "vit_t", "threads": 2, "limit": 5}
    config = settings_by_name(AnnotateConfig, values)
    assert config.given() == values
    assert config.by_name() == AnnotateConfig(output="out").by_name() | values


def test_a_wrong_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        settings_by_name(AnnotateConfig, {"output": "out", "points_per_sid": 4, "zzz": 1})
    assert str(caught.value) == "there is no setting points_per_sid (did you mean points_per_side?), zzz"
    with pytest.raises(ConfigError, match=r"^output must be given$"):
        settings_by_name(AnnotateConfig, {"input": "in"})


def test_no_two_settings_have_one_name():
    names = setting_names(AnnotateConfig)
    assert len(names) == len(set(names))


def test_type_checkers_know_every_setting_by_its_name_and_type():
    assert list(get_type_hints(AnnotateSettings)) == setting_names(AnnotateConfig)
    typed = get_type_hints(EstimateSettings)
    assert list(typed) == setting_names(EstimateConfig)
    assert AnnotateSettings.__required_keys__ == {
        item.name for item in fields(AnnotateConfig) if item.default is item.default_factory is MISSING
    }
    for settings_class in CLASSES:
        for name, hint in hints_of(settings_class).items():
            if is_settings(hint):
                continue
            if get_origin(hint) is tuple:
                assert typed[name] == list[str] | tuple[str, ...]
            elif typed[name] != hint:
                # What is a place may be a path.
                assert set(get_args(typed[name])) == {*get_args(StrPath), *(set(get_args(hint)) - {str})}
                assert os.PathLike[str] in get_args(typed[name])
