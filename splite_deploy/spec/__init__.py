"""What a model needs to be run: the spec that ``model.toml`` and a bundle's manifest hold."""

from splite_deploy.spec.model import (
    PRECISIONS,
    Color,
    InputSpec,
    LimitSpec,
    ModelSpec,
    Precision,
    SkeletonSpec,
)
from splite_deploy.spec.toml import HostSpec, load_model_toml

__all__ = [
    "PRECISIONS",
    "Color",
    "HostSpec",
    "InputSpec",
    "LimitSpec",
    "ModelSpec",
    "Precision",
    "SkeletonSpec",
    "load_model_toml",
]
