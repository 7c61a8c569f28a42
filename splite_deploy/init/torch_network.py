"""Networks that torch runs: weights in their architecture, torch.export programs, TorchScript. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import ExportError, UsageError, first_line
from splite_deploy.export.log_output import quiet
from splite_deploy.export.source.checkpoint import build_architecture, load_weights, read_checkpoint
from splite_deploy.export.source.formats import FORMATS, format_of, load_script, read_program, require_trust
from splite_deploy.init.draft import TensorsAlone
from splite_deploy.init.network import Asked, Network
from splite_deploy.runtime.file_facts import TensorFacts
from splite_deploy.spec import HostSpec
from splite_deploy.spec.view import Source, parts_of


class TorchNetwork(Network):
    """A module with its weights.

    Args:
        network: In evaluation mode.
        form: What holds it, as text.
        taken: Its input.
        notes: What was done while loading.
    """

    def __init__(self, network: nn.Module, form: str, taken: TensorFacts, notes: tuple[str, ...] = ()) -> None:
        self._network, self.form, self.taken, self.notes = network, form, (taken,), notes

    def infer(self, tensor: NDArray[Any]) -> list[tuple[Source, FloatArray]]:
        """See `Network.infer`."""
        try:
            with torch.inference_mode(), quiet():
                given = self._network(torch.from_numpy(tensor))
        except (Exception, SystemExit) as err:  # the user's own code can raise anything
            shape = " x ".join(map(str, tensor.shape))
            raise ExportError(
                f"The network cannot be run on {shape}: {first_line(err, named=True)}",
                hint="Give the size that it was built for with --input HxW.",
            ) from err
        return [
            (path[0] if len(path) == 1 else path or 0, value.float().numpy().copy())
            for path, value in _nested(given)
            if isinstance(value, Tensor)
        ]


def open_torch(path: Path, asked: Asked) -> Network | None:
    """Opens one of torch's forms; see `splite_deploy.init.network.open_network`."""
    kind = format_of(path)
    if kind == "onnx":
        raise UsageError(f"{path} is an ONNX graph.", hint="Rename it to .onnx.")
    if kind == "weights":
        if not asked.arch:
            return None
        stored = read_checkpoint(path, weights=asked.weights)
        network = build_architecture(HostSpec(Path(), asked.arch, asked.arch_args))
        example = None
        if asked.size is not None:
            example = torch.zeros(1, _channels(network.state_dict()) or 3, *asked.size)
        notes = (*stored.notes, *load_weights(network, stored, example))
        taken = TensorFacts("image", (None, _channels(network.state_dict()) or 3, None, None), "float32")
        return TorchNetwork(network, "weights in their architecture", taken, notes)
    require_trust(path, kind, asked.trust)
    if kind == "script":
        script = load_script(path)
        shape = (None, _channels(script.state_dict()) or 3, None, None)
        return TorchNetwork(script, FORMATS[kind], TensorFacts("image", shape, "float32"))
    program = read_program(path)
    return TorchNetwork(program.module(), FORMATS[kind], _input_of(program))


def _nested(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """What lies in nested dictionaries and lists, with the path to each."""
    inner = parts_of(value)
    if isinstance(value, Tensor) or not inner:
        yield path, value
        return
    for key, item in inner.items():
        yield from _nested(item, (*path, key))


def _input_of(program: torch.export.ExportedProgram) -> TensorFacts:
    names = program.graph_signature.user_inputs
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names and isinstance(node.meta["val"], Tensor):
            value = node.meta["val"]
            shape = tuple(size if isinstance(size, int) else None for size in value.shape)
            return TensorFacts(node.name, shape, str(value.dtype).removeprefix("torch."))
    raise ExportError("The program takes no tensor.", hint="Export a network that takes one tensor, the image.")


def read_tensors(path: Path, weights: str | None) -> TensorsAlone:
    """What a checkpoint tells without its architecture.

    Raises:
        CheckpointError: See `splite_deploy.export.source.checkpoint.read_checkpoint`.
    """
    stored = read_checkpoint(path, weights=weights)
    weighted = {
        name: tensor
        for name, tensor in stored.tensors.items()
        if name.endswith("weight") and tensor.dim() in (2, 4) and tensor.is_floating_point()
    }
    planes = {name: tensor for name, tensor in weighted.items() if tensor.dim() == 4}
    rows = [(name, tensor) for name, tensor in weighted.items() if tensor.dim() == 2]
    bins = None
    if len(rows) > 1 and rows[-1][1].shape[1] == rows[-2][1].shape[1]:
        bins = int(rows[-2][1].shape[0]), int(rows[-1][1].shape[0])
    last = list(planes)[-1] if planes else ""
    return TensorsAlone(_channels(stored.tensors), int(planes[last].shape[0]) if last else None, bins, last)


def _channels(tensors: Mapping[str, Tensor]) -> int | None:
    """Channels of the image: those that the first convolution reads."""
    for name, tensor in tensors.items():
        if name.endswith("weight") and tensor.dim() == 4:
            return int(tensor.shape[1]) if tensor.shape[1] in (1, 3) else None
    return None
