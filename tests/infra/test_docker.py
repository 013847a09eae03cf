"""The image: hadolint judges the Dockerfile, and what no linter can know is looked at here."""

import re
import subprocess

import pytest

from tests.infra.files import INFRA, ROOT, found_by, pins

DOCKERFILE = INFRA / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
INSTRUCTIONS = [
    line.strip() for line in TEXT.replace("\\\n", "").splitlines() if line.strip() and not line.startswith("#")
]
TARGETS = ("cpu", "cuda")


def stages():
    """Each stage: what it begins with, and its instructions."""
    found = {}
    for line in INSTRUCTIONS:
        if begun := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[begun[2]] = (begun[1], [])
        elif found:
            next(reversed(found.values()))[1].append(line)
    return found


def instructions_of(target):
    """What makes a target, from its base on."""
    if target not in stages():
        return []
    parent, own = stages()[target]
    return instructions_of(parent) + own


def test_hadolint_finds_nothing():
    assert found_by("hadolint", "--no-color", DOCKERFILE) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("USER 1000", "USER root", "DL3002"),
        ("--no-install-recommends ", "", "DL3015"),
        ("--no-cache-dir ", "", "DL3042"),
        ("WORKDIR /app", "WORKDIR app", "DL3000"),
    ],
)
def test_hadolint_finds_what_is_wrong(right, wrong, rule, tmp_path):
    assert right in TEXT
    (tmp_path / "Dockerfile").write_text(TEXT.replace(right, wrong))
    assert rule in found_by("hadolint", "--no-color", tmp_path / "Dockerfile")


def test_the_base_is_pinned_by_its_digest_and_nothing_else_is_taken_from_elsewhere():
    (base,) = [line for line in INSTRUCTIONS if line.startswith("ARG")]
    assert re.fullmatch(r"ARG PYTHON=python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", base)
    assert {parent for parent, _ in stages().values()} <= {"${PYTHON}", *stages()}
    copied_from = re.findall(r"COPY --from=(\S+)", TEXT)
    assert copied_from
    assert set(copied_from) <= stages().keys()


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_asks_for_a_token_and_ends_as_a_user_that_is_not_root(target):
    made_by = instructions_of(target)
    assert "ENV RAY_AUTH_MODE=token" in made_by
    (user,) = [line.removeprefix("USER ") for line in made_by if line.startswith("USER")]
    assert user == "1000"
    assert any(line.startswith("RUN useradd") and "--uid 1000" in line for line in made_by)


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_what_triton_compiles_with_and_rays_launcher_calls(target):
    (installed,) = re.findall(
        r"apt-get install -y --no-install-recommends (.*?) +&&", "\n".join(instructions_of(target))
    )
    assert installed.split() == ["gcc", "libc6-dev", "openssh-client", "rsync"]


@pytest.mark.parametrize("target", TARGETS)
def test_each_target_has_the_pinned_dependencies_where_login_shells_look(target):
    (source,) = re.findall(r"COPY --from=(\S+) /installed /usr/local", "\n".join(instructions_of(target)))
    assert source == f"build-{target}"
    (install,) = [line for line in instructions_of(source) if "boto3" in line]
    assert install.endswith("pip install --no-cache-dir --prefix=/installed -c constraints.txt . boto3")


def test_without_cuda_torch_is_the_pinned_version_for_cpus():
    (command,) = re.findall(r'"torch==\$\((.*?)\)\+cpu"', TEXT)
    printed = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == pins()["torch"]


def test_what_is_copied_exists_and_is_not_ignored():
    copied = {
        name
        for line in INSTRUCTIONS
        if (found := re.fullmatch(r"COPY (?!--from)(.*) \S+", line))
        for name in found[1].split()
    }
    ignored = DOCKERFILE.with_suffix(".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)
