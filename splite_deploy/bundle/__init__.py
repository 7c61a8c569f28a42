"""The bundle, a folder ``NAME.splite/``: the interface between the stages, and all that a runtime needs."""

from splite_deploy.bundle.golden import GOLDEN, Golden, GoldenImage, Nobody, write_golden
from splite_deploy.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Artifact,
    GoldenFile,
    Graph,
    Manifest,
    Source,
    TensorSpec,
    Typing,
)
from splite_deploy.bundle.new import new_bundle
from splite_deploy.bundle.report import REPORT, REPORT_VERSION, Failure, Parity, Percentiles, Report
from splite_deploy.bundle.store import Bundle, compile_command

__all__ = [
    "FORMAT_VERSION",
    "GOLDEN",
    "MANIFEST",
    "REPORT",
    "REPORT_VERSION",
    "Artifact",
    "Bundle",
    "Failure",
    "Golden",
    "GoldenFile",
    "GoldenImage",
    "Graph",
    "Manifest",
    "Nobody",
    "Parity",
    "Percentiles",
    "Report",
    "Source",
    "TensorSpec",
    "Typing",
    "compile_command",
    "new_bundle",
    "write_golden",
]
