"""The decoders as torch modules, for graphs that decode (``--fuse-decode``) and for losses of training.

A leaf: nothing that runs on a device imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from splite_deploy.decoders import (
    Anchors,
    Coordinates,
    Decoder,
    InputSize,
    SoftArgmax,
    SoftArgmaxDepth,
    SoftArgmaxWindow,
    YoloPose,
)
from splite_deploy.decoders.torch.anchors import AnchorsModule
from splite_deploy.decoders.torch.coordinates import CoordinatesModule
from splite_deploy.decoders.torch.softargmax import SoftArgmaxModule
from splite_deploy.decoders.torch.softargmax_depth import SoftArgmaxDepthModule
from splite_deploy.decoders.torch.softargmax_window import SoftArgmaxWindowModule
from splite_deploy.decoders.torch.yolo_pose import YoloPoseModule

MODULES: Mapping[type[Decoder], Callable[[Any, int, InputSize], nn.Module]] = {
    SoftArgmax: SoftArgmaxModule,
    SoftArgmaxWindow: SoftArgmaxWindowModule,
    SoftArgmaxDepth: SoftArgmaxDepthModule,
    Coordinates: CoordinatesModule,
    YoloPose: YoloPoseModule,
    Anchors: AnchorsModule,
}

__all__ = [
    "MODULES",
    "AnchorsModule",
    "CoordinatesModule",
    "SoftArgmaxDepthModule",
    "SoftArgmaxModule",
    "SoftArgmaxWindowModule",
    "YoloPoseModule",
    "make_module",
]


def make_module(decoder: Decoder, keypoints: int, size: InputSize) -> nn.Module:
    """The formula of a decoder: takes its roles as tensors, gives a tuple of its decoded roles.

    Args:
        decoder: Its parameters.
        keypoints: Their number K.
        size: Of the network's input.
    """
    return MODULES[type(decoder)](decoder, keypoints, size).eval()
