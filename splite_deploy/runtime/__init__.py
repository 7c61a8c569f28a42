"""The device side: numpy, OpenCV and one backend. Imports neither torch nor onnx nor tensorflow."""

from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.session import BACKENDS, Session, open_session

__all__ = ["BACKENDS", "Pose", "PoseEstimator", "Session", "open_session"]
