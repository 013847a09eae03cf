"""A run with the fake engine over images on disk."""

import json
from dataclasses import asdict

from tests.end_to_end.tables import num_committed, read_rows
from tests.faults.conftest import ROOT, SMALL_SHARDS
from tests.faults.fake_engine import Instructions, image_file

NUM_IMAGES = 24
SLOW = Instructions(seconds=0.3)


class LocalRun:
    """A run over numbered images on disk, on a Ray of its own unless a test says where there is one."""

    def __init__(self, start, env, folder):
        self._start, self._env, self._folder = start, env | {"PYTHONPATH": str(ROOT)}, folder
        self.output = folder / "run"
        (folder / "images").mkdir()
        for number in range(NUM_IMAGES):
            (folder / "images" / f"{number:06}.png").write_bytes(image_file(number))

    def env(self, instructions):
        return self._env | {"FAKE_ENGINE": json.dumps(asdict(instructions))}

    def arguments(self):
        places = ("--input", self._folder / "images", "--output", self.output)
        options = ("--threads", 1, "--model-type", "vit_t", *SMALL_SHARDS)
        return ("-m", "tests.faults.fake_run", "annotate", *places, *options)

    def annotate(self, instructions=SLOW, *flags, address=None):
        env, where = self.env(instructions), ("--num-cpus", 2)
        if address is not None:
            env, where = env | {"RAY_ADDRESS": address}, ()
        return self._start(*self.arguments(), *where, *flags, script="python", env=env)

    def num_committed(self):
        return num_committed(str(self.output), {})

    def assert_completed_by_another_start(self):
        kept = self.num_committed()
        resumed = self.annotate(Instructions()).wait()
        assert resumed.exit_code == 0, resumed.stderr
        assert f"annotated now  {NUM_IMAGES - kept}\n" in resumed.stdout
        assert [row["image_id"] for row in read_rows(str(self.output), {})] == list(range(NUM_IMAGES))
        verified = self._start("verify", self.output).wait()
        assert verified.exit_code == 0, verified.stdout
