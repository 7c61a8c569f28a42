"""The tables of what was measured on an emulated ARM machine; see arm64_instructions.py and arm64_deviations.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from records import Record

KINDS = {
    "dot_product": "SDOT", "matrix_product": "SMMLA", "multiply_long": "SMLAL", "multiply_float32": "FMLA",
    "multiply_float16": "FMLA.H",
}  # fmt: skip
"""What is counted beside all instructions, and how the tables call it."""


def share_of_fp32(label: str, artifacts: Mapping[str, Mapping[str, float]]) -> float | None:
    """The instructions of an artifact as a share of those of the same backend in fp32; None where that is missing."""
    base = artifacts.get(f"{label.split()[0]} fp32")
    return None if base is None else artifacts[label]["all"] / base["all"]


def newest_of_each_network(table: Callable[[Record], list[str]]) -> Callable[[dict[str, list[Record]]], list[str]]:
    """The lines of a table of the newest record of each network, an empty one between tables."""

    def block(files: dict[str, list[Record]]) -> list[str]:
        newest = {record["network"]: record for found in files.values() for record in found}
        return [line for record in newest.values() for line in (*table(record), "")][:-1]

    return block


@newest_of_each_network
def instructions_block(record: Record) -> list[str]:
    """A row for each artifact, a pair of columns for each CPU."""
    cpus = record["cpus"]
    heads = [f"{cpu}, million | of fp32" for cpu in cpus]
    lines = [f"| {record['network']} | {' | '.join(heads)} |", f"|---|{'---|' * 2 * len(cpus)}"]
    for label in next(iter(cpus.values())):
        cells = []
        for artifacts in cpus.values():
            share = share_of_fp32(label, artifacts)
            cells.append(f"{artifacts[label]['all'] / 1e6:.2f} | {'-' if share is None else f'{share:.2f}'}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return [*lines, "", f"Emulated by qemu {record['qemu']}, {versions(record)}; no time of any machine."]


@newest_of_each_network
def deviations_block(record: Record) -> list[str]:
    """A row for each CPU and artifact."""
    lines = [
        f"| {record['network']} runs as | on | deviation p95, px | max, px | depth p95 | values unlike x86 "
        "| by at most |",
        "|---|---|---|---|---|---|---|",
    ]
    for label in record["x86"]:
        for cpu, artifacts in {"x86": record["x86"], **record["cpus"]}.items():
            found = artifacts[label]
            moved, depth = found["deviation_px"], found["depth"]
            cells = [
                f"{moved['p95']:.2g}",
                f"{moved['max']:.2g}",
                "-" if depth is None else f"{depth['p95']:.2g} {found['depth_unit']}",
            ]
            unlike = found.get("unlike_x86")
            if unlike is None:
                cells += ["", ""]
            else:
                cells += [f"{unlike['differing']} of {unlike['values']}", f"{unlike['most']:.2g}"]
            lines.append(f"| {label} | {cpu} | {' | '.join(cells)} |")
    return [*lines, "", f"Emulated by qemu {record['qemu']}, {versions(record)}."]


def versions(record: Record) -> str:
    """The engines that ran on both."""
    said = record["environment"]["versions"]
    return ", ".join(f"{name} {said[name]}" for name in ("onnxruntime", "tflite") if name in said)
