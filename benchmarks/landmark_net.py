"""MediaPipe's hand landmark network through LiteRT, cropped as MediaPipe's tracking does.

Needs no mediapipe, only its .tflite file; the graphs of mediapipe 0.10.14, in modules/hand_landmark, say what surrounds
it. Points are (x, y) in pixels. The rule of the region of interest is derived anew from
hand_landmark_landmarks_to_roi.pbtxt and hand_landmarks_to_rect_calculator.cc. With the sampling of
image_to_tensor_converter_opencv.cc a tracked frame came out as from mediapipe 0.10.14 itself, to 0.01 pixels in the
median and 0.1 at most; `crop` says what it does otherwise.
"""

from __future__ import annotations

import hashlib
import math
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import BackendError, MissingDependencyError, UsageError
from splite_deploy.runtime.any_angle import OTHERS_DEG, SUREST, THERE, UPRIGHT_DEG
from splite_deploy.runtime.preprocess import Image, Matrix, invert, transform_points

Points = NDArray[np.float64]
FOLDER = "mediapipe/modules/hand_landmark"
SIDE_PX = 224
KEYPOINTS = 21
# The keypoints that make the rectangle: the wrist, the thumb without its tip, the two lowest of each finger. Fingertips
# would make it jump from frame to frame.
_STABLE = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)
_WRIST, _INDEX, _MIDDLE, _RING = 0, 5, 9, 13
_SCALE, _SHIFT_Y = 2.0, -0.1
_GET = "pip download --no-deps mediapipe==0.10.14"


@dataclass(frozen=True)
class Roi:
    """A square of the image that the network sees.

    Attributes:
        centre: (2,) pixels.
        side_px: Its side.
        angle: Radians by which the upright square is turned; positive turns up to right, since y points down.
    """

    centre: Points
    side_px: float
    angle: float

    def matrix(self) -> Matrix:
        """(2, 3) map from image pixels to the `SIDE_PX` pixels of the network's input."""
        scale = SIDE_PX / self.side_px
        linear = scale * rotation(-self.angle)
        return np.column_stack([linear, SIDE_PX / 2 - linear @ self.centre])


def rotation(angle: float) -> NDArray[np.float64]:
    """(2, 2) rotation by ``angle`` radians."""
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def roi_of_box(box: NDArray[np.float64], padding: float) -> Roi:
    """The upright square around an xyxy box, its longer side enlarged by ``padding``."""
    return Roi((box[:2] + box[2:]) / 2, padding * float((box[2:] - box[:2]).max()), 0.0)


def roi_of_landmarks(keypoints: Points) -> Roi:
    """Where MediaPipe looks for the hand in the next frame.

    The square is turned so that the knuckles lie above the wrist. In that frame the tight rectangle of the stable
    keypoints moves up by a tenth of its height, and its longer side doubles.

    Args:
        keypoints: (21, 2) pixels.
    """
    knuckles = keypoints[_MIDDLE] / 2 + (keypoints[_INDEX] + keypoints[_RING]) / 4
    x, y = knuckles - keypoints[_WRIST]
    angle = math.atan2(x, -y)
    turned = keypoints[list(_STABLE)] @ rotation(-angle).T
    low, high = turned.min(axis=0), turned.max(axis=0)
    centre = (low + high) / 2 + (0.0, _SHIFT_Y * (high[1] - low[1]))
    return Roi(rotation(angle) @ centre, _SCALE * float((high - low).max()), angle)


def crop(image: Image, roi: Roi) -> NDArray[np.float32]:
    """(1, 224, 224, 3) float32 in [0, 1] of an RGB image; beyond the border its last pixel is repeated.

    MediaPipe hands corners to OpenCV as they are, which counts from pixel centres. That moves the result by half a
    pixel where the crop is enlarged, so that small photographs would tell against it; here pixel centres are heeded.
    """
    matrix = roi.matrix()
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    size = (SIDE_PX, SIDE_PX)
    pixels = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    tensor: NDArray[np.float32] = np.divide(pixels[None], 255, dtype=np.float32)
    return tensor


@dataclass(frozen=True)
class Landmarks:
    """What the network says.

    Attributes:
        keypoints: (21, 2) pixels of the image.
        world_mm: (21, 3) millimetres, in the frame of the crop: turned about the camera's axis by the angle of the ROI.
        presence: Chance that there is a hand; MediaPipe discards the result below 0.5.
    """

    keypoints: Points
    world_mm: Points
    presence: float


class LandmarkNet:
    """A landmark network in LiteRT, with XNNPACK, on one thread.

    Args:
        content: The .tflite file.

    Raises:
        MissingDependencyError: LiteRT is not installed.
        BackendError: It is no landmark network, or XNNPACK did not take it.
    """

    def __init__(self, content: bytes) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as err:
            raise MissingDependencyError("LiteRT is not installed.", hint="pip install ai-edge-litert") from err
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.bytes = len(content)
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=1)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as err:
            raise BackendError(f"LiteRT cannot load the file: {err}", hint=f"Get it again: {_GET}.") from err
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        shapes = [detail["shape"].tolist() for detail in (*inputs, *outputs)]
        values = [1, 3 * KEYPOINTS]
        if shapes != [[1, SIDE_PX, SIDE_PX, 3], values, [1, 1], [1, 1], values]:
            raise BackendError(f"A hand landmark network has other tensors than {shapes}.", hint=f"Get it: {_GET}.")
        # Without XNNPACK it would be several times slower and the comparison unfair; only the list of operations tells
        if not any(op["op_name"] == "DELEGATE" for op in self._interpreter._get_ops_details()):
            raise BackendError("LiteRT runs this file without XNNPACK.", hint="Use ai-edge-litert 2.1 or newer.")
        self._input = inputs[0]["index"]
        self._outputs = [detail["index"] for detail in outputs]

    def run(self, tensor: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """(1, 224, 224, 3) to landmarks (1, 63), presence (1, 1), handedness (1, 1), world landmarks (1, 63)."""
        self._interpreter.set_tensor(self._input, tensor)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]

    def look(self, image: Image, roi: Roi) -> Landmarks:
        """The hand in one region of an RGB image."""
        landmarks, presence, _, world = self.run(crop(image, roi))
        found = landmarks.reshape(KEYPOINTS, 3)[:, :2].astype(np.float64)
        metres = world.reshape(KEYPOINTS, 3).astype(np.float64)
        return Landmarks(transform_points(found, invert(roi.matrix())), 1000 * metres, float(presence[0, 0]))

    def find(self, image: Image, box: NDArray[np.float64], padding: float) -> Landmarks:
        """The hand in a box, by the looks that our networks take (`PoseEstimator.at_any_angle`), presence as sureness.

        A first look at the upright square; where there is no hand, or a turned one, others at the other quarters; and
        for each of the surest a look where tracking would look next.
        """
        upright = roi_of_box(box, padding)
        seen = [self.look(image, upright)]
        off_deg = abs(math.degrees(roi_of_landmarks(seen[0].keypoints).angle))
        if seen[0].presence < THERE or off_deg > UPRIGHT_DEG:
            seen += [self.look(image, replace(upright, angle=math.radians(deg))) for deg in OTHERS_DEG]
        surest = sorted(seen, key=lambda one: -one.presence)[:SUREST]
        again = [self.look(image, roi_of_landmarks(one.keypoints)) for one in surest]
        return max(again, key=lambda one: one.presence)


def read_tflite(source: Path, name: str) -> bytes:
    """The file ``name`` of mediapipe's hand landmark module.

    Args:
        source: The wheel, a site-packages, or a folder that holds the file.
        name: For example ``hand_landmark_lite.tflite``.

    Raises:
        UsageError: It is not there.
    """
    try:
        if source.is_file():
            with zipfile.ZipFile(source) as wheel:
                return wheel.read(f"{FOLDER}/{name}")
        files = [file for file in (source / name, source / FOLDER / name) if file.is_file()]
        return files[0].read_bytes()
    except (OSError, KeyError, IndexError, zipfile.BadZipFile) as err:
        hint = f"Name the wheel ({_GET}), the site-packages that holds it, or the folder of the file."
        raise UsageError(f"{source} holds no {name}.", hint=hint) from err
