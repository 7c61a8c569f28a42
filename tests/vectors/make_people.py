"""Writes people.json: test vectors of the decoders of several people, by plain loops in double precision.

    python tests/vectors/make_people.py        # after a change of the cases; review the difference

It shares no code with splite_deploy, so that an error there cannot hide in the expected values.
"""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

ABOUT = [
    "Test vectors of the decoders of single-stage networks, for any implementation in any language.",
    "Pixels: x to the right, y down, origin at the top-left CORNER of the network's input.",
    "cases[].decoder: type and parameters as in model.toml. cases[].input: width and height of the input in pixels. "
    "cases[].keypoints: their number K. cases[].outputs: by role, shape and row-major values.",
    "Candidates of a level of stride s: cell (i, j) is column i and row j; numbered level by level, within one by "
    "anchor, row and column.",
    "yolo-pose, decoded and final: the columns as they are; xywh is a centre and a size; unit is multiplied by the "
    "input's width and height; with objectness the score is that times the highest class.",
    "yolo-pose, anchor-free: d = expected bin of a softmax over the bins of each side (the number itself where there "
    "is one bin); box from ((i + .5 - d0) s, (j + .5 - d1) s) to ((i + .5 + d2) s, (j + .5 + d3) s); score = highest "
    "sigmoid; keypoint = ((2 x + i) s, (2 y + j) s) with sigmoid(visibility).",
    "yolo-pose, anchor-based: with sigmoids x, y, w, h: centre ((2 x + i - .5) s, (2 y + j - .5) s), size (2 w)^2 and "
    "(2 h)^2 times those of the anchor; score = sigmoid(objectness) times the highest sigmoid of a class; keypoint = "
    "((2 x + i - .5) s, (2 y + j - .5) s) of the plain numbers, with sigmoid(visibility).",
    "anchors: a box's centre and its keypoints are at number / scale * (size of the anchor) + (its centre), its size "
    "is number / scale * (size of the anchor); score = sigmoid of the logit, clipped. Keypoints have that of the box.",
    "centernet: candidates are cells, row by row. With p = (i s, j s), or ((i + .5) s, (j + .5) s) for origin centre, "
    "and u = s for unit cell, or 1: distances d: box from (x - u d0, y - u d1) to (x + u d2, y + u d3); sizes: u (w, h)"
    " around p + u offset; keypoint = p + u (x, y); score = sigmoid of a logit, or the probability. Of these only cells"
    " are people whose score none of the eight neighbours exceeds.",
    "boxes: rows of boxes and of scores, the columns as they are; xywh is a centre and a size; unit is multiplied by "
    "the input's width and height; score = the highest class, or its sigmoid; 0 where labels are not the decoder's.",
    "Without a visibility keypoints have the score of their person. A keypoint's score is clipped to 0..1 in people.",
    "cases[].expected.candidates: N x A x (4 + 1 + 3 K): x0, y0, x1, y1, score, then x, y, score of each keypoint. "
    "cases[].expected.people: for each crop those of at least min_score, by falling score, greedily: what overlaps one "
    "that was taken by more than overlap (intersection over union) is left out, or, with nms weighted, joins it: the "
    "mean of all columns weighted by score, with the highest score. At most max_people. final is not suppressed.",
    "tolerance: largest absolute difference of an implementation in float32. No score lies close to min_score or to "
    "another one, and no overlap close to the limit.",
]
TOLERANCE = 0.002


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value))."""
    return 1 / (1 + math.exp(-value))


def at(output: dict[str, Any], *index: int) -> float:
    """One number of an output."""
    place = 0
    for size, number in zip(output["shape"], index, strict=True):
        assert 0 <= number < size
        place = place * size + number
    return float(output["values"][place])


def channels_of(case: dict[str, Any], crop: int) -> list[tuple[list[float], dict[str, float]]]:
    """The channels of every candidate of a network with strides, in the order of one tensor, and its cell."""
    decoder, outputs = case["decoder"], case["outputs"]
    found = []
    for level, stride in enumerate(decoder["strides"]):
        rows, columns = case["input"]["height"] // stride, case["input"]["width"] // stride
        anchors = decoder["anchors"][level] if "anchors" in decoder else [0, 0]
        for anchor in range(len(anchors) // 2):
            for j in range(rows):
                for i in range(columns):
                    if decoder["heads"] == "one":
                        people = outputs["people"]
                        numbers = [at(people, crop, c, len(found)) for c in range(people["shape"][1])]
                    elif decoder["heads"] == "levels":
                        its = outputs[f"level_{level}"]
                        each = its["shape"][1] // (len(anchors) // 2)
                        numbers = [at(its, crop, anchor * each + c, j, i) for c in range(each)]
                    else:
                        parts = [outputs[f"{part}_{level}"] for part in ("box", "score", "keypoints")]
                        numbers = [at(its, crop, c, j, i) for its in parts for c in range(its["shape"][1])]
                    cell = {"i": i, "j": j, "s": stride, "w": anchors[2 * anchor], "h": anchors[2 * anchor + 1]}
                    found.append((numbers, cell))
    return found


def raw_candidate(case: dict[str, Any], numbers: list[float], cell: dict[str, float]) -> list[float]:
    """A candidate of a network with strides."""
    decoder, i, j, s = case["decoder"], cell["i"], cell["j"], cell["s"]
    based, classes = decoder["form"] == "anchor-based", decoder.get("classes", 1)
    if based:
        x, y, w, h = (sigmoid(value) for value in numbers[:4])
        centre = [(2 * x + i - 0.5) * s, (2 * y + j - 0.5) * s]
        size = [(2 * w) ** 2 * cell["w"], (2 * h) ** 2 * cell["h"]]
        box = [centre[0] - size[0] / 2, centre[1] - size[1] / 2, centre[0] + size[0] / 2, centre[1] + size[1] / 2]
        score = sigmoid(numbers[4]) * max(sigmoid(value) for value in numbers[5 : 5 + classes])
        rest, shift = numbers[5 + classes :], -0.5
    else:
        bins, sides = decoder["bins"], []
        for side in range(4):
            weights = [math.exp(value) for value in numbers[side * bins : (side + 1) * bins]]
            mean = sum(b * weight for b, weight in enumerate(weights)) / sum(weights)
            sides.append(mean if bins > 1 else numbers[side])
        box = [(i + 0.5 - sides[0]) * s, (j + 0.5 - sides[1]) * s, (i + 0.5 + sides[2]) * s, (j + 0.5 + sides[3]) * s]
        score = max(sigmoid(value) for value in numbers[4 * bins : 4 * bins + classes])
        rest, shift = numbers[4 * bins + classes :], 0.0
    each = 3 if decoder["visibility"] else 2
    found = [*box, score]
    for k in range(case["keypoints"]):
        x, y = rest[k * each], rest[k * each + 1]
        seen = sigmoid(rest[k * each + 2]) if each == 3 else score
        found += [(2 * x + i + shift) * s, (2 * y + j + shift) * s, seen]
    return found


def plain_candidate(case: dict[str, Any], numbers: list[float]) -> list[float]:
    """A candidate of a network that gives pixels, or shares of the input."""
    decoder, size = case["decoder"], (case["input"]["width"], case["input"]["height"])
    scale = size if decoder["scale"] == "unit" else (1, 1)
    a, b, c, d = numbers[0] * scale[0], numbers[1] * scale[1], numbers[2] * scale[0], numbers[3] * scale[1]
    box = [a, b, c, d] if decoder["boxes"] == "xyxy" else [a - c / 2, b - d / 2, a + c / 2, b + d / 2]
    classes = decoder.get("classes", 1)
    if decoder["form"] == "final":
        score, rest = numbers[4], numbers[6:]
    elif decoder["objectness"]:
        score, rest = numbers[4] * max(numbers[5 : 5 + classes]), numbers[5 + classes :]
    else:
        score, rest = max(numbers[4 : 4 + classes]), numbers[4 + classes :]
    each = 3 if decoder["visibility"] else 2
    found = [*box, score]
    for k in range(case["keypoints"]):
        seen = rest[k * each + 2] if each == 3 else score
        found += [rest[k * each] * scale[0], rest[k * each + 1] * scale[1], seen]
    return found


def anchor_sizes(decoder: dict[str, Any]) -> list[tuple[float, list[tuple[float, float]]]]:
    """Stride, and width and height as shares of the input of the anchors of a cell, of joined layers."""
    strides, ratio = decoder["strides"], decoder["interpolated_scale_aspect_ratio"]
    layers: list[tuple[float, list[tuple[float, float]]]] = []
    low, high = decoder.get("min_scale", 1.0), decoder.get("max_scale", 1.0)
    scales = [low + (high - low) * k / (len(strides) - 1) for k in range(len(strides))] + [1.0]
    for k, stride in enumerate(strides):
        sizes = [(scales[k] * math.sqrt(r), scales[k] / math.sqrt(r)) for r in decoder["aspect_ratios"]]
        if ratio > 0:
            between = math.sqrt(scales[k] * scales[k + 1])
            sizes.append((between * math.sqrt(ratio), between / math.sqrt(ratio)))
        if decoder["fixed_anchor_size"]:
            sizes = [(1.0, 1.0)] * len(sizes)
        if layers and layers[-1][0] == stride:
            layers[-1][1].extend(sizes)
        else:
            layers.append((stride, sizes))
    return layers


def anchor_candidates(case: dict[str, Any], crop: int) -> list[list[float]]:
    """All candidates of an SSD-style network."""
    decoder, width, height = case["decoder"], case["input"]["width"], case["input"]["height"]
    boxes, found = case["outputs"]["boxes"], []
    for stride, sizes in anchor_sizes(decoder):
        rows, columns = math.ceil(height / stride), math.ceil(width / stride)
        for j in range(rows):
            for i in range(columns):
                for share_w, share_h in sizes:
                    numbers = [at(boxes, crop, len(found), c) for c in range(boxes["shape"][2])]
                    logit = at(case["outputs"]["logits"], crop, len(found), 0)
                    score = sigmoid(min(max(logit, -decoder["score_clipping"]), decoder["score_clipping"]))
                    w, h = share_w * width, share_h * height
                    x = (i + decoder["anchor_offset"]) / columns * width
                    y = (j + decoder["anchor_offset"]) / rows * height
                    pairs = [
                        (a / decoder["scale"] * w, b / decoder["scale"] * h)
                        for a, b in zip(numbers[::2], numbers[1::2], strict=True)
                    ]
                    (cx, cy), (bw, bh) = pairs[:2]
                    one = [cx + x - bw / 2, cy + y - bh / 2, cx + x + bw / 2, cy + y + bh / 2, score]
                    for a, b in pairs[2:]:
                        one += [a + x, b + y, score]
                    found.append(one)
    return found


def centre_candidates(case: dict[str, Any], crop: int) -> list[list[float]]:
    """All candidates of a network that gives a map of middles."""
    decoder, outputs, found = case["decoder"], case["outputs"], []
    s, half = decoder["stride"], 0.5 if decoder["origin"] == "centre" else 0.0
    u = s if decoder["unit"] == "cell" else 1.0
    rows, columns = outputs["heatmap"]["shape"][2:]
    for j in range(rows):
        for i in range(columns):
            x, y = (i + half) * s, (j + half) * s
            raw = at(outputs["heatmap"], crop, 0, j, i)
            score = sigmoid(raw) if decoder["heatmap"] == "logits" else raw
            sides = [u * at(outputs["boxes"], crop, c, j, i) for c in range(outputs["boxes"]["shape"][1])]
            if decoder["boxes"] == "distances":
                one = [x - sides[0], y - sides[1], x + sides[2], y + sides[3], score]
            else:
                dx, dy = (u * at(outputs["offsets"], crop, c, j, i) for c in (0, 1)) if decoder["offsets"] else (0, 0)
                w, h = sides
                one = [x + dx - w / 2, y + dy - h / 2, x + dx + w / 2, y + dy + h / 2, score]
            for k in range(case["keypoints"]):
                dx, dy = (u * at(outputs["keypoints"], crop, 2 * k + c, j, i) for c in (0, 1))
                one += [x + dx, y + dy, score]
            found.append(one)
    return found


def box_candidates(case: dict[str, Any], crop: int) -> list[list[float]]:
    """All candidates of a network that gives boxes and scores."""
    decoder, outputs, found = case["decoder"], case["outputs"], []
    size = (case["input"]["width"], case["input"]["height"]) if decoder["scale"] == "unit" else (1, 1)
    for row in range(outputs["boxes"]["shape"][1]):
        a, b, c, d = (at(outputs["boxes"], crop, row, column) * size[column % 2] for column in range(4))
        one = [a, b, c, d] if decoder["boxes"] == "xyxy" else [a - c / 2, b - d / 2, a + c / 2, b + d / 2]
        score = max(at(outputs["scores"], crop, row, column) for column in range(outputs["scores"]["shape"][2]))
        score = sigmoid(score) if decoder["scores"] == "logits" else score
        if "label" in decoder and at(outputs["labels"], crop, row, 0) != decoder["label"]:
            score = 0.0
        found.append([*one, score])
    return found


def tops_of(case: dict[str, Any], candidates: list[list[float]]) -> list[list[float]]:
    """Of a map of middles the cells that no neighbour exceeds; of others all candidates."""
    if case["decoder"]["type"] != "centernet":
        return candidates
    rows, columns = case["outputs"]["heatmap"]["shape"][2:]
    found = []
    for j in range(rows):
        for i in range(columns):
            near = [
                candidates[row * columns + column][4]
                for row in range(max(j - 1, 0), min(j + 2, rows))
                for column in range(max(i - 1, 0), min(i + 2, columns))
            ]
            if candidates[j * columns + i][4] == max(near):
                found.append(candidates[j * columns + i])
    return found


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    areas = [max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (a, b)]
    return shared / (sum(areas) - shared) if shared > 0 else 0.0


def people_of(case: dict[str, Any], candidates: list[list[float]]) -> list[list[float]]:
    """Who of the candidates is a person, in the columns of a candidate."""
    decoder = case["decoder"]
    assert all(abs(one[4] - decoder["min_score"]) > 1e-3 for one in candidates)
    left = sorted((one for one in candidates if one[4] >= decoder["min_score"]), key=lambda one: -one[4])
    assert all(a[4] - b[4] > 1e-5 for a, b in pairwise(left)), "two scores are the same"
    if decoder.get("form") == "final" or decoder.get("nms") == "none":
        return left[: decoder["max_people"]]
    people: list[list[float]] = []
    while left and len(people) < decoder["max_people"]:
        first, near, far = left[0], [left[0]], []
        for other in left[1:]:
            share = overlap(first, other)
            assert abs(share - decoder["overlap"]) > 1e-3, "an overlap lies close to the limit"
            (near if share > decoder["overlap"] else far).append(other)
        person = first
        if decoder.get("nms") == "weighted":
            total = math.fsum(one[4] for one in near)
            person = [math.fsum(one[c] * one[4] for one in near) / total for c in range(len(first))]
            person[4] = first[4]
        people.append(person)
        left = far
    return people


def expected(case: dict[str, Any]) -> dict[str, Any]:
    """Candidates and people of a case, rounded to four digits."""
    outputs = case["outputs"]
    crops = next(iter(outputs.values()))["shape"][0]
    candidates, people = [], []
    for crop in range(crops):
        if case["decoder"]["type"] == "anchors":
            its = anchor_candidates(case, crop)
        elif case["decoder"]["type"] == "centernet":
            its = centre_candidates(case, crop)
        elif case["decoder"]["type"] == "boxes":
            its = box_candidates(case, crop)
        elif "strides" in case["decoder"]:
            its = [raw_candidate(case, numbers, cell) for numbers, cell in channels_of(case, crop)]
        else:
            shape, last = outputs["people"]["shape"], case["decoder"]["form"] == "final"
            rows, columns = (shape[1], shape[2]) if last else (shape[2], shape[1])
            its = [
                plain_candidate(
                    case,
                    [at(outputs["people"], crop, *((row, c) if last else (c, row))) for c in range(columns)],
                )
                for row in range(rows)
            ]
        candidates.append(its)
        found = [list(one) for one in people_of(case, tops_of(case, its))]
        for one in found:
            one[7::3] = [min(max(value, 0.0), 1.0) for value in one[7::3]]
        people.append(found)
    return {"candidates": rounded(candidates), "people": rounded(people)}


def rounded(value: Any) -> Any:
    """Nested lists with four digits after the point; never -0.0."""
    return [rounded(item) for item in value] if isinstance(value, list) else round(value, 4) + 0.0


def noise(seed: int, shape: list[int], low: float, high: float) -> dict[str, Any]:
    """Literal values with three digits."""
    generator = random.Random(seed)
    values = [round(low + (high - low) * generator.random(), 3) for _ in range(math.prod(shape))]
    return {"shape": shape, "values": values}


def rows_of(seed: int, crops: int, rows: int, columns: list[tuple[float, float]]) -> list[list[list[float]]]:
    """Plain candidates: for each column a range of values, as shares of ``size``."""
    generator = random.Random(seed)
    return [
        [[round(low + (high - low) * generator.random(), 3) for low, high in columns] for _ in range(rows)]
        for _ in range(crops)
    ]


def columns_first(rows: list[list[list[float]]]) -> dict[str, Any]:
    """Rows as an output (N, C, A)."""
    shape = [len(rows), len(rows[0][0]), len(rows[0])]
    return {"shape": shape, "values": [row[c] for crop in rows for c in range(shape[1]) for row in crop]}


def rows_first(rows: list[list[list[float]]]) -> dict[str, Any]:
    """Rows as an output (N, A, C)."""
    shape = [len(rows), len(rows[0]), len(rows[0][0])]
    return {"shape": shape, "values": [value for crop in rows for row in crop for value in row]}


def cases() -> list[dict[str, Any]]:
    """All cases without their expected values."""
    few = {"min_score": 0.55, "overlap": 0.45, "max_people": 4}
    plain = {"type": "yolo-pose", "form": "decoded", "scale": "pixel", **few}
    free = {"type": "yolo-pose", "form": "anchor-free", "strides": [8, 16], **few}
    based = {"type": "yolo-pose", "form": "anchor-based", "strides": [8, 16], "visibility": True, **few}
    based = {**based, "anchors": [[6.0, 9.0, 12.0, 8.0], [20.0, 24.0]], "min_score": 0.35}
    faces = {"type": "anchors", "strides": [8, 16, 16], "aspect_ratios": [1.0], "anchor_offset": 0.5, **few}
    faces |= {"interpolated_scale_aspect_ratio": 1.0, "fixed_anchor_size": True, "scale": 32.0, "nms": "weighted"}
    faces |= {"score_clipping": 100.0, "overlap": 0.3}
    shares = {**faces, "fixed_anchor_size": False, "min_scale": 0.2, "max_scale": 0.7, "aspect_ratios": [1.0, 2.0]}
    alone = {"type": "boxes", **few}
    middle = {"type": "centernet", "stride": 8.0, **few}
    centre, side, point, score = (0.2, 0.8), (0.3, 0.6), (0.0, 1.0), (0.3, 0.95)
    xywh = rows_of(1, 2, 9, [centre, centre, side, side, score, *[point, point, score] * 2])
    pixels = [[[*[round(32 * v, 3) for v in row[:4]], row[4], *[v if c % 3 == 2 else round(32 * v, 3)
              for c, v in enumerate(row[5:])]] for row in crop] for crop in xywh]  # fmt: skip
    low, high = (0.05, 0.4), (0.55, 0.95)
    unit = rows_of(2, 1, 8, [low, low, high, high, (0.8, 1.0), (0.1, 1.0), (0.1, 1.0), *[point] * 6])
    final = [[[*row[:4], row[4], 0.0, *row[5:]] for row in crop] for crop in pixels]
    square, wide = {"width": 32, "height": 32}, {"width": 48, "height": 32}
    anchors = 4 * 6 * 2 + 2 * 3
    return [
        {"name": "decoded, xywh, N = 2", "decoder": {**plain, "boxes": "xywh", "objectness": False,
         "visibility": True}, "input": square, "keypoints": 2, "outputs": {"people": columns_first(pixels)}},
        {"name": "decoded, xyxy as shares, objectness, two classes, no visibility", "decoder": {**plain,
         "boxes": "xyxy", "scale": "unit", "objectness": True, "classes": 2, "visibility": False, "min_score": 0.3},
         "input": wide, "keypoints": 3, "outputs": {"people": columns_first(unit)}},
        {"name": "decoded, nobody", "decoder": {**plain, "boxes": "xywh", "objectness": False, "visibility": True,
         "min_score": 0.99}, "input": square, "keypoints": 2, "outputs": {"people": columns_first(pixels)}},
        {"name": "final, N = 2", "decoder": {**plain, "form": "final", "boxes": "xyxy", "visibility": True},
         "input": square, "keypoints": 2, "outputs": {"people": rows_first(final)}},
        {"name": "anchor-free, one output, 4 bins", "decoder": {**free, "heads": "one", "bins": 4, "visibility": True},
         "input": wide, "keypoints": 2, "outputs": {"people": noise(4, [1, 4 * 4 + 1 + 6, 24 + 6], -2, 2)}},
        {"name": "anchor-free, levels, distances, N = 2, no visibility", "decoder": {**free, "heads": "levels",
         "bins": 1, "visibility": False}, "input": wide, "keypoints": 2, "outputs": {
         "level_0": noise(5, [2, 9, 4, 6], 0.2, 1.2), "level_1": noise(6, [2, 9, 2, 3], 0.2, 1.2)}},
        {"name": "anchor-free, parts, 16 bins, two classes", "decoder": {**free, "heads": "parts", "bins": 16,
         "classes": 2, "visibility": True}, "input": square, "keypoints": 1, "outputs": {
         "box_0": noise(7, [1, 64, 4, 4], -3, 3), "score_0": noise(8, [1, 2, 4, 4], -2, 2),
         "keypoints_0": noise(9, [1, 3, 4, 4], -2, 2), "box_1": noise(10, [1, 64, 2, 2], -3, 3),
         "score_1": noise(11, [1, 2, 2, 2], -2, 2), "keypoints_1": noise(12, [1, 3, 2, 2], -2, 2)}},
        {"name": "anchor-based, levels", "decoder": {**based, "heads": "levels"}, "input": wide, "keypoints": 1,
         "outputs": {"level_0": noise(13, [1, 18, 4, 6], -2, 2), "level_1": noise(14, [1, 9, 2, 3], -2, 2)}},
        {"name": "anchor-based, one output, N = 2", "decoder": {**based, "heads": "one"}, "input": wide,
         "keypoints": 1, "outputs": {"people": noise(15, [2, 9, anchors], -2, 2)}},
        {"name": "anchors of fixed size, weighted", "decoder": faces, "input": square, "keypoints": 2,
         "outputs": {"boxes": noise(16, [1, 48, 8], 4, 14), "logits": noise(17, [1, 48, 1], -2, 2)}},
        {"name": "anchors of sizes, greedy, logits that are clipped, N = 2", "decoder": {**shares, "nms": "greedy",
         "score_clipping": 5.0}, "input": wide, "keypoints": 2,
         "outputs": {"boxes": noise(18, [2, 108, 8], -9, 30), "logits": noise(19, [2, 108, 1], -30, 3)}},
        {"name": "centernet, logits, distances, two keypoints, N = 2", "decoder": {**middle, "heatmap": "logits",
         "boxes": "distances", "offsets": False, "origin": "centre", "unit": "cell", "keypoints": True},
         "input": wide, "keypoints": 2, "outputs": {"heatmap": noise(20, [2, 1, 4, 6], -2, 2),
         "boxes": noise(21, [2, 4, 4, 6], 0.2, 2), "keypoints": noise(22, [2, 4, 4, 6], -2, 2)}},
        {"name": "centernet, probabilities, sizes with offsets, one keypoint", "decoder": {**middle,
         "heatmap": "probabilities", "boxes": "sizes", "offsets": True, "origin": "corner", "unit": "cell",
         "keypoints": True}, "input": square, "keypoints": 1, "outputs": {"heatmap": noise(23, [1, 1, 4, 4], 0, 1),
         "boxes": noise(24, [1, 2, 4, 4], 0.5, 3), "offsets": noise(25, [1, 2, 4, 4], 0, 1),
         "keypoints": noise(26, [1, 2, 4, 4], -1, 1)}},
        {"name": "centernet, boxes alone, in pixels", "decoder": {**middle, "heatmap": "logits", "boxes": "sizes",
         "offsets": False, "origin": "centre", "unit": "pixel", "keypoints": False, "max_people": 2}, "input": wide,
         "keypoints": 0, "outputs": {"heatmap": noise(27, [1, 1, 4, 6], -3, 3),
         "boxes": noise(28, [1, 2, 4, 6], 4, 30)}},
        {"name": "boxes, xywh, probabilities of two classes, N = 2", "decoder": {**alone, "boxes": "xywh",
         "scale": "pixel", "scores": "probabilities", "nms": "greedy"}, "input": square, "keypoints": 0,
         "outputs": {"boxes": noise(29, [2, 12, 4], 8, 24), "scores": noise(30, [2, 12, 2], 0, 1)}},
        {"name": "boxes, xyxy as shares, logits", "decoder": {**alone, "boxes": "xyxy", "scale": "unit",
         "scores": "logits", "nms": "greedy"}, "input": wide, "keypoints": 0, "outputs": {
         "boxes": rows_first(rows_of(31, 1, 9, [low, low, high, high])), "scores": noise(32, [1, 9, 1], -2, 2)}},
        {"name": "boxes, suppressed by the graph, with labels", "decoder": {**alone, "boxes": "xyxy", "scale": "pixel",
         "scores": "probabilities", "nms": "none", "label": 1}, "input": square, "keypoints": 0, "outputs": {
         "boxes": noise(33, [1, 8, 4], 0, 30), "scores": noise(34, [1, 8, 1], 0, 1),
         "labels": {"shape": [1, 8, 1], "values": [1, 0, 1, 1, 2, 1, 0, 1]}}},
        {"name": "anchor-free, levels, boxes alone", "decoder": {**free, "heads": "levels", "bins": 4,
         "visibility": False}, "input": wide, "keypoints": 0, "outputs": {
         "level_0": noise(35, [1, 17, 4, 6], -2, 2), "level_1": noise(36, [1, 17, 2, 3], -2, 2)}},
    ]  # fmt: skip


def text() -> str:
    """The whole content of people.json: some lines for each case."""
    made = []
    for case in cases():
        case["expected"] = expected(case)
        assert case["name"].endswith("nobody") != any(case["expected"]["people"]), case["name"]
        made.append(case)
    document = {"about": ABOUT, "tolerance": TOLERANCE, "cases": made}
    lines = json.dumps(document)
    for key, indent in (('"about"', 1), ('"cases"', 1), ('{"name"', 2), ('"outputs"', 3), ('"expected"', 3)):
        lines = lines.replace(key, "\n" + indent * " " + key)
    return lines + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("people.json").write_text(text(), encoding="utf-8")
