"""Tables of a source that was looked at: its input, its outputs, and what they were taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType

from splite_deploy.plain_table import Table, plain

if TYPE_CHECKING:
    from splite_deploy.init.command import Described
    from splite_deploy.runtime.file_facts import FileFacts


def described_tables(described: Described) -> list[RenderableType]:
    """What was seen, why it was taken for what, and what nobody can know."""
    looked = described.looked
    facts = Table.grid(padding=(0, 2))
    rows: list[tuple[str, str]] = []
    if looked is not None:
        size = f"{looked.size[0]} x {looked.size[1]}"
        told = f" ({looked.size_from})" if looked.size_from else ", tried: nothing tells the size of training"
        rows += [("source", looked.form), ("input", f"{looked.image}; run at {size}{told}")]
        rows += [("output", line) for line in looked.given]
        reading = looked.reading
        if reading is None:
            rows.append(
                ("taken for", "nothing known: say what it is with --kind, or choose the decoder in models/README.md")
            )
        else:
            rows += [("taken for", f"{reading.kind}, {reading.keypoints} keypoints")]
            rows += [("because", line) for line in reading.because]
            rows += [("not read", line) for line in reading.unused]
        rows += [("note", note) for note in (*looked.notes, *described.notes)]
    else:
        rows += [("source", "weights without an architecture"), ("note", described.draft.heading[1])]
    for name, value in rows:
        facts.add_row(plain(name, "bold"), value)
    return [facts]


def file_tables(facts: FileFacts | None) -> list[RenderableType]:
    """What a file says of itself; nothing of what no backend runs."""
    if facts is None:
        return []
    grid = Table.grid(padding=(0, 2))
    counts = ", ".join(f"{count} {name}" for name, count in facts.operators.items())
    for name, value in (
        ("file", f"{facts.file}, {facts.size_bytes / 1e6:.2f} MB, {facts.format}"),
        *((("written by", facts.producer),) if facts.producer else ()),
        *((("opset", str(facts.opset)),) if facts.opset else ()),
        ("numbers", f"{facts.precision}: {facts.numbers}"),
        *((("operators", counts),) if counts else ()),
        *((("custom", ", ".join(facts.custom)),) if facts.custom else ()),
    ):
        grid.add_row(plain(name, "bold"), value)
    return [grid]
