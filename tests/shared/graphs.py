"""Networks as the graphs that everything else is made from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import onnx  # noqa: TID253
import onnx_ir as ir  # noqa: TID253
import onnxruntime as ort
import torch  # noqa: TID253
from numpy.typing import NDArray

from splite_deploy.export.graph.torch_to_onnx import simplify
from splite_deploy.export.graph.walk import from_proto
from splite_deploy.export.log_output import quiet


def export_net(network: Any, side: int = 16, opset: int = 18) -> ir.Model:
    """The simplified graph of a network; the older exporter is faster, and both give the same after onnxsim."""
    example, written = torch.zeros(1, 3, side, side), io.BytesIO()
    with quiet():
        torch.onnx.export(network, (example,), written, input_names=["image"], opset_version=opset, dynamo=False)
    return simplify(from_proto(onnx.load_model_from_string(written.getvalue())), metadata={})


def run_onnx(model: onnx.ModelProto, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """What ONNX Runtime makes of a graph."""
    values: list[NDArray[Any]] = ort.InferenceSession(model.SerializeToString()).run(None, dict(feeds))
    return values
