"""One place that turns a URI and `--storage-options` into an fsspec filesystem and into delta-rs options.

Credentials come from the environment, a profile or an instance role, never from options: options end up in job
specifications, process lists and the run's stored configuration.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import fsspec

from sam_pipeline.errors import ConfigError

StorageOptions = Mapping[str, Any]


def protocol_of(uri: str) -> str:
    """The URI's scheme; "file" for a plain path."""
    return uri.split("://", 1)[0].lower() if "://" in uri else "file"


def open_filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """Return (fsspec filesystem, path inside it). Options apply to remote filesystems only.

    Raises:
        ConfigError: unknown scheme, chained URI (`::`), or a scheme whose fsspec driver is not installed.
    """
    protocol = protocol_of(uri)
    if "::" in protocol:
        raise ConfigError(f"chained URIs are not supported: {uri!r}")
    try:
        # Not fsspec.core.url_to_fs: it would take a "::" in the name of a file for a chain.
        driver = fsspec.get_filesystem_class(protocol)
        remote_options = {} if protocol == "file" else {**driver._get_kwargs_from_urls(uri), **options}
        return driver(**remote_options), driver._strip_protocol(uri)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise ConfigError(f"cannot open {uri!r}: {one_line(error)}") from error


def join_uri(uri: str, *names: str) -> str:
    """Append path components to a URI or a local path."""
    return "/".join([uri.rstrip("/"), *names])


def absolute_uri(uri: str) -> str:
    """Make a local path absolute, so that workers with another working directory reach the same files.

    A slash at the end is dropped everywhere, so that a folder has one name.
    """
    if protocol_of(uri) == "file":
        return os.path.abspath(uri.removeprefix("file://"))
    return uri if uri.endswith("://") else uri.rstrip("/")


def delta_storage_options(uri: str, options: StorageOptions) -> dict[str, str]:
    """Translate s3fs options into those of delta-rs; both read credentials and AWS_* variables by themselves.

    Returns:
        Options for `deltalake`; empty for local paths and for stores configured by their environment alone.
    """
    if protocol_of(uri) not in ("s3", "s3a"):
        return {}
    client = options.get("client_kwargs") or {}
    endpoint = (
        options.get("endpoint_url")
        or client.get("endpoint_url")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = client.get("region_name") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    translated = {}
    if endpoint:
        translated["AWS_ENDPOINT_URL"] = endpoint
        # delta-rs refuses plain http unless told; the user chose it by giving an http endpoint.
        translated["AWS_ALLOW_HTTP"] = str(urlsplit(endpoint).scheme == "http").lower()
    if region:
        translated["AWS_REGION"] = region
    if options.get("anon"):
        translated["AWS_SKIP_SIGNATURE"] = "true"
    return translated


def one_line(error: BaseException) -> str:
    """The error's first line without what may hold credentials: query strings and user names of URLs.

    Control characters, which names of files may hold, are replaced; the line is cut after 300 characters.
    """
    text = str(error).strip().splitlines()
    line = text[0] if text else type(error).__name__
    if "://" in line:
        # To the end of the word, wherever it begins: a URL's path may hold spaces.
        line = re.sub(r"\?\S*", "", re.sub(r"://[^/\s@]*@", "://", line))
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in line)[:300]
