"""Random views of a picture, for training: turned, shifted, recoloured, blurred, with parts cut out."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.runtime.preprocess import crop_matrix
from splite_deploy.spec import ModelSpec

Image = NDArray[np.uint8]


def random_matrix(box: NDArray[np.float64], spec: ModelSpec, rng: np.random.Generator) -> NDArray[np.float64]:
    """Image to crop with random rotation, scale, and shift around the crop of the runtime."""
    degrees = rng.uniform(-180, 180) if rng.random() < 0.1 else rng.normal(0, 20)
    angle, zoom = np.deg2rad(degrees), np.exp(rng.normal(0, 0.12))
    size = np.array([spec.input.width, spec.input.height])
    turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = size / 2 - turn @ (size / 2) + rng.normal(0, 0.04, 2) * size
    matrix = turn @ crop_matrix(box, spec.input)
    matrix[:, 2] += shift
    return matrix


def mirror(matrix: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The map (2, 3) from an image to the mirrored crop, from that to the crop of so many pixels."""
    mirrored = np.array([[-1.0, 0.0], [0.0, 1.0]]) @ matrix
    mirrored[0, 2] += width
    return mirrored


def mirrored_order(spec: ModelSpec) -> NDArray[np.intp]:
    """(K,) which keypoint takes the place of each one in a mirror: those of ``flip_pairs`` change places."""
    order = np.arange(spec.keypoint_count)
    for a, b in spec.skeleton.flip_pairs:
        order[[a, b]] = b, a
    return order


def recolour(crop: Image, rng: np.random.Generator) -> Image:
    """Random hue, saturation, gain per channel, contrast, gamma; sometimes grey."""
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + int(rng.integers(-12, 13))) % 180
        hsv[..., 1] = np.clip(hsv[..., 1] * rng.uniform(0.5, 1.5), 0, 255)
        crop = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)  # type: ignore[assignment]
    if rng.random() < 0.08:
        crop = np.repeat(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)  # type: ignore[assignment]
    ramp = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.25))
    ramp = (ramp - 0.5) * np.exp(rng.normal(0, 0.2)) + 0.5 + rng.normal(0, 0.1)
    table = np.clip(ramp[:, None] * np.exp(rng.normal(0, 0.08, 3)) * 255, 0, 255).astype(np.uint8)
    return cv2.LUT(crop, table[None])  # type: ignore[return-value]


def degrade(crop: Image, rng: np.random.Generator) -> Image:
    """Random blur or low resolution, cut-outs and noise."""
    height, width = crop.shape[:2]
    if rng.random() < 0.3:
        if rng.random() < 0.5:
            crop = cv2.GaussianBlur(crop, (0, 0), rng.uniform(0.4, 1.6))  # type: ignore[assignment]
        else:
            factor = rng.uniform(0.35, 0.8)
            small = cv2.resize(crop, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            crop = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    if rng.random() < 0.3:
        crop = crop.copy()
        for _ in range(int(rng.integers(1, 4))):
            h, w = (rng.uniform(0.06, 0.28, 2) * (height, width)).astype(int)
            y, x = int(rng.integers(height - h)), int(rng.integers(width - w))
            crop[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    if rng.random() < 0.5:
        noise = np.empty(crop.shape, np.int16)
        cv2.setRNGSeed(int(rng.integers(2**31)))
        cv2.randn(noise, 0, rng.uniform(1, 14))  # type: ignore[call-overload]
        crop = np.clip(crop + noise, 0, 255).astype(np.uint8)
    return crop


def before(crop: Image, background: Image) -> Image:
    """The masked part of a crop (h, w, 4) before a background (h, w, 3 or more)."""
    share = crop[..., 3:].astype(np.uint16)
    mixed = crop[..., :3] * share + background[..., :3] * (255 - share)
    return (mixed // 255).astype(np.uint8)
