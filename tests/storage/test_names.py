# ruff: noqa: RUF001  characters that look like others are what this is about
"""One name, one place: whatever an output is called, all that is written lies there, or nothing is written.

The names are made of 220 characters, ASCII and not; those of the soak hold every ordered pair of them.
"""

import json
import os
import re
import sys
import unicodedata
from urllib.parse import quote

import pytest

from sam_pipeline.api import open_run
from sam_pipeline.cli.commands import main
from sam_pipeline.errors import ConfigError
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.pipeline.prompt_plan import ensure_prompts
from sam_pipeline.storage.maintenance.vacuum import vacuum
from sam_pipeline.storage.maintenance.verify import verify
from sam_pipeline.storage.maintenance.watching import read_state
from sam_pipeline.storage.tables.delta_place import delta_uri
from sam_pipeline.storage.tables.plan import read_planned
from sam_pipeline.storage.tables.results import MaskTable, delete_rows, put_shard
from tests.configs import plan_config
from tests.storage.image_files import noise, saved
from tests.storage.runs import FINGERPRINT, HEIGHT, WIDTH, failed_row, results_table, row

ASCII = [chr(code) for code in range(1, 128) if chr(code) != "/"]
OTHERS = [
    *"äöüßéèñçøåÆŒŁžİıſΩЖאعहไ日本語한글あカ",  # letters of many scripts
    *"\u0301\u0308\u200d\u200b\u200e\u202e\u2066\ufeff\u00ad",  # marks, joiners, directions, nothing to see
    *"\u00a0\u2003\u202f\u3000\u1680",  # spaces
    *"\u0080\u0085\u009f\u2028\u2029\ufffe\uffff",  # controls, separators, no characters
    *"\ufffd\ue000\U0010ffff\ufdd0",
    *"…“”‘’–—×÷°§¶•€£¥©®™¿¡«»",
    *"⁄∕／＼：＊？＃％．｜＜＞",  # what looks like a separator and is none
    *"😀👩🏽🇩🇪𝔘𝟙🀄",
]
CHARACTERS = ASCII + OTHERS
REFUSED = {*ASCII[:31], *"\x7f\\#?", *"\u0080\u0085\u009f\u2028\u2029\ufffe\uffff"}

# Bytes of a part of a path, and parts of a name: below the limits of disks and stores.
_PART_BYTES = 200
_PARTS = 4


class Disk:
    """A folder in which all that is written can be seen."""

    def __init__(self, folder):
        self.root, self.options = str(folder / "root"), {}
        os.mkdir(self.root)

    def written(self):
        return {
            os.path.relpath(os.path.join(folder, name), self.root)
            for folder, folders, names in os.walk(self.root)
            for name in (*names, *(each for each in folders if not os.listdir(os.path.join(folder, each))))
        }

    def allowed(self, characters):
        return [each for each in characters if each not in REFUSED]


class Bucket:
    """A bucket of a real server."""

    def __init__(self, s3):
        self._s3, self._bucket = s3, s3.create_bucket()
        self.root = f"s3://{self._bucket}"
        keys = {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key}
        self.env = keys
        self.options = {"endpoint_url": s3.endpoint, "client_kwargs": {"region_name": "us-east-1"}}

    def written(self):
        return set(self._s3.list_keys(self._bucket))

    def allowed(self, characters):
        return [each for each in characters if each not in REFUSED]


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path, monkeypatch):
    if request.param == "disk":
        return Disk(tmp_path)
    bucket = Bucket(request.getfixturevalue("s3"))
    for name, value in bucket.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return bucket


@pytest.fixture
def images(tmp_path):
    """Two images and a prompt for each."""
    folder = tmp_path / "bilder ä#%20"
    folder.mkdir()
    for name in ("a%20b.png", "c#d.png"):
        (folder / name).write_bytes(saved(noise(HEIGHT, WIDTH), "PNG"))
    prompts = tmp_path / "prompts ü%41.jsonl"
    found = [{"image": name, "bbox": [1, 1, 5, 5]} for name in ("a%20b.png", "c#d.png")]
    prompts.write_text("".join(json.dumps(each) + "\n" for each in found))
    return folder, prompts


def all_commands(output, place, images, *, with_prompts):
    """What the commands do with an output, from plan to vacuum, without a network."""
    folder, prompts = images
    config = plan_config(
        output=output,
        input=str(folder),
        prompts=str(prompts) if with_prompts else None,
        storage_options=place.options,
    )
    plan = ensure_plan(config)
    ensure_prompts(config, plan)
    assert ensure_plan(config) == plan
    planned = read_planned(plan.output, [0, 1], place.options).to_pylist()
    answer = {"prompt_id": 0} if with_prompts else {}
    good = [row(each["image_id"], 1, uri=each["uri"]) for each in planned]
    for each in good:
        each["masks"] = [mask | answer for mask in each["masks"]]
    bad = failed_row(1) | {"uri": planned[1]["uri"]}
    table = MaskTable.take_over(plan.output, FINGERPRINT, {"config": "{}"}, place.options)
    for each in (good[0], bad):
        table.commit([put_shard(plan.output, results_table([each]), place.options, table_id=table.id)])
    table.check_fence()
    assert delete_rows(plan.output, ["decode_error"], place.options) == 1
    table = MaskTable.take_over(plan.output, FINGERPRINT, {"config": "{}"}, place.options)
    table.commit([put_shard(plan.output, results_table(good[1:]), place.options, table_id=table.id)])
    table.compact()
    vacuum(plan.output, 1, place.options)
    checked = verify(plan.output, place.options)
    assert checked.ok, checked.problems
    assert (checked.num_rows, checked.num_masks) == (2, 2)
    assert read_state(plan.output, place.options).num_by_status == {"ok": 2}
    run = open_run(output, place.options)
    assert sorted(each["image_id"] for each in run.rows()) == [0, 1]
    assert run.to_arrow().num_rows == run.dataset().to_table(use_threads=False).num_rows == 2
    return plan


def check(name, place, images, *, with_prompts):
    before = place.written()
    plan = all_commands(f"{place.root}/{name}", place, images, with_prompts=with_prompts)
    written = place.written() - before
    tables = {"images", "masks", "prompts"} if with_prompts else {"images", "masks"}
    assert {key.removeprefix(f"{name}/").partition("/")[0] for key in written} == tables, name
    assert all(key.startswith(f"{name}/") for key in written), name
    assert plan.output == f"{place.root}/{name}"


def names_with_all_pairs(characters):
    """Names in which every ordered pair of characters stands, as few as a walk over all pairs can be cut into."""
    walk, left = [characters[0]], {each: list(reversed(characters)) for each in characters}
    circuit = []
    while walk:  # Hierholzer's: an Euler circuit of the complete graph with loops
        if left[walk[-1]]:
            walk.append(left[walk[-1]].pop())
        else:
            circuit.append(walk.pop())
    parts, part = [], ""
    for character in circuit:
        longer = part + character
        if len(longer.encode()) > _PART_BYTES or re.search("%[0-9A-Fa-f]{2}", longer):
            parts.append(part)
            part = part[-1:]
        part += character
    parts.append(part)
    for start in range(0, len(parts), _PARTS):
        yield "/".join(["run", *(f"x{part}x" for part in parts[start : start + _PARTS])])


def test_there_are_characters_enough_and_names_with_all_their_pairs():
    assert len(set(CHARACTERS)) == len(CHARACTERS) >= 200
    few = CHARACTERS[30:60]
    text = "\n".join(names_with_all_pairs(few))
    assert all(first + second in text for first in few for second in few)


@pytest.mark.parametrize("with_prompts", [False, True])
@pytest.mark.parametrize(
    "name",
    [
        "a b%c",
        "ä ö~'\"`$&+,;=@{}<>*!/a:b",
        "run.",
        "日本/😀\u202e\u3000",
        unicodedata.normalize("NFD", "Äé"),
    ],
)
def test_all_that_is_written_lies_in_the_output(place, images, name, with_prompts):
    check(name, place, images, with_prompts=with_prompts)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_all_that_is_written_lies_in_the_output_whatever_two_characters_meet_in_its_name(place, images):
    allowed = place.allowed(CHARACTERS)
    alone = [each for each in allowed if each not in ".:"]
    as_folders = ["/".join(alone[start : start + 10]) for start in range(0, len(alone), 10)]
    names = [*names_with_all_pairs(allowed), *as_folders, "%%", "%4", "%zz", "..."]
    for number, name in enumerate(names):
        check(name, place, images, with_prompts=number % 2 == 0)
    pairs = f"{len(allowed)} characters and all {len(allowed) ** 2} pairs of them"
    sys.stdout.write(f"{len(names)} names of {pairs}: every key in its place\n")


def refused_names(place):
    characters = [each for each in CHARACTERS if each not in place.allowed(CHARACTERS)]
    yield from (f"{before}{each}{after}" for each in characters for before, after in (("", "x"), ("x", ""), ("x", "x")))
    yield from ("a%20b", "a%2Fb", "%41", "%00", "a/%2e%2e/b", "_delta_log", "a/_delta_log", "n" * 300, "ä" * 150)
    yield from ("d/" * 2000 + "d", "x\udc80")


@pytest.mark.parametrize("with_prompts", [False, True])
def test_a_name_that_the_two_clients_would_not_agree_on_is_refused_and_nothing_is_written(place, images, with_prompts):
    before = place.written()
    for name in refused_names(place):
        with pytest.raises(ConfigError) as caught:
            all_commands(f"{place.root}/{name}", place, images, with_prompts=with_prompts)
        assert "\n" not in str(caught.value)
    assert place.written() == before


def test_every_pair_with_a_refused_character_is_refused(place):
    refused = [each for each in CHARACTERS if each not in place.allowed(CHARACTERS)]
    for first in refused:
        for second in CHARACTERS:
            for name in (first + second, second + first):
                with pytest.raises(ConfigError):
                    delta_uri(f"{place.root}/x{name}x")


@pytest.mark.parametrize("spelling", ["path", "file:///", "file:/", "file://localhost/", "~"])
def test_every_spelling_of_a_local_output_is_the_same_place(tmp_path, images, spelling, monkeypatch, capsys):
    place = Disk(tmp_path)
    monkeypatch.setenv("HOME", place.root)
    encoded = quote(f"{place.root}/a b=c").lstrip("/")
    output = {"path": f"{place.root}/a b=c", "~": "~/a b=c"}.get(spelling, f"{spelling}{encoded}")
    all_commands(output, place, images, with_prompts=False)
    assert {key.partition("/")[0] for key in place.written()} == {"a b=c"}
    for command in ("status", "verify", "vacuum"):
        with pytest.raises(SystemExit) as ended:
            main([command, output])
        assert ended.value.code == 0, capsys.readouterr()


@pytest.mark.parametrize("name", ["a\\b", "a%20b", "a\nb", "a#b", "a?b"])
@pytest.mark.parametrize("command", ["plan", "annotate", "status", "verify", "vacuum", "retry"])
def test_the_command_line_refuses_with_one_line(tmp_path, images, name, command, capfd):
    place, (folder, _) = Disk(tmp_path), images
    output = f"{place.root}/{name}"
    arguments = [output] if command not in ("plan", "annotate") else ["--input", str(folder), "--output", output]
    with pytest.raises(SystemExit) as ended:
        main([command, *arguments, *(["--status", "ok"] if command == "retry" else [])])
    out, err = capfd.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: the path of an output must not hold")
    assert place.written() == set()


def test_images_are_read_again_from_an_output_of_any_name(tmp_path, images):
    place = Disk(tmp_path)
    output = f"{place.root}/ä &%"
    all_commands(output, place, images, with_prompts=True)
    run = open_run(output)
    assert [run.read_image(row).ndim for row in run] == [3, 3]
