"""TensorRT's messages as our errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from splite_deploy.errors import CompileError

MEMORY_HINT = (
    "Add --low-memory or a smaller --workspace-mib, close other programs (a desktop takes a gigabyte), or add swap."
)
_EXPORT_HINT = "Export with -b trt, which makes graphs for TensorRT, with int8 as TensorRT reads it."
_PARSED = re.compile(r'While parsing node number (\d+) \[(\w+)(?: -> "([^"]*)")?')
_NOISE = re.compile(r"CUDA driver version is insufficient|^(Invalid|Unsupported) Node - ")
_PLACE = re.compile(r"\s+In \w+ at \S+:\d+\)?|^\[?\w+\.(cpp|h)::\S*\s+|^Assertion failed: |Error Code \d+: |\w+::\w+: ")
_MEMORY = re.compile(r"out of memory|insufficient memory|bad_alloc|failed to allocate|OutOfMemory", re.IGNORECASE)
_NO_KERNEL = re.compile(r"(?:any implementation for node|no runners that implement it)\W*([\w/.:+-]*(?:\[[^]]*\])?)")
_LIBRARY = re.compile(r"cublas|cudnn", re.IGNORECASE)
_CAPABILITY = re.compile(r"which has compute capability (\d+\.\d+)\.? .*?Supported compute capabilities: ([\d. >]*\d)")
_ZERO_POINT = re.compile(r"shiftIsAllZeros|zero[ _-]?p(oin)?t", re.IGNORECASE)
_LONGEST = 300


def parser_error(graph: str, parser: Any, logged: Sequence[str]) -> CompileError:
    """Why the ONNX parser refused a graph.

    Args:
        graph: Name of the file.
        parser: TensorRT's ``OnnxParser`` after ``parse`` has failed.
        logged: Errors that were logged; parsers up to version 8 name the node nowhere else.
    """
    error: Any = parser.get_error(0) if parser.num_errors else None
    reason = _meaning(error.desc() if error is not None else "\n".join(logged))
    if _MEMORY.search(reason):
        return _memory_error(graph, reason)
    match = next(filter(None, map(_PARSED.search, logged)), None)
    name = error.node_name() if hasattr(error, "node_name") else match[3] if match else ""
    op = error.node_operator() if hasattr(error, "node_operator") else match[2] if match else ""
    if not op:
        return CompileError(
            f"TensorRT cannot read {graph}: {reason}.",
            hint="Export the bundle again with this version of splite-deploy.",
        )
    if op in ("QuantizeLinear", "DequantizeLinear"):
        if re.search("int32", reason, re.IGNORECASE):
            return CompileError(
                f"{graph} has an int32 bias ({op} {name}), which TensorRT does not support.", hint=_EXPORT_HINT
            )
        if _ZERO_POINT.search(reason):
            return CompileError(
                f"{graph} has a zero point that is not 0 ({op} {name}); TensorRT's int8 is symmetric.",
                hint=_EXPORT_HINT,
            )
    if "Plugin not found" in reason or (error is not None and "UNSUPPORTED" in str(error.code())):
        return CompileError(
            f"TensorRT does not support the operator {op} of the node {name} in {graph}.",
            hint="Build that layer of the network from other operators, or run the bundle with -b ort.",
        )
    return CompileError(
        f"TensorRT cannot read the node {name} ({op}) of {graph}: {reason}.",
        hint="Build that layer of the network from other operators, or run the bundle with -b ort.",
    )


def build_error(graph: str, logged: Sequence[str], skipped: Sequence[str] = ()) -> CompileError:
    """The error of a builder that made no engine.

    Args:
        graph: Name of the file.
        logged: Errors that were logged.
        skipped: Warnings about kernels that failed when they were tried.
    """
    text = "\n".join(logged)
    if _MEMORY.search(text):
        return _memory_error(graph, _meaning(text))
    library = next(filter(_LIBRARY.search, (*logged, *skipped)), None)
    if library is not None:
        return CompileError(
            f"TensorRT built no engine of {graph} since cuBLAS or cuDNN does not work here: {_meaning(library)}.",
            hint="Install cuBLAS and cuDNN of the versions that this TensorRT was made for. Without them --low-memory "
            "builds graphs that were exported without --fuse-decode.",
        )
    if match := _NO_KERNEL.search(text):
        which = f" for {match[1].strip('.')}" if match[1].strip(".") else ""
        return CompileError(
            f"TensorRT found no kernel{which} while building {graph}: {_meaning(text)}.",
            hint="Give it more --workspace-mib, or compile another precision.",
        )
    return CompileError(
        f"TensorRT built no engine of {graph}: {_meaning(text)}.",
        hint="Compile another precision to see whether the graph is the cause; until then run the bundle with -b ort.",
    )


def load_error(logged: Sequence[str]) -> CompileError:
    """The error of a runtime that does not load the engine just built, from what it logged."""
    text = "\n".join(logged)
    if match := _CAPABILITY.search(text):
        return CompileError(
            f"This TensorRT builds engines for compute capability {match[2]}; the GPU here has {match[1]}.",
            hint="Compile on a machine with such a GPU, or install the TensorRT that serves this one (TensorRT-RTX "
            "serves RTX cards alone).",
        )
    return CompileError(
        f"TensorRT cannot load the engine that it has just built: {_meaning(text)}.",
        hint="Its version has to match the driver and the GPU: see 'splite-deploy doctor'.",
    )


def _memory_error(graph: str, reason: str) -> CompileError:
    return CompileError(f"There was not enough memory to build {graph}: {reason}.", hint=MEMORY_HINT)


def _meaning(text: str) -> str:
    """The first line with a meaning, without positions in TensorRT's source code."""
    lines = [_PLACE.sub("", line).strip().rstrip(".") for line in text.splitlines() if not _NOISE.search(line)]
    return next(filter(None, lines), "it gave no reason")[:_LONGEST]
