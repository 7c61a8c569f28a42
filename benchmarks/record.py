"""Exports SPLite Hand, measures accuracy, parity and latency on this machine, and appends one JSON line.

    python benchmarks/record.py --data HAND_DIGITS --threads 1 --out benchmarks/results/MACHINE.jsonl

Then `python benchmarks/make_tables.py` writes the tables of README.md and CARD.md anew.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from splite_deploy.bench import append_record, run_bench
from splite_deploy.errors import SpliteError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.runtime.io.images import boxed_images, read_image
from splite_deploy.spec.plain import to_plain

ROOT = Path(__file__).parents[1]
HAND = ROOT / "models" / "splite_hand"
RECORD_VERSION = 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=HAND / "splite_hand.safetensors")
    parser.add_argument("--data", type=Path, required=True, help="folder of hand-digits (labels.json)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            bundle = export_bundle(
                options.checkpoint,
                Path(folder) / "hand.splite",
                model=HAND / "model.toml",
                options=ExportOptions(images=options.data, crops=289),
                progress=lambda message: print(message, file=sys.stderr),
            )
            print("accuracy", file=sys.stderr)
            evaluate = [sys.executable, HAND / "evaluate.py", bundle.path, "--data", options.data, "--json", "-"]
            accuracy = json.loads(subprocess.run(evaluate, check=True, capture_output=True, text=True).stdout)
            print("latency", file=sys.stderr)
            boxed, origin = boxed_images(options.data, 64)
            bench = run_bench(
                bundle,
                threads=options.threads,
                frames=options.frames,
                inputs=[(read_image(file), box) for file, box in boxed],
                inputs_from=origin,
            )
            record = {
                "record_version": RECORD_VERSION,
                "checkpoint": options.checkpoint.name,
                "checkpoint_bytes": options.checkpoint.stat().st_size,
                "checkpoint_sha256": bundle.manifest.source.checkpoint_sha256,
                "accuracy": accuracy,
                "parity": to_plain(bundle.report().parity),
                "bench": bench.to_dict(),
            }
            append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    print(options.out)


if __name__ == "__main__":
    main()
