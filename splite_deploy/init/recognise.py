"""Tells from the shapes and values of a network's outputs what they are, and how a decoder has to read them.

Pure numpy: nothing here knows a framework or a file. A reading is a guess with its reasons in words. What shapes and
values cannot tell (where the cells of a heatmap lie, what a third column means) is left to whoever wrote the training.
P inputs were run, each alone; (H, W) is the size of the network's input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import ceil
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders import HEADS
from splite_deploy.init.kinds import Kind
from splite_deploy.spec.presets import SKELETONS
from splite_deploy.spec.view import Column, OutputView, Source

Values = Literal["peaks", "logits", "sigmoid", "distribution"]
"""What the cells of a heatmap hold: unit peaks over a background of about zero, any numbers, numbers that a sigmoid has
put between 0 and 1, or shares that sum to one."""

KEYPOINTS = tuple(sorted({len(preset.keypoint_names) for preset in SKELETONS.values()} | {39, 478, 468}))
"""Numbers of keypoints that published networks have; 39 are BlazePose's with its auxiliary points."""
_OPENPOSE = (18, 25)
"""Keypoints of the networks that give part affinity fields beside heatmaps (Cao et al. 2017, and its BODY_25)."""
_BINS = 64
"""Depth bins of published volumes (Sun et al. 2018, Moon et al. 2019)."""
_YOLO_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
_SSD_LAYERS = (((8, 16, 16, 16), 2), ((8, 16, 32, 32, 32), 2), ((4,), 1))
"""Strides of the layers of MediaPipe's palm and short-range face detection, of its pose detection, and of its
full-range face detection, with the anchors of a cell."""
_YOLO_BINS = 16


@dataclass(frozen=True)
class Given:
    """One output of a network.

    Attributes:
        source: What calls it: a name, an index, or a path into nested lists and dictionaries.
        values: (P, ...) what it gave for P inputs, batch of one each.
        batched: Whether it has an axis for the batch, without which nothing can be read.
    """

    source: Source
    values: FloatArray
    batched: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes behind the batch."""
        return self.values.shape[1:]

    @property
    def name(self) -> str:
        """As text."""
        if isinstance(self.source, tuple):
            return "".join(f"[{part!r}]" for part in self.source)
        return f"output {self.source}" if isinstance(self.source, int) else f"'{self.source}'"

    @property
    def silent(self) -> bool:
        """Whether it is the same for every one of several inputs: then nothing can be learnt from it."""
        return len(self.values) > 1 and bool((self.values == self.values[:1]).all())

    def __str__(self) -> str:
        low, high = (float(end) + 0.0 for end in (self.values.min(), self.values.max()))  # no minus before 0
        shape = f"({', '.join(map(str, ('N', *self.shape) if self.batched else self.shape))})"
        told = "" if self.batched else ", without an axis for the batch"
        same = "; it is the same for every picture, and nothing can be learnt from it" if self.silent else ""
        return f"{self.name}: {shape}{told}, values from {low:.3g} to {high:.3g}{same}"


@dataclass(frozen=True)
class Reading:
    """What the outputs of a network are.

    Attributes:
        kind: What it gives.
        keypoints: Their number K.
        outputs: How each role of the decoder is read; the source is always named.
        fields: What was found of the decoder's fields: stride, split ratio, scale, and so on.
        values: What a heatmap holds; None for other outputs.
        because: Why, sentence by sentence.
        unused: Outputs that nothing reads.
        choices: For roles whose output nobody can know the outputs that it may be; ``outputs`` has one of them.
    """

    kind: Kind
    keypoints: int
    outputs: Mapping[str, OutputView]
    fields: Mapping[str, Any] = field(default_factory=dict)
    values: Values | None = None
    because: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Hints:
    """What the user has said.

    Attributes:
        keypoints: Their number, of ``--skeleton``.
        kind: What the network gives, or its family.
    """

    keypoints: int | None = None
    kind: Kind | None = None


NO_HINTS = Hints()

Reader = Callable[[Sequence[Given], tuple[int, int], Hints], Reading | None]


def recognise(given: Sequence[Given], size: tuple[int, int], hints: Hints = NO_HINTS) -> Reading | None:
    """Reads the outputs of a network; None where they are like nothing known, or say nothing of what they were given.

    Args:
        given: All its outputs, in its order.
        size: (H, W) of its input.
        hints: What the user has said.
    """
    readers: dict[Kind, Reader] = {
        "simcc": _simcc,
        "anchors": _anchors,
        "yolo-pose": _yolo,
        "boxes": _boxes,
        "centernet": _centernet,
        "coordinates": _coordinates,
        "volume": _volume,
        "heatmap": _heatmap,
    }
    if hints.kind is not None:
        first = _heatmap if hints.kind in ("combined", "depth", "offset") else readers[hints.kind]
        readers = {hints.kind: first, **readers}
    readable = [one for one in given if one.batched]
    for read in readers.values():
        found = read(readable, size, hints)
        if found is not None:
            found = _with_heads(found, given)
            used = [view.source for view in found.outputs.values()]
            told = [view.source for role, view in found.outputs.items() if role not in ("scores", *HEADS)]
            if any(one.silent for one in given if one.source in told):
                return None
            unused = tuple(one.name for one in given if one.source not in used)
            return replace(found, unused=unused)
    return None


_FLAGS: Mapping[str, tuple[str, ...]] = {
    "presence": ("presence", "handflag", "hand_flag"),
    "handedness": ("handedness",),
}
"""Parts of names by which heads are known; the flags are those of MediaPipe's files of 2021 and before."""


def _with_heads(reading: Reading, given: Sequence[Given]) -> Reading:
    """A reading with the outputs of one number that are named as heads are, see `splite_deploy.decoders.heads`."""
    if reading.kind in ("yolo-pose", "anchors", "centernet", "boxes"):
        return reading
    outputs, because = dict(reading.outputs), list(reading.because)
    used = {view.source for view in outputs.values()}
    for head in HEADS:
        for one in given:
            named = any(part in str(one.source).lower() for part in _FLAGS.get(head, (head,)))
            if head not in outputs and one.batched and one.source not in used and named and one.values[0].size == 1:
                outputs[head] = head_view(one)
                used.add(one.source)
                because.append(f"{one.name}: {head}, by its name")
    return replace(reading, outputs=outputs, because=tuple(because))


def head_view(one: Given) -> OutputView:
    """How an output of one number is read as a head: with a sigmoid where it lies beyond 0 to 1."""
    chance = one.values.min() >= 0 and one.values.max() <= 1
    layout = "N" if not one.shape else f"NC{'1' * (len(one.shape) - 1)}"
    return OutputView(one.source, _unless(layout, "NC"), activation="none" if chance else "sigmoid")


# --- heatmaps ---


@dataclass(frozen=True)
class _Maps:
    """An output that may be maps.

    Attributes:
        given: The output.
        layout: ``NCHW`` or ``NHWC``.
        channels: Their number.
        stride: Input pixels per cell.
    """

    given: Given
    layout: str
    channels: int
    stride: float

    @property
    def planes(self) -> FloatArray:
        """(P, C, H, W)."""
        return self.given.values if self.layout == "NCHW" else np.moveaxis(self.given.values, -1, 1)


def _maps(given: Given, size: tuple[int, int], keypoints: int | None, *, least: int = 2) -> _Maps | None:
    """An output as maps of at least so many channels; None where it is no such thing."""
    if len(given.shape) != 3:
        return None
    found = []
    for layout, (channels, height, width) in (
        ("NCHW", given.shape),
        ("NHWC", (given.shape[2], given.shape[0], given.shape[1])),
    ):
        stride = size[0] / max(height, 1)
        even = abs(size[1] / max(width, 1) - stride) < 0.01 * stride
        if even and stride >= 1 and min(height, width) > 3 and channels >= least:
            found.append(_Maps(given, layout, channels, stride))
    exact = [one for one in found if one.channels == keypoints]
    return next(iter([*exact, *found]), None)


def _heatmap(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    maps = [one for one in (_maps(each, size, hints.keypoints) for each in given) if one is not None]
    if not maps and hints.kind is not None:  # a map of one channel may be anything, but for who knows it
        maps = [one for one in (_maps(each, size, None, least=1) for each in given) if one is not None]
    if not maps:
        return None
    likely = _likely(maps, hints)
    # the finest maps are the last stage's; of equal ones the last comes last
    finest = min(one.stride for one in likely)
    same = [one for one in maps if one.stride == finest]
    pair = None if hints.kind == "heatmap" else _pair(same, hints.keypoints)
    if hints.kind == "depth" and pair is None and len(same) == 2:
        pair = same[0], same[1], "depth"
    likely = [one for one in likely if one.stride == finest]
    chosen = pair[0] if pair else likely[-1]
    held = value_range(chosen.planes)
    because = [f"{chosen.given.name}: maps of {chosen.stride:g} input pixels per cell, {WHAT[held]}"]
    fields: dict[str, Any] = {"stride": chosen.stride}
    if chosen.stride % 1 and (size[0] - 1) % (chosen.planes.shape[2] - 1) == 0:
        fields["alignment"] = "udp"
        because.append("cells lie on the first and the last pixel: between them the stride is a whole number")
    third = chosen.channels // 3
    if chosen.channels == 3 * third and third in _wanted(hints) and chosen.channels not in KEYPOINTS and not pair:
        because.append(f"{chosen.channels} maps are three for each of {third} keypoints, as of UDP's combined target")
        combined = OutputView(chosen.given.source, _unless(chosen.layout, "NCHW"))
        return Reading("combined", third, {"combined": combined}, fields, held, tuple(because))
    others = [one for one in same if one.channels != chosen.channels]
    if others and not pair and hints.keypoints is None and _is_background(chosen.channels):
        because.append(f"{chosen.channels} maps: {chosen.channels - 1} keypoints and the background, as of OpenPose")
        hints = replace(hints, keypoints=chosen.channels - 1)
    keypoints, view = _cut(chosen.channels, "C", hints, because)
    choices: dict[str, tuple[str, ...]] = {}
    views = {"heatmap": replace(view, source=chosen.given.source, layout=_unless(chosen.layout, "NCHW"))}
    kind: Kind = "heatmap"
    if pair:
        kind, other = pair[2], pair[1]
        role = "depth" if kind == "depth" else "offset"
        views[role] = OutputView(other.given.source, _unless(other.layout, "NCHW"))
        because.append(f"{other.given.name}: the {_PAIRED[kind]}")
        if kind == "offset":
            because.append("if those are fields of limbs instead, say --kind heatmap")
    elif len({one.channels for one in likely}) > 1:
        choices["heatmap"] = tuple(f"{one.given.name} ({one.channels} maps)" for one in likely)
        because.append(f"heatmaps may be {' or '.join(choices['heatmap'])}: nothing tells which, but --skeleton may")
    else:
        stages = [one for one in likely if one.channels == chosen.channels]
        if len(stages) > 1:
            because.append(
                f"{len(stages)} outputs are maps of one size and number, as of stages that follow one another; the "
                "last counts"
            )
        because += [
            f"{one.given.name}: {one.channels} maps of the same size, another number than the heatmaps, are not read"
            for one in others
        ]
    return Reading(kind, keypoints, views, fields, held, tuple(because), choices=choices)


def _likely(maps: Sequence[_Maps], hints: Hints) -> list[_Maps]:
    """Those of several outputs that are most likely heatmaps: each property narrows the choice that others leave."""
    wanted = hints.keypoints
    left = list(maps)
    for fits in (
        lambda one: one.channels == wanted,
        lambda one: wanted is not None and one.channels == wanted + 1,  # and the background
        lambda one: "heat" in str(one.given.source).lower(),
        lambda one: one.channels in (*KEYPOINTS, *_OPENPOSE),
        lambda one: _is_background(one.channels),
        _is_like_heatmaps,
    ):
        left = [one for one in left if fits(one)] or left
    return left


def _is_background(channels: int) -> bool:
    """Whether so many maps are those of known keypoints and of the background."""
    return channels not in (*KEYPOINTS, *_OPENPOSE) and channels - 1 in (*KEYPOINTS, *_OPENPOSE)


def _is_like_heatmaps(maps: _Maps) -> bool:
    """Whether values lie above zero, or nearly so; those of vectors lie on both sides of it."""
    planes = maps.planes
    return bool(-float(planes.min()) < 0.5 * float(planes.max()))


WHAT: Mapping[Values, str] = {
    "peaks": "small numbers around 0 as of training to unit peaks",
    "logits": "numbers of any size as of training with a softmax",
    "sigmoid": "numbers between 0 and 1 as behind a sigmoid",
    "distribution": "shares that sum to one",
}
_PAIRED = {"depth": "depths, by its name or as you say", "offset": "offset vectors, two maps for each keypoint"}


def _pair(maps: Sequence[_Maps], wanted: int | None) -> tuple[_Maps, _Maps, Literal["depth", "offset"]] | None:
    """A heatmap and what belongs to it: offsets (twice as many maps), or depths (by their name)."""
    for one in maps:
        for other in maps:
            fields = "paf" in str(other.given.source).lower()
            if (
                other.channels == 2 * one.channels
                and one.channels in KEYPOINTS
                and not fields
                and wanted in (None, one.channels)
            ):
                return one, other, "offset"
            if other is not one and other.channels == one.channels and "depth" in str(other.given.source).lower():
                return one, other, "depth"
    return None


def value_range(planes: FloatArray) -> Values:
    """What maps (P, C, H, W) hold."""
    low, high = float(planes.min()), float(planes.max())
    sums = planes.sum(axis=(2, 3))
    if low >= 0 and np.abs(sums - 1).max() < 0.01:
        return "distribution"
    if low < -1 or high > 2:
        return "logits"
    return "sigmoid" if low > 0 and high < 1 else "peaks"


def _volume(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    for one in given:
        if len(one.shape) == 4:
            keypoints, bins, height, width = one.shape
            stride = size[0] / height
            if bins > 4 and min(height, width) > 3 and abs(size[1] / width - stride) < 0.01 * stride:
                return _read_volume(one, keypoints, bins, stride, "NKDHW")
        maps = _maps(one, size, hints.keypoints)
        if maps is not None and maps.channels >= 8 * _BINS and maps.channels % _BINS == 0:
            keypoints = maps.channels // _BINS
            if hints.keypoints in (None, keypoints) and maps.channels not in KEYPOINTS:
                return _read_volume(one, keypoints, _BINS, maps.stride, maps.layout)
    return None


def _read_volume(one: Given, keypoints: int, bins: int, stride: float, layout: str) -> Reading:
    view = OutputView(one.source, _unless(layout, "NCHW"))
    said = f"{one.name}: a volume of {bins} depth bins for each of {keypoints} keypoints"
    return Reading("volume", keypoints, {"volume": view}, {"stride": stride, "bins": bins}, None, (said,))


# --- one-dimensional pairs ---


def _simcc(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    rows = [one for one in given if len(one.shape) == 2]
    for x in rows:
        for y in rows:
            ratio = x.shape[1] / size[1]
            fits = x is not y and x.shape[0] == y.shape[0] and abs(y.shape[1] / size[0] - ratio) < 1e-6
            usual = ratio * 2 % 1 == 0 or (ratio <= _FEW_BINS and x.shape[0] in _wanted(hints))
            if not fits or ratio < 1 or not (usual or hints.kind == "simcc"):
                continue
            first, second = x, y
            choices: dict[str, tuple[str, ...]] = {}
            because = [f"{x.name} and {y.name}: bins along x and y, {ratio:g} for each input pixel"]
            if size[0] == size[1]:  # only names can tell then
                named = {_axis_of(x): x, _axis_of(y): y}
                if {"x", "y"} <= set(named):
                    first, second = named["x"], named["y"]
                    because = [f"{first.name} and {second.name}: bins along x and y by their names, {ratio:g} a pixel"]
                else:
                    choices = dict.fromkeys(("simcc_x", "simcc_y"), (x.name, y.name))
                    because.append("the input is square, and the names do not tell which of the two is along x")
            keypoints, view = _cut(first.shape[0], "K", hints, because)
            views = {role: replace(view, source=one.source) for role, one in (("simcc_x", first), ("simcc_y", second))}
            fields = {"split_ratio": ratio}
            return Reading("simcc", keypoints, views, fields, None, tuple(because), choices=choices)
    return None


_FEW_BINS = 4.0
"""Most bins for each pixel where they are neither whole nor half: beyond it a pair of one size is something else."""
_AXES = {"x": ("x", "w", "width", "horizontal"), "y": ("y", "h", "height", "vertical")}
"""Words in the names of outputs that tell along which axis they lie."""


def _axis_of(one: Given) -> str:
    """The axis that an output's name tells; empty where it tells none, or both."""
    words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", str(one.source))
    lower = [word.lower() for word in words]
    told = {axis for axis, known in _AXES.items() if set(lower) & set(known)}
    if not told and lower and lower[-1][-1] in _AXES:  # simccx
        told = {lower[-1][-1]}
    return told.pop() if len(told) == 1 else ""


# --- several people ---


def _cells(size: tuple[int, int], strides: Sequence[int]) -> int:
    return sum(ceil(size[0] / stride) * ceil(size[1] / stride) for stride in strides)


def _anchors(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    for boxes in given:
        for logits in given:
            if len(boxes.shape) != 2 or len(logits.shape) != 2 or logits.shape != (boxes.shape[0], 1):
                continue
            columns = boxes.shape[1] - 4
            if columns < 2 or columns % 2:
                continue
            said = f"{boxes.name} and {logits.name}: offsets and scores of {boxes.shape[0]} anchors"
            fields: dict[str, Any] = {}
            for strides, each in _SSD_LAYERS:
                if each * _cells(size, strides) == boxes.shape[0]:
                    fields = {"strides": strides, "interpolated_scale_aspect_ratio": float(each - 1)}
            views = {"boxes": OutputView(boxes.source), "logits": OutputView(logits.source)}
            return Reading("anchors", columns // 2, views, {**fields, "scale": float(size[0])}, None, (said,))
    return None


def _yolo(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    for one in given:
        if len(one.shape) != 2:
            continue
        for transposed, (channels, count) in ((False, one.shape), (True, one.shape[::-1])):
            for strides in _YOLO_STRIDES:
                for anchors in (1, 3):
                    if count == anchors * _cells(size, strides):
                        found = _yolo_of(one, channels, count, strides, anchors, hints, transposed=transposed)
                        if found is not None:
                            return found
        rows, columns = one.shape
        keypoints = (columns - 6) // 3
        if columns == 6 + 3 * keypoints and keypoints in _wanted(hints) and 20 <= rows <= 1000:
            said = f"{one.name}: at most {rows} people, each with box, score, class and {keypoints} keypoints"
            fields = {"form": "final", "visibility": True, "boxes": "xyxy", "scale": _scale(one.values[..., :4])}
            return Reading("yolo-pose", keypoints, {"people": OutputView(one.source)}, fields, None, (said,))
    return _yolo_levels(given, size, hints)


def _yolo_levels(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    """Maps of each level, as heads without their decoding give them: one output each, or box, score and keypoints."""
    maps = [one for one in (_maps(each, size, None, least=1) for each in given) if one is not None]
    for strides, keypoints, columns, bins in product(_YOLO_STRIDES, _wanted(hints), (3, 2), (_YOLO_BINS, 1)):
        levels = [[one for one in maps if one.stride == stride] for stride in strides]
        found = _yolo_maps(levels, {"box": 4 * bins, "score": 1, "keypoints": columns * keypoints})
        if found is None:
            continue
        heads = "levels" if len(found) == len(strides) else "parts"
        fields: dict[str, Any] = {"visibility": columns == 3, "form": "anchor-free"}
        fields |= {"strides": tuple(map(float, strides)), "heads": heads, "bins": bins}
        names = ", ".join(one.given.name for one in found.values())
        said = f"{names}: maps of {', '.join(map(str, strides))} pixels per cell, as heads give them"
        views = {role: OutputView(one.given.source, _unless(one.layout, "NCHW")) for role, one in found.items()}
        return Reading("yolo-pose", keypoints, views, fields, None, (said,))
    return None


def _yolo_maps(levels: Sequence[Sequence[_Maps]], parts: Mapping[str, int]) -> dict[str, _Maps] | None:
    """The maps of each level by role, where every level has one of all channels, or one for each part."""
    found: dict[str, _Maps] = {}
    for level, maps in enumerate(levels):
        whole = [one for one in maps if one.channels == sum(parts.values())]
        if whole:
            found[f"level_{level}"] = whole[0]
            continue
        for part, channels in parts.items():
            held = [one for one in maps if one.channels == channels]
            if not held:
                return None
            found[f"{part}_{level}"] = held[0]
    return found if len(found) in (len(levels), len(levels) * len(parts)) else None


def _yolo_of(
    one: Given,
    channels: int,
    count: int,
    strides: Sequence[int],
    anchors: int,
    hints: Hints,
    *,
    transposed: bool,
) -> Reading | None:
    """The candidates of one output, (channels, count) or transposed."""
    view = OutputView(one.source, "NAC" if transposed else None)
    values = np.moveaxis(one.values, 2, 1) if transposed else one.values
    for before, visibility in ((5, 3), (6, 3), (4 * _YOLO_BINS + 1, 3), (5, 2), (4 * _YOLO_BINS + 1, 2)):
        keypoints = (channels - before) // (3 if visibility == 3 else 2)
        if before + visibility * keypoints != channels or keypoints not in _wanted(hints):
            continue
        scores = values[:, 4:before] if before < 9 else values[:, before - 1 : before]
        said = f"{one.name}: {count} candidates of {channels} columns"
        fields: dict[str, Any] = {"visibility": visibility == 3}
        if before < 9 and scores.min() >= 0 and scores.max() <= 1:
            scale = _scale(values[:, :4])
            if scale == "pixel" and values[:, before:].min() >= 0 and values[:, before:].max() <= 1:
                continue  # these are scores of classes
            fields |= {"form": "decoded", "boxes": "xywh", "scale": scale, "objectness": before == 6}
            said += f", boxes in {'pixels' if scale == 'pixel' else 'shares of the input'}, scores between 0 and 1"
        elif anchors == 1 and before != 6:
            bins = _YOLO_BINS if before > 9 else 1
            fields |= {"form": "anchor-free", "strides": tuple(map(float, strides)), "heads": "one", "bins": bins}
            said += ", as the convolutions of the head give them"
        else:
            return None
        return Reading("yolo-pose", keypoints, {"people": view}, fields, None, (said,))
    return None


def _boxes(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    """Boxes and scores without keypoints: in one output as YOLO's, or in two."""
    if hints.keypoints:
        return None
    rows = [one for one in given if len(one.shape) == 2]
    for one in rows:
        found = _yolo_boxes(one, size) or _final_boxes(one, given)
        if found is not None:
            return found
    for boxes in rows:
        for scores in given:
            apart = boxes is not scores and boxes.shape[1] == 4 and 1 <= len(scores.shape) <= 2
            if apart and scores.shape[0] == boxes.shape[0] and scores.shape[-1] != 4 and boxes.shape[0] > 4:
                layout = None if len(scores.shape) == 2 else "NA"
                views = {"boxes": OutputView(boxes.source), "scores": OutputView(scores.source, layout)}
                said = f"{boxes.name} and {scores.name}: {boxes.shape[0]} boxes with scores, without keypoints"
                return Reading("boxes", 0, views, _box_fields(boxes.values, scores.values), None, (said,))
    return None


def _yolo_boxes(one: Given, size: tuple[int, int]) -> Reading | None:
    """YOLO's detection head: (4 + classes, A) or transposed, where A is that of its strides."""
    for transposed, (channels, count) in ((False, one.shape), (True, one.shape[::-1])):
        anchors = next((e for s in _YOLO_STRIDES for e in (1, 3) if count == e * _cells(size, s)), None)
        if channels < 5 or anchors is None:
            continue
        values = one.values if transposed else np.moveaxis(one.values, 1, 2)
        if anchors > 1 and channels > 5:
            fields = {"form": "decoded", "visibility": False, "boxes": "xywh", "scale": _scale(values[..., :4])}
            fields |= {"objectness": True, "classes": channels - 5}
            said = f"{one.name}: {count} boxes with objectness and scores of {channels - 5} classes, as of YOLOv5"
            view = OutputView(one.source, "NAC" if transposed else None)
            return Reading("yolo-pose", 0, {"people": view}, fields, None, (said,))
        layout = None if transposed else "NCA"
        cuts = {"boxes": (0, 4), "scores": (4, channels)}
        views = {role: OutputView(one.source, layout, {"C": cut}) for role, cut in cuts.items()}
        classes = "one class" if channels == 5 else f"{channels - 4} classes, of which slice can take one"
        said = f"{one.name}: {count} boxes with scores of {classes}, without keypoints"
        return Reading("boxes", 0, views, _box_fields(values[..., :4], values[..., 4:]), None, (said,))
    return None


def _final_boxes(one: Given, given: Sequence[Given]) -> Reading | None:
    """Boxes after suppression: (A, 6) with score and class, or (A, 5) and the classes in another output."""
    rows, columns = one.shape
    if columns not in (5, 6) or not 20 <= rows <= 1000:
        return None
    others = [other for other in given if other is not one and other.shape in ((rows,), (rows, 1))]
    if columns == 5 and not others:
        return None
    views = {role: OutputView(one.source, None, {"C": cut}) for role, cut in (("boxes", (0, 4)), ("scores", (4, 5)))}
    if columns == 6:
        views["labels"] = OutputView(one.source, None, {"C": (5, 6)})
    else:
        views["labels"] = OutputView(others[0].source, "NA" if len(others[0].shape) == 1 else None)
    fields = {**_box_fields(one.values[..., :4], one.values[..., 4:5]), "boxes": "xyxy", "nms": "none", "label": 0}
    said = f"{one.name}: at most {rows} boxes, each with score and class, after suppression"
    return Reading("boxes", 0, views, fields, None, (said,))


def _box_fields(boxes: FloatArray, scores: FloatArray) -> dict[str, Any]:
    """Fields of the decoder by the values: corners of boxes lie in order."""
    ordered = bool((boxes[..., 2:] >= boxes[..., :2]).all())
    kind = "probabilities" if scores.min() >= 0 and scores.max() <= 1 else "logits"
    return {"boxes": "xyxy" if ordered else "xywh", "scale": _scale(boxes), "scores": kind, "nms": "greedy"}


_SIZES, _OFFSETS = ("wh", "size"), ("reg", "off")
"""Parts of names: of the sizes of boxes, and of how far middles lie from their cells."""


def _centernet(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    """One map of middles, two or four of boxes, and perhaps two of offsets and some of keypoints, all of one stride."""
    maps = [one for one in (_maps(each, size, None, least=1) for each in given) if one is not None]
    heat = [one for one in maps if one.channels == 1]
    if len(maps) != len(given) or len(heat) != 1 or not 2 <= len(maps) <= 4 or len({one.stride for one in maps}) > 1:
        return None
    rest = [one for one in maps if one.channels != 1]
    named = {str(one.given.source): one for one in rest if one.given.source in ("boxes", "offsets", "keypoints")}
    pairs = [one for one in rest if one.channels == 2]
    found: dict[str, _Maps] = {}
    for role, parts in (("boxes", _SIZES), ("offsets", _OFFSETS)):
        found.update((role, one) for one in pairs if _called(one, parts))
    found.update(named)
    if "boxes" not in found:
        boxes = next((one for one in rest if one.channels in (2, 4) and one not in found.values()), None)
        if boxes is None:
            return None
        found["boxes"] = boxes
    for one in rest:
        if one not in found.values():
            moved = one.channels == 2 and found["boxes"].channels == 2 and "offsets" not in found
            found.setdefault("offsets" if moved else "keypoints", one)
    points = found["keypoints"].channels if "keypoints" in found else 0
    if len(found) != len(rest) or points % 2 or hints.keypoints not in (None, points // 2):
        return None
    roles = ["heatmap", "boxes", *(role for role in ("offsets", "keypoints") if role in found)]
    chosen = {role: heat[0] if role == "heatmap" else found[role] for role in roles}
    views = {role: OutputView(one.given.source, _unless(one.layout, "NCHW")) for role, one in chosen.items()}
    values = heat[0].planes
    fields = {
        "stride": heat[0].stride,
        "heatmap": "probabilities" if values.min() >= 0 and values.max() <= 1 else "logits",
        "boxes": "distances" if found["boxes"].channels == 4 else "sizes",
        "offsets": "offsets" in found,
        "keypoints": points > 0,
    }
    names = ", ".join(f"{one.given.name} ({role})" for role, one in found.items())
    said = f"{heat[0].given.name}: a map of middles, {heat[0].stride:g} input pixels per cell, with {names}"
    return Reading("centernet", points // 2, views, fields, None, (said,))


def _called(maps: _Maps, parts: Sequence[str]) -> bool:
    return any(part in str(maps.given.source).lower() for part in parts)


def _wanted(hints: Hints) -> tuple[int, ...]:
    return KEYPOINTS if hints.keypoints is None else (hints.keypoints,)


# --- coordinates ---


def _coordinates(given: Sequence[Given], size: tuple[int, int], hints: Hints) -> Reading | None:
    found = [reading for reading in (_points(one, size, hints) for one in given) if reading is not None]
    return _with_scores(found[0], given) if found else None


def _with_scores(reading: Reading, given: Sequence[Given]) -> Reading:
    """Coordinates without a score, with that of another output that has a number between 0 and 1 for each keypoint."""
    view = reading.outputs["coordinates"]
    for one in given:
        shape = tuple(axis for axis in one.shape if axis != 1)
        probable = bool(one.values.size) and one.values.min() >= 0 and one.values.max() <= 1
        if "score" in view.columns or shape != (reading.keypoints,) or one.source == view.source or not probable:
            continue
        layout = "N" + "".join("1" if axis == 1 else "K" for axis in one.shape)
        outputs = {**reading.outputs, "scores": OutputView(one.source, _unless(layout, "NK"))}
        said = f"{one.name}: a score between 0 and 1 for each keypoint"
        return replace(
            reading,
            outputs=outputs,
            fields={**reading.fields, "scores": True},
            because=(*reading.because, said),
        )
    return reading


def _points(one: Given, size: tuple[int, int], hints: Hints) -> Reading | None:
    """One output as coordinates: (K, C), (1, K, C), (C, K), or flat."""
    shape, wanted = one.shape, _wanted(hints)
    if hints.kind == "coordinates" and hints.keypoints is None:
        wanted = (*wanted, 1)
    squeezed = tuple(axis for axis in shape if axis != 1)
    said: list[str] = []
    if len(squeezed) == 2 and len(shape) <= 3:
        if 2 <= squeezed[1] <= 5 and squeezed[0] > 2 and squeezed[1] <= squeezed[0]:
            axes, (keypoints, columns) = "KC", squeezed
        elif 2 <= squeezed[0] <= 5 and squeezed[1] in wanted:
            axes, (columns, keypoints) = "CK", squeezed
        else:
            return None
        letters = iter(axes)
        layout = "N" + "".join("1" if axis == 1 else next(letters) for axis in shape)
    elif len(squeezed) == 1:
        fits = [(squeezed[0] // c, c) for c in (3, 2, 5, 4) if squeezed[0] % c == 0 and squeezed[0] // c in wanted]
        if not fits:
            return None
        keypoints, columns = next(
            (pair for pair in fits if pair[0] != 14), fits[0]
        )  # 42 are two of 21, not three of 14
        layout = "N(KC)" + "1" * (len(shape) - 1)
        if len(shape) > 1:
            layout = "N" + "".join("1" if axis == 1 else "(KC)" for axis in shape)
        if len(fits) > 1:
            others = " or ".join(f"{k} keypoints of {c}" for k, c in fits if k != keypoints)
            said.append(f"{squeezed[0]} numbers are taken for {keypoints} keypoints of {columns}; they may be {others}")
    else:
        return None
    table = _table(one.values, layout, keypoints, columns)
    scale = _scale(table[..., :2])
    names, what = _columns(table)
    if layout == "N1KC" and names == ("x", "y", "score") and scale == "unit":
        names, what = ("y", "x", "score"), f"{what}; y comes first, as of MoveNet, which alone has this shape"
    said.insert(0, f"{one.name}: {keypoints} keypoints of {columns} numbers, {_SCALES[scale]}{what}")
    count, view = _cut(keypoints, "K", hints, said)
    activation: Literal["none", "sigmoid"] = "none"
    if "score" in names:
        scores = table[..., names.index("score")]
        activation = "none" if scores.min() >= 0 and scores.max() <= 1 else "sigmoid"
    view = replace(view, source=one.source, layout=_unless(layout, "NKC"), columns=names, activation=activation)
    return Reading("coordinates", count, {"coordinates": view}, {"scale": scale}, None, tuple(said))


Scale = Literal["unit", "pixel", "symmetric", "signed"]
_SCALES: Mapping[Scale, str] = {
    "unit": "x and y as shares of the input",
    "pixel": "x and y in input pixels",
    "symmetric": "x and y from -1 to 1 over the input",
    "signed": "x and y around 0, as of -0.5 to 0.5, which no decoder reads",
}


def _table(values: FloatArray, layout: str, keypoints: int, columns: int) -> FloatArray:
    """(P, K, C)."""
    if "CK" in layout.replace("1", ""):
        return np.moveaxis(values.reshape(-1, columns, keypoints), 1, 2)
    return values.reshape(-1, keypoints, columns)


def _columns(table: FloatArray) -> tuple[tuple[Column, ...], str]:
    """What the columns are, and in words what those behind x and y are."""
    names: list[Column] = ["x", "y"]
    columns = table.shape[2]
    if columns == 2:
        return ("x", "y"), ""
    third = table[..., 2]
    if columns == 3:
        if third.min() >= 0 and third.max() <= 1:
            return (*names, "score"), ", and a score (the third lies between 0 and 1)"
        return (*names, "_"), ", and a third outside of 0 to 1, which is no score (a depth?)"
    if columns == 4:
        return (*names, "_", "score"), ", z and a score"
    return (*names, "_", "score", "_"), ", z, visibility and presence, as of BlazePose"


def _scale(values: NDArray[np.floating[Any]]) -> Scale:
    """Shares of the input lie about 0 to 1; pixels reach far beyond."""
    if float(np.abs(values).max()) > 2.0:
        return "pixel"
    if float(values.mean()) > 0.1 or float(values.min()) > -0.2:
        return "unit"
    return "symmetric" if float(np.abs(values).max()) > 0.55 else "signed"


def _cut(count: int, axis: str, hints: Hints, because: list[str]) -> tuple[int, OutputView]:
    """How many keypoints are read of so many, and the slice that takes them."""
    wanted = hints.keypoints
    if wanted is None and count == 39:
        wanted = 33
    if wanted is None or wanted == count:
        return count, OutputView()
    if wanted > count:
        because.append(f"the skeleton has {wanted} keypoints, and the network gives {count}")
        return count, OutputView()
    because.append(f"of {count} the first {wanted} are the keypoints")
    return wanted, OutputView(slice={axis: (0, wanted)})


def _unless(layout: str, canonical: str) -> str | None:
    return None if layout == canonical else layout
