"""What an artifact is made of as its backend runs it: layer by layer, in which types, and with times where it tells."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import UsageError
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import pick_artifact

RUNS = 50
LIMIT_S = 0.15
"""A slow network is run less often than `RUNS`, so that its profile takes about so long."""
_FEWEST_RUNS = 3
_SUFFIX = "_kernel_time"
_ORT_TYPES = {"float": "float32", "double": "float64"}  # the rest is called as in numpy


@dataclass(frozen=True)
class LayerGroup:
    """The layers of one kind that work in the same types.

    Attributes:
        kind: See `Layer.kind`.
        types: See `Layer.types`.
        count: Their number.
        time_us: What they take together; None where it was not measured.
        share: Part of the time of all layers, 0 to 1; None where it was not measured.
    """

    kind: str
    types: str
    count: int
    time_us: float | None
    share: float | None


def profile_artifact(
    bundle: Bundle, artifact: Artifact, *, runs: int = RUNS, threads: int | None = 1
) -> tuple[Layer, ...]:
    """Reads or measures the layers of an artifact, in the order in which they run.

    ONNX Runtime is asked for what it made of the graph (it fuses nodes and inserts conversions) and for the time of
    each: the median over inferences on the golden crops in turn. LiteRT's Python package times no operators, so there
    the layers are those of the file, but for the weights that it unpacks while loading, and have no time.

    Args:
        bundle: The bundle.
        artifact: One of its artifacts.
        runs: At most so many inferences; about `LIMIT_S` seconds is the other limit.
        threads: CPU threads of the backend; None is its default.

    Raises:
        UsageError: Its backend gives no profile, or there is nothing to run.
        MissingDependencyError: Its backend's package is not installed.
        BackendError: It cannot be loaded or run.
        CompileError: The file is not what its backend reads.
    """
    profile = PROFILES.get(artifact.backend)
    if profile is None:
        raise UsageError(
            f"The backend '{artifact.backend}' gives no profile.", hint=f"These do: {', '.join(PROFILES)}."
        )
    if runs < 1:
        raise UsageError(f"{runs} runs cannot be timed.", hint="Give 1 or more.")
    pick_artifact(bundle, artifact.backend, artifact.precision)  # raises where its package is missing
    return profile(bundle, artifact, runs, threads)


def histogram(layers: Sequence[Layer]) -> list[LayerGroup]:
    """Layers by kind and types; what takes longest comes first, or is most frequent where nothing was timed."""
    groups = [_group(kind, types, layers) for kind, types in dict.fromkeys((one.kind, one.types) for one in layers)]
    return sorted(groups, key=lambda group: (-(group.time_us or 0), -group.count, group.kind, group.types))


def types_histogram(layers: Sequence[Layer]) -> list[LayerGroup]:
    """The same by types alone; `LayerGroup.kind` is empty."""
    groups = [_group(None, types, layers) for types in dict.fromkeys(one.types for one in layers)]
    return sorted(groups, key=lambda group: (-(group.time_us or 0), -group.count, group.types))


def float_layers(layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Those that work in floating point alone: neither on integers, nor converting from or to them."""
    return tuple(one for one in layers if all("float" in name for name in re.findall(r"\w+", one.types)))


def _group(kind: str | None, types: str, layers: Sequence[Layer]) -> LayerGroup:
    held = [one for one in layers if one.types == types and kind in (None, one.kind)]
    taken, whole = total_us(held), total_us(layers)
    return LayerGroup(kind or "", types, len(held), taken, taken / whole if taken is not None and whole else None)


def total_us(layers: Iterable[Layer]) -> float | None:
    """What layers take together, microseconds; None where one was not measured."""
    times = [one.time_us for one in layers]
    return None if None in times else float(sum(filter(None, times)))


def _profile_ort(bundle: Bundle, artifact: Artifact, runs: int, threads: int | None) -> tuple[Layer, ...]:
    from splite_deploy.runtime.backends.ort import OrtSession

    spec = bundle.model.input
    tensors = Preprocessor(spec, spec.color).feed(bundle.golden().crops, artifact.inputs[0])
    with tempfile.TemporaryDirectory(prefix="splite-profile-") as folder:
        session = OrtSession(bundle.path / artifact.file, artifact, threads, trace=Path(folder) / "ort")
        began = time.perf_counter()
        for run in range(runs):
            start = run % len(tensors)
            session.run({artifact.inputs[0].name: tensors[start : start + 1]})
            if run + 1 >= _FEWEST_RUNS and time.perf_counter() - began > LIMIT_S:
                break
        trace = session.end_trace()
        session.close()
        return ort_layers(json.loads(trace.read_text(encoding="utf-8")))


def ort_layers(events: Iterable[Mapping[str, Any]]) -> tuple[Layer, ...]:
    """The layers in a trace of ONNX Runtime.

    Args:
        events: Its events; of each node one for every inference, in microseconds.
    """
    nodes: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            nodes.setdefault((name.removesuffix(_SUFFIX), event["args"]["node_index"]), []).append(event)
    in_order = sorted(nodes.items(), key=lambda node: node[1][0]["ts"])
    return tuple(
        Layer(name, taken[0]["args"]["op_name"], _ort_types(taken[0]["args"]), float(median(e["dur"] for e in taken)))
        for (name, _), taken in in_order
    )


def _ort_types(facts: Mapping[str, Any]) -> str:
    return _types(_widest(facts["input_type_shape"]), _widest(facts["output_type_shape"]))


def _widest(tensors: Sequence[Mapping[str, Sequence[int]]]) -> list[str]:
    """Types of the tensors of highest rank: scales, zero points and shapes are not what a layer works on."""
    found = [(len(shape), kind) for tensor in tensors for kind, shape in tensor.items()]
    rank = max((rank for rank, _ in found), default=0)
    return [_ORT_TYPES.get(kind, kind) for held, kind in found if held == rank]


def _types(inputs: Iterable[str], outputs: Iterable[str], stored: str = "") -> str:
    """The text of `Layer.types`."""
    before, after = (",".join(dict.fromkeys(names)) for names in (inputs, outputs))
    weights = f"[{stored}]" if stored and stored != before else ""
    return f"{before}{weights}" + (f" -> {after}" if after != before else "")


def _profile_tflite(bundle: Bundle, artifact: Artifact, runs: int, threads: int | None) -> tuple[Layer, ...]:
    return tflite_layers(bundle.path / artifact.file)


def tflite_layers(file: Path) -> tuple[Layer, ...]:
    """The layers of a TFLite file, without times.

    Raises:
        CompileError: It is no TFLite file.
    """
    from splite_deploy.runtime.backends.tflite_file import read_contents

    return tuple(
        Layer(op.result, op.name, _types(op.computed or op.inputs, op.outputs, op.weights), None)
        for op in read_contents(file).operators
        if not op.unpacks_weights
    )


PROFILES: Mapping[str, Callable[[Bundle, Artifact, int, int | None], tuple[Layer, ...]]] = {
    "ort": _profile_ort,
    "tflite": _profile_tflite,
}
