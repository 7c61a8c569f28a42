"""The decoders as torch modules, for graphs that decode (``--fuse-decode``) and for losses of training.

A leaf: nothing that runs on a device imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from splite_deploy.decoders import (
    Anchors,
    Argmax,
    Boxes,
    CenterNet,
    Coordinates,
    Dark,
    Decoder,
    Expectation,
    InputSize,
    Offset,
    SimCC,
    SoftArgmax,
    SoftArgmaxDepth,
    SoftArgmaxWindow,
    Udp,
    Volume,
    YoloPose,
)
from splite_deploy.decoders.torch.anchors import AnchorsModule
from splite_deploy.decoders.torch.argmax import ArgmaxModule
from splite_deploy.decoders.torch.boxes import BoxesModule
from splite_deploy.decoders.torch.centernet import CenterNetModule
from splite_deploy.decoders.torch.coordinates import CoordinatesModule
from splite_deploy.decoders.torch.dark import DarkModule
from splite_deploy.decoders.torch.expectation import ExpectationModule
from splite_deploy.decoders.torch.offset import OffsetModule
from splite_deploy.decoders.torch.simcc import SimCCModule
from splite_deploy.decoders.torch.softargmax import SoftArgmaxModule
from splite_deploy.decoders.torch.softargmax_depth import SoftArgmaxDepthModule
from splite_deploy.decoders.torch.softargmax_window import SoftArgmaxWindowModule
from splite_deploy.decoders.torch.udp import UdpCombinedModule, UdpGaussianModule, udp_module
from splite_deploy.decoders.torch.volume import VolumeModule
from splite_deploy.decoders.torch.yolo_pose import YoloPoseModule

MODULES: Mapping[type[Decoder], Callable[[Any, int, InputSize], nn.Module]] = {
    SoftArgmax: SoftArgmaxModule,
    SoftArgmaxWindow: SoftArgmaxWindowModule,
    SoftArgmaxDepth: SoftArgmaxDepthModule,
    Argmax: ArgmaxModule,
    Dark: DarkModule,
    Udp: udp_module,
    Expectation: ExpectationModule,
    Offset: OffsetModule,
    SimCC: SimCCModule,
    Volume: VolumeModule,
    Coordinates: CoordinatesModule,
    YoloPose: YoloPoseModule,
    Anchors: AnchorsModule,
    CenterNet: CenterNetModule,
    Boxes: BoxesModule,
}

__all__ = [
    "MODULES",
    "AnchorsModule",
    "ArgmaxModule",
    "BoxesModule",
    "CenterNetModule",
    "CoordinatesModule",
    "DarkModule",
    "ExpectationModule",
    "OffsetModule",
    "SimCCModule",
    "SoftArgmaxDepthModule",
    "SoftArgmaxModule",
    "SoftArgmaxWindowModule",
    "UdpCombinedModule",
    "UdpGaussianModule",
    "VolumeModule",
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
