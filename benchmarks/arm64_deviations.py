"""Verifies bundles on emulated ARM processors, and compares what networks give there with what they give here, by bits.

    python benchmarks/arm64_deviations.py BUNDLE ... [--same-bits] [--out FILE]

Every ort and tflite artifact runs on the golden crops: on this machine, and on an emulated one (arm64/machine.py, made
on the first run) with each CPU, whose kernels differ. The exit status is 1 where an artifact breaks its limits
somewhere, or where a TFLite file that computes in int8 alone gives another bit than here (or, with --same-bits, where
there is none).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from arm64.machine import CPUS, FOLDER, UnavailableError, environment, machine, qemu_version
from arm64_tables import deviations_block
from numpy.typing import NDArray
from rich.console import Console
from rich.markdown import Markdown

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.runtime.backends.tflite_file import read_operators
from splite_deploy.spec.plain import to_plain

KIND = "arm64-deviations"
CHECK = Path(__file__).parent / "arm64" / "check.py"
HERE = "x86"
WIDE = 120
"""Columns of the tables, which a pipe does not tell."""
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
Outputs = Mapping[str, NDArray[np.float32]]


def unlike(label: str, here: Outputs, there: Outputs) -> dict[str, Any]:
    """How many values of an artifact's outputs are not the same bits, and how far they lie apart at most."""
    names = [name for name in here if name.startswith(f"{label}/")]
    pairs = [(here[name], there[name]) for name in names]
    return {
        "values": sum(one.size for one, _ in pairs),
        "differing": sum(int((one.view(np.uint32) != other.view(np.uint32)).sum()) for one, other in pairs),
        "most": max(float(np.abs(one - other).max()) for one, other in pairs),
    }


def in_int8_alone(bundle: Bundle, artifact: Artifact) -> bool:
    """Whether a TFLite file computes everything in integers, which every machine has to do alike."""
    if artifact.backend != "tflite" or artifact.precision != "int8":
        return False
    operators = [one for one in read_operators(bundle.read(artifact)) if one.name not in _CONVERSIONS]
    return not any("float" in kind for one in operators for kind in (*one.inputs, *one.outputs))


def checked(python: list[str | Path], bundle: Path, folder: Path) -> tuple[dict[str, Any], Outputs]:
    """What one machine finds, by artifact.

    Raises:
        UnavailableError: An artifact cannot be run there.
    """
    folder.mkdir(parents=True)
    command = [*python, CHECK, bundle, folder]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise UnavailableError(f"{bundle.name} failed on {folder.name}:\n{done.stderr[-2000:].strip()}")
    with np.load(folder / "outputs.npz") as outputs:
        return json.loads((folder / "verified.json").read_text(encoding="utf-8")), dict(outputs)


def measured(
    paths: Sequence[Path], pythons: Mapping[str, list[str | Path]]
) -> Iterator[tuple[Path, dict[str, dict[str, Any]]]]:
    """What every machine finds of each bundle; as many machines run side by side as there are cores."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        jobs = [
            {
                name: pool.submit(checked, python, path.absolute(), Path(scratch) / str(number) / name)
                for name, python in pythons.items()
            }
            for number, path in enumerate(paths)
        ]
        for path, machines in zip(paths, jobs, strict=True):
            results = {name: job.result() for name, job in machines.items()}
            found = {name: verified for name, (verified, _) in results.items()}
            for name, (verified, outputs) in results.items():
                if name != HERE:
                    for label in verified:
                        found[name][label]["unlike_x86"] = unlike(label, results[HERE][1], outputs)
            yield path, found


def broken(bundle: Bundle, found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What must not be, each as a sentence."""
    said = []
    for name, artifacts in found.items():
        for artifact in bundle.manifest.artifacts:
            one = artifacts.get(artifact.label)
            if one is None:
                continue
            said += [f"{artifact.label} on {name}: {text}." for text in one["violations"]]
            differing = one.get("unlike_x86", {}).get("differing", 0)
            if differing and in_int8_alone(bundle, artifact):
                said.append(f"{artifact.label} on {name}: {differing} values are not those of x86, bit by bit.")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--same-bits", action="store_true", help="have a TFLite file that computes in int8 alone")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the machine is made (default: build/arm64)")
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    options = parser.parse_args()
    date_utc = datetime.now(timezone.utc).isoformat(timespec="seconds")
    failed, exact = [], []
    try:
        emulated = machine(options.folder.absolute())
        pythons: dict[str, list[str | Path]] = {HERE: [sys.executable]}
        pythons |= {name: emulated.command(cpu) for name, cpu in CPUS.items()}
        for path, found in measured(options.bundles, pythons):
            bundle = Bundle.open(path)
            exact += [one for one in bundle.manifest.artifacts if in_int8_alone(bundle, one)]
            record = {
                "kind": KIND,
                "record_version": 1,
                "date_utc": date_utc,
                "network": bundle.model.name,
                "checkpoint_sha256": bundle.manifest.source.checkpoint_sha256,
                "x86": found.pop(HERE),
                "cpus": found,
                "qemu": qemu_version(),
                "environment": to_plain(read_environment()),
            }
            Console(width=WIDE).print(Markdown("\n".join(deviations_block({"": [record]}))))
            failed += [f"{bundle.model.name}: {text}" for text in broken(bundle, {HERE: record["x86"], **found})]
            if options.out is not None:
                append_record(options.out, record)
    except (SpliteError, UnavailableError) as err:
        sys.exit(f"error: {err}")
    if options.same_bits and not exact:
        failed.append("No TFLite file computes in int8 alone: nothing had to give the bits of x86.")
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
