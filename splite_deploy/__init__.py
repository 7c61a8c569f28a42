"""splite-deploy: compacted pose networks on edge devices, every conversion proved in pixels and millimetres.

The names of an application are here. Each loads its module when it is first used: importing this package imports
neither numpy nor OpenCV.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from splite_deploy.version import __version__

if TYPE_CHECKING:
    from splite_deploy.bundle import Bundle
    from splite_deploy.errors import SpliteError
    from splite_deploy.runtime.adaptive import AdaptiveEstimator, Variant
    from splite_deploy.runtime.estimator import PoseEstimator
    from splite_deploy.runtime.io.camera import open_camera
    from splite_deploy.runtime.io.draw import overlay
    from splite_deploy.runtime.pose import Pose
    from splite_deploy.runtime.smoothing import OneEuro
    from splite_deploy.runtime.topdown import TopDown
    from splite_deploy.runtime.tracker import BoxTracker
    from splite_deploy.runtime.tracks import Tracker
    from splite_deploy.runtime.verify import verify

__all__ = [
    "AdaptiveEstimator",
    "BoxTracker",
    "Bundle",
    "OneEuro",
    "Pose",
    "PoseEstimator",
    "SpliteError",
    "TopDown",
    "Tracker",
    "Variant",
    "__version__",
    "open_camera",
    "overlay",
    "verify",
]

# From release 1.29 on ONNX Runtime sends names and hashes of models to its maker unless this is set when it is imported
# (docs/Privacy.md of its repository). Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "AdaptiveEstimator": "runtime.adaptive",
    "BoxTracker": "runtime.tracker",
    "Bundle": "bundle",
    "OneEuro": "runtime.smoothing",
    "Pose": "runtime.pose",
    "PoseEstimator": "runtime.estimator",
    "SpliteError": "errors",
    "TopDown": "runtime.topdown",
    "Tracker": "runtime.tracks",
    "Variant": "runtime.adaptive",
    "open_camera": "runtime.io.camera",
    "overlay": "runtime.io.draw",
    "verify": "runtime.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
