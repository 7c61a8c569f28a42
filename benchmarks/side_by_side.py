"""The tables of the scripts that set tools and runs side by side; make_tables.py puts them on the page."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from matrix import median_run
from records import Record, accuracy_cells, machine, newest_of_each, newest_run, ratio_cell

from splite_deploy.bench.report.side_by_side import ran_in
from splite_deploy.bench.report.tables import machine as bench_machine
from splite_deploy.bench.report.tables import markdown_text
from splite_deploy.bench.result import BenchResult

BACKENDS = "-backends"
"""The end of the names of files with a run of 'splite-deploy bench' over several backends."""


def backends_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for the newest run of each file of backends: what each makes of every precision that it has."""
    lines: list[str] = []
    for name, found in files.items():
        if not name.endswith(BACKENDS):
            continue
        results = [BenchResult.from_dict(record) for record in newest_run(found)]
        lines += [
            "| runs as | file, MB | least, ms | p50 | p99 | moves keypoints by, px (p95) | max, px | compared on "
            "| ran in |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for one in results:
            stats, moved = one.stages["end_to_end"], one.deviation
            times = " | ".join(f"{value:.2f}" for value in (stats.min_ms, stats.p50_ms, stats.p99_ms))
            deviation = " | " * 2
            if moved is not None:
                where = "by the export" if moved.origin == "recorded" else "in this run"
                deviation = (
                    f"{moved.deviation_px.p95:.2g} | {moved.deviation_px.max:.2g} | {moved.crops} crops, {where}"
                )
            size = (one.model_bytes or 0) / 1e6
            lines.append(f"| {one.label} | {size:.2f} | {times} | {deviation} | {', '.join(ran_in(one))} |")
        first = results[0]
        load = first.environment.load_average_1min or 0.0
        busy = f", while other work kept it busy (load {load:.0f}): look at the least" if load > 2 else ""
        threads = "default threads" if first.threads is None else f"{first.threads} thread{'s'[: first.threads > 1]}"
        versions = ", ".join(
            f"{package} {first.environment.versions[package]}"
            for package in ("onnxruntime", "tflite", "openvino", "ncnn")
            if package in first.environment.versions
        )
        lines += ["", f"{bench_machine(first.environment)}{busy}; {threads}, {versions}.", ""]
    return lines[:-1]


def matrix_block(files: dict[str, list[Record]]) -> list[str]:
    """A table for each file of matrix.py: of each combination the run with the median p50."""
    lines: list[str] = []
    for name, found in files.items():
        if name.endswith(BACKENDS):
            continue
        cases: dict[tuple[Any, ...], list[Record]] = {}
        for record in found:
            key = tuple(record[name] for name in ("bundle", "backend", "precision", "threads", "batch"))
            cases.setdefault(key, []).append(record)
        in_order = (cases[key] for key in sorted(cases, key=str))
        shown = [median_run([BenchResult.from_dict(run) for run in runs]) for runs in in_order]
        rounds = sorted({len(runs) for runs in cases.values()})
        lines += [
            *markdown_text(shown).splitlines(),
            "",
            f"The median of {' or '.join(map(str, rounds))} runs each.",
            "",
        ]
    return lines[:-1]


@newest_of_each
def decoders_block(record: Record) -> list[str]:
    """A table for the newest record of each file of decoders.py."""
    lines = ["| decoder | p50, µs | p99, µs | mean error, % of box | PCK@0.05 |", "|---|---|---|---|---|"]
    for name, accuracy in record["accuracy"].items():
        times = " | ".join(f"{1e3 * record['latency'][name][key]:.0f}" for key in ("p50_ms", "p99_ms"))
        lines.append(f"| {name} | {times} | {accuracy['mean_error_box_pct']:.2f} | {accuracy['pck_05']:.3f} |")
    shape = " x ".join(map(str, record["heatmap"][1:]))
    return [
        *lines,
        "",
        f"{machine(record['environment'])}, one thread; heatmaps of {shape} of {record['checkpoint']}, "
        f"{record['latency'][name]['count']} decodings of each in turn; {accuracy['images']} images.",
    ]


@newest_of_each
def conversion_block(record: Record) -> list[str]:
    """A table for the newest record of each file of onnx2tf_time.py."""
    lines = ["| conversion | median, s | fastest | slowest |", "|---|---|---|---|"]
    for name, seconds in record["seconds"].items():
        lines.append(f"| {name} | {median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f} |")
    count = len(seconds)
    where = machine(record["environment"])
    return [
        *lines,
        "",
        f"{where}; {record['model']}, {record['onnx2tf']}, {count} conversions of each in turn.",
    ]


@newest_of_each
def batch_block(record: Record) -> list[str]:
    """A table for the newest record of each file of batch.py."""
    crops = record["crops"]
    lines = [
        f"| artifact | {crops} calls, ms | one of {crops} | ratio | {crops} inferences, ms | one of {crops} | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, parts in record["artifacts"].items():
        cells = []
        for part in ("estimator", "session"):
            single, batch = (parts[part][way] for way in ("single", "batch"))
            cells += [f"{one['minimum_ms']:.2f} ({one['median_ms']:.2f})" for one in (single, batch)]
            ratios = [batch[key] / single[key] for key in ("minimum_ms", "median_ms")]
            cells.append(f"{ratios[0]:.2f} ({ratios[1]:.2f})")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"{machine(record['environment'])}, one thread; minima, and medians in brackets, of {record['frames']} runs of "
        "each in turn.",
    ]


@newest_of_each
def environments_block(record: Record) -> list[str]:
    """A table for the newest record of each file of tflite_environment.py."""
    lines = ["| environment | made in, s | CPU time, s | MB |", "|---|---|---|---|"]
    for made in record["made"]:
        size = made["bytes"] / 1e6
        lines.append(f"| {made['environment']} | {made['seconds']:.0f} | {made['cpu_seconds']:.0f} | {size:.0f} |")
    return [*lines, "", f"{machine(record['environment'])}."]


_UNREACHABLE = "its models cannot be downloaded here"


def first_minutes_block(files: dict[str, list[Record]]) -> list[str]:
    """What each road of first_minutes.py takes by its newest record, and whether it leads to a picture with hands."""
    lines = [
        "| package | characters typed | packages | download, MB | on disk, MB | to install | to the picture "
        "| CPU time of both | hands found |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    newest: dict[str, Record] = {}
    for record in sorted((one for found in files.values() for one in found), key=lambda one: one["date_utc"]):
        newest |= dict.fromkeys(record["roads"], record)
    for name, record in newest.items():
        road = record["roads"][name]
        seconds, hands = dict(road["seconds"]), road["hands"]
        run_s, cpu_s = seconds.pop("run"), sum(road["cpu_seconds"].values())
        unreachable = any(word in road["error"] for word in ("urlopen", "URLError", "HTTP", "onnection"))
        found = f"{hands} of 2" if road["drawn"] else f"none: {_UNREACHABLE if unreachable else road['error']}"
        lines.append(
            f"| {name} {road['version']} | {road['typed']} | {road['packages']} | {road['download_bytes'] / 1e6:.0f} "
            f"| {road['disk_bytes'] / 1e6:.0f} | {sum(seconds.values()) / 60:.1f} min "
            f"| {f'{run_s / 60:.1f} min' if road['drawn'] else '-'} | {cpu_s:.0f} s | {found} |"
        )
    load = max(record["load"] for record in newest.values())
    busy = f", while other work kept it busy (load {load:.0f}): look at the CPU time" if load > 2 else ""
    environment = newest[next(iter(newest))]["environment"]
    return [
        *lines,
        "",
        f"{machine(environment)}{busy}, {environment['python']}. Ours verifies and times both networks besides. "
        "Downloads come from an index nearby.",
    ]


WIDTHS_WAYS = ("ort fp32", "ort int8", "tflite fp32", "tflite int8")
_LITE = "hand_landmark_lite"


@newest_of_each
def widths_block(record: Record) -> list[str]:
    """Candidates of hand_widths.py by the least time of all runs, which other work on the machine disturbs least."""
    lines = [
        f"| channels; blocks; head | parameters | MACs | {' | '.join(WIDTHS_WAYS)} | int8 file | lite over it |",
        f"|---|---|---|{'---|' * len(WIDTHS_WAYS)}---|---|",
    ]
    lite_ms = record[_LITE]["min_ms"]
    for network in record["networks"].values():
        shape = "; ".join(" ".join(map(str, network["arguments"][name])) for name in ("channels", "blocks", "head"))
        partial = ", partial" if network["arguments"].get("partial") else ""
        times = [network[way]["latency"]["min_ms"] if way in network else None for way in WIDTHS_WAYS]
        cells = [f"{network['parameters'] / 1e3:.0f} k", f"{network['macs'] / 1e6:.1f} M"]
        cells += ["no" if time is None else f"{time:.3f}" for time in times]
        best = times[-1]
        size_mb = "" if best is None else f"{network[WIDTHS_WAYS[-1]]['bytes'] / 1e6:.2f} MB"
        cells += [size_mb, "" if best is None else f"{lite_ms / best:.1f}"]
        lines.append(f"| {shape}{partial} | {' | '.join(cells)} |")
    least = f"one thread, all in turn, the least of {record[_LITE]['count']} runs in ms; {_LITE} {lite_ms:.2f}"
    return [*lines, "", f"{machine(record['environment'])}; {least}."]


@newest_of_each
def detector_block(record: Record) -> list[str]:
    """Accuracy and time of every artifact of the hand detector, from hand_detector.py."""
    lines = [
        "| runs as | size | pictures | AP@0.3 | AP@0.5 | found at 0.3 | at 0.5 | false alarms in 100 "
        "| angle off p50, p95, degrees | inference, ms | of the hand network's |",
        f"|{'---|' * 11}",
    ]
    for label, row in record["artifacts"].items():
        for name, its in row["accuracy"].items():
            shares = [f"{its[key]:.3f}" for key in ("ap_30", "ap_50", "recall_30", "recall_50")]
            alarms = f"{100 * its['false_alarms']:.0f}" if "false_alarms" in its else ""
            times = [f"{row['latency']['min_ms']:.3f}", f"{row['over_hand']['value']:.2f}"]
            angles = f"{its['angle_p50_deg']:.1f}, {its['angle_p95_deg']:.1f}"
            cells = [f"{row['bytes'] / 1e6:.2f} MB", f"{its['boxes']:.0f} hands of {name}", *shares, alarms, angles]
            lines.append(f"| {label} | {' | '.join([*cells, *times])} |")
    first = next(iter(next(iter(record["artifacts"].values()))["accuracy"].values()))
    return [
        *lines,
        "",
        f"{machine(record['environment'])}, one thread, all in turn with {record['hand']}; inference: the least, "
        f"its ratio that of medians. Found: at the threshold of {first['min_score']:g}, by overlaps of 0.3 and 0.5.",
    ]


def topologies_block(files: dict[str, list[Record]]) -> list[str]:
    """The newest record of topologies.py, the reasons of what does not work, and the counts of earlier ones."""
    records = [record for found in files.values() for record in found]
    newest = records[-1]
    lines = [*cell_table(newest["cells"]), ""]
    lines += [f"{one['label'] or 'Now'}: {cell_count(one['cells'])}." for one in records]
    lines += ["", "What does not work says:", ""] if any(cell["reason"] for cell in newest["cells"]) else []
    for cell in newest["cells"]:
        if cell["reason"]:
            lines.append(f"* {cell['name']}, {cell['backend']} {cell['precision']}: {cell['reason']}")
    return lines


def cell_table(cells: list[Record]) -> list[str]:
    """Markdown: a row for each topology, a column for each artifact."""
    columns = list(dict.fromkeys((cell["backend"], cell["precision"]) for cell in cells))
    found = {(cell["name"], cell["backend"], cell["precision"]): cell for cell in cells}
    lines = [f"| topology | {' | '.join(map(' '.join, columns))} |", f"|---|{'---|' * len(columns)}"]
    for name in dict.fromkeys(cell["name"] for cell in cells):
        row = (found.get((name, *column)) for column in columns)
        lines.append(f"| {name} | {' | '.join('' if cell is None else cell_text(cell) for cell in row)} |")
    return lines


def cell_text(cell: Record) -> str:
    """How far an artifact moves keypoints, and how many layers of int8 went back to float."""
    if cell["reason"]:
        return "no"
    text = "builds" if cell["backend"] == "trt" else ""
    if cell["p95_px"] is not None:
        text = f"{text}, {cell['p95_px']:.3f} px".removeprefix(", ")
    return text if cell["layers"] is None else f"{text}, {cell['floats']} of {cell['layers']} layers in float"


def cell_count(cells: list[Record]) -> str:
    """How many work."""
    return f"{sum(not cell['reason'] for cell in cells)} of {len(cells)} cells work"


@newest_of_each
def network_block(record: Record) -> list[str]:
    """The newest record of any_network.py."""
    return [*network_table(record["rows"]), "", f"{machine(record['environment'])}."]


def network_table(rows: Sequence[Record]) -> list[str]:
    """Markdown: a row for each network, below it what is missing and why, and what was edited by hand."""
    columns = list(dict.fromkeys(f"{cell['backend']} {cell['precision']}" for row in rows for cell in row["cells"]))
    lines = [f"| network | decoder | edited lines | {' | '.join(columns)} |", "|---" * (3 + len(columns)) + "|"]
    for row in rows:
        cells = [network_cell(cell) for cell in row["cells"]] or ["no"] * len(columns)
        lines.append(f"| {row['name']} | `{row['decoder']}` | {len(row['edits'])} | {' | '.join(cells)} |")
    missing = [f"* {row['name']}: {row['reason']}" for row in rows if row["reason"]]
    missing += [
        f"* {row['name']}, {cell['backend']} {cell['precision']}: {cell['reason']}"
        for row in rows
        for cell in row["cells"]
        if cell["reason"]
    ]
    lines += ["", "What is missing says:", "", *missing] if missing else []
    edits = [f"* {row['name']}: {'; '.join(f'`{line}`' for line in row['edits'])}" for row in rows if row["edits"]]
    return [*lines, *(["", "Edited lines:", "", *edits] if edits else [])]


def network_cell(cell: Record) -> str:
    """Deviation, size, shortest and median time of an artifact, and what went back to float."""
    if cell["reason"]:
        return "no"
    floats = f", {cell['floats']} of {cell['layers']} layers in float" if cell["floats"] else ""
    times = f"{cell['min_ms']:.2f} / {cell['p50_ms']:.2f} ms"
    return f"{cell['p95_px']:.3f} px, {cell['size_bytes'] / 1e6:.2f} MB, {times}{floats}"


@newest_of_each
def power_block(record: Record) -> list[str]:
    """A table for the newest record of each file of compare_power.py."""
    told = ("slower", "faster", "no difference", "unclear")
    lines = [f"| pairs | {' | '.join(told)} | medians, lowest and highest | minimum |", f"|{'---|' * 7}"]
    for kind, what in (("same", "the same file"), ("slowed", f"made {record['slowdown']:.0%} slower")):
        counts = " | ".join(str(record["outcomes"][kind].get(outcome, 0)) for outcome in told)
        ratios = (record[f"{name}_ratios"][kind] for name in ("median", "minimum"))
        spans = " | ".join(f"{min(values):.3f} to {max(values):.3f}" for values in ratios)
        lines.append(f"| {what} | {counts} | {spans} |")
    return [
        *lines,
        "",
        f"{machine(record['environment'])}; {record['pairs']} pairs of runs of {record['frames']} frames and more, "
        "outcomes end to end.",
    ]


@newest_of_each
def solution_block(record: Record) -> list[str]:
    """A table for the newest record of each file of mediapipe_solution.py."""
    lines = [
        f"| tracker | following p50 | p90 | p99, ms | median over {record['ours']} | first frame p50, ms "
        "| lost | mean error, % of box | PCK@0.05 | PA-MPJPE, mm |",
        f"|{'---|' * 10}",
    ]
    for name, latency in record["latency"].items():
        accuracy, ratio = record["accuracy"][name], record["ratios"].get(name)
        times = " | ".join(f"{latency[key]:.2f}" for key in ("p50_ms", "p90_ms", "p99_ms"))
        over = ratio_cell(ratio) if ratio else ""
        lines.append(
            f"| {name} | {times} | {over} | {record['first'][name]['p50_ms']:.2f} | {accuracy['lost']} "
            f"| {accuracy_cells(accuracy)} |"
        )
    width, height = record["frame_px"]
    return [
        *lines,
        "",
        f"{machine(record['environment'])}, all on one core; {record['clips']} clips of {width} x {height} px, ten "
        f"frames of each after the hand is found; {record['checkpoint']}, mediapipe {record['mediapipe']}. Error "
        f"and PCK of the {accuracy['images']} clips in which all of them follow a hand.",
    ]


@newest_of_each
def pipeline_block(record: Record) -> list[str]:
    """Two tables for the newest record of each file of pipeline.py: what was found, and how calm it is."""
    names = list(record["found"])
    reference = next((name for name in reversed(names) if not name.startswith("solutions")), names[0])
    lines = [
        f"| clips | pipeline | per frame p50 (minimum), ms | over {reference} | found, % | found well, % "
        "| error, % of box | wrong in 100 frames | id switches | lost after frames | id again |",
        f"|{'---|' * 11}",
    ]
    calm = ["| pipeline | still, px | calmed | shake, px | calmed | late, ms | calmed |", f"|{'---|' * 7}"]
    for kind, clips in record["clips"].items():
        for name in names:
            times, found = record["latency"][name][kind], record["found"][name][kind]
            others = record["latency"][reference][kind]
            over = " / ".join(f"{times[key] / others[key]:.2f}" for key in ("p50_ms", "minimum_ms"))
            left = found["left"]
            again = f"{found['id_again']} of {left}" if left else ""
            lines.append(
                f"| {clips} {kind} | {name} | {times['p50_ms']:.2f} ({times['minimum_ms']:.2f}) | {over} "
                f"| {found['found_pct']:.1f} | {found['close_pct']:.1f} | {_number(found['error_box_pct'], 2)} "
                f"| {found['wrong_per_100_frames']:.1f} | {found['switches']} "
                f"| {_number(found['lose_frames_most'], 0)} | {again} |"
            )
    for name in names:
        cells = [
            _number(_mean_of(record[which][name], key), digits)
            for key, digits in (("still_px", 3), ("shake_px", 2), ("behind_ms", 1))
            for which in ("found", "smoothed")
        ]
        calm.append(f"| {name} | {' | '.join(cells)} |")
    width, height = record["frame_px"]
    with_what = f", mediapipe {record['mediapipe']}" if record["mediapipe"] else ""
    return [
        *lines,
        "",
        *calm,
        "",
        f"{machine(record['environment'])}, all on one core; clips of {width} x {height} px of the split "
        f"{record['split']}; {record['checkpoint']} with the detector {record['detector']}{with_what}. Trembling and "
        "lag are means over the kinds of clips.",
    ]


def _mean_of(kinds: Record, key: str) -> float | None:
    """The mean over the kinds of clips that have it."""
    values = [found[key] for found in kinds.values() if found[key] is not None]
    return sum(values) / len(values) if values else None


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


@newest_of_each
def profile_block(record: Record) -> list[str]:
    """A table for the newest record of each file of litert_profile.py."""
    lines = ["| network | operators | µs | share | MMAC | GMAC/s |", f"|{'---|' * 6}"]
    for name, network in record["networks"].items():
        all_macs = sum(group["macs"] for group in network["kinds"])
        rows = [
            {
                "kind": "all",
                "count": len(network["layers"]),
                "time_us": network["time_us"],
                "share": 1.0,
                "macs": all_macs,
            },
            *network["kinds"],
        ]
        for row in rows:
            macs, time_us = row["macs"], row["time_us"]
            rate = f"{macs / 1e6:.1f} | {macs / time_us / 1e3:.0f}" if macs else " | "
            share = round(100 * row["share"])
            lines.append(f"| {name} | {row['count']} {row['kind']} | {round(time_us)} | {share} % | {rate} |")
    return [
        *lines,
        "",
        f"{machine(record['environment'])}, one thread, {record['frames']} inferences of every beginning in turn.",
    ]
