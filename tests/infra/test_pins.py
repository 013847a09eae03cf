"""What is installed is pinned, and pinned to what was tested."""

from importlib.metadata import distribution, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.infra.files import INFRA, pins

PROJECT = "sam-pipeline"


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


def test_ray_is_of_a_version_with_tokens_everywhere():
    assert pins()["ray"] == version("ray")
    (required,) = [each for each in map(Requirement, distribution(PROJECT).requires) if each.name == "ray"]
    assert not required.specifier.contains("2.54.9")


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
