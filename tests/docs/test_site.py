"""The site of docs/ builds without a warning, has a place for every public name, and explains messages of the code."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pytest
from pages import read

if TYPE_CHECKING:
    from conftest import MadeOnce

TOOLS = Path(__file__).parents[2] / "docs" / "tools"
sys.path.insert(0, str(TOOLS))
from every_message import messages
from hooks import OUTSIDE, with_links

NEEDS = ("mkdocs", "material", "mkdocstrings", "mkdocs_click")
ELSEWHERE = {"splite_deploy.cli": "commands.html"}
"""Packages whose names are no part of the reference, and the page that describes what they do."""
NO_MESSAGE = {"Keypoints are there and wrong", "Unstable"}
"""Headings of the troubleshooting that no error says."""


def python_of_the_site() -> str:
    """The Python that has MkDocs: this one, or that which SPLITE_TESTS_DOCS names."""
    if all(map(find_spec, NEEDS)):
        return sys.executable
    named = os.environ.get("SPLITE_TESTS_DOCS")
    if not named:
        pytest.skip(
            "MkDocs is not installed: pip install --group docs, or name a Python that has it in SPLITE_TESTS_DOCS"
        )
    return named


@pytest.fixture(scope="module")
def site(root: Path, made_once: MadeOnce) -> Path:
    """The site, built as `make docs` builds it, which fails on the first warning. Read only."""
    python = python_of_the_site()

    def fill(folder: Path) -> None:
        build = [python, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")]
        settings = {
            **os.environ,
            "PYTHONPATH": str(root),
            "NO_MKDOCS_2_WARNING": "1",
            "DISABLE_MKDOCS_2_WARNING": "true",
        }
        done = subprocess.run(build, cwd=root, capture_output=True, text=True, check=False, env=settings)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARNING" not in done.stderr

    return made_once("site", fill) / "site"


def public_names(root: Path) -> Iterator[tuple[str, str]]:
    """Packages and the names that they export."""
    for file in sorted((root / "splite_deploy").rglob("__init__.py")):
        package = ".".join(file.parent.relative_to(root).parts)
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                yield from ((package, name) for name in ast.literal_eval(node.value))


@pytest.mark.slow
def test_every_public_name_has_a_place_in_the_reference(root: Path, site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    described = {line.split(" ")[0] for line in zlib.decompress(inventory).decode().splitlines()}
    public = list(public_names(root))
    assert len(public) > 130
    assert [f"{package}.{name}" for package, name in public if package not in ELSEWHERE
            and f"{package}.{name}" not in described] == []  # fmt: skip
    assert all((site / page).is_file() for page in ELSEWHERE.values())
    twins = set(re.findall(r"`(splite_deploy(?:\.\w+)+)`", read("docs/application.md")))
    assert [twin for twin in twins - {"splite_deploy.SpliteError"} if twin not in described] == []


@pytest.mark.slow
def test_every_command_and_option_is_on_the_site(site: Path) -> None:
    from splite_deploy.cli import main

    text = (site / "commands.html").read_text(encoding="utf-8")
    for name, command in main.commands.items():
        assert f'id="splite-deploy-{name}"' in text, name
        assert [one.opts[0] for one in command.params if one.opts[0].startswith("-") and one.opts[0] not in text] == []


@pytest.mark.slow
def test_pages_from_outside_and_their_links(root: Path, site: Path) -> None:
    assert [uri for uri in OUTSIDE if not (site / uri.replace(".md", ".html")).is_file()] == []
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in ("get-started.html", "models.html", "results.html", "recipes/rtmpose.html", "security.html"):
        assert f'href="{page}' in start
    assert not (site / "tools").exists()
    schema = root / "splite_deploy" / "bench" / "schema.json"
    assert (site / "files" / "splite_deploy" / "bench" / "schema.json").read_bytes() == schema.read_bytes()


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(https?:[^"]*)"', text)
        assert loaded == [], page


@pytest.mark.slow
def test_every_link_of_every_page_resolves(site: Path) -> None:
    """In what was built, navigation and reference included; addresses elsewhere are listed by docs/tools/links.py."""
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    names = {page: set(re.findall(r'\b(?:id|name)="([^"]+)"', text)) for page, text in texts.items()}
    dead = []
    for page, text in texts.items():
        for target, anchor in re.findall(r'\bhref="([^"#]*)(?:#([^"]*))?"', text):
            if re.match(r"[a-z]+:", target) or page.name == "404.html":
                continue
            there = (page.parent / unquote(target)).resolve() if target else page
            named = not anchor or there.suffix != ".html" or unquote(anchor) in names.get(there, set())
            if not there.exists() or not (named or anchor.startswith("__")):
                dead.append(f"{page.relative_to(site)}: {target}#{anchor}")
    assert dead == []


def test_links_of_a_page_lead_to_places_of_the_site() -> None:
    text = "[a](../../SECURITY.md#in-short), [b](hrnet.md), [c](https://e.org), [d](../../tests/gpu/run.sh), [e](#f)"
    assert with_links(text, "recipes/rtmpose.md") == (
        "[a](../security.md#in-short), [b](hrnet.md), [c](https://e.org), [d](../files/tests/gpu/run.sh), [e](#f)\n"
    )
    assert with_links("[a](../SECURITY.md)", "view.md") == "[a](security.md)\n"
    assert with_links("[a](docs/view.md)", "index.md") == "[a](view.md)\n"
    assert with_links("[a](tools/every_message.py)", "troubleshooting.md") == "[a](messages.md)\n"
    assert with_links("a\n[![b](https://e.org/b.svg)](https://e.org)\n", "index.md") == "a\n"
    fenced = "```md\n[a](docs/view.md)\n```\n"
    assert with_links(fenced, "index.md") == fenced
    assert with_links("[a](gone.md)", "models.md") == "[a](gone.md)\n"  # which the build reports


def test_what_troubleshooting_explains_are_messages_of_the_code(root: Path) -> None:
    said = {one.message for one in messages(root / "splite_deploy")}
    assert len(said) > 450
    headings = re.findall(r"^### (.+)$", read("docs/troubleshooting.md"), re.MULTILINE)
    assert len(headings) > 35
    assert [one for one in headings if one not in NO_MESSAGE and not any(one in message for message in said)] == []
    quoted = re.findall(r"^\| `([^`]+)`", read("docs/int8.md"), re.MULTILINE)
    assert quoted and all(any(one in message for message in said) for one in quoted), quoted
