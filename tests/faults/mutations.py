"""Break the commit protocol on purpose, in a copy of the tree; each break must turn its tests red.

python -m tests.faults.mutations
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

# All examples: of some breaks only one in hundreds tells.
TESTS = ("-x", "-q", "-p", "no:cacheprovider", "-m", "soak or not soak", "tests/storage/test_commit_protocol.py")

FENCED, TABLE = "sam_pipeline/storage/tables/fenced_table.py", "sam_pipeline/storage/tables/results.py"

BREAKS = {
    "commit before the PUT": [
        (FENCED, "retried(lambda: filesystem.pipe_file(path, content)", "retried(lambda: None"),
    ],
    "no fence": [
        (FENCED, "app_transactions=[Transaction(APP_ID, epoch)]", 'app_transactions=[Transaction(f"{epoch}", epoch)]'),
        (FENCED, "if self.committed_epoch() != epoch:", "if False:"),
    ],
    "reload and retry after a fence": [
        (
            FENCED,
            "raise _fenced(uri) from error",
            "table.update_incremental()\n                    return write(properties)",
        ),
    ],
    "resume without the filter": [
        (TABLE, "done[ids[ids < num_images]] = True", "pass"),
    ],
    "a shard's name without a uuid": [
        (
            FENCED,
            'f"part-{uuid.uuid4()}-{hashlib.sha256(content).hexdigest()}.parquet"',
            "f\"part-{rows['image_id'][0].as_py()}.parquet\"",
        ),
    ],
}


def main() -> None:
    """Try every break; exit 1 if one goes unnoticed, or if the tests are red without any."""
    verdicts = {"none": _verdict([])} | {name: _verdict(changes) for name, changes in BREAKS.items()}
    if verdicts.pop("none") != "green" or "green" in verdicts.values():
        sys.exit("a break went unnoticed, or the tests were red without one")


def _verdict(changes: list[tuple[str, str, str]]) -> str:
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        for name in ("sam_pipeline", "tests", "pyproject.toml"):
            source, target = ROOT / name, Path(folder) / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
        for name, old, new in changes:
            path = Path(folder) / name
            text = path.read_text()
            if text.count(old) != 1:
                sys.exit(f"{name} holds {text.count(old)} times: {old}")
            path.write_text(text.replace(old, new))
        env = os.environ | {"PYTHONPATH": folder}
        done = subprocess.run([sys.executable, "-m", "pytest", *TESTS], cwd=folder, env=env, capture_output=True)
    verdict = {0: "green", 1: "red"}.get(done.returncode, f"exit {done.returncode}")
    print(f"{verdict:6} {time.monotonic() - start:6.1f} s  {changes or 'unchanged'}", flush=True)
    if verdict.startswith("exit"):
        sys.exit(done.stdout.decode() + done.stderr.decode())
    return verdict


if __name__ == "__main__":
    main()
