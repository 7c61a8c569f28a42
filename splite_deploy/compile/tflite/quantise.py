"""Full-integer TFLite files from float32 ones, by ai-edge-quantizer: which operators run in int8, and with what ranges.

The quantiser computes scales and places QUANTIZE and DEQUANTIZE. This module decides before it what stays in float,
and rewrites the float32 file so that no operator does without need:

* A clamp (ReLU, RELU_0_TO_1 of a hard sigmoid, MINIMUM and MAXIMUM with a constant) behind an operator that scales its
  result vanishes: the integers of the result stand for the clamped range and saturate at its ends.
* The padding of a max pool (-3.4e38) becomes the smallest number that the integers of its input stand for, which is
  what it means; where that is zero, as behind a ReLU, it is an ordinary padding with zeros.
* HARD_SWISH, for which XNNPACK has no int8 kernel, becomes a product with the clamped sum that it is.
* Tensors that are joined share one range, so that a concatenation only copies.

Softmax, norms and what else has no int8 kernel worth its error stay float with the arithmetic around them. These
islands are named in the report. So does what serves heads alone, such as ``presence``, and the layer that gives them:
calibration crops show hands or people alone, and a range of what is said of those has no room for the opposite.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.compile.precision import Int8Recipe
from splite_deploy.compile.tflite.network import MOVERS, WEIGHTED, Network, Operator, Range
from splite_deploy.compile.tflite.plan import EXCLUDED, SCALING, bounds, computes, float_operators, serving_alone
from splite_deploy.compile.tflite.ranges import find_ranges
from splite_deploy.compile.tflite.simplify import simplified
from splite_deploy.decoders import HEADS
from splite_deploy.errors import CompileError, MissingDependencyError, UsageError, first_line

_CARRIERS = frozenset({"TRANSPOSE", "RESHAPE", "SLICE", "STRIDED_SLICE", "GATHER", "DEPTH_TO_SPACE", "MAX_POOL_2D"})
"""Operators that give the same whether values are clamped before or after."""
_STAND_INS: Mapping[str, str] = {
    "DEPTH_TO_SPACE": "SPACE_TO_DEPTH",
    "SQUEEZE": "RESHAPE",
    "EXPAND_DIMS": "RESHAPE",
    "MINIMUM": "MAXIMUM",
    "REDUCE_MAX": "REDUCE_MIN",
    "RELU6": "RELU",
    "RELU_N1_TO_1": "RELU",
    "RELU_0_TO_1": "RELU",
    "LEAKY_RELU": "RELU",
    "PRELU": "MUL",
}
"""Operators with an int8 kernel that the quantiser does not know, and one that it treats as they have to be."""


@dataclass(frozen=True)
class FloatOperator:
    """An operator that computes in float32.

    Attributes:
        name: Of its first result.
        kind: For example ``SOFTMAX``.
        reason: Why, as text.
    """

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class QuantisationReport:
    """What the operators of a file compute in.

    Attributes:
        int8: Names of the operators in int8, by their first results.
        islands: Operators in float that nobody excluded.
        excluded: Operators in float because the caller says so.
    """

    int8: tuple[str, ...]
    islands: tuple[FloatOperator, ...]
    excluded: tuple[FloatOperator, ...]


@dataclass(frozen=True)
class Layer:
    """A weighted operator with what is computed from it before the next one.

    Attributes:
        name: Of the first result, by which `Int8Quantiser.quantise` excludes it.
        kind: Of the weighted operator.
    """

    name: str
    kind: str


class Int8Quantiser:
    """Makes int8 files of one float32 file; a trial with other excluded layers takes a fraction of the first.

    Args:
        content: float32 file.
        ranges: Ranges of activations by the name of their tensor, for example of
            `splite_deploy.compile.tflite.ranges.find_ranges`; full-integer needs those that `wanted` names.
        recipe: ``full-integer``: weights with a scale for each output channel, and activations; ``dynamic-range``:
            weights alone.
        integer_io: Makes inputs and outputs int8, too.

    Attributes:
        layers: What may be excluded, in the order in which it runs.

    Raises:
        MissingDependencyError: ai-edge-quantizer is not installed.
    """

    def __init__(
        self,
        content: bytes,
        ranges: Mapping[str, Range],
        *,
        recipe: Int8Recipe = "full-integer",
        integer_io: bool = False,
    ) -> None:
        check_installed()
        self._network = simplified(content)
        self._ranges = {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in ranges.items()}
        self._recipe, self._integer_io = recipe, integer_io
        kinds = {self._network.result(operator): operator.kind for operator in self._network.operators}
        self._groups = _groups(self._network)
        heads = {tensor for role, tensor in self._network.signed().items() if role in HEADS}
        self._ranges |= dict.fromkeys(heads, (0.0, 1.0))  # for integer outputs: probabilities
        last = [results for results in self._groups.values() if not heads.isdisjoint(results)]
        for_heads = chain(serving_alone(self._network, heads), *last)
        self._for_heads = frozenset(for_heads if recipe == "full-integer" else ())
        self.layers = tuple(Layer(name, kinds[name]) for name in self._groups if name not in self._for_heads)

    def quantise(self, exclude: Collection[str] = ()) -> tuple[bytes, QuantisationReport]:
        """The int8 file, and what it computes in.

        Args:
            exclude: Names of the layers that stay in float.

        Raises:
            UsageError: A layer is not there.
            CompileError: The quantiser fails.
        """
        unknown = [name for name in exclude if name not in self._groups]
        if unknown:
            raise UsageError(
                f"The network has no layer {', '.join(unknown[:5])}.", hint=f"It has: {', '.join(self._groups)}."
            )
        chosen = {name for layer in exclude for name in self._groups[layer]}
        network = self._network.copy()
        if self._recipe == "dynamic-range":
            floats = dict.fromkeys(chosen, EXCLUDED)
        else:
            floats = float_operators(network, chosen, self._for_heads)
        report = _report(network, floats, weights_only=self._recipe == "dynamic-range")
        if not report.int8:
            raise CompileError(
                "int8 was requested, but no convolution remains to quantise.",
                hint="Allow a larger deviation, or export fp16. What gives presence or handedness always stays float."
                if self._for_heads
                else "Allow a larger deviation, or export fp16.",
            )
        if self._recipe == "dynamic-range":
            return self._run(network, floats, {}), report
        ranges = _fit(network, floats.keys(), self._ranges)
        disguised = _disguise(network, floats)
        return network.with_kinds(self._run(network, floats, ranges), disguised), report

    def _run(self, network: Network, floats: Collection[str], ranges: Mapping[str, Range]) -> bytes:
        """What ai-edge-quantizer makes of a network."""
        from ai_edge_quantizer import algorithm_manager, model_modifier, params_generator, qtyping, recipe_manager

        # Not its class Quantizer, which parses the file again and loads it in LiteRT: stand-ins do not run
        recipe, no = recipe_manager.RecipeManager(), algorithm_manager.AlgorithmName.NO_QUANTIZE
        every = qtyping.TFLOperationName.ALL_SUPPORTED
        try:
            if self._recipe == "dynamic-range":
                recipe.add_dynamic_config(".*", every, 8)
            else:
                recipe.add_static_config(".*", every, 8, 8)
            if floats:
                names = "|".join(re.escape(name) for name in floats)
                recipe.add_quantization_config(f"^(?:{names});", every, None, no)
            if self._recipe == "full-integer":
                for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
                    if self._integer_io:
                        recipe.add_static_config("(?:)", end, 8, 8)
                    else:
                        recipe.add_quantization_config("(?:)", end, None, no)
            limits = {
                name: {"min": np.array(low, np.float32), "max": np.array(high, np.float32)}
                for name, (low, high) in ranges.items()
            }
            model = network.updated()
            parameters = params_generator.ParamsGenerator(model).generate_quantization_parameters(
                recipe, limits, enable_progress_bar=False
            )
            made = model_modifier.ModelModifier(model).modify_model(parameters, enable_progress_bar=False)
        except Exception as err:  # it raises ValueError and RuntimeError, and what its own code trips over
            raise CompileError(
                f"ai-edge-quantizer cannot quantise the network: {first_line(err, named=True)}",
                hint="Export -p fp16, and report this with the model.",
            ) from err
        return bytes(made)


def quantise(
    content: bytes, inputs: FloatArray, recipe: Int8Recipe, integer_io: bool
) -> tuple[bytes, QuantisationReport]:
    """An int8 file with ranges that are measured in LiteRT, and what it computes in.

    Args:
        content: float32 file.
        inputs: (N, h, w, C) float32 inputs of the network, from which the ranges of activations are learned.
        recipe: See `Int8Quantiser`.
        integer_io: Likewise.

    Raises:
        MissingDependencyError: ai-edge-quantizer is not installed.
        CompileError: The quantiser fails.
    """
    ranges = find_ranges(content, inputs) if recipe == "full-integer" else {}
    return Int8Quantiser(content, ranges, recipe=recipe, integer_io=integer_io).quantise()


def check_installed() -> None:
    """Raises `MissingDependencyError` where ai-edge-quantizer is not installed."""
    if find_spec("ai_edge_quantizer") is None:
        raise MissingDependencyError(
            "int8 files for TFLite are made with ai-edge-quantizer, which is not installed.",
            hint="Install it: pip install 'splite-deploy[tflite]'.",
        )


def _groups(network: Network) -> dict[str, list[str]]:
    """Each weighted operator with what is computed from it before the next one: name of the first to all names."""
    order = {id(operator): index for index, operator in enumerate(network.operators)}
    makers = network.makers()
    owners: dict[int, Operator] = {}
    found: dict[str, list[str]] = {}
    for operator in network.operators:
        above = [
            owners[id(makers[t])] for t in network.activations(operator) if t in makers and id(makers[t]) in owners
        ]
        if operator.kind in WEIGHTED:
            owners[id(operator)] = operator
        elif above:
            owners[id(operator)] = max(above, key=lambda owner: order[id(owner)])
        else:
            continue
        found.setdefault(network.result(owners[id(operator)]), []).append(network.result(operator))
    return found


def _report(network: Network, floats: Mapping[str, str], *, weights_only: bool) -> QuantisationReport:
    computing = [operator for operator in network.operators if computes(network, operator)]
    all_floats = [
        FloatOperator(network.result(operator), operator.kind, floats[network.result(operator)])
        for operator in computing
        if network.result(operator) in floats
    ]
    return QuantisationReport(
        tuple(
            network.result(operator)
            for operator in computing
            if network.result(operator) not in floats and (operator.kind in WEIGHTED or not weights_only)
        ),
        tuple(operator for operator in all_floats if operator.reason != EXCLUDED),
        tuple(operator for operator in all_floats if operator.reason == EXCLUDED),
    )


def _fit(network: Network, floats: Set[str], known: Mapping[str, Range]) -> dict[str, Range]:
    """Rewrites a network for int8 (see the module), in place; returns the ranges that it then has.

    Raises:
        CompileError: The range of a tensor is not known.
    """
    ranges = dict(known)
    absorbed = _absorb_clamps(network, floats, ranges)
    _share(network, floats, ranges, absorbed)
    used = {t for operator in network.operators if network.result(operator) not in floats
            for t in (*network.activations(operator), *operator.outputs) if network.is_float(t)}  # fmt: skip
    missing = [network.name(tensor) for tensor in sorted(used) if network.name(tensor) not in ranges]
    if missing:
        raise CompileError(
            f"No range is known of {', '.join(missing[:5])}.",
            hint="Calibrate with splite_deploy.compile.tflite.ranges.",
        )
    _pad_lowest(network, floats, ranges)
    _split_hard_swish(network, floats, ranges)
    return ranges


def _absorb_clamps(network: Network, floats: Set[str], ranges: dict[str, Range]) -> set[str]:
    """Drops clamps behind operators that scale their result: the range of the result is then that of the clamp.

    Operators that only move values may lie between the two. Returns the tensors whose range now clamps.
    """
    absorbed: set[str] = set()
    for clamp in list(network.operators):
        clamped, read = bounds(network, clamp), network.activations(clamp)
        if clamped is None or len(read) != 1 or {network.result(clamp), network.name(read[0])} & floats:
            continue
        makers, readers = network.makers(), network.readers()
        way, tensor = [clamp], read[0]
        while len(readers[tensor]) == 1 and tensor not in network.outputs and tensor in makers:
            way.append(makers[tensor])
            moved = network.activations(way[-1])
            if way[-1].kind not in _CARRIERS or len(moved) != 1:
                break
            tensor = moved[0]
        maker, name = way[-1], network.result(clamp)
        if maker.kind not in SCALING or network.result(maker) in floats or name not in ranges:
            continue
        joint = max(ranges[name][0], clamped[0]), min(ranges[name][1], clamped[1])
        ranges.update({network.result(operator): joint for operator in way})
        absorbed.update(map(network.result, way))
        way[1].outputs = list(clamp.outputs)
        network.operators.remove(clamp)
    return absorbed


def _share(network: Network, floats: Collection[str], ranges: dict[str, Range], absorbed: Set[str]) -> None:
    """Gives what is joined one range, and carries ranges through operators that only move values, both ways."""
    makers, readers = network.makers(), network.readers()
    for operator in network.operators:
        read = network.activations(operator)
        if operator.kind not in MOVERS or not read or network.result(operator) in floats:
            continue
        if operator.kind in ("CONCATENATION", "MAXIMUM", "MINIMUM", "PACK"):
            known = [ranges[network.name(t)] for t in (*read, *operator.outputs) if network.name(t) in ranges]
            if not known:
                continue
            joint = min(low for low, _ in known), max(high for _, high in known)
            ranges.update(dict.fromkeys(map(network.name, operator.outputs), joint))
            for tensor in read:
                _widen(network, tensor, joint, makers, readers, ranges, absorbed)
        elif network.name(read[0]) in ranges:
            ranges.update(dict.fromkeys(map(network.name, operator.outputs), ranges[network.name(read[0])]))


def _widen(
    network: Network,
    tensor: int,
    joint: Range,
    makers: Mapping[int, Operator],
    readers: Mapping[int, Sequence[Operator]],
    ranges: dict[str, Range],
    absorbed: Set[str],
) -> None:
    """Gives a tensor a wider range where nobody else reads it and it does not clamp, and what it is moved from."""
    while len(readers[tensor]) == 1 and tensor not in network.outputs and network.name(tensor) not in absorbed:
        ranges[network.name(tensor)] = joint
        maker = makers.get(tensor)
        read = [] if maker is None else network.activations(maker)
        if maker is None or maker.kind not in MOVERS or len(read) != 1 or len(maker.outputs) != 1:
            return
        tensor = read[0]


def _pad_lowest(network: Network, floats: Collection[str], ranges: Mapping[str, Range]) -> None:
    """Makes the padding of max pools the lowest number of the range; see the module."""
    for operator in network.operators:
        if operator.kind != "PADV2" or network.result(operator) in floats:
            continue
        value = network.constant(operator.inputs[2])
        low = ranges[network.name(operator.inputs[0])][0]
        if value is None or float(value.reshape(())) > low:
            continue
        if low == 0:
            operator.inputs = operator.inputs[:2]
            network.set_kind(operator, "PAD", network.options("PadOptions"))
        else:
            operator.inputs[2] = network.add_constant(f"{network.result(operator)}:lowest", np.float32(low).reshape(1))


def _split_hard_swish(network: Network, floats: Collection[str], ranges: dict[str, Range]) -> None:
    """Writes x * clamp(x / 6 + 1 / 2) out: three operators with XNNPACK take a tenth of the time of one without."""
    for operator in [one for one in network.operators if one.kind == "HARD_SWISH"]:
        (x,), name = operator.inputs, network.result(operator)
        if name in floats:
            continue
        low, high = ranges[network.name(x)]
        sixth = network.add_activation(f"{name}:sixth", network.shape(x))
        gate = network.add_activation(f"{name}:gate", network.shape(x))
        ranges[network.name(sixth)] = low / 6, high / 6  # the same integers
        ranges[network.name(gate)] = 0.0, min(high / 6 + 0.5, 1.0)
        factor = network.add_constant(f"{name}:factor", np.full((1,), 1 / 6, np.float32))
        half = network.add_constant(f"{name}:half", np.full((1,), 0.5, np.float32))
        network.insert(operator, "MUL", [x, factor], sixth, network.options("MulOptions"))
        network.insert(operator, "ADD", [sixth, half], gate, network.options("AddOptions"))
        operator.inputs = [x, gate]
        network.set_kind(operator, "MUL", network.options("MulOptions"))


def _disguise(network: Network, floats: Collection[str]) -> dict[int, str]:
    """Gives operators that the quantiser does not know the kind of their stand-in.

    Returns:
        What to restore: entries of the file's table of operators, with their own kind.
    """
    found: dict[str, int] = {}
    for operator in network.operators:
        if network.result(operator) not in floats and operator.kind in _STAND_INS:
            if operator.kind not in found:
                found[operator.kind] = network.add_kind(_STAND_INS[operator.kind])
            operator.raw.opcodeIndex = found[operator.kind]
    return {index: kind for kind, index in found.items()}
