"""Which widths hardware pads, what that costs, and what rounding them up would change.

Hardware takes channels in blocks and fills the last one up: a network of odd widths has fewer multiply-accumulates
than a rounder one and takes as long, or longer. The blocks: tensor cores read 16 bytes, that is 8 values of FP16 or 16
of INT8 (NVIDIA, Matrix Multiplication Background User's Guide, "Tensor Core Requirements"); TensorRT's layout for INT8
convolutions, NC/32HW32, has blocks of 32 (NVIDIA, TensorRT Developer Guide, "Data Format Descriptions"). On CPUs the
blocks of ONNX Runtime's NCHWc kernels are 8 or 16 floats, which the same multiples fit.

What is predicted is the padding alone: work at widths rounded up over work. That says nothing of memory, nor of kernels
that exist for one width and not for another; `splite_deploy.compact.inspection.time_layers` times this CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, lcm, prod

from splite_deploy.bench.stats import LatencyStats

TARGETS = (("fp16", 8), ("int8", 16), ("int8", 32))
"""Precision and the multiple that widths should have; for INT8 16 is needed and 32 is better."""


@dataclass(frozen=True)
class WeightedLayer:
    """A convolution or linear layer.

    Attributes:
        name: Its module's, which is that of its weight.
        kind: ``conv``, ``depthwise``, ``grouped``, ``transposed`` or ``linear``.
        inputs: Input channels.
        outputs: Output channels.
        groups: Groups of channels; as many as inputs if depthwise.
        kernel: Its size; empty if linear.
        positions: Where it is computed, of one image; None where that is not known.
        bias: Whether it has one.
        fixed_inputs: Why the input width cannot change: it is the network's ``input`` or ``output``, or one channel
            that meets all others (``broadcast``); empty if it can.
        fixed_outputs: The same of the output width.
    """

    name: str
    kind: str
    inputs: int
    outputs: int
    groups: int
    kernel: tuple[int, ...]
    positions: int | None
    bias: bool
    fixed_inputs: str = ""
    fixed_outputs: str = ""

    def weights(self, widths: tuple[int, int]) -> int:
        """Number of its weights, and of its multiply-accumulates at one position, with these (inputs, outputs)."""
        inputs, outputs = widths
        return prod(self.kernel) * outputs * (1 if self.kind == "depthwise" else inputs // self.groups)

    @property
    def widths(self) -> tuple[int, int]:
        """(Inputs, outputs)."""
        return self.inputs, self.outputs

    def rounded(self, multiple: int, *, fixed: bool) -> tuple[int, int]:
        """(Inputs, outputs), rounded up.

        In groups they stay multiples of the number of groups; it is the whole tensor's width that is padded, and that
        ``compact --round-to`` rounds. A depthwise layer keeps its number of outputs per input.

        Args:
            multiple: Of what.
            fixed: Whether to round the fixed ones too, as hardware does.
        """
        depthwise = self.kind == "depthwise"
        step = multiple if depthwise else lcm(multiple, self.groups)
        inputs = self.inputs if self.fixed_inputs and not fixed else ceil(self.inputs / step) * step
        if depthwise:
            return inputs, inputs * (self.outputs // self.inputs)
        return inputs, self.outputs if self.fixed_outputs and not fixed else ceil(self.outputs / step) * step


@dataclass(frozen=True)
class Misfit:
    """A layer whose widths are no multiples.

    Attributes:
        layer: Its name.
        inputs: Input channels as hardware pads them.
        outputs: Output channels as hardware pads them.
        cost: Predicted share of padding: padded work / work - 1.
        fixed: Whether nothing can be done: all that does not fit is fixed.
    """

    layer: str
    inputs: int
    outputs: int
    cost: float
    fixed: bool


@dataclass(frozen=True)
class Totals:
    """Of all layers: parameters, multiply-accumulates (None where not known), megabytes in float32."""

    parameters: int
    macs: int | None
    megabytes: float


@dataclass(frozen=True)
class Fit:
    """How the widths fit one target.

    Attributes:
        precision: See `TARGETS`.
        multiple: See `TARGETS`.
        misfits: Layers that do not fit.
        cost: Predicted share of padding in the whole network; None where the multiply-accumulates are not known.
        rounded: With every width that is not fixed rounded up.
    """

    precision: str
    multiple: int
    misfits: tuple[Misfit, ...]
    cost: float | None
    rounded: Totals


@dataclass(frozen=True)
class Timing:
    """A layer alone on this CPU: ONNX Runtime, float32, one thread.

    Attributes:
        layer: Its name.
        now: At its widths.
        rounded: By multiple, at widths rounded up where they are not fixed.
    """

    layer: str
    now: LatencyStats
    rounded: Mapping[int, LatencyStats]


@dataclass(frozen=True)
class Alignment:
    """What there is to know of a network's widths.

    Attributes:
        layers: In the order in which they run, or in which a file without a graph holds them.
        now: As it is.
        fits: One for each of `TARGETS`.
        timings: Of every layer that rounding up changes; empty if not measured.
    """

    layers: tuple[WeightedLayer, ...]
    now: Totals
    fits: tuple[Fit, ...]
    timings: tuple[Timing, ...] = ()


def align(layers: Iterable[WeightedLayer]) -> Alignment:
    """Predicts what the widths of layers cost."""
    layers = tuple(layers)
    now = _totals(layers, [layer.widths for layer in layers])
    fits = []
    for precision, multiple in TARGETS:
        padded = [layer.rounded(multiple, fixed=True) for layer in layers]
        free = [layer.rounded(multiple, fixed=False) for layer in layers]
        misfits = tuple(
            Misfit(layer.name, *wide, layer.weights(wide) / layer.weights(layer.widths) - 1, own == layer.widths)
            for layer, wide, own in zip(layers, padded, free, strict=True)
            if wide != layer.widths
        )
        macs = _totals(layers, padded).macs
        cost = macs / now.macs - 1 if macs and now.macs else None
        fits.append(Fit(precision, multiple, misfits, cost, _totals(layers, free)))
    return Alignment(layers, now, tuple(fits))


def _totals(layers: Sequence[WeightedLayer], widths: Sequence[tuple[int, int]]) -> Totals:
    parameters, macs = 0, 0
    for layer, wide in zip(layers, widths, strict=True):
        parameters += layer.weights(wide) + layer.bias * wide[1]
        macs += (layer.positions or 0) * layer.weights(wide)
    known = all(layer.positions is not None for layer in layers)
    return Totals(parameters, macs if known else None, parameters * 4 / 1e6)
