"""Writes the tables of the pages from the recorded results; with --check only says whether they differ.

A table lies between two markers. Once there are results of its kind the page has to hold the markers; before that
nothing is required.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arm64_tables import deviations_block, instructions_block
from claims import KINDS, claims_block
from cpp_tables import cpp_frames_block, cpp_runtime_block
from records import RESULT, Record, accuracy_cells, machine, newest_of_each, newest_run, ratio_cell, read_records
from side_by_side import (
    backends_block,
    batch_block,
    conversion_block,
    decoders_block,
    detector_block,
    environments_block,
    first_minutes_block,
    matrix_block,
    network_block,
    pipeline_block,
    power_block,
    profile_block,
    solution_block,
    topologies_block,
    widths_block,
)

ROOT = Path(__file__).parents[1]
RESULTS = Path("benchmarks") / "results"
README, CARD = Path("README.md"), Path("models") / "splite_hand" / "CARD.md"
CARD2 = Path("models") / "splite_hand2" / "CARD.md"
PALM = Path("models") / "splite_palm" / "CARD.md"
HOW = Path("benchmarks") / "README.md"
BACKENDS = Path("docs") / "backends.md"
UPDATES = Path("docs") / "updates.md"
SPLIT = Path("docs") / "split-loading.md"
ALL_KINDS = "all"
"""Of the section that is made of records of several kinds, which its block is given by kind."""


@dataclass(frozen=True)
class Section:
    """A generated part of some pages.

    Attributes:
        name: What the markers call it.
        kind: Of which records it is made; None are those of record.py, which have no kind.
        pages: Where it belongs, relative to the repository.
        block: From the records, by the file that they lie in, to Markdown.
    """

    name: str
    kind: str | None
    pages: tuple[Path, ...]
    block: Callable[[dict[str, list[Record]]], list[str]]

    @property
    def begin(self) -> str:
        """The marker before it."""
        return f"<!-- {self.name}: written by benchmarks/make_tables.py -->"

    @property
    def end(self) -> str:
        """The marker after it."""
        return f"<!-- end of {self.name} -->"

    def fill(self, text: str, lines: list[str]) -> str | None:
        """A page with what lies between the markers replaced; None if they are not there, once and in order."""
        if text.count(self.begin) != 1 or text.count(self.end) != 1 or text.index(self.begin) > text.index(self.end):
            return None
        head, rest = text.split(self.begin)
        return "\n".join([f"{head}{self.begin}", *lines, self.end + rest.split(self.end)[1]])


def results_block(files: dict[str, list[Record]]) -> list[str]:
    """Accuracy and latency of the shipped checkpoints: the newest record of each file, checkpoint and artifact."""
    newest: dict[tuple[Any, ...], Record] = {}
    for name, found in files.items():
        for record in found:
            bench = record["bench"]
            key = (name, record["checkpoint"], bench["backend"], bench["precision"], bench["threads"])
            newest[key] = record
    found = list(newest.values())
    return [*accuracy_table(found), "", *latency_table(found)]


def accuracy_table(found: list[Record]) -> list[str]:
    """Accuracy and parity: independent of the machine, so one row per checkpoint and artifact."""
    lines = [
        "| checkpoint | size | runs as | mean error, % of box | PCK@0.05 | PA-MPJPE, mm | deviation p95, px |",
        "|---|---|---|---|---|---|---|",
    ]
    seen = set()
    for record in found:
        bench, accuracy = record["bench"], record["accuracy"]
        key = (record["checkpoint"], bench["backend"], bench["precision"])
        if key in seen:
            continue
        seen.add(key)
        lines.append(
            f"| {record['checkpoint']} | {record['checkpoint_bytes'] / 1e6:.2f} MB | {key[1]} {key[2]} "
            f"| {accuracy_cells(accuracy)} "
            f"| {record['parity'][-1]['deviation_px']['p95']:.1e} |"
        )
    images = found[0]["accuracy"]["images"]
    return [
        *lines,
        "",
        f"{images} images; error and PCK relative to the longer side of the labels' tight box; deviation from torch.",
    ]


def latency_table(found: list[Record]) -> list[str]:
    """One row per machine and artifact."""
    lines = [
        "| machine | runs as | threads | preprocess | inference | decode | end to end p50 | p90 | p99, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in found:
        bench = record["bench"]
        stages = bench["stages"]
        parts = [stages[name]["p50_ms"] for name in ("preprocess", "inference", "decode", "end_to_end")]
        parts += [stages["end_to_end"][name] for name in ("p90_ms", "p99_ms")]
        figures = " | ".join(f"{value:.2f}" for value in parts)
        where = machine(bench["environment"])
        lines.append(f"| {where} | {bench['backend']} {bench['precision']} | {bench['threads']} | {figures} |")
    frames = found[0]["bench"]["stages"]["end_to_end"]["count"]
    return [*lines, "", f"Batch 1, {frames} frames of real photographs in turn after a warm-up; stages are p50."]


def tradeoff_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for the newest run of each file of tradeoff.py."""
    lines: list[str] = []
    for found in files.values():
        run = newest_run(found)
        lines += [
            "| checkpoint | parameters | MACs | size | latency p50 | p99, ms | speed-up "
            "| mean error, % of box | PCK@0.05 | PA-MPJPE, mm |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for record in run:
            size, latency, speed_up = record["size"], record["latency"], record["speed_up"]
            lines.append(
                f"| {record['name']} | {size['parameters'] / 1e3:.0f} k | {size['macs'] / 1e6:.1f} M "
                f"| {size['checkpoint_bytes'] / 1e6:.2f} MB | {latency['p50_ms']:.3f} | {latency['p99_ms']:.3f} "
                f"| {ratio_cell(speed_up)} "
                f"| {accuracy_cells(record['accuracy'])} |"
            )
        first = run[0]
        lines += [
            "",
            f"{machine(first['environment'])}; ONNX Runtime, fp32, one thread, {first['latency']['count']} "
            f"inferences of each in turn, without pre- and postprocessing. Speed-up: median of {first['reference']} "
            "over that of the row, with its 95 % bootstrap interval.",
            "",
        ]
    return lines[:-1]


def by_kind(folder: Path) -> dict[str, list[Record]]:
    """The records of every kind that the README claims something by, oldest first; empty where one kind is missing."""
    found = {
        kind: sorted(
            (record for records in read_records(folder, kind).values() for record in records),
            key=lambda record: str(record["date_utc"]),
        )
        for kind in KINDS
    }
    return found if all(found.values()) else {}


@newest_of_each
def mediapipe_block(record: Record) -> list[str]:
    """A table for the newest record of each file of mediapipe_hands.py."""
    ours = record["ours"]
    lines = [
        f"| network | file | SHA-256 | latency p50 | p90 | p99, ms | median over {ours} "
        "| mean error, % of box | PCK@0.05 | PA-MPJPE, mm | of strangers: error, % | PCK@0.05 | PA-MPJPE, mm |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, latency in record["latency"].items():
        file, accuracy = record["files"].get(name), record["accuracy"].get(name)
        ratio = record["ratios"].get(name, {}).get(ours)
        times = " | ".join(f"{latency[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms"))
        what = f"{file['bytes'] / 1e6:.2f} MB | `{file['sha256'][:12]}`" if file else " | "
        over = ratio_cell(ratio) if ratio else ""
        sets = (accuracy, record["strangers"].get(name))
        figures = " | ".join(accuracy_cells(one) if one else " | | " for one in sets)
        lines.append(f"| {name} | {what} | {times} | {over} | {figures} |")
    return [
        *lines,
        "",
        f"{machine(record['environment'])}, one thread, batch 1, {latency['count']} inferences of each in turn on "
        f"photographs, {record['checkpoint']} through ONNX Runtime fp32 where nothing else is named, and "
        "MediaPipe's files through LiteRT with XNNPACK. The ratio has its 95 % bootstrap interval.",
        "",
        f"{record['accuracy'][ours]['images']} images, and {record['strangers'][ours]['images']} of people and rooms "
        f"that no training of ours has seen. {record['caveat']}",
    ]


@newest_of_each
def precisions_block(record: Record) -> list[str]:
    """Every artifact of the newest record of each file of precisions.py."""
    side = record["box_side_px"]
    lines = [
        "| runs as | size | latency p50 | speed-up | deviation p95 | max, % of box | peak switches "
        "| mean error, % of box | PCK@0.05 | PA-MPJPE, mm |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    recommendation = record["recommendation"]
    for row in recommendation["rows"]:
        deviation = [f"{100 * row['deviation_px'][key] / side:.2g}" for key in ("p95", "max")]
        lines.append(
            f"| {row['backend']} {row['precision']} | {row['size_bytes'] / 1e6:.2f} MB | {row['p50_ms']:.3f} ms "
            f"| {row['speed_up']:.2f} | {deviation[0]} | {deviation[1]} | {row['peak_switches']} "
            f"| {accuracy_cells(row['accuracy'])} |"
        )
    return [
        *lines,
        "",
        f"{machine(record['environment'])}, one thread, all in one run, in turn. Deviation: of keypoints from the "
        f"torch network's on the {recommendation['rows'][0]['accuracy']['images']} images, relative to the longer "
        f"side of the box; calibrated on {record['calibration']['crops']} other images. Speed-up over fp32 of the "
        f"same backend. `export` says here: {recommendation['reason'].split(': ')[0]}.",
    ]


@newest_of_each
def fused_block(record: Record) -> list[str]:
    """What an estimator takes end to end beyond its model alone, by what is fused into the graph."""
    lines = [
        "| in the graph | preprocess | inference | decode | end to end | model only | overhead, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in record["fused"]:
        stages = ("preprocess", "inference", "decode", "end_to_end", "model_only")
        figures = " | ".join(f"{row['p50_ms'][stage]:.3f}" for stage in stages)
        lines.append(f"| {row['in_graph']} | {figures} | {row['overhead_ms']:.3f} |")
    return [*lines, "", f"{machine(record['environment'])}, ONNX Runtime fp32, one thread, batch 1, p50."]


@newest_of_each
def layers_block(record: Record) -> list[str]:
    """What every artifact is made of."""
    lines = [
        "| runs as | layers, by kind and types, with their share of the time where it can be measured |",
        "|---|---|",
    ]
    for label, groups in record["layers"].items():
        parts = []
        for group in groups:
            share = "" if group["share"] is None else f" ({100 * group['share']:.0f} %)"
            parts.append(f"{group['count']} {group['kind']} {group['types']}{share}")
        lines.append(f"| {label} | {', '.join(parts)} |")
    return [*lines, "", f"{machine(record['environment'])}. LiteRT tells no times of single layers."]


def split_block(files: dict[str, list[Record]]) -> list[str]:
    """A row for each number of parts, of the newest record of each network of split_loading.py."""
    newest = {record["rows"][0]["model"]: record for found in files.values() for record in found}
    lines = [
        "| network | parts | peak, MB | largest part, MB | open, s | frame, s | same bits |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for name, record in newest.items():
        first = record["rows"][0]
        for row in record["rows"]:
            figures = (
                f"{row['peak_mb'] - row['before_mb']:.0f}",
                f"{row['largest_part_bytes'] / 1e6:.0f}",
                *(f"{row[key]:.2f}" for key in ("open_s", "frame_p50_s")),
                "yes" if row["outputs_sha256"] == first["outputs_sha256"] else "no",
            )
            lines.append(f"| {name} | {row['parts']} | {' | '.join(figures)} |")
    machines = dict.fromkeys(machine(record["environment"]) for record in newest.values())
    frames = " or ".join(dict.fromkeys(str(record["frames"]) for record in newest.values()))
    return [
        *lines,
        "",
        f"fp32, one thread, {frames} frames, files in the page cache; memory is over what the process has "
        f"before it opens the bundle. {'; '.join(machines)}, with other work: look at the ratios.",
    ]


def follow_block(files: dict[str, list[Record]]) -> list[str]:
    """A row for each span of the newest record of each bundle and rate of follow_load.py."""
    newest = {(record["bundles"][1], record["fps"]): record for found in files.values() for record in found}
    lines = [
        "| bundle | graph, MB | frames a second | span | frames | p50, ms | p95, ms | p99, ms | longest, ms |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for (name, fps), record in newest.items():
        for span, row in record["spans"].items():
            found = (row[key] for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms"))
            times = " | ".join(f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in found)
            size = f"{record['model_bytes'][1] / 1e6:.1f}"
            lines.append(f"| {name} | {size} | {fps:g} | {span} | {row['frames']} | {times} |")
    machines = dict.fromkeys(machine(record["environment"]) for record in newest.values())
    return [*lines, "", f"fp32, one thread. {'; '.join(machines)}, which other work shared."]


SECTIONS = (
    Section("claims", ALL_KINDS, (README,), claims_block),
    Section("results", None, (CARD,), results_block),
    Section("trade-off", "trade-off", (CARD,), tradeoff_block),
    Section("precisions", "precisions", (CARD,), precisions_block),
    Section("fused", "precisions", (HOW,), fused_block),
    Section("layers", "precisions", (HOW,), layers_block),
    Section("mediapipe", "mediapipe-hands", (HOW,), mediapipe_block),
    Section("solution", "mediapipe-solution", (HOW,), solution_block),
    Section("pipeline", "pipeline", (HOW,), pipeline_block),
    Section("profile", "litert-profile", (HOW,), profile_block),
    Section("matrix", RESULT, (HOW,), matrix_block),
    Section("backends", RESULT, (BACKENDS,), backends_block),
    Section("decoders", "decoders", (HOW,), decoders_block),
    Section("batch", "batch", (HOW,), batch_block),
    Section("conversion", "onnx2tf-time", (HOW,), conversion_block),
    Section("environments", "tflite-environment", (HOW,), environments_block),
    Section("first minutes", "first-minutes", (HOW,), first_minutes_block),
    Section("topologies", "topologies", (HOW,), topologies_block),
    Section("detector", "hand-detector", (PALM,), detector_block),
    Section("widths", "hand-widths", (CARD2,), widths_block),
    Section("any network", "any_network", (HOW,), network_block),
    Section("compare", "compare-power", (HOW,), power_block),
    Section("C++ runtime", "cpp-runtime", (HOW,), cpp_runtime_block),
    Section("C++ frames", "cpp-frames", (HOW,), cpp_frames_block),
    Section("follow load", "follow-load", (UPDATES,), follow_block),
    Section("split loading", "split-loading", (SPLIT,), split_block),
    Section("ARM deviations", "arm64-deviations", (HOW,), deviations_block),
    Section("ARM instructions", "arm64-instructions", (HOW,), instructions_block),
)


def write_tables(root: Path, *, check: bool) -> list[str]:
    """Fills the sections of all pages.

    Args:
        root: The repository.
        check: Change nothing.

    Returns:
        What was out of date, as text.
    """
    stale = []
    for section in SECTIONS:
        files = by_kind(root / RESULTS) if section.kind == ALL_KINDS else read_records(root / RESULTS, section.kind)
        if not files:
            continue
        lines = section.block(files)
        for page in section.pages:
            text = (root / page).read_text(encoding="utf-8")
            filled = section.fill(text, lines)
            if filled is None:
                stale.append(f"{page} lacks the lines '{section.begin}' and '{section.end}': add them")
            elif filled != text:
                stale.append(f"{page}, section '{section.name}', differs from {RESULTS}")
                if not check:
                    (root / page).write_text(filled, encoding="utf-8")
    return stale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a table differs")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository (default: this one)")
    options = parser.parse_args()
    stale = write_tables(options.root, check=options.check)
    lacking = [line for line in stale if "lacks" in line]
    if lacking or (options.check and stale):
        sys.exit("\n".join([*(lacking or stale), "Run python benchmarks/make_tables.py."]))


if __name__ == "__main__":
    main()
