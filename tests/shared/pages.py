"""The pages of the repository, and the commands and code that stand in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCED = re.compile(
    r"^(?:<!-- not run: (?P<why>[^>\n]+) -->\n)?```(?P<language>\w+)\n(?P<body>.*?)^```", re.DOTALL | re.M
)
MARK = re.compile(r"<!-- not run: [^>\n]+ -->")
HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: Behind the fence.
        body: Its lines.
        why: Why it is not run, as the comment before it says; empty where it is.
    """

    language: str
    body: str
    why: str


def blocks(text: str, language: str) -> list[Block]:
    """All fenced blocks of a language, in their order."""
    found = [Block(one["language"], one["body"], one["why"] or "") for one in FENCED.finditer(text)]
    return [block for block in found if block.language == language]


def commands(text: str) -> list[str]:
    """The lines of all blocks of commands that are run."""
    return [line for block in blocks(text, "sh") if not block.why for line in block.body.splitlines() if line.strip()]


def pages() -> list[str]:
    """README.md and every page of docs/, by its path in the repository."""
    return ["README.md", *sorted(file.relative_to(ROOT).as_posix() for file in (ROOT / "docs").rglob("*.md"))]


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def words(text: str) -> int:
    """How many words a reader sees: neither comments nor addresses nor what only draws a table count."""
    seen = re.sub(r"<!--.*?-->", " ", text, flags=re.DOTALL)
    seen = re.sub(r"\]\([^)]*\)", "]", seen)
    return len([word for word in re.split(r"[\s|]+", seen) if re.search(r"\w", word)])
