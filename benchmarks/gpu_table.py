r"""Dense against compacted on the GPU, by batch and precision, beside torch and ONNX Runtime, in one run.

    python benchmarks/gpu_bundles.py --data HAND_DIGITS BUNDLES     # on any machine
    python benchmarks/gpu_table.py --bundles BUNDLES --out benchmarks/results/gpu-MACHINE.jsonl
    python benchmarks/gpu_table.py --show benchmarks/results/gpu-MACHINE.jsonl

All that are timed with one batch are timed in turn, a block of each. What is not installed or cannot be built is left
out, and the record says why; without any engine the command fails. TensorRT-RTX is another product than TensorRT: its
lines are named so, and say nothing about TensorRT.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from gpu_runners import ENGINE, Runner, onnxruntime_runner, tensorrt_runner, torch_runners
from rich.console import Console
from rich.table import Table

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.bootstrap import Samples, ratio_of_medians
from splite_deploy.bench.interleaved import interleave
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle import Bundle
from splite_deploy.compile.tensorrt.engines import EngineOptions
from splite_deploy.device.cuda_driver import gpu
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.runtime.backends.trt.module import load_tensorrt
from splite_deploy.runtime.cuda.memory import open_cuda
from splite_deploy.spec import PRECISIONS
from splite_deploy.spec.plain import to_plain

KIND = "gpu"
NETWORKS = ("dense", "compacted")
REFERENCE = "dense, torch eager fp32"
WIDTH = 130

Say = Callable[[str], None]


def machine() -> dict[str, Any]:
    """The GPU, and what runs on it.

    Raises:
        UsageError: There is no GPU.
        SpliteError: TensorRT or what handles memory is missing.
    """
    found = gpu()
    if found is None:
        raise UsageError("The NVIDIA driver offers no GPU here.", hint="Run this where a GPU is.")
    cuda = open_cuda()
    cuda.close()
    return {
        "gpu": asdict(found),
        "tensorrt": load_tensorrt().label,
        "memory_backend": cuda.name,
        "environment": to_plain(read_environment()),
    }


def runners_of(
    bundles: Mapping[str, Bundle],
    batch: int,
    options: EngineOptions,
    work: Path,
    stack: ExitStack,
    missing: dict[str, str],
    say: Say,
) -> list[Runner]:
    """All that can be run with this batch; ``missing`` is told what cannot, and why."""
    runners: list[Runner] = []
    for network, bundle in bundles.items():
        say(f"batch {batch}: engines of the {network} network")
        engines = [
            (
                f"TensorRT {precision}, {network}",
                lambda b=bundle, n=network, p=precision: [tensorrt_runner(b, n, p, batch, options, work, stack)],
            )
            for precision in PRECISIONS
        ]
        for name, make in (
            *engines,
            ("torch", lambda b=bundle, n=network: list(torch_runners(b, n, batch))),
            ("onnxruntime CUDA", lambda b=bundle, n=network: [onnxruntime_runner(b, n, batch)]),
        ):
            if name in missing:
                continue
            try:
                runners += make()
            except (ImportError, SpliteError) as err:
                missing[name] = str(err).splitlines()[0]
    return runners


def records_of(
    runners: Sequence[Runner], samples: Mapping[str, Samples], batch: int, common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One record for each runner."""
    reference = samples.get(REFERENCE)
    records = []
    for runner in runners:
        found = samples[runner.label]
        compute = None if runner.compute_ms is None else LatencyStats.from_samples(runner.compute_ms())
        records.append(
            {
                "kind": KIND,
                "record_version": 1,
                **common,
                "network": runner.network,
                "runner": runner.name,
                "precision": runner.precision,
                "batch": batch,
                "latency": to_plain(LatencyStats.from_samples(found)),
                "compute": None if compute is None else to_plain(compute),
                "crops_per_s": 1e3 * batch / LatencyStats.from_samples(found).p50_ms,
                "reference": REFERENCE if reference is not None else None,
                "speed_up": None if reference is None else asdict(ratio_of_medians(reference, found)),
                "facts": runner.facts,
            }
        )
    return records


def measure(
    folder: Path, batches: Sequence[int], frames: int, options: EngineOptions, say: Say, *, fused: bool = True
) -> list[dict[str, Any]]:
    """One record for each network, way and batch.

    Raises:
        SpliteError: There is no GPU, a bundle is missing, or nothing of it could be run.
    """
    here = machine()
    end = "-fused.splite" if fused else ".splite"
    bundles = {network: Bundle.open(folder / f"{network}{end}") for network in NETWORKS}
    missing: dict[str, str] = {}
    date_utc = datetime.now(timezone.utc).isoformat(timespec="seconds")
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for batch in batches:
            with ExitStack() as stack:
                runners = runners_of(bundles, batch, options, Path(work), stack, missing, say)
                say(f"batch {batch}: timing {len(runners)} in turn")
                if not runners:
                    continue
                samples = interleave({runner.label: runner.run for runner in runners}, frames)
                common = {"date_utc": date_utc, "missing": dict(missing), "fused": fused, **here}
                records += records_of(runners, samples, batch, common)
    if not records:
        raise SpliteError(f"Nothing ran: {left_out(missing)}", hint="Install what is missing.")
    return records


def left_out(missing: Mapping[str, str]) -> str:
    """What was not timed and why, as text."""
    return "; ".join(f"{name} ({why})" for name, why in missing.items())


def table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The records for people."""
    ends = "crops on the host to results on the host" if records[0].get("fused", True) else "tensors to heatmaps"
    grid = Table(title=f"{records[0]['gpu']['name']}: {ends}")
    for header in ("Batch", "Network", "By", "Precision"):
        grid.add_column(header, no_wrap=True)
    for header in ("p50 ms", "p99 ms", "GPU ms", "crops/s", "speed-up", "shift p95, px"):
        grid.add_column(header, justify="right", no_wrap=True)
    for record in records:
        shift = record["facts"].get("shift_p95_px")
        grid.add_row(
            str(record["batch"]),
            record["network"],
            record["runner"],
            record["precision"],
            f"{record['latency']['p50_ms']:.3f}",
            f"{record['latency']['p99_ms']:.3f}",
            "" if record["compute"] is None else f"{record['compute']['p50_ms']:.3f}",
            f"{record['crops_per_s']:.0f}",
            "" if record["speed_up"] is None else f"{record['speed_up']['value']:.2f}",
            "" if shift is None else f"{shift:.4f}",
        )
    levels = {record["facts"].get("target", {}).get("optimization_level") for record in records} - {None}
    facts = [f"engines of optimization level {level}" for level in sorted(levels)]
    if missing := records[-1]["missing"]:
        facts.append(f"left out: {left_out(missing)}")
    grid.caption = "; ".join(facts)
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--bundles", type=Path, help="folder of benchmarks/gpu_bundles.py")
    what.add_argument("--environment", action="store_true", help="print the machine as JSON, and measure nothing")
    what.add_argument("--show", type=Path, help="print the newest run of this file")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--frames", type=int, default=1000, help="timed inferences of each (default: 1000)")
    parser.add_argument("--low-memory", action="store_true", help="build engines without cuBLAS and cuDNN")
    parser.add_argument("--optimization-level", type=int, help="of engines, 0 to 5; 0 builds them in the least time")
    parser.add_argument(
        "--unfused", action="store_true", help="time networks without pre- and postprocessing in the graph"
    )
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    options = parser.parse_args()
    log = Console(stderr=True)
    try:
        if options.environment:
            print(json.dumps(machine(), indent=1))
            return
        if options.show is not None:
            records = [json.loads(line) for line in options.show.read_text(encoding="utf-8").splitlines()]
            records = [record for record in records if record["date_utc"] == records[-1]["date_utc"]]
        else:
            with log.status("reading") as status:
                engines = EngineOptions(low_memory=options.low_memory, optimization_level=options.optimization_level)
                fused = not options.unfused
                records = measure(options.bundles, options.batches, options.frames, engines, status.update, fused=fused)
            for record in records if options.out is not None else ():
                append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    Console(width=WIDTH).print(table(records))
    if options.show is None and not any(ENGINE in record["facts"] for record in records):
        sys.exit(f"error: No engine ran: {left_out(records[-1]['missing'])}")


if __name__ == "__main__":
    main()
