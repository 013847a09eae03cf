import hashlib
import http.server
import os
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from sam_pipeline.errors import CheckpointError, ConfigError
from sam_pipeline.model import checkpoints
from sam_pipeline.model.checkpoints import (
    LOCKS,
    OFFICIAL_CHECKPOINTS,
    OfficialCheckpoint,
    canonical_model_type,
    checkpoint_status,
    fetch_checkpoint,
    resolve_checkpoint,
    sha256_of,
    verify_checkpoint,
)
from sam_pipeline.safety import guarded_http
from tests.http_servers import serving

ROOT = Path(__file__).parents[2]
CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FakeSource:
    """A source without a network: gives bytes, or raises."""

    def __init__(self, result, url="fake://source"):
        self.result = result
        self.url = url
        self.calls = 0

    def downloader(self, progress):
        def fill(url, output_file, pooch):
            self.calls += 1
            if isinstance(self.result, Exception):
                raise self.result
            with open(output_file, "wb") as file:
                file.write(self.result)

        return fill


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAM_PIPELINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def sources(monkeypatch):
    """Replaces the sources of vit_b, whose file becomes CONTENT."""

    def replace(*sources):
        official = OfficialCheckpoint("vit_b", "sam_vit_b_01ec64.pth", SHA256, sources)
        monkeypatch.setitem(OFFICIAL_CHECKPOINTS, "vit_b", official)

    return replace


def files_in(folder):
    return [path for path in folder.iterdir() if path.name != LOCKS]


def test_default_is_vit_h():
    assert canonical_model_type("default") == "vit_h"
    assert canonical_model_type("vit_t") == "vit_t"


@pytest.mark.parametrize(
    "call", [canonical_model_type, fetch_checkpoint, lambda name: resolve_checkpoint(name, "x.pth")]
)
def test_unknown_model_type_names_the_known_ones(call):
    with pytest.raises(ConfigError, match=r"default, vit_h, vit_l, vit_b, vit_t, got 'vit_x'"):
        call("vit_x")


def test_fetch_downloads_once(sources, cache):
    source = FakeSource(CONTENT)
    sources(source)
    path = fetch_checkpoint("vit_b")
    assert path == cache / "sam_vit_b_01ec64.pth"
    assert path.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o044, "other users of a shared cache must be able to read it"
    assert fetch_checkpoint("vit_b") == path
    assert source.calls == 1
    assert files_in(cache) == [path]


def test_many_at_once_fetch_once(sources):
    """As the actors of a machine do; a lock between processes holds between threads too."""
    source = FakeSource(CONTENT)
    fill = source.downloader(False)
    source.downloader = lambda progress: lambda *arguments: (time.sleep(0.3), fill(*arguments))
    sources(source)
    with ThreadPoolExecutor(8) as pool:
        (path,) = set(pool.map(lambda _: fetch_checkpoint("vit_b"), range(8)))
    assert (path.read_bytes(), source.calls) == (CONTENT, 1)


def test_processes_at_once_fetch_once(tmp_path):
    """A process that finds another fetching waits, and then takes what is there."""
    log = tmp_path / "log"
    program = f"""
import time
from sam_pipeline.model import checkpoints
from tests.model.test_checkpoints import CONTENT, SHA256, FakeSource
class Slow(FakeSource):
    def downloader(self, progress):
        with open({str(log)!r}, "a") as file:
            file.write("fetched\\n")
        time.sleep(1)
        return super().downloader(progress)
official = checkpoints.OfficialCheckpoint("vit_b", "sam_vit_b_01ec64.pth", SHA256, (Slow(CONTENT),))
checkpoints.OFFICIAL_CHECKPOINTS["vit_b"] = official
assert checkpoints.fetch_checkpoint("vit_b").read_bytes() == CONTENT
"""
    processes = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert log.read_text().splitlines() == ["fetched"]


def test_fetch_tries_sources_in_order(sources):
    broken, good, unused = FakeSource(OSError("down")), FakeSource(CONTENT), FakeSource(CONTENT)
    sources(broken, good, unused)
    assert fetch_checkpoint("vit_b").read_bytes() == CONTENT
    assert (broken.calls, good.calls, unused.calls) == (1, 1, 0)


def test_download_with_a_wrong_sum_is_deleted_and_reported(sources, cache):
    sources(FakeSource(b"something else"))
    with pytest.raises(CheckpointError, match="does not match the known hash"):
        fetch_checkpoint("vit_b")
    assert files_in(cache) == []


def test_cached_file_with_a_wrong_sum_is_replaced_and_reported(sources, cache, caplog):
    sources(FakeSource(CONTENT))
    cache.mkdir()
    (cache / "sam_vit_b_01ec64.pth").write_bytes(b"rotten")
    assert fetch_checkpoint("vit_b").read_bytes() == CONTENT
    assert f"does not have the SHA-256 {SHA256}: deleted" in caplog.text


def test_no_source_says_what_to_put_where(sources, cache):
    sources(FakeSource(OSError("no route"), url="first://"), FakeSource(CheckpointError("no pip"), url="second://"))
    with pytest.raises(CheckpointError) as caught:
        fetch_checkpoint("vit_b")
    message = str(caught.value)
    for part in (str(cache / "sam_vit_b_01ec64.pth"), SHA256, "first://: no route", "second://: no pip"):
        assert part in message
    assert "\n" not in message


def test_resolve_without_a_checkpoint_fetches(sources):
    sources(FakeSource(CONTENT))
    assert resolve_checkpoint("vit_b", None) == fetch_checkpoint("vit_b")


def test_resolve_local_paths(tmp_path, monkeypatch):
    (tmp_path / "own.pth").write_bytes(CONTENT)
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("vit_b", str(tmp_path / "own.pth")) == tmp_path / "own.pth"
    assert resolve_checkpoint("vit_b", "own.pth") == tmp_path / "own.pth"
    assert resolve_checkpoint("vit_b", f"file://{tmp_path}/own.pth") == tmp_path / "own.pth"


def test_resolve_huggingface_folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(CONTENT)
    assert resolve_checkpoint("vit_b", str(tmp_path)) == tmp_path / "model.safetensors"


def test_resolve_uri_downloads_into_the_cache_until_it_changes(cache):
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/own.pth", CONTENT)
    path = resolve_checkpoint("vit_b", "memory://bucket/own.pth")
    assert path.read_bytes() == CONTENT
    assert cache in path.parents
    assert path.suffix == ".pth"
    assert resolve_checkpoint("vit_b", "memory://bucket/own.pth") == path
    memory.pipe("/bucket/own.pth", b"newer weights")
    assert resolve_checkpoint("vit_b", "memory://bucket/own.pth").read_bytes() == b"newer weights"


@pytest.mark.parametrize("checkpoint", ["absent.pth", "memory://bucket/absent.pth"])
def test_resolve_missing(checkpoint):
    with pytest.raises(CheckpointError, match=f"checkpoint not found: {checkpoint}"):
        resolve_checkpoint("vit_b", checkpoint)


def test_resolve_unknown_protocol():
    with pytest.raises(ConfigError, match=r"cannot open 'nosuch' URIs: .* http, https"):
        resolve_checkpoint("vit_b", "nosuch://x.pth")


@pytest.mark.parametrize(
    "checkpoint",
    ["https://h/own.pth?X-Amz-Signature=canary", "https://user:canary@h/own.pth", "s3://key:canary@bucket/own.pth"],
)
def test_resolve_refuses_credentials_without_showing_them(checkpoint):
    with pytest.raises(ConfigError, match="must not") as caught:
        resolve_checkpoint("vit_b", checkpoint)
    assert "canary" not in str(caught.value)


def test_resolve_takes_colons_in_a_name_for_no_chain(tmp_path):
    (tmp_path / "a::b.pth").write_bytes(CONTENT)
    assert resolve_checkpoint("vit_b", str(tmp_path / "a::b.pth")).read_bytes() == CONTENT
    with pytest.raises(CheckpointError, match="not found"):
        resolve_checkpoint("vit_b", f"memory://bucket/a::file://{tmp_path}/a::b.pth")


@pytest.fixture
def open_umask():
    """The umask of a system that lets everybody write everything, which is left to no file of ours."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_only_the_owner_writes_in_the_cache_whatever_the_umask(sources, cache):
    sources(FakeSource(CONTENT))
    fsspec.filesystem("memory").pipe("/bucket/own.pth", CONTENT)
    paths = [fetch_checkpoint("vit_b"), resolve_checkpoint("vit_b", "memory://bucket/own.pth")]
    for path in [*paths, cache, cache / "remote"]:
        assert path.stat().st_mode & 0o022 == 0, path
        assert path.stat().st_mode & 0o444 == 0o444, path


@pytest.mark.usefixtures("open_umask")
def test_nobody_else_reads_or_writes_a_download_before_it_is_verified(sources, cache):
    class Watched(FakeSource):
        def downloader(self, progress):
            fill = super().downloader(progress)

            def watched(url, output_file, pooch):
                fill(url, output_file, pooch)
                seen.append(Path(output_file))
                assert seen[-1].stat().st_mode & 0o077 == 0

            return watched

    seen = []
    sources(Watched(CONTENT))
    fetch_checkpoint("vit_b")
    fetch_checkpoint("vit_b")
    (temporary,) = seen
    assert temporary.parent == cache
    assert temporary.name != "sam_vit_b_01ec64.pth"


@pytest.fixture
def redirect(monkeypatch):
    """A server on loopback, which counts here as far away, that redirects to the address it is given."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302 if self.path.startswith("/to") else 200)
            self.send_header("Location", self.server.location)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(CONTENT)

        do_HEAD = do_GET  # noqa: N815  http.server's name

    with serving(Handler) as server:
        guarded = guarded_http.is_internal_address
        monkeypatch.setattr(
            guarded_http, "is_internal_address", lambda address: address != "127.0.0.1" and guarded(address)
        )

        def redirecting(location):
            server.location = location
            return f"http://127.0.0.1:{server.server_port}/to/own-{uuid.uuid4()}.pth"

        yield redirecting


def test_http_checkpoints_are_fetched_also_by_a_redirect(redirect):
    assert resolve_checkpoint("vit_b", redirect("/own.pth")).read_bytes() == CONTENT


def test_one_checkpoint_is_fetched_many_times_at_once(redirect):
    uri = redirect("/own.pth")  # not of memory://, whose files are shared by their readers
    with ThreadPoolExecutor(8) as pool:
        (path,) = set(pool.map(lambda _: resolve_checkpoint("vit_b", uri), range(16)))
    assert path.read_bytes() == CONTENT
    assert files_in(path.parent) == [path]


@pytest.mark.parametrize(
    "location", ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.2:1/", "http://[::1]/"]
)
def test_a_redirect_does_not_lead_to_an_internal_address(redirect, location):
    with pytest.raises(CheckpointError, match="internal addresses"):
        resolve_checkpoint("vit_b", redirect(location))


@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "0xA9FEA9FE", "[::ffff:169.254.169.254]", "[fe80::1]", "[fd00:ec2::254]"),
        *("localhost", "127.0.0.1", "0.0.0.0", "[::1]"),  # aiohttp takes 2852039166 and 127.1 for no host at all
    ],
)
def test_http_checkpoints_do_not_come_from_internal_addresses_however_they_are_spelt(host):
    with pytest.raises(CheckpointError, match="internal addresses"):
        resolve_checkpoint("vit_b", f"http://{host}/own.pth")


def test_verify(sources, cache, tmp_path):
    sources(FakeSource(CONTENT))
    with pytest.raises(CheckpointError, match="not found"):
        verify_checkpoint("vit_b")
    assert fetch_checkpoint("vit_b") == verify_checkpoint("vit_b")
    (cache / "sam_vit_b_01ec64.pth").write_bytes(b"rotten")
    with pytest.raises(CheckpointError, match=f"SHA-256 must be {SHA256}, got"):
        verify_checkpoint("vit_b")


def test_verify_goes_by_file_name(tmp_path):
    (tmp_path / "mobile_sam.pt").write_bytes(CONTENT)
    with pytest.raises(CheckpointError, match=f"must be {OFFICIAL_CHECKPOINTS['vit_t'].sha256}, got {SHA256}"):
        verify_checkpoint(tmp_path / "mobile_sam.pt")
    with pytest.raises(CheckpointError, match=r"own\.pth has no published SHA-256"):
        verify_checkpoint(tmp_path / "own.pth")


def test_status_lists_every_model(cache):
    cache.mkdir()
    (cache / "mobile_sam.pt").write_bytes(CONTENT)
    status = {line.model_type: line for line in checkpoint_status()}
    assert list(status) == ["vit_h", "vit_l", "vit_b", "vit_t"]
    assert status["vit_t"].cached
    assert not status["vit_h"].cached
    assert status["vit_h"].path == cache / "sam_vit_h_4b8939.pth"


def test_sha256_of(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert sha256_of(tmp_path / "file") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_cache_folder_defaults_to_the_users(monkeypatch):
    monkeypatch.delenv("SAM_PIPELINE_CACHE")
    assert checkpoints.cache_folder().name == "sam-pipeline"


def test_listing_weights_needs_neither_torch_nor_ray():
    code = "import sys, sam_pipeline.model.checkpoints; print('torch' in sys.modules, 'ray' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]


@pytest.mark.weights
def test_vit_t_is_the_published_file(vit_t_checkpoint):
    assert verify_checkpoint(vit_t_checkpoint) == vit_t_checkpoint
