import os
import time

import pytest

from sam_pipeline.config_files import config_flags
from sam_pipeline.errors import ConfigError


def flags(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    return config_flags("annotate", tmp_path / name)


def test_settings_become_flags(tmp_path):
    text = "output: a b\npoints-per-side: 4\nextend: true\nkeep: [a, b]\nlimit: null\nstorage_options: {anon: true}"
    expected = ["--output", "a b", "--points-per-side", "4", "--extend", "--keep", "a", "b"]
    assert flags(tmp_path, "run.yaml", text) == [*expected, "--storage-options", '{"anon": true}']


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
            config_flags("annotate", path)
