"""From a URI or a path to an fsspec filesystem; tables/delta_place.py does the same for delta-rs.

Inside the program a place on this machine is an absolute path, or ``file://`` with the path as it is: nothing is
percent-encoded, so that a stored name is read as it was written. absolute_uri makes that of what a user gives.

Credentials come from the environment, a profile or an instance role, never from options: options end up in job
specifications, process lists and the run's stored configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import fsspec

from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.clean_text import one_line
from sam_pipeline.safety.uri_rules import HTTP_SCHEMES, check_scheme, check_uri, local_path
from sam_pipeline.storage.objects.http import HttpImages
from sam_pipeline.storage.objects.local_files import LocalFiles

StorageOptions = Mapping[str, Any]

S3_SCHEMES = ("s3", "s3a")

# Stalls cost seconds. A read time-out is between two arrivals of data, so it does not limit the size of objects.
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 20


def protocol_of(uri: str) -> str:
    """The URI's scheme; "file" for a plain path."""
    return uri.split("://", 1)[0].lower() if "://" in uri else "file"


def open_filesystem(uri: str, storage_options: StorageOptions) -> tuple[Any, str]:
    """Return (fsspec filesystem, path inside it).

    Options apply to remote filesystems, but not to http, since they may hold what only the storage should see. Http is
    opened without a check: callers that do not want it refuse it by check_uri, as absolute_uri does.

    Raises:
        ConfigError: unknown scheme, chained URI (`::`), or a scheme whose fsspec driver is not installed.
    """
    protocol = protocol_of(uri)
    check_scheme(protocol, other_schemes=HTTP_SCHEMES)
    if protocol in HTTP_SCHEMES:
        return HttpImages(), uri
    try:
        # Not fsspec.core.url_to_fs: it would take a "::" in the name of a file for a chain.
        driver: Any = LocalFiles if protocol == "file" else fsspec.get_filesystem_class(protocol)
        remote_options = {} if protocol == "file" else {**driver._get_kwargs_from_urls(uri), **storage_options}
        if protocol in S3_SCHEMES:
            remote_options["config_kwargs"] = _client_config(storage_options)
        filesystem = driver(**remote_options)
        if protocol in S3_SCHEMES:
            filesystem.retries = 1  # s3fs nests loops of five attempts in each other; see retrying.py
        if protocol == "hf":
            # It would read five megabytes ahead of every range.
            filesystem.cat_file = partial(driver.cat_file, filesystem, cache_type="none")
        return filesystem, driver._strip_protocol(uri)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise ConfigError(f"cannot open {uri!r}: {one_line(error)}") from error


def _client_config(storage_options: StorageOptions) -> dict[str, Any]:
    """Settings of botocore: time-outs of seconds and no retries, unless the user gave others."""
    ours = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},  # one layer of retries, with one limit in time: retrying.py
    }
    return {**ours, **(storage_options.get("config_kwargs") or {})}


def join_uri(uri: str, *names: str) -> str:
    """Append path components to a URI or a local path."""
    return "/".join([uri.rstrip("/"), *names])


def absolute_uri(uri: str) -> str:
    """The URI or path that a user gives, in the one spelling that the rest of the program understands.

    A path or a file: URI becomes an absolute path, so that workers with another working directory reach the same files.
    A slash at the end is dropped everywhere, so that a folder has one name. Only for what comes from a user: in stored
    names ``%20`` is no space.

    Raises:
        ConfigError: an empty name, a scheme that is not supported, a credential in the URI, another machine's file.
    """
    check_uri(uri)
    path = local_path(uri)
    if path is not None:
        return path
    scheme, _, rest = uri.partition("://")
    return f"{scheme.lower()}://{rest.rstrip('/')}"
