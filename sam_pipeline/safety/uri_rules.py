"""Which URIs a user may give, what they mean on this machine, and which network addresses a download may reach.

A URI ends up in the tables' metadata and in logs, so one that carries a credential is refused before anything is
stored; a message never repeats it. To remove the credential instead would be to go on with another URI than was given,
which fails later and less clearly.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Collection
from urllib.parse import unquote

from sam_pipeline.errors import ConfigError

DATA_SCHEMES = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
"""Schemes of inputs, and but for hf and memory of outputs. Not http: a web server lists files only by links, which may
lead anywhere."""

HTTP_SCHEMES = ("http", "https")
"""Where single files that are named may be fetched, by ``guarded_http``: checkpoints, and images of a manifest."""

_REMEDY = "give credentials by environment variables (AWS_ACCESS_KEY_ID, …), a profile or an instance role"

# Parameters of presigned URLs: of S3, old and new, of Google, of Azure, and whatever is called a token.
_PRESIGNED = re.compile(
    r"[?&](x-amz-|x-goog-|awsaccesskeyid=|googleaccessid=|signature=|sig=|sas=|[^=&]*token=)", re.IGNORECASE
)

# These are in no name of a file: somebody copied a presigned URL and lost its scheme, or its question mark.
_SIGNED = re.compile(r"x-(?:amz|goog)-(?:signature|credential|security-token)(?:=|%3d)", re.IGNORECASE)

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*"
_FILE_URI = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>/.*)?", re.IGNORECASE | re.DOTALL)
# "s3:/bucket" and "s3:bucket". Two letters at least: C:/photos is a path.
_HALF_A_URI = re.compile(rf"(?:{_SCHEME}(?<=..):/(?!/)|(?:s3a?|gc?s|az|abfss?|hf|https?):(?!//|:))", re.IGNORECASE)

# s3fs would cut it off and read the newest.
_VERSION = re.compile(r"\?versionId=")

# Where clouds answer machines with credentials, beside the link-local addresses.
_METADATA_ADDRESSES = tuple(
    ipaddress.ip_address(address)
    for address in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)

# Through these a network without IPv4 reaches its addresses, which are in the last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def check_uri(uri: str, *, other_schemes: Collection[str] = ()) -> None:
    """Refuse a URI of a scheme that is not known, or one that carries a credential. Nearly every path is right.

    Args:
        uri: as a user gave it.
        other_schemes: allowed beside ``DATA_SCHEMES``.

    Raises:
        ConfigError: saying what is wrong with it, without repeating it.
    """
    if not uri or uri.isspace():
        raise ConfigError("a path or URI is empty")
    if _SIGNED.search(uri):
        raise ConfigError(f"URIs must not be presigned; leave the signature out, and {_REMEDY}")
    if _FILE_URI.match(uri):
        return  # the name of a file may hold anything
    if _HALF_A_URI.match(uri):
        raise ConfigError("a URI has two slashes after its scheme (s3://…); write a path with a colon as ./…")
    if "://" not in uri:
        return
    scheme, _, rest = uri.partition("://")
    check_scheme(scheme, other_schemes=other_schemes)
    scheme = scheme.lower()
    place = unquote(rest.lstrip("/").partition("/")[0])  # s3://KEY%3ASECRET%40bucket
    if _names_a_user(scheme, place):
        raise ConfigError(f"{scheme}:// URIs must not hold a user name, a key or a password; {_REMEDY}")
    if scheme != "memory" and not rest.partition("/")[0]:
        # "s3://" without its slashes would be a folder on this disk.
        raise ConfigError(f"a {scheme}:// URI must name a bucket or host after its two slashes")
    if scheme in HTTP_SCHEMES and "?" in rest:
        raise ConfigError(f"{scheme}:// URIs must not have a query, which may hold a credential; {_REMEDY}")
    if scheme in ("s3", "s3a") and _VERSION.search(rest):
        raise ConfigError("s3:// URIs must not name a version: objects are read as they are now")
    if _PRESIGNED.search(rest):
        raise ConfigError(f"{scheme}:// URIs must not be presigned; leave the query out, and {_REMEDY}")


def local_path(uri: str) -> str | None:
    """The path on this machine that a path or a file: URI means.

    In a file: URI (RFC 8089) %XX stands for a byte of UTF-8; everywhere else a percent sign is one. A ``~`` at the
    beginning of a path is the home folder.

    Returns:
        An absolute path without ``.``, ``..`` and double slashes; None for a URI of another scheme.

    Raises:
        ConfigError: a file: URI of another host or without an absolute path, or a path that no file can have.
    """
    is_uri = _FILE_URI.match(uri)
    if is_uri is None:
        if "://" in uri:
            return None
        path = os.path.expanduser(uri)
    else:
        if is_uri["host"] and is_uri["host"].lower() != "localhost":
            raise ConfigError("a file: URI must not name a host: write file:///folder")
        if is_uri["path"] is None:
            raise ConfigError("a file: URI must hold an absolute path: write file:///folder")
        try:
            path = unquote(is_uri["path"], errors="strict")
        except UnicodeDecodeError:
            raise ConfigError("the %XX of a file: URI must be UTF-8") from None
    if "\0" in path:
        raise ConfigError("a path must not hold a NUL character")
    # abspath keeps two slashes at the beginning.
    return "/" + os.path.abspath(path).lstrip("/")


def check_scheme(scheme: str, *, other_schemes: Collection[str] = ()) -> None:
    """Refuse a scheme that is not known, and a chain of them.

    Raises:
        ConfigError: naming the scheme.
    """
    if "::" in scheme:
        raise ConfigError("chained URIs are not supported: give the URI of the files themselves")
    known = (*DATA_SCHEMES, *other_schemes)
    if scheme.lower() not in known:
        # Anything else before the colon may be a credential.
        shown = repr(scheme) if re.fullmatch(_SCHEME, scheme) else "such"
        raise ConfigError(f"cannot open {shown} URIs: give a path, or a URI of {', '.join(known)}")


def is_internal_address(address: str) -> bool:
    """Whether a download must not connect to an address: this machine, its neighbours, or a metadata service.

    Private networks are not internal in this sense: checkpoints are kept there.

    Args:
        address: numeric, as a connection is made to it; so names and spellings of a number are resolved already.
    """
    found = ipaddress.ip_address(address.partition("%")[0])  # fe80::1%eth0
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if isinstance(found, ipaddress.IPv6Address) and found in _NAT64:
        found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return (
        found.is_loopback
        or found.is_link_local
        or found.is_unspecified
        or found.is_multicast
        or found in _METADATA_ADDRESSES
    )


def _names_a_user(scheme: str, place: str) -> bool:
    if scheme in ("abfs", "abfss"):
        return ":" in place  # container@account is the way to write it
    if scheme in HTTP_SCHEMES:
        # What follows a colon is a port, or a password that may go on behind a slash.
        return "@" in place or not re.fullmatch(r"[^:]*(?::\d*)?|\[.*\](?::\d*)?", place)
    # Buckets have no colons but in the ARN of an access point; s3://KEY:SEC/RET@bucket has its @ after a slash.
    return "@" in place or (":" in place and not place.startswith("arn:"))
