import ast
import dataclasses
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import sam_pipeline
from sam_pipeline.cli.help import COMMANDS
from sam_pipeline.config import AnnotateConfig, MaskConfig, ModelConfig, PlanConfig, PoolConfig
from sam_pipeline.errors import FencedError, OutputError, RunFailedError
from sam_pipeline.pipeline import annotate as annotate_module
from sam_pipeline.storage.maintenance.status import Outcome
from sam_pipeline.storage.tables.plan import read_plan
from tests.configs import annotate_config
from tests.storage.image_files import noise, saved
from tests.storage.runs import failed_row, finished, row, shard, take_over

AMG_FLAGS = (  # as architecture.md lists them
    "--input --output --model-type --checkpoint --device --points-per-side --points-per-batch --pred-iou-thresh "
    "--stability-score-thresh --stability-score-offset --box-nms-thresh --crop-n-layers --crop-nms-thresh "
    "--crop-overlap-ratio --crop-n-points-downscale-factor --min-mask-region-area"
)


@pytest.fixture
def configs(monkeypatch):
    """The configurations with which annotate was called, in place of a run."""
    called = []

    def annotate(config, make_display, start_id):
        called.append(config)
        return annotate_module.Summary(Outcome(config.output, {"ok": 9, "decode_error": 1}, 33), 4, 8.0)

    monkeypatch.setattr(annotate_module, "annotate", annotate)
    return called


@pytest.fixture
def comes_out(monkeypatch):
    """Let a run come out in some way, without running it."""

    def with_outcome(**fields):
        outcome = Outcome(**{"output": "run", "num_by_status": {"ok": 2}, "num_masks": 0} | fields)
        monkeypatch.setattr(annotate_module, "annotate", lambda *_, **__: annotate_module.Summary(outcome, 2, 1.0))

    return with_outcome


@pytest.fixture
def folder(tmp_path):
    """An input of two images."""
    (tmp_path / "in").mkdir()
    for index in range(2):
        (tmp_path / "in" / f"{index}.png").write_bytes(saved(noise(seed=index), "PNG"))
    return tmp_path / "in"


def refused(cli, *arguments, code=2):
    """What a command says that ends with an error: one line."""
    exit_code, out, err = cli(*arguments)
    assert exit_code == code, err
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    return err.removeprefix("error: ").rstrip()


def usage_refused(cli, *arguments):
    """What a command says of flags that cannot be parsed: a few lines, here without their frame."""
    exit_code, out, err = cli(*arguments)
    assert exit_code == 2
    assert "Traceback" not in out + err
    return " ".join(re.sub(r"[─│╭╮╰╯]", " ", out + err).split())


def setting_names(config_class):
    for item in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(item.default_factory):
            yield from setting_names(item.default_factory)
        else:
            yield item.name


def flag(name):
    return "--" + name.replace("_", "-")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--debug", "--help"], ["--config", "none.toml", "-h"]])
def test_help_lists_the_commands_and_the_exit_codes(cli, arguments):
    code, out, _ = cli(*arguments)
    assert code == 0
    for word in ("annotate", "plan", "status", "verify", "weights", "--debug", "--config", "Exit codes"):
        assert word in out


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("annotate", [flag(name) for name in setting_names(AnnotateConfig)]),
        ("plan", ["--input", "--output", "--storage-options"]),
        ("status", ["OUTPUT", "--watch", "--json", "--storage-options"]),
        ("runs", ["OUTPUT", "--json", "--storage-options"]),
        ("verify", ["OUTPUT", "--storage-options"]),
        ("retry", ["OUTPUT", "--status", "--damaged", "--storage-options", "exit code 3"]),
        ("vacuum", ["OUTPUT", "--retention-hours", "--storage-options", "exit code 3"]),
        ("weights", ["list", "fetch", "verify"]),
        ("amg", [*AMG_FLAGS.split(), "--convert-to-rle", "--overwrite"]),
        ("export-onnx", ["--output", "--checkpoint", "--opset", "--quantize-out", "--overwrite", "onnxruntime"]),
    ],
)
def test_the_help_of_a_command_explains_each_of_its_flags(cli, command, flags):
    code, out, _ = cli(command, "--help")
    assert code == 0
    assert [name for name in flags if not re.search(rf"{name}\b", out, re.IGNORECASE)] == []


@pytest.mark.parametrize(
    "others",
    [
        ["--model-type", "bogus"],
        ["--config", "none.toml"],
        ["--colour", "red", "x"],
        ["--output", "a", "--output", "b"],
        ["--input", "a", "b"],
    ],
    ids=str,
)
def test_help_is_shown_whatever_is_given_with_it(cli, others):
    plain = cli("annotate", "--help")
    assert plain[0] == 0
    assert cli("annotate", *others, "--help") == cli("annotate", "-h", *others) == plain


def test_help_of_a_command_comes_also_when_asked_for_before_it(cli):
    assert cli("--help", "plan") == cli("--output", "x", "plan", "-h") == cli("plan", "--help")


def test_help_of_what_is_no_command_is_refused(cli):
    assert "paint" in usage_refused(cli, "paint", "--help")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_fits_80_columns_and_has_an_example(cli, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = cli(*command, "--help")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if len(line) > 80 or line != line.rstrip()] == []
    for clutter in ("{None}", "default: )", "None", "(unset by default)", "{}"):
        assert clutter not in out
    assert re.search(rf"Examples?:\n  sam-pipeline {' '.join(command)}", out)


def test_a_flag_is_shown_with_its_type_and_its_default(cli):
    _, out, _ = cli("annotate", "--help")
    assert "--input STR " in out
    assert "--stall-timeout-s FLOAT" in out
    assert "--storage-options JSON" in out
    assert re.search(r"points_per_side\*\*2 prompts an image\. \(default: 32\)", out)


@pytest.mark.parametrize("command", [["--version"], ["annotate", "--version"]])
def test_the_version_is_said(cli, command):
    assert cli(*command) == (0, f"sam-pipeline {sam_pipeline.__version__}\n", "")


def test_the_package_is_a_program(tmp_path):
    command = [sys.executable, "-m", "sam_pipeline", "status", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: no plan in {tmp_path}\n")


def test_only_what_is_given_is_passed_on(cli, configs):
    cli("annotate", "--output", "out")
    cli("annotate", "--output", "out", "--points-per-side", 32, "--no-extend", "--model-type=default", "--seed=0")
    assert [config.given() for config in configs] == [
        {"output": "out"},
        {"output": "out", "points_per_side": 32, "extend": False, "model_type": "default", "seed": 0},
    ]
    assert configs[0] == configs[1]


def test_nothing_in_a_settings_file_is_not_given(cli, configs, tmp_path):
    (tmp_path / "run.yaml").write_text("output: out\nlimit: null\npoints_per_side: 32\n")
    cli("annotate", "--config", tmp_path / "run.yaml")
    assert configs[0].given() == {"output": "out", "points_per_side": 32}


def official_defaults():
    """Arguments of the official generator and their defaults, read from its source."""
    package = importlib.util.find_spec("segment_anything")
    source = Path(package.origin).with_name("automatic_mask_generator.py").read_text()
    (init,) = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    names = [argument.arg for argument in init.args.args][-len(init.args.defaults) :]
    values = [eval(compile(ast.Expression(value), "", "eval")) for value in init.args.defaults]
    return dict(zip(names, values, strict=True))


def test_the_flags_of_the_official_script_are_there_with_the_official_defaults(cli, configs):
    _, out, _ = cli("annotate", "--help")
    assert [name for name in AMG_FLAGS.split() if not re.search(rf"{name} ", out)] == []
    cli("annotate", "--output", "x")
    official = official_defaults()
    ours = dataclasses.asdict(configs[0].masks)
    assert ours == {name: official[name] for name in ours}
    assert official.keys() - ours.keys() == {"point_grids", "output_mode"}  # neither is a flag of amg.py's defaults
    assert configs[0].model.model_type == "default"


def test_every_flag_reaches_its_setting(cli, configs):
    code, _, _ = cli(
        *("annotate", "--output", "out", "--input", "in", "--storage-options", '{"anon": true}'),
        *("--model-type", "vit_t", "--checkpoint", "c.pth", "--device", "cpu", "--precision", "fp32"),
        *("--points-per-side", 8, "--pred-iou-thresh", 0.5, "--crop-overlap-ratio", 0.25, "--encode-actors", 3),
        *("--read-cpus", 0.5, "--max-pixels", 99, "--stall-timeout-s", 5, "--num-cpus", 2),
    )
    assert code == 0
    assert configs == [
        annotate_config(
            output="out",
            input="in",
            storage_options={"anon": True},
            max_pixels=99,
            stall_timeout_s=5,
            num_cpus=2,
            model=ModelConfig(model_type="vit_t", checkpoint="c.pth", device="cpu", precision="fp32"),
            masks=MaskConfig(points_per_side=8, pred_iou_thresh=0.5, crop_overlap_ratio=0.25),
            pools=PoolConfig(encode_actors=3, read_cpus=0.5),
        )
    ]


def test_a_finished_run_is_summed_up(cli, configs):
    code, out, _ = cli("annotate", "--output", "out")
    assert code == 0
    assert "10 (9 ok, 1 decode_error)" in out
    assert re.search(r"rate +0\.500 images/s", out)


TOML = """
output = "from-file"
points-per-side = 16
pred_iou_thresh = 0.5
storage_options = {anon = true}
encode_actors = 2
"""
YAML = """
output: from-file
points-per-side: 16
pred_iou_thresh: 0.5
storage_options: {anon: true}
encode_actors: 2
"""


@pytest.mark.parametrize(("name", "text"), [("run.toml", TOML), ("run.yaml", YAML), ("run.yml", YAML)])
def test_settings_come_from_a_file_and_flags_win(cli, configs, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    cli("annotate", "--config", tmp_path / name)
    cli("--config", tmp_path / name, "annotate", "--points-per-side", 4, "--output", "flag")
    from_file = AnnotateConfig(
        output="from-file",
        storage_options={"anon": True},
        masks=MaskConfig(points_per_side=16, pred_iou_thresh=0.5),
        pools=PoolConfig(encode_actors=2),
    )
    masks = dataclasses.replace(from_file.masks, points_per_side=4)
    assert configs == [from_file, dataclasses.replace(from_file, output="flag", masks=masks)]


def test_the_same_file_serves_planning(cli, folder, tmp_path):
    (tmp_path / "run.toml").write_text(f'input = "{folder}"\noutput = "{tmp_path}/run"\npoints_per_side = 4\n')
    assert cli("plan", "--config", tmp_path / "run.toml")[0] == 0
    assert read_plan(f"{tmp_path}/run", {}).num_images == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1\nshape = 2\npoints_per_side = 4", "cannot use {path}: there is no setting colour, shape"),
        ("[masks]\npoints_per_side = 4", "cannot use {path}: there is no setting masks"),
        ("points_per_side = = 4", "cannot read {path}: "),
        ("\xff\x00", "cannot read {path}: "),
    ],
)
def test_a_bad_settings_file_is_refused_in_one_line(cli, tmp_path, text, message):
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode("latin-1"))
    assert refused(cli, "annotate", "--config", path).startswith(message.format(path=path))


@pytest.mark.parametrize(("text", "message"), [("- a\n- b", "must hold settings by name"), ("{", "cannot read")])
def test_a_bad_yaml_file_is_refused_in_one_line(cli, tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    assert message in refused(cli, "annotate", "--config", tmp_path / "run.yaml")


def test_a_settings_file_that_is_not_there_is_refused_in_one_line(cli, tmp_path):
    assert refused(cli, "annotate", "--config", tmp_path / "none.toml").startswith("cannot read ")


@pytest.mark.parametrize("command", ["annotate", "plan"])
def test_an_input_that_is_not_there_is_refused_in_one_line(cli, tmp_path, command):
    message = refused(cli, command, "--input", tmp_path / "none", "--output", tmp_path / "run")
    assert message == f"input not found: {tmp_path}/none"


@pytest.mark.parametrize("command", ["annotate", "plan"])
def test_an_empty_prefix_is_refused_in_one_line(cli, tmp_path, command):
    (tmp_path / "in").mkdir()
    message = refused(cli, command, "--input", tmp_path / "in", "--output", tmp_path / "run")
    assert message.startswith(f"no images in {tmp_path}/in: 0 files")


@pytest.mark.parametrize("command", ["annotate", "plan"])
def test_an_output_without_a_plan_needs_an_input(cli, tmp_path, command):
    assert "say which images with --input" in refused(cli, command, "--output", tmp_path / "run")


def test_an_output_that_cannot_be_written_is_refused_in_one_line(cli, folder):
    message = refused(cli, "plan", "--input", folder, "--output", folder / "0.png" / "run")
    assert message.startswith("cannot use output ")


@pytest.mark.parametrize("command", [("plan", "--output"), ("annotate", "--output"), ("status",), ("verify",)])
@pytest.mark.parametrize("options", ["{bad", "[]", '{"secret": "canary"}'])
def test_bad_storage_options_are_refused_without_showing_them(cli, tmp_path, command, options):
    message = refused(cli, *command, tmp_path / "run", "--storage-options", options)
    assert message.startswith(
        ("storage_options must be a JSON object", "storage option 'secret' is not known, or holds a credential")
    )
    assert "canary" not in message


@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_folder_that_holds_no_run_is_refused_in_one_line(cli, tmp_path, command):
    assert refused(cli, command, tmp_path) == f"no plan in {tmp_path}"
    assert refused(cli, command, tmp_path / "none") == f"no plan in {tmp_path}/none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["annotate", "--model-type", "vit_x", "--output", "o"], "invalid choice 'vit_x' for argument '--model-type'"),
        (["annotate", "--points-per-side", "many", "--output", "o"], "--points-per-side"),
        (["annotate", "--points-per-side", 0, "--output", "o"], "points_per_side must be at least 1, got 0"),
        (["annotate", "--encode-gpus", -1, "--output", "o"], "encode_gpus must be above 0, got -1"),
        (["annotate", "--output", "o", "--colour", "red"], "--colour"),
        (["annotate"], "--output"),
        (["paint"], "paint"),
        ([], ", ".join(COMMANDS)),
    ],
)
def test_bad_usage_is_explained_without_a_traceback(cli, arguments, message):
    assert message in usage_refused(cli, *arguments)


def test_a_run_setting_out_of_range_is_refused_in_one_line(cli):
    assert refused(cli, "annotate", "--output", "o", "--max-pixels", 0) == "max_pixels must be above 0, got 0"


def test_an_unknown_model_to_fetch_is_refused_in_one_line(cli):
    assert "got 'vit_x'" in refused(cli, "weights", "fetch", "vit_x")


@pytest.mark.parametrize(
    "arguments", [["--output", "x", "annotate"], ["--output=x", "plan"], ["--output", "x"]], ids=str
)
def test_flags_before_the_command_are_refused(cli, arguments):
    commands = ",".join(COMMANDS)
    expected = f"the command comes before its flags: sam-pipeline {{{commands}}} --output …"
    assert refused(cli, *arguments) == expected


@pytest.mark.parametrize("command", ["status", "verify", "retry", "vacuum", "weights"])
def test_a_settings_file_is_for_annotate_and_plan_alone(cli, tmp_path, command):
    (tmp_path / "run.toml").write_text("points_per_side = 4")
    message = refused(cli, command, "x", "--config", tmp_path / "run.toml")
    assert message == f"--config is for annotate and plan; {command} takes no settings from a file"


@pytest.mark.parametrize("arguments", [["annotate", "--config"], ["annotate", "--debug=1"]], ids=str)
def test_bad_usage_of_what_every_command_takes_names_the_program(cli, arguments):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("usage: sam-pipeline [--debug]")


@pytest.mark.parametrize(("error", "code"), [(FencedError("another run took over"), 3), (RunFailedError("2 left"), 1)])
def test_each_error_ends_with_its_exit_code(cli, monkeypatch, error, code):
    def annotate(config, make_display, start_id):
        raise error

    monkeypatch.setattr(annotate_module, "annotate", annotate)
    assert refused(cli, "annotate", "--output", "o", code=code) == str(error)


def test_what_nobody_expected_is_one_line_without_credentials_too(cli, monkeypatch):
    def annotate(config, make_display, start_id):
        raise RuntimeError("403 https://h/a?X-Amz-Signature=canary\nand more\nand more")

    monkeypatch.setattr(annotate_module, "annotate", annotate)
    code, _, err = cli("annotate", "--output", "o")
    assert code == 1
    assert err == "unexpected RuntimeError: 403 https://h/a and more and more (--debug shows the traceback)\n"


def test_a_panic_of_a_library_is_one_line_too(cli, monkeypatch):
    class PanicException(BaseException):
        """As that of pyo3, which is no Exception."""

    def annotate(config, make_display, start_id):
        raise PanicException("called `Option::unwrap()` on a `None` value")

    monkeypatch.setattr(annotate_module, "annotate", annotate)
    code, _, err = cli("annotate", "--output", "o")
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith("unexpected PanicException: called")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["plan", "--input", "a", "--output", "o", "--include"], "include"),
        (["annotate", "--output", "o", "--keep", "--limit", 4], "keep"),
        (["filter", "o", "--into", "n", "--category-ids"], "category-ids"),
        (["evaluate", "o", "--ground-truth", "t.json", "--iou", "--exclude", "a"], "iou"),
    ],
)
def test_a_flag_without_values_is_refused(cli, arguments, name):
    assert refused(cli, *arguments) == f"--{name} has no value; give it some, or leave it out"


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["plan", "--input", "a", "--output", "o", "--input", "b"], "input"),
        (["plan", "--input=a", "--output", "o", "--input=b"], "input"),
        (["plan", "--input", "a", "--output=o", "--output", "o"], "output"),
        (["annotate", "--output", "o", "--points-per-side", 4, "--points_per_side=5"], "points-per-side"),
        (["annotate", "--output", "o", "--keep", "a", "b", "--keep", "c"], "keep"),
        (["annotate", "--output", "o", "--extend", "--no-extend"], "extend"),
        (["--config", "a.toml", "annotate", "--config=b.toml"], "config"),
        (["retry", "o", "--status", "ok", "--status", "changed"], "status"),
    ],
)
def test_a_flag_given_twice_is_refused(cli, arguments, name):
    assert refused(cli, *arguments) == f"--{name} is given twice; give it once, with all its values"


@pytest.mark.parametrize("command", [("plan", "--output"), ("status",), ("verify",), ("vacuum",), ("retry",)])
def test_an_empty_output_is_refused(cli, command):
    status = ["--status", "ok"] if command == ("retry",) else []
    assert refused(cli, *command, "", *status) == "output must be a path or URI, got ''"


def test_an_empty_input_is_refused(cli, tmp_path):
    assert refused(cli, "plan", "--input", "", "--output", tmp_path / "run") == "input must be a path or URI, got ''"
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_says_how_to_go_on(cli, monkeypatch):
    def annotate(config, make_display, start_id):
        raise KeyboardInterrupt

    monkeypatch.setattr(annotate_module, "annotate", annotate)
    code, _, err = cli("annotate", "--output", "o")
    assert (code, err) == (130, "interrupted; the same command resumes\n")


def test_debug_shows_the_traceback_and_keeps_the_exit_code(tmp_path):
    command = [
        sys.executable,
        "-c",
        "from sam_pipeline.cli.commands import main; main()",
        "plan",
        "--output",
        str(tmp_path),
    ]
    message = f"{tmp_path} has no plan yet: say which images with --input"
    plain = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (plain.returncode, plain.stdout, plain.stderr) == (2, "", f"error: {message}\n")
    debug = subprocess.run([*command, "--debug"], capture_output=True, text=True, timeout=120)
    assert debug.returncode == 2
    assert "Traceback (most recent call last):" in debug.stderr
    assert debug.stderr.endswith(f"ConfigError: {message}\n")


def test_planning_says_what_was_planned_and_can_be_repeated(cli, folder, tmp_path):
    for _ in range(2):
        code, out, err = cli("plan", "--input", folder, "--output", tmp_path / "run")
        assert (code, err) == (0, "")
        assert re.search(rf"input +{folder}\n", out)
        assert re.search(r"images +2\n", out)


def test_a_pattern_that_the_shell_expanded_is_to_be_quoted(cli, folder):
    files = sorted(map(str, folder.iterdir()))
    for flags in (("--input", *files, "--output", "run"), ("--output", "run", "--input", *files)):
        message = refused(cli, "plan", *flags)
        assert message.startswith(f"--input takes one value, got 2 ({files[0]} {files[1]} …): put a pattern in quotes")
    assert cli("plan", "--input", f"{folder}/*.png", "--output", folder.parent / "run", "--include", *files)[0] == 0


def test_a_run_in_which_no_image_succeeded_is_summed_up_and_ends_with_1(cli, comes_out):
    comes_out(num_by_status={"decode_error": 2}, failure="file:///a.png: it is empty")
    code, out, err = cli("annotate", "--output", "run")
    assert code == 1
    assert re.search(r"images +2 \(2 decode_error\)\n", out)
    assert re.fullmatch(
        r"error: none of the 2 images could be annotated: 2 decode_error, such as file:///a.png: it is empty; "
        r"`sam-pipeline retry run --status decode_error` lets .*\n",
        err,
    )


def test_a_run_in_which_no_prompt_has_a_mask_is_summed_up_and_ends_with_1(cli, comes_out):
    comes_out(num_planned={"prompt": 3, "region": 0}, num_unusable={"prompt": 3}, unusable="file:///a.png: no area")
    code, out, err = cli("annotate", "--output", "run")
    assert code == 1
    assert re.search(r"prompts +3 \(3 unusable\)\n", out)
    assert "regions" not in out
    assert err.startswith("error: none of the 3 prompts has a mask: 3 unusable, such as file:///a.png: no area")


def test_verifying_a_sound_output_ends_with_0(cli, tmp_path):
    finished(str(tmp_path), [row(0), row(1)])
    code, out, err = cli("verify", tmp_path)
    assert (code, err) == (0, "")
    assert re.search(r"left +0\nlost +0\ntwice +0\nunsound +0\n", out)


def test_verifying_an_unsound_output_ends_with_1_and_names_what_is_wrong(cli, tmp_path):
    finished(str(tmp_path), [row(0), row(0) | {"status": "decode_error"}], num_images=2)
    code, out, err = cli("verify", tmp_path)
    assert code == 1
    assert re.search(r"left +1\nlost +0\ntwice +1\nunsound +1\n", out)
    assert err.splitlines() == [
        "image 0 (file:///in/0000.jpg): status decode_error needs an error and no masks",
        "image 0 has more than one row",
        f"left to do: 1 of 2 images; sam-pipeline annotate --output {tmp_path} goes on with them",
        f"to annotate again what is damaged or unsound: sam-pipeline retry {tmp_path} --damaged, and then annotate",
    ]


def test_verifying_and_retrying_bring_a_run_with_a_damaged_shard_back(cli, tmp_path):
    output = str(tmp_path / "a run")
    table = finished(output, [row(0), row(1)])
    damaged = sorted((tmp_path / "a run" / "masks").glob("*.parquet"))[0]
    damaged.unlink()
    with pytest.raises(OutputError, match=f"cannot read .*{damaged.name}.*; the command verify says"):
        table.committed_ids(2)
    code, out, err = cli("verify", output)
    assert code == 1
    assert re.search(r"lost +1\n", out)
    command = re.search(r"sam-pipeline (retry .* --damaged)", err)[1]
    code, out, err = cli(*shlex.split(command))
    assert (code, err) == (0, "")
    assert re.search(r"to do again +1\n", out)
    assert take_over(output).committed_ids(2).sum() == 1


def test_vacuuming_says_what_it_leaves_alone(cli, tmp_path):
    finished(str(tmp_path), [row(0)])
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "masks" / name).touch()
    code, out, err = cli("vacuum", tmp_path)
    assert (code, err) == (0, "")
    assert re.search(r"files removed +0\nleft alone +2 files or folders that this program did not write\n", out)


def test_retrying_says_how_many_images_are_to_do_again(cli, tmp_path):
    finished(str(tmp_path), [row(0), failed_row(1), failed_row(2, "changed"), failed_row(3, "too_large")])
    code, out, err = cli("retry", tmp_path, "--status", "decode_error", "changed")
    assert (code, err) == (0, "")
    assert re.search(r"to do again +2\n", out)
    _, out, _ = cli("status", tmp_path)
    assert re.search(r"left +2\n", out)


def test_retrying_what_is_no_status_is_refused(cli, tmp_path):
    finished(str(tmp_path), [row(0)])
    message = refused(cli, "retry", tmp_path, "--status", "failed")
    assert re.fullmatch(r"status must be some of ok, fetch_error, .*; got failed", message)
    for flags in ((), ("--status",)):
        assert "--status S [S ...], --damaged, or both" in refused(cli, "retry", tmp_path, *flags)


def test_vacuuming_says_how_many_files_it_removed(cli, tmp_path):
    finished(str(tmp_path), [row(0)])
    orphan = tmp_path / "masks" / shard(str(tmp_path), [row(1)]).file.path
    os.utime(orphan, (0, 0))
    code, out, err = cli("vacuum", tmp_path)
    assert (code, err) == (0, "")
    assert re.search(r"files removed +1\n", out)
    assert not orphan.exists()
    assert refused(cli, "vacuum", tmp_path, "--retention-hours", 0).startswith("retention_hours must be in [1, 876000]")


@pytest.mark.parametrize("hours", [10**7, 10**12, 10**18])
def test_a_retention_from_before_any_calendar_is_refused(cli, tmp_path, hours):
    finished(str(tmp_path), [row(0)])
    assert refused(cli, "vacuum", tmp_path, "--retention-hours", hours).startswith("retention_hours must be in [1,")


@pytest.mark.parametrize("command", [("vacuum",), ("retry", "--status", "ok")])
def test_without_results_there_is_nothing_to_vacuum_or_to_retry(cli, tmp_path, command):
    name, *flags = command
    assert refused(cli, name, tmp_path, *flags) == f"no results in {tmp_path}"


def test_weights_are_listed_without_fetching_anything(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_PIPELINE_CACHE", str(tmp_path))
    code, out, _ = cli("weights", "list")
    assert code == 0
    assert re.findall(r"(vit_\w) +no", out) == ["vit_h", "vit_l", "vit_b", "vit_t"]
    assert list(tmp_path.iterdir()) == []


def test_plan_config_is_part_of_annotate_config():
    assert set(setting_names(PlanConfig)) < set(setting_names(AnnotateConfig))
