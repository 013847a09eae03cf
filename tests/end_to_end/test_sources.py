"""Every kind of input by the real command, on disk and on S3: its masks are those of the same photographs as files.

One cluster serves all runs. A row of Parquet and a member of an archive are read in `make test`, all kinds in both
places by `make long`. What all are compared with is a folder on disk: the run of test_local_run.py, which is compared
with the bare generator there.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from deltalake import DeltaTable

from tests.clusters import ray_head
from tests.end_to_end.pictures import save_photos
from tests.end_to_end.settings import SETTINGS, SMALL_SHARDS
from tests.end_to_end.sources import NAMES, NUM_IMAGES, SOURCES, png_files
from tests.end_to_end.tables import read_rows
from tests.s3_server import S3Server

pytestmark = [pytest.mark.weights, pytest.mark.s3, pytest.mark.slow]

PLACES = ("disk", "S3")

IN_CI = {("tar", "S3")}
"""Beside it a CSV file on S3 that has bad names, below; prefixes are in every other test of the pipeline."""


def cases():
    for kind, place in itertools.product(SOURCES, PLACES):
        if (kind, place) != ("prefix", "disk"):
            marks = [] if (kind, place) in IN_CI else [pytest.mark.soak]
            yield pytest.param(kind, place, marks=marks, id=f"{kind} on {place}")


@dataclass(frozen=True)
class Place:
    """A folder to be filled, and where a run then finds it."""

    folder: Path
    where: str
    """URI of the folder, once it is uploaded."""
    output: str
    s3: S3Server | None = None

    @property
    def options(self) -> dict[str, str] | None:
        """For deltalake."""
        return None if self.s3 is None else self.s3.storage_options

    def upload(self) -> None:
        """Put what is in the folder where it is to be found."""
        if self.s3 is not None:
            bucket, _, prefix = self.where.removeprefix("s3://").partition("/")
            for path in self.folder.rglob("*"):
                if path.is_file():
                    self.s3.put(bucket, f"{prefix}/{path.relative_to(self.folder)}", path.read_bytes())


@pytest.fixture
def place_called(s3, tmp_path):
    """A folder on disk, or one that becomes a prefix of a new bucket."""

    def place_called(name):
        folder = tmp_path / "in"
        folder.mkdir()
        if name == "disk":
            return Place(folder, f"file://{folder}", str(tmp_path / "out"))
        bucket = s3.create_bucket()
        return Place(folder, f"s3://{bucket}/in", f"s3://{bucket}/out", s3)

    return place_called


@pytest.fixture(scope="module")
def env(base_env, s3):
    return base_env | s3.env


@pytest.fixture(scope="module")
def annotate(env, start):
    """Run the command on a cluster of two CPUs that outlives the runs; returns what it said."""
    with ray_head(start, env, num_cpus=2, object_store_bytes=2**29) as head:

        def run(source, output, *flags):
            arguments = ("--input", source, "--output", output, *SETTINGS, *SMALL_SHARDS, *flags)
            finished = start("annotate", *arguments, env=env | {"RAY_ADDRESS": head.address}).wait()
            assert finished.exit_code == 0, finished.stderr
            assert "Traceback" not in finished.stderr
            return finished

        yield run


def result(row):
    """What was computed for an image, whatever it is called and with whatever it is kept."""
    return {name: value for name, value in row.items() if name not in ("image_id", "uri", "extra")}


@pytest.mark.parametrize(("kind", "place"), list(cases()))
def test_every_kind_of_input_gives_the_masks_of_plain_files(annotate, place_called, undisturbed, kind, place):
    source, place = SOURCES[kind], place_called(place)
    source.make(place.folder, place.where)
    place.upload()
    flags = [flag.format(where=place.where) for flag in source.flags]
    annotate(f"{place.where}/{source.input}", place.output, *flags)

    rows = read_rows(place.output, place.options)
    assert [row["image_id"] for row in rows] == list(range(len(source.uris)))
    assert [row["uri"] for row in rows] == [f"{place.where}/{name}" for name in source.uris]
    kept = [None if row["extra"] is None else json.loads(row["extra"]) for row in rows]
    assert kept == list(source.extra)
    plain = undisturbed.rows[:NUM_IMAGES]
    assert all(row["masks"] for row in plain), "without masks the comparison says nothing"
    assert [result(row) for row in rows] == [result(plain[index]) for index in source.uris.values()]


def test_a_list_of_good_and_bad_names_ends_as_rows_that_say_what_is_wrong(
    annotate, place_called, undisturbed, start, env, tmp_path
):
    place = place_called("S3")
    for name in NAMES:
        (place.folder / name).write_bytes(png_files()[name])
    (place.folder / "text.png").write_text("<html>404 Not Found</html>")
    mine = save_photos(tmp_path / "mine", 1) / NAMES[0]  # of whoever runs the pipeline; the list is another's
    names = [
        (NAMES[0], "ok", None),
        (f"file://{mine}", "fetch_error", "must not name files of it"),
        ("file:///etc/passwd", "fetch_error", "must not name files of it"),
        ("/etc/passwd", "fetch_error", "must not name files of it"),
        ("../../etc/passwd", "fetch_error", "must not hold `..`"),
        ("http://127.0.0.1:9/a.png", "fetch_error", "--allow-http"),
        ("", "fetch_error", "null, empty or not text"),
        ("gone.png", "fetch_error", "FileNotFoundError"),
        ("text.png", "decode_error", ""),
        (NAMES[1], "ok", None),
    ]
    lines = ["uri,number", *(f'"{name}",{number}' for number, (name, _, _) in enumerate(names))]
    (place.folder / "list.csv").write_text("\n".join(lines) + "\n")
    place.upload()
    finished = annotate(f"{place.where}/list.csv", place.output, "--input-column", "uri", "--keep", "number")

    assert f"images         {len(names)} (" in finished.stdout
    rows = sorted(read_rows(place.output, place.options), key=lambda row: int(json.loads(row["extra"])["number"]))
    assert len(rows) == len(names)
    for number, (row, (name, status, clue)) in enumerate(zip(rows, names, strict=True)):
        assert row["status"] == status, row["error"]
        is_refused = status == "fetch_error" and name != "gone.png"
        assert row["uri"] == f"{place.where}/" + (f"list.csv#row-{number}" if is_refused else name)
        if clue is None:
            assert result(row) == result(undisturbed.rows[NAMES.index(name)])
        else:
            assert clue in row["error"]
            assert "\n" not in row["error"]
            assert (row["masks"], row["height"]) == ([], None)
    planned = DeltaTable(f"{place.output}/images", storage_options=place.options).to_pyarrow_table().to_pylist()
    everything = str(rows) + str(planned)
    assert not [line for line in Path("/etc/passwd").read_text().splitlines() if line in everything]
    assert "passwd" not in everything, "a name that is not followed is not stored either"
    verified = start("verify", place.output, env=env).wait()
    assert verified.exit_code == 0, verified.stderr
