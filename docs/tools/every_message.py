"""The page of all messages: what every error of the code says, and its hint, read from the code.

    python docs/tools/every_message.py          prints it

Parts of a message that are computed, such as names and figures, are shown as an ellipsis.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

AREAS = {
    "Commands and options": ("cli",),
    "model.toml": ("spec", "init"),
    "Checkpoints, graphs and export": ("export", "compact"),
    "TFLite files and TensorRT engines": ("compile",),
    "Bundles and updates": ("bundle", "updates", "files", "keeper"),
    "Running: sessions, pictures, videos, cameras": ("runtime", "decoders", "viewer", "children"),
    "Benchmarks, labels and accuracy": ("bench", "metrics"),
    "Other machines": ("remote",),
    "Searches": ("fit",),
    "The machine": ("doctor", "device", "errors", "interruption", "arrays", "text"),
}
"""Titles of the page, and the modules and packages whose messages stand there; what is new comes last."""
ELLIPSIS = "…"
RUN = re.compile(f"{ELLIPSIS}(?: ?{ELLIPSIS})+")
FEWEST_LETTERS = 12
"""A message with less text of its own is one that another place writes."""
MARKUP = re.compile(r"([\\`*_{}\[\]<>#|])")


@dataclass(frozen=True)
class Message:
    """One expected error.

    Attributes:
        place: Path of its module below the package.
        line: Where it is raised.
        message: What it says, computed parts as an ellipsis.
        hint: What to do, in the same form; empty where the hint is computed altogether.
    """

    place: str
    line: int
    message: str
    hint: str


def template(node: ast.expr) -> str:
    """The text of an expression, with an ellipsis for what is computed."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ELLIPSIS
    if isinstance(node, ast.JoinedStr):
        return "".join(map(template, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return template(node.left) + template(node.right)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "Lines":
        return "".join(map(template, node.args))
    return ELLIPSIS


def messages(package: Path) -> Iterator[Message]:
    """Every call in the package that has a hint, and begins with a text of its own."""
    for file in sorted(package.rglob("*.py")):
        place = file.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            hint = next((one.value for one in getattr(node, "keywords", ()) if one.arg == "hint"), None)
            if isinstance(node, ast.Call) and hint is not None and node.args:
                text, advice = (RUN.sub(ELLIPSIS, template(part)) for part in (node.args[0], hint))
                if len(re.findall(r"[a-zA-Z]", text)) >= FEWEST_LETTERS:
                    yield Message(place, node.lineno, text, "" if advice == ELLIPSIS else advice)


def area(place: str) -> str:
    """The title below which the messages of a module stand."""
    first = place.split("/")[0].removesuffix(".py")
    return next((title for title, parts in AREAS.items() if first in parts), list(AREAS)[-1])


def cell(text: str) -> str:
    """A text in a table of Markdown, as it is."""
    return MARKUP.sub(r"\\\1", " ".join(text.split()))


def messages_page(package: Path) -> str:
    """The page, as Markdown."""
    rows: dict[str, dict[str, str]] = {title: {} for title in AREAS}
    for one in messages(package):
        rows[area(one.place)].setdefault(cell(one.message), cell(one.hint))
    lines = [
        "# Every message",
        "",
        f"All expected errors, as the code has them; {ELLIPSIS} stands for names and figures. Search this page for a "
        "few words of yours. Hints that are made up as the error occurs are left out. The most frequent messages are "
        "explained in [Troubleshooting by message](troubleshooting.md).",
    ]
    for title, found in rows.items():
        if not found:
            continue
        lines += ["", f"## {title}", "", "| message | what to do |", "|---|---|"]
        lines += [
            f"| {message} | {hint} |" for message, hint in sorted(found.items(), key=lambda row: row[0].lstrip("…:. "))
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(messages_page(Path(__file__).resolve().parents[2] / "splite_deploy"))
