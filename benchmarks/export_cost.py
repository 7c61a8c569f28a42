"""What one export costs: its time, and how often it loads a graph, opens a session, indexes a graph and hashes a file.

    python benchmarks/export_cost.py --data HAND_DIGITS [--runs 3]

The run is SPLite Hand's for ONNX Runtime and TensorRT in three precisions with fused pre- and postprocessing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime as ort

from splite_deploy.export import ExportOptions, export_bundle

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "models" / "splite_hand" / "splite_hand.safetensors"
SMALL = 4096  # what is shorter is no file


def count_calls(counts: Counter[str]) -> None:
    """Counts, from now on, what the whole process loads, opens, indexes and hashes."""
    import onnx
    import onnx_ir

    def counted(name: str, function: Callable[..., Any], counts_it: Callable[..., bool] = lambda *_: True) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            counts[name] += counts_it(*arguments)
            return function(*arguments, **options)

        return call

    class Session(ort.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            counts["sessions"] += 1
            super().__init__(*arguments, **options)

    onnx.load = counted("graphs loaded", onnx.load)
    onnx_ir.load = counted("graphs loaded", onnx_ir.load)
    onnx_ir.serde.deserialize_model = counted("graphs indexed", onnx_ir.serde.deserialize_model)
    ort.InferenceSession = Session
    hashlib.sha256 = counted("hashes", hashlib.sha256, lambda data=b"", *_: len(data) >= SMALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="Photographs with labels to calibrate and compare on.")
    parser.add_argument("--runs", type=int, default=3, help="How often to export.")
    arguments = parser.parse_args()
    options = ExportOptions(
        backends=("ort", "trt"),
        precisions=("fp32", "fp16", "int8"),
        calibration=arguments.data,
        fuse_input=True,
        fuse_decode=True,
    )
    counts: Counter[str] = Counter()
    count_calls(counts)
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(arguments.runs):
            counts.clear()
            began = time.perf_counter()
            export_bundle(CHECKPOINT, Path(folder) / f"{run}.splite", options=options)
            seconds.append(time.perf_counter() - began)
    print(json.dumps({"counts": dict(sorted(counts.items())), "seconds": [round(value, 2) for value in seconds]}))


if __name__ == "__main__":
    main()
