"""A rendered hand that moves, turns, comes closer, leaves and comes back; its keypoints are known in every frame."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.export.source.symbol import load_symbol

HEIGHT, WIDTH = 360, 480
FRAMES, AWAY, ROUND = 110, range(80, 90), 90
"""The hand is not there in the frames of `AWAY`, and once around the middle after `ROUND`."""


@dataclass(frozen=True)
class Frame:
    """One frame.

    Attributes:
        image: (HEIGHT, WIDTH, 3) uint8 BGR.
        keypoints: (21, 2) px; None where the hand is away.
    """

    image: NDArray[np.uint8]
    keypoints: NDArray[np.float64] | None


def moving_hand(root: Path) -> Iterator[Frame]:
    """Frames of a hand that goes around the middle once; ``root`` is the repository."""
    render_hand = load_symbol("synthetic.py:render_hand", root / "models" / "splite_hand")
    hand = render_hand(np.random.default_rng([sys.modules[render_hand.__module__].EXAMPLE_SEED, 0]), size_px=200)
    # blurred a little against the stairs of the mask's edge
    cover = cv2.GaussianBlur(hand.mask.astype(np.float32), (3, 3), 0)[..., None]
    wall = np.full((HEIGHT, WIDTH, 3), 150, np.float32)
    for index in range(FRAMES):
        if index in AWAY:
            yield Frame(wall.astype(np.uint8), None)
            continue
        phase = 2 * math.pi * index / ROUND
        turn = cv2.getRotationMatrix2D((100, 100), 15 * math.sin(phase), 1 + 0.25 * math.sin(2 * phase))
        turn[:, 2] += (WIDTH / 2 - 100 + 90 * math.cos(phase), HEIGHT / 2 - 100 + 50 * math.sin(phase))
        moved = cv2.warpAffine(hand.image[..., ::-1].astype(np.float32), turn, (WIDTH, HEIGHT))
        seen = cv2.warpAffine(cover, turn, (WIDTH, HEIGHT))[..., None]
        image = (moved * seen + wall * (1 - seen)).round().astype(np.uint8)
        # OpenCV's matrix acts on pixel centres at integers
        yield Frame(image, (hand.keypoints - 0.5) @ turn[:, :2].T + turn[:, 2] + 0.5)


def write(frames: list[Frame], path: Path, codec: str = "MJPG") -> Path:
    """A video file of the frames, 30 per second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 30.0, (WIDTH, HEIGHT))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame.image)
    writer.release()
    return path
