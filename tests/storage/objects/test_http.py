import gzip
import http.server
import threading

import aiohttp
import pytest
from fsspec.asyn import sync

from sam_pipeline.errors import ConfigError, InternalAddressError
from sam_pipeline.safety import guarded_http
from sam_pipeline.storage.objects.filesystem import absolute_uri, open_filesystem
from sam_pipeline.storage.objects.http import HttpImages
from sam_pipeline.storage.objects.retrying import ErrorKind, error_kind, http_status
from tests.http_servers import serving

CONTENT = bytes(range(256)) * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        getattr(self, f"answer_{self.path.strip('/').split('/')[0]}")()
        self.close_connection = True

    def send(self, status, body, *headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def answer_ranges(self):
        wanted = self.headers.get("Range")
        if wanted is None:
            return self.send(200, CONTENT)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        return self.send(206, CONTENT[int(first) : int(last) + 1 if last else None])

    def answer_whole(self):
        self.send(200, CONTENT)

    def answer_empty(self):
        self.send(416 if "Range" in self.headers else 200, b"")

    def answer_unsized(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT)

    def answer_endless(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(CONTENT)
        except OSError:
            self.server.hung_up.set()

    def answer_cut(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half")

    def answer_zipped(self):
        self.send(200, gzip.compress(CONTENT), ("Content-Encoding", "gzip"))

    def answer_gone(self):
        self.send(410, b"")

    def answer_missing(self):
        self.send(404, b"")

    def answer_denied(self):
        self.send(403, b"")

    def answer_broken(self):
        self.send(503, b"")

    def answer_redirect(self):
        self.send(302, b"", ("Location", self.server.location))


@pytest.fixture
def server():
    with serving(Handler) as server:
        server.requests, server.location, server.hung_up = [], "", threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server


@pytest.fixture
def far_away(server, monkeypatch):
    """The server, whose address counts as one on the internet."""
    guarded = guarded_http.is_internal_address
    monkeypatch.setattr(
        guarded_http, "is_internal_address", lambda address: address != "127.0.0.1" and guarded(address)
    )
    return server


def read(url, start=None, end=None):
    filesystem, path = open_filesystem(url, {})
    (answer,) = filesystem.cat_ranges([path], [start], [end], on_error="return")
    if isinstance(answer, Exception):
        raise answer
    return answer


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0x7f000001", "0.0.0.0"])
def test_internal_addresses_are_refused(server, host):
    with pytest.raises(InternalAddressError, match="internal addresses"):
        read(f"http://{host}:{server.server_port}/whole")
    assert server.requests == []


def test_an_internal_address_is_the_answer_of_its_image_alone(far_away):
    filesystem, first = open_filesystem(f"{far_away.url}/whole", {})
    bad = "http://127.0.0.2:1/whole"
    good, refused = filesystem.cat_ranges([first, bad], [None, None], [None, None], on_error="return")
    assert good == CONTENT
    assert isinstance(refused, InternalAddressError)
    assert error_kind(refused) is ErrorKind.FINAL


@pytest.mark.parametrize("location", ["http://127.0.0.2:1/a", "http://[::1]/", "http://169.254.169.254/latest/"])
def test_a_redirect_does_not_lead_to_an_internal_address(far_away, location):
    far_away.location = location
    with pytest.raises(InternalAddressError, match="internal addresses"):
        read(f"{far_away.url}/redirect")


def test_a_redirect_elsewhere_is_followed(far_away):
    far_away.location = "/whole"
    assert read(f"{far_away.url}/redirect") == CONTENT


@pytest.mark.parametrize("kind", ["ranges", "whole", "unsized"])
def test_a_file_is_read_whole_and_in_ranges_from_every_kind_of_server(far_away, kind):
    url = f"{far_away.url}/{kind}/a%20b.jpg"
    assert read(url) == CONTENT
    assert read(url, 0, 10) == CONTENT[:10]
    assert read(url, 100_000, 170_000) == CONTENT[100_000:170_000]
    assert read(url, 255_990) == CONTENT[255_990:]
    assert read(url, 0, len(CONTENT) + 1) == CONTENT
    assert read(url, 5, 5) == b""
    ranges = [headers.get("Range") for _, headers in far_away.requests]
    assert ranges == [None, "bytes=0-9", "bytes=100000-169999", "bytes=255990-", "bytes=0-256000"]


def test_of_a_body_without_end_only_the_range_is_read(far_away):
    assert read(f"{far_away.url}/endless", 0, 300_000) == (CONTENT * 2)[:300_000]
    assert far_away.hung_up.wait(10)


@pytest.mark.parametrize("end", [None, 100])
def test_an_empty_file_has_no_bytes(far_away, end):
    assert read(f"{far_away.url}/empty", None if end is None else 0, end) == b""


def test_what_was_compressed_on_the_way_is_counted_as_what_it_is(far_away):
    assert read(f"{far_away.url}/zipped") == CONTENT
    assert far_away.requests[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("kind", ["missing", "gone"])
def test_what_is_not_there_is_a_file_not_found(far_away, kind):
    with pytest.raises(FileNotFoundError, match=kind):
        read(f"{far_away.url}/{kind}")


@pytest.mark.parametrize(
    ("kind", "sorted_as", "status"),
    [("denied", ErrorKind.DENIED, 403), ("broken", ErrorKind.TRANSIENT, 503), ("cut", ErrorKind.TRANSIENT, None)],
)
def test_other_errors_are_sorted_as_those_of_storage(far_away, kind, sorted_as, status):
    with pytest.raises(Exception) as caught:  # noqa: PT011  sorted below
        read(f"{far_away.url}/{kind}")
    assert error_kind(caught.value) is sorted_as
    assert http_status(caught.value) == status


def test_silent_servers_are_left_after_seconds_and_no_cookies_are_kept():
    filesystem = HttpImages()
    session = sync(filesystem.loop, filesystem.set_session)
    timeout = session.timeout
    assert (timeout.sock_connect, timeout.sock_read, timeout.total) == (5, 20, 300)
    assert isinstance(session.cookie_jar, aiohttp.DummyCookieJar)


def test_options_of_the_storage_are_not_sent_to_strangers(far_away):
    filesystem, path = open_filesystem(f"{far_away.url}/whole", {"headers": {"Authorization": "secret"}, "key": "a"})
    assert filesystem.cat_file(path) == CONTENT
    assert all("secret" not in headers.values() for _, headers in far_away.requests)


def test_inputs_and_outputs_are_not_of_http():
    for uri in ("http://host/images", "https://host/run"):
        with pytest.raises(ConfigError, match=r"cannot open 'https?' URIs"):
            absolute_uri(uri)


def test_a_url_is_its_own_path():
    filesystem, path = open_filesystem("https://host/a#b%20c.jpg", {})
    assert path == filesystem.unstrip_protocol(path) == "https://host/a#b%20c.jpg"
