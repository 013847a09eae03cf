"""The policies of infra/aws in front of a real S3 server: whatever they do not allow is answered with 403."""

import fnmatch
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.end_to_end.settings import NUM_PHOTOS, SETTINGS, SMALL_SHARDS
from tests.faults.proxy import Fault, Rule, fault_proxy

pytestmark = [pytest.mark.weights, pytest.mark.s3, pytest.mark.slow]

FOLDER = Path(__file__).parents[2] / "infra" / "aws"


@dataclass
class OutsideThePolicy(Rule):
    """Applies to requests that the statements of a policy do not allow. All of ours allow; none denies."""

    do: Fault = Fault.ACCESS_DENIED
    statements: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    def applies_to(self, request: Any) -> bool:
        """Whether to refuse it."""
        url = urlsplit(request.raw_path)
        bucket, _, key = unquote(url.path).removeprefix("/").partition("/")
        query = parse_qs(url.query, keep_blank_values=True)
        action = action_of(request.method, key, query)
        resource = f"arn:aws:s3:::{bucket}" + (f"/{key}" if key else "")
        if any(allows(statement, action, resource, query) for statement in self.statements):
            return False
        self.refused.append(f"{action} {request.method} {request.raw_path}")
        return True


def action_of(method, key, query):
    """The right that S3 asks for."""
    if not key:
        return "s3:ListBucket" if method in ("GET", "HEAD") else "s3:DeleteObject"
    if method == "DELETE":
        return "s3:AbortMultipartUpload" if "uploadId" in query else "s3:DeleteObject"
    return "s3:GetObject" if method in ("GET", "HEAD") else "s3:PutObject"


def allows(statement, action, resource, query):
    prefixes = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", "*")
    return (
        action in as_list(statement["Action"])
        and fits(resource, statement["Resource"])
        and fits(query.get("prefix", [""])[0], prefixes)
    )


def as_list(value):
    return [value] if isinstance(value, str) else value


def fits(text, patterns):
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in as_list(patterns))


@pytest.fixture
def buckets(s3, photos):
    source, target = s3.create_bucket(), s3.create_bucket()
    s3.put_folder(source, "photos", photos)
    s3.put(source, "secrets/key", b"not for the run")
    return source, target


@pytest.fixture
def under(s3, start, buckets):
    """Runs a command with the rights of a policy; gives its end, and what was refused."""

    def run(policy, *arguments):
        text = (FOLDER / policy).read_text()
        for name, bucket in zip(("INPUT-BUCKET", "OUTPUT-BUCKET"), buckets, strict=True):
            text = text.replace(name, bucket)
        rule = OutsideThePolicy(statements=json.loads(text)["Statement"])
        with fault_proxy(s3, rule) as proxy:
            finished = start(*arguments, env=proxy.server.env).wait()
        return finished, rule.refused

    return run


@pytest.mark.soak
def test_a_run_and_its_maintenance_need_no_more_than_the_policy(under, s3, buckets):
    source, target = buckets
    output = f"s3://{target}/masks"
    annotate = ("annotate", "--input", f"s3://{source}/photos/", "--output", output, *SETTINGS, *SMALL_SHARDS)
    for command in (
        (*annotate, "--num-cpus", 2),
        ("status", output),
        ("verify", output),
        ("retry", output, "--status", "ok"),
        (*annotate, "--num-cpus", 2),
    ):
        finished, refused = under("s3-policy.json", *command)
        assert (finished.exit_code, refused) == (0, []), finished.stderr
    assert f"{NUM_PHOTOS} ok" in finished.stdout

    finished, refused = under("s3-policy-vacuum.json", "vacuum", output)
    assert (finished.exit_code, refused) == (0, []), finished.stderr
    assert {key.partition("/")[0] for key in s3.list_keys(target)} == {"masks"}


def test_what_lies_beside_the_input_and_the_output_is_out_of_reach(under, buckets):
    source, target = buckets
    for name, output in (("secrets", "masks"), ("photos", "elsewhere")):
        arguments = ("plan", "--input", f"s3://{source}/{name}/", "--output", f"s3://{target}/{output}")
        finished, refused = under("s3-policy.json", *arguments)
        assert finished.exit_code == 2
        assert refused
        assert "Forbidden" in finished.stderr
