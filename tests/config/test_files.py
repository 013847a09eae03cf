import os
import re
import time

import pytest

from sam_pipeline.config import AnnotateConfig
from sam_pipeline.config.files import config_flags
from sam_pipeline.errors import ConfigError


def flags(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return config_flags(AnnotateConfig, tmp_path / name)


def test_settings_become_flags(tmp_path):
    text = "output: a b\npoints-per-side: 4\nextend: true\nkeep: [a, b]\nlimit: null\nstorage_options: {anon: true}"
    expected = ["--output=a b", "--points-per-side=4", "--extend", "--keep", "a", "b"]
    assert flags(tmp_path, "run.yaml", text) == [*expected, '--storage-options={"anon": true}']


def test_the_suffix_of_toml_may_be_in_capitals(tmp_path):
    assert flags(tmp_path, "RUN.TOML", 'output = "a"') == ["--output=a"]


def test_a_value_that_begins_with_a_dash_is_no_flag(tmp_path):
    assert flags(tmp_path, "run.yaml", "output: -h\nmin_score: -1e-05") == ["--output=-h", "--min-score=-1e-05"]
    assert flags(tmp_path, "run.toml", 'exclude = ["[-]x*"]') == ["--exclude", "[-]x*"]
    assert flags(tmp_path, "run.toml", "exclude = []") == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", "output = 2024-01-01", "output holds a date: put it in quotes, if it is meant as text"),
        ("run.toml", "output = 12:30:00", "output holds a time: put it in quotes"),
        ("run.toml", "storage_options = {anon = 2024-01-01T00:00:00}", "storage_options holds a datetime"),
        ("run.yaml", "output: 2024-01-01", "output holds a date"),
        ("run.yaml", "keep: [a, 2024-01-01]", "keep holds a date"),
        ("run.yaml", "storage_options: {anon: !!binary aGk=}", "storage_options holds a bytes"),
        ("run.yaml", "output: !!binary aGk=", "output holds a bytes"),
        ("run.yaml", "output: !!set {a}", "output holds a set"),
        ("run.yaml", "keep: !!omap [a: b]", "keep holds a tuple"),
        ("run.yaml", "keep: [a, yes]", "keep must be a list of text, but holds True"),
        ("run.yaml", "keep: [a, null]", "keep must be a list of text, but holds None"),
        ("run.yaml", "keep: [[a]]", "keep must be a list of text, but holds ['a']"),
        ("run.yaml", "exclude: ['-x*', b]", "exclude holds '-x*', which reads as a flag: write [-] for the dash"),
        ("run.toml", f"limit = 0x{'f' * 5000}", "limit holds a number of more than 64 bits"),
        ("run.toml", "points_per_sid = 4", "there is no setting points_per_sid (did you mean points_per_side?)"),
    ],
)
def test_what_cannot_be_a_setting_is_named(tmp_path, name, text, message):
    with pytest.raises(ConfigError, match=f"^cannot use {re.escape(str(tmp_path / name))}: {re.escape(message)}"):
        flags(tmp_path, name, text)


LAUGHS = "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*{'a' if not n else f'b{n - 1}'}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.yaml", LAUGHS, "aliases"),
        ("run.yaml", "output: &a [*a]", "aliases"),
        ("run.yaml", "<<: {output: a}", "cannot read"),
        ("run.yaml", f"output: {'[' * 5000}{']' * 5000}", "nested more than 20 levels"),
        ("run.yaml", "output: " + "{a: " * 100 + "1" + "}" * 100, "nested more than 20 levels"),
        ("run.yaml", "\n".join(f"{' ' * depth}a:" for depth in range(1000)), "nested more than 20 levels"),
        ("run.toml", f"output = {'[' * 50000}{']' * 50000}", "cannot read"),
        ("run.toml", f"output = {'[' * 30}{']' * 30}", "nested more than 20 levels"),
        ("run.toml", f"a{'.a' * 5000} = 1", "nested more than 20 levels"),
        ("run.yaml", "1: a", "keys must be text, got 1"),
        ("run.yaml", "yes: a", "keys must be text, got True"),
        ("run.yaml", "null: a", "keys must be text, got None"),
        ("run.yaml", "[a, b]: a", "keys must be text"),
        ("run.yaml", "storage_options: {1: a}", "keys must be text"),
        ("run.yaml", "output: a\noutput: b", "output is there twice"),
        ("run.yaml", "points-per-side: 1\npoints_per_side: 2", "points_per_side twice"),
        ("run.toml", "points-per-side = 1\npoints_per_side = 2", "points_per_side twice"),
        ("run.yaml", "output: !!python/object/apply:os.system [echo]", "cannot read"),
        ("run.yaml", "#" * 2**20 + "\n", "at most 1048576 bytes"),
        ("run.yaml", "a\x07: 1", "cannot read"),
    ],
)
def test_what_would_take_long_or_mean_something_else_is_refused_in_one_line_at_once(tmp_path, name, text, message):
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message) as caught:
        flags(tmp_path, name, text)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 5


def test_only_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(ConfigError, match=r"cannot read .*(not a regular file|No such file|Is a directory)"):
            config_flags(AnnotateConfig, path)
