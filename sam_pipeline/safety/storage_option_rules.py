"""Which storage options may be given: those of the fsspec drivers that hold no credential, and no others.

Options end up in job specifications, process lists and the run's stored configuration, so what is not known to be
harmless is refused. The names are from the signatures of fsspec, s3fs, gcsfs, adlfs and huggingface_hub, and from
botocore's Config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.clean_text import printable

_REMEDY = (
    "give credentials by environment variables (AWS_ACCESS_KEY_ID, …), a profile or an instance role; "
    "SECURITY.md lists the options that may be given"
)

_PLAIN = None
"""Any value but a mapping, or a list of such values."""

_CLIENT: dict[str, Any] = dict.fromkeys(("region_name", "endpoint_url", "use_ssl", "verify", "api_version"), _PLAIN)

_CONFIG: dict[str, Any] = {
    **dict.fromkeys(
        (
            *("region_name", "signature_version", "user_agent", "user_agent_extra", "user_agent_appid"),
            *("connect_timeout", "read_timeout", "tcp_keepalive", "max_pool_connections", "parameter_validation"),
            *("client_cert", "inject_host_prefix", "use_dualstack_endpoint", "use_fips_endpoint"),
            *("ignore_configured_endpoint_urls", "defaults_mode", "request_min_compression_size_bytes"),
            *("disable_request_compression", "request_checksum_calculation", "response_checksum_validation"),
            *("sigv4a_signing_region_set", "s3_disable_express_session_auth", "endpoint_discovery_enabled"),
            "account_id_endpoint_mode",
        ),
        _PLAIN,
    ),
    "proxies": dict.fromkeys(("http", "https"), _PLAIN),
    "proxies_config": dict.fromkeys(("proxy_ca_bundle", "proxy_client_cert", "proxy_use_forwarding_for_https"), _PLAIN),
    "retries": dict.fromkeys(("total_max_attempts", "max_attempts", "mode"), _PLAIN),
    "s3": dict.fromkeys(
        ("use_accelerate_endpoint", "payload_signing_enabled", "addressing_style", "us_east_1_regional_endpoint"),
        _PLAIN,
    ),
}

# What s3fs adds to requests. A key's name (SSEKMSKeyId) is no key; customer keys are.
_REQUESTS: dict[str, Any] = dict.fromkeys(
    (
        *("ACL", "BucketKeyEnabled", "CacheControl", "ChecksumAlgorithm", "ContentType", "ExpectedBucketOwner"),
        *("RequestPayer", "ServerSideEncryption", "SSEKMSKeyId", "StorageClass"),
    ),
    _PLAIN,
)

_KNOWN: dict[str, Any] = {
    **dict.fromkeys(
        (
            # fsspec
            *("use_listings_cache", "listings_expiry_time", "max_paths", "skip_instance_cache"),
            *("default_block_size", "default_cache_type", "default_fill_cache", "block_size", "version_aware"),
            # s3fs
            *("anon", "endpoint_url", "profile", "use_ssl", "requester_pays", "cache_regions", "max_concurrency"),
            *("fixed_upload_size", "local_expiry_check"),
            # gcsfs
            *("project", "access", "consistency", "cache_timeout", "default_location", "check_connection", "timeout"),
            # adlfs
            *("account_name", "account_host", "blocksize", "assume_container_exists", "location_mode"),
            *("connection_timeout", "read_timeout", "exclude_shared_token_credential"),
            # huggingface_hub
            *("endpoint", "expand_info", "max_workers"),
        ),
        _PLAIN,
    ),
    "client_kwargs": _CLIENT,
    "config_kwargs": _CONFIG,
    "s3_additional_kwargs": _REQUESTS,
}

# What gcsfs is told to find a credential by itself, or to use none.
_NO_TOKENS = ("anon", "cloud", "google_default")

_MAX_SHOWN = 60


def check_storage_options(options: Mapping[str, Any]) -> None:
    """Refuse an option that is not listed here as harmless, and a listed one whose value may hold a credential.

    Raises:
        ConfigError: naming the option, never its value.
    """
    _check(options, _KNOWN, "")


def _check(options: Mapping[str, Any], known: Mapping[str, Any], path: str) -> None:
    for name, value in options.items():
        full = f"{path}{name}"
        if value is None or value is False or value == "":
            continue  # no credential, whatever the name
        if not path and name == "token" and isinstance(value, str) and value in _NO_TOKENS:
            continue
        if name not in known:
            raise ConfigError(f"storage option {_shown(full)} is not known, or holds a credential; {_REMEDY}")
        inner = known[name]
        if isinstance(value, Mapping) and inner is not _PLAIN:
            _check(value, inner, f"{full}.")
            continue
        for item in value if isinstance(value, list | tuple) else [value]:
            if inner is not _PLAIN or not isinstance(item, str | int | float):
                raise ConfigError(f"storage option {_shown(full)} has a value of the wrong kind; {_REMEDY}")
            if isinstance(item, str) and ("@" in item or ("://" in item and "?" in item)):
                raise ConfigError(f"storage option {_shown(full)} holds a user name, a password or a query; {_REMEDY}")


def _shown(name: str) -> str:
    return repr(printable(name)[:_MAX_SHOWN])
