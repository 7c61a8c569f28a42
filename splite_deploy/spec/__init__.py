"""What a model needs to be run: the spec that ``model.toml`` and a bundle's manifest hold."""

from splite_deploy.spec.model import (
    DECODERS,
    PRECISIONS,
    Color,
    Coordinates,
    Decoder,
    HeatmapDecoder,
    InputSpec,
    LimitSpec,
    ModelSpec,
    Precision,
    SkeletonSpec,
    SoftArgmax,
    SoftArgmaxDepth,
    SoftArgmaxWindow,
    Unit,
)
from splite_deploy.spec.toml import HostSpec, load_model_toml

__all__ = [
    "DECODERS",
    "PRECISIONS",
    "Color",
    "Coordinates",
    "Decoder",
    "HeatmapDecoder",
    "HostSpec",
    "InputSpec",
    "LimitSpec",
    "ModelSpec",
    "Precision",
    "SkeletonSpec",
    "SoftArgmax",
    "SoftArgmaxDepth",
    "SoftArgmaxWindow",
    "Unit",
    "load_model_toml",
]
