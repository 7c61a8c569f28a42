"""CONTRIBUTING.md names the layers that the linter checks, and files that are there."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATH = re.compile(r"`((?:splite_deploy|tests|docs|models|benchmarks)/[\w./*-]+|[A-Z]+\.md)`")


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "CONTRIBUTING.md").read_text(encoding="utf-8")


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    rows = [
        line for line in page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].splitlines() if line[:1] == "|"
    ]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def test_the_layers_are_those_of_the_linter(page: str, root: Path) -> None:
    settings = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (one for one in settings["tool"]["importlinter"]["contracts"] if one["type"] == "layers")
    named = [re.findall(r"`(\w+)`", first) for first, *_ in table(page, "The shape")]
    assert named == [re.findall(r"splite_deploy\.(\w+)", layer) for layer in contract["layers"]]


def test_every_path_leads_to_a_file(page: str, root: Path) -> None:
    paths = [path for path in PATH.findall(page) if "NAME" not in path]
    assert len(paths) > 40
    assert [path for path in paths if not (root / path).exists()] == []


def test_ten_changes_have_a_file_and_the_names_in_it(page: str, root: Path) -> None:
    rows = table(page, "Where is it?")
    assert len(rows) == 10
    for change, begin, then in rows:
        paths = PATH.findall(f"{begin} {then}")
        assert PATH.match(begin) is not None, change
        texts = [(root / path).read_text(encoding="utf-8") for path in paths]
        for symbol in re.findall(r"`(\w+)`", then):
            assert any(re.search(rf"\b{symbol}\b", text) for text in texts), f"{change}: {symbol}"
