"""The developer's machine: checkpoint to verified bundle. Its stages import torch, onnx, onnxruntime and onnxsim."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splite_deploy.export.failures import PartialExportError
    from splite_deploy.export.options import ExportOptions
    from splite_deploy.export.pipeline import export_bundle

__all__ = ["ExportOptions", "PartialExportError", "export_bundle"]

_MODULES = {"PartialExportError": "failures", "ExportOptions": "options", "export_bundle": "pipeline"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
