"""The files in infra/ promise a token, no root, pinned dependencies and no right that is not needed."""

import json
import re
from importlib.metadata import distribution, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
INFRA = ROOT / "infra"
RAY_JOB = yaml.safe_load((INFRA / "kubernetes" / "rayjob.yaml").read_text())
DOCKERFILE = (INFRA / "docker" / "Dockerfile").read_text()
PROJECT = "sam-pipeline"


def statements(name):
    return {each["Sid"]: each for each in json.loads((INFRA / "aws" / name).read_text())["Statement"]}


def as_list(value):
    return [value] if isinstance(value, str) else value


def pins():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    parsed = [Requirement(line) for line in lines]
    assert all(re.fullmatch(r"==[^,*]+", str(each.specifier)) and not each.marker for each in parsed)
    return {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in parsed}


def installed_dependencies(root):
    """Names of everything that a distribution with its extra dev needs here, however far down."""
    found, left = set(), [Requirement(f"{root}[dev]")]
    while left:
        parent = left.pop()
        for line in distribution(parent.name).requires or []:
            child = Requirement(line)
            wanted = (
                any(child.marker.evaluate({"extra": extra}) for extra in parent.extras or {""}) if child.marker else 1
            )
            if wanted and (key := (canonicalize_name(child.name), frozenset(child.extras))) not in found:
                found.add(key)
                left.append(child)
    return {name for name, _ in found}


def test_the_kubernetes_cluster_asks_for_a_token():
    assert RAY_JOB["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_kubernetes_runs_nothing_as_root_or_with_capabilities():
    cluster = RAY_JOB["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }


def test_no_secret_is_written_down():
    for path in INFRA.rglob("*"):
        if path.is_file():
            assert not re.search(r"AKIA|secretAccessKey|RAY_AUTH_TOKEN\W+[0-9a-f]{16}", path.read_text()), path


def test_the_image_asks_for_a_token_is_pinned_and_does_not_run_as_root():
    instructions = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    assert "ENV RAY_AUTH_MODE=token" in instructions
    assert instructions[-1] == "USER sam"
    installs = [line for line in instructions if "pip install" in line]
    assert installs
    assert all("-c constraints.txt" in line for line in installs)


def test_the_image_has_the_compiler_that_triton_needs_when_kernels_are_first_launched():
    (installed,) = re.findall(r"apt-get install -y --no-install-recommends (.*?) &&", DOCKERFILE)
    assert installed.split() == ["gcc", "libc6-dev"]
    assert "python3-dev" in installed or "FROM python:" in DOCKERFILE, "that image has the headers of Python"


PAGES = ["README.md", "docs/running.md", "infra/README.md", "CONTRIBUTING.md", "SECURITY.md", "Makefile"]


@pytest.mark.parametrize("page", PAGES)
def test_ray_is_never_started_without_a_token_or_with_an_open_dashboard(page):
    text = (ROOT / page).read_text()
    starts = re.findall(r"^ray start.*$", text, flags=re.MULTILINE)
    if starts:
        assert text.index("export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=") < text.index(starts[0])
    assert all("--dashboard-host=127.0.0.1" in line for line in starts if "--head" in line)
    assert "dashboard-host=0.0.0.0" not in text


def test_ray_is_of_a_version_with_tokens_everywhere():
    assert pins()["ray"] == version("ray") == RAY_JOB["spec"]["rayClusterSpec"]["rayVersion"]
    (required,) = [each for each in map(Requirement, distribution(PROJECT).requires) if each.name == "ray"]
    assert not required.specifier.contains("2.54.9")


def test_a_run_may_read_its_input_and_write_its_output_and_delete_nothing():
    policy = statements("s3-policy.json")
    assert {sid: sorted(as_list(each["Action"])) for sid, each in policy.items()} == {
        "ReadInput": ["s3:GetObject"],
        "ListInput": ["s3:ListBucket"],
        "ListOutput": ["s3:ListBucket"],
        "ReadAndWriteOutput": ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"],
    }
    assert policy["ReadInput"]["Resource"] == "arn:aws:s3:::INPUT-BUCKET/photos/*"
    assert policy["ReadAndWriteOutput"]["Resource"] == "arn:aws:s3:::OUTPUT-BUCKET/masks/*"


def test_only_vacuum_may_delete_and_only_shards():
    policy = statements("s3-policy-vacuum.json")
    deleting = {sid: each["Resource"] for sid, each in policy.items() if "s3:DeleteObject" in as_list(each["Action"])}
    assert deleting == {
        "DeleteShardsButNoLog": [
            "arn:aws:s3:::OUTPUT-BUCKET/masks/images/part-*",
            "arn:aws:s3:::OUTPUT-BUCKET/masks/masks/part-*",
            "arn:aws:s3:::OUTPUT-BUCKET/masks/prompts/part-*",
        ]
    }
    assert not any("INPUT-BUCKET" in str(each["Resource"]) for each in policy.values())


@pytest.mark.parametrize("name", ["s3-policy.json", "s3-policy-vacuum.json"])
def test_policies_allow_no_wildcard_action_and_list_by_prefix(name):
    for each in statements(name).values():
        assert each["Effect"] == "Allow"
        assert "*" not in "".join(as_list(each["Action"]))
        assert all(resource.startswith("arn:aws:s3:::") for resource in as_list(each["Resource"]))
        if each["Action"] == "s3:ListBucket":
            assert each["Condition"]["StringLike"]["s3:prefix"].endswith("/*")


def test_every_installed_dependency_is_pinned_to_what_is_installed():
    pinned = pins()
    # What every environment comes with, and what torch on CUDA requires, which torch itself pins exactly.
    needed = {name for name in installed_dependencies(PROJECT) if not name.startswith(("nvidia-", "cuda-"))}
    needed -= {PROJECT, "setuptools", "pip"}
    assert len(needed) > 100
    assert sorted(needed - pinned.keys()) == []
    differing = {
        name: (pinned[name], version(name)) for name in needed if version(name).partition("+")[0] != pinned[name]
    }
    assert differing == {}


def test_what_is_known_to_be_vulnerable_is_not_what_we_use():
    (known,) = [Requirement(line) for line in (INFRA / "audit" / "known-vulnerable.txt").read_text().splitlines()[1:]]
    assert not known.specifier.contains(pins()[canonicalize_name(known.name)])
