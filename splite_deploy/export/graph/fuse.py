"""Fused pre- and postprocessing: uint8 crops in, keypoints out. For a finished graph of any precision.

Both are torch modules: `Normalise`, and those of `splite_deploy.decoders.torch`. torch's exporter makes graphs of them,
which `onnx.compose` joins to the network's. They compute in float32, as a graph's inputs and outputs are in every
precision.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

from splite_deploy.bundle import TensorSpec
from splite_deploy.decoders import Decoder, check_shapes, layouts_of, roles_of
from splite_deploy.decoders.torch import make_module
from splite_deploy.errors import ExportError
from splite_deploy.export.graph.compose import graph_of, joined, renamed, set_batch, suited
from splite_deploy.export.graph.torch_to_onnx import MIN_OPSET
from splite_deploy.export.graph.walk import from_proto, name_of, sizes, to_proto
from splite_deploy.spec import InputSpec, ModelSpec

_INPUT, _DECODE = "fused_input", "fused_decode"
_NORMALISED = "fused_input/normalised"


class Normalise(nn.Module):
    """uint8 crops (N, h, w, C) to (N, C, h, w) float32: (pixel - mean) / std by channel.

    The cast comes first, since TensorRT does nothing else with uint8. The batch normalisation stays a layer of its own:
    folded into a convolution's bias the mean would be wrong along the border, where zero padding stands for pixels of
    the mean.
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(spec.channels, eps=0.0)
        self.normalise.load_state_dict(
            {
                "weight": 1 / torch.tensor(spec.std, dtype=torch.float64),
                "bias": torch.zeros(spec.channels),
                "running_mean": torch.tensor(spec.mean),
                "running_var": torch.ones(spec.channels),
                "num_batches_tracked": torch.tensor(0),
            }
        )

    def forward(self, image: Tensor) -> Tensor:
        """Normalised planes."""
        planes: Tensor = self.normalise(image.to(torch.float32).permute(0, 3, 1, 2))
        return planes


def fuse_input(model: ir.Model, spec: ModelSpec) -> ir.Model:
    """A copy that takes uint8 crops (N, h, w, C) and normalises them itself; see `fuse`."""
    return fuse(model, spec, preprocessing=True)


def fuse_decode(model: ir.Model, spec: ModelSpec) -> ir.Model:
    """A copy that decodes: ``keypoints`` (N, K, 2) in input pixels, ``scores`` (N, K), and ``depth`` (N, K) if any.

    The heads of a network, such as ``presence``, stay its outputs.

    See `fuse`.
    """
    return fuse(model, spec, postprocessing=True)


def in_network(role: str) -> str:
    """What an output of the network is called where another one has its name."""
    return f"network/{role}"


def decode_beside(model: ir.Model, spec: ModelSpec) -> ir.Model:
    """A copy that decodes and first gives what it decodes: the network's outputs are called as `in_network` says.

    See `fuse`.
    """
    return fuse(model, spec, postprocessing=True, beside=True)


def fuse(
    model: ir.Model,
    spec: ModelSpec,
    *,
    preprocessing: bool = False,
    postprocessing: bool = False,
    beside: bool = False,
) -> ir.Model:
    """A copy with pre- or postprocessing inside.

    Args:
        model: A graph with one float32 input (N, C, h, w) for preprocessing, and with float32 outputs that are named by
            their roles for postprocessing.
        spec: The model; its decoder says what is computed.
        preprocessing: See `fuse_input`.
        postprocessing: See `fuse_decode`.
        beside: See `decode_beside`.

    Raises:
        ExportError: The input or an output is missing, of another type or shape, or the opset is too old.
    """
    _check_opset(model)
    outputs = model.graph.outputs
    image = _image(model, spec) if preprocessing else None
    decoding = _decoding(model, spec) if postprocessing else None
    # A decoded role may be the name of another tensor: "depth" is a map before, and K numbers afterwards
    named = (*spec.decoder.decoded_roles, *(spec.decoder.roles if beside else ()))  # heads stay what they are
    moved = {role: in_network(role) for role in named if decoding is not None}
    made = to_proto(renamed(model, moved))
    if image is not None:
        made = joined(suited(_preprocessing(spec.input, name_of(image)), model), made, {_NORMALISED: name_of(image)})
    if decoding is not None:
        joints = {moved.get(role, role): f"{_DECODE}/{role}" for role in spec.decoder.roles}
        made = joined(made, suited(decoding, model), joints)
    fused = from_proto(made)
    if beside:
        values = {name_of(value): value for node in fused.graph for value in node.outputs}
        for index, output in enumerate(value for value in outputs if value.name in spec.decoder.roles):
            value = values[in_network(name_of(output))]
            value.type, value.shape = output.type, output.shape
            fused.graph.outputs.insert(index, value)
    if image is not None:
        set_batch(fused.graph.inputs, image)
    if decoding is not None:
        set_batch(fused.graph.outputs, outputs[0])
    return fused


def _image(model: ir.Model, spec: ModelSpec) -> ir.Value:
    """The input that takes a normalised image."""
    inputs, wanted = _inputs(model), spec.input.planes
    if len(inputs) != 1 or inputs[0].dtype != ir.DataType.FLOAT or sizes(inputs[0])[1:] != wanted:
        raise ExportError(
            f"The graph's inputs are {_describe(inputs)}, not one float32 (N, {', '.join(map(str, wanted))}).",
            hint="Fuse the input once, into the graph that export made of this model.toml.",
        )
    return inputs[0]


def _decoding(model: ir.Model, spec: ModelSpec) -> onnx.ModelProto:
    """The graph of the decoder, for the outputs of a graph."""
    decoder, count = spec.decoder, spec.keypoint_count
    outputs = {name_of(value): value for value in model.graph.outputs}
    if set(outputs) != set(roles_of(spec)) or {value.dtype for value in outputs.values()} != {ir.DataType.FLOAT}:
        raise ExportError(
            f"The graph's outputs are {_describe(outputs.values())}; the decoder '{decoder.type}' reads float32 "
            f"{', '.join(roles_of(spec))} of {count} keypoints.",
            hint="Fuse the decoder once, into the graph that export made of this model.toml.",
        )
    shapes = {role: sizes(outputs[role]) for role in roles_of(spec)}
    check_shapes(shapes, spec, error=ExportError)
    maps = tuple(tuple(size or 0 for size in shapes[role][1:]) for role in decoder.roles)
    return _postprocessing(decoder, count, spec.input, maps)


@lru_cache(maxsize=8)
def _preprocessing(spec: InputSpec, image: str) -> onnx.ModelProto:
    """The graph of `Normalise`, from ``image`` to ``fused_input/normalised``."""
    crops = torch.zeros(1, spec.height, spec.width, spec.channels, dtype=torch.uint8)
    return graph_of(Normalise(spec).eval(), (crops,), [image], [_NORMALISED], _INPUT)


@lru_cache(maxsize=8)
def _postprocessing(
    decoder: Decoder, keypoints: int, size: InputSpec, shapes: tuple[tuple[int, ...], ...]
) -> onnx.ModelProto:
    """The graph of a decoder, from ``fused_decode/ROLE`` to the decoded roles."""
    example = tuple(torch.zeros(1, *shape) for shape in shapes)
    inputs = [f"{_DECODE}/{role}" for role in decoder.roles]
    return graph_of(make_module(decoder, keypoints, size), example, inputs, decoder.decoded_roles, _DECODE)


def _check_opset(model: ir.Model) -> None:
    if (opset := model.opset_imports.get("", 0)) < MIN_OPSET:
        raise ExportError(
            f"Fused pre- and postprocessing is written in opset {MIN_OPSET} or later; this graph has {opset}.",
            hint=f"Export with --opset {MIN_OPSET}.",
        )


def tensor_specs(model: ir.Model, decoder: Decoder) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of a graph of `export`, with or without fused pre- and postprocessing, for the manifest.

    A uint8 input is NHWC; outputs are named by the roles of the decoder, which knows their layouts.
    """
    return (
        tuple(_spec(v, "NHWC" if v.dtype == ir.DataType.UINT8 else "NCHW", "image") for v in _inputs(model)),
        tuple(_spec(v, _layout(v, decoder), name_of(v)) for v in model.graph.outputs),
    )


def _layout(value: ir.Value, decoder: Decoder) -> str:
    """The layout of an output, which is named by its role; empty if the decoder has none for it."""
    known = layouts_of(decoder), layouts_of(decoder, decoded=True)
    layouts = [found[name_of(value)] for found in known if value.name in found]
    fitting = (layout for layout in layouts if len(layout) == len(sizes(value)))  # "depth" is a map, or K numbers
    return next(fitting, "")


def _inputs(model: ir.Model) -> list[ir.Value]:
    """The graph's inputs; old graphs list their weights among them."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def _spec(value: ir.Value, layout: str, role: str) -> TensorSpec:
    return TensorSpec(name_of(value), sizes(value), _dtype(value), layout, role)


def _describe(values: Iterable[ir.Value]) -> str:
    """Tensors as text, for messages."""
    shown = [f"{name_of(v)} {_dtype(v)} ({', '.join(str(size or '?') for size in sizes(v))})" for v in values]
    return "; ".join(shown) or "none"


def _dtype(value: ir.Value) -> str:
    return "of unknown type" if value.dtype is None else value.dtype.numpy().name
