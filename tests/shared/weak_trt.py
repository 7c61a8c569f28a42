"""The builder of TensorRT 8.5 in the place of the real one, which takes a GPU even to be made.

It reads real graphs, calls a calibrator as the real one does, by the addresses of its device, and reports layers in the
words of the inspector. What the calibrator was given is computed on: the table holds the largest input. The names are
those of `trt_names.json`, `tests/compile/test_trt_calibrator.py` compares.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx  # noqa: TID253
from numpy_cuda import NumpyCuda

from splite_deploy.device.cuda_driver import Gpu
from splite_deploy.runtime.backends.trt.module import TensorRt

XAVIER = Gpu("Xavier", (7, 2), 7773, True, "11.4", None)
TYPES = {1: "FLOAT", 2: "UINT8", 6: "INT32", 7: "INT32", 9: "BOOL"}
"""Of ONNX, as 8.5 takes them."""
KINDS = {"Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "DequantizeLinear": "DEQUANTIZE"}
NUMPY = {"FLOAT": np.float32, "UINT8": np.uint8}

BuilderFlag = IntEnum(
    "BuilderFlag",
    ["FP16", "INT8", "TF32", "GPU_FALLBACK", "OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"],
    start=0,
)
NetworkFlag = IntEnum("NetworkFlag", ["EXPLICIT_BATCH"], start=0)
TacticSource = IntEnum("TacticSource", ["CUBLAS", "CUBLAS_LT", "CUDNN"], start=0)
PreviewFeature = IntEnum(
    "PreviewFeature", ["FASTER_DYNAMIC_SHAPES_0805", "DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805"]
)
DataType = Enum("DataType", ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8"])


@dataclass(eq=False)
class Tensor:
    """One tensor of a network."""

    name: str
    shape: tuple[int, ...]
    dtype: Any


@dataclass(eq=False)
class Layer:
    """One layer, without its weights."""

    name: str
    type: Any
    inputs: list[Tensor]
    outputs: list[Tensor]
    precision: Any = None

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]


@dataclass
class Network:
    """What the parser fills."""

    layers: list[Layer] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]


class OnnxParser:
    """Reads a graph."""

    num_errors = 0

    def __init__(self, network: Network, logger: Any) -> None:
        self.network = network

    def parse(self, content: bytes) -> bool:
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(content)).graph
        weights = {weight.name for weight in graph.initializer}
        found = {}
        for info in (*graph.input, *graph.value_info, *graph.output):
            kind = info.type.tensor_type
            shape = tuple(-1 if size.dim_param else size.dim_value for size in kind.shape.dim)
            found[info.name] = Tensor(info.name, shape, DataType[TYPES[kind.elem_type]])
        self.network.inputs = [found[info.name] for info in graph.input]
        for node in graph.node:
            inputs = [found[name] for name in node.input if name in found and name not in weights]
            kind = SimpleNamespace(name=KINDS.get(node.op_type, node.op_type.upper()))
            self.network.layers.append(Layer(node.name, kind, inputs, [found[name] for name in node.output]))
        return True


@dataclass
class Profile:
    """Sizes by tensor."""

    shapes: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)

    def set_shape(self, name: str, low: tuple[int, ...], best: tuple[int, ...], high: tuple[int, ...]) -> None:
        self.shapes[name] = (low, best, high)


class IBuilderConfig:
    """Everything that a build is told."""

    int8_calibrator: Any = None
    profiling_verbosity: Any = None
    default_device_type: Any = None
    DLA_core = -1

    def __init__(self, module: WeakTensorRt) -> None:
        self.flags = {BuilderFlag.TF32}
        self.tactics = sum(1 << source for source in TacticSource)
        self.previews: set[Any] = set()
        self.limits: dict[Any, int] = {}
        self.profile: Profile | None = None
        self.calibration_profile: Profile | None = None
        self._module = module

    def set_flag(self, flag: Any) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags.discard(flag)

    def get_tactic_sources(self) -> int:
        return self.tactics

    def set_tactic_sources(self, bits: int) -> bool:
        self.tactics = bits
        return True

    def set_memory_pool_limit(self, pool: Any, size_bytes: int) -> None:
        self.limits[pool] = size_bytes

    def set_preview_feature(self, feature: Any, on: bool) -> None:
        assert on
        self.previews.add(feature)

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profile = profile
        return 0

    def set_calibration_profile(self, profile: Profile) -> bool:
        self.calibration_profile = profile
        return "set_calibration_profile" not in self._module.fails


class ILogger:
    """What our logger derives from."""


class Calibrator:
    """What calibrators derive from; a class that does not call its constructor gives no valid object."""

    def __init__(self) -> None:
        self.made = True


class WeakTensorRt:
    """A module of TensorRT 8.5 on this device.

    Attributes:
        batches: What the calibrator has handed out, in its order.
        networks: What was built.
        configs: How.
        fails: Names of calls that report failure; ``calibration`` skips it.
        left: Names of layers that the builder leaves in float16.
    """

    def __init__(self, cuda: NumpyCuda) -> None:
        self.cuda = cuda
        self.batches: list[np.ndarray[Any, Any]] = []
        self.networks: list[Network] = []
        self.configs: list[IBuilderConfig] = []
        self.fails: set[str] = set()
        self.left: set[str] = set()

    def loaded(self) -> TensorRt:
        module = ModuleType("tensorrt")
        names: dict[str, Any] = {
            "BuilderFlag": BuilderFlag,
            "NetworkDefinitionCreationFlag": NetworkFlag,
            "TacticSource": TacticSource,
            "PreviewFeature": PreviewFeature,
            "MemoryPoolType": SimpleNamespace(WORKSPACE="workspace"),
            "DataType": DataType,
            "IBuilderConfig": IBuilderConfig,
            "ILogger": ILogger,
            "OnnxParser": OnnxParser,
            "Builder": lambda logger: _Builder(self),
            "Runtime": lambda logger: SimpleNamespace(deserialize_cuda_engine=_Engine),
            "DeviceType": SimpleNamespace(DLA=1),
            "ProfilingVerbosity": SimpleNamespace(DETAILED=2),
            "LayerInformationFormat": SimpleNamespace(JSON=1),
            "TensorIOMode": SimpleNamespace(INPUT=1, OUTPUT=2),
            "IInt8EntropyCalibrator2": type("IInt8EntropyCalibrator2", (Calibrator,), {"title": "EntropyCalibration2"}),
            "IInt8MinMaxCalibrator": type("IInt8MinMaxCalibrator", (Calibrator,), {"title": "MinMaxCalibration"}),
        }
        vars(module).update(names)
        return TensorRt(module, "tensorrt", "8.5.2.2")


class _Builder:
    num_DLA_cores = 2
    platform_has_fast_int8 = True

    def __init__(self, module: WeakTensorRt) -> None:
        self._module = module

    def create_network(self, flags: int) -> Network:
        assert flags == 1 << NetworkFlag.EXPLICIT_BATCH
        self._module.networks.append(Network())
        return self._module.networks[-1]

    def create_builder_config(self) -> IBuilderConfig:
        self._module.configs.append(IBuilderConfig(self._module))
        return self._module.configs[-1]

    def create_optimization_profile(self) -> Profile:
        return Profile()

    def build_serialized_network(self, network: Network, config: IBuilderConfig) -> bytes | None:
        calibrator, module = config.int8_calibrator, self._module
        if calibrator is not None and BuilderFlag.INT8 in config.flags and "calibration" not in module.fails:
            _calibrate(module, network, config, calibrator)
        if "build_serialized_network" in module.fails:
            return None
        layers = [{"Name": layer.name, **_tensors(layer, module, config)} for layer in network.layers]
        sizes = config.profile.shapes[network.inputs[0].name][1] if config.profile else network.inputs[0].shape
        return json.dumps({"input": network.inputs[0].name, "sizes": sizes, "layers": layers}).encode()


def _calibrate(module: WeakTensorRt, network: Network, config: IBuilderConfig, calibrator: Any) -> None:
    """Runs all batches; whatever the calibrator raises would end the process."""
    (image,) = network.inputs
    assert calibrator.made and calibrator.read_calibration_cache() is None
    shape = image.shape
    if shape[0] < 0:
        assert config.calibration_profile is not None
        low, shape, high = config.calibration_profile.shapes[image.name]
        assert low == shape == high
    assert calibrator.get_batch_size() == shape[0]
    dtype = NUMPY[image.dtype.name]
    size_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    try:
        while addresses := calibrator.get_batch([image.name]):
            (address,) = addresses
            module.batches.append(module.cuda.memory[address][:size_bytes].view(dtype).reshape(shape).copy())
    except Exception as err:
        raise AssertionError("std::terminate: the process would have died") from err
    if module.batches:
        largest = max(float(np.abs(batch.astype(np.float32)).max()) for batch in module.batches)
        text = f"TRT-8502-{calibrator.title}\n{image.name}: {np.float32(largest / 127).view(np.uint32):08x}\n"
        calibrator.write_calibration_cache(memoryview(text.encode()))


def _tensors(layer: Layer, module: WeakTensorRt, config: IBuilderConfig) -> dict[str, Any]:
    """The types that the builder has chosen; int8 wherever it may."""
    calibrated = BuilderFlag.INT8 in config.flags and config.int8_calibrator is not None
    kept = layer.precision is DataType.FLOAT and BuilderFlag.PREFER_PRECISION_CONSTRAINTS in config.flags
    word = "Row major linear FP32" if kept else "Row major Int8 format" if calibrated else "Row major FP16 format"
    word = "Row major FP16 format" if layer.name in module.left else word
    return {
        "LayerType": layer.type.name.title(),
        "Inputs": [{"Name": tensor.name, "Format/Datatype": word} for tensor in layer.inputs],
        "Outputs": [{"Name": tensor.name, "Format/Datatype": word} for tensor in layer.outputs],
    }


class _Engine:
    """What the inspector looks into."""

    num_io_tensors = 1

    def __init__(self, plan: bytes) -> None:
        self._plan = json.loads(plan)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": self._plan["layers"]}))

    def create_execution_context(self) -> Any:
        return SimpleNamespace(set_input_shape=self._set_input_shape)

    def get_tensor_name(self, index: int) -> str:
        return str(self._plan["input"])

    def get_tensor_mode(self, name: str) -> int:
        return 1

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self._plan["sizes"][1:])

    def _set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert list(shape) == self._plan["sizes"]
        return True


def written(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder of so many images of 60 x 80 pixels, each with its own brightness."""
    import cv2

    folder.mkdir()
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 60 + 10 * index, (60, 80, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index:03}.png"), pixels)
    return folder
