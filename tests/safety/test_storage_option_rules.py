import inspect
import json

import fsspec
import pytest
from botocore.config import Config
from s3fs import S3FileSystem

from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.storage_option_rules import check_storage_options

CANARY = "canary"


@pytest.mark.parametrize(
    "options",
    [
        *({name: CANARY} for name in ("key", "secret", "token", "password", "username", "passwd", "pwd", "pass")),
        *({name: CANARY} for name in ("sas", "sas_token", "auth", "bearer", "signature", "x-amz-signature")),
        *({name: CANARY} for name in ("aws_access_key_id", "aws_session_token", "account_key", "client_secret")),
        *({name: CANARY} for name in ("connection_string", "credential", "session", "headers", "cookies", "AUTH")),
        {"Credential": {"value": CANARY}},
        {"SECRET": [CANARY]},
        {"client_kwargs": {"aws_secret_access_key": CANARY}},
        {"client_kwargs": [{"aws_secret_access_key": CANARY}]},
        {"client_kwargs": {"verify": {"token": CANARY}}},
        {"config_kwargs": {"s3": {"token": CANARY}}},
        {"config_kwargs": {"user_agent_extra": [["token", CANARY]]}},
        {"s3_additional_kwargs": {"SSECustomerKey": CANARY}},
        {"session_kwargs": {"headers": {"Authorization": f"Bearer {CANARY}"}}},
        {"anon": [{"b": 1}, {"token": CANARY}]},
        {"anon": {"token": CANARY}},
        {"headers": [["Authorization", f"Bearer {CANARY}"]]},
        {"endpoint_url": f"https://user:{CANARY}@host"},
        {"endpoint_url": f"https://user:a/{CANARY}@host"},
        {"endpoint_url": f"https://host/?sig={CANARY}"},
        {"endpoint_url": f"//user:{CANARY}@host"},
        {"config_kwargs": {"proxies": {"http": f"http://user:{CANARY}@proxy:3128"}}},
        {"config_kwargs": {"proxies": {"http": f"user:{CANARY}@proxy:3128"}}},
        {"config_kwargs": {"proxies": [f"http://user:{CANARY}@proxy"]}},
    ],
)
def test_credentials_are_refused_wherever_they_hide_and_never_shown(options):
    with pytest.raises(ConfigError, match="give credentials by environment variables") as error:
        check_storage_options(options)
    assert CANARY not in str(error.value)
    assert "\n" not in str(error.value)


def test_the_option_is_named_by_its_path():
    with pytest.raises(ConfigError, match=r"'config_kwargs\.s3\.token'"):
        check_storage_options({"config_kwargs": {"s3": {"token": CANARY}}})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"anon": True},
        {"endpoint_url": "http://localhost:9000"},
        {"client_kwargs": {"region_name": "eu-west-1", "use_ssl": False, "verify": "/etc/ca.pem"}},
        {"config_kwargs": {"s3": {"addressing_style": "path"}, "max_pool_connections": 50, "retries": {"mode": "x"}}},
        {"config_kwargs": {"proxies": {"https": "http://proxy:3128"}, "client_cert": ["a.pem", "b.pem"]}},
        {"key": "", "secret": None, "client_kwargs": None},
        *({"token": token} for token in ("anon", "google_default", "cloud", False)),
        {"s3_additional_kwargs": {"BucketKeyEnabled": True, "ServerSideEncryption": "aws:kms"}},
        {"use_listings_cache": False, "profile": "research"},
        {"account_name": "photos", "project": "p", "endpoint": "https://hub"},
    ],
)
def test_options_that_hold_no_credential_are_accepted(options):
    check_storage_options(options)
    check_storage_options(json.loads(json.dumps(options)))


def test_every_option_of_the_drivers_is_either_known_or_decided_against():
    """A new release of a driver brings new names: each is to be looked at once."""
    refused = {"key", "secret", "token", "username", "password", "session", "asynchronous", "loop"}
    ours = {name for name in inspect.signature(S3FileSystem.__init__).parameters if name not in ("self", "kwargs")}
    ours |= set(inspect.signature(fsspec.AbstractFileSystem.__init__).parameters) - {
        *("self", "args", "storage_options"),
        *refused,
    }
    nested = ("client_kwargs", "config_kwargs", "s3_additional_kwargs")
    for name in ours - refused:
        check_storage_options({name: {}} if name in nested else {name: 1})
    config_refused = {"client_context_params", "auth_scheme_preference"}
    for name in set(Config.OPTION_DEFAULTS) - config_refused:
        check_storage_options(
            {"config_kwargs": {name: {} if name in ("proxies", "proxies_config", "s3", "retries") else 1}}
        )
