"""What was learnt of a network, what its family is known for and what the user says, as a ``model.toml`` with comments.

A field that nobody knows is written as ``"?"``: it is for the user to edit, and reading the file names all of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from splite_deploy.decoders import HEADS
from splite_deploy.decoders.heatmap import ALIGNMENTS
from splite_deploy.errors import UsageError
from splite_deploy.init.kinds import Kind
from splite_deploy.init.look import Looked, Normalised
from splite_deploy.init.recognise import WHAT, Reading, head_view
from splite_deploy.runtime.file_facts import TensorFacts
from splite_deploy.spec.presets import SKELETONS, presets_of
from splite_deploy.spec.recipes import Recipe
from splite_deploy.spec.toml import UNKNOWN
from splite_deploy.spec.view import InputView, OutputView
from splite_deploy.text import shown, whole

_WIDTH = 118
_SAID: Mapping[str, str] = {
    "height": "input pixels; of the training",
    "width": "input pixels; of the training",
    "color": '"rgb" or "bgr": channels of training; OpenCV reads bgr',
    "mean": "for each channel, 0-255: ImageNet's are [123.675, 116.28, 103.53]; zeros for pixels of 0-1 or 0-255",
    "std": "likewise: ImageNet's are [58.395, 57.12, 57.375]; 255.0 each for 0-1; 1.0 each for raw 0-255",
    "box_padding": "factor on the box before it is cropped, of training: often 1.25; 1.0 for whole pictures",
    "pad_value": "grey value 0-255 of what lies outside the picture: often 0, of YOLO 114",
    "rotate_by": "two keypoints; the crop is turned so that the line from the first to the second points up",
    "letterbox": '"centre" (the YOLO family) or "corner" (YOLOX, RTMO): where a whole picture lies in the input',
    "stride": "input pixels per heatmap cell: the input's size by the heatmap's, often 4.0",
    "alignment": "where the centre of cell i lies: "
    + "; ".join(f'"{name}": {where}' for name, where in ALIGNMENTS.items()),
    "type": "the decoder: see models/README.md",
    "origin": '"corner": sizes and vectors are measured from the upper left corner of a cell, as published; "centre"',
    "scale": '"unit": 0-1 over the input, "pixel", "symmetric": -1 to 1; of -0.5 to 0.5 none: let the network give 0-1',
}


@dataclass(frozen=True)
class Entry:
    """One line.

    Attributes:
        key: Its key.
        value: Plain data; `UNKNOWN` where it is for the user to edit.
        said: A comment: where the value comes from, or what to choose from.
    """

    key: str
    value: Any
    said: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the file.

    Attributes:
        name: In brackets; empty for the top.
        entries: Its lines.
        said: Comments above it.
    """

    name: str
    entries: tuple[Entry, ...]
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A ``model.toml`` to be written.

    Attributes:
        tables: Its tables, in order.
        heading: Comments at the top.
    """

    tables: tuple[Table, ...]
    heading: tuple[str, ...]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Dotted names of the fields that are for the user to edit."""
        return tuple(
            f"{table.name}.{entry.key}".removeprefix(".")
            for table in self.tables
            for entry in table.entries
            if entry.value == UNKNOWN
        )

    def text(self) -> str:
        """The file."""
        blocks = [_comments(self.heading)]
        for table in self.tables:
            lines = [*_comments(table.said), *([f"[{table.name}]"] if table.name else [])]
            for entry in table.entries:
                lines += _line(entry)
            blocks.append(lines)
        return "\n\n".join("\n".join(lines) for lines in blocks if lines) + "\n"


@dataclass(frozen=True)
class TensorsAlone:
    """What the shapes of weights tell without an architecture.

    Attributes:
        channels: Of the image; None where no first convolution is found.
        keypoints: Outputs of the last convolution; None where there is none.
        bins: Outputs of the last two linear layers (along x, along y), as SimCC's heads have; None without them.
        last: Name of the last convolution.
    """

    channels: int | None
    keypoints: int | None
    bins: tuple[int, int] | None
    last: str


@dataclass(frozen=True)
class Wishes:
    """What the user says of the fields of ``model.toml``.

    Attributes:
        name: Of the model.
        like: Name of the recipe; empty without one.
        recipe: The recipe; None without one.
        skeleton: Name of a preset; None leaves it to the number of keypoints.
        arch: ``file.py:symbol`` as the file shall write it; empty where the source brings its own.
        arch_args: Its keyword arguments.
        given: Values of fields of ``[input]`` and ``[decoder]``, by their key.
    """

    name: str
    like: str = ""
    recipe: Recipe | None = None
    skeleton: str | None = None
    arch: str = ""
    arch_args: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, Any] = field(default_factory=dict)


def draft(looked: Looked, wishes: Wishes, *, made_of: str) -> Draft:
    """The ``model.toml`` of a network that was run.

    Args:
        looked: What was learnt.
        wishes: What the user says.
        made_of: Name of the source, for the heading.

    Raises:
        UsageError: The skeleton has more keypoints than the network gives.
    """
    reading = looked.reading
    heading = [
        f"Written for {made_of}, {looked.form}, by splite-deploy init. models/README.md has every field.",
        *(f"It gives {line}." for line in looked.given),
        *(f"Read as follows: {line}." for line in (reading.because if reading else ())),
    ]
    if wishes.recipe is not None:
        heading.append(f"Values like {wishes.like}: {wishes.recipe.about}.")
    if foreign := unlike(looked, wishes):
        heading.append(foreign)
    keypoints = None if reading is None or "heatmap" in reading.choices else reading.keypoints
    tables = (
        _top(wishes),
        _input(looked, wishes),
        *_views(looked, wishes),
        _decoder(looked, wishes),
        _NO_KEYPOINTS if _finds_boxes_alone(reading) else _skeleton(keypoints, wishes),
    )
    made = Draft(tuple(table for table in tables if table.entries), tuple(heading))
    if made.unknown:
        heading.append(f'Still to be filled in, written as "{UNKNOWN}": {", ".join(made.unknown)}.')
    return replace(made, heading=tuple(heading))


def unused(made: Draft, looked: Looked, wishes: Wishes) -> str:
    """What the user gave that has no place in the file; empty where all has."""
    written = {entry.key for table in made.tables for entry in table.entries}
    left = [f"--{key}" for key in wishes.given if key not in written]
    if not left or looked.reading is None:
        return ""
    return f"{', '.join(left)} is for heatmaps, and this network gives {_GIVES[looked.reading.kind]}: it was not used."


def unlike(looked: Looked, wishes: Wishes) -> str:
    """What to know where a network gives something else than its family does; empty where it does not."""
    recipe, reading = wishes.recipe, looked.reading
    if recipe is None or reading is None:
        return ""
    if reading.kind == recipe.reads:
        strange = reading.values in ("logits", "distribution") and recipe.logits is None
        if reading.kind != "heatmap" or not strange:
            return ""
        what = WHAT[reading.values or "logits"]
        return (
            f"Heatmaps of networks like {wishes.like} hold unit peaks, and these hold {what}: "
            f"check decoder.type; without --like it is '{_of_values(reading)['type']}'."
        )
    return (
        f"Networks like {wishes.like} give {_GIVES[recipe.reads]}, and this one gives {_GIVES[reading.kind]}: only "
        "[input] is of the family."
    )


_GIVES: Mapping[str, str] = {
    "heatmap": "heatmaps",
    "combined": "three maps for each keypoint",
    "depth": "heatmaps and maps of depths",
    "offset": "heatmaps and offsets",
    "simcc": "a pair of bins along x and y",
    "volume": "volumes",
    "coordinates": "coordinates",
    "yolo-pose": "candidates with box, score and keypoints",
    "anchors": "offsets from anchors",
    "centernet": "maps of middles and boxes",
    "boxes": "boxes and scores",
}


def _top(wishes: Wishes) -> Table:
    entries = [Entry("name", wishes.name)]
    if wishes.arch:
        said = '"file.py:symbol" of a callable that returns the network; or run init again with --arch'
        entries.append(Entry("arch", wishes.arch, said if wishes.arch == UNKNOWN else ""))
    if wishes.arch_args:
        values = ", ".join(f"{key} = {_value(value)}" for key, value in wishes.arch_args.items())
        entries.append(Entry("arch_args", _Verbatim(f"{{ {values} }}")))
    return Table("", tuple(entries))


@dataclass(frozen=True)
class _Verbatim:
    """A value that is TOML already."""

    text: str


def _input(looked: Looked, wishes: Wishes) -> Table:
    recipe, told = wishes.recipe, looked.normalised
    family = f"of {wishes.like}" if recipe is not None else "as of MediaPipe"
    known: dict[str, tuple[Any, str]] = {}
    if looked.size_from:
        said = {"the file": "", "--input": "", "the family": f"usual for {wishes.like}; the file leaves it open"}
        known["height"], known["width"] = (
            (looked.size[0], said.get(looked.size_from, looked.size_from)),
            (looked.size[1], ""),
        )
    if looked.channels == 1:
        known["color"] = "gray", "one channel"
    if recipe is not None:
        grey = looked.channels == 1
        for key in ("color", "mean", "std", "box_padding", "pad_value"):
            value = getattr(recipe, key)
            value = list(value)[: looked.channels] if isinstance(value, tuple) else value
            known[key] = ("gray" if grey and key == "color" else value), recipe.said.get(key, family)
        if recipe.rotate_by is not None:
            known["rotate_by"] = list(recipe.rotate_by), family
    if told.because:
        known["mean"], known["std"] = (list(told.mean), told.because), (list(told.std), "")
    keys: tuple[str, ...] = _INPUT
    if looked.reading is not None and looked.reading.kind in _WHOLE:
        if recipe is None or recipe.reads not in _WHOLE:
            known["box_padding"] = 1.0, "it is given whole pictures"
        keys = (*_INPUT, "letterbox")
        place = "centre" if looked.reading.kind == "anchors" else UNKNOWN
        if recipe is not None and recipe.letterbox is not None:
            place = recipe.letterbox
        known["letterbox"] = place, _SAID["letterbox"] if place == UNKNOWN else family
    keys = (*keys, *(("rotate_by",) if "rotate_by" in known else ()))
    known |= {key: (value, "") for key, value in wishes.given.items() if key in _INPUT}
    entries = [Entry(key, *known.get(key, (UNKNOWN, _SAID[key]))) for key in keys]
    return Table("input", tuple(entries))


_WHOLE: tuple[Kind, ...] = ("yolo-pose", "anchors", "centernet", "boxes")
"""Kinds of networks that are given whole pictures."""
_INPUT = ("height", "width", "color", "mean", "std", "box_padding", "pad_value")


def _views(looked: Looked, wishes: Wishes) -> Iterator[Table]:
    """``[inputs.image]`` and ``[outputs.ROLE]``, where they say something."""
    entries = [
        Entry(key, getattr(looked.view, key))
        for key in ("layout", "dtype")
        if getattr(looked.view, key) != getattr(InputView(), key)
    ]
    yield Table("inputs.image", tuple(entries))
    if looked.reading is None:
        return
    outputs = _chosen(looked, looked.reading, wishes)
    named = _in_order(looked.sources, outputs)
    for role, view in outputs.items():
        if looked.reading.kind == "heatmap":
            view = replace(view, source=_from_the_end(view.source, looked.sources))
        choices = looked.reading.choices.get(role, ())
        entries = list(_output(view, named=not named or bool(choices) or not set(outputs).isdisjoint(HEADS)))
        if choices:
            entries[0] = Entry("source", UNKNOWN, f"{' or '.join(choices)}, as the network's code or paper says")
        yield Table(f"outputs.{role}", tuple(entries))


def _chosen(looked: Looked, reading: Reading, wishes: Wishes) -> Mapping[str, OutputView]:
    """The views of the reading, with what the recipe knows better."""
    made = dict(reading.outputs)
    if reading.kind == "offset" and reading.values == "logits":
        made["heatmap"] = replace(made["heatmap"], activation="sigmoid")  # the score is what the largest cell holds
    recipe = wishes.recipe
    if recipe is None or recipe.reads != reading.kind:
        return made
    numbers = [one.source for one in looked.outputs if one.shape and set(one.shape) == {1}]
    if recipe.presence and numbers and "scores" not in made:
        shape = next(one.shape for one in looked.outputs if one.source == numbers[0])
        made["scores"] = OutputView(numbers[0], None if len(shape) == 1 else f"NK{'1' * (len(shape) - 1)}")
    for head, source in zip(recipe.heads, numbers, strict=False):
        made.setdefault(head, head_view(next(one for one in looked.outputs if one.source == source)))
    for role, view in made.items():
        if role in HEADS:
            continue
        if recipe.columns and len(recipe.columns) == len(view.columns):
            made[role] = replace(view, columns=recipe.columns)
        if recipe.logits is not None and reading.values == "logits":
            made[role] = replace(view, activation="sigmoid")
    return made


def _from_the_end(source: Any, sources: Sequence[Any]) -> Any:
    """The last of a list as -1: of stages that follow one another the last is meant, however many there are."""
    paths = [one if isinstance(one, tuple) else (one,) for one in (source, *sources)]
    path = paths[0]
    others = [one[-1] for one in paths[1:] if one[:-1] == path[:-1]]
    if len(others) < 2 or not all(isinstance(one, int) for one in others) or path[-1] != max(others):
        return source
    return (*path[:-1], -1) if len(path) > 1 else -1


def _in_order(sources: Sequence[Any], outputs: Mapping[str, OutputView]) -> bool:
    """Whether the outputs are found without their sources: by their names, else by their order."""
    used = [view.source for view in outputs.values()]
    return used == list(outputs) or (list(sources) == used and not set(outputs) & set(map(str, sources)))


def _output(view: OutputView, *, named: bool) -> Iterator[Entry]:
    if named:
        yield Entry("source", list(view.source) if isinstance(view.source, tuple) else view.source)
    if view.layout is not None:
        yield Entry("layout", view.layout)
    if view.slice:
        cut = ", ".join(f"{axis} = [{begin}, {end}]" for axis, (begin, end) in view.slice.items())
        yield Entry("slice", _Verbatim(f"{{ {cut} }}"))
    if view.columns not in ((), ("x", "y"), ("x", "y", "score")):
        yield Entry("columns", list(view.columns), '"_" for what nobody reads; a depth is "z", here and in [decoder]')
    if view.activation != "none":
        yield Entry("activation", view.activation)


def draft_of_tensors(
    tensors: TensorsAlone, wishes: Wishes, *, made_of: str, given_size: tuple[int, int] | None = None
) -> Draft:
    """The ``model.toml`` of weights whose architecture nobody has named: what their shapes tell.

    Args:
        tensors: What they tell.
        wishes: What the user says.
        made_of: Name of the source, for the heading.
        given_size: (H, W) of the input, as the user says.
    """
    recipe = wishes.recipe
    seen = f"{tensors.keypoints} channels, of the last convolution '{tensors.last}'"
    if not tensors.keypoints:
        seen = "nothing that shapes of weights tell"
    size, size_from = given_size or (0, 0), "--input" if given_size else ""
    if recipe is not None and given_size is None:
        size, size_from = (recipe.height, recipe.width), "the family"
    looked = Looked(
        form="weights without an architecture",
        image=TensorFacts("image", (None, tensors.channels, None, None), "float32"),
        view=InputView(),
        channels=tensors.channels or 3,
        size=size,
        size_from=size_from,
        normalised=Normalised("rgb", (), (), ""),
        reading=None,
        given=(seen,),
        outputs=(),
        notes=(),
    )
    bins = tensors.bins
    if bins is not None and (recipe is None or recipe.reads == "simcc"):
        ratio = 2.0 if given_size is None else bins[0] / given_size[1]  # published networks have two for each pixel
        said = f"the last two layers have {bins[0]} and {bins[1]} outputs: bins along x and y"
        reading = Reading("simcc", tensors.keypoints or 0, {}, {"split_ratio": ratio}, None, (said,))
        if given_size is None:
            size, size_from = (round(bins[1] / ratio), round(bins[0] / ratio)), f"by the bins, {ratio:g} for each pixel"
        looked = replace(looked, reading=reading, size=size, size_from=size_from)
    elif tensors.keypoints:
        fields = {"stride": UNKNOWN}
        reading = Reading("heatmap", tensors.keypoints, {}, fields, "peaks", (f"{seen}: as many heatmaps",))
        looked = replace(looked, reading=reading)
    made = draft(looked, replace(wishes, arch=UNKNOWN), made_of=made_of)
    said = "The network was not run, since its architecture is not known: what follows is by the shapes of weights."
    return replace(made, heading=(*made.heading[:1], said, *made.heading[1:]))


# --- decoders ---


def _decoder(looked: Looked, wishes: Wishes) -> Table:
    reading = looked.reading
    if reading is None:
        said = tuple(f"An output that nothing is made of: {line}." for line in looked.given)
        return Table("decoder", (Entry("type", UNKNOWN, _SAID["type"]),), said)
    known = {**_defaults(reading, looked, wishes), **_found(reading)}
    comments: dict[str, str] = {}
    recipe = wishes.recipe
    if recipe is not None and recipe.reads == reading.kind:
        told = recipe.logits if recipe.logits is not None and reading.values == "logits" else recipe.decoder
        known = {**{key: value for key, value in known.items() if key in _found(reading)}, **told}
        if "scores" in _chosen(looked, reading, wishes):
            known["scores"] = True
        comments = dict.fromkeys(told, f"of {wishes.like}")
    known |= {key: value for key, value in wishes.given.items() if key in known}
    order = {"type": known.pop("type"), **_found(reading), **known}
    entries = [
        Entry(key, value, (_SAID if value == UNKNOWN else comments).get(key, _WHY.get(key, "")))
        for key, value in order.items()
    ]
    return Table("decoder", tuple(entries))


_WHY: Mapping[str, str] = {
    "beta": "assumed; put the one of training: a wrong one moves keypoints, and no check finds it",
    "score_window": "cells around the keypoint whose mass is the score",
    "window": "cells around the peak: about four times the standard deviation of the targets",
    "offset_order": '"yyxx": all y, then all x (PoseNet); "xxyy"; "yxyx"; "xyxy"',
    "offset_unit": '"pixel": input pixels (PoseNet); "cell": cells of the heatmap',
    "depth_extent": "length of the volume along z in the unit below, such as 2000.0 of mm: a bin is that by bins",
    "unit": '"palm" or "mm": of depths; of a volume also "pixel", pixels of the input; of maps of middles "cell", as '
    'published, or "pixel"',
    "root_keypoint": "depths are relative to it",
    "scale_bones": "pairs of keypoints whose root mean square length is a palm",
    "refine": '"none": the largest bin, as RTMPose is published; "dark" or "softargmax" where it was trained so',
    "form": "what the head gives; see models/README.md",
    "label": "the class that counts, in the order of training: of COCO's 0 is a person",
}


def _found(reading: Reading) -> dict[str, Any]:
    """What was found of the fields; coordinates around 0 are left to the user, since no scale reads them."""
    found = {key: list(value) if isinstance(value, tuple) else value for key, value in reading.fields.items()}
    return {key: UNKNOWN if value == "signed" else value for key, value in found.items()}


def _defaults(reading: Reading, looked: Looked, wishes: Wishes) -> dict[str, Any]:
    """Type and fields of the decoder by what the outputs are; `UNKNOWN` for what nothing tells."""
    people = {"min_score": 0.25, "overlap": 0.7, "max_people": 300}
    hand = wishes.skeleton == "hand21" or (wishes.skeleton is None and reading.keypoints == 21)
    soft = {"beta": 1.0, "alignment": UNKNOWN, "score_window": 5}
    depth = {
        "root_keypoint": 9 if hand else UNKNOWN,
        "unit": UNKNOWN,
        "scale_bones": [[0, 5], [0, 9], [0, 13], [0, 17]] if hand else UNKNOWN,
    }
    by_kind: Mapping[Kind, dict[str, Any]] = {
        "heatmap": _of_values(reading),
        "depth": {"type": "softargmax-depth", **soft, **depth},
        "combined": {
            "type": "udp",
            "target": "combined",
            "blur_kernel": 11,
            "radius_factor": 0.0546875,
            "alignment": "udp",
        },
        "offset": {
            "type": "offset",
            "alignment": UNKNOWN,
            "offset_order": "yyxx" if "alignment" in reading.fields else UNKNOWN,
            "offset_unit": "pixel" if "alignment" in reading.fields else UNKNOWN,
        },
        "simcc": {"type": "simcc", "refine": "none"},
        "volume": {"type": "volume", **soft, "depth_extent": UNKNOWN, **depth},
        "coordinates": {"type": "coordinates"},
        "yolo-pose": {"type": "yolo-pose", **people},
        "anchors": {
            "type": "anchors",
            "strides": UNKNOWN,
            "aspect_ratios": [1.0],
            "interpolated_scale_aspect_ratio": UNKNOWN,
            "anchor_offset": 0.5,
            "fixed_anchor_size": True,
            "score_clipping": 100.0,
            "nms": "weighted",
            "min_score": 0.5,
            "overlap": 0.3,
            "max_people": 100,
        },
        "centernet": {
            "type": "centernet",
            "origin": UNKNOWN,
            "unit": UNKNOWN,
            "min_score": 0.3,
            "overlap": 0.5,
            "max_people": 100,
        },
        "boxes": {"type": "boxes", **people},
    }
    return by_kind[reading.kind]


def _of_values(reading: Reading) -> dict[str, Any]:
    """How heatmaps of a family that nobody named are read, by what their cells hold."""
    if reading.values == "logits":
        return {"type": "softargmax", "beta": 1.0, "alignment": UNKNOWN, "score_window": 5}
    if reading.values == "distribution":
        return {"type": "expectation", "alignment": UNKNOWN}
    return {"type": "softargmax-window", "beta": 20.0, "alignment": UNKNOWN, "window": 9}


# --- the skeleton ---


_NO_KEYPOINTS = Table(
    "skeleton", (Entry("keypoint_names", []), Entry("edges", [])), ("It finds boxes without keypoints.",)
)


def _finds_boxes_alone(reading: Reading | None) -> bool:
    return reading is not None and reading.kind in _WHOLE and reading.keypoints == 0


def _skeleton(keypoints: int | None, wishes: Wishes) -> Table:
    if wishes.skeleton is not None:
        count = len(SKELETONS[wishes.skeleton].keypoint_names)
        if keypoints is not None and count > keypoints:
            raise UsageError(
                f"The skeleton {wishes.skeleton} has {count} keypoints, and the network gives {keypoints}.",
                hint=f"Presets of {keypoints}: {', '.join(presets_of(keypoints)) or 'none; leave out --skeleton'}.",
            )
        return Table("skeleton", (Entry("preset", wishes.skeleton),))
    if keypoints is None:
        return Table("skeleton", (Entry("preset", UNKNOWN, f"one of {', '.join(SKELETONS)}"),))
    presets = presets_of(keypoints)
    if len(presets) == 1:
        return Table("skeleton", (Entry("preset", presets[0], f"by its {keypoints} keypoints; {_about(presets[0])}"),))
    if presets:
        choices = "; ".join(f'"{name}": {_about(name)}' for name in presets)
        return Table("skeleton", (Entry("preset", UNKNOWN, choices),))
    names = [f"point{index}" for index in range(keypoints)]
    said = f"No preset has {keypoints} keypoints: name them in the network's order, and the pairs to draw."
    return Table("skeleton", (Entry("keypoint_names", names), Entry("edges", [])), (said,))


def _about(name: str) -> str:
    return SKELETONS[name].about


# --- TOML ---


def _value(value: Any) -> str:
    if isinstance(value, _Verbatim):
        return value.text
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    text = json.dumps(value, ensure_ascii=False)  # which escapes all that TOML forbids but DEL and halves of letters
    return whole(text).replace("\x7f", "\\u007f")


def _line(entry: Entry) -> list[str]:
    line = f"{entry.key} = {_value(entry.value)}"
    if not entry.said:
        return [line]
    behind = f"{line}  # {shown(entry.said)}"
    return [behind] if len(behind) <= _WIDTH else [*_comments((entry.said,)), line]


def _comments(texts: Sequence[str]) -> list[str]:
    """Lines of comments, wrapped."""
    lines: list[str] = []
    for text in texts:
        line = "#"
        for word in map(shown, text.split()):
            if len(line) + 1 + len(word) > _WIDTH and line != "#":
                lines.append(line)
                line = "#  "
            line += f" {word}"
        lines.append(line)
    return lines
