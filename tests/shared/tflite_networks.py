"""Small float32 ``.tflite`` files, written operator by operator: no converter is needed for them."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray


class TfliteNetwork:
    """A file in the making; every method that adds an operator returns the tensor of its result."""

    def __init__(self, *shape: int, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.operatorCodes, self.model.buffers = [], [schema.BufferT()]
        self.graph.tensors, self.graph.operators = [], []
        self.image = self.tensor("image", shape)

    def tensor(self, name: str, shape: tuple[int, ...], values: NDArray[Any] | None = None) -> int:
        added = schema.TensorT()
        added.name, added.shape, added.buffer = name, list(shape), 0
        added.type = schema.TensorType.FLOAT32
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            added.buffer = len(self.model.buffers) - 1
            if values.dtype == np.int32:
                added.type = schema.TensorType.INT32
        self.graph.tensors.append(added)
        return len(self.graph.tensors) - 1

    def constant(self, values: Any, dtype: Any = np.float32) -> int:
        array = np.asarray(values, dtype)
        return self.tensor(f"constant_{len(self.graph.tensors)}", array.shape, array)

    def shape(self, tensor: int) -> tuple[int, ...]:
        return tuple(self.graph.tensors[tensor].shape)

    def add(self, kind: str, inputs: list[int], shape: tuple[int, ...], name: str = "", options: Any = None) -> int:
        number = getattr(schema.BuiltinOperator, kind)
        codes = [code.builtinCode for code in self.model.operatorCodes]
        if number not in codes:
            code = schema.OperatorCodeT()
            code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
            self.model.operatorCodes.append(code)
            codes.append(number)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs = codes.index(number), inputs
        result = self.tensor(name or f"{kind.lower()}_{len(self.graph.operators)}", shape)
        operator.outputs = [result]
        if options is not None:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__[:-1])
            operator.builtinOptions = options
        self.graph.operators.append(operator)
        return result

    def conv(self, x: int, channels: int, size: int = 1, *, relu: bool = False, name: str = "") -> int:
        n, h, w, c = self.shape(x)
        scale = 1 / np.sqrt(size * size * c)
        weights = self.constant(self.random.normal(0, scale, (channels, size, size, c)))
        bias = self.constant(self.random.normal(0, 0.1, channels))
        options = schema.Conv2DOptionsT()
        options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
        options.padding = schema.Padding.SAME
        options.fusedActivationFunction = schema.ActivationFunctionType.RELU if relu else 0
        return self.add("CONV_2D", [x, weights, bias], (n, h, w, channels), name, options)

    def padded_pool(self, x: int) -> int:
        """A max pool of 3 x 3 at stride 2 behind a padding of 1, as converters write it."""
        n, h, w, c = self.shape(x)
        widths = self.constant([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)
        low = self.constant([np.finfo(np.float32).min])
        x = self.add("PADV2", [x, widths, low], (n, h + 2, w + 2, c), "padded", schema.PadV2OptionsT())
        options = schema.Pool2DOptionsT()
        options.strideH = options.strideW = 2
        options.filterHeight = options.filterWidth = 3
        options.padding = schema.Padding.VALID
        return self.add("MAX_POOL_2D", [x], (n, (h - 1) // 2 + 1, (w - 1) // 2 + 1, c), "pooled", options)

    def mean(self, x: int) -> int:
        n, _, _, c = self.shape(x)
        options = schema.ReducerOptionsT()
        options.keepDims = True
        return self.add("MEAN", [x, self.constant([1, 2], np.int32)], (n, 1, 1, c), options=options)

    def content(self, *outputs: int, **named: int) -> bytes:
        """The file; its signature calls outputs out0, out1 and so on, and those with a name by that."""
        self.graph.inputs, self.graph.outputs = [self.image], [*outputs, *named.values()]
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serving_default", 0
        signature.inputs = [_entry("image", self.image)]
        held = {f"out{index}": tensor for index, tensor in enumerate(outputs)} | named
        signature.outputs = [_entry(name, tensor) for name, tensor in held.items()]
        self.model.signatureDefs = [signature]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def run_tflite(content: bytes, inputs: NDArray[np.float32], *, delegate: bool = True) -> list[NDArray[Any]]:
    """The outputs of a file for each input, in its order."""
    builtin = OpResolverType.BUILTIN if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=content, num_threads=1, experimental_op_resolver_type=builtin)
    interpreter.allocate_tensors()
    (source,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    rows = []
    for one in inputs:
        interpreter.set_tensor(source["index"], one[None])
        interpreter.invoke()
        rows.append([interpreter.get_tensor(output["index"]) for output in outputs])
    return [np.concatenate(values) for values in zip(*rows, strict=True)]


def _entry(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry
