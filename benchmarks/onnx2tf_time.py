"""How long a conversion to TFLite takes: the command line of onnx2tf, and ours, which uses onnx2tf as a library.

    python benchmarks/onnx2tf_time.py hand.splite --data HAND_DIGITS --out benchmarks/results/onnx2tf-time.jsonl

Both start cold and make a float32 and a float16 file of the same graph; they take turns. Ours converts
the graph once, names inputs and outputs by their role, and reads the precision back from the files. Both are given the
sample pictures that onnx2tf would otherwise download. With --data its int8 switch, which makes seven files, stands
beside our whole export from the checkpoint, calibration, six files and every comparison included. Needs the extra
'tflite'. Appends one JSON line.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import Bundle
from splite_deploy.compile.tflite.compiler import compile_tflite
from splite_deploy.compile.tflite.onnx2tf_child import SAMPLE
from splite_deploy.errors import CompileError, MissingDependencyError, SpliteError
from splite_deploy.spec.plain import to_plain

KIND = "onnx2tf-time"
CLI, OURS = "onnx2tf -i model.onnx", "splite-deploy"
CLI_INT8, EXPORT = "onnx2tf -i model.onnx -oiqt", "splite-deploy export, both backends, all precisions, all checks"
HAND = Path(__file__).parents[1] / "models" / "splite_hand"


def cli(graph: Path, folder: Path, *options: str) -> float:
    """Seconds of onnx2tf's own command.

    Raises:
        MissingDependencyError: It is not installed.
        CompileError: It failed.
    """
    command = shutil.which("onnx2tf", path=str(Path(sys.executable).parent))
    if command is None:
        raise MissingDependencyError(
            "onnx2tf is not installed here.", hint="Install it: pip install 'splite-deploy[tflite]'."
        )
    shutil.copyfile(graph, folder / "model.onnx")
    np.save(folder / SAMPLE, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    return timed([command, "-i", "model.onnx", "-o", "out", "-n", *options], folder)


def ours(bundle: Bundle, graph: Path, folder: Path) -> float:
    """Seconds of `compile_tflite`."""
    began = time.perf_counter()
    compile_tflite(graph, bundle.model, folder, ["fp32", "fp16"], calibration=None, log=folder / "log.txt")
    return time.perf_counter() - began


def whole_export(data: Path, folder: Path) -> float:
    """Seconds of the export of SPLite Hand to everything that a CPU runs, calibrated and compared on photographs."""
    wanted = [part for backend in ("ort", "tflite") for part in ("-b", backend)]
    wanted += [part for precision in ("fp32", "fp16", "int8") for part in ("-p", precision)]
    checkpoint, out = HAND / "splite_hand.safetensors", folder / "hand.splite"
    command = [sys.executable, "-m", "splite_deploy", "export", str(checkpoint), *wanted]
    return timed([*command, "--calibration", str(data.resolve()), "-o", str(out)], folder)


def timed(command: list[str], folder: Path) -> float:
    """Seconds that a command takes, which has to make a .tflite file.

    Raises:
        CompileError: It failed.
    """
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    taken_s = time.perf_counter() - began
    if done.returncode != 0 or not list(folder.glob("*/*.tflite")):
        raise CompileError(f"{Path(command[0]).name} failed.", hint=f"It said: {done.stderr[-300:]}")
    return taken_s


def compare(bundle: Bundle, rounds: int, data: Path | None) -> dict[str, Any]:
    """The record of some rounds."""
    artifact = bundle.find("ort", "fp32")
    graph = bundle.path / artifact.file
    environment, date_utc = read_environment(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    ways: dict[str, Callable[[Path], float]] = {
        CLI: lambda folder: cli(graph, folder),
        OURS: lambda folder: ours(bundle, graph, folder),
    }
    if data is not None:
        ways[CLI_INT8] = lambda folder: cli(graph, folder, "-oiqt")
        ways[EXPORT] = lambda folder: whole_export(data, folder)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, dict[str, int]] = {}
    for number in range(rounds):
        for name in list(ways) if number % 2 == 0 else reversed(ways):
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                taken_s = ways[name](folder)
                seconds[name].append(taken_s)
                files = sorted([*folder.glob("*.tflite"), *folder.glob("*/*.tflite")])
                sizes[name] = {file.name: file.stat().st_size for file in files}
            print(f"{name}: {taken_s:.1f} s", file=sys.stderr)
    return {
        "kind": KIND,
        "record_version": 1,
        "date_utc": date_utc,
        "graph_sha256": artifact.sha256,
        "model": bundle.model.name,
        "onnx2tf": metadata.version("onnx2tf"),
        "seconds": seconds,
        "bytes": sizes,
        "environment": to_plain(environment),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="conversions of each (default: 3)")
    parser.add_argument("--data", type=Path, help="folder of hand-digits: times the whole export too, with int8")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    try:
        record = compare(Bundle.open(options.bundle), options.rounds, options.data)
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for name, times_s in record["seconds"].items():
        print(f"{name:25s} median {np.median(times_s):6.1f} s of {len(times_s)}; bytes: {record['bytes'][name]}")


if __name__ == "__main__":
    main()
