"""Writes volume.json: test vectors of the decoder of volumes, by plain loops in double precision.

    python tests/vectors/make_volume.py        # after a change of the cases; review the difference

It shares no code with splite_deploy, so that an error there cannot hide in the expected values.
"""

from __future__ import annotations

import json
import math
import random
from itertools import product
from pathlib import Path
from typing import Any

ABOUT = [
    "Test vectors of the decoder volume, for any implementation in any language.",
    "Pixels: x to the right, y down, origin at the top-left CORNER of the network's input. z grows from bin to bin.",
    "cases[].decoder: type and parameters as in model.toml. cases[].input: width and height of the input in pixels.",
    "cases[].shape: [N, K, D, H, W]; the network gives (N, K * D, H, W), channel k * D + d being bin d of keypoint k.",
    "cases[].volume: {values: a number for each cell, row-major} or {blobs: for each of the N * K volumes a list of "
    "[x, y, z, sigma, height] in continuous cell units (the centre of the first cell is 0.5, 0.5, 0.5), log}. A cell "
    "is the sum of height * exp(-d2 / (2 sigma^2)) with d2 the squared distance of its centre; where log is true it is "
    "instead the single blob's height - d2 / (2 sigma^2).",
    "p = softmax(beta * volume) over all D * H * W cells of a keypoint. x and y: sum of p times the cell's centre, "
    "where cell i of w cells of stride s, over W = w * s pixels, is centred at (i + 0.5) * s (corner), at i * s + 0.5 "
    "(centre), or at i * (W - 1) / (w - 1) + 0.5 (udp). depth: sum of p times bin * depth_extent / bins, minus that of "
    "root_keypoint.",
    "score: sum of p over all bins of the cells at most score_window // 2 columns and rows away from the cell whose "
    "centre is nearest to the keypoint.",
    "cases[].expected: keypoints N x K x 2 in input pixels, scores N x K, depth N x K. tolerance: largest absolute "
    "difference of an implementation in float32. No keypoint lies within a hundredth of a cell of the edge of its "
    "cell, where rounding would decide about the score.",
]
TOLERANCE = {"keypoints": 0.002, "scores": 0.0002, "depth": 0.0005}


def cells(case: dict[str, Any]) -> list[float]:
    """All numbers that the network gives, row-major."""
    n, k, bins, height, width = case["shape"]
    source = case["volume"]
    if "values" in source:
        return [float(value) for value in source["values"]]
    made = []
    for volume in range(n * k):
        for d, row, column in product(range(bins), range(height), range(width)):
            value = 0.0
            for x, y, z, sigma, peak in source["blobs"][volume]:
                squared = (column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2 + (d + 0.5 - z) ** 2
                exponent = -squared / (2 * sigma**2)
                value = peak + exponent if source["log"] else value + peak * math.exp(exponent)
            made.append(value)
    return made


def centre(alignment: str, stride: float, count: int, index: int) -> float:
    """Where a cell lies along an axis, input pixels."""
    if alignment == "corner":
        return (index + 0.5) * stride
    if alignment == "centre":
        return index * stride + 0.5
    return index * (count * stride - 1) / (count - 1) + 0.5


def found_in(case: dict[str, Any], volume: list[float]) -> tuple[float, float, float, float]:
    """x, y, score, and z of the first bin's centre onwards, of one keypoint."""
    _, _, bins, height, width = case["shape"]
    decoder = case["decoder"]
    alignment, stride = decoder["alignment"], decoder["stride"]
    top = max(volume)
    weights = [math.exp(decoder["beta"] * (value - top)) for value in volume]
    total = math.fsum(weights)
    parts = [
        (weight / total, d, row, column)
        for weight, (d, row, column) in zip(weights, product(range(bins), range(height), range(width)), strict=True)
    ]
    x = math.fsum(p * centre(alignment, stride, width, column) for p, _, _, column in parts)
    y = math.fsum(p * centre(alignment, stride, height, row) for p, _, row, _ in parts)
    z = math.fsum(p * d for p, d, _, _ in parts) * decoder["depth_extent"] / bins
    nearest = []
    for place, count in ((x, width), (y, height)):
        distances = [abs(place - centre(alignment, stride, count, index)) for index in range(count)]
        best = min(range(count), key=distances.__getitem__)
        assert distances[best] < 0.49 * stride, f"{case['name']}: the keypoint lies at the edge of its cell"
        nearest.append(best)
    half = decoder["score_window"] // 2
    score = math.fsum(
        p for p, _, row, column in parts if abs(column - nearest[0]) <= half and abs(row - nearest[1]) <= half
    )
    return x, y, score, z


def expected(case: dict[str, Any]) -> dict[str, Any]:
    """Keypoints, scores and depths of a case, rounded to six digits."""
    n, k, bins, height, width = case["shape"]
    size, values = bins * height * width, cells(case)
    keypoints, scores, depth = [], [], []
    for crop in range(n):
        every = [found_in(case, values[(crop * k + j) * size : (crop * k + j + 1) * size]) for j in range(k)]
        root = every[case["decoder"]["root_keypoint"]][3]
        keypoints.append([[round(x, 6), round(y, 6)] for x, y, _, _ in every])
        scores.append([round(score, 6) for _, _, score, _ in every])
        depth.append([round(z - root, 6) + 0.0 for _, _, _, z in every])
    return {"keypoints": keypoints, "scores": scores, "depth": depth}


def noise(seed: int, shape: list[int], low: float, high: float) -> dict[str, Any]:
    """Literal values with three digits."""
    generator = random.Random(seed)
    return {"values": [round(low + (high - low) * generator.random(), 3) for _ in range(math.prod(shape))]}


def cases() -> list[dict[str, Any]]:
    """All cases without their expected values."""
    plain = {"type": "volume", "stride": 4.0, "beta": 1.0, "alignment": "centre", "score_window": 3}
    plain |= {"root_keypoint": 0, "scale_bones": [[0, 1]]}
    millimetres = {**plain, "bins": 8, "depth_extent": 2000.0 / 8, "unit": "mm"}
    palms = {**plain, "alignment": "corner", "bins": 4, "depth_extent": 2.0, "unit": "palm", "root_keypoint": 1}
    pixels = {**plain, "alignment": "udp", "bins": 5, "depth_extent": 32.0, "unit": "pixel", "beta": 2.5}
    sharp = [[[3.2, 4.1, 5.3, 0.7, 3.0]], [[5.3, 2.2, 2.4, 0.9, -1.0]]]
    peaks = [
        [[2.4, 3.3, 1.2, 0.8, 9.0], [5.1, 1.4, 3.1, 0.6, 8.0]],
        [[6.2, 4.3, 2.2, 1.0, 12.0]],
        [[1.4, 1.2, 0.8, 0.7, 7.0]],
    ]
    wide, square = {"width": 32, "height": 24}, {"width": 28, "height": 28}
    return [
        {"name": "volume, logits of Gaussians, mm", "decoder": millimetres, "input": wide, "shape": [1, 2, 8, 6, 8],
         "volume": {"blobs": sharp, "log": True}},
        {"name": "volume, peaks of which one has two, palms, another root", "decoder": palms, "input": wide,
         "shape": [1, 3, 4, 6, 8], "volume": {"blobs": peaks, "log": False}},
        {"name": "volume, noise, pixels, beta, udp, N = 2", "decoder": pixels, "input": square,
         "shape": [2, 2, 5, 7, 7], "volume": noise(1, [2, 2, 5, 7, 7], -2, 2)},
        {"name": "volume, all cells equal, beyond what an exponential holds",
         "decoder": {**palms, "score_window": 1}, "input": square,
         "shape": [1, 2, 4, 7, 7], "volume": {"values": [1000.0] * 392}},
    ]  # fmt: skip


def text() -> str:
    """The whole content of volume.json: one case a line."""
    lines = [json.dumps({**case, "expected": expected(case)}) for case in cases()]
    head = json.dumps({"about": ABOUT, "tolerance": TOLERANCE}, indent=1)[:-2]
    return head + ',\n "cases": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


if __name__ == "__main__":
    Path(__file__).with_name("volume.json").write_text(text(), encoding="utf-8")
