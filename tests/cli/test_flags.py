"""Options that are given as JSON."""

import pytest

from sam_pipeline.cli.flags import json_object
from sam_pipeline.errors import ConfigError


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "nonsense", '{"key": "AKIA-canary"'])
def test_options_that_are_no_json_are_refused_without_showing_them(text):
    with pytest.raises(ConfigError, match=r"^storage_options must be a JSON object: ") as caught:
        json_object(text)
    assert "canary" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "kind"), [("[]", "list"), ("1", "int"), ('"canary"', "str"), ("null", "NoneType")])
def test_options_that_are_no_object_are_refused_without_showing_them(text, kind):
    with pytest.raises(ConfigError, match=f"^storage_options must be a JSON object, not {kind}$"):
        json_object(text)


def test_options_are_parsed():
    assert json_object('{"anon": true, "client_kwargs": {"region_name": "eu"}}') == {
        "anon": True,
        "client_kwargs": {"region_name": "eu"},
    }
