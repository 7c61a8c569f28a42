"""What `dark` and `udp` share: heatmaps smoothed by a Gaussian, and one Newton step to the top of their logarithm.

Cells are counted from 0; N crops, K keypoints, H, W size of a heatmap. Written from Zhang et al. 2020 (DARK, arXiv
1910.06278) and Huang et al. 2020 (UDP, arXiv 1911.07524).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import require

Border = Literal["zero", "mirror"]
"""What lies around a map that is smoothed: nothing, or the map mirrored about the centres of its outermost cells."""

LARGEST_KERNEL = 1023
"""Cells that a Gaussian may reach over: twice the maps of the largest networks. Memory grows with it."""
LEAST_DETERMINANT = 1e-9
"""Below it a map is flat around its largest cell, within the precision of float32: there is no step."""


def check_kernel(blur_kernel: int) -> None:
    """Refuses a kernel without a middle, or one larger than any map.

    Raises:
        SpecError: It is even, not positive, or beyond `LARGEST_KERNEL`.
    """
    require(blur_kernel > 0 and blur_kernel % 2 == 1, "decoder.blur_kernel must be odd: 1 smooths nothing")
    require(blur_kernel <= LARGEST_KERNEL, f"decoder.blur_kernel is {blur_kernel}, and at most {LARGEST_KERNEL}")


@lru_cache(maxsize=16)
def blurring(cells: int, kernel: int, border: Border) -> FloatArray:
    """(cells, cells): a matrix that smooths an axis by a Gaussian of ``kernel`` taps, which sum to one.

    Its standard deviation is 0.3 ((kernel - 1) / 2 - 1) + 0.8 cells, as OpenCV chooses it where none is given.
    """
    reach = kernel // 2
    sigma = 0.3 * (reach - 1) + 0.8
    taps = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    made = np.zeros((cells, cells))
    read = np.arange(cells)[:, None] + np.arange(-reach, reach + 1)
    if border == "mirror":
        period = max(2 * (cells - 1), 1)
        read %= period
        read = np.minimum(read, period - read) if cells > 1 else 0 * read
    inside = (read >= 0) & (read < cells)
    np.add.at(made, (np.nonzero(inside)[0], read[inside]), np.broadcast_to(taps, read.shape)[inside])
    return made.astype(np.float32)


def blurred_peaks(maps: FloatArray, kernel: int, border: Border) -> tuple[NDArray[np.intp], FloatArray]:
    """Where maps (M, H, W) are largest once smoothed, (M,) indices row by row, and what they hold there, (M,)."""
    height, width = maps.shape[1:]
    smooth = blurring(height, kernel, border) @ maps @ blurring(width, kernel, border).T
    smooth = smooth.reshape(-1, height * width)
    return smooth.argmax(axis=1), smooth.max(axis=1)


@lru_cache(maxsize=32)
def surroundings(cells: int, reach: int, kernel: int = 1, border: Border = "zero") -> FloatArray:
    """(cells, 2 * reach + 1, cells): for each cell of an axis the rows of `blurring` of it and its neighbours.

    Beyond the border the outermost cell stands for its neighbours.
    """
    near = np.arange(cells)[:, None] + np.arange(-reach, reach + 1)
    found: FloatArray = blurring(cells, kernel, border)[near.clip(0, cells - 1)]
    return found


def neighbours(
    maps: FloatArray,
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    reach: int,
    kernel: int = 1,
    border: Border = "zero",
) -> FloatArray:
    """(N, K, P * P): what smoothed maps (N, K, H, W) hold in the P = 2 * reach + 1 cells squared around one each.

    Only these cells are smoothed: each is a product of its row and its column of `surroundings`.

    Args:
        maps: Before they are smoothed.
        rows: (N, K) of the cells in the middle.
        columns: (N, K) of the same.
        reach: How many cells to each side.
        kernel: See `blurring`; 1 smooths nothing.
        border: See `Border`.
    """
    height, width = maps.shape[2:]
    above = surroundings(height, reach, kernel, border)[rows]
    beside = surroundings(width, reach, kernel, border)[columns]
    found: FloatArray = above @ maps @ beside.swapaxes(2, 3)
    return found.reshape(*rows.shape, -1)


def inside(cells: NDArray[Any], height: int, width: int, reach: int) -> NDArray[np.bool_]:
    """(N, K, 1): which cells (N, K, 2), column and row, have ``reach`` neighbours on each side."""
    last = np.array([width, height]) - 1 - reach
    found: NDArray[np.bool_] = ((cells >= reach) & (cells <= last)).all(axis=-1, keepdims=True)
    return found


def _stencil(reach: int, *, compact: bool) -> FloatArray:
    """(P * P, 8): from neighbours to the gradient as (x, y) and as (y, x), the curvatures yy and xx, and xy twice."""
    side = 2 * reach + 1
    dx, dy, dxx, dyy, dxy = (np.zeros((side, side)) for _ in range(5))
    o, far = reach, reach if not compact else 1
    for first, second, (down, right) in ((dx, dxx, (0, 1)), (dy, dyy, (1, 0))):
        first[o + down, o + right], first[o - down, o - right] = 0.5, -0.5
        second[o + far * down, o + far * right] = second[o - far * down, o - far * right] = 1 / far**2
        second[o, o] = -2 / far**2
    if compact:
        dxy[o + 1, o + 1] = dxy[o - 1, o - 1] = 0.5
        dxy[o, o + 1] = dxy[o + 1, o] = dxy[o, o - 1] = dxy[o - 1, o] = -0.5
        dxy[o, o] = 1
    else:
        dxy[o + 1, o + 1] = dxy[o - 1, o - 1] = 0.25
        dxy[o - 1, o + 1] = dxy[o + 1, o - 1] = -0.25
    found: FloatArray = np.stack([one.ravel() for one in (dx, dy, dy, dx, dyy, dxx, dxy, dxy)], -1).astype(np.float32)
    return found


DARK_STENCIL = _stencil(2, compact=False)
"""Differences over 5 x 5 cells: those of second order reach two cells far, as differences of the first order twice."""

UDP_STENCIL = _stencil(1, compact=True)
"""Differences over 3 x 3 cells."""


def newton_step(logs: FloatArray, stencil: FloatArray) -> FloatArray:
    """(N, K, 2): the step (x, y) in cells from the middle to the top of a parabola, -H^-1 g.

    Where the parabola has no top there is no step, and none is longer than a cell on an axis: the publications bound
    neither, but a Taylor expansion says nothing of what lies further away.

    Args:
        logs: (N, K, P * P) logarithms of a map around its largest cell.
        stencil: What differences are taken.
    """
    slopes, crossed, curvatures, mixed = np.split(logs @ stencil, 4, axis=-1)
    determinant = curvatures[..., :1] * curvatures[..., 1:] - mixed[..., :1] ** 2
    has_top = (determinant > LEAST_DETERMINANT) & (curvatures[..., :1] < 0)
    step = (mixed * crossed - curvatures * slopes) / np.where(has_top, determinant, np.float32(np.inf))
    bounded: FloatArray = step.clip(-1, 1)
    return bounded
