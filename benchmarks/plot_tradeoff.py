"""Draws accuracy over latency from what tradeoff.py recorded.

    python benchmarks/plot_tradeoff.py benchmarks/results/tradeoff.jsonl --out models/splite_hand/tradeoff.png

With --mediapipe benchmarks/results/mediapipe-hands.jsonl a line marks the error of MediaPipe's landmark-lite network.
Needs matplotlib.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import Any

from records import Record, machine, newest_run, read_records

from splite_deploy.errors import MissingDependencyError, SpliteError, UsageError
from splite_deploy.files import write_file

# Blue and vermilion of Okabe & Ito (2008), which people with any colour vision tell apart; shapes differ as well
DENSE, COMPACTED, GUIDE = "#0072B2", "#D55E00", "#666666"
PANELS = (("mean_error_box_pct", "mean error, % of box"), ("pa_mpjpe_mm", "PA-MPJPE, mm"))
LITE = "hand_landmark_lite"
WIDTH_IN, HEIGHT_IN, DPI = 8, 7, 150  # 10 pt are 14 px where the picture is shown 800 px wide


def newest(file: Path, kind: str) -> list[Record]:
    """The newest run in a file.

    Raises:
        UsageError: It holds none of this kind.
    """
    found = read_records(file.parent, kind).get(file.stem) if file.is_file() else None
    if found is None:
        raise UsageError(
            f"{file} holds no record of the kind '{kind}'.", hint="benchmarks/README.md says how to make one."
        )
    return newest_run(found)


def label(record: Record) -> str:
    """What stands beside a point: its name, size, and speed-up."""
    size = f"{record['size']['parameters'] / 1e3:.0f} k parameters"
    if record["name"] == record["reference"]:
        return f"{record['name']}\n{size}"
    return f"{record['name']}\n{size}, {record['speed_up']['value']:.2f}x"


def draw(records: list[Record], lite: Record | None) -> bytes:
    """The picture as PNG.

    Args:
        records: One run of tradeoff.py.
        lite: Figures of landmark-lite, as ``accuracy`` of mediapipe_hands.py has them; None draws no line.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as err:
        raise MissingDependencyError("matplotlib is not installed.", hint="pip install matplotlib") from err
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    axes = figure.subplots(len(PANELS), 1, sharex=True)
    run = sorted(records, key=lambda record: float(record["latency"]["p50_ms"]))
    for axis, (key, title) in zip(axes, PANELS, strict=True):
        panel(axis, run, key, None if lite is None else float(lite[key]))
        axis.set_ylabel(title)
    figure.align_ylabels(axes)
    first = run[0]
    conditions = f"{machine(first['environment'])}, ONNX Runtime, fp32, one thread"
    axes[-1].set_xlabel(f"median latency of one inference, ms ({conditions})")
    axes[0].set_title(f"Agreement with the labels of {first['accuracy']['images']} photographs: lower left is better")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    return stream.getvalue()


def panel(axis: Any, run: list[Record], key: str, guide: float | None) -> None:
    """One figure of accuracy over latency; ``axis`` is a matplotlib Axes, ``run`` is ordered by latency."""
    xs = [record["latency"]["p50_ms"] for record in run]
    ys = [record["accuracy"][key] for record in run]
    for index, (x, y, record) in enumerate(zip(xs, ys, run, strict=True)):
        dense = record["name"] == record["reference"]
        axis.scatter(x, y, s=70, marker="s" if dense else "o", color=DENSE if dense else COMPACTED, zorder=2)
        # Neighbours' labels go above and below in turn; no line joins the points, which differ in their training too
        above = index % 2 == 0
        place = {"xytext": (6, 5 if above else -5), "textcoords": "offset points", "va": "bottom" if above else "top"}
        paper = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
        axis.annotate(label(record), (x, y), **place, fontsize=9.5, bbox=paper)
    if guide is not None:
        axis.axhline(guide, color=GUIDE, linewidth=1, linestyle="--", zorder=0)
        place = {"xycoords": ("axes fraction", "data"), "xytext": (-4, 3), "textcoords": "offset points"}
        axis.annotate(
            "MediaPipe landmark-lite", (1, guide), **place, color=GUIDE, fontsize=9.5, ha="right", va="bottom"
        )
    shown = [*ys, *([] if guide is None else [guide])]
    low, high, span = min(shown), max(shown), max(shown) - min(shown) or 0.1 * max(shown)
    axis.set_ylim(low - 0.3 * span, high + 0.3 * span)
    width = max(xs) - min(xs) or 0.2 * max(xs)
    axis.set_xlim(min(xs) - 0.08 * width, max(xs) + 0.38 * width)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="what tradeoff.py appended to; its newest run is drawn")
    parser.add_argument("--mediapipe", type=Path, help="what mediapipe_hands.py appended to")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    try:
        lite = newest(options.mediapipe, "mediapipe-hands")[-1]["accuracy"][LITE] if options.mediapipe else None
        write_file(options.out, draw(newest(options.results, "trade-off"), lite))
    except SpliteError as err:
        sys.exit(f"error: {err}")
    print(options.out)


if __name__ == "__main__":
    main()
