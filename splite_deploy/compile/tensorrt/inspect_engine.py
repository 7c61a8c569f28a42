"""The layers of an engine, read with TensorRT's inspector, compared with what was requested.

The inspector's JSON lists layers in the order in which they run. Up to version 8 a tensor's format is a sentence
("Row major linear FP32", "Thirty-two wide channel vectorized row major Int8 format"), later a type ("Half").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splite_deploy.bundle import Typing
from splite_deploy.bundle.report import Layer
from splite_deploy.compile.tensorrt.job import RequestedType
from splite_deploy.errors import CompileError
from splite_deploy.spec import Precision

_TYPES = {
    "float16": r"fp16|half|float16",
    "bfloat16": r"bf16|bfloat16",
    "int8": r"int8",
    "float32": r"fp32|float32|float",
    "fp8": r"fp8",
    "int32": r"int32",
    "int64": r"int64",
    "uint8": r"uint8",
    "bool": r"bool",
}
_TYPE = re.compile("|".join(rf"(?P<{name}>\b(?:{pattern})\b)" for name, pattern in _TYPES.items()), re.IGNORECASE)
_FORMAT_KEYS = ("Format/Datatype", "Datatype", "Format")
_COPIES = ("Reformat", "NoOp")
_NAMED = 5  # layers that a message names


@dataclass(frozen=True)
class EngineLayer:
    """A layer of an engine.

    Attributes:
        layer: As the report lists it.
        inputs: Types of its inputs.
        origin: Text that names the layers of the graph that it was made of.
    """

    layer: Layer
    inputs: frozenset[str]
    origin: str

    def is_of(self, name: str) -> bool:
        """Whether the graph's layer of this name became part of it; copies before a layer have its name too."""
        return (
            self.layer.kind not in _COPIES
            and re.search(rf"(?<![\w./:-]){re.escape(name)}(?![\w./:-])", self.origin) is not None
        )


def read_layers(text: str) -> list[EngineLayer]:
    """Reads the inspector's JSON.

    Raises:
        CompileError: It is something else.
    """
    try:
        entries = json.loads(text)["Layers"]
        return [_layer(entry) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise CompileError(
            "The output of TensorRT's inspector cannot be read, so that the engine cannot be checked.",
            hint="Report this with your version of TensorRT.",
        ) from err


def check_achieved(
    layers: Sequence[EngineLayer],
    requested: Mapping[str, RequestedType],
    precision: Precision,
    typing: Typing,
    file: str,
    *,
    calibrated: bool = False,
) -> None:
    """Compares the types in which an engine computes with those that were requested.

    Where the graph decides (a strongly typed graph, and any graph with int8 scales of its own) each requested layer has
    to be found. Flags only allow float16: the builder may leave layers in float32 where that is faster, but not all of
    them. They likewise only allow int8 where a calibrator chose the scales, since the graph names no layers for it.

    Args:
        layers: Of `read_layers`.
        requested: See `splite_deploy.compile.tensorrt.job.Built`.
        precision: The requested precision.
        typing: The typing mode.
        file: Name of the engine, for the message.
        calibrated: Whether a calibrator chose the scales of int8.

    Raises:
        CompileError: The message names the layers that compute in another type.
    """
    missed: dict[str, str] = {}
    got = 0
    for name, kind in requested.items():
        parts = [layer for layer in layers if layer.is_of(name)]
        if any(kind in part.inputs for part in parts):
            got += 1
        elif parts:
            missed[name] = parts[0].layer.types
    if not got and not missed:  # layers were fused beyond recognition: only their types can be compared
        kinds = set(requested.values())
        missed = {} if any(kinds & layer.inputs for layer in layers) else dict.fromkeys(requested, "fused")
    if missed and (typing == "strong" or (precision == "int8" and not calibrated) or not got):
        shown = ", ".join(f"{name} ({types})" for name, types in list(missed.items())[:_NAMED])
        more = f" and {len(missed) - _NAMED} more" if len(missed) > _NAMED else ""
        raise CompileError(
            f"{file} was to be {precision}, but {len(missed)} of its {len(requested)} requested layers are not: "
            f"{shown}{more}.",
            hint="TensorRT has no kernel of that precision for them on this GPU: widen their channels to a multiple of "
            "8 (fp16) or 32 (int8), or compile another precision.",
        )


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    inputs, outputs = _types(entry.get("Inputs", ())), _types(entry.get("Outputs", ()))
    before, after = "+".join(inputs), "+".join(outputs)
    types = f"{before} -> {after}" if before and after and before != after else before or after or "unknown"
    layer = Layer(name=entry["Name"], kind=entry.get("LayerType", "unknown"), types=types, time_us=None)
    return EngineLayer(layer, frozenset(inputs), f"{layer.name} {entry.get('Metadata', '')}")


def _types(tensors: Iterable[Mapping[str, Any]]) -> list[str]:
    """The types of tensors, each once."""
    found = []
    for tensor in tensors:
        text = next((str(tensor[key]) for key in _FORMAT_KEYS if key in tensor), "")
        match = _TYPE.search(text)
        found.append(match.lastgroup if match is not None and match.lastgroup else "unknown")
    return list(dict.fromkeys(found))
