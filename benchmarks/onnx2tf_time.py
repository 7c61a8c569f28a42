"""How long a conversion to TFLite takes: the command line of onnx2tf, and ours, which uses onnx2tf as a library.

    python benchmarks/onnx2tf_time.py hand.splite --tensorflow DIR/bin/python --data HAND_DIGITS --out times.jsonl

All start cold and make a float32 and a float16 file of the same graph; they take turns. Ours converts the graph once,
names inputs and outputs by their role, and reads the precision back from the files. It uses the environment of
'splite-deploy setup-tflite'; --tensorflow names the Python of another one, which 'setup-tflite --tensorflow' makes.
onnx2tf is given the sample pictures that it would otherwise download. With --data the int8 switch of the one that works
through TensorFlow, which makes seven files, stands beside our whole export from the checkpoint, calibration, six files
and every comparison included. Appends one JSON line.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import Bundle
from splite_deploy.compile.tflite.compiler import compile_tflite
from splite_deploy.compile.tflite.environment import SETTING, ConverterEnvironment, find_environment, look_at
from splite_deploy.compile.tflite.onnx2tf_child import SAMPLE
from splite_deploy.errors import CompileError, SpliteError
from splite_deploy.spec.plain import to_plain

KIND = "onnx2tf-time"
EXPORT = "splite-deploy export, both backends, all precisions, all checks"
HAND = Path(__file__).parents[1] / "models" / "splite_hand"


def cli(environment: ConverterEnvironment, graph: Path, folder: Path, *options: str) -> float:
    """Seconds of onnx2tf's own command."""
    shutil.copyfile(graph, folder / "model.onnx")
    np.save(folder / SAMPLE, np.random.default_rng(0).random((20, 128, 128, 3), np.float32))
    command = [str(environment.python), "-m", "onnx2tf", "-i", "model.onnx", "-o", "out", "-n", *options]
    return timed(command, folder)


def ours(environment: ConverterEnvironment, bundle: Bundle, graph: Path, folder: Path) -> float:
    """Seconds of `compile_tflite`."""
    os.environ[SETTING] = str(environment.python)
    began = time.perf_counter()
    compile_tflite(graph, bundle.model, folder, ["fp32", "fp16"], calibration=None, log=folder / "log.txt")
    return time.perf_counter() - began


def whole_export(environment: ConverterEnvironment, data: Path, folder: Path) -> float:
    """Seconds of the export of SPLite Hand to everything that a CPU runs, calibrated and compared on photographs."""
    wanted = [part for backend in ("ort", "tflite") for part in ("-b", backend)]
    wanted += [part for precision in ("fp32", "fp16", "int8") for part in ("-p", precision)]
    os.environ[SETTING] = str(environment.python)
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


def compare(bundle: Bundle, rounds: int, tensorflow: Path | None, data: Path | None) -> dict[str, Any]:
    """The record of some rounds."""
    converters = [find_environment()]
    converters += [look_at(tensorflow, "given")] if tensorflow is not None else []
    artifact = bundle.find("ort", "fp32")
    graph = bundle.path / artifact.file
    environment, date_utc = read_environment(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    ways: dict[str, Callable[[Path], float]] = {}
    for one in converters:
        name = f"onnx2tf {one.onnx2tf}"
        ways[f"{name} -i model.onnx"] = partial(cli, one, graph)
        ways[f"splite-deploy, {name}"] = partial(ours, one, bundle, graph)
    if data is not None:
        last = converters[-1]
        ways[f"onnx2tf {last.onnx2tf} -i model.onnx -oiqt"] = lambda folder: cli(last, graph, folder, "-oiqt")
        ways[EXPORT] = lambda folder: whole_export(converters[0], data, folder)
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
        "onnx2tf": " and ".join(one.label for one in converters),
        "seconds": seconds,
        "bytes": sizes,
        "environment": to_plain(environment),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="conversions of each (default: 3)")
    parser.add_argument("--tensorflow", type=Path, metavar="PYTHON", help="Python of a second environment")
    parser.add_argument("--data", type=Path, help="folder of hand-digits: times the whole export too, with int8")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    try:
        record = compare(Bundle.open(options.bundle), options.rounds, options.tensorflow, options.data)
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for name, times_s in record["seconds"].items():
        print(f"{name:65s} median {np.median(times_s):6.1f} s of {len(times_s)}; bytes: {record['bytes'][name]}")


if __name__ == "__main__":
    main()
