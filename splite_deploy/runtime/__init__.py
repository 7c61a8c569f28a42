"""The device side: numpy, OpenCV and one backend. Imports neither torch nor onnx nor tensorflow."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splite_deploy.runtime.backends import all_backends
    from splite_deploy.runtime.estimator import PoseEstimator
    from splite_deploy.runtime.following import FollowingEstimator
    from splite_deploy.runtime.pose import Pose
    from splite_deploy.runtime.session import Session, open_bytes, open_file, open_session

__all__ = [
    "FollowingEstimator",
    "Pose",
    "PoseEstimator",
    "Session",
    "all_backends",
    "open_bytes",
    "open_file",
    "open_session",
]

_MODULES = {
    "FollowingEstimator": "following",
    "Pose": "pose",
    "PoseEstimator": "estimator",
    "all_backends": "backends",
}


def __getattr__(name: str) -> Any:
    # Late, because OpenCV may be broken, which `splite-deploy doctor` has to live to tell.
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'session')}"), name)
