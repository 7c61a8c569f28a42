"""Writes points.json: test vectors of decoders without heatmaps, by plain loops in double precision.

    python tests/vectors/make_points.py        # after a change of the cases; review the difference

It shares no code with splite_deploy, so that an error there cannot hide in the expected values.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

ABOUT = [
    "Test vectors of the decoders simcc and coordinates, for any implementation in any language.",
    "Pixels: x to the right, y down, origin at the top-left CORNER of the network's input.",
    "cases[].decoder: type and parameters as in model.toml. cases[].input: width and height of the input in pixels. "
    "cases[].keypoints: their number K. cases[].outputs: by role, shape and row-major values.",
    "simcc: bins i = 0, 1, ... of a row; place / split_ratio + 0.5 is the pixel coordinate. none: the place is the "
    "largest bin, the first of several. softargmax: the sum of i times softmax(beta * bins). dark: the largest bin "
    "plus a step: bins smoothed by blur_kernel taps exp(-d^2 / (2 sigma^2)) divided by their sum, sigma = 0.3 "
    "((blur_kernel - 1) / 2 - 1) + 0.8, nothing beyond the border; multiplied so that their maximum is that of the "
    "bins; limited to 1e-3..50; the logarithm L. The step is -s / c with s = (L(1) - L(-1)) / 2 and c = (L(2) - 2 L(0) "
    "+ L(-2)) / 4, limited to -1..1; nothing unless c < -1e-6. Beyond the border the outermost bin stands for its "
    "neighbours.",
    "simcc's score: the smaller one of the largest values of both rows, clipped to 0..1.",
    "coordinates: unit is multiplied by the input's width and height; pixel is taken as it is; symmetric is (v + 1) / "
    "2 times the width or height. z minus that of root_keypoint is the depth; where its unit is pixel it is multiplied "
    "as a length along x is: by the width (unit), by half of it (symmetric), by 1 (pixel). Scores are clipped to 0..1, "
    "and 1 where nobody gives them; an output scores with one number is that of all keypoints.",
    "cases[].expected: keypoints N x K x 2 in input pixels, scores N x K, depth N x K or null. tolerance: largest "
    "absolute difference of an implementation in float32.",
]
TOLERANCE = {"keypoints": 0.002, "scores": 0.0002, "depth": 0.002}
SIZE = {"width": 24, "height": 32}


def table(output: dict[str, Any]) -> Any:
    """Nested lists of an output."""

    def nest(values: list[float], shape: list[int]) -> Any:
        if len(shape) == 1:
            return values
        step = len(values) // shape[0]
        return [nest(values[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]

    return nest(output["values"], output["shape"])


def largest(bins: list[float]) -> int:
    """The first of the largest bins."""
    return bins.index(max(bins))


def place(bins: list[float], decoder: dict[str, Any]) -> float:
    """Where the keypoint lies within the bins of one axis."""
    if decoder["refine"] == "softargmax":
        top = max(bins)
        weights = [math.exp(decoder["beta"] * (value - top)) for value in bins]
        return math.fsum(i * weight for i, weight in enumerate(weights)) / math.fsum(weights)
    peak = largest(bins)
    if decoder["refine"] == "none":
        return float(peak)
    reach = decoder["blur_kernel"] // 2
    sigma = 0.3 * (reach - 1) + 0.8
    taps = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1)]
    smooth = []
    for i in range(len(bins)):
        parts = [
            tap * bins[i + d] for d, tap in zip(range(-reach, reach + 1), taps, strict=True) if 0 <= i + d < len(bins)
        ]
        smooth.append(math.fsum(parts) / math.fsum(taps))
    scale = max(bins) / max(smooth) if max(smooth) > 0 else 0.0

    def log(offset: int) -> float:
        index = min(max(peak + offset, 0), len(bins) - 1)
        return math.log(min(max(smooth[index] * scale, 1e-3), 50.0))

    slope, curvature = (log(1) - log(-1)) / 2, (log(2) - 2 * log(0) + log(-2)) / 4
    if curvature >= -1e-6:
        assert abs(curvature + 1e-6) > 1e-7 or curvature == 0
        return float(peak)
    return peak + min(max(-slope / curvature, -1.0), 1.0)


def simcc(case: dict[str, Any]) -> dict[str, Any]:
    """What is expected of bins."""
    decoder, keypoints, scores = case["decoder"], [], []
    for xs, ys in zip(table(case["outputs"]["simcc_x"]), table(case["outputs"]["simcc_y"]), strict=True):
        points = []
        for x, y in zip(xs, ys, strict=True):
            points.append([place(bins, decoder) / decoder["split_ratio"] + 0.5 for bins in (x, y)])
            scores.append(min(max(min(max(x), max(y)), 0.0), 1.0))
        keypoints.append(points)
    count = case["keypoints"]
    return {
        "keypoints": keypoints,
        "scores": [scores[i : i + count] for i in range(0, len(scores), count)],
        "depth": None,
    }


def coordinates(case: dict[str, Any]) -> dict[str, Any]:
    """What is expected of coordinates."""
    decoder, size, found = case["decoder"], case["input"], {"keypoints": [], "scores": [], "depth": []}
    columns = decoder.get("columns") or ["x", "y", "score"]
    given = table(case["outputs"]["scores"]) if decoder.get("scores") else None
    for crop, rows in enumerate(table(case["outputs"]["coordinates"])):
        points, scores, depths = [], [], []
        for number, row in enumerate(rows):
            one = dict(zip(columns, row, strict=False))
            factor = {"unit": 1.0, "pixel": 0.0, "symmetric": 0.5}[decoder["scale"]]
            shift = 1 if decoder["scale"] == "symmetric" else 0
            points.append(
                [(one[axis] + shift) * (factor * size[side] or 1.0) for axis, side in (("x", "width"), ("y", "height"))]
            )
            score = one.get("score", 1.0)
            if given is not None:
                score = given[crop][number % len(given[crop])]
            scores.append(min(max(score, 0.0), 1.0))
            if "z" in one:
                root = rows[decoder["root_keypoint"]][columns.index("z")]
                along = (factor * size["width"] or 1.0) if decoder["unit"] == "pixel" else 1.0
                depths.append((one["z"] - root) * along)
        for name, values in (("keypoints", points), ("scores", scores), ("depth", depths)):
            found[name].append(values)
    return found if any(found["depth"]) else {**found, "depth": None}


def noise(rng: random.Random, shape: list[int], low: float, high: float) -> dict[str, Any]:
    """Random numbers of few digits."""
    return {"shape": shape, "values": [round(rng.uniform(low, high), 4) for _ in range(math.prod(shape))]}


def gaussians(rng: random.Random, count: int, bins: int, sigma: float, peak: float) -> dict[str, Any]:
    """Rows of a Gaussian around a place between bins; the first at the border, the last flat."""
    values = []
    for index in range(2 * count):
        middle = rng.uniform(0, bins - 1) if index else 0.3
        top = peak if index < 2 * count - 1 else 0.0
        values += [round(top * math.exp(-((i - middle) ** 2) / (2 * sigma**2)), 6) for i in range(bins)]
    return {"shape": [2, count, bins], "values": values}


def cases() -> list[dict[str, Any]]:
    """All cases, without what is expected."""
    rng, found = random.Random(3), []
    for name, more, make in (
        ("largest bin", {"refine": "none"}, lambda bins: noise(rng, [2, 3, bins], -1, 1.5)),
        ("largest bin, none above 0", {"refine": "none"}, lambda bins: noise(rng, [2, 3, bins], -1, -0.5)),
        ("softargmax", {"refine": "softargmax", "beta": 3.0}, lambda bins: noise(rng, [2, 3, bins], -1, 1.5)),
        ("dark", {"refine": "dark", "blur_kernel": 11}, lambda bins: gaussians(rng, 3, bins, 2.0, 0.9)),
        ("dark, no smoothing", {"refine": "dark", "blur_kernel": 1}, lambda bins: gaussians(rng, 3, bins, 3.0, 0.6)),
    ):
        for ratio in (1.0, 2.0):
            outputs = {"simcc_x": make(round(24 * ratio)), "simcc_y": make(round(32 * ratio))}
            decoder = {"type": "simcc", "split_ratio": ratio, **more}
            found.append({"name": f"simcc, {name}, {ratio:g} bins a pixel", "decoder": decoder, "outputs": outputs})
    z = {"root_keypoint": 1, "scale_bones": [[0, 1], [1, 2]]}
    for name, more, columns, scale in (
        ("z in millimetres", {"columns": ["x", "y", "z"], "unit": "mm", **z}, 3, "pixel"),
        ("z in pixels of unit coordinates", {"columns": ["x", "y", "z"], "unit": "pixel", **z}, 3, "unit"),
        ("z in pixels", {"columns": ["x", "y", "z"], "unit": "pixel", **z}, 3, "pixel"),
        ("z and score", {"columns": ["x", "y", "z", "score"], "unit": "palm", **z}, 4, "symmetric"),
        ("z in pixels of symmetric ones", {"columns": ["x", "y", "z", "score"], "unit": "pixel", **z}, 4, "symmetric"),
        ("named columns", {"columns": ["x", "y", "score"]}, 3, "pixel"),
        ("symmetric", {}, 2, "symmetric"),
        ("scores beside", {"scores": True}, 2, "unit"),
        ("one score for all", {"scores": True, "columns": ["x", "y", "z"], "unit": "pixel", **z}, 3, "unit"),
    ):
        outputs = {"coordinates": noise(rng, [2, 3, columns], -0.2, 1.2)}
        if more.get("scores"):
            outputs["scores"] = noise(rng, [2, 3 if columns == 2 else 1], -0.2, 1.2)
        decoder = {"type": "coordinates", "scale": scale, **more}
        found.append({"name": f"coordinates, {name}", "decoder": decoder, "outputs": outputs})
    return [{**case, "input": SIZE, "keypoints": 3} for case in found]


def text() -> str:
    """The file."""
    made = []
    for case in cases():
        expected = (simcc if case["decoder"]["type"] == "simcc" else coordinates)(case)
        made.append({**case, "expected": expected})
    return json.dumps({"about": ABOUT, "tolerance": TOLERANCE, "cases": made}) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("points.json").write_text(text(), encoding="utf-8")
