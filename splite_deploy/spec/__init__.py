"""What a model needs to be run: the spec that ``model.toml`` and a bundle's manifest hold."""

from splite_deploy.spec.model import (
    PRECISIONS,
    Color,
    InputColor,
    InputSpec,
    LimitSpec,
    ModelSpec,
    Precision,
    SkeletonSpec,
)
from splite_deploy.spec.toml import MODEL_TOML, HostSpec, load_model_toml
from splite_deploy.spec.view import InputView, OutputView, View

__all__ = [
    "MODEL_TOML",
    "PRECISIONS",
    "Color",
    "HostSpec",
    "InputColor",
    "InputSpec",
    "InputView",
    "LimitSpec",
    "ModelSpec",
    "OutputView",
    "Precision",
    "SkeletonSpec",
    "View",
    "load_model_toml",
]
