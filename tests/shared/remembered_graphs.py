"""Graphs that torch made in this run: of an equal network it makes an equal graph, and takes seconds for each.

Every network is exported once, by the worker that comes first. The steps behind it run for every export.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

folder: Path | None = None
"""Where they lie, the same for all workers; without it nothing is remembered."""
TORCH_TO_ONNX = "splite_deploy.export.graph.torch_to_onnx"


def remember_graphs() -> None:
    """Has exports of this process take a graph that is there already, if their module is imported."""
    module = sys.modules.get(TORCH_TO_ONNX)
    if module is not None and not hasattr(module._exported, "exports"):
        module._exported = _remembering(module._exported)  # type: ignore[attr-defined]


def _remembering(export: Callable[..., Any]) -> Callable[..., Any]:
    import onnx

    def exported(network: Any, example: Any, spec: Any, opset: int, dynamic_batch: bool) -> Any:
        arguments = (network, example, spec, opset, dynamic_batch)
        key = _content(arguments) if folder is not None else None
        if folder is None or key is None:
            return export(*arguments)
        file = folder / key
        if file.exists():
            return onnx.load_model_from_string(file.read_bytes())
        made = export(*arguments)
        folder.mkdir(exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(made.SerializeToString())
        partial.replace(file)
        return made

    exported.exports = export  # type: ignore[attr-defined]
    return exported


def _content(value: object) -> str | None:
    """A hash of all that a value holds and of the files of its classes; None where that cannot be told."""
    written = io.BytesIO()
    try:
        _Content(written).dump(value)
    except Exception:  # what has no name or no file, and what pickle can come to: a program of torch is endless to it
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


class _Content(pickle.Pickler):
    """Writes tensors by their hash, and classes and functions by their name and the hashes of their files."""

    def __init__(self, written: io.BytesIO) -> None:
        super().__init__(written, protocol=4)
        self._tensors: dict[int, int] = {}

    def persistent_id(self, obj: Any) -> object:
        """What stands for an object; None has it written as it is."""
        import torch

        if isinstance(obj, torch.Tensor):
            which = self._tensors.setdefault(id(obj), len(self._tensors))  # one that two modules share is another graph
            values = obj.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            held = hashlib.sha256(values).hexdigest()
            return which, type(obj).__name__, str(obj.dtype), tuple(obj.shape), obj.requires_grad, held
        if isinstance(obj, type | FunctionType):
            return self._code(obj)
        return None

    @staticmethod
    def _code(obj: type | FunctionType) -> object:
        name = f"{obj.__module__}.{obj.__qualname__}"
        if obj.__module__.partition(".")[0] in {"splite_deploy", "torch", *sys.stdlib_module_names}:
            return name
        parts = [obj] if isinstance(obj, FunctionType) else [one for cls in obj.__mro__ for one in vars(cls).values()]
        functions = [one for one in parts if isinstance(one, FunctionType) and not one.__module__.startswith("torch.")]
        files = {one.__code__.co_filename for one in functions}
        if "<" in "".join([name, *(one.__qualname__ for one in functions), *files]):
            raise pickle.PicklingError(f"{name} may hold values of what made it")
        places = {Path(file).parent for file in files}
        beside = sorted(one for place in places for one in place.glob("*.py") if one.is_file())
        return name, [(one.name, hashlib.sha256(one.read_bytes()).hexdigest()) for one in beside]  # it may import them
