"""What GitHub reads: the workflow runs the command of README, and the forms ask for what can be typed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from splite_deploy.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module")
def workflow(root: Path) -> str:
    return (root / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")


def test_the_workflow_runs_the_test_command(workflow: str, root: Path) -> None:
    assert re.search(r"^ +- run: make test\b", workflow, re.MULTILINE)
    called = re.findall(r"^ *make .*?([\w-]+)(?= *(?:#|$))", (root / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert called == ["test", "test-arm64"]
    for target in ("test-cpp", "test-arm64"):
        assert re.search(rf"^ +- run: make {target}\b", workflow, re.MULTILINE)
    for which in re.search(r"which: \[(.+)\]", workflow).group(1).split(", "):  # type: ignore[union-attr]
        assert (root / ".ci" / which).is_file()


def test_every_python_of_the_classifiers_is_tested(workflow: str, root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert named == ["3.10", "3.11", "3.12", "3.13"]
    quoted = ", ".join(f'"{one}"' for one in named)
    assert f"python: [{quoted}]" in workflow


def test_addresses_are_those_of_one_repository(root: Path, workflow: str) -> None:
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
    home = urls["Homepage"]
    assert all(url.startswith(home) for url in urls.values())
    forms = (root / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text(encoding="utf-8")
    assert f"url: {home}/" in forms
    for url in urls.values():
        kind, _, path = url.removeprefix(home).lstrip("/").partition("/main/")
        assert kind in ("", "issues", "blob", "tree") and (not path or (root / path).exists()), url


@pytest.mark.parametrize("name", ["bug.yml", "idea.yml"])
def test_forms_are_whole(name: str, root: Path) -> None:
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load((root / ".github" / "ISSUE_TEMPLATE" / name).read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    asked = [one for one in form["body"] if one["type"] != "markdown"]
    assert len({one["id"] for one in asked}) == len(asked) and all(one["attributes"]["label"] for one in asked)
    for command in re.findall(r"`splite-deploy ([^`]+)`", str(form)):
        flags = {flag for one in main.commands[command.split()[0]].params for flag in one.opts}
        assert {word for word in command.split() if word.startswith("--")} <= flags, command


def test_the_workflow_is_yaml(workflow: str) -> None:
    yaml = pytest.importorskip("yaml")
    jobs = yaml.safe_load(workflow)["jobs"]
    assert set(jobs) == {"test", "cpp", "arm64", "releases"} and all(job["steps"] for job in jobs.values())
