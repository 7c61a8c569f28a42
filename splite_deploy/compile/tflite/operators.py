"""Writes operators that TFLite lacks with those that it has, and joins what it has as one.

torch's exporters spell the exact GELU out with the error function, which TFLite lacks: converters replace that by a
dozen operators or fail.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

_TOLERANCE = 1e-4  # relative, of the constants: they may have gone through float16
_OPSET = 20  # the first with Gelu


def spell_norms(model: ir.Model) -> int:
    """Turns ReduceL2 into the root of a sum of squares, in place: onnx2tf 1 fails on it.

    Returns:
        The number of nodes that were replaced.
    """
    nodes = [node for node in model.graph if node.op_type == "ReduceL2"]
    for norm in nodes:
        source, result = norm.inputs[0], norm.outputs[0]
        axes: list[ir.Value | None] = list(norm.inputs[1:])
        if "axes" in norm.attributes:  # before opset 18; those of ReduceSum are an input since 13
            listed = ir.tensor(np.array(norm.attributes.get_ints("axes"), np.int64))
            value = ir.Value(name=f"{norm.name}:axes", const_value=listed)
            model.graph.register_initializer(value)
            axes = [value]
        squares = ir.Node("", "Mul", [source, source], name=f"{norm.name}:squares")
        total = ir.Node(
            "",
            "ReduceSum",
            [squares.outputs[0], *axes],
            [attribute for attribute in norm.attributes.values() if attribute.name != "axes"],
            name=f"{norm.name}:sum",
        )
        root = ir.Node("", "Sqrt", [total.outputs[0]], name=norm.name)
        made = (squares, total, root)
        for node in made:
            value = node.outputs[0]
            value.name, value.dtype = f"{node.name}:out", result.dtype or ir.DataType.FLOAT
        squares.outputs[0].shape = None if source is None else source.shape
        total.outputs[0].shape = root.outputs[0].shape = result.shape
        model.graph.insert_after(norm, made)
        result.replace_all_uses_with(root.outputs[0], replace_graph_outputs=True)
        model.graph.remove(norm, safe=True)
    return len(nodes)


def join_gelus(model: ir.Model) -> int:
    """Turns x / 2 * (1 + erf(x / sqrt(2))), its factors in any order, into Gelu nodes, in place.

    Returns:
        The number of nodes that were made. The opset rises to 20 where it is lower and there is one: converters do not
        mind, though other nodes may be of an older one.
    """
    made = 0
    for node in list(model.graph):
        if node.op_type == "Erf" and _join(node):
            made += 1
    if made:
        model.opset_imports[""] = max(model.opset_imports[""], _OPSET)
    return made


def _join(erf: ir.Node) -> bool:
    """Writes one GELU around an error function, if it is one."""
    source = _scaled(erf.inputs[0], math.sqrt(0.5))
    plus = _only_reader(erf.outputs[0], "Add")
    if source is None or plus is None or not any(_is(value, 1.0) for value in plus.inputs):
        return False
    product: ir.Value | None = plus.outputs[0]
    for _ in range(2):  # the products with x and with a half
        node = None if product is None else _only_reader(product, "Mul")
        if node is None:
            return False
        product = node.outputs[0]
        found = _factors(product)
        constants = [value for value in found if value.const_value is not None]
        others = [value for value in found if value.const_value is None]
        if (
            len(constants) == 1
            and _is(constants[0], 0.5)
            and set(others) == {source, plus.outputs[0]}
            and len(others) == 2
        ):
            _replace(product, source)
            return True
    return False


def _replace(product: ir.Value, source: ir.Value) -> None:
    maker = product.producer()
    assert maker is not None and isinstance(maker.graph, ir.Graph)
    gelu = ir.Node("", "Gelu", [source], name=maker.name, num_outputs=1)
    gelu.outputs[0].shape, gelu.outputs[0].dtype = product.shape, product.dtype or ir.DataType.FLOAT
    gelu.outputs[0].name = product.name
    maker.graph.insert_after(maker, gelu)
    product.replace_all_uses_with(gelu.outputs[0], replace_graph_outputs=True)


def _scaled(value: ir.Value | None, factor: float) -> ir.Value | None:
    """What a value is a multiple of by this factor."""
    node = None if value is None else value.producer()
    if node is None or node.op_type not in ("Mul", "Div"):
        return None
    first, second = node.inputs
    if node.op_type == "Div":
        return first if _is(second, 1 / factor) else None
    return first if _is(second, factor) else second if _is(first, factor) else None


def _factors(value: ir.Value, depth: int = 2) -> list[ir.Value]:
    """The factors of a product that is spelled out."""
    node = value.producer()
    if node is None or node.op_type != "Mul" or depth < 0:
        return [value]
    return [factor for given in node.inputs if given is not None for factor in _factors(given, depth - 1)]


def _only_reader(value: ir.Value, kind: str) -> ir.Node | None:
    uses = list(value.uses())
    fits = len(uses) == 1 and uses[0].node.op_type == kind and not value.is_graph_output()
    return uses[0].node if fits else None


def _is(value: ir.Value | None, number: float) -> bool:
    """Whether a value is this constant."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return False
    return math.isclose(float(value.const_value.numpy().reshape(())), number, rel_tol=_TOLERANCE)
