"""Image and box to network input: the only code that does it, for calibration, parity, benchmarks and the device.

Shapes: H, W image size; h, w input size of the network; N crops. Matrices are (2, 3) float64 and act on continuous
pixel coordinates (origin at the top-left corner of the top-left pixel); OpenCV, which puts the origin at that
pixel's centre, is converted to in `warp` alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.errors import UsageError
from splite_deploy.metrics.turned_boxes import bounds_of, rotation
from splite_deploy.spec import InputColor, InputSpec

Image = NDArray[np.uint8]
AnyImage = NDArray[Any] | None
"""What OpenCV's readers give, as their types say it: an array of some type, or None. `check_image` refuses all but
(H, W, 3) uint8."""
Matrix = NDArray[np.float64]

_MOST_DEG = 1e6
_MOST_SIDE = 32_766
"""Of an image that OpenCV's warpAffine takes, whose coordinates have 16 bits."""


def check_image(image: object) -> Image:
    """Returns ``image`` if it is an (H, W, 3) uint8 array.

    Raises:
        UsageError: It is not; the message says what it is.
    """
    if not isinstance(image, np.ndarray):
        raise UsageError(
            f"The image is a {type(image).__name__}, not a numpy array.",
            hint="Pass an (H, W, 3) uint8 array, for example from cv2.imread (which gives None for no image).",
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise UsageError(
            f"The image has shape {image.shape} and type {image.dtype}.",
            hint="Pass an (H, W, 3) uint8 array; cv2.cvtColor makes one of a grey or RGBA image.",
        )
    return image


def check_box(box: ArrayLike | None, height: int, width: int) -> NDArray[np.float64]:
    """Returns the xyxy box as (4,) float64, or as (5,) with an angle in degrees; ``None`` is the whole image.

    A box with an angle is turned about its centre, see `splite_deploy.metrics.turned_boxes`.

    Raises:
        UsageError: The box is empty, not finite, or entirely outside the image.
    """
    if box is None:
        return np.array([0.0, 0.0, width, height])
    try:
        values = np.asarray(box, np.float64)
    except (TypeError, ValueError) as err:
        raise UsageError(f"The box {box!r} is not four numbers.", hint="Pass x0, y0, x1, y1 in pixels.") from err
    if values.shape not in ((4,), (5,)) or not all(map(math.isfinite, corners := values.tolist())):
        raise UsageError(f"The box {box!r} is not four finite numbers.", hint="Pass x0, y0, x1, y1 in pixels.")
    x0, y0, x1, y1, *angle = corners
    if x1 <= x0 or y1 <= y0:
        raise UsageError(
            f"The box {_shown(values)} is empty.",
            hint="Pass x0, y0, x1, y1 with x1 > x0 and y1 > y0 (not width and height).",
        )
    if max(x1 - x0, y1 - y0) > 1e6 or min(x1 - x0, y1 - y0) < 1e-3:
        raise UsageError(f"The box {_shown(values)} has an impossible size.", hint="Pass x0, y0, x1, y1 in pixels.")
    if angle and abs(angle[0]) > _MOST_DEG:
        raise UsageError(f"The angle of the box {_shown(values)} is none.", hint="Pass degrees, from -180 to 180.")
    if angle:
        x0, y0, x1, y1 = bounds_of(values).tolist()
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise UsageError(
            f"The box {_shown(values)} lies outside the {width} x {height} image.",
            hint="Pass pixels of this image, x to the right and y down.",
        )
    return values


def _shown(box: NDArray[np.float64]) -> str:
    return f"({', '.join(f'{value:g}' for value in box)})"


def crop_matrix(box: NDArray[np.float64], spec: InputSpec) -> Matrix:
    """Maps image pixels to input pixels: the box grows to the input's aspect and by ``box_padding``.

    A box with an angle of a degrees is turned about its centre (cx, cy), so that what points a clockwise from up in the
    image points up in the crop. With the scale s:

        u = s ( cos a (x - cx) + sin a (y - cy)) + w / 2
        v = s (-sin a (x - cx) + cos a (y - cy)) + h / 2

    The corners of the grown box become those of the input: its w pixels become W, and both are counted from the corner
    of the first pixel. Published codecs differ in where pixels lie, and none of it moves what is found, since keypoints
    return through the same matrix:

    * Simple Baseline, HRNet and mmpose's ``get_warp_matrix`` map the same numbers as pixel indices. At a scale of s
      their crop lies (1 - s) / 2 input pixels further right and down.
    * UDP (mmpose's ``get_udp_warp_matrix``) maps them as indices, too, and w to W - 1, so that the corners become the
      centres of the outermost pixels. It is smaller by one part in W, and lies s / 2 pixels further left and up in the
      middle.

    With ``letterbox = "corner"`` the box, enlarged by ``box_padding``, begins where the input begins, and what it lacks
    of the input's aspect is added at its right or below it; otherwise its centre is that of the input.

    Args:
        box: (4,) xyxy or (5,) with an angle, valid.
        spec: The input.

    Returns:
        (2, 3) matrix with one scale for both axes.

    Raises:
        UsageError: The box has an angle, and crops of this input are not turned.
    """
    x0, y0, x1, y1, *angle = box.tolist()
    scale = min(spec.width / (x1 - x0), spec.height / (y1 - y0)) / spec.box_padding
    if angle:
        return _turned(scale, (x0 + x1) / 2, (y0 + y1) / 2, angle[0], spec)
    if spec.letterbox == "corner":
        grow = (spec.box_padding - 1) / 2
        left, top = x0 - grow * (x1 - x0), y0 - grow * (y1 - y0)
        return np.array([[scale, 0.0, -scale * left], [0.0, scale, -scale * top]])
    return np.array(
        [
            [scale, 0.0, spec.width / 2 - scale * (x0 + x1) / 2],
            [0.0, scale, spec.height / 2 - scale * (y0 + y1) / 2],
        ]
    )


def _turned(scale: float, x: float, y: float, angle_deg: float, spec: InputSpec) -> Matrix:
    """The matrix of a turned box, see `crop_matrix`, from its scale and its centre in the image."""
    if spec.rotate_by is None:
        raise UsageError(
            f"The box has an angle of {angle_deg:g} degrees, and crops of this model are not turned.",
            hint="Pass x0, y0, x1, y1; a model whose crops are turned says so by rotate_by of [input].",
        )
    (a, b), (c, d) = (scale * rotation(-angle_deg)).tolist()
    return np.array([[a, b, spec.width / 2 - (a * x + b * y)], [c, d, spec.height / 2 - (c * x + d * y)]])


def scale_of(matrix: Matrix) -> float:
    """Pixels of the crop per pixel of the image, of a matrix of `crop_matrix`."""
    return math.hypot(matrix[0, 0], matrix[0, 1])


def transform_points(points: NDArray[np.floating[Any]], matrix: Matrix) -> NDArray[np.float64]:
    """Applies a (2, 3) matrix to points of shape (..., 2)."""
    if points.size == 0:  # OpenCV gives nothing for none
        return points.astype(np.float64)
    row = np.asarray(points, np.float64).reshape(1, -1, 2)
    return cv2.transform(row, matrix).reshape(points.shape)  # type: ignore[return-value]  # twice as fast as numpy's


def invert(matrix: Matrix) -> Matrix:
    """The inverse of a (2, 3) matrix."""
    return cv2.invertAffineTransform(matrix).astype(np.float64, copy=False)


def warp(image: Image, matrix: Matrix, height: int, width: int, pad_value: int) -> Image:
    """Resamples ``image`` through ``matrix`` with bilinear interpolation, averaging where it shrinks.

    Plain bilinear sampling skips source pixels when it shrinks by more than two, which makes keypoints flicker on
    large images; there the image is first halved until it shrinks by less.

    Args:
        image: (H, W, 3) uint8.
        matrix: (2, 3), image pixels to output pixels.
        height: Output height.
        width: Output width.
        pad_value: Grey value outside the image.

    Returns:
        (height, width, 3) uint8.
    """
    (a, b, x), (c, d, y) = matrix.tolist()
    halvings = int(math.log2(max(1.0, 1.0 / math.sqrt(abs(a * d - b * c)))))
    if halvings or max(image.shape[:2]) > _MOST_SIDE:
        image, left, top, right_factor, down_factor = _reduce(image, matrix, height, width, halvings)
        x, y = x + (a * left + b * top), y + (c * left + d * top)
        a, b, c, d = a * right_factor, b * down_factor, c * right_factor, d * down_factor
    # OpenCV's origin is the centre of the first pixel
    shifted = np.array([[a, b, x + (a + b - 1) / 2], [c, d, y + (c + d - 1) / 2]])
    return cv2.warpAffine(  # type: ignore[return-value]
        image, shifted, (width, height), flags=cv2.INTER_LINEAR, borderValue=(pad_value,) * 3
    )


def _reduce(image: Image, matrix: Matrix, height: int, width: int, halvings: int) -> tuple[Image, int, int, int, int]:
    """Halves the part of ``image`` that the output sees, so often, by averaging 2 x 2 pixels.

    OpenCV has fast code for that alone: averaging 3 x 3 at once takes six times as long. The corners of the output are
    computed in Python's numbers, since arrays of so few take longer. A strip that is thinner than a block is halved
    along its length alone.

    Returns:
        The part, the column and the row of the image where it begins, and how many columns and rows became one.
    """
    factor = 1 << halvings
    (a, b, x), (c, d, y) = invert(matrix).tolist()
    a, b, c, d = a * width, b * height, c * width, d * height
    left = max(math.floor(min(a, 0) + min(b, 0) + x - 2 * factor), 0)
    top = max(math.floor(min(c, 0) + min(d, 0) + y - 2 * factor), 0)
    right = max(math.ceil(max(a, 0) + max(b, 0) + x + 2 * factor), 0)
    bottom = max(math.ceil(max(c, 0) + max(d, 0) + y + 2 * factor), 0)
    part = image[top:bottom, left:right]
    if part.size == 0:  # the output sees the padding alone
        return image[:1, :1], left, top, 1, 1
    across = min(halvings, part.shape[1].bit_length() - 1)
    down = min(halvings, part.shape[0].bit_length() - 1)
    # Only whole blocks are averaged; what is left at the far edge is less than one block.
    part = part[: part.shape[0] >> down << down, : part.shape[1] >> across << across]
    for step in range(halvings):
        size = part.shape[1] >> (step < across), part.shape[0] >> (step < down)
        part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    return part, left, top, 1 << across, 1 << down


class Preprocessor:
    """Crops and normalises for one input spec.

    Args:
        spec: The input.
        color: Channel order of the images it will be given. That of the spec is enough for crops that are cut already;
            images have three channels, also where the spec says ``gray``.
    """

    def __init__(self, spec: InputSpec, color: InputColor) -> None:
        self.spec = spec
        self._conversion = None
        if color != spec.color:
            grey = cv2.COLOR_RGB2GRAY if color == "rgb" else cv2.COLOR_BGR2GRAY
            self._conversion = grey if spec.color == "gray" else cv2.COLOR_BGR2RGB
        self._scale = (1.0 / np.array(spec.std)).astype(np.float32)
        self._offset = (-np.array(spec.mean) / np.array(spec.std)).astype(np.float32)

    def crop(self, image: Image, box: NDArray[np.float64]) -> tuple[Image, Matrix]:
        """One crop in the channel order of the spec.

        Returns:
            (h, w, C) uint8 crop, C of `InputSpec.channels`, and the (2, 3) matrix from image to crop.
        """
        matrix = crop_matrix(box, self.spec)
        crop = warp(image, matrix, self.spec.height, self.spec.width, self.spec.pad_value)
        if self._conversion is not None:
            crop = cv2.cvtColor(crop, self._conversion)  # type: ignore[assignment]
        return crop if crop.ndim == 3 else crop[..., None], matrix

    def feed(self, crops: Sequence[Image] | NDArray[np.uint8], image: TensorSpec) -> NDArray[Any]:
        """N crops of (h, w, C) uint8 as a session takes them.

        Args:
            crops: Of `crop`.
            image: The input of the session. Where it is uint8 the graph normalises, and takes the crops as they are.

        Returns:
            (N, h, w, C) uint8, or (N, C, h, w) float32.
        """
        if image.dtype != "uint8":
            return self.normalise(crops)
        return crops[0][None] if len(crops) == 1 else np.stack(list(crops))

    def normalise(self, crops: Sequence[Image] | NDArray[np.uint8]) -> FloatArray:
        """N crops of (h, w, C) uint8 to (N, C, h, w) float32."""
        tensor = np.empty((len(crops), *self.spec.planes), np.float32)
        for index, crop in enumerate(crops):
            for channel, pixels in enumerate(cv2.split(crop)):
                plane = tensor[index, channel]
                np.multiply(pixels, self._scale[channel], out=plane)
                plane += self._offset[channel]
        return tensor
