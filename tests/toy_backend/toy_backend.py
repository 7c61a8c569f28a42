"""A backend in a package of its own: ONNX graphs in numpy, by the reference implementation of the package onnx."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BackendError, first_line
from splite_deploy.runtime.backends.base import (
    Backend,
    BackendOptions,
    BaseSession,
    IoSignature,
    ModelFile,
    layer_types,
    option,
)

LOG = "TOY_BACKEND_LOG"
"""Environment variable with the file that notes how sessions were opened: a JSON line each."""
PROBLEM = "TOY_BACKEND_PROBLEM"
"""Environment variable with what the self-test finds wrong."""


@dataclass(frozen=True)
class ToyOptions(BackendOptions):
    """How the toy works.

    Attributes:
        threads: CPU threads; it uses one whatever is asked for.
        gain: Every output is multiplied by it.
    """

    threads: int | None = option(None, "CPU threads.", type=int)
    gain: float = option(1.0, "multiply every output by this.", flag="--toy-gain", type=float)


class ToySession(BaseSession):
    """A graph in onnx's reference evaluator."""

    def __init__(self, file: ModelFile, options: ToyOptions) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        try:
            self._evaluator = ReferenceEvaluator(onnx.load_from_string(file.data))
        except Exception as err:
            raise BackendError(f"The toy cannot load {file.name}: {first_line(err)}", hint="It is a toy.") from err
        graph = self._evaluator.proto_.graph
        super().__init__(file.artifact or IoSignature(_specs(graph.input), _specs(graph.output)))
        self._gain = np.float32(options.gain)
        if LOG in os.environ:
            with Path(os.environ[LOG]).open("a", encoding="utf-8") as log:
                log.write(json.dumps({"process": os.getpid(), **asdict(options)}) + "\n")

    def layers(self) -> tuple[Layer, ...]:
        """The nodes of the graph; the evaluator times none."""
        nodes = self._evaluator.proto_.graph.node
        return tuple(Layer(n.output[0], n.op_type, layer_types(["float32"], ["float32"]), None) for n in nodes)

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        names = [spec.name for spec in self.outputs]
        values = self._evaluator.run(names, dict(feeds))
        return {name: np.array(value * self._gain) for name, value in zip(names, values, strict=True)}

    def _release(self) -> None:
        del self._evaluator


def _specs(values: object) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(v.name, tuple(d.dim_value or None for d in v.type.tensor_type.shape.dim), "float32", "", "")
        for v in values  # type: ignore[attr-defined]
    )


def self_test() -> str:
    """What is wrong with the device that a real backend would look for."""
    return os.environ.get(PROBLEM, "")


def _load() -> None:
    import onnx.reference  # noqa: F401


BACKEND = Backend(
    name="toy",
    label="Toy",
    open=ToySession,
    formats=("onnx",),
    options=ToyOptions,
    aliases=("numpy",),
    suffixes={".onnx": "onnx"},
    modules=("onnx",),
    install="pip install onnx",
    load=_load,
    open_traced=ToySession,
    layers_from="the nodes of the graph; nothing is timed.",
    export="ort",
    distributions={"toy": ("splite-deploy-toy",)},
    self_test="toy_backend:self_test",
)
