"""Writes the tables of README.md and CARD.md from the recorded results; with --check only says whether they differ."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "models" / "splite_hand" / "CARD.md")
BEGIN, END = "<!-- results: written by benchmarks/make_tables.py -->", "<!-- end of results -->"


def records() -> list[dict[str, Any]]:
    """The newest record of each (file, checkpoint, artifact, threads)."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for file in sorted(RESULTS.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            bench = record["bench"]
            key = (file.stem, record["checkpoint"], bench["backend"], bench["precision"], bench["threads"])
            newest[key] = record
    return list(newest.values())


def accuracy_table(found: list[dict[str, Any]]) -> list[str]:
    """Accuracy and parity: independent of the machine, so one row per checkpoint and artifact."""
    lines = [
        "| checkpoint | size | runs as | mean error, % of box | PCK@0.05 | PA-MPJPE, mm | shift to torch p95, px |",
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
            f"| {accuracy['mean_error_box_pct']:.2f} | {accuracy['pck_05']:.3f} | {accuracy['pa_mpjpe_mm']:.2f} "
            f"| {record['parity'][-1]['shift_px']['p95']:.1e} |"
        )
    images = found[0]["accuracy"]["images"]
    return [*lines, "", f"{images} images; error and PCK relative to the longer side of the labels' tight box."]


def latency_table(found: list[dict[str, Any]]) -> list[str]:
    """One row per machine and artifact."""
    lines = [
        "| machine | runs as | threads | preprocess | inference | decode | total p50 | p90 | p99, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for record in found:
        bench = record["bench"]
        stages, environment = bench["stages"], bench["environment"]
        parts = [stages[name]["p50_ms"] for name in ("preprocess", "inference", "decode", "total")]
        parts += [stages["total"][name] for name in ("p90_ms", "p99_ms")]
        machine = environment["board"] or f"{environment['cpu_model']}, {environment['logical_cores']} cores"
        figures = " | ".join(f"{value:.2f}" for value in parts)
        lines.append(f"| {machine} | {bench['backend']} {bench['precision']} | {bench['threads']} | {figures} |")
    frames = found[0]["bench"]["stages"]["total"]["count"]
    return [*lines, "", f"Batch 1, {frames} frames of real photographs in turn after a warm-up; stages are p50."]


def fill(page: str, block: str) -> str:
    """The page with what lies between the markers replaced."""
    head, rest = page.split(BEGIN)
    return f"{head}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a table differs")
    check = parser.parse_args().check
    found = records()
    block = "\n".join([*accuracy_table(found), "", *latency_table(found)])
    stale = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        filled = fill(text, block)
        if filled != text:
            stale.append(page.name)
            if not check:
                page.write_text(filled, encoding="utf-8")
    if check and stale:
        sys.exit(f"{', '.join(stale)} differ from benchmarks/results; run python benchmarks/make_tables.py")


if __name__ == "__main__":
    main()
