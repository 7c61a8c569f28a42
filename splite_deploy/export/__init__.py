"""The developer's machine: checkpoint to verified bundle. Imports torch, onnx, onnxruntime and onnxsim."""

from splite_deploy.export.failures import PartialExportError
from splite_deploy.export.pipeline import ExportOptions, export_bundle

__all__ = ["ExportOptions", "PartialExportError", "export_bundle"]
