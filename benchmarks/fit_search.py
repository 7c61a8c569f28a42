"""A search of 12 networks on SPLite Hand's parent on this machine, and the same search again.

    python benchmarks/fit_search.py --data HAND_DIGITS --folder runs/fit --out benchmarks/results/fit-search.jsonl

It runs `splite-deploy fit` on Ray with four speed-ups by three sizes of input, fine-tuned for a few steps by
``models/splite_hand/train.py``, and exported in fp32 and int8. To be done in minutes it trains on ``--train`` and
measures on ``--val`` photographs, evenly picked. So short a fine-tuning says what a search costs, not how good networks
become. A second run of the same command has to find everything. Appends one JSON line with the times of both
runs, how many steps of each kind were done and known, what a step took in the median, and how far predictions were off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from splite_deploy.bench import append_record, read_environment
from splite_deploy.spec.plain import to_plain

KIND = "fit-search"
ROOT = Path(__file__).parents[1]
HAND = ROOT / "models" / "splite_hand"
SPACE = [
    *(word for speed_up in ("1.5", "2", "3", "4") for word in ("--speed-up", speed_up)),
    *(word for size in ("128x128", "112x112", "96x96") for word in ("--size", size)),
]


def subset(data: Path, train: int, val: int, folder: Path) -> Path:
    """Labels of so many photographs of each split, evenly picked, with a link to the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = json.loads((data / "labels.json").read_text(encoding="utf-8"))
    picked = []
    for split, count in (("train", train), ("val", val)):
        of_it = [one for one in labels["samples"] if one["split"] == split]
        picked += [of_it[int(index)] for index in np.linspace(0, len(of_it) - 1, min(count, len(of_it)))]
    text = json.dumps({**labels, "samples": picked})
    if not (folder / "labels.json").is_file() or (folder / "labels.json").read_text(encoding="utf-8") != text:
        (folder / "labels.json").write_text(text, encoding="utf-8")
    if not (folder / "images").exists():
        (folder / "images").symlink_to((data / "images").resolve())
    return folder


def command(options: argparse.Namespace, data: Path) -> list[str]:
    """The search as it is typed."""
    train = (
        f"{sys.executable} {HAND / 'train.py'} --data {data} --init {{checkpoint}} --steps {{steps}} --out {{out}} "
        f"--model {{model}} --renders {{cache}} --synthetic 100 --batch 16 --threads 1 "
        "--learning-rate 5e-4 --eval-every 1000000"
    )
    search = ["--train", train, "--labels", str(data), "-p", "fp32", "-p", "int8", "--keep", "0.25", "--crops", "32"]
    steps = [word for steps in options.steps for word in ("--steps", str(steps))]
    measured = ["--budget", options.budget, "--threads", "1", "-o", str(options.folder / "search")]
    return ["fit", str(HAND / "splite_hand_dense.safetensors"), *SPACE, *steps, *search, *measured]


def run(arguments: list[str], folder: Path) -> tuple[float, dict[str, Any]]:
    """Seconds of a search, and its figures."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "splite_deploy", *arguments], check=True)
    return time.perf_counter() - began, json.loads((folder / "search" / "results.json").read_text(encoding="utf-8"))


def seconds_of(folder: Path) -> dict[str, dict[str, float]]:
    """Of each kind of step how many there are, and what one took."""
    found: dict[str, list[float]] = {}
    for file in (folder / "search" / "cache" / "results").glob("*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        found.setdefault(record["kind"], []).append(record["result"]["seconds"])
    return {
        kind: {"count": len(times), "p50_s": float(np.median(times)), "max_s": max(times)}
        for kind, times in sorted(found.items())
    }


def off_pct(figures: dict[str, Any]) -> list[float]:
    """How far predictions were off for networks that were measured in float32, percent."""
    return [
        100 * (predicted / point["measured"]["p50_ms"] - 1)
        for point in figures["points"]
        if point["variant"] == {"backend": "ort", "precision": "fp32"}
        and (predicted := figures["networks"][point["network"]]["predicted_ms"].get(point["place"])) is not None
    ]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Both searches, as a record."""
    data = subset(options.data, options.train, options.val, options.folder / "data")
    arguments = command(options, data)
    first_s, first = run(arguments, options.folder)
    second_s, second = run(arguments, options.folder)
    return {
        "kind": KIND,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "environment": to_plain(read_environment()),
        "photographs": {"train": options.train, "val": options.val},
        "steps_of_training": options.steps,
        "networks": len(first["networks"]),
        "first": {"seconds": first_s, **_counts(first)},
        "second": {"seconds": second_s, **_counts(second)},
        "steps": seconds_of(options.folder),
        "parent_error": first["parent_error"],
        "points": [
            {
                "name": f"{one['network']} {one['variant']['backend']} {one['variant']['precision']}",
                "error_box_pct": one["error"],
                "p50_ms": one["measured"]["p50_ms"],
                "p99_ms": one["measured"]["p99_ms"],
            }
            for one in first["points"]
        ],
        "shipped": [one["reason"] for one in first["shipped"]],
        "predictions_off_pct": off_pct(first),
    }


def _counts(figures: dict[str, Any]) -> dict[str, Any]:
    steps = figures["steps"]
    return {"done": steps["done"], "known": steps["found"], "failed": len(steps["failed"])}


def table(record: dict[str, Any]) -> Table:
    """Both runs side by side."""
    shown = Table("", "first", "second", title=f"Search of {record['networks']} networks")
    runs = record["first"], record["second"]
    shown.add_row("seconds", *(f"{one['seconds']:.0f}" for one in runs))
    for kind in record["steps"]:
        shown.add_row(f"{kind}: done", *(str(one["done"].get(kind, 0)) for one in runs))
    shown.add_row("failed tries", *(str(one["failed"]) for one in runs))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument("--folder", type=Path, required=True, help="for the search and what it reads")
    parser.add_argument("--train", type=int, default=320, help="photographs to train on (default: 320)")
    parser.add_argument("--val", type=int, default=96, help="photographs to measure on (default: 96)")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 60], help="of each rung (default: 20 60)")
    parser.add_argument("--budget", default="20ms", help="(default: 20ms)")
    parser.add_argument("--out", type=Path, help="JSON lines file to append a record to")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    record = measure(options)
    if options.out is not None:
        append_record(options.out, record)
    Console().print(table(record))


if __name__ == "__main__":
    main()
