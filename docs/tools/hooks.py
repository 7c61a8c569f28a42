"""What joins the site from outside of docs/, and where links of the repository's pages lead on it.

MkDocs calls these functions by their names (https://www.mkdocs.org/user-guide/configuration/#hooks). Every page keeps
its one place in the repository, with links that work there: README.md is the start page of the site, and a link to a
file that is no page of the site leads to the repository's address.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
from every_message import messages_page

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = {
    "index.md": "README.md",
    "models.md": "models/README.md",
    "results.md": "benchmarks/README.md",
    "docker.md": "docker/README.md",
    "security.md": "SECURITY.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "cards/splite-hand.md": "models/splite_hand/CARD.md",
    "cards/splite-hand2.md": "models/splite_hand2/CARD.md",
    "cards/splite-palm.md": "models/splite_palm/CARD.md",
    "cards/lite-pose.md": "models/lite_pose/README.md",
    "cards/tradeoff.png": "models/splite_hand/tradeoff.png",
}
"""Files of the site, and where they lie in the repository."""
MESSAGES, MESSAGES_MADE_BY = "messages.md", "docs/tools/every_message.py"
"""A page that only the site has; in the repository links to it lead to what makes it."""
FILES = "files/"
"""Where files of the repository lie on the site that its pages link to and that are no pages: code, schemas."""
LINK = re.compile(r"(?<=\]\()([^)\s]+)(?=\))")
FENCE = re.compile(r"^(```|~~~)")
BADGE = re.compile(r"^\[!\[[^\]]*\]\(https:[^)]*\)\]\([^)]*\)$")
"""A picture of the code host, which the site does without: it loads nothing from elsewhere."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages from outside, the one of all messages, and the files that pages link to."""
    from mkdocs.structure.files import File

    for uri, path in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    files.append(File.generated(config, MESSAGES, content=messages_page(ROOT / "splite_deploy")))
    for uri in sorted(linked_files()):
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / uri.removeprefix(FILES))))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads the links of a page to places of the site."""
    uri = page.file.src_uri
    return markdown if uri == MESSAGES else with_links(markdown, uri)


def linked_files() -> set[str]:
    """Places on the site of the files that pages link to and that are no pages."""
    pages = {f"docs/{file.relative_to(ROOT / 'docs').as_posix()}" for file in (ROOT / "docs").rglob("*.md")}
    pages |= {path for path in OUTSIDE.values() if path.endswith(".md")}
    found = set()
    for page in pages:
        for line in prose((ROOT / page).read_text(encoding="utf-8")):
            for target in LINK.findall(line):
                found.add(place(posixpath.dirname(page), target.partition("#")[0]))
    return {uri for uri in found if uri.startswith(FILES)}


def place(folder: str, target: str) -> str:
    """Where on the site a link leads.

    Args:
        folder: Of the page with the link, in the repository.
        target: The link without its anchor.

    Returns:
        A place on the site; empty for an address, a part of the same page, and what is not there: the build reports it.
    """
    if not target or "://" in target or target.startswith("mailto:"):
        return ""
    path = posixpath.normpath(posixpath.join(folder, target))
    sites = {outside: uri for uri, outside in OUTSIDE.items()} | {MESSAGES_MADE_BY: MESSAGES}
    if path in sites:
        return sites[path]
    if path.startswith("docs/") and not path.startswith("docs/tools/"):
        return path.removeprefix("docs/")
    return f"{FILES}{path}" if (ROOT / path).is_file() else ""


def prose(text: str) -> list[str]:
    """The lines of a page, with those of code left empty."""
    lines, fenced = [], False
    for line in text.splitlines():
        edge = bool(FENCE.match(line))
        fenced ^= edge
        lines.append("" if fenced or edge or line.startswith("    ") else line)
    return lines


def with_links(text: str, uri: str) -> str:
    """A page with links that work on the site, and without badges.

    Args:
        text: The page as it lies in the repository.
        uri: Its place on the site.
    """
    folder = posixpath.dirname(OUTSIDE.get(uri, f"docs/{uri}"))

    def lead(found: re.Match[str]) -> str:
        target, mark, anchor = found[1].partition("#")
        site = place(folder, target)
        return posixpath.relpath(site, posixpath.dirname(uri) or ".") + mark + anchor if site else found[1]

    lines = zip(text.splitlines(), prose(text), strict=True)
    led = (LINK.sub(lead, line) if seen else line for line, seen in lines if not BADGE.match(line))
    return "\n".join(led) + "\n"
