"""ONNX Runtime on a graph in several files, of which one at a time is in memory: for devices with little of it.

In every inference each part is read, compared with its hash, loaded, run and freed. That costs far more time than
running it: the whole graph is read from the disk for every frame. Memory holds one part, and the tensors between parts.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.manifest import REEXPORT, Part
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError, BundleError, UsageError
from splite_deploy.files import work_folder
from splite_deploy.runtime.backends.base import BaseSession, IoSignature, ModelFile, check_signature
from splite_deploy.runtime.backends.ort import (
    OrtOptions,
    end_trace,
    load_graph,
    read_trace,
    run_graph,
    signature_of,
)

if TYPE_CHECKING:
    import onnxruntime as ort


class PartsSession(BaseSession):
    """A graph in parts, each loaded when it runs.

    Args:
        file: Of an artifact with parts.
        options: How ONNX Runtime works.

    Raises:
        BackendError: ONNX Runtime cannot load a part: each is loaded once now, so that this is known.
        BundleError: A part has other tensors than the manifest says, is missing or damaged.
        UsageError: Another execution provider than the CPU's is to run it.
    """

    def __init__(self, file: ModelFile, options: OrtOptions) -> None:
        if file.artifact is None or file.read_part is None:
            raise BackendError(f"{file.name} has no parts.", hint="Open a bundle that was exported with --parts.")
        if options.provider is not None:
            raise UsageError(
                f"{file.artifact.label} is in parts, which run on the CPU alone, not by '{options.provider}'.",
                hint="Leave out --provider, or export without --parts.",
            )
        self._parts, self._read, self._options = file.artifact.parts, file.read_part, options
        last_read = {name: index for index, part in enumerate(self._parts) for name in part.inputs}
        last_read |= {tensor.name: len(self._parts) for tensor in file.artifact.outputs}
        self._over = [{name for name, last in last_read.items() if last == index} for index in range(len(self._parts))]
        taken = {tensor.name: tensor for tensor in file.artifact.inputs}
        inputs, outputs = dict[str, TensorSpec](), dict[str, TensorSpec]()
        for part in self._parts:
            own = signature_of(self._open(part))
            _check_part(part, own)
            inputs |= {one.name: one for one in own.inputs if one.name in taken}
            outputs |= {one.name: one for one in own.outputs}
            _give_back()
        check_signature(file.name, file.artifact, IoSignature(tuple(inputs.values()), tuple(outputs.values())))
        super().__init__(file.artifact)

    def _open(self, part: Part, trace: Path | None = None) -> ort.InferenceSession:
        file = ModelFile(self._read(part), part.file, "onnx")
        return load_graph(file, self._options, trace=trace, arena=False)

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        alive: dict[str, Any] = dict(feeds)
        for index, part in enumerate(self._parts):
            alive |= self._run_part(index, part, {name: alive[name] for name in part.inputs})
            for name in self._over[index]:
                del alive[name]
            _give_back()
        return {tensor.name: alive[tensor.name] for tensor in self.outputs}

    def _run_part(self, index: int, part: Part, feeds: Mapping[str, Any]) -> dict[str, Any]:
        return run_graph(self._open(part), part.outputs, feeds)

    def _release(self) -> None:
        pass  # nothing is held between two inferences


class TracedPartsSession(PartsSession):
    """The same, whose nodes are timed until `layers` is called."""

    def __init__(self, file: ModelFile, options: OrtOptions) -> None:
        self._layers: tuple[Layer, ...] | None = None
        self._events: list[list[dict[str, Any]]] = [[] for _ in file.artifact.parts] if file.artifact else []
        with ExitStack() as stack:
            self._folder = stack.enter_context(work_folder("trace"))
            super().__init__(file, options)
            self._stack = stack.pop_all()

    def _run_part(self, index: int, part: Part, feeds: Mapping[str, Any]) -> dict[str, Any]:
        if self._layers is not None:
            return super()._run_part(index, part, feeds)
        session = self._open(part, self._folder / "ort")
        values = run_graph(session, part.outputs, feeds)
        self._events[index] += end_trace(session)
        return values

    def layers(self) -> tuple[Layer, ...]:
        """See `TracedSession.layers`."""
        if self._layers is None:
            self._check_open()
            self._layers = tuple(layer for events in self._events for layer in read_trace(events))
            self._events = []
        return self._layers

    def _release(self) -> None:
        self._stack.close()


def _check_part(part: Part, own: IoSignature) -> None:
    """Compares what the manifest says of a part with the file.

    Raises:
        BundleError: They differ.
    """
    for side, said, found in (("inputs", part.inputs, own.inputs), ("outputs", part.outputs, own.outputs)):
        names = {tensor.name for tensor in found}
        if names != set(said):
            shown = " and ".join(", ".join(sorted(one)) for one in (names, set(said)))
            raise BundleError(f"The {side} of {part.file} are not those of the manifest: {shown}.", hint=REEXPORT)


@cache
def _allocator() -> Any:
    """glibc, which keeps memory that was freed unless it is told to give it back; None of another C library."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def _give_back() -> None:
    """Gives memory that was freed back to the system: 221 instead of 281 MB at the peak of ResNet-152 in 8 parts."""
    if (library := _allocator()) is not None:
        library.malloc_trim(0)
