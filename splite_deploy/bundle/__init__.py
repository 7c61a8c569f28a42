"""The bundle, a folder ``NAME.splite/``: the interface between the stages, and all that a runtime needs."""

from splite_deploy.bundle.report import Parity, Percentiles
from splite_deploy.bundle.store import (
    FORMAT_VERSION,
    GOLDEN,
    MANIFEST,
    Artifact,
    Bundle,
    Golden,
    Graph,
    Manifest,
    Source,
    TensorSpec,
    Typing,
    compile_command,
    new_bundle,
    write_golden,
)

__all__ = [
    "FORMAT_VERSION",
    "GOLDEN",
    "MANIFEST",
    "Artifact",
    "Bundle",
    "Golden",
    "Graph",
    "Manifest",
    "Parity",
    "Percentiles",
    "Source",
    "TensorSpec",
    "Typing",
    "compile_command",
    "new_bundle",
    "write_golden",
]
