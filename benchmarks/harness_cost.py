"""What the harness of `splite-deploy bench` costs, and whether its medians are those of a plain loop over the runtime.

    python benchmarks/harness_cost.py hand.splite --data HAND_DIGITS [--out benchmarks/results/MACHINE-harness.jsonl]

Run it on a quiet machine: the two that are compared take turns, but a neighbour who comes and goes still shows. ONNX
Runtime's `onnxruntime_perf_test` and LiteRT's `benchmark_model` come with no wheel; where they were built (of the same
version as the Python package), name them with --perf-test and --benchmark-model. Exit status 1 where a median differs
by more than 3 % or the harness costs 20 us or more.
"""

from __future__ import annotations

import argparse
import gc
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from splite_deploy.bench import (
    EstimatorSubject,
    Input,
    NetworkSubject,
    Options,
    append_record,
    golden_inputs,
    measure,
    read_environment,
)
from splite_deploy.bench.feeds import random_feeds
from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.io.images import boxed_images, read_image
from splite_deploy.runtime.session import open_file, open_session
from splite_deploy.spec.plain import to_plain

LIMIT = 0.03
LIMIT_US = 20.0
KIND = "harness-cost"
Feeds = Sequence[Mapping[str, Any]]
P50 = Callable[[], float]
"""Measures once; the median in milliseconds."""


@dataclass(frozen=True)
class Comparison:
    """Medians of `bench` over those of something else, measured in turn.

    Attributes:
        name: What was compared.
        bench_ms: Median over the rounds, milliseconds.
        other_ms: The same of the other.
        ratio: Median over the rounds of one over the other.
        least: The smallest ratio of a round.
        most: The largest.
    """

    name: str
    bench_ms: float
    other_ms: float
    ratio: float
    least: float
    most: float

    @property
    def within(self) -> bool:
        """Whether they agree."""
        return abs(self.ratio - 1) <= LIMIT

    def __str__(self) -> str:
        sign = "ok" if self.within else f"OVER {100 * LIMIT:g} %"
        return (
            f"{self.name}: bench {self.bench_ms:.4f} ms, other {self.other_ms:.4f} ms, ratio {self.ratio:.4f} "
            f"({self.least:.4f} to {self.most:.4f}) {sign}"
        )


def compare(name: str, bench: P50, other: P50, rounds: int) -> Comparison:
    """Measures both in turn; which goes first changes from round to round."""
    pairs = []
    for number in range(rounds):
        first, second = (bench, other) if number % 2 == 0 else (other, bench)
        found = {first: first(), second: second()}
        pairs.append((found[bench], found[other]))
    ours, theirs = np.array(pairs).T
    ratios = ours / theirs
    return Comparison(
        name, *(float(v) for v in (np.median(ours), np.median(theirs), np.median(ratios), ratios.min(), ratios.max()))
    )


def harness_us(repeats: int = 9, frames: int = 100_000) -> tuple[float, float]:
    """Time of the harness for one inference, of a model alone and within an estimator, microseconds.

    Session and estimator do nothing, so everything between two inferences counts: the loop, the readings of the clock,
    the lists, the windows. What `measure` does once falls out of the difference between a long run and a short one; the
    garbage that it collects does not, in a process with much of it, so what lies there already is left out. It is time
    of the processor: the harness waits for nothing.
    """
    nothing: Any = SimpleNamespace(
        inputs=(SimpleNamespace(name="image"),),
        run=lambda feeds: None,
        prepare=lambda image, boxes: (None, None),
        decode=lambda outputs: None,
        finish=lambda decoded, crops: None,
    )
    nothing.session = nothing
    model_only = NetworkSubject(nothing, [{}])
    end_to_end = EstimatorSubject(nothing, [(np.zeros((8, 8, 3), np.uint8), None)], batch=1)

    def took_us(subject: NetworkSubject | EstimatorSubject, count: int) -> float:
        began = time.process_time()
        measure(subject, Options(frames=count, warmup_frames=0, warmup_min_s=0.0, windows=1))
        return 1e6 * (time.process_time() - began)

    def each_us(subject: NetworkSubject | EstimatorSubject) -> float:
        return (
            float(np.median([took_us(subject, 2 * frames) - took_us(subject, frames) for _ in range(repeats)])) / frames
        )

    gc.collect()
    gc.freeze()
    try:
        return each_us(model_only), each_us(end_to_end) / 2  # a frame of an estimator is run twice
    finally:
        gc.unfreeze()


def plain_loop(run: Callable[[Any], object], feeds: Sequence[Any], frames: int) -> float:
    """The loop that anybody would write."""
    for index in range(frames // 10):
        run(feeds[index % len(feeds)])
    times_s = []
    for index in range(frames):
        feed = feeds[index % len(feeds)]
        began = time.perf_counter()
        run(feed)
        times_s.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times_s))


def plain_ort(file: Path, threads: int) -> Callable[[Any], object]:
    """ONNX Runtime without this package."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def plain_tflite(file: Path, threads: int) -> Callable[[Any], object]:
    """LiteRT without this package, on inputs of the file's own type and layout."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=threads)
    interpreter.allocate_tensors()
    inputs = {details["name"]: details for details in interpreter.get_input_details()}
    outputs = [details["index"] for details in interpreter.get_output_details()]

    def run(feed: Mapping[str, Any]) -> list[Any]:
        for name, array in feed.items():
            scale, zero = inputs[name]["quantization"]
            dtype = inputs[name]["dtype"]
            if dtype != np.float32:
                limits = np.iinfo(dtype)
                array = np.clip(np.rint(array / scale) + zero, limits.min, limits.max).astype(dtype)
            interpreter.set_tensor(inputs[name]["index"], array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return run


def comparisons(
    bundle: Bundle, artifact: Artifact, inputs: list[Input], threads: int, frames: int, tools: Mapping[str, Path | None]
) -> Iterator[tuple[str, P50, P50]]:
    """What is compared of an artifact: (name, bench, other)."""
    # Short turns, and no windows beyond the first three: a neighbour should meet both.
    file, options = (
        bundle.path / artifact.file,
        Options(frames, warmup_frames=frames // 10, warmup_min_s=0, max_windows=3),
    )
    session = open_file(file, threads=threads)
    random: Feeds = random_feeds(session.inputs, 1)
    alone = NetworkSubject(session, random)
    plain = {"ort": plain_ort, "tflite": plain_tflite}[artifact.backend](file, threads)

    def file_p50() -> float:
        return measure(alone, options).stages()["model_only"].p50_ms

    yield f"{artifact.label}, file alone, against a loop", file_p50, lambda: plain_loop(plain, random, frames)
    color = "bgr" if inputs else bundle.model.input.color
    chosen = inputs or golden_inputs(bundle)
    estimator = PoseEstimator(
        bundle.model, open_session(bundle, artifact.backend, artifact.precision, threads=threads), color
    )
    subject = EstimatorSubject(estimator, chosen, batch=1)
    name = estimator.session.inputs[0].name
    real = [{name: estimator.prepare(image, [box])[0]} for image, box in chosen]

    def bundle_p50() -> float:
        return measure(subject, options).stages()["model_only"].p50_ms

    def loop_p50() -> float:
        return plain_loop(estimator.session.run, real, frames)

    yield f"{artifact.label}, model only in a bundle, against a loop over its session", bundle_p50, loop_p50
    tool = tools.get(artifact.backend)
    if tool is not None:
        timed = {"ort": perf_test, "tflite": benchmark_model}[artifact.backend]
        yield f"{artifact.label}, file alone, against {tool.name}", file_p50, lambda: timed(tool, file, threads, frames)


def perf_test(tool: Path, file: Path, threads: int, frames: int) -> float:
    """The median of ONNX Runtime's own tool, milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [tool, "-I", "-m", "times", "-r", frames, "-x", threads, "-y", 1, file, Path(folder) / "result"]
        printed = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    return perf_test_ms(printed)


def perf_test_ms(printed: str) -> float:
    """``P50 Latency: 0.000660711 s``."""
    return 1e3 * float(_only(r"P50 Latency: ([\d.e+-]+) s", printed))


def benchmark_model(tool: Path, file: Path, threads: int, frames: int) -> float:
    """The median of LiteRT's own tool, milliseconds."""
    options = {"graph": file, "num_threads": threads, "num_runs": frames, "min_secs": 0, "use_xnnpack": "true"}
    command = [str(tool), *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return benchmark_model_ms(done.stdout)


def benchmark_model_ms(printed: str) -> float:
    """The last ``count=50 first=.. p5=.. median=.. p95=..``, in microseconds; the first is that of the warm-up."""
    return float(_only(r"(?s:.*)count=.* median=([\d.e+-]+)", printed)) / 1e3


def _only(pattern: str, printed: str) -> str:
    match = re.search(pattern, printed)
    if match is None:
        sys.exit(f"error: the tool printed no median: {printed[-300:]}")
    return match[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="NAME.splite; every ort and tflite artifact of it is compared")
    parser.add_argument("--data", type=Path, help="images or labels.json to time on; golden crops without it")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=150, help="of each measurement (default: 150)")
    parser.add_argument("--rounds", type=int, default=40, help="measurements of each (default: 40)")
    parser.add_argument("--perf-test", type=Path, help="onnxruntime_perf_test")
    parser.add_argument("--benchmark-model", type=Path, help="LiteRT's benchmark_model")
    parser.add_argument("--out", type=Path, help="JSON lines file to append to")
    options = parser.parse_args()
    tools = {"ort": options.perf_test, "tflite": options.benchmark_model}
    environment = read_environment()
    model_us, estimator_us = harness_us()
    within = max(model_us, estimator_us) < LIMIT_US
    print(
        f"harness: {model_us:.2f} us for a model alone, {estimator_us:.2f} us for each of an estimator's, limit 20 us"
    )
    found = []
    try:
        bundle = Bundle.open(options.bundle)
        boxed = boxed_images(options.data, 64)[0] if options.data is not None else []
        inputs: list[Input] = [(read_image(file), box) for file, box in boxed]
        for artifact in bundle.manifest.artifacts:
            if artifact.backend not in tools or not find_backend(artifact.backend).installed:
                print(f"{artifact.label}: not compared, its backend is not installed or has no loop here")
                continue
            for case in comparisons(bundle, artifact, inputs, options.threads, options.frames, tools):
                found.append(compare(*case, options.rounds))
                print(found[-1])
    except SpliteError as err:
        sys.exit(f"error: {err}")
    absent = [
        name
        for name, tool in (("onnxruntime_perf_test", tools["ort"]), ("benchmark_model", tools["tflite"]))
        if not tool
    ]
    if absent:
        print(f"not compared with {' and '.join(absent)}: not named, and no wheel brings them")
    if options.out is not None:
        record = {
            "kind": KIND,
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "harness_us": {"model_only": model_us, "estimator": estimator_us},
            "threads": options.threads,
            "frames": options.frames,
            "rounds": options.rounds,
            "comparisons": [asdict(one) for one in found],
            "not_compared_with": absent,
            "environment": to_plain(environment),
        }
        append_record(options.out, record)
    sys.exit(0 if within and all(one.within for one in found) else 1)


if __name__ == "__main__":
    main()
