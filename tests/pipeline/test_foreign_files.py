"""Nothing of what other people keep in and around an output is changed, whatever commands are given."""

import contextlib
import os
import random
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import fsspec
import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, seed, settings

from sam_pipeline.cli import commands as cli
from sam_pipeline.errors import ConfigError, OutputError, SamPipelineError
from sam_pipeline.pipeline.plan import ensure_plan
from sam_pipeline.storage.maintenance import unused_files
from sam_pipeline.storage.maintenance.vacuum import Vacuumed, vacuum
from sam_pipeline.storage.tables import fenced_table
from sam_pipeline.storage.tables.plan import read_plan, read_planned
from tests.configs import plan_config
from tests.storage.runs import row, shard, take_over

TABLES = ("images", "masks", "prompts")

# Planning looks whether a file begins as an image does.
BEGINS_AS_JPEG = b"\xff\xd8\xff\xe0" + bytes(12)


@dataclass(frozen=True)
class Place:
    """Somewhere to keep files, on a disk or in a bucket."""

    uri: str

    def put(self, *paths):
        filesystem, root = fsspec.core.url_to_fs(self.uri)
        for path in paths:
            filesystem.makedirs(os.path.dirname(f"{root}/{path}"), exist_ok=True)
            filesystem.pipe_file(f"{root}/{path}", BEGINS_AS_JPEG + path.encode())

    def names(self, below=""):
        filesystem, root = fsspec.core.url_to_fs(self.uri)
        filesystem.invalidate_cache()
        return sorted(path[len(root) + 1 :] for path in filesystem.find(f"{root}/{below}".rstrip("/")))

    def read(self, path):
        filesystem, root = fsspec.core.url_to_fs(self.uri)
        return filesystem.cat_file(f"{root}/{path}")


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.s3)])
def place(request, tmp_path, monkeypatch):
    if request.param == "disk":
        return Place(str(tmp_path))
    s3 = request.getfixturevalue("s3")
    for name, value in s3.env.items():
        monkeypatch.setenv(name, value)
    return Place(f"s3://{s3.create_bucket()}")


def planned_names(place, output):
    rows = read_planned(f"{place.uri}/{output}", range(99), {}).to_pylist()
    return [row["uri"].split(place.uri.removeprefix("s3:"))[-1].lstrip("/") for row in rows]


@pytest.mark.parametrize("table", TABLES)
def test_photographs_where_a_table_would_be_are_refused_before_anything_is_written(place, table):
    place.put(f"ds/{table}/a.jpg", "in/a.jpg")
    before = place.names()
    for images in ("in", f"ds/{table}"):
        with pytest.raises(OutputError, match=f"{table} holds 'a.jpg' and no table of this program"):
            ensure_plan(plan_config(output=f"{place.uri}/ds", input=f"{place.uri}/{images}"))
    assert place.names() == before


def test_a_vacuum_hours_later_removes_what_a_killed_run_put_and_nothing_else(place, monkeypatch):
    place.put("in/a.jpg", "in/b.jpg")
    output = f"{place.uri}/ds"
    ensure_plan(plan_config(output=output, input=f"{place.uri}/in"))
    take_over(output).commit([shard(output, [row(0)])])
    before = place.names("ds/masks")
    orphan = shard(output, [row(1)]).file.path
    assert vacuum(output, 1, {}) == Vacuumed(0, 0)
    monkeypatch.setattr(unused_files, "time", SimpleNamespace(time=lambda: time.time() + 7200))
    place.put(f"ds/masks/part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a001-{64 * 'a'}.parquet")
    assert vacuum(output, 1, {}) == Vacuumed(1, 1)
    left = place.names("ds/masks")
    assert f"ds/masks/{orphan}" not in left
    assert set(before) <= set(left)


@pytest.mark.parametrize("images", ["ds", "ds/images/sub", "ds/masks/*.jpg"])
def test_an_output_among_the_images_is_refused_before_anything_is_written(place, images):
    place.put("ds/a.jpg")
    before = place.names()
    with pytest.raises(ConfigError, match="use another output"):
        ensure_plan(plan_config(output=f"{place.uri}/ds", input=f"{place.uri}/{images}"))
    assert place.names() == before


@pytest.mark.parametrize("images", ["ds", "ds/**/*.jpg", "", "ds/*/*.jpg"])
def test_the_tables_of_an_output_below_the_input_are_left_out_of_it(place, images):
    place.put("ds/photos/a.jpg", "ds/run/photos/b.jpg")
    config = plan_config(output=f"{place.uri}/ds/run", input=f"{place.uri}/{images}".rstrip("/"))
    ensure_plan(config)
    expected = ["ds/photos/a.jpg"] + (["ds/run/photos/b.jpg"] if images != "ds/*/*.jpg" else [])
    assert planned_names(place, "ds/run") == expected
    place.put("ds/photos/c.jpg", "ds/run/images/x.jpg", "ds/run/images/sub/y.jpg")
    ensure_plan(plan_config(output=config.output, input=config.images.input, extend=True))
    assert planned_names(place, "ds/run") == [*expected, "ds/photos/c.jpg"]
    place.put("ds/run/masks/z.jpg")
    with pytest.raises(OutputError, match="masks holds"):
        ensure_plan(plan_config(output=config.output, input=config.images.input, extend=True))


def test_own_shards_are_no_parquet_files_of_the_input(place):
    filesystem, root = fsspec.core.url_to_fs(place.uri)
    filesystem.makedirs(f"{root}/ds", exist_ok=True)
    place.put("ds/a.jpg", "ds/b.jpg")
    for name in ("a", "b"):
        with filesystem.open(f"{root}/ds/{name}.parquet", "wb") as file:
            pq.write_table(pa.table({"uri": [f"{name}.jpg"]}), file)
        config = plan_config(
            output=f"{place.uri}/ds/run", input=f"{place.uri}/ds/**/*.parquet", input_format="manifest"
        )
        plan = ensure_plan(replace(config, extend=name == "b"))
    assert plan.num_images == 2


def test_photographs_beside_our_tables_survive_a_vacuum_and_are_counted(place):
    place.put("in/a.jpg")
    ensure_plan(plan_config(output=f"{place.uri}/ds", input=f"{place.uri}/in"))
    output = f"{place.uri}/ds"
    take_over(output).commit([shard(output, [row(0)])])
    photographs = [f"ds/{table}/{name}" for table in TABLES for name in ("a.jpg", "sub/b.jpg")]
    place.put(*photographs)
    assert vacuum(output, 1, {}) == Vacuumed(0, 4)  # there is no table of prompts
    assert [place.read(path) for path in photographs] == [BEGINS_AS_JPEG + path.encode() for path in photographs]


NAMES = st.sampled_from(
    [
        "a.jpg",
        "b.png",
        ".DS_Store",
        "_SUCCESS",
        "data.parquet",
        "part-0.parquet",
        "part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a001.parquet",
        f"part-7d0c19a4-6a1c-4b3e-9e0a-7d6fb1b0a001-{64 * 'a'}.parquet",
        "Größe 100%.jpg",
        "a b#c?.jpg",
        "00000000000000000000.json",
        "_last_checkpoint",
    ]
)
HARMLESS_FOLDERS = st.sampled_from(["", "sub", "masks/.hidden", "images/.hidden", "run"])
FOLDERS = HARMLESS_FOLDERS | st.sampled_from(
    [*TABLES, *TABLES, "images/sub", "masks/_delta_log", "images/_delta_log", "run/images"]
)
BEFOREHAND = st.sets(st.tuples(HARMLESS_FOLDERS, NAMES), max_size=4) | st.sets(st.tuples(FOLDERS, NAMES), max_size=4)
MEANWHILE = st.sets(st.tuples(FOLDERS, NAMES), max_size=6)
COMMANDS = st.lists(
    st.sampled_from(
        ["plan", "annotate", "orphan", "extend", "retry", "damaged", "vacuum", "vacuum", "verify", "status", "copy"]
    ),
    min_size=2,
    max_size=8,
)
INPUTS = st.sampled_from(["in", "in", "in", "in", "ds", "", "ds/images", "ds/*.jpg", "ds/**/*.png"])
OUTPUTS = st.sampled_from(["ds", "ds", "ds/run"])


class World:
    """A folder with an input, an output, and files of others; all of it is hours old."""

    def __init__(self, root, images, output):
        self.root, self.output = Path(root), str(Path(root, output))
        self.input = str(Path(root, images))
        self.foreign = {}

    def keep(self, path, content):
        path = self.root / path
        if path.exists() or any(parent.is_file() for parent in path.parents):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.foreign[path] = content

    def do(self, command):
        for path in self.root.rglob("*"):
            os.utime(path, (time.time() - 3 * 3600,) * 2)
        with contextlib.suppress(SamPipelineError):  # refused
            getattr(self, command)()
        changed = [path for path, content in self.foreign.items() if not path.exists() or path.read_bytes() != content]
        assert not changed, f"{command} changed {changed}"

    def plan(self):
        ensure_plan(plan_config(output=self.output, input=self.input))

    def extend(self):
        ensure_plan(plan_config(output=self.output, input=self.input, extend=True, redo_changed=True))

    def annotate(self):
        """As the command does, without a network."""
        plan = ensure_plan(plan_config(output=self.output, input=self.input))
        table = take_over(self.output)
        for image_id in np.flatnonzero(~table.committed_ids(plan.num_images)).tolist():
            table.commit([shard(self.output, [row(image_id)])])
        table.compact()

    def orphan(self):
        """A start that is killed before it commits."""
        if read_plan(self.output, {}) is not None:
            take_over(self.output)
            shard(self.output, [row(0)])

    def copy(self):
        """Somebody keeps copies of shards."""
        for path in sorted(Path(self.output, "masks").glob("part-*.parquet"))[:1]:
            for name in ("part-copy.parquet", f"backup/{path.name}", f"{path.name}.bak"):
                self.keep(path.parent / name, path.read_bytes())

    def retry(self):
        cli.retry(self.output, ("ok",))

    def damaged(self):
        shards = sorted(Path(self.output, "masks").glob("part-*.parquet"))
        for path in [path for path in shards if path not in self.foreign][:1]:
            path.write_bytes(b"damaged")
        cli.retry(self.output, damaged=True)

    def vacuum(self):
        cli.vacuum(self.output, 1)

    def verify(self):
        cli.verify(self.output)

    def status(self):
        cli.status(self.output)


def check_that_nothing_of_others_is_changed(num_examples):
    @seed(1)
    @settings(max_examples=num_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(INPUTS, OUTPUTS, BEFOREHAND, COMMANDS, MEANWHILE, COMMANDS)
    def check(images, output, beforehand, commands, meanwhile, more_commands):
        content = random.Random(0)
        with tempfile.TemporaryDirectory() as root:
            world = World(root, images, output)
            for name in ("in/a.jpg", "in/b.jpg"):
                world.keep(name, BEGINS_AS_JPEG + name.encode())
            for files, then in ((beforehand, commands), (meanwhile, more_commands)):
                for folder, name in sorted(files):
                    world.keep(Path("ds", folder, name), BEGINS_AS_JPEG + content.randbytes(9))
                for command in ("annotate", *then):
                    world.do(command)

    check()


@pytest.fixture
def _long_ago(monkeypatch):
    """Whatever is replaced was replaced hours ago, so that a vacuum may delete it."""
    monkeypatch.setattr(fenced_table, "time", SimpleNamespace(time=lambda: time.time() - 3 * 3600))


@pytest.mark.usefixtures("_long_ago")
@pytest.mark.parametrize("num_examples", [60, pytest.param(1500, marks=pytest.mark.soak)])
def test_whatever_stands_in_and_around_an_output_stays_byte_for_byte(num_examples):
    check_that_nothing_of_others_is_changed(num_examples)
