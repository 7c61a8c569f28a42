"""What a model needs to be run: its input, its decoder, its skeleton. Plain data.

The same structure is written by people as ``model.toml`` and by the exporter into the bundle's manifest. Nothing in
it has a default that a wrong model could run on quietly: mean, std, beta, stride, alignment and padding must be stated.

Pixels: continuous coordinates whose origin is the top-left corner of the top-left pixel, so that pixel (i, j) has
its centre at (i + .5, j + .5). Where the cells of a heatmap lie in them is the decoder's ``alignment``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from splite_deploy.decoders import DECODERS, HEADS, Decoder, PeopleDecoder
from splite_deploy.errors import FIELDS_DOC, SpecError, require
from splite_deploy.spec.bounds import LONGEST_NAME, MOST_KEYPOINTS, check_bounds
from splite_deploy.spec.plain import OPTIONAL, FieldsError, Problem, Unknown, collecting, structure, to_plain

Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Color = Literal["rgb", "bgr"]
"""Channel order of a picture."""
InputColor = Literal["rgb", "bgr", "gray"]
"""Channels that a network takes: three in this order, or one."""
_DEPTH_P95_PALMS = 0.001
_NAMES_HINT = f'Name the keypoints in the network\'s order, or write preset = "coco17" or another one; {FIELDS_DOC}.'


@dataclass(frozen=True)
class InputSpec:
    """How an image becomes the network's input tensor.

    Attributes:
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        color: Channels that the network was trained with; ``gray`` is one, 0.299 R + 0.587 G + 0.114 B.
        mean: Subtracted from each channel, on the 0-255 scale, in the order of ``color``.
        std: Divides each channel afterwards, on the 0-255 scale; 1 with a mean of 0 leaves pixels as they are.
        box_padding: Factor on the box before it is cropped; 1.25 leaves an eighth of its side on each side.
        pad_value: Grey value (0-255) of what lies outside the image.
        letterbox: For networks that are given whole images: where an image lies in the input, which keeps its aspect
            and is as large as it can be: in the ``centre``, or at the ``corner`` at the top left. Absent: networks that
            are given boxes.
        rotate_by: Two keypoints, by name or index; the ModelSpec has their indices. The crop is turned so that the line
            from the first to the second points up; see `splite_deploy.metrics.turned_boxes`. Absent: it is not turned.
    """

    height: int
    width: int
    color: InputColor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    box_padding: float
    pad_value: int
    letterbox: Literal["centre", "corner"] | None = None
    rotate_by: tuple[str | int, str | int] | None = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        require(self.height > 0 and self.width > 0, "input.height and input.width must be positive")
        for name, values in (("mean", self.mean), ("std", self.std)):
            said = f"input.{name} is {list(values)}; input.color '{self.color}' takes {self.channels} of them"
            require(len(values) == self.channels, said)
        require(all(0 <= m <= 255 for m in self.mean), "input.mean is on the 0-255 scale")
        require(all(s > 0 for s in self.std), "input.std must be positive, on the 0-255 scale")
        unit_scale = max(self.std) < 1 or (max(self.std) == 1 and 0 < max(self.mean) <= 1)
        advice = "multiply mean and std by 255; mean 0 and std 1 leave pixels at 0-255, mean 0 and std 255 make 0-1"
        require(not unit_scale, f"input.std looks like the 0-1 scale; {advice}")
        require(self.box_padding > 0, "input.box_padding must be positive (1.0 adds nothing)")
        require(0 <= self.pad_value <= 255, "input.pad_value must lie in 0-255")
        if self.rotate_by is not None:
            require(self.rotate_by[0] != self.rotate_by[1], "input.rotate_by names one keypoint twice")
            said = "input.rotate_by is for networks that are given boxes, and input.letterbox for whole images"
            require(self.letterbox is None, said)
        check_bounds(self, "input")

    @property
    def channels(self) -> int:
        """1 for a grey image, else 3."""
        return 1 if self.color == "gray" else 3

    @property
    def turn(self) -> tuple[int, int] | None:
        """Indices of the keypoints of ``rotate_by``; None where crops are not turned.

        Raises:
            SpecError: They are names still: this is not the input of a `ModelSpec`.
        """
        if self.rotate_by is None:
            return None
        first, second = self.rotate_by
        if isinstance(first, str) or isinstance(second, str):
            raise SpecError(f"input.rotate_by has names: {first}, {second}.", hint="Take the input of a ModelSpec.")
        return first, second

    @property
    def picture_color(self) -> Color:
        """Channel order of a picture that is made of a crop; that of a grey one has three equal channels."""
        return "bgr" if self.color == "gray" else self.color

    @property
    def planes(self) -> tuple[int, int, int]:
        """(C, h, w) of one image as the network takes it."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class SkeletonSpec:
    """Names of the keypoints, how they are joined, and which of them trade places in a mirrored image.

    Attributes:
        keypoint_names: K names; none of a detector that finds boxes alone.
        edges: Pairs of keypoint indices, for drawing.
        flip_pairs: Left/right pairs that a mirror exchanges; empty for a single hand.
    """

    keypoint_names: tuple[str, ...] = field(metadata={"hint": _NAMES_HINT})
    edges: tuple[tuple[int, int], ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.keypoint_names)
        require(count <= MOST_KEYPOINTS, f"skeleton.keypoint_names has {count} names, and {MOST_KEYPOINTS} at most")
        longest = max(map(len, self.keypoint_names), default=0)
        require(longest <= LONGEST_NAME, f"skeleton.keypoint_names has a name of more than {LONGEST_NAME} characters")
        require(len(set(self.keypoint_names)) == count, "skeleton.keypoint_names has a name twice")
        pairs = self.edges + self.flip_pairs
        require(count > 0 or not pairs, "skeleton.keypoint_names is empty, and there are edges or flip_pairs")
        for a, b in pairs:
            require(0 <= a < count and 0 <= b < count, f"skeleton pair ({a}, {b}) names no keypoint of {count}")


@dataclass(frozen=True)
class LimitSpec:
    """How far a conversion may move a keypoint before the export fails. Absent values use the tool's limits.

    A decoder that rounds, such as ``argmax``, moves a keypoint further by itself: that is added to ``shift_max_px``,
    and to ``shift_p95_px`` in int8.

    Attributes:
        shift_p95_px: 95th percentile of the keypoint deviation, input pixels.
        shift_max_px: Largest keypoint deviation, input pixels.
        depth_p95: 95th percentile of the depth deviation, in the decoder's unit; absent it is 0.001 of a palm, which
            is the same length in every unit, or ``shift_p95_px`` of a depth in pixels.
        score_max: Largest deviation of a person's score, where a network finds any number of people. So far over the
            threshold a person may be that only one of two networks finds.
        head_p95: 95th percentile of the deviation of each head, such as ``presence``, of 0 to 1; the largest may be six
            times that. Absent it is 0.001, and in fp16 and int8 0.005 and 0.05 at least.
        box_iou_p05: What the 5th percentile of the intersection over union of people's boxes before and after must
            reach; absent it is 0.98, and in fp16 and int8 0.95 and 0.8 will do. Single boxes may lie further apart,
            where another candidate is as good, down to 0.5: below that a person is lost.
        centre_p95_pct: 95th percentile of the deviation of the centres of boxes, percent of the longer side; absent it
            is 0.2, and in fp16 and int8 0.5 and 5 will do.
    """

    shift_p95_px: float = 0.01
    shift_max_px: float = 0.05
    depth_p95: float | None = None
    score_max: float = 0.001
    head_p95: float | None = field(default=None, metadata=OPTIONAL)
    box_iou_p05: float | None = field(default=None, metadata=OPTIONAL)
    centre_p95_pct: float | None = field(default=None, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        require(all(value is None or value > 0 for value in dataclasses.astuple(self)), "limits must be positive")
        check_bounds(self, "limits")


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model that is not its weights.

    Attributes:
        name: Short name, used in file names and reports.
        input: The input tensor.
        decoder: How outputs become keypoints.
        skeleton: The keypoints.
        limits: Parity limits of the fp32 conversions; that of the depth is never absent here.
        palm_mm: Palm length (see `splite_deploy.decoders.Depth`) of the people the model was made for, in mm; turns
            palm units into millimetres in reports, and gives x and y their scale where the depth is in mm.
        heads: What the network gives beside what its decoder reads, ``presence`` and ``handedness``, each (N, 1) of 0
            to 1; see `splite_deploy.decoders.heads`. In ``model.toml`` the tables ``[outputs.HEAD]`` say it.
    """

    name: str
    input: InputSpec
    decoder: Decoder
    skeleton: SkeletonSpec
    limits: LimitSpec = LimitSpec()
    palm_mm: float | None = None
    heads: tuple[str, ...] = field(default=(), metadata=OPTIONAL)

    def __post_init__(self) -> None:
        require(self.name != "" and self.name.replace("-", "").replace("_", "").isalnum(), "name must be a word")
        require(len(self.name) <= LONGEST_NAME, f"name has more than {LONGEST_NAME} characters")
        require(self.palm_mm is None or self.palm_mm > 0, "palm_mm must be positive")
        if self.input.rotate_by is not None:
            first, second = map(self._keypoint, self.input.rotate_by)
            object.__setattr__(self, "input", dataclasses.replace(self.input, rotate_by=(first, second)))
        check_bounds(self, "")
        check_bounds(self.decoder, "decoder")
        finds = isinstance(self.decoder, PeopleDecoder)
        said = "skeleton.keypoint_names is empty, as only of detectors, whose decoder finds boxes; the decoder"
        require(finds or self.keypoint_count > 0, f"{said} '{self.decoder.type}' finds keypoints")
        self.decoder.check(self.keypoint_count, self.input)
        if isinstance(self.decoder, PeopleDecoder):
            said = f"input.letterbox is missing: the decoder '{self.decoder.type}' finds people in whole images, and it"
            where = 'says where they lie in the input: "centre" (the YOLO family, MediaPipe) or "corner" (YOLOX, RTMO)'
            require(self.input.letterbox is not None, f"{said} {where}")
        said = f"heads are {', '.join(self.heads)}, not some of {', '.join(HEADS)} in this order"
        require(self.heads == tuple(head for head in HEADS if head in self.heads), said)
        if isinstance(self.decoder, PeopleDecoder) and self.heads:
            table = f"outputs.{self.heads[0]}"
            raise SpecError(
                f"Model spec: {table} is of one hand or person in a crop, and the decoder '{self.decoder.type}' finds "
                "any number.",
                hint=f"Leave out [{table}]: each of its people has a score.",
            )
        if self.decoder.depth is not None and self.decoder.depth.unit == "mm":
            require(self.palm_mm is not None, "a depth in mm needs palm_mm, which tells the scale of x and y")
        object.__setattr__(self, "limits", dataclasses.replace(self.limits, depth_p95=self.depth_limit(self.limits)))

    def _keypoint(self, which: str | int) -> int:
        """The index of a keypoint of ``rotate_by``."""
        names = self.skeleton.keypoint_names
        known = which in names if isinstance(which, str) else 0 <= which < len(names)
        if not known:
            hint = f"The skeleton has: {', '.join(names[:30])}{', ...' if len(names) > 30 else ''}."
            raise SpecError(f"Model spec: input.rotate_by names {which!r}, which is no keypoint.", hint=hint)
        return names.index(which) if isinstance(which, str) else which

    @property
    def keypoint_count(self) -> int:
        """Number of keypoints K."""
        return len(self.skeleton.keypoint_names)

    @property
    def task(self) -> tuple[object, ...]:
        """What an application relies on: networks of one task can take each other's place behind it."""
        depth = self.decoder.depth
        finds_people = isinstance(self.decoder, PeopleDecoder)
        unit = None if depth is None else depth.unit
        return self.skeleton.keypoint_names, finds_people, unit, self.heads, self.input.rotate_by

    def with_heads(self, heads: Collection[str]) -> ModelSpec:
        """The same model with these heads, in whichever order they are named."""
        return dataclasses.replace(self, heads=tuple(head for head in HEADS if head in heads))

    def mm_per_unit(self) -> float | None:
        """Millimetres per unit of the decoder's depth, or None where the spec cannot tell."""
        depth = self.decoder.depth
        if depth is None or depth.unit == "pixel":
            return None
        return 1.0 if depth.unit == "mm" else self.palm_mm

    def units_per_palm(self) -> float:
        """The length of a palm in the unit of the decoder's depth; 1 where there is no depth."""
        scale = self.mm_per_unit()
        return 1.0 if scale is None or self.palm_mm is None else self.palm_mm / scale

    def depth_limit(self, limits: LimitSpec) -> float:
        """How far the 95th percentile of the depth may move under these limits, in the decoder's unit."""
        if limits.depth_p95 is not None:
            return limits.depth_p95
        depth = self.decoder.depth
        in_pixels = depth is not None and depth.unit == "pixel"
        return limits.shift_p95_px if in_pixels else _DEPTH_P95_PALMS * self.units_per_palm()

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal spec."""
        data = to_plain(self)
        data["decoder"] = {"type": self.decoder.type, **data["decoder"]}
        if self.input.letterbox is None:  # as before there was that field: checkpoints hold a hash of all this
            del data["input"]["letterbox"]
        return data  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, unknown: Unknown = "refuse") -> ModelSpec:
        """Reads a spec from plain data.

        Args:
            data: Of `to_dict`, or of ``model.toml``.
            unknown: Whether a key that no field has is an error; ignored in the manifest of a later version.

        Raises:
            SpecError: Keys are missing, unknown, or of the wrong type; the message names all of them.
        """
        if not isinstance(data, Mapping):
            raise SpecError("The model spec is not a table.", hint=f"Write its fields; {FIELDS_DOC}.")
        if unknown == "ignore" and isinstance(heads := data.get("heads"), list | tuple):  # of a later version
            data = {**data, "heads": [head for head in heads if not isinstance(head, str) or head in HEADS]}
        problems: list[Problem] = []
        table, decoder = data.get("decoder", {}), None
        if isinstance(table, Mapping):
            with collecting(problems, ".decoder"):
                decoder = _decoder_of(table, unknown)
            data = {**data, "decoder": decoder}
        rest: list[Problem] = []
        with collecting(rest):
            spec = structure(cls, data, "", unknown=unknown, every=unknown == "refuse")
        if problems:  # with the decoder, so that it is none
            rest = [problem for problem in rest if problem.path != ".decoder"]
        if found := rest + problems:
            raise FieldsError(found if unknown == "refuse" else found[:1])
        return spec


def _decoder_of(table: Mapping[str, Any], unknown: Unknown) -> Decoder:
    """The decoder that the table ``[decoder]`` describes."""
    kind = table.get("type")
    if not isinstance(kind, str) or kind not in DECODERS:
        said = f"Model spec: decoder.type is {kind!r}, which is not a decoder."
        if "type" not in table:
            said = "The field decoder.type is missing."
        raise SpecError(said, hint=f"Choose one of: {', '.join(DECODERS)}.")
    fields = {key: value for key, value in table.items() if key != "type"}
    return structure(DECODERS[kind], fields, ".decoder", unknown=unknown, every=unknown == "refuse")
