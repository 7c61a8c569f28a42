"""What a bundle or a checkpoint holds, as far as its widths go. Imports onnx, and for checkpoints torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from splite_deploy.bundle import Bundle
from splite_deploy.compact.alignment import Alignment, Timing, WeightedLayer, align
from splite_deploy.compact.onnx_layers import LayerGraph
from splite_deploy.errors import UsageError
from splite_deploy.export.graph.walk import load
from splite_deploy.files import work_folder
from splite_deploy.spec.plain import to_plain

if TYPE_CHECKING:
    from torch import Tensor

    from splite_deploy.export.source.checkpoint import Checkpoint

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class CheckpointReport:
    """What a checkpoint holds.

    Attributes:
        file: Its path.
        format: ``safetensors`` or ``torch``.
        sha256: Its hash.
        size_bytes: Its size.
        parameters: Floating-point values without running statistics.
        compacted: What `compact` wrote into its header; None if it did not write it.
        alignment: Its widths.
        notes: How it was read, as text.
    """

    file: str
    format: str
    sha256: str
    size_bytes: int
    parameters: int
    compacted: Mapping[str, Any] | None
    alignment: Alignment
    notes: tuple[str, ...]


def inspect_bundle(
    bundle: Bundle, *, timed: bool = False, progress: Callable[[str], None] = lambda message: None
) -> Alignment:
    """Looks at the widths of a bundle's graph.

    Args:
        bundle: The bundle.
        timed: Whether to `measure`.
        progress: Called with each step as it begins.

    Raises:
        UsageError: It holds no ONNX graph.
        BundleError: The graph is not what the manifest describes.
        ExportError: The graph is not valid.
    """
    graph = bundle.find("ort", "fp32")
    return _of_graph(load(bundle.path / graph.file, bundle.read(graph)), timed, progress)


def inspect_checkpoint(
    checkpoint: Path,
    *,
    model: Path | None = None,
    weights: str | None = None,
    trust: bool = False,
    timed: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> CheckpointReport:
    """Looks at a checkpoint: at its tensors alone, or at the graph that `export` makes of it.

    The graph takes the network, which a Python file builds that the model spec names, and that is code: it is run for
    whoever trusts it alone.

    Args:
        checkpoint: ``.safetensors`` or ``.pt``, dense or compacted.
        model: ``model.toml``; None is the one beside the checkpoint, if there is one.
        weights: Which weights of the checkpoint; see `splite_deploy.export.source.checkpoint.read_checkpoint`.
        trust: Builds the network of the model spec, which runs code.
        timed: Whether to `measure`; this takes the network.
        progress: Called with each step as it begins.

    Raises:
        UsageError: What is asked for takes the network, and there is no model spec or it is not trusted.
        SpliteError: Everything that can be wrong with the checkpoint and its model spec.
    """
    from splite_deploy.export.source.checkpoint import read_checkpoint
    from splite_deploy.export.source.formats import read_head

    spec = model or checkpoint.parent / "model.toml"
    if (model is not None or timed) and not trust:
        raise UsageError(
            f"{'--measure' if model is None else '--model'} takes the network, which a Python file builds that the "
            "model spec names: that is code, and inspect does not run it by itself.",
            hint="If you know who wrote it add --trust; else leave both options out: the tensors are read alone.",
        )
    if trust and model is None and not spec.exists():
        raise UsageError(
            f"There is no model spec beside {checkpoint}, and without it no network can be built.",
            hint="Name it with --model, or leave out --trust and --measure.",
        )
    progress("reading the checkpoint")
    stored = read_checkpoint(checkpoint, weights=weights)
    written_as = "safetensors" if read_head(checkpoint)[8:9] == b"{" else "torch"
    compacted = _header(stored)
    if trust:
        alignment, notes = _of_network(checkpoint, spec, weights, timed, progress)
    else:
        alignment = align(layers_of_tensors(stored.tensors))
        notes = (
            *stored.notes,
            "read from the tensors alone: MACs, groups and which widths are outputs are not known; --trust builds the "
            "network by the Python file that model.toml names, which is code: only if you know who wrote it",
        )
    parameters = sum(
        tensor.numel()
        for name, tensor in stored.tensors.items()
        if tensor.is_floating_point() and not name.endswith(_STATISTICS)
    )
    size = checkpoint.stat().st_size
    return CheckpointReport(str(checkpoint), written_as, stored.sha256, size, parameters, compacted, alignment, notes)


def _header(stored: Checkpoint) -> Mapping[str, Any] | None:
    """The entry of `compact` in a checkpoint."""
    from splite_deploy.export.source.header import HEADER, read_entry

    if (entry := stored.metadata.get(HEADER)) is None:
        return None
    plain: dict[str, Any] = to_plain(read_entry(entry, stored.path))
    return {key: value for key, value in plain.items() if value != {}}


def _of_network(
    checkpoint: Path, spec: Path, weights: str | None, timed: bool, progress: Callable[[str], None]
) -> tuple[Alignment, tuple[str, ...]]:
    from splite_deploy.export.graph.torch_to_onnx import simplified_graph
    from splite_deploy.export.source.load import load_model

    progress("building the network")
    loaded = load_model(checkpoint, spec, weights)
    progress("making its graph")
    return _of_graph(simplified_graph(loaded.network, loaded.spec), timed, progress), loaded.notes


def _of_graph(model: ir.Model, timed: bool, progress: Callable[[str], None]) -> Alignment:
    graph = LayerGraph(model)
    alignment = align(graph.layers)
    return replace(alignment, timings=time_layers(graph, alignment, progress=progress)) if timed else alignment


def layers_of_tensors(tensors: Mapping[str, Tensor]) -> list[WeightedLayer]:
    """Layers as the shapes of weights suggest them.

    One input channel is taken for a depthwise layer, three for the image. Groups and transposed convolutions cannot be
    told from plain ones.

    Args:
        tensors: Weights by name; those of convolutions are (out, in, ...), those of linear layers (out, in).
    """
    layers = []
    for key, tensor in tensors.items():
        name, _, what = key.rpartition(".")
        if what != "weight" or tensor.dim() < 2:
            continue
        (outputs, inputs), kernel = tensor.shape[:2], tuple(tensor.shape[2:])
        depthwise = bool(kernel) and inputs == 1 < outputs
        kind = "depthwise" if depthwise else "conv" if kernel else "linear"
        width, groups = (outputs, outputs) if depthwise else (inputs, 1)
        image = "input" if kernel and width == 3 else ""
        layers.append(WeightedLayer(name, kind, width, outputs, groups, kernel, None, f"{name}.bias" in tensors, image))
    return layers


def time_layers(
    graph: LayerGraph,
    alignment: Alignment,
    *,
    inferences: int = 100,
    progress: Callable[[str], None] = lambda message: None,
) -> tuple[Timing, ...]:
    """Times every layer that rounding up changes, alone: as it is and rounded up, in turn.

    On this CPU with ONNX Runtime, float32 and one thread. A layer alone also pays for the change to ONNX Runtime's
    blocked layout (NCHWc) and back, which it uses where the widths fit and which a network pays once: pointwise layers
    of many positions seem slower rounded up than they are.

    Args:
        graph: The graph.
        alignment: Its widths.
        inferences: Timed ones at each width, after half as many to warm up.
        progress: Called with each step as it begins.

    Raises:
        ExportError: The size of an activation is not known.
    """
    from splite_deploy.compact.latency import time_in_turn
    from splite_deploy.runtime.session import open_bytes

    timings: list[Timing] = []
    for layer in alignment.layers:
        rounded = {fit.multiple: layer.rounded(fit.multiple, fixed=False) for fit in alignment.fits}
        choices = list(dict.fromkeys((layer.widths, *rounded.values())))
        if len(choices) == 1:
            continue
        if not timings:
            progress("timing layers on one thread")
        with work_folder("layers") as folder, ExitStack() as stack:
            files = [folder / f"{inputs}-{outputs}.onnx" for inputs, outputs in choices]
            artifacts = [graph.alone(layer, widths, file) for widths, file in zip(choices, files, strict=True)]
            sessions = [
                stack.enter_context(open_bytes(file.read_bytes(), artifact, threads=1))
                for file, artifact in zip(files, artifacts, strict=True)
            ]
            taken = dict(zip(choices, time_in_turn(sessions, inferences), strict=True))
        timings.append(
            Timing(layer.name, taken[layer.widths], {multiple: taken[widths] for multiple, widths in rounded.items()})
        )
    return tuple(timings)
