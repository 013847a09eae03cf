"""One place that turns a URI and `--storage-options` into an fsspec filesystem and into delta-rs options.

Credentials come from the environment, a profile or an instance role, never from options: options end up in job
specifications, process lists and the run's stored configuration.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import fsspec

from sam_pipeline.clean_text import one_line
from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.http_images import HttpImages
from sam_pipeline.storage.local_files import LocalFiles
from sam_pipeline.uri_rules import HTTP_SCHEMES, check_scheme, check_uri

StorageOptions = Mapping[str, Any]

_S3 = ("s3", "s3a")

# Stalls cost seconds. A read time-out is between two arrivals of data, so it does not limit the size of objects.
_CONNECT_TIMEOUT_S = 5
_READ_TIMEOUT_S = 20
# delta-rs limits whole requests, some of which carry tens of megabytes.
_DELTA_TIMEOUT_S = 30
# Inside delta-rs for what passes at once; retrying.retried does the rest, and sees a stall after one time-out.
_DELTA_RETRIES = {"max_retries": "3", "retry_timeout": "10s"}


def protocol_of(uri: str) -> str:
    """The URI's scheme; "file" for a plain path."""
    return uri.split("://", 1)[0].lower() if "://" in uri else "file"


def open_filesystem(uri: str, options: StorageOptions) -> tuple[Any, str]:
    """Return (fsspec filesystem, path inside it).

    Options apply to remote filesystems only, and not to http: they may hold what is meant for the storage. Whether http
    is wanted is for the caller to say, by check_uri, as absolute_uri does for inputs and outputs: it is not.

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
        remote_options = {} if protocol == "file" else {**driver._get_kwargs_from_urls(uri), **options}
        if protocol in _S3:
            remote_options["config_kwargs"] = _client_config(options)
        filesystem = driver(**remote_options)
        if protocol in _S3:
            filesystem.retries = 1  # it would nest its own five in each other; see retrying.py
        if protocol == "hf":
            # It would read five megabytes ahead of every range.
            filesystem.cat_file = partial(driver.cat_file, filesystem, cache_type="none")
        return filesystem, driver._strip_protocol(uri)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise ConfigError(f"cannot open {uri!r}: {one_line(error)}") from error


def _client_config(options: StorageOptions) -> dict[str, Any]:
    """Settings of botocore: what the user gave over time-outs of seconds and no retries of its own."""
    ours = {
        "connect_timeout": _CONNECT_TIMEOUT_S,
        "read_timeout": _READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},  # one layer of retries, with one limit in time: retrying.py
    }
    return {**ours, **(options.get("config_kwargs") or {})}


def join_uri(uri: str, *names: str) -> str:
    """Append path components to a URI or a local path."""
    return "/".join([uri.rstrip("/"), *names])


def absolute_uri(uri: str) -> str:
    """Make a local path absolute, so that workers with another working directory reach the same files.

    A slash at the end is dropped everywhere, so that a folder has one name.

    Raises:
        ConfigError: a scheme that is not supported, or a credential in the URI.
    """
    check_uri(uri)
    if protocol_of(uri) == "file":
        return os.path.abspath(uri.removeprefix("file://"))
    return uri if uri.endswith("://") else uri.rstrip("/")


def delta_storage_options(uri: str, options: StorageOptions) -> dict[str, str]:
    """Translate s3fs options into those of delta-rs; both read credentials and AWS_* variables by themselves.

    Returns:
        Options for `deltalake`; empty for local paths and for other stores, which their environment configures.
    """
    if protocol_of(uri) not in _S3:
        return {}
    config = options.get("config_kwargs") or {}
    client = options.get("client_kwargs") or {}
    endpoint = (
        options.get("endpoint_url")
        or client.get("endpoint_url")
        or os.environ.get("AWS_ENDPOINT_URL_S3")
        or os.environ.get("AWS_ENDPOINT_URL")
    )
    region = client.get("region_name") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    translated = {
        "connect_timeout": f"{config.get('connect_timeout', _CONNECT_TIMEOUT_S)}s",
        "timeout": f"{config.get('read_timeout', _DELTA_TIMEOUT_S)}s",
        **_DELTA_RETRIES,
    }
    if endpoint:
        translated["AWS_ENDPOINT_URL"] = endpoint
        # delta-rs refuses plain http unless told; the user chose it by giving an http endpoint.
        translated["AWS_ALLOW_HTTP"] = str(urlsplit(endpoint).scheme == "http").lower()
    if region:
        translated["AWS_REGION"] = region
    if options.get("anon"):
        translated["AWS_SKIP_SIGNATURE"] = "true"
    return translated
