"""The tables of the C++ runtime; see cpp_runtime.py and cpp_frames.py."""

from __future__ import annotations

from records import Record, machine, newest_of_each

PROGRAMS = {"plain": "as it is", "sanitized": "under the sanitizers"}


@newest_of_each
def cpp_runtime_block(record: Record) -> list[str]:
    """A row for each time, then how far keypoints lie apart, and the size."""
    lines = ["| p50 | C++, ms | Python, ms | ratio |", "|---|---|---|---|"]
    for key, name in (("p50_ms", "image to pose"), ("start_ms", "start-up")):
        cpp, python = record[key]["cpp"], record[key]["python"]
        lines.append(f"| {name} | {cpp:.3g} | {python:.3g} | {cpp / python:.2f} |")
    off, size = record["off_px"], record["program_bytes"] / 1024
    return [
        *lines,
        "",
        f"{record['network']} in {record['precision']}, {record['photographs']} photographs, one thread, both in turn. "
        f"Keypoints of both lie at most {off['max']:.2g} px of the image apart (p95 {off['p95']:.2g}). The program has "
        f"{size:.0f} KiB, stripped, without ONNX Runtime. {machine(record['environment'])}, under a load "
        f"of {record['load']:.0f}: look at the ratios.",
    ]


def cpp_frames_block(files: dict[str, list[Record]]) -> list[str]:
    """A row for each program, of the newest record that has it."""
    records = [record for found in files.values() for record in found]
    runs = {key: run for record in records for key, run in record["runs"].items()}
    lines = ["| program | frames | memory, MiB | growth, KiB | other poses | findings |", "|---|---|---|---|---|---|"]
    for key, run in runs.items():
        held, grown = run["resident_bytes"][-1] / 2**20, run["growth_bytes"] / 1024
        findings = "0" if key == "sanitized" else "-"
        cells = (PROGRAMS[key], f"{run['frames']:,}", f"{held:.1f}", f"{grown:.0f}", str(run["changed"]), findings)
        lines.append(f"| {' | '.join(cells)} |")
    newest = records[-1]
    return [*lines, "", f"{newest['network']} in {newest['precision']}. {machine(newest['environment'])}."]
