"""What the kernels of ``.tflite`` operators take for granted: a step of 0, an axis that is not there, a missing input.

Each kernel's source (tflite/kernels in https://github.com/google-ai-edge/LiteRT) checks much of what it is given; here
is what it does not, and what a wrong value of ends the process. Shapes of what is computed are the file's own, so that
they are only looked at where nothing is left open.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from splite_deploy.runtime.backends.flatbuffer import DamagedError

if TYPE_CHECKING:
    from splite_deploy.runtime.backends.tflite_model import ModelOperator, ModelTensor

_Tensors = Sequence["ModelTensor"]
_Check = Callable[["ModelOperator", _Tensors, str], None]
_LARGEST_WINDOW = 1 << 16
_INPUTS = {
    1: """
        ABS ADD_N AVERAGE_POOL_2D CAST CEIL CONCATENATION COS DENSIFY DEPTH_TO_SPACE DEQUANTIZE ELU EXP FLOOR GELU
        HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_NOT LOGISTIC
        LOG_SOFTMAX MAX_POOL_2D NEG PACK QUANTIZE RANK RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 RESHAPE ROUND RSQRT SHAPE
        SIGN SIN SOFTMAX SPACE_TO_DEPTH SQRT SQUARE SQUEEZE TANH UNPACK WHERE ZEROS_LIKE
    """,
    2: """
        ADD ARG_MAX ARG_MIN ATAN2 BATCH_MATMUL BROADCAST_ARGS BROADCAST_TO CONV_2D CONV_3D CUMSUM DEPTHWISE_CONV_2D
        DIV EQUAL EXPAND_DIMS FILL FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL LESS
        LESS_EQUAL LOGICAL_AND LOGICAL_OR MAXIMUM MEAN MINIMUM MIRROR_PAD MUL NOT_EQUAL PAD POW PRELU REDUCE_ALL
        REDUCE_ANY REDUCE_MAX REDUCE_MIN REDUCE_PROD RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 SPLIT
        SQUARED_DIFFERENCE SUB SUM TILE TOPK_V2 TRANSPOSE
    """,
    3: """
        BATCH_TO_SPACE_ND DEPTHWISE_CONV_2D DYNAMIC_UPDATE_SLICE PADV2 RANGE SCATTER_ND SELECT SELECT_V2 SLICE
        SPACE_TO_BATCH_ND SPLIT_V TRANSPOSE_CONV
    """,
    4: """
        ONE_HOT STRIDED_SLICE
    """,
    5: """
        NON_MAX_SUPPRESSION_V4 SVDF
    """,
    6: """
        NON_MAX_SUPPRESSION_V5
    """,
}
"""Operators by the number of inputs that each has at least; LiteRT reads a depthwise bias that is not there."""
_LEAST_INPUTS = {name: count for count, names in _INPUTS.items() for name in names.split()}
_CHOICES = {"padding": 2, "fused_activation_function": 6, "weights_format": 2, "mode": 2}
"""How many values an option may have, from 0 on."""
_GRAPHS = """
subgraph then_subgraph_index else_subgraph_index cond_subgraph_index body_subgraph_index init_subgraph_index
decomposition_subgraph_index comparator_subgraph_index update_computation_subgraph_index
"""


def check_operator(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    """Checks an operator whose tensors are there.

    Args:
        operator: The operator, of those that LiteRT defines.
        tensors: Those of its graph.
        who: What to call it in the message.

    Raises:
        DamagedError: Its kernel could not take it.
    """
    least = _LEAST_INPUTS.get(operator.name, 0)
    if len(operator.inputs) < least or -1 in operator.inputs[:least]:
        raise DamagedError(f"{who} has fewer inputs than it reads")
    if least and not operator.outputs:
        raise DamagedError(f"{who} has no output")
    for name, count in _CHOICES.items():
        value = operator.options.get(name)
        if isinstance(value, int) and not 0 <= value < count:
            raise DamagedError(f"{who} has {name} {value}")
    if check := _CHECKS.get(operator.name):
        check(operator, tensors, who)


def called_graphs(operator: ModelOperator) -> list[int]:
    """Numbers of the graphs that an operator runs."""
    return [operator.options[name] for name in _GRAPHS.split() if name in operator.options]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise DamagedError(message)


def _shape(tensor: ModelTensor) -> tuple[int, ...] | None:
    """Sizes of a tensor; None where one is open, or the rank may be (as of a scalar, which leaves its shape out)."""
    return None if not tensor.shape or -1 in tensor.signature else tensor.shape


def _integers(tensor: ModelTensor) -> list[int] | None:
    """A constant of integers; None where it is computed."""
    if tensor.data is None or tensor.dtype not in ("int8", "uint8", "int16", "int32", "int64"):
        return None
    found: list[int] = np.frombuffer(tensor.data, tensor.dtype).tolist()
    return found


def _window(operator: ModelOperator, shape: Sequence[int] | None, sizes: Sequence[int], who: str) -> None:
    """Checks steps and, without padding, whether the window fits into (height, width)."""
    options = operator.options
    for name in ("stride_w", "stride_h", "stride_d", "dilation_w_factor", "dilation_h_factor", "dilation_d_factor"):
        if name in options:
            _require(0 < options[name] <= _LARGEST_WINDOW, f"{who} has {name} {options[name]}")
    for size in sizes:
        _require(0 < size <= _LARGEST_WINDOW, f"{who} has a window of {size}")
    if options["padding"] == 1 and shape is not None and len(sizes) == 2:
        dilations = options.get("dilation_h_factor", 1), options.get("dilation_w_factor", 1)
        for have, size, dilation in zip(shape, sizes, dilations, strict=True):
            _require((size - 1) * dilation < have, f"{who} has a window of {size} over {have}")


def _plane(tensor: ModelTensor) -> tuple[int, ...] | None:
    """(height, width) of a tensor of images."""
    shape = _shape(tensor)
    return shape[1:3] if shape is not None and len(shape) == 4 else None


def _kind(operator: ModelOperator, who: str, *kinds: str) -> None:
    _require(operator.options[""] in kinds, f"{who} lacks its options")


def _convolution(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    _kind(operator, who, "Conv2DOptions", "DepthwiseConv2DOptions")
    image, weights = (tensors[index] for index in operator.inputs[:2])
    _require(len(weights.shape) == 4 and 0 not in weights.shape, f"{who} has weights of the shape {weights.shape}")
    _window(operator, _plane(image), weights.shape[1:3], who)
    groups = operator.options.get("depth_multiplier")
    channels = (_shape(image) or ())[-1:]
    if groups is None and channels:
        _require(channels[0] % weights.shape[3] == 0, f"{who} has weights for other channels")
    if groups is not None:
        _require(groups >= 0, f"{who} has depth_multiplier {groups}")
        _require(
            not channels or weights.shape[3] == channels[0] * (groups or weights.shape[3] // channels[0]),
            f"{who} has weights for other channels",
        )


def _transposed_convolution(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    _kind(operator, who, "TransposeConvOptions")
    sizes, weights = (tensors[index] for index in operator.inputs[:2])
    _require(len(weights.shape) == 4 and 0 not in weights.shape, f"{who} has weights of the shape {weights.shape}")
    given = _integers(sizes)
    _require(given is None or (len(given) == 4 and min(given) > 0), f"{who} gives a size of {given}")
    _window(operator, None, weights.shape[1:3], who)


def _convolution_3d(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    _kind(operator, who, "Conv3DOptions")
    weights = tensors[operator.inputs[1]]
    _require(len(weights.shape) == 5 and 0 not in weights.shape, f"{who} has weights of the shape {weights.shape}")
    _window(operator, None, weights.shape[:3], who)


def _pool(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    _kind(operator, who, "Pool2DOptions")
    options = operator.options
    _window(operator, _plane(tensors[operator.inputs[0]]), (options["filter_height"], options["filter_width"]), who)


def _dense(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    _kind(operator, who, "FullyConnectedOptions")
    weights = tensors[operator.inputs[1]]
    _require(len(weights.shape) == 2 and 0 not in weights.shape, f"{who} has weights of the shape {weights.shape}")


def _axis(value: int, rank: int, who: str) -> None:
    _require(-rank <= value < rank, f"{who} has the axis {value} of {rank}")


def _along(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    """Operators with one axis in their options."""
    _kind(operator, who, _AXIS_OPTIONS[operator.name])
    axis, rank = operator.options["axis"], len(tensors[operator.inputs[0]].shape)
    more = operator.name in ("PACK", "ONE_HOT")
    if _shape(tensors[operator.inputs[0]]) is not None:
        _axis(axis, rank + more, who)
    if operator.name == "PACK":
        _require(operator.options["values_count"] == len(operator.inputs), f"{who} has other inputs than it says")
    if operator.name == "UNPACK":
        _require(operator.options["num"] == len(operator.outputs), f"{who} has other outputs than it says")
    if operator.name == "GATHER":
        batch = operator.options["batch_dims"]
        _require(abs(batch) <= rank, f"{who} has batch_dims {batch}")


def _over(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    """Operators whose second input names axes of the first."""
    first, axes = tensors[operator.inputs[0]], _integers(tensors[operator.inputs[1]])
    if axes is None or _shape(first) is None:
        return
    rank = len(first.shape)
    for axis in axes:
        _axis(axis, rank + (operator.name == "EXPAND_DIMS"), who)
    if operator.name == "TRANSPOSE":
        _require(sorted(axis % rank for axis in axes) == list(range(rank)), f"{who} has the order {axes}")


def _split(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    _kind(operator, who, "SplitOptions", "SplitVOptions")
    count = operator.options["num_splits"]
    _require(0 < count == len(operator.outputs), f"{who} has {len(operator.outputs)} outputs, and {count} parts")
    axis, value = operator.inputs[:2] if operator.name == "SPLIT" else (operator.inputs[2], operator.inputs[0])
    axes, shape = _integers(tensors[axis]), _shape(tensors[value])
    if axes is not None and shape is not None:
        _require(len(axes) == 1, f"{who} has {len(axes)} axes")
        _axis(axes[0], len(shape), who)


def _block(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    size = operator.options.get("block_size", 0)
    _require(0 < size <= _LARGEST_WINDOW, f"{who} has blocks of {size}")


def _blocks(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    """Between batch and space: sizes of blocks, and what is padded or cropped."""
    sizes, ends = (_integers(tensors[index]) for index in operator.inputs[1:3])
    _require(sizes is None or min(sizes, default=1) > 0, f"{who} has blocks of {sizes}")
    _require(ends is None or min(ends, default=0) >= 0, f"{who} has paddings of {ends}")


def _pad(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    first, ends = tensors[operator.inputs[0]], tensors[operator.inputs[1]]
    shape, given = _shape(first), _integers(ends)
    if given is None:
        return
    _require(len(given) % 2 == 0 and min(given, default=0) >= 0, f"{who} has paddings of {given}")
    _require(max(given, default=0) <= 1 << 24, f"{who} has paddings of {given}")
    if shape is None:
        return
    _require(len(given) == 2 * len(shape), f"{who} has {len(given) // 2} paddings for {len(shape)} axes")
    if operator.name == "MIRROR_PAD":
        edge = 1 - operator.options.get("mode", 0)
        fits = all(max(given[2 * i : 2 * i + 2]) <= size - edge for i, size in enumerate(shape))
        _require(fits, f"{who} has paddings of {given} for the shape {shape}")


def _resize(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    sizes = _integers(tensors[operator.inputs[1]])
    fits = sizes is None or (len(sizes) == 2 and min(sizes) > 0 and max(sizes) <= _LARGEST_WINDOW)
    _require(fits, f"{who} gives a size of {sizes}")
    shape = _shape(tensors[operator.inputs[0]])
    _require(shape is None or (len(shape) == 4 and 0 not in shape), f"{who} reads the shape {shape}")


def _reshape(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    shape, source = operator.options.get("new_shape"), tensors[operator.inputs[0]]
    if len(operator.inputs) > 1 and operator.inputs[1] >= 0:
        shape = _integers(tensors[operator.inputs[1]])
    if shape is None:
        return
    _require(min(shape, default=0) >= -1 and list(shape).count(-1) <= 1, f"{who} gives the shape {list(shape)}")
    if _shape(source) is not None and 0 not in source.shape:
        known = math.prod(size for size in shape if size >= 0)
        fits = known == source.size if -1 not in shape else known > 0 and source.size % known == 0
        _require(fits or list(shape) == [0], f"{who} gives the shape {list(shape)} of {source.size} elements")


def _strided_slice(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    _kind(operator, who, "StridedSliceOptions")
    given = [_integers(tensors[index]) for index in operator.inputs[1:4]]
    _require(len({len(one) for one in given if one is not None}) <= 1, f"{who} has ends of unlike length")
    _require(given[2] is None or 0 not in given[2], f"{who} has a step of 0")


def _slice(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    shape, given = _shape(tensors[operator.inputs[0]]), [_integers(tensors[index]) for index in operator.inputs[1:3]]
    begin, size = given
    if begin is None or size is None or shape is None:
        return
    _require(len(begin) == len(size) == len(shape), f"{who} has ends of unlike length")
    for start, count, have in zip(begin, size, shape, strict=True):
        fits = start >= 0 and count >= -1 and start + max(count, 0) <= have
        _require(fits, f"{who} takes {count} from {start} of {have}")


def _tile(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    shape, times = _shape(tensors[operator.inputs[0]]), _integers(tensors[operator.inputs[1]])
    _require(times is None or 0 <= min(times, default=0) <= max(times, default=0) <= 1 << 24, f"{who} repeats {times}")
    _require(times is None or shape is None or len(times) == len(shape), f"{who} repeats {times} of {shape}")


def _multiply(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    for index in operator.inputs[:2]:
        _require(_shape(tensors[index]) is None or len(tensors[index].shape) >= 2, f"{who} reads no matrix")


def _runs_graphs(operator: ModelOperator, tensors: _Tensors, who: str) -> None:
    _require(bool(called_graphs(operator)), f"{who} lacks its options")


_AXIS_OPTIONS = {
    "CONCATENATION": "ConcatenationOptions",
    "PACK": "PackOptions",
    "UNPACK": "UnpackOptions",
    "GATHER": "GatherOptions",
    "ONE_HOT": "OneHotOptions",
}
_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), _convolution),
    **dict.fromkeys(("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D"), _pool),
    **dict.fromkeys(("CONV_3D", "CONV_3D_TRANSPOSE"), _convolution_3d),
    "TRANSPOSE_CONV": _transposed_convolution,
    "FULLY_CONNECTED": _dense,
    "BATCH_MATMUL": _multiply,
    **dict.fromkeys(_AXIS_OPTIONS, _along),
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "REDUCE_ANY", "REDUCE_ALL"), _over),
    **dict.fromkeys(("ARG_MAX", "ARG_MIN", "TRANSPOSE", "EXPAND_DIMS", "CUMSUM", "REVERSE_V2"), _over),
    **dict.fromkeys(("SPLIT", "SPLIT_V"), _split),
    **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), _block),
    **dict.fromkeys(("BATCH_TO_SPACE_ND", "SPACE_TO_BATCH_ND"), _blocks),
    **dict.fromkeys(("PAD", "PADV2", "MIRROR_PAD"), _pad),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), _resize),
    "RESHAPE": _reshape,
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _slice,
    "TILE": _tile,
    **dict.fromkeys(("IF", "WHILE", "CALL_ONCE"), _runs_graphs),
}
