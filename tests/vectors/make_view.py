"""Writes view.json: test vectors of views, computed by plain loops from their definition alone.

    python tests/vectors/make_view.py        # after a change of the cases; review the difference

It shares no code with splite_deploy, so that an error there cannot hide in the expected values.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from pathlib import Path
from typing import Any

ABOUT = [
    "Test vectors of views, for any implementation in any language. All arrays are row-major, the batch first.",
    "outputs[]: `given` with the shape `given_shape` is what a network gives, `expected` with `expected_shape` what a "
    "decoder reads, or a head such as `presence` is; `view` is a table [outputs.ROLE] of model.toml, `decoder` the "
    "table [decoder]; `keypoints`, `height` and `width` are those of the model.",
    "inputs[]: `given` is a normalised image, NCHW; `expected` what the network takes; `view` is [inputs.image].",
]
HEATMAP = {"type": "softargmax", "stride": 4.0, "beta": 1.0, "alignment": "centre", "score_window": 1}
POINTS = {"type": "coordinates", "scale": "unit"}
OUTPUTS: list[dict[str, Any]] = [
    # name, role, sizes of the canonical axes as the network has them, view
    {"name": "as it is", "role": "heatmap", "axes": "NCHW", "sizes": [2, 3, 4, 2], "view": {}},
    {"name": "channels last", "role": "heatmap", "axes": "NCHW", "sizes": [2, 3, 4, 2], "view": {"layout": "NHWC"}},
    {
        "name": "first channels of more, sigmoid",
        "role": "heatmap",
        "axes": "NCHW",
        "sizes": [2, 7, 4, 2],
        "view": {"layout": "NHWC", "slice": {"C": [0, 3]}, "activation": "sigmoid"},
    },
    {
        "name": "flat maps without the last channel and a row",
        "role": "heatmap",
        "axes": "NCHW",
        "sizes": [1, 4, 5, 2],
        "view": {"layout": "NC(HW)", "slice": {"C": [0, -1], "H": [1, 5]}},
    },
    {
        "name": "transposed coordinates",
        "role": "coordinates",
        "axes": "NKC",
        "sizes": [2, 3, 2],
        "view": {"layout": "NCK"},
    },
    {"name": "flat pairs", "role": "coordinates", "axes": "NKC", "sizes": [2, 3, 2], "view": {"layout": "N(KC)"}},
    {
        "name": "flat rows of x, then of y",
        "role": "coordinates",
        "axes": "NKC",
        "sizes": [2, 3, 2],
        "view": {"layout": "N(CK)"},
    },
    {
        "name": "flat triples with a visibility",
        "role": "coordinates",
        "axes": "NKC",
        "sizes": [2, 3, 3],
        "view": {"layout": "N(KC)", "columns": ["x", "y", "visibility"]},
    },
    {
        "name": "y x score behind an axis of one",
        "role": "coordinates",
        "axes": "NKC",
        "sizes": [1, 3, 3],
        "view": {"layout": "N1KC", "columns": ["y", "x", "score"]},
    },
    {
        "name": "five columns, the first keypoints, a score as a logit",
        "role": "coordinates",
        "axes": "NKC",
        "sizes": [2, 5, 5],
        "view": {
            "layout": "N(KC)",
            "columns": ["x", "y", "z", "_", "score"],
            "slice": {"K": [0, 3]},
            "activation": "sigmoid",
        },
    },
    {
        "name": "keypoints from the middle",
        "role": "coordinates",
        "axes": "NKC",
        "sizes": [2, 6, 2],
        "view": {"layout": "NCK", "slice": {"K": [2, -1]}},
    },
]
HEADS: list[dict[str, Any]] = [
    {"name": "a head as it is", "role": "presence", "axes": "NC", "sizes": [3, 1], "view": {}},
    {
        "name": "a head as a flat logit",
        "role": "presence",
        "axes": "NC",
        "sizes": [3, 1],
        "view": {"layout": "N", "activation": "sigmoid"},
    },
    {
        "name": "a head behind axes of one",
        "role": "handedness",
        "axes": "NC",
        "sizes": [2, 1],
        "view": {"layout": "N11C", "activation": "sigmoid"},
    },
    {
        "name": "the second of a pair, left and right",
        "role": "handedness",
        "axes": "NC",
        "sizes": [2, 2],
        "view": {"slice": {"C": [1, 2]}},
    },
]
"""Outputs beside those of a decoder."""
INPUTS: list[dict[str, Any]] = [
    {"name": "channels last", "sizes": [2, 3, 4, 5], "view": {"layout": "NHWC"}},
    {"name": "bytes", "sizes": [1, 3, 4, 5], "view": {"layout": "NHWC", "dtype": "uint8"}},
    {"name": "signed bytes", "sizes": [2, 3, 4, 5], "view": {"dtype": "int8"}},
    {"name": "whole numbers", "sizes": [1, 3, 2, 2], "view": {"layout": "NHWC", "dtype": "int32"}},
    {"name": "halves", "sizes": [1, 3, 2, 2], "view": {"dtype": "float16"}},
    {"name": "grey", "sizes": [2, 1, 3, 2], "view": {"layout": "NHW", "dtype": "uint8"}},
]
RANGES = {"uint8": (0, 255), "int8": (-128, 127), "int32": (-(2**31), 2**31 - 1)}


def groups_of(layout: str) -> list[str]:
    """The axes of a layout, each as its letters; none for an axis of one."""
    return [part.strip("()1") for part in re.findall(r"1|[A-Z]|\([A-Z]+\)", layout)]


def laid_out(canonical: dict[tuple[int, ...], float], axes: str, sizes: list[int], layout: str) -> dict[str, Any]:
    """The numbers of a tensor, by index along ``axes``, in the order of another layout, and the shape there."""
    groups = groups_of(layout)
    size = dict(zip(axes, sizes, strict=True))
    letters = "".join(groups)
    values = []
    for index in itertools.product(*(range(size[letter]) for letter in letters)):
        place = dict(zip(letters, index, strict=True))
        values.append(canonical[tuple(place.get(axis, 0) for axis in axes)])
    return {"shape": [math.prod(size[letter] for letter in group) for group in groups], "values": values}


def numbers(sizes: list[int], low: float, high: float, random_: random.Random) -> dict[tuple[int, ...], float]:
    """Random numbers by index."""
    return {
        index: round(random_.uniform(low, high), 3) for index in itertools.product(*(range(size) for size in sizes))
    }


def output_case(case: dict[str, Any], random_: random.Random) -> dict[str, Any]:
    """A case with what the network gives and what is expected of it."""
    axes, sizes, view = case["axes"], case["sizes"], case["view"]
    held = numbers(sizes, -4, 4, random_)
    given = laid_out(held, axes, sizes, view.get("layout", axes))
    ranges = []
    for axis, size in zip(axes, sizes, strict=True):
        begin, end = view.get("slice", {}).get(axis, (0, size))
        ranges.append(range(begin, end + size if end < 0 else end))
    columns = view.get("columns")
    if columns:
        wanted = ["x", "y", "score"] if "score" in columns else ["x", "y"]
        ranges[-1] = [columns.index(name) for name in wanted]  # type: ignore[call-overload]
    expected = []
    for index in itertools.product(*ranges):
        value = held[index]
        active = view.get("activation") == "sigmoid" and (not columns or columns[index[-1]] == "score")
        expected.append(1 / (1 + math.exp(-value)) if active else value)
    shape = [len(one) for one in ranges]
    keypoints = shape[1]
    height, width = (4 * shape[2], 4 * shape[3]) if axes == "NCHW" else (64, 48)
    return {
        "name": case["name"],
        "role": case["role"],
        "view": view,
        "decoder": HEATMAP if axes == "NCHW" else POINTS,
        "keypoints": keypoints,
        "height": height,
        "width": width,
        "given_shape": given["shape"],
        "given": given["values"],
        "expected_shape": shape,
        "expected": [round(value, 7) for value in expected],
    }


def input_case(case: dict[str, Any], random_: random.Random) -> dict[str, Any]:
    """A case with a normalised image and what the network takes."""
    sizes, view = case["sizes"], case["view"]
    dtype = view.get("dtype", "float32")
    held = numbers(sizes, -300, 300, random_)
    half = (0, *(size - 1 for size in sizes[1:]))
    held[half] = 2.5  # rounds to the even number
    given = laid_out(held, "NCHW", sizes, "NCHW")
    if dtype in RANGES:
        low, high = RANGES[dtype]
        held = {index: min(max(float(round(value)), low), high) for index, value in held.items()}
    expected = laid_out(held, "NCHW", sizes, view.get("layout", "NCHW"))
    return {
        "name": case["name"],
        "view": view,
        "given_shape": given["shape"],
        "given": given["values"],
        "expected_shape": expected["shape"],
        "expected": expected["values"],
    }


def main() -> None:
    """Writes the file."""
    random_, apart = random.Random(7), random.Random(8)
    document = {
        "about": ABOUT,
        "outputs": [
            *(output_case(case, random_) for case in OUTPUTS),
            *(output_case(case, apart) for case in HEADS),
        ],
        "inputs": [input_case(case, random_) for case in INPUTS],
    }
    text = json.dumps(document, indent=1)
    text = re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    Path(__file__).with_name("view.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
