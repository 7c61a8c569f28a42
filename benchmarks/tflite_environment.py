"""What the environment of TFLite's converter costs, without TensorFlow and with it: seconds to make it, and bytes.

    python benchmarks/tflite_environment.py --out benchmarks/results/tflite-environment.jsonl

Makes both anew in a temporary folder as 'splite-deploy setup-tflite' does, from the package index and cache that pip is
set up with: of the time most is theirs and the disk's. Needs Python 3.12 or later, and 3.10 or 3.11. Appends one JSON
line.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from splite_deploy.bench import append_record, read_environment
from splite_deploy.compile.tflite.environment import make_environment
from splite_deploy.errors import SpliteError
from splite_deploy.spec.plain import to_plain

KIND = "tflite-environment"


def measure(folder: Path, *, tensorflow: bool) -> dict[str, Any]:
    """Makes an environment; what it is, the seconds that took, those of CPU time, and its bytes on the disk."""
    began, before = time.perf_counter(), os.times()
    made = make_environment(folder, tensorflow=tensorflow)
    seconds, after = time.perf_counter() - began, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    size = sum(file.lstat().st_blocks * 512 for file in folder.rglob("*"))
    return {"environment": made.label, "seconds": seconds, "cpu_seconds": used, "bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    made = []
    try:
        for tensorflow in (False, True):
            with tempfile.TemporaryDirectory() as temporary:
                made.append(measure(Path(temporary), tensorflow=tensorflow))
        record = {
            "kind": KIND,
            "record_version": 1,
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "made": made,
            "environment": to_plain(read_environment()),
        }
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for one in made:
        size = f"{one['bytes'] / 1e6:.0f} MB"
        print(f"{one['environment']}: {one['seconds']:.0f} s ({one['cpu_seconds']:.0f} s of CPU time), {size}")


if __name__ == "__main__":
    main()
