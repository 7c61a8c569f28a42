"""The tables of the scripts that set tools and runs side by side; make_tables.py puts them on the page."""

from __future__ import annotations

from statistics import median
from typing import Any

from records import Record, machine, newest_run

from splite_deploy.bench.result import BenchResult
from splite_deploy.bench.tables import markdown_text


def matrix_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for each file of matrix.py: of each combination the run with the median p50."""
    lines: list[str] = []
    for found in files.values():
        cases: dict[tuple[Any, ...], list[Record]] = {}
        for record in found:
            key = tuple(record[name] for name in ("bundle", "backend", "precision", "threads", "batch"))
            cases.setdefault(key, []).append(record)
        ordered = (sorted(runs, key=lambda run: float(run["stages"]["total"]["p50_ms"])) for runs in cases.values())
        shown = [BenchResult.from_dict(runs[(len(runs) - 1) // 2]) for runs in ordered]
        rounds = sorted({len(runs) for runs in cases.values()})
        lines += [
            *markdown_text(shown).splitlines(),
            "",
            f"The median of {' or '.join(map(str, rounds))} runs each.",
            "",
        ]
    return lines[:-1]


def decoders_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for the newest record of each file of decoders.py."""
    lines: list[str] = []
    for found in files.values():
        record = newest_run(found)[-1]
        lines += ["| decoder | p50, µs | p99, µs | mean error, % of box | PCK@0.05 |", "|---|---|---|---|---|"]
        for name, accuracy in record["accuracy"].items():
            times = " | ".join(f"{1e3 * record['latency'][name][key]:.0f}" for key in ("p50_ms", "p99_ms"))
            lines.append(f"| {name} | {times} | {accuracy['mean_error_box_pct']:.2f} | {accuracy['pck_05']:.3f} |")
        shape = " x ".join(map(str, record["heatmap"][1:]))
        lines += [
            "",
            f"{machine(record['environment'])}, one thread; heatmaps of {shape} of {record['checkpoint']}, "
            f"{record['latency'][name]['count']} decodings of each in turn; {accuracy['images']} images.",
            "",
        ]
    return lines[:-1]


def conversion_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for the newest record of each file of onnx2tf_time.py."""
    lines: list[str] = []
    for found in files.values():
        record = newest_run(found)[-1]
        lines += ["| conversion | median, s | fastest | slowest |", "|---|---|---|---|"]
        for name, seconds in record["seconds"].items():
            lines.append(f"| {name} | {median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} |")
        count = len(seconds)
        where = machine(record["environment"])
        lines += [
            "",
            f"{where}; {record['model']}, onnx2tf {record['onnx2tf']}, {count} conversions of each in turn.",
            "",
        ]
    return lines[:-1]


def power_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for the newest record of each file of compare_power.py."""
    lines: list[str] = []
    for found in files.values():
        record = newest_run(found)[-1]
        told = ("slower", "faster", "no difference", "unclear")
        lines += [f"| pairs | {' | '.join(told)} | medians, lowest and highest | undisturbed |", f"|{'---|' * 7}"]
        for kind, what in (("same", "the same file"), ("slowed", f"made {record['slowdown']:.0%} slower")):
            counts = " | ".join(str(record["verdicts"][kind].get(verdict, 0)) for verdict in told)
            ratios = (record[f"{name}_ratios"][kind] for name in ("median", "undisturbed"))
            spans = " | ".join(f"{min(values):.3f} to {max(values):.3f}" for values in ratios)
            lines.append(f"| {what} | {counts} | {spans} |")
        lines += [
            "",
            f"{machine(record['environment'])}; {record['pairs']} pairs of runs of {record['frames']} frames and more, "
            "verdicts on the whole frame.",
            "",
        ]
    return lines[:-1]
