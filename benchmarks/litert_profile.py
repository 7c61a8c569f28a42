r"""Where LiteRT spends its time in SPLite Hand and in MediaPipe's landmark network, operator by operator.

    python benchmarks/litert_profile.py hand.splite --mediapipe mediapipe-0.10.14-*.whl \
        --out benchmarks/results/litert-profile.jsonl

LiteRT's Python package times no operators. So every beginning of the network is made a network of its own, from the
first operator alone to all of them; they are timed in turn, and an operator costs what its beginning takes longer than
the one before it. Padding counts with the convolution behind it, into which XNNPACK fuses it, and weights are unpacked
while loading. Appends one JSON line.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from landmark_net import read_tflite
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bench.interleaved import interleave
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.runtime.backends.tflite_file import read_operators
from splite_deploy.spec.plain import to_plain

KIND = "litert-profile"
LITE = "hand_landmark_lite"
QUIET_PCT = 10
"""The percentile that stands for a beginning: its differences are small beside what other work adds to a median."""
_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


@dataclass(frozen=True)
class Timed:
    """One operator, with the padding before it.

    Attributes:
        kind: For example ``CONV_2D``.
        shape: Of its output.
        macs: Multiply-adds; 0 for what is no convolution.
        time_us: What it takes, microseconds; noise may make it negative.
    """

    kind: str
    shape: tuple[int, ...]
    macs: int
    time_us: float


def beginnings(content: bytes) -> Iterator[bytes]:
    """The network cut off behind its first operator, behind the second, and so on; what nobody reads is an output."""
    lasts = _last_operators(content)
    for last in lasts:
        model = _unpacked(content)
        graph = model.subgraphs[0]
        graph.operators = graph.operators[: last + 1]
        read = {int(tensor) for operator in graph.operators for tensor in operator.inputs}
        made = [int(tensor) for end in lasts if end <= last for tensor in graph.operators[end].outputs]
        graph.outputs = [tensor for tensor in made if tensor not in read]
        model.signatureDefs = []
        builder = flatbuffers.Builder(len(content))
        builder.Finish(model.Pack(builder), b"TFL3")
        yield bytes(builder.Output())


def profile(content: bytes, frames: int, progress: Callable[[int, int], None]) -> list[Timed]:
    """Times every operator of a network on one thread."""
    runs = {}
    for index, part in enumerate(beginnings(content)):
        interpreter = Interpreter(model_content=part, num_threads=1)
        interpreter.allocate_tensors()
        (image,) = interpreter.get_input_details()
        noise = np.random.default_rng(0).normal(size=image["shape"]).astype(image["dtype"])
        interpreter.set_tensor(image["index"], noise)
        runs[str(index)] = lambda _, interpreter=interpreter: interpreter.invoke()
    samples = interleave(runs, frames, warmup_frames=3, progress=progress)
    taken_us = np.array([1e3 * np.percentile(values, QUIET_PCT) for values in samples.values()])
    return list(_operators(content, np.diff(taken_us, prepend=0.0)))


def _unpacked(content: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))


def _last_operators(content: bytes) -> list[int]:
    """Operators behind which the network is cut: not padding, nor what unpacks weights, which happens at loading."""
    operators = enumerate(read_operators(content))
    return [index for index, operator in operators if operator.name != "PAD" and not operator.unpacks_weights]


def _operators(content: bytes, took_us: NDArray[np.float64]) -> Iterator[Timed]:
    operators, graph = read_operators(content), _unpacked(content).subgraphs[0]
    for index, time_us in zip(_last_operators(content), took_us.tolist(), strict=True):
        operator = operators[index]
        shape = tuple(map(int, graph.tensors[graph.operators[index].outputs[0]].shape))
        pixels = int(np.prod(shape[:-1]))
        macs = pixels * operator.weight_count if operator.name in _CONVOLUTIONS else 0
        yield Timed(operator.name, shape, macs, time_us)


def summed(layers: list[Timed]) -> list[dict[str, Any]]:
    """The operators by kind, the costliest first."""
    whole_us = sum(layer.time_us for layer in layers)
    found = []
    for kind in dict.fromkeys(layer.kind for layer in layers):
        members = [layer for layer in layers if layer.kind == kind]
        time_us, macs = sum(layer.time_us for layer in members), sum(layer.macs for layer in members)
        found.append(
            {"kind": kind, "count": len(members), "time_us": time_us, "share": time_us / whole_us, "macs": macs}
        )
    return sorted(found, key=lambda group: -group["time_us"])


def table(record: dict[str, Any]) -> Table:
    """The record for people."""
    grid = Table(title="LiteRT, one thread")
    for header in ("Network", "Operators"):
        grid.add_column(header, no_wrap=True)
    for header in ("us", "share", "MMAC", "GMAC/s"):
        grid.add_column(header, justify="right")
    for name, network in record["networks"].items():
        for group in network["kinds"]:
            speed = f"{group['macs'] / group['time_us'] / 1e3:.0f}" if group["macs"] else ""
            grid.add_row(
                name,
                f"{group['count']} {group['kind']}",
                f"{group['time_us']:.0f}",
                f"{group['share']:.0%}",
                f"{group['macs'] / 1e6:.1f}" if group["macs"] else "",
                speed,
            )
    return grid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="NAME.splite with an int8 file for LiteRT")
    parser.add_argument("--mediapipe", type=Path, required=True, help="mediapipe's wheel, site-packages, or folder")
    parser.add_argument("--frames", type=int, default=200, help="timed inferences of each beginning (default: 200)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    log = Console(stderr=True)
    try:
        bundle = Bundle.open(options.bundle)
        contents = {
            "splite-hand, LiteRT int8": (bundle.path / bundle.find("tflite", "int8").file).read_bytes(),
            LITE: read_tflite(options.mediapipe, f"{LITE}.tflite"),
        }
        environment, date_utc = read_environment(), datetime.now(timezone.utc).isoformat(timespec="seconds")
        networks = {}
        for name, content in contents.items():
            with log.status(name) as status:
                layers = profile(
                    content, options.frames, lambda done, total, name=name: status.update(f"{name}: {done} of {total}")
                )
            networks[name] = {
                "sha256": hashlib.sha256(content).hexdigest(),
                "time_us": sum(layer.time_us for layer in layers),
                "kinds": summed(layers),
                "layers": [asdict(layer) for layer in layers],
            }
        record = {
            "kind": KIND,
            "record_version": 1,
            "date_utc": date_utc,
            "frames": options.frames,
            "networks": networks,
            "environment": to_plain(environment),
        }
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    Console().print(table(record))
    log.print(f"appended to {options.out}")


if __name__ == "__main__":
    main()
