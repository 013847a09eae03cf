"""Which URIs a user may give, and which network addresses a download may reach.

A URI ends up in the tables' metadata and in logs, so one that carries a credential is refused before anything is
stored; a message never repeats it. To remove the credential instead would be to go on with another URI than was given,
which fails later and less clearly.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from sam_pipeline.errors import ConfigError

DATA_SCHEMES = ("file", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory")
"""Where images are listed and tables are written. Not http: it has no listing but links, which may lead anywhere."""

HTTP_SCHEMES = ("http", "https")
"""Where single files that are named may be fetched, by ``guarded_http``: checkpoints, and images of a manifest."""

_REMEDY = "give credentials by environment variables (AWS_ACCESS_KEY_ID, …), a profile or an instance role"

# Parameters of presigned URLs: of S3, old and new, of Google, of Azure, and whatever is called a token.
_PRESIGNED = re.compile(
    r"[?&](x-amz-|x-goog-|awsaccesskeyid=|googleaccessid=|signature=|sig=|sas=|[^=&]*token=)", re.IGNORECASE
)

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
    """Refuse a URI of a scheme that is not known, or one that carries a credential. A plain path is always right.

    Args:
        uri: as a user gave it.
        other_schemes: allowed beside ``DATA_SCHEMES``.

    Raises:
        ConfigError: saying what is wrong with it, without repeating it.
    """
    if "://" not in uri:
        return
    scheme, _, rest = uri.partition("://")
    check_scheme(scheme, other_schemes=other_schemes)
    if scheme.lower() == "file":
        return  # the name of a file may hold anything
    place = rest.partition("/")[0]
    if _names_a_user(scheme.lower(), place):
        raise ConfigError(f"{scheme}:// URIs must not hold a user name, a key or a password; {_REMEDY}")
    if scheme.lower() in ("http", "https") and "?" in rest:
        raise ConfigError(f"{scheme}:// URIs must not have a query, which may hold a credential; {_REMEDY}")
    if scheme.lower() in ("s3", "s3a") and _VERSION.search(rest):
        raise ConfigError("s3:// URIs must not name a version: objects are read as they are now")
    if _PRESIGNED.search(rest):
        raise ConfigError(f"{scheme}:// URIs must not be presigned; leave the query out, and {_REMEDY}")


def check_scheme(scheme: str, *, other_schemes: Collection[str] = ()) -> None:
    """Refuse a scheme that is not known, and a chain of them.

    Raises:
        ConfigError: naming the scheme.
    """
    if "::" in scheme:
        raise ConfigError("chained URIs are not supported: give the URI of the files themselves")
    known = (*DATA_SCHEMES, *other_schemes)
    if scheme.lower() not in known:
        raise ConfigError(f"cannot open {scheme!r} URIs: give a path, or a URI of {', '.join(known)}")


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
    if scheme in ("http", "https"):
        return "@" in place
    # Buckets have no colons but in the ARN of an access point; s3://KEY:SEC/RET@bucket has its @ after a slash.
    return "@" in place or (":" in place and not place.startswith("arn:"))
