"""The view of a network in torch, and in front of and behind an imported graph.

The modules follow the steps of `splite_deploy.spec.view`, as `splite_deploy.runtime.view` does in numpy. A torch
network is wrapped in `ViewedNetwork`; for a graph torch's exporter makes pieces of the same modules, which are joined
to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from splite_deploy.decoders import roles_of
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.compose import graph_of, joined, suited
from splite_deploy.export.graph.torch_to_onnx import MIN_OPSET, failure_on
from splite_deploy.export.graph.walk import attributes, from_proto, name_of, readers, to_proto
from splite_deploy.export.log_output import quiet
from splite_deploy.spec import InputSpec, InputView, ModelSpec, OutputView, View
from splite_deploy.spec.view import Dtype, Steps, choose, heads_in

_TYPES: Mapping[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "uint8": torch.uint8,
    "int8": torch.int8,
    "int32": torch.int32,
}
_BEFORE, _BEHIND = "view_input", "view_output"
_MOVERS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_INTEGERS = (ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.INT32)


class InputModule(nn.Module):
    """The image (N, C, h, w) float32, normalised, as the network takes it.

    Rounding and clipping are left out where preprocessing makes whole numbers of the type's range: pixels as they are,
    or less a whole mean.
    """

    def __init__(self, view: InputView, spec: InputSpec) -> None:
        super().__init__()
        self._steps, self._type = view.steps(spec.planes), _TYPES[view.dtype]
        self._limits: tuple[int, int] | None = None
        if np.issubdtype(view.dtype, np.integer):
            limits = np.iinfo(view.dtype)
            whole = all(std == 1 and mean == round(mean) for mean, std in zip(spec.mean, spec.std, strict=True))
            fits = all(limits.min <= -mean and 255 - mean <= limits.max for mean in spec.mean)
            self._limits = None if whole and fits else (int(limits.min), int(limits.max))

    def forward(self, image: Tensor) -> Tensor:
        """The network's input."""
        values = _turned(image, self._steps.axes)
        if tuple(values.shape[1:]) != self._steps.reshape:
            values = values.reshape(-1, *self._steps.reshape)
        if self._limits is not None:
            # clamp takes no whole numbers that float32 does not hold: those next to the ends of int32
            low, high = (
                float(np.nextafter(np.float32(end), np.float32(0))) if abs(end) > 2**24 else float(end)
                for end in self._limits
            )
            values = values.round().clamp(low, high)
        return values.to(self._type)


class OutputsModule(nn.Module):
    """Outputs of a network as the decoder reads them.

    Args:
        plans: For each role the place of its source among the tensors that are given, and the steps.
    """

    def __init__(self, plans: Sequence[tuple[int, Steps]]) -> None:
        super().__init__()
        self._plans = tuple(plans)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """The roles in their order, float32."""
        return tuple(_canonical(steps, given[place]) for place, steps in self._plans)


def _canonical(steps: Steps, values: Tensor) -> Tensor:
    made = values if values.dtype == torch.float32 else values.to(torch.float32)
    if tuple(made.shape[1:]) != steps.reshape:
        made = made.reshape(-1, *steps.reshape)
    made = _turned(made, steps.axes)
    for axis, begin, end in steps.slices:
        made = made.narrow(axis, begin, end - begin)
    if steps.columns is not None:
        made = made[..., : len(steps.columns)] if _leading(steps.columns) else _picked(made, steps.columns)
    if steps.activation == "none":
        return made
    if steps.activated is None:
        return made.sigmoid()
    places = range(made.shape[-1])
    columns = [made[..., place : place + 1] for place in places]
    parts = [
        column.sigmoid() if place in steps.activated else column for place, column in zip(places, columns, strict=True)
    ]
    return torch.cat(parts, dim=-1) if steps.activated else made


def _turned(values: Tensor, axes: tuple[int, ...]) -> Tensor:
    return values if axes == tuple(range(values.dim())) else values.permute(*axes)


def _leading(columns: tuple[int, ...]) -> bool:
    return columns == tuple(range(len(columns)))


def _picked(values: Tensor, columns: tuple[int, ...]) -> Tensor:
    return values.index_select(-1, torch.tensor(columns))


class ViewedNetwork(nn.Module):
    """A network that takes and gives canonical tensors: another one with its view around it.

    Attributes:
        network: The other one, whose outputs may be dictionaries, lists and objects.

    Args:
        network: In evaluation mode.
        view: Its view.
        spec: The model.

    Raises:
        ExportError: The network fails, an output is missing, or its shape does not fit the view.
    """

    def __init__(self, network: nn.Module, view: View, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self._view, self._spec = view, spec
        self._before = InputModule(view.input, spec.input)
        example = self._before(torch.zeros(1, *spec.input.planes))
        given = run_once(network, example)
        chosen, self.by_order = choose(given, view, spec, ExportError)
        _check_tensors(chosen)
        steps = {role: _steps(view, role, spec, tuple(values.shape)) for role, values in chosen.items()}
        self._behind = OutputsModule([(place, steps[role]) for place, role in enumerate(roles_of(spec))])
        self.training = network.training  # of a program it cannot be set

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """The decoder's outputs, in the order of its roles."""
        chosen, _ = choose(self.network(self._before(image)), self._view, self._spec, ExportError)
        made: tuple[Tensor, ...] = self._behind(*(chosen[role] for role in roles_of(self._spec)))
        return made


def viewed(network: nn.Module, view: View, spec: ModelSpec) -> tuple[nn.Module, ModelSpec, tuple[str, ...]]:
    """A network that takes and gives what the decoder reads, its model, and notes on what was done.

    It is the network itself if it does so already. The model has the heads that the network names itself, too.

    Args:
        network: In evaluation mode.
        view: Of ``model.toml``.
        spec: The model.

    Raises:
        ExportError: See `ViewedNetwork`.
    """
    given = run_once(network, network_example(view.input, spec.input))
    spec = spec.with_heads(heads_in(given, view, spec))
    if (view.is_canonical or view == View(outputs=dict.fromkeys(spec.heads, OutputView()))) and _is_plain(given):
        return network, spec, ()  # it gives tensors in the order of the roles, or `check_outputs` says what is wrong
    made = ViewedNetwork(network, view, spec)
    notes = view_notes(view)
    if made.by_order:
        notes = (*notes, f"matched the network's outputs by their order: {', '.join(roles_of(spec))}")
    return _traced(made, spec) if isinstance(network, torch.jit.ScriptModule) else made, spec, notes


def _traced(network: ViewedNetwork, spec: ModelSpec) -> nn.Module:
    """The network around a ScriptModule as a ScriptModule itself, which torch's older exporter takes alone."""
    with quiet():
        example = (torch.zeros(1, *spec.input.planes),)
        traced: nn.Module = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
    return traced


def base_network(network: nn.Module) -> nn.Module:
    """The network without the view around it, with the names of its own weights."""
    return network.network if isinstance(network, ViewedNetwork) else network


def network_example(view: InputView, spec: InputSpec) -> Tensor:
    """A blank image as the network takes it."""
    made: Tensor = InputModule(view, spec)(torch.zeros(1, *spec.planes))
    return made


def view_notes(view: View) -> tuple[str, ...]:
    """What a view changes, as text for the report."""
    said = []
    if not view.input.is_canonical:
        said.append(f"takes the image as {view.input.layout} {view.input.dtype}")
    for role, one in view.outputs.items():
        steps = []
        if one.source is not None:
            steps.append(f"output {list(one.source) if isinstance(one.source, tuple) else repr(one.source)}")
        if one.layout is not None:
            steps.append(one.layout)
        steps += [f"{axis} {begin}:{end}" for axis, (begin, end) in one.slice.items()]
        steps += [f"columns {' '.join(one.columns)}"] if one.columns else []
        steps += [one.activation] if one.activation != "none" else []
        said.append(f"{role} from {', '.join(steps)}" if steps else "")
    said = [one for one in said if one]
    return (f"built the view of model.toml into the graph: {'; '.join(said)}",) if said else ()


def run_once(network: nn.Module, example: Tensor) -> Any:
    """What the network gives for an example.

    Raises:
        ExportError: It fails.
    """
    try:
        with torch.inference_mode():
            return network(example)
    except (Exception, SystemExit) as err:  # the user's network can raise anything
        raise failure_on(tuple(example.shape), err) from err


def _is_plain(outputs: Any) -> bool:
    """Whether a network gives a tensor or several in a row, or nothing that has outputs."""
    if isinstance(outputs, tuple | list) and not hasattr(outputs, "_asdict"):
        return all(isinstance(value, Tensor) or value is None for value in outputs)
    return isinstance(outputs, Tensor) or outputs is None


def _check_tensors(chosen: Mapping[str, Any]) -> None:
    for role, values in chosen.items():
        if not isinstance(values, Tensor):
            raise ExportError(
                f"The output that is the '{role}' is a {type(values).__name__}, not a tensor.",
                hint=f"Correct source in [outputs.{role}] of model.toml.",
            )


def _steps(view: View, role: str, spec: ModelSpec, shape: tuple[int, ...]) -> Steps:
    one, count = view.output(role), spec.keypoint_count
    return one.steps(role, spec.decoder, count, spec.input, shape[1:], ExportError)


def view_around(
    model: ir.Model, view: View, spec: ModelSpec, sources: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> ir.Model:
    """A copy of a graph with its view around it: ``image`` in, the decoder's outputs out, named by their roles.

    Args:
        model: The graph, with one input beside its weights. No tensor in it is called ``image`` or by a role.
        view: Its view.
        spec: The model.
        sources: Name of the graph's output for each role; two may have the same.
        shapes: What each of these measures, batch first, by name.

    Raises:
        ExportError: A shape does not fit the view.
    """
    (given,) = (value for value in model.graph.inputs if not value.is_initializer())
    opset = model.opset_imports[""]
    batch = given.shape[0] if given.shape is not None and len(given.shape) else None
    names = list(dict.fromkeys(sources.values()))
    plans = [(names.index(name), _steps(view, role, spec, shapes[name])) for role, name in sources.items()]
    types = {name_of(value): value.dtype for value in model.graph.outputs}
    example = tuple(torch.zeros(shapes[name], dtype=_torch_type(types[name])) for name in names)
    kept = model.clone()
    kept.graph.outputs[:] = [value for value in kept.graph.outputs if name_of(value) in names]
    made = to_proto(kept)
    behind = [f"{_BEHIND}/{index}" for index in range(len(names))]
    piece = graph_of(OutputsModule(plans).eval(), example, behind, list(sources), _BEHIND, opset=min(opset, MIN_OPSET))
    made = joined(made, suited(piece, model), dict(zip(names, behind, strict=True)))
    before = InputModule(view.input, spec.input).eval()
    blank, taken = torch.zeros(1, *spec.input.planes), f"{_BEFORE}/image"
    piece = graph_of(before, (blank,), ["image"], [taken], _BEFORE, opset=min(opset, MIN_OPSET))
    made = joined(suited(piece, model), made, {taken: name_of(given)})
    whole = from_proto(made)
    if isinstance(batch, int):
        for value in (*whole.graph.inputs, *whole.graph.outputs):
            if value.shape is not None:
                value.shape = ir.Shape([batch, *value.shape[1:]])
    return keep_pixels_float(whole)


def keep_pixels_float(model: ir.Model) -> ir.Model:
    """Leaves out the cast of the image to integers where nothing but moving it comes before it is float32 again.

    The values are whole numbers already, by the view. Engines and TFLite have few kernels for integers, and TensorRT
    takes uint8 at its ends alone.

    Args:
        model: Of a network with its view, changed in place.

    Returns:
        The same.
    """
    (image,) = (value for value in model.graph.inputs if not value.is_initializer())
    value = image
    while (node := _only_reader(value)) is not None and node.op_type in {*_MOVERS, "Round", "Clip"}:
        value = node.outputs[0]
    if node is None or node.op_type != "Cast" or attributes(node)["to"] not in _INTEGERS:
        return model
    moved, movers = [node.outputs[0]], []
    while moved:
        value = moved.pop()
        if value.is_graph_output():
            return model
        for reader in readers(value):
            if reader.op_type in _MOVERS:
                moved.append(reader.outputs[0])
                movers.append(reader)
            elif reader.op_type != "Cast" or attributes(reader)["to"] != ir.DataType.FLOAT:
                return model
    source = node.inputs[0]
    assert source is not None
    node.outputs[0].replace_all_uses_with(source)
    model.graph.remove(node, safe=True)
    for mover in movers:
        mover.outputs[0].type = None
    return model


def _only_reader(value: ir.Value) -> ir.Node | None:
    found = readers(value)
    return found[0] if len(found) == 1 else None


def _torch_type(dtype: ir.DataType | None) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, ir.DataType.FLOAT.numpy() if dtype is None else dtype.numpy())).dtype
