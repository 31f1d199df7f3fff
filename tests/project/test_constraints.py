"""constraints.txt pins a set that pyproject.toml allows, and leaves none of its dependencies open."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[0-9][A-Za-z0-9.]*)")
TESTED_EXTRAS = ("train", "evaluation", "map", "deepspeed", "onnx", "openvino", "docs", "dev")


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, Version]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    matches = {line: PIN.fullmatch(line) for line in lines if line and not line.startswith("#")}
    assert all(matches.values()), [line for line, match in matches.items() if not match]
    named = [(canonicalize_name(m["name"]), Version(m["version"])) for m in matches.values() if m]
    assert len(dict(named)) == len(named), "a package is pinned twice"
    return dict(named)


def requirements(repository: Path) -> dict[str, list[Requirement]]:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"base": project["dependencies"], **project["optional-dependencies"]}
    return {group: [Requirement(line) for line in lines] for group, lines in groups.items()}


def test_pins_satisfy_the_ranges(repository: Path, pins: dict[str, Version]) -> None:
    outside = [
        f"{group}: {requirement} but {pins[canonicalize_name(requirement.name)]}"
        for group, group_requirements in requirements(repository).items()
        for requirement in group_requirements
        if canonicalize_name(requirement.name) in pins
        and pins[canonicalize_name(requirement.name)] not in requirement.specifier
    ]
    assert outside == []


def test_every_tested_dependency_is_pinned(repository: Path, pins: dict[str, Version]) -> None:
    groups = requirements(repository)
    wanted = {canonicalize_name(r.name) for group in ("base", *TESTED_EXTRAS) for r in groups[group]}
    assert {"torch", "transformers", "datasets", "mteb", "pytest"} <= wanted
    assert wanted - pins.keys() == set()


def test_every_dependency_has_a_lower_bound_and_no_address(repository: Path) -> None:
    for group, group_requirements in requirements(repository).items():
        for requirement in group_requirements:
            assert requirement.url is None, f"{group}: {requirement}"
            assert [s.operator for s in requirement.specifier][:1] == [">="], f"{group}: {requirement}"
