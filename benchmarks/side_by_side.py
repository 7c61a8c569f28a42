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
        in_order = [cases[key] for key in sorted(cases, key=str)]
        ordered = (sorted(runs, key=lambda run: float(run["stages"]["total"]["p50_ms"])) for runs in in_order)
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


def solution_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for the newest record of each file of mediapipe_solution.py."""
    lines: list[str] = []
    for found in files.values():
        record = newest_run(found)[-1]
        lines += [
            f"| tracker | following p50 | p90 | p99, ms | median over {record['ours']} | first frame p50, ms "
            "| lost | mean error, % of box | PCK@0.05 | PA-MPJPE, mm |",
            f"|{'---|' * 10}",
        ]
        for name, latency in record["latency"].items():
            accuracy, ratio = record["accuracy"][name], record["ratios"].get(name)
            times = " | ".join(f"{latency[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms"))
            over = f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})" if ratio else ""
            lines.append(
                f"| {name} | {times} | {over} | {record['first'][name]['p50_ms']:.2f} | {accuracy['lost']} "
                f"| {accuracy['mean_error_box_pct']:.2f} | {accuracy['pck_05']:.3f} | {accuracy['pa_mpjpe_mm']:.2f} |"
            )
        width, height = record["frame_px"]
        lines += [
            "",
            f"{machine(record['environment'])}, all on one core; {record['clips']} clips of {width} x {height} px, ten "
            f"frames of each after the hand is found; {record['checkpoint']}, mediapipe {record['mediapipe']}. Error "
            f"and PCK of the {accuracy['images']} clips in which all of them follow a hand.",
            "",
        ]
    return lines[:-1]


def profile_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for the newest record of each file of litert_profile.py."""
    lines: list[str] = []
    for found in files.values():
        record = newest_run(found)[-1]
        lines += ["| network | operators | µs | share | MMAC | GMAC/s |", f"|{'---|' * 6}"]
        for name, network in record["networks"].items():
            whole = sum(group["macs"] for group in network["kinds"])
            rows = [
                {
                    "kind": "all",
                    "count": len(network["layers"]),
                    "time_us": network["time_us"],
                    "share": 1.0,
                    "macs": whole,
                },
                *network["kinds"],
            ]
            for row in rows:
                rate = " | ".join((f"{row['macs'] / 1e6:.1f}", f"{row['macs'] / row['time_us'] / 1e3:.0f}"))
                share = round(100 * row["share"])
                lines.append(
                    f"| {name} | {row['count']} {row['kind']} | {round(row['time_us'])} | {share} % "
                    f"| {rate if row['macs'] else ' | '} |"
                )
        lines += [
            "",
            f"{machine(record['environment'])}, one thread, {record['frames']} inferences of every beginning in turn.",
            "",
        ]
    return lines[:-1]
