"""Writes decode.json: decoder test vectors, computed by plain loops in float64 from the formulas alone.

    python tests/vectors/make_decode.py        # after a change of the cases; review the difference

It shares no code with splite_deploy, so that an error there cannot hide in the expected values.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

Map = list[list[float]]

ABOUT = [
    "Test vectors of the decoders, for any implementation in any language.",
    "Pixels: x to the right, y down, origin at the top-left CORNER of the network's input.",
    "The decoder's alignment says where the cells of a heatmap lie. On each axis cell i of w cells of stride s, over "
    "W = w * s pixels, is centred at (i + 0.5) * s (corner), at i * s + 0.5 (centre), or at i * (W - 1) / (w - 1) + "
    "0.5 (udp; at 0.5 where w is 1).",
    "cases[].decoder: type and parameters as in model.toml. cases[].input: width and height of the input in pixels.",
    "cases[].shape: [N, K, H, W] of the maps, or [N, K, 2 or 3] of the coordinates. The role combined has 3 K maps, "
    "the role offset has 2 K.",
    "cases[].heatmap, .depth, .combined, .offset: {values: a number for each cell, row-major} or {blobs: for each map "
    "a list of [column, row, sigma, height] in continuous cell units (the centre of the first cell is 0.5, 0.5), "
    "background, log}. A blob map is background + sum of height * exp(-d2 / (2 sigma^2)) with d2 the squared distance "
    "of the cell's centre; where log is true it is instead the single blob's height - d2 / (2 sigma^2). "
    "cases[].coordinates: {values} row-major.",
    "softargmax: p = softmax(beta * heatmap) over all cells; keypoint = sum of p * centre.",
    "softargmax-window: the same over the cells at most window // 2 columns and rows away from the largest cell (the "
    "first in row-major order where several are equal), clipped at the border; p is 0 elsewhere.",
    "softargmax-depth: keypoint as softargmax; depth = sum of p * depth map, minus that of root_keypoint.",
    "argmax: the centre of the largest cell (the first in row-major order where several are equal). Where offset is "
    "quarter and the cell is not in an outermost row or column, a quarter of a cell's step is added on each axis, "
    "towards the larger one of the two neighbours on it; nothing where they are equal.",
    "Smoothing by a side of L cells: products of taps exp(-d2 / (2 sigma^2)), d from -(L - 1) / 2 to (L - 1) / 2 in x "
    "and in y, divided by the sum of taps on each axis; sigma = 0.3 ((L - 1) / 2 - 1) + 0.8. What lies beyond the "
    "border is 0, or for combined the map mirrored about the centres of its outermost cells. A side of 1 smooths "
    "nothing.",
    "A Newton step on L(x, y) at a cell: -(1 / det) (Lyy Lx - Lxy Ly, Lxx Ly - Lxy Lx), det = Lxx Lyy - Lxy^2, "
    "limited to -1..1 cell on each axis; nothing unless det > 1e-9 and Lxx < 0.",
    "dark: the largest cell of the heatmap; where it has two neighbours on each side, a Newton step on the logarithm "
    "of the heatmap smoothed by blur_kernel, of no value below 1e-10. Lx = (L(1, 0) - L(-1, 0)) / 2, Lxx = (L(2, 0) - "
    "2 L(0, 0) + L(-2, 0)) / 4, Lxy = (L(1, 1) - L(1, -1) - L(-1, 1) + L(-1, -1)) / 4; Ly and Lyy alike.",
    "udp, gaussian: the largest cell of the heatmap and a Newton step on the logarithm of the heatmap smoothed by "
    "blur_kernel, multiplied so that its maximum is that of the heatmap, and limited to 1e-3..50. Lx as before, Lxx = "
    "L(1, 0) - 2 L(0, 0) + L(-1, 0), Lxy = (L(1, 1) - L(1, 0) - L(0, 1) + 2 L(0, 0) - L(-1, 0) - L(0, -1) + L(-1, "
    "-1)) / 2; beyond the border the outermost cell stands for its neighbours.",
    "udp, combined: maps 3 k, 3 k + 1 and 3 k + 2 belong to keypoint k. The largest cell of the first, smoothed by 2 "
    "blur_kernel + 1; x and y plus radius_factor * max(H, W) cells times the second and the third map there, smoothed "
    "by blur_kernel.",
    "expectation: p = max(heatmap, 1e-12) by its sum over all cells; keypoint = sum of p * centre.",
    "offset: the centre of the largest cell of the heatmap plus the offsets there, in pixels or in steps of cells as "
    "offset_unit says. offset_order says which of the 2 K maps they are: yyxx is y of all keypoints, then x of all; "
    "yxyx is y and x of the first keypoint, then of the next.",
    "score: sum of p over the cells at most score_window // 2 columns and rows away from the cell whose centre is "
    "nearest to the keypoint. coordinates: the third column clipped to 0..1, or 1 where there is none. All others: "
    "the largest cell of the heatmap, of combined that of the first map after smoothing, clipped to 0..1.",
    "coordinates: unit is multiplied by the input's width and height, pixel is taken as it is.",
    "cases[].expected: keypoints N x K x 2 in input pixels, scores N x K, depth N x K or null. tolerance: largest "
    "absolute difference of an implementation in float32. No keypoint lies within a hundredth of a cell of the edge "
    "of its cell, where rounding would decide about the score.",
]
TOLERANCE = {"keypoints": 0.002, "scores": 0.0002, "depth": 0.0005}


MAPS = {"combined": 3, "offset": 2}
"""Maps for each keypoint of these roles; others have one."""


def maps(source: dict[str, Any], shape: list[int], each: int = 1) -> list[list[Map]]:
    """The N x K maps that a case describes, or ``each`` times as many."""
    n, k, height, width = shape
    k *= each
    result = []
    for index in range(n * k):
        rows = []
        for row in range(height):
            line = []
            for column in range(width):
                if "values" in source:
                    line.append(float(source["values"][(index * height + row) * width + column]))
                    continue
                value = source["background"]
                for x, y, sigma, peak in source["blobs"][index]:
                    exponent = -((column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2) / (2 * sigma**2)
                    value = peak + exponent if source["log"] else value + peak * math.exp(exponent)
                line.append(value)
            rows.append(line)
        result.append(rows)
    return [result[i * k : (i + 1) * k] for i in range(n)]


def softmax(heatmap: Map, beta: float, rows: range, columns: range) -> Map:
    """softmax(beta * heatmap) over the cells of ``rows`` x ``columns``, zero elsewhere."""
    top = max(heatmap[r][c] for r in rows for c in columns)
    weights = [[0.0] * len(heatmap[0]) for _ in heatmap]
    for r in rows:
        for c in columns:
            weights[r][c] = math.exp(beta * (heatmap[r][c] - top))
    total = math.fsum(w for line in weights for w in line)
    return [[w / total for w in line] for line in weights]


def around(centre: int, window: int, size: int) -> range:
    """Indices within ``window // 2`` of ``centre``, clipped to 0..size."""
    return range(max(0, centre - window // 2), min(size, centre + window // 2 + 1))


def centres(cells: int, decoder: dict[str, Any]) -> list[float]:
    """Centres of the cells of one axis, in input pixels."""
    stride = decoder["stride"]
    if decoder["alignment"] == "corner":
        return [(i + 0.5) * stride for i in range(cells)]
    if decoder["alignment"] == "centre":
        return [i * stride + 0.5 for i in range(cells)]
    assert decoder["alignment"] == "udp"
    return [i * (cells * stride - 1) / max(cells - 1, 1) + 0.5 for i in range(cells)]


def nearest(position: float, among: list[float]) -> int:
    """The index of the nearest centre; no other may be nearly as near."""
    by_distance = sorted(range(len(among)), key=lambda i: abs(among[i] - position))
    if len(among) > 1:
        first, second = (abs(among[i] - position) for i in by_distance[:2])
        assert second - first > 0.02 * abs(among[1] - among[0]), f"keypoint at {position} lies on the edge of a cell"
    return by_distance[0]


def decode_map(heatmap: Map, decoder: dict[str, Any]) -> tuple[list[float], float, Map]:
    """Keypoint, score and weights of one map."""
    height, width = len(heatmap), len(heatmap[0])
    xs, ys = centres(width, decoder), centres(height, decoder)
    rows, columns = range(height), range(width)
    if decoder["type"] == "softargmax-window":
        peak_row, peak_column = 0, 0
        for r in range(height):
            for c in range(width):
                if heatmap[r][c] > heatmap[peak_row][peak_column]:
                    peak_row, peak_column = r, c
        rows = around(peak_row, decoder["window"], height)
        columns = around(peak_column, decoder["window"], width)
    weights = softmax(heatmap, decoder["beta"], rows, columns)
    x = math.fsum(weights[r][c] * xs[c] for r in range(height) for c in range(width))
    y = math.fsum(weights[r][c] * ys[r] for r in range(height) for c in range(width))
    row, column = nearest(y, ys), nearest(x, xs)
    if decoder["type"] == "softargmax-window":
        peak = heatmap[peak_row][peak_column]
        return [x, y], min(max(peak, 0.0), 1.0), weights
    score = math.fsum(
        weights[r][c]
        for r in around(row, decoder["score_window"], height)
        for c in around(column, decoder["score_window"], width)
    )
    return [x, y], score, weights


def largest(heatmap: Map) -> tuple[int, int]:
    """Row and column of the largest cell, the first of several."""
    best = (0, 0)
    for r, line in enumerate(heatmap):
        for c, value in enumerate(line):
            if value > heatmap[best[0]][best[1]]:
                best = (r, c)
    return best


def mirrored(index: int, size: int) -> int:
    """The cell that a place beyond the border mirrors."""
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def smoothed(heatmap: Map, side: int, mirror: bool = False) -> Map:
    """A map after a Gaussian of ``side`` taps."""
    height, width, reach = len(heatmap), len(heatmap[0]), side // 2
    sigma = 0.3 * ((side - 1) / 2 - 1) + 0.8
    total = math.fsum(math.exp(-(d**2) / (2 * sigma**2)) for d in range(-reach, reach + 1))
    made = [[0.0] * width for _ in range(height)]
    for r in range(height):
        for c in range(width):
            parts = []
            for down in range(-reach, reach + 1):
                for right in range(-reach, reach + 1):
                    row, column = r + down, c + right
                    if mirror:
                        row, column = mirrored(row, height), mirrored(column, width)
                    if 0 <= row < height and 0 <= column < width:
                        tap = math.exp(-(down**2 + right**2) / (2 * sigma**2)) / total**2
                        parts.append(tap * heatmap[row][column])
            made[r][c] = math.fsum(parts)
    return made


def newton(dx: float, dy: float, dxx: float, dxy: float, dyy: float) -> tuple[float, float]:
    """The step in x and y to the top of a parabola."""
    determinant = dxx * dyy - dxy**2
    # A case that comes near would be decided by rounding
    assert abs(determinant) < 1e-12 or abs(determinant) > 1e-7, determinant
    if determinant <= 1e-9 or dxx >= 0:
        return 0.0, 0.0
    x, y = (dxy * dy - dyy * dx) / determinant, (dxy * dx - dxx * dy) / determinant
    return min(max(x, -1.0), 1.0), min(max(y, -1.0), 1.0)


def dark_step(heatmap: Map, row: int, column: int, side: int) -> tuple[float, float]:
    """The step of `dark`."""
    if not (2 <= row < len(heatmap) - 2 and 2 <= column < len(heatmap[0]) - 2):
        return 0.0, 0.0
    logs = [[math.log(max(value, 1e-10)) for value in line] for line in smoothed(heatmap, side)]

    def at(right: int, down: int) -> float:
        return logs[row + down][column + right]

    return newton(
        dx=(at(1, 0) - at(-1, 0)) / 2,
        dy=(at(0, 1) - at(0, -1)) / 2,
        dxx=(at(2, 0) - 2 * at(0, 0) + at(-2, 0)) / 4,
        dxy=(at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4,
        dyy=(at(0, 2) - 2 * at(0, 0) + at(0, -2)) / 4,
    )


def udp_step(heatmap: Map, row: int, column: int, side: int) -> tuple[float, float]:
    """The step of `udp` on Gaussians."""
    smooth = smoothed(heatmap, side)
    highest = max(max(line) for line in smooth)
    scale = max(max(line) for line in heatmap) / highest if highest > 0 else 0.0
    last_row, last_column = len(smooth) - 1, len(smooth[0]) - 1

    def at(right: int, down: int) -> float:
        value = smooth[min(max(row + down, 0), last_row)][min(max(column + right, 0), last_column)]
        return math.log(min(max(value * scale, 1e-3), 50.0))

    both = at(1, 1) - at(1, 0) - at(0, 1) + 2 * at(0, 0) - at(-1, 0) - at(0, -1) + at(-1, -1)
    return newton(
        dx=(at(1, 0) - at(-1, 0)) / 2,
        dy=(at(0, 1) - at(0, -1)) / 2,
        dxx=at(1, 0) - 2 * at(0, 0) + at(-1, 0),
        dxy=both / 2,
        dyy=at(0, 1) - 2 * at(0, 0) + at(0, -1),
    )


def decode_peak(found: list[Map], decoder: dict[str, Any]) -> tuple[list[float], float]:
    """Keypoint and score of one keypoint's maps: the heatmap, and what belongs to it (x before y)."""
    heatmap, kind = found[0], decoder["type"]
    height, width = len(heatmap), len(heatmap[0])
    xs, ys = centres(width, decoder), centres(height, decoder)
    step_x, step_y = (axis[1] - axis[0] if len(axis) > 1 else decoder["stride"] for axis in (xs, ys))
    if kind == "expectation":
        total = math.fsum(max(value, 1e-12) for line in heatmap for value in line)
        x = math.fsum(max(heatmap[r][c], 1e-12) * xs[c] for r in range(height) for c in range(width)) / total
        y = math.fsum(max(heatmap[r][c], 1e-12) * ys[r] for r in range(height) for c in range(width)) / total
        return [x, y], min(max(max(max(line) for line in heatmap), 0.0), 1.0)
    if kind == "udp" and decoder["target"] == "combined":
        heatmap = smoothed(heatmap, 2 * decoder["blur_kernel"] + 1, mirror=True)
    row, column = largest(heatmap)
    right = down = 0.0
    if kind == "argmax" and decoder["offset"] == "quarter" and 0 < row < height - 1 and 0 < column < width - 1:
        beside = heatmap[row][column + 1] - heatmap[row][column - 1]
        below = heatmap[row + 1][column] - heatmap[row - 1][column]
        right, down = (0.25 * ((slope > 0) - (slope < 0)) for slope in (beside, below))
    elif kind == "dark":
        right, down = dark_step(heatmap, row, column, decoder["blur_kernel"])
    elif kind == "udp" and decoder["target"] == "gaussian":
        right, down = udp_step(heatmap, row, column, decoder["blur_kernel"])
    elif kind == "udp":
        radius = decoder["radius_factor"] * max(height, width)
        right, down = (radius * smoothed(one, decoder["blur_kernel"], mirror=True)[row][column] for one in found[1:])
    elif kind == "offset":
        in_cells = decoder["offset_unit"] == "cell"
        right, down = found[1][row][column], found[2][row][column]
        right, down = (right, down) if in_cells else (right / step_x, down / step_y)
    score = min(max(heatmap[row][column], 0.0), 1.0)
    return [xs[column] + right * step_x, ys[row] + down * step_y], score


def of_keypoints(case: dict[str, Any]) -> list[list[list[Map]]]:
    """N x K lists of the maps that belong to one keypoint: what tells the cell, then x and y where there are such."""
    shape, count = case["shape"], case["shape"][1]
    if "combined" in case:
        return [
            [sample[3 * k : 3 * k + 3] for k in range(count)]
            for sample in maps(case["combined"], shape, MAPS["combined"])
        ]
    heatmaps = maps(case["heatmap"], shape)
    if "offset" not in case:
        return [[[heatmap] for heatmap in sample] for sample in heatmaps]
    order = case["decoder"]["offset_order"]
    made = []
    for sample, offsets in zip(heatmaps, maps(case["offset"], shape, MAPS["offset"]), strict=True):
        pairs = [
            (offsets[k], offsets[count + k]) if order in ("yyxx", "xxyy") else (offsets[2 * k], offsets[2 * k + 1])
            for k in range(count)
        ]
        ordered = [pair if order[0] == "x" else pair[::-1] for pair in pairs]
        made.append([[heatmap, *pair] for heatmap, pair in zip(sample, ordered, strict=True)])
    return made


def expected(case: dict[str, Any]) -> dict[str, Any]:
    """Keypoints, scores and depth of a case, rounded to six digits."""
    decoder, shape = case["decoder"], case["shape"]
    keypoints: list[Any] = []
    scores: list[Any] = []
    depths: list[Any] = []
    if decoder["type"] == "coordinates":
        size = (case["input"]["width"], case["input"]["height"]) if decoder["scale"] == "unit" else (1, 1)
        values = case["coordinates"]["values"]
        for n in range(shape[0]):
            rows = [values[(n * shape[1] + k) * shape[2] :][: shape[2]] for k in range(shape[1])]
            keypoints.append([[row[0] * size[0], row[1] * size[1]] for row in rows])
            scores.append([min(max(row[2], 0.0), 1.0) if shape[2] == 3 else 1.0 for row in rows])
    elif not decoder["type"].startswith("softargmax"):
        for sample in of_keypoints(case):
            peaks = [decode_peak(found, decoder) for found in sample]
            keypoints.append([keypoint for keypoint, _ in peaks])
            scores.append([score for _, score in peaks])
    else:
        heatmaps = maps(case["heatmap"], shape)
        depth_maps = maps(case["depth"], shape) if "depth" in case else None
        for n, sample in enumerate(heatmaps):
            found = [decode_map(heatmap, decoder) for heatmap in sample]
            keypoints.append([keypoint for keypoint, _, _ in found])
            scores.append([score for _, score, _ in found])
            if depth_maps is not None:
                absolute = [
                    math.fsum(w * z for wr, zr in zip(p, d, strict=True) for w, z in zip(wr, zr, strict=True))
                    for (_, _, p), d in zip(found, depth_maps[n], strict=True)
                ]
                depths.append([z - absolute[decoder["root_keypoint"]] for z in absolute])
    return {"keypoints": rounded(keypoints), "scores": rounded(scores), "depth": rounded(depths) if depths else None}


def rounded(value: Any) -> Any:
    """Nested lists with six digits after the point; never -0.0."""
    return [rounded(item) for item in value] if isinstance(value, list) else round(value, 6) + 0.0


def noise(seed: int, count: int, low: float, high: float) -> dict[str, list[float]]:
    """Literal values with two digits."""
    generator = random.Random(seed)
    return {"values": [round(low + (high - low) * generator.random(), 2) for _ in range(count)]}


def spike(shape: list[int], *cells: tuple[int, int, float]) -> dict[str, list[float]]:
    """One literal map, zero but for (row, column, value)."""
    values = [0.0] * (shape[2] * shape[3])
    for row, column, value in cells:
        values[row * shape[3] + column] = value
    return {"values": values}


def blobs(*each: list[list[float]], background: float = 0.0, log: bool = False) -> dict[str, Any]:
    """One list of blobs per map."""
    return {"blobs": list(each), "background": background, "log": log}


def plain(beta: float, stride: float = 4.0, score_window: int = 3, alignment: str = "corner") -> dict[str, Any]:
    """A global soft-argmax."""
    common = {"stride": stride, "beta": beta, "alignment": alignment}
    return {"type": "softargmax", **common, "score_window": score_window}


def window(beta: float, side: int, stride: float = 4.0, alignment: str = "corner") -> dict[str, Any]:
    """A soft-argmax in a window."""
    return {"type": "softargmax-window", "stride": stride, "beta": beta, "alignment": alignment, "window": side}


def depth(unit: str, root: int, beta: float = 1.0, alignment: str = "corner") -> dict[str, Any]:
    """A soft-argmax with depth."""
    bone = {"root_keypoint": root, "unit": unit, "scale_bones": [[0, 1]]}
    return {**plain(beta, alignment=alignment), "type": "softargmax-depth", **bone}


def argmax(offset: str, stride: float = 4.0, alignment: str = "corner") -> dict[str, Any]:
    """The largest cell."""
    return {"type": "argmax", "stride": stride, "alignment": alignment, "offset": offset}


def dark(blur_kernel: int, stride: float = 4.0, alignment: str = "centre") -> dict[str, Any]:
    """A Newton step over 5 x 5 cells."""
    return {"type": "dark", "stride": stride, "alignment": alignment, "blur_kernel": blur_kernel}


def udp(blur_kernel: int, stride: float = 4.0) -> dict[str, Any]:
    """A Newton step over 3 x 3 cells."""
    common = {"type": "udp", "stride": stride, "alignment": "udp"}
    return {**common, "target": "gaussian", "blur_kernel": blur_kernel}


def combined(blur_kernel: int, radius_factor: float, stride: float = 4.0) -> dict[str, Any]:
    """A disk and offsets."""
    return {**udp(blur_kernel, stride), "target": "combined", "radius_factor": radius_factor}


def expectation(stride: float = 4.0, alignment: str = "centre") -> dict[str, Any]:
    """A map by its sum."""
    return {"type": "expectation", "stride": stride, "alignment": alignment}


def offset(order: str, unit: str, stride: float = 16.0, alignment: str = "centre") -> dict[str, Any]:
    """The largest cell and what a second output holds there."""
    return {"type": "offset", "stride": stride, "alignment": alignment, "offset_order": order, "offset_unit": unit}


def peak_cases() -> list[tuple[str, dict[str, Any], list[int], dict[str, Any]]]:
    """Those of decoders that look for the largest cell, and of expectations."""
    one, odd, size = [1, 1, 6, 6], [1, 1, 5, 7], [1, 1, 12, 16]
    flat, corner, last = spike(odd), spike(odd, (0, 0, 0.7)), spike(odd, (4, 6, 3.0))
    gaussian = blobs([[9.3, 6.6, 2.0, 0.8]])
    leaning = blobs([[9.3, 6.6, 2.0, 0.8], [12.4, 4.1, 1.5, 0.5]])
    edge = blobs([[0.4, 5.7, 1.5, 1.0]])
    second = spike(odd, (1, 1, 2.0), (1, 2, 1.0), (2, 1, 1.5))  # beside the outermost row and column
    many = [blobs([[c + 0.3 * k, 5.2 + 0.7 * k, 1.5, 0.9]])["blobs"][0] for k, c in enumerate((4.4, 7.1, 9.6, 5.5))]
    several = {"heatmap": blobs(*many)}
    found: list[tuple[str, dict[str, Any], list[int], dict[str, Any]]] = []
    for quarter in ("quarter", "none"):
        found += [
            (f"argmax, {quarter}, noise", argmax(quarter), one, {"heatmap": noise(30, 36, -2, 2)}),
            (f"argmax, {quarter}, N = 2, K = 2, wide map, stride 8, centre", argmax(quarter, 8.0, "centre"),
             [2, 2, 4, 9], {"heatmap": noise(31, 144, -1, 1)}),
            (f"argmax, {quarter}, all values negative", argmax(quarter), odd, {"heatmap": noise(15, 35, -9, -5)}),
            (f"argmax, {quarter}, udp, Gaussian", argmax(quarter, alignment="udp"), size, {"heatmap": gaussian}),
        ]  # fmt: skip
    found += [
        ("argmax, in the corner nothing is added", argmax("quarter"), odd, {"heatmap": corner}),
        ("argmax, equal neighbours add nothing", argmax("quarter"), odd,
         {"heatmap": spike(odd, (2, 3, 1.0), (2, 2, 0.5), (2, 4, 0.5), (1, 3, 0.25))}),
        ("argmax, beside the outermost row", argmax("quarter"), odd, {"heatmap": second}),
        ("argmax, a tie takes the first", argmax("quarter"), odd,
         {"heatmap": spike(odd, (3, 1, 2.0), (1, 5, 2.0), (1, 4, 1.0))}),
        ("argmax, flat map", argmax("quarter"), odd, {"heatmap": flat}),
    ]  # fmt: skip
    for name, make in (("dark", dark), ("udp", udp)):
        found += [
            (f"{name}, Gaussian", make(11), size, {"heatmap": gaussian}),
            (f"{name}, Gaussian, no smoothing", make(1), size, {"heatmap": gaussian}),
            (f"{name}, two Gaussians, stride 8", make(5, 8.0), size, {"heatmap": leaning}),
            (f"{name}, N = 2, K = 2", make(7), [2, 2, 12, 16], several),
            (f"{name}, noise", make(11), size, {"heatmap": noise(32, 192, 0, 1)}),
            (f"{name}, noise, no smoothing", make(1), size, {"heatmap": noise(33, 192, 0.2, 1)}),
            (f"{name}, Gaussian at the left border", make(11), size, {"heatmap": edge}),
            (f"{name}, in the corner", make(3), odd, {"heatmap": corner}),
            (f"{name}, in the last corner", make(3), odd, {"heatmap": last}),
            (f"{name}, beside the outermost row", make(3), odd, {"heatmap": second}),
            (f"{name}, all values negative", make(3), odd, {"heatmap": noise(15, 35, -9, -5)}),
            (f"{name}, a kernel larger than the map", make(17), one, {"heatmap": noise(34, 36, 0, 1)}),
            (f"{name}, no smoothing of a flat map", make(1), odd, {"heatmap": noise(35, 35, 0.5, 0.5)}),
            (f"{name}, no smoothing of a ridge", make(1), odd,
             {"heatmap": {"values": [0.1 + 0.1 * (c == 3) for _ in range(5) for c in range(7)]}}),
            (f"{name}, no smoothing of a lone cell", make(1), odd, {"heatmap": spike(odd, (2, 3, 0.4))}),
        ]  # fmt: skip
    found += [
        ("dark, corner, Gaussian", dark(11, alignment="corner"), size, {"heatmap": gaussian}),
        ("dark, udp, Gaussian", dark(11, alignment="udp"), size, {"heatmap": gaussian}),
        ("udp, a step beyond a cell is cut", udp(1), odd,
         {"heatmap": {"values": [0.2 + 0.001 * c - 0.0001 * (c - 3) ** 2 - 0.01 * (r - 2) ** 2
                                 for r in range(5) for c in range(7)]}}),
        ("udp, combined, noise", combined(3, 0.2), size, {"combined": noise(36, 576, -1, 1)}),
        ("udp, combined, N = 2, K = 2, stride 8", combined(5, 0.1, 8.0), [2, 2, 6, 9],
         {"combined": noise(37, 648, -1, 1)}),
        ("udp, combined, no smoothing of offsets", combined(1, 0.25), odd, {"combined": noise(38, 105, 0, 1)}),
        ("udp, combined, a kernel larger than the map", combined(11, 0.0546875), one,
         {"combined": noise(39, 108, -1, 1)}),
        ("expectation, noise", expectation(), one, {"heatmap": noise(40, 36, 0, 2)}),
        ("expectation, negative values count nothing", expectation(), odd, {"heatmap": noise(41, 35, -2, 1)}),
        ("expectation, nothing positive is the middle", expectation(), odd, {"heatmap": noise(15, 35, -9, -5)}),
        ("expectation, N = 2, K = 2, stride 8, udp", expectation(8.0, "udp"), [2, 2, 12, 16], several),
        ("expectation, corner", expectation(alignment="corner"), odd, {"heatmap": noise(42, 35, 0, 1)}),
    ]  # fmt: skip
    for order, unit in (("yyxx", "pixel"), ("xxyy", "pixel"), ("yxyx", "cell"), ("xyxy", "cell"), ("yyxx", "cell")):
        found.append(
            (f"offset, {order}, {unit}", offset(order, unit), [2, 3, 4, 5],
             {"heatmap": noise(43, 120, 0, 1), "offset": noise(44, 240, -9, 9)})
        )  # fmt: skip
    found.append(
        ("offset, udp, cell, in the corner", offset("yyxx", "cell", 4.0, "udp"), odd,
         {"heatmap": corner, "offset": noise(45, 70, -1, 1)})
    )  # fmt: skip
    return found


def cases() -> list[dict[str, Any]]:
    """All cases without their expected values."""
    one, wide, tall, odd = [1, 1, 6, 6], [1, 1, 4, 9], [1, 1, 9, 4], [1, 1, 5, 7]
    log_blob = blobs([[7.3, 4.6, 1.2, 0.0]], log=True)
    edge = blobs([[0.4, 5.7, 1.5, 1.0]])
    found = [
        ("global noise", plain(1.0), one, {"heatmap": noise(1, 36, -2, 2)}),
        ("global noise, wide map, stride 8", plain(2.0, 8.0), wide, {"heatmap": noise(2, 36, -3, 3)}),
        ("global noise, tall map, stride 2", plain(0.5, 2.0), tall, {"heatmap": noise(3, 36, -5, 5)}),
        ("global, N = 2, K = 3", plain(1.5), [2, 3, 4, 5], {"heatmap": noise(24, 120, -2, 2)}),
        ("global, logits of a Gaussian", plain(1.0), [1, 1, 12, 16], {"heatmap": log_blob}),
        ("global, unit Gaussian, background pulls to the centre", plain(10.0), [1, 1, 12, 16],
         {"heatmap": blobs([[4.3, 3.6, 1.5, 1.0]])}),
        ("global, Gaussian at the border", plain(25.0), [1, 1, 12, 16], {"heatmap": edge}),
        ("global, two peaks", plain(5.0), [1, 1, 12, 16],
         {"heatmap": blobs([[3.2, 3.7, 1.0, 2.0], [12.1, 8.4, 1.5, 1.8]], background=-0.5)}),
        ("global, peak in the corner", plain(1.0), odd, {"heatmap": spike(odd, (0, 0, 6.0))}),
        ("global, tie of two cells", plain(1.0), odd, {"heatmap": spike(odd, (2, 1, 9.0), (2, 5, 9.0))}),
        ("global, flat map", plain(1.0), odd, {"heatmap": spike(odd)}),
        ("global, beta near zero is the centre", plain(0.0001), odd, {"heatmap": noise(5, 35, -2, 2)}),
        ("global, large beta is argmax", plain(1000.0), odd, {"heatmap": noise(6, 35, -2, 2)}),
        ("global, logits that overflow exp", plain(1.0), odd, {"heatmap": noise(7, 35, 300, 310)}),
        ("global, very negative logits", plain(1.0), odd, {"heatmap": noise(8, 35, -510, -500)}),
        ("global, score window 1", plain(1.0, score_window=1), odd, {"heatmap": noise(9, 35, 0, 4)}),
        ("global, score window beyond the map", plain(1.0, score_window=21), odd, {"heatmap": noise(10, 35, 0, 4)}),
        ("window noise", window(1.0, 3), one, {"heatmap": noise(11, 36, -2, 2)}),
        ("window, N = 2, K = 2, wide map", window(1.0, 5, 8.0), [2, 2, 4, 9], {"heatmap": noise(12, 144, -2, 2)}),
        ("window, unit Gaussian", window(10.0, 9), [1, 1, 20, 24], {"heatmap": blobs([[9.3, 11.6, 2.0, 1.0]])}),
        ("window, Gaussian at the left border", window(25.0, 9), [1, 1, 12, 16], {"heatmap": edge}),
        ("window, peak in the last corner", window(1.0, 5), odd, {"heatmap": spike(odd, (4, 6, 3.0))}),
        ("window, tie takes the first in row-major order", window(1.0, 3), odd,
         {"heatmap": spike(odd, (3, 1, 2.0), (1, 5, 2.0), (1, 4, 1.0))}),
        ("window, tie within one window", window(1.0, 5), odd,
         {"heatmap": spike(odd, (1, 2, 4.0), (3, 4, 4.0), (2, 3, 1.0))}),
        ("window, second peak outside is ignored", window(5.0, 5), [1, 1, 12, 16],
         {"heatmap": blobs([[3.2, 3.7, 1.0, 2.0], [12.1, 8.4, 1.5, 1.8]])}),
        ("window of one cell is argmax", window(1.0, 1), one, {"heatmap": noise(13, 36, -2, 2)}),
        ("window beyond the map is global", window(1.0, 31), one, {"heatmap": noise(1, 36, -2, 2)}),
        ("window, large beta", window(1000.0, 5), odd, {"heatmap": noise(14, 35, -1, 1)}),
        ("window, all values negative", window(1.0, 3), odd, {"heatmap": noise(15, 35, -9, -5)}),
        ("depth, palm", depth("palm", 0), [1, 2, 5, 5],
         {"heatmap": noise(16, 50, -2, 2), "depth": noise(17, 50, -1, 1)}),
        ("depth, mm, root last, N = 2", depth("mm", 2, 2.0), [2, 3, 4, 5],
         {"heatmap": noise(18, 120, -2, 2), "depth": noise(19, 120, -99, 99)}),
        ("depth, sharp heatmap reads one cell", depth("palm", 1, 1000.0), [1, 2, 5, 7],
         {"heatmap": noise(20, 70, -2, 2), "depth": noise(21, 70, -1, 1)}),
    ]  # fmt: skip
    for alignment in ("centre", "udp"):
        found += [
            (f"{alignment}, global noise", plain(1.0, alignment=alignment), one, {"heatmap": noise(1, 36, -2, 2)}),
            (f"{alignment}, global, N = 2, K = 2, wide map, stride 8", plain(1.5, 8.0, alignment=alignment),
             [2, 2, 4, 9], {"heatmap": noise(27, 144, -2, 2)}),
            (f"{alignment}, global, peak in the corner", plain(1.0, alignment=alignment), odd,
             {"heatmap": spike(odd, (0, 0, 9.0))}),
            (f"{alignment}, global, peak in the last corner", plain(1.0, alignment=alignment), odd,
             {"heatmap": spike(odd, (4, 6, 9.0))}),
            (f"{alignment}, global, a single row", plain(2.0, alignment=alignment), [1, 1, 1, 6],
             {"heatmap": noise(26, 6, -2, 2)}),
            (f"{alignment}, window, unit Gaussian", window(10.0, 9, alignment=alignment), [1, 1, 20, 24],
             {"heatmap": blobs([[9.3, 11.6, 2.0, 1.0]])}),
            (f"{alignment}, depth", depth("palm", 0, alignment=alignment), [1, 2, 5, 5],
             {"heatmap": noise(16, 50, -2, 2), "depth": noise(17, 50, -1, 1)}),
        ]  # fmt: skip
    found += peak_cases()
    for name, scale, columns, (low, high) in (
        ("coordinates, unit", "unit", 2, (0, 1)),
        ("coordinates, unit, scores beyond 0-1 are clipped", "unit", 3, (-0.5, 1.5)),
        ("coordinates, pixel", "pixel", 2, (-10, 200)),
        ("coordinates, pixel, with score", "pixel", 3, (0, 1)),
    ):
        decoder = {"type": "coordinates", "scale": scale}
        found.append((name, decoder, [2, 3, columns], {"coordinates": noise(22, 6 * columns, low, high)}))
    return [
        {"name": name, "decoder": decoder, "input": input_of(decoder, shape), "shape": shape, **source}
        for name, decoder, shape, source in found
    ]


def input_of(decoder: dict[str, Any], shape: list[int]) -> dict[str, int]:
    """The input's size: what the cells of a heatmap cover."""
    if "stride" not in decoder:
        return {"width": 192, "height": 256}
    return {"width": round(shape[3] * decoder["stride"]), "height": round(shape[2] * decoder["stride"])}


def document() -> dict[str, Any]:
    """The whole content of decode.json."""
    complete = [{**case, "expected": expected(case)} for case in cases()]
    return {"about": ABOUT, "tolerance": TOLERANCE, "cases": complete}


def text() -> str:
    """decode.json: one case per line."""
    content = document()
    lines = ",\n".join("  " + json.dumps(case) for case in content["cases"])
    about = ",\n".join("  " + json.dumps(line) for line in content["about"])
    tolerance = json.dumps(content["tolerance"])
    return f'{{\n"about": [\n{about}\n],\n"tolerance": {tolerance},\n"cases": [\n{lines}\n]\n}}\n'


if __name__ == "__main__":
    Path(__file__).with_name("decode.json").write_text(text(), encoding="utf-8")
