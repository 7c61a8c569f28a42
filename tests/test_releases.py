"""The environments of `make newest` and `make oldest`: what they ask for is what pyproject.toml allows."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

sys.path.insert(0, str(Path(__file__).parent))

import releases


@pytest.fixture(scope="module")
def project(root: Path) -> dict[str, Any]:
    settings: dict[str, Any] = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    return settings


@pytest.fixture(scope="module")
def bounds(project: dict[str, Any]) -> dict[str, Requirement]:
    """What pyproject.toml names, by the name."""
    groups = project["dependency-groups"].values()
    lines = [*project["project"]["dependencies"], *(one for group in groups for one in group if isinstance(one, str))]
    lines += [one for extra in project["project"]["optional-dependencies"].values() for one in extra]
    found = [Requirement(line) for line in lines if not line.startswith("splite-deploy")]
    return {one.name: one for one in found}


def test_every_dependency_has_a_lower_bound_and_no_upper_one(bounds: dict[str, Requirement]) -> None:
    """Whatever is newest is allowed, and what is oldest can be tested."""
    assert len(bounds) > 25
    for one in bounds.values():
        assert [part.operator for part in one.specifier] == [">="], one


def test_what_the_tests_run_with_is_allowed(bounds: dict[str, Requirement], root: Path) -> None:
    pinned = re.findall(r"(?m)^([\w-]+)==([\w.]+)", (root / "constraints.txt").read_text(encoding="utf-8"))
    allowed = [(name, bounds[name].specifier.contains(version)) for name, version in pinned if name in bounds]
    assert len(allowed) > 20 and all(held for _, held in allowed), allowed


def test_environments_are_of_what_is_there(project: dict[str, Any], bounds: dict[str, Requirement], root: Path) -> None:
    for kind, environments in releases.ENVIRONMENTS.items():
        assert all(one.oldest == (kind == "oldest") for one in environments)
        for one in environments:
            assert set(one.extras) <= set(project["project"]["optional-dependencies"])
            assert set(one.groups) <= set(project["dependency-groups"])
            assert f"Programming Language :: Python :: {one.python}" in project["project"]["classifiers"]
            assert all((root / test).exists() for test in one.tests)
            limits = [Requirement(text) for text in one.constraints]
            for limit in limits:  # chosen where bounds exclude each other, but never beyond the bound
                (least,) = bounds[limit.name].specifier
                (most,) = limit.specifier
                assert most.operator == "<" and Version(least.version) < Version(most.version)


def test_builds_for_cpus_are_sorted_by_their_version() -> None:
    listed = "torch (2.15.0)\nAvailable versions: 2.15.0, 2.13.0+cpu, 2.13.0, 2.9.1+cpu, 2.6.0+cpu, 2.10.0+cu128\n"
    assert releases.cpu_builds(listed) == ["2.6.0+cpu", "2.9.1+cpu", "2.13.0+cpu"]
    assert releases.cpu_builds("Available versions: 2.15.0, 2.14.1\n") == []
