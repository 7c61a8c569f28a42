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
    "W = w * s pixels, is centred at (i + 0.5) * s (corner), at i * s + 0.5 (centre), or at "
    "i * (W - 1) / (w - 1) + 0.5 (udp; at 0.5 where w is 1).",
    "cases[].decoder: type and parameters as in model.toml. cases[].input: width and height of the input in pixels.",
    "cases[].shape: [N, K, H, W] of the maps, or [N, K, 2 or 3] of the coordinates.",
    "cases[].heatmap, cases[].depth: {values: N*K*H*W numbers, row-major} or {blobs: N*K lists of [column, row, sigma, "
    "height] in continuous cell units (the centre of the first cell is 0.5, 0.5), background, log}. A blob map is "
    "background + sum of height * exp(-d2 / (2 sigma^2)) with d2 the squared distance of the cell's centre; where log "
    "is true it is instead the single blob's height - d2 / (2 sigma^2). cases[].coordinates: {values} row-major.",
    "softargmax: p = softmax(beta * heatmap) over all cells; keypoint = sum of p * centre.",
    "softargmax-window: the same over the cells at most window // 2 columns and rows away from the largest cell (the "
    "first in row-major order where several are equal), clipped at the border; p is 0 elsewhere.",
    "softargmax-depth: keypoint as softargmax; depth = sum of p * depth map, minus that of root_keypoint.",
    "score: sum of p over the cells at most score_window // 2 columns and rows away from the cell whose centre is "
    "nearest to the keypoint. softargmax-window: the largest cell, clipped to 0..1. coordinates: the third column "
    "clipped to 0..1, or 1 where there is none.",
    "coordinates: unit is multiplied by the input's width and height, pixel is taken as it is.",
    "cases[].expected: keypoints N x K x 2 in input pixels, scores N x K, depth N x K or null. tolerance: largest "
    "absolute difference of an implementation in float32. No keypoint lies within a hundredth of a cell of the edge "
    "of its cell, where rounding would decide about the score.",
]
TOLERANCE = {"keypoints": 0.002, "scores": 0.0002, "depth": 0.0005}


def maps(source: dict[str, Any], shape: list[int]) -> list[list[Map]]:
    """The N x K maps that a case describes."""
    n, k, height, width = shape
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
