"""How many instructions one inference executes on ARM, by artifact and CPU, without an ARM machine.

    python benchmarks/arm64_instructions.py BUNDLE ... [--cpu cortex-a76] [--backend tflite] [--out FILE]

prints for every ort and tflite artifact how many instructions one inference executes on one thread, what share of those
of fp32 in the same backend that is, and how many of them multiply: int8 by dot products (SDOT), matrix products (SMMLA)
or step by step (SMLAL), floats (FMLA), half floats (FMLA.H). qemu's user emulation runs the artifact on an emulated
machine (arm64/machine.py, made on the first run), and a plugin that is compiled here (arm64/executed.c) counts:
`apt install qemu-user gcc`, version 7.2 to 8.2 of qemu. What else this machine does changes nothing. N inferences and
2 N have to agree within 0.5 %.

Instructions are no time: how many of them a core executes per cycle differs from kernel to kernel, and memory takes no
part. Compare artifacts of one network on one CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from arm64.inferences import ENGINES
from arm64.machine import CPUS, FOLDER, Cpu, Machine, UnavailableError, environment, machine, qemu_version
from arm64_tables import KINDS, share_of_fp32
from rich.console import Console
from rich.table import Table

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.spec.plain import to_plain

KIND = "arm64-instructions"
HERE = Path(__file__).parent / "arm64"
AGREE = 0.005
"""How far the instructions of an inference may differ between N inferences and 2 N."""
COUNT = 2
Counts = dict[str, float]


def compiled(folder: Path) -> Path:
    """The plugin.

    Raises:
        UnavailableError: There is no compiler, or it fails.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise UnavailableError("there is no C compiler for the plugin that counts (apt install gcc)")
    plugin = folder / "executed.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(plugin), str(HERE / "executed.c")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UnavailableError(f"the plugin that counts cannot be compiled:\n{done.stderr[-2000:]}")
    return plugin


def counted(
    emulated: Machine, cpu: Cpu, plugin: Path, bundle: Path, artifacts: Sequence[Artifact], count: int
) -> dict[str, Counts]:
    """Executed instructions of one inference of each artifact, by its label and by kind.

    Raises:
        UnavailableError: qemu does not take the plugin, an artifact cannot be run, or two runs disagree.
    """
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "executed.jsonl"
        names = [f"{one.backend},{one.precision}" for one in artifacts]
        job = [HERE / "inferences.py", bundle, str(count), *names]
        command = [*emulated.command(cpu, "-plugin", f"{plugin},out={out}"), *job]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
        lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
    if done.returncode or len(lines) != 3 * len(artifacts):
        raise UnavailableError(f"{bundle.name} on {cpu.name} was not counted:\n{done.stderr[-2000:].strip()}")
    found = {}
    for artifact, once, twice in zip(
        artifacts, map(json.loads, lines[1::3]), map(json.loads, lines[2::3]), strict=True
    ):
        if abs(twice["all"] / (2 * once["all"]) - 1) > AGREE:
            raise UnavailableError(
                f"{artifact.label} on {cpu.name}: {count} inferences take {once['all']} instructions, twice as many "
                f"{twice['all']}"
            )
        found[artifact.label] = {kind: (once[kind] + twice[kind]) / (3 * count) for kind in once}
    return found


def tables(record: dict[str, Any]) -> Iterator[Table]:
    """What was counted of a bundle, for each CPU."""
    for cpu, artifacts in record["cpus"].items():
        shown = Table(title=f"{record['network']} on {cpu}: millions of instructions of one inference")
        shown.add_column("artifact", no_wrap=True)
        for name in ("all", "of fp32", *KINDS.values()):
            shown.add_column(name, justify="right", no_wrap=True)
        for label, counts in artifacts.items():
            share = share_of_fp32(label, artifacts)
            cells = [f"{counts[kind] / 1e6:.2f}" for kind in KINDS]
            shown.add_row(label, f"{counts['all'] / 1e6:.2f}", "-" if share is None else f"{share:.3f}", *cells)
        yield shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--cpu", action="append", choices=list(CPUS), help="of these alone; may be repeated")
    parser.add_argument("--backend", choices=list(ENGINES), help="of this alone")
    parser.add_argument("--count", type=int, default=COUNT, help=f"inferences, and then twice as many ({COUNT})")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the machine is made (default: build/arm64)")
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    options = parser.parse_args()
    date_utc = datetime.now(timezone.utc).isoformat(timespec="seconds")
    try:
        emulated = machine(options.folder.absolute())
        with tempfile.TemporaryDirectory() as scratch:
            plugin = compiled(Path(scratch))
            for path in options.bundles:
                bundle = Bundle.open(path)
                chosen = [one for one in bundle.manifest.artifacts if one.backend in ENGINES]
                chosen = [one for one in chosen if options.backend in (None, one.backend)]
                cpus: dict[str, dict[str, Counts]] = {}
                for cpu in (CPUS[name] for name in options.cpu or CPUS):
                    print(f"counting {path.name} on {cpu.name}", file=sys.stderr)
                    cpus[cpu.name] = counted(emulated, cpu, plugin, path.absolute(), chosen, options.count)
                record = {
                    "kind": KIND,
                    "record_version": 1,
                    "date_utc": date_utc,
                    "network": bundle.model.name,
                    "checkpoint_sha256": bundle.manifest.source.checkpoint_sha256,
                    "inferences": 3 * options.count,
                    "cpus": cpus,
                    "qemu": qemu_version(),
                    "environment": to_plain(read_environment()),
                }
                Console().print(*tables(record))
                if options.out is not None:
                    append_record(options.out, record)
    except (SpliteError, UnavailableError) as err:
        sys.exit(f"error: {err}")


if __name__ == "__main__":
    main()
