"""One place that turns an output into what delta-rs is given: a URI, and the settings that fsspec's client has.

delta-rs and fsspec understand names differently. fsspec takes a key as it is. delta-rs takes a URL: it reads ``#`` and
``?`` as the end of a name, ``%20`` as a space (at times twice) and a backslash as a slash. So delta-rs is given every
name percent-encoded, and a name that it would still take for another, or fail on, is refused before anything is
written. What is refused was found by trying (deltalake 1.6.6); ``tests/storage/test_names.py`` tries again.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.exceptions import NoCredentialsError
from deltalake import DeltaTable
from fsspec.asyn import sync

from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.objects.filesystem import S3_SCHEMES, StorageOptions, open_filesystem, protocol_of

# delta-rs knows no memory:// of fsspec's and no hf://; gcs:// is gs:// to it.
_SCHEMES = {"file": "file", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "abfs"}
_SCHEMES |= {"abfss": "abfss"}

# A bucket, or what Azure has in its place: container@account.dfs.core.windows.net.
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:@[A-Za-z0-9.-]+)?")

_REFUSED = {
    # In the XML of a listing, C1 controls, separators and non-characters do not arrive as they were sent.
    "a control character or a line break": re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]"),
    "a character that is not UTF-8": re.compile("[\ud800-\udfff]"),
    "a backslash": re.compile(r"\\"),
    "# or ?": re.compile("[#?]"),
    "a percent sign before two hexadecimal digits": re.compile("%[0-9A-Fa-f]{2}"),
    "_delta_log as a folder": re.compile(r"(?:^|/)_delta_log(?:/|$)"),
}
_REFUSED_IN_STORES = {
    "an empty part, `.` or `..`": re.compile(r"(?:^|/)\.{0,2}(?:/|$)"),
    "a colon in its first part": re.compile(r"^[^/]*:"),
}

# A store's keys have 1024 bytes, a disk's paths 4096; the longest name below a table takes less than a hundred.
_MAX_KEY_BYTES = 900
_MAX_PATH_BYTES = 3900
_MAX_PART_BYTES = 255

# What botocore resolves where nothing names a region.
_ENDPOINT_OF_NO_REGION = "https://s3.amazonaws.com"

# delta-rs limits whole requests, some of which carry tens of megabytes.
_TIMEOUT_S = 30
# delta-rs itself retries only short faults. Its limit is shorter than its time-out, so retrying.retried gets a stall
# after one time-out, and retries it.
_RETRIES = {"max_retries": "3", "retry_timeout": "10s"}


class Table(DeltaTable):
    """A Delta table that carries fsspec's name of its place, and can be used after its first credentials expire.

    Args:
        uri: a path or URI, as join_uri makes it.
        storage_options: of fsspec.
        version: None for the newest.

    Raises:
        ConfigError: see delta_uri.
        TableNotFoundError: there is none.
    """

    def __init__(self, uri: str, storage_options: StorageOptions, version: int | None = None) -> None:
        self.uri = uri
        self.storage_options = storage_options
        given = delta_storage_options(uri, storage_options)
        super().__init__(delta_uri(uri), version=version, storage_options=given)
        self._given = given

    def update_incremental(self) -> None:
        """As in DeltaTable."""
        self.renew()
        super().update_incremental()

    def renew(self) -> None:
        """Open the table anew, at the same version, if credentials have changed: a role's last an hour, a run days."""
        if self._given != delta_storage_options(self.uri, self.storage_options):
            self.__init__(self.uri, self.storage_options, self.version())  # type: ignore[misc]


def delta_uri(uri: str) -> str:
    """The URI that delta-rs needs for the place that fsspec calls uri.

    Args:
        uri: an absolute path or a URI, as absolute_uri and join_uri make it.

    Raises:
        ConfigError: there is none, because of the store or because of the name.
    """
    protocol = protocol_of(uri)
    if protocol not in _SCHEMES:
        raise ConfigError(f"an output cannot be on {protocol}://; give a path, or a URI of {', '.join(_SCHEMES)}")
    if protocol == "file":
        path = os.path.abspath(uri.removeprefix("file://"))
        _check_name(path, _REFUSED, _MAX_PATH_BYTES)
        return f"file://{quote(path)}"
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(f"the bucket of an output must be letters, digits, dots and dashes, got {bucket!r}")
    if not key:
        return f"{_SCHEMES[protocol]}://{bucket}"
    _check_name(key, _REFUSED | _REFUSED_IN_STORES, _MAX_KEY_BYTES)
    return f"{_SCHEMES[protocol]}://{bucket}/{quote(key)}"


def _check_name(name: str, refused: dict[str, re.Pattern[str]], max_bytes: int) -> None:
    for what, pattern in refused.items():
        if pattern.search(name):
            raise ConfigError(f"the path of an output must not hold {what}, got {name!r}; choose another --output")
    if len(name.encode()) > max_bytes:
        raise ConfigError(f"the path of an output must have at most {max_bytes} bytes, got {len(name.encode())}")
    if any(len(part.encode()) > _MAX_PART_BYTES for part in name.split("/")):
        raise ConfigError(f"a folder's name in the path of an output must have at most {_MAX_PART_BYTES} bytes")


def delta_storage_options(uri: str, storage_options: StorageOptions) -> dict[str, str]:
    """The options with which delta-rs asks the same store as fsspec, with the same credentials.

    On S3 that is what botocore has resolved for fsspec's client, from options, environment, profile or role: endpoint,
    region and credentials as they are now. They are never to be logged or stored.

    Returns:
        Options for `deltalake`; for Google and Azure those few that both clients know, their environment does the rest.

    Raises:
        ConfigError: an option that only fsspec's client would follow.
        botocore.exceptions.BotoCoreError: no credentials, or no such profile.
    """
    protocol = protocol_of(uri)
    if protocol in S3_SCHEMES:
        return _s3_options(uri, storage_options)
    if protocol in ("az", "abfs", "abfss"):
        names = {"account_name": "azure_storage_account_name"}
        anonymous = {"azure_skip_signature": "true"} if storage_options.get("anon") else {}
        return {
            names[name]: str(value) for name, value in storage_options.items() if name in names and value
        } | anonymous
    if protocol in ("gs", "gcs"):
        if storage_options.get("endpoint_url"):
            raise ConfigError("endpoint_url is not for gs:// outputs: only one of the two clients would follow it")
        return {"google_skip_signature": "true"} if storage_options.get("token") == "anon" else {}
    return {}


def _s3_options(uri: str, storage_options: StorageOptions) -> dict[str, str]:
    filesystem, path = open_filesystem(uri, storage_options)
    client = filesystem.connect()
    endpoint, settings = client.meta.endpoint_url, client.meta.config
    given = {
        "connect_timeout": f"{settings.connect_timeout}s",
        "timeout": f"{(storage_options.get('config_kwargs') or {}).get('read_timeout', _TIMEOUT_S)}s",
        **_RETRIES,
        "AWS_ENDPOINT_URL": endpoint,
        # delta-rs refuses plain http unless told; the user chose it by giving an http endpoint.
        "AWS_ALLOW_HTTP": str(urlsplit(endpoint).scheme == "http").lower(),
        "AWS_REGION": client.meta.region_name,
    }
    given_regions = [
        (storage_options.get(name) or {}).get("region_name") for name in ("client_kwargs", "config_kwargs")
    ]
    if not any(given_regions) and filesystem.session.get_config_variable("region") is None:
        # botocore ignores AWS_REGION, and follows a redirect to another region. delta-rs reads AWS_REGION, and follows
        # no redirect.
        given["AWS_REGION"] = os.environ.get("AWS_REGION") or "us-east-1"
        if endpoint == _ENDPOINT_OF_NO_REGION:
            del given["AWS_ENDPOINT_URL"]
    if (settings.s3 or {}).get("addressing_style") == "virtual":
        scheme, _, host = endpoint.partition("://")
        given["AWS_ENDPOINT_URL"] = f"{scheme}://{path.partition('/')[0]}.{host}"
        given["AWS_VIRTUAL_HOSTED_STYLE_REQUEST"] = "true"
    if (storage_options.get("client_kwargs") or {}).get("verify") is False:
        given["allow_invalid_certificates"] = "true"
    if storage_options.get("anon"):
        return given | {"AWS_SKIP_SIGNATURE": "true"}
    return given | _credentials(filesystem)


def _credentials(filesystem: Any) -> dict[str, str]:
    """Those of now: botocore renews a role's some minutes before they expire."""

    async def frozen() -> Any:
        credentials = await filesystem.session.get_credentials()
        return None if credentials is None else await credentials.get_frozen_credentials()

    found = sync(filesystem.loop, frozen)
    if found is None:
        raise NoCredentialsError
    given = {"AWS_ACCESS_KEY_ID": found.access_key, "AWS_SECRET_ACCESS_KEY": found.secret_key}
    if found.token:
        return given | {"AWS_SESSION_TOKEN": found.token}
    if os.environ.get("AWS_SESSION_TOKEN"):
        # delta-rs would send it with these keys. An empty one instead would be sent too.
        raise ConfigError("AWS_SESSION_TOKEN in the environment is not of the credentials in use: unset it")
    return given
