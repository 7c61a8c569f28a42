"""Opens whatever holds a network, so that it can be run and its inputs and outputs be looked at.

A ``.tflite`` and an ``.onnx`` file are run by their backend, without torch, onnx and TensorFlow. The forms of torch are
run by torch, in `splite_deploy.init.torch_network`, which is imported where one is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import UsageError
from splite_deploy.files import is_file
from splite_deploy.runtime.file_facts import FileFacts, TensorFacts, describe_file
from splite_deploy.runtime.session import backend_of, file_suffixes, open_model_file, read_content, read_file
from splite_deploy.spec.view import Source

_FORMS = {"onnx": "an ONNX graph", "tflite": "a TFLite file"}


@dataclass(frozen=True)
class Asked:
    """How a source is to be opened.

    Attributes:
        arch: ``file.py:symbol`` of the architecture, relative to the working folder; empty where the source brings one.
        arch_args: Keyword arguments of that callable.
        trust: Whether a program may be loaded, which can run code.
        weights: Key of the weights where a checkpoint holds several.
        size: Height and width of the input, pixels, where they are told. Weights that were compacted need it: the
            architecture is reshaped to them, which one run proves.
    """

    arch: str = ""
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    trust: bool = False
    weights: str | None = None
    size: tuple[int, int] | None = None


class Network(ABC):
    """A network that can be run.

    Attributes:
        form: What holds it, as text.
        taken: Its inputs, as far as they are known.
        stands_for: The numbers that the least and the largest integer of a quantised input stand for; None of others.
        facts: What the file says of itself, where a backend runs it.
        notes: What was done while loading, as text.
    """

    form: str
    taken: tuple[TensorFacts, ...]
    stands_for: tuple[float, float] | None = None
    facts: FileFacts | None = None
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> TensorFacts:
        """The input that takes the image.

        Raises:
            UsageError: There are several inputs, or none.
        """
        if len(self.taken) != 1:
            names = "; ".join(map(str, self.taken)) or "none"
            raise UsageError(
                f"The network takes {len(self.taken)} inputs: {names}.",
                hint="Give one that takes one input, the image.",
            )
        return self.taken[0]

    def run(self, tensor: NDArray[Any]) -> list[tuple[Source, FloatArray]]:
        """All outputs for one input, in the network's order, with what ``source`` of model.toml calls each.

        A network of a fixed batch is given the input as often as it takes, and what it gives for the first counts.

        Args:
            tensor: In the network's layout and type, batch of one.

        Raises:
            SpliteError: The network refuses it.
        """
        batch = self.image.shape[0]
        if batch is None or batch < 2:
            return self.infer(tensor)
        given = self.infer(np.repeat(tensor, batch, axis=0))
        return [(source, values[:1] if values.shape[:1] == (batch,) else values) for source, values in given]

    @abstractmethod
    def infer(self, tensor: NDArray[Any]) -> list[tuple[Source, FloatArray]]:
        """The same for as many inputs as the network takes."""


class FileNetwork(Network):
    """A file that a backend runs.

    Args:
        path: The file.

    Raises:
        SpliteError: The backend cannot load it, or is not installed.
    """

    def __init__(self, path: Path) -> None:
        data, backend = read_content(path), backend_of(path)
        self.facts = describe_file(path, data)
        self.form = _FORMS.get(self.facts.format, f"a file of the format {self.facts.format}")
        self._session = open_model_file(backend, read_file(path, backend, data=data), threads=1)
        held = {one.name: one.dtype for one in self._session.outputs}
        strange = {name: dtype for name, dtype in held.items() if not _is_numbers(dtype)}
        self._read = [name for name in held if name not in strange]
        if not self._read:
            what = "; it has " + ", ".join(f"'{name}', {dtype}" for name, dtype in strange.items()) if strange else ""
            raise UsageError(
                f"{path.name} has no output that is a tensor of numbers{what}.",
                hint="Export the network again, so that its outputs are tensors and the graph names them.",
            )
        self.notes = tuple(
            f"the output '{name}' is no tensor of numbers ({dtype}) and not read" for name, dtype in strange.items()
        )
        self.taken = tuple(
            TensorFacts(spec.name, spec.shape, spec.dtype, fact.scale, fact.zero_point)
            for spec, fact in zip(self._session.inputs, self.facts.inputs, strict=True)
        )
        for fact in self.facts.inputs:
            if fact.scale is not None and fact.zero_point is not None:
                ends = np.iinfo(fact.dtype).min, np.iinfo(fact.dtype).max
                low, high = ((end - fact.zero_point) * fact.scale for end in ends)
                self.stands_for = low, high

    def infer(self, tensor: NDArray[Any]) -> list[tuple[Source, FloatArray]]:
        """See `Network.infer`."""
        given = self._session.run({self.image.name: tensor})
        return [(name, np.array(given[name], np.float32)) for name in self._read]


def _is_numbers(dtype: str) -> bool:
    """Whether an output's type, as its session names it, is one of tensors that numpy holds."""
    try:
        return np.dtype(dtype).kind in "fiub"
    except TypeError:  # a sequence, text, or a type that numpy has not
        return False


def open_network(path: Path, asked: Asked) -> Network | None:
    """Opens a source.

    Args:
        path: A file that a backend runs, a checkpoint, a torch.export program or a TorchScript archive.
        asked: How.

    Returns:
        None where there are weights alone and no architecture: nothing can be run.

    Raises:
        SpliteError: Everything that can be wrong with the file.
    """
    if not is_file(path):
        raise UsageError(
            f"There is no file {path}.",
            hint="Name a checkpoint, an .onnx or a .tflite file, a torch.export program or a TorchScript archive.",
        )
    if path.suffix.lower() in file_suffixes():
        if asked.arch:
            raise UsageError(f"{path} brings its own architecture.", hint="Leave out --arch.")
        return FileNetwork(path)
    from splite_deploy.init.torch_network import open_torch

    return open_torch(path, asked)
