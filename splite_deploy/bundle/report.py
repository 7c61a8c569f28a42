"""``report.json``: what an export measured: differences, calibration, layers, and the recommendation.

It informs people. No runtime reads it, the manifest does not bind it, and a bundle without it runs. Standard library
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from splite_deploy.bundle.links import refuse_link_out
from splite_deploy.errors import BundleError, SpecError, reading_hint
from splite_deploy.spec import LimitSpec
from splite_deploy.spec.plain import OPTIONAL, compact_json, structure, to_plain
from splite_deploy.spec.reading import MissingError, ReadError, parse_json, read_json

REPORT = "report.json"
REPORT_VERSION = 1


@dataclass(frozen=True)
class Percentiles:
    """Percentiles of a quantity, in its unit.

    Attributes:
        p50: The 50th.
        p95: The 95th.
        max: The maximum.
    """

    p50: float
    p95: float
    max: float


@dataclass(frozen=True)
class BoxParity:
    """How far the boxes of people that both stages show lie apart.

    Attributes:
        iou_min: Smallest intersection over union.
        iou_p05: The 5th percentile of these.
        centre_px: Deviation of the centres, pixels of the network's input.
        centre_box_pct: The same in percent of the box's longer side.
    """

    iou_min: float
    iou_p05: float
    centre_px: Percentiles
    centre_box_pct: Percentiles


@dataclass(frozen=True)
class PeopleParity:
    """How far the people of one stage lie from those of the reference, where a network finds any number of them.

    Attributes:
        compared: Candidates whose keypoints `Parity.deviation_px` compares: the people of the reference, and the best
            of the others.
        score_max: Largest difference of their scores.
        found: People that the reference shows; 0 where it finds nobody on the crops, or takes so many candidates for
            people as only a network does that was not trained: then candidates alone are compared.
        missed: People of the reference that the stage does not show, by the overlap of boxes.
        new: People of the stage that the reference does not show.
        beyond: By how much the score of one of these two lies over the threshold, at most.
        deviation_px: Deviation of the keypoints of people that both show; None without any.
        boxes: How far their boxes lie apart; None without any, and left out by earlier versions.
    """

    compared: int
    score_max: float
    found: int
    missed: int
    new: int
    beyond: float
    deviation_px: Percentiles | None
    boxes: BoxParity | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Parity:
    """How far the outputs of one stage of the conversion lie from those of the reference.

    Attributes:
        reference: What is compared with: ``torch``, or ``onnx`` or ``tflite`` for an imported file.
        stage: What is compared: ``onnx``, ``simplified``, or the label of an artifact.
        crops: Number of crops compared.
        crops_from: Where the crops came from.
        tensor_max_abs: Largest absolute difference of each output, by role.
        deviation_px: Deviation of the keypoints, pixels of the network's input; where a network finds people, of the
            same candidates of both; of a network without keypoints, of two corners of their boxes.
        depth: Deviation of the depth, in ``depth_unit``; None for models without depth.
        depth_unit: ``mm``, ``palm`` where the model spec has no ``palm_mm``, or ``pixel``; empty without depth.
        people: Where a network finds any number of people; None for others.
        heads: Deviation of each head, such as ``presence``, of 0 to 1; left out for networks without.
    """

    reference: str
    stage: str
    crops: int
    crops_from: str
    tensor_max_abs: Mapping[str, float]
    deviation_px: Percentiles
    depth: Percentiles | None
    depth_unit: str
    people: PeopleParity | None = None
    heads: Mapping[str, Percentiles] = field(default_factory=dict, metadata=OPTIONAL)

    @property
    def label(self) -> str:
        """For example ``torch -> ort fp32``."""
        return f"{self.reference} -> {self.stage}"


NOT_TOLD = "not told"
"""Types of a layer of which the runtime tells its ends alone."""


@dataclass(frozen=True)
class Layer:
    """One layer of an artifact, as its runtime executes it.

    Attributes:
        name: As the runtime or the file names it.
        kind: Its operator, for example ``Conv``; where several were fused, the runtime's name for them.
        types: What it works on: the type of its inputs and, where it differs, that of its outputs, for example ``int8``
            or ``float32 -> int8``; in brackets that of its weights where they are stored in another one, for example
            ``float32[float16]``; `NOT_TOLD` of many operators that were compiled into one.
        time_us: What it takes, microseconds at the median; None where it was not measured.
        provider: What ran it, as the runtime calls it, where it was asked to run elsewhere than on the CPU: an
            execution provider of ONNX Runtime, or a delegate of LiteRT. Left out otherwise.
    """

    name: str
    kind: str
    types: str
    time_us: float | None
    provider: str | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Calibration:
    """What fp16 and int8 artifacts were calibrated on.

    Attributes:
        origin: Where the images come from, as text.
        crops: Their number.
        sha256: Hex key of what the network saw: the pixels, their order, and the normalisation.
        methods: How the ranges of activations were chosen, by the artifact that they were chosen for.
    """

    origin: str
    crops: int
    sha256: str
    methods: Mapping[str, str]


@dataclass(frozen=True)
class ExcludedLayer:
    """A layer that was excluded from quantisation.

    Attributes:
        layer: Name of its first node.
        op: Operator of that node.
        isolated_p95_px: Keypoint deviation where this layer alone runs in int8, on a part of the crops.
    """

    layer: str
    op: str
    isolated_p95_px: float


@dataclass(frozen=True)
class Mixture:
    """An int8 network some of whose layers may be in float.

    Attributes:
        deviation_px: Deviation of the keypoints, pixels of the network's input.
        depth: Deviation of the depth, in ``depth_unit``; None for models without depth.
        depth_unit: See `Parity.depth_unit`.
        latency_ms: Shortest latency on one thread of the machine that exported; for TensorRT's graphs in ONNX Runtime.
        score_max: See `PeopleParity.score_max`; None where a network finds no people itself.
    """

    deviation_px: Percentiles
    depth: Percentiles | None
    depth_unit: str
    latency_ms: float
    score_max: float | None = None


@dataclass(frozen=True)
class LayerSearch:
    """The search for the layers that have to be in float so that an int8 artifact keeps its limits.

    Attributes:
        artifact: Label of the artifact, or of the graph for engines.
        layers: Number of layers in int8 when the search began; it begins with what another typing mode has in float.
        limits: How far keypoints may lie; ``depth_p95`` in the unit of the model's decoder.
        plain: With all of these layers in int8.
        mixed: What the artifact is.
        excluded: The layers that went back to float, the costliest first.
    """

    artifact: str
    layers: int
    limits: LimitSpec
    plain: Mixture
    mixed: Mixture
    excluded: tuple[ExcludedLayer, ...]


@dataclass(frozen=True)
class BoxAccuracy:
    """How well boxes are found; see `splite_deploy.metrics.detections`.

    Attributes:
        boxes: Labelled boxes.
        ap_30: Average precision at an overlap of 0.3 (intersection over union), over all scores.
        ap_50: The same at 0.5.
        min_score: The threshold of the model, from which a box is given.
        recall_30: Share of the labelled boxes that it gives, at an overlap of 0.3.
        recall_50: The same at 0.5.
        empty_images: Images that show nothing.
        false_alarms: Boxes given in such an image, on average; None without any.
    """

    boxes: int
    ap_30: float
    ap_50: float
    min_score: float
    recall_30: float
    recall_50: float
    empty_images: int
    false_alarms: float | None


@dataclass(frozen=True)
class Accuracy:
    """Figures over a labelled set.

    Attributes:
        images: Number of labelled hands or people that errors are of; of a network that finds them itself those that it
            found.
        mean_error_box_pct: Mean keypoint error in percent of the longer side of the tight box of the labels; None where
            nobody was found.
        pck_05: Share of keypoints within 5 % of that side; None in that case.
        pa_mpjpe_mm: Mean per-keypoint 3D error after a similarity alignment of each sample, millimetres; None where
            labels or model have no third dimension.
        boxes: How well boxes are found, of a network that finds hands or people itself; None for others.
    """

    images: int
    mean_error_box_pct: float | None
    pck_05: float | None
    pa_mpjpe_mm: float | None
    boxes: BoxAccuracy | None = field(default=None, metadata=OPTIONAL)

    def __str__(self) -> str:
        parts = []
        if self.mean_error_box_pct is not None and self.pck_05 is not None:
            parts = [f"mean error {self.mean_error_box_pct:.2f} % of box", f"PCK@0.05 {self.pck_05:.4f}"]
        if self.pa_mpjpe_mm is not None:
            parts.append(f"PA-MPJPE {self.pa_mpjpe_mm:.2f} mm")
        if self.boxes is not None:
            parts.append(f"AP@0.3 {self.boxes.ap_30:.4f}, AP@0.5 {self.boxes.ap_50:.4f}")
        return f"{self.images} images: {', '.join(parts)}"


@dataclass(frozen=True)
class RecommendationRow:
    """One artifact beside the others.

    Attributes:
        backend: Its backend.
        precision: Its precision.
        size_bytes: Size of its file.
        p50_ms: Median of model-only inference, one crop, one thread.
        speed_up: Shortest latency of the same backend's fp32 over its own; None where there is no such artifact.
        deviation_px: Deviation of the keypoints from the reference, pixels of the network's input.
        depth: Deviation of the depth, in ``depth_unit``; None for models without depth.
        depth_unit: See `Parity.depth_unit`.
        peak_switches: Keypoints whose heatmap has its peak elsewhere than the reference's.
        within_limits: Whether it keeps its limits.
        accuracy: On the labelled set given; None without.
        min_ms: The shortest inference, which other work on the machine disturbs least; None in reports of version 0.2.
        steady: Whether the medians of its last windows agreed, as those of `bench` have to; None in these, too.
    """

    backend: str
    precision: str
    size_bytes: int
    p50_ms: float
    speed_up: float | None
    deviation_px: Percentiles
    depth: Percentiles | None
    depth_unit: str
    peak_switches: int
    within_limits: bool
    accuracy: Accuracy | None = None
    min_ms: float | None = None
    steady: bool | None = None

    @property
    def label(self) -> str:
        """For example ``ort int8``."""
        return f"{self.backend} {self.precision}"

    @property
    def shortest_ms(self) -> float:
        """What artifacts are compared by: ``min_ms``, or the median where that is not known."""
        return self.p50_ms if self.min_ms is None else self.min_ms


@dataclass(frozen=True)
class Recommendation:
    """The artifacts of a bundle, timed in one run on the machine that exported them.

    Attributes:
        rows: One for each artifact.
        measured: What was compared, timed and evaluated on what, as text.
        ship: Label of the artifact to ship; None if every one is over its limits.
        reason: Why, as text.
    """

    rows: tuple[RecommendationRow, ...]
    measured: str
    ship: str | None
    reason: str


@dataclass(frozen=True)
class Failure:
    """Something that was requested and that the bundle lacks.

    Attributes:
        artifact: Label of the artifact, or of the graph for engines.
        stage: ``conversion``: it could not be made; ``run``: its backend refused it; ``comparison``: it moves keypoints
            by more than its limits.
        message: What happened, as text.
        hint: What to do about it, as text.
    """

    artifact: str
    stage: str
    message: str
    hint: str


@dataclass(frozen=True)
class Report:
    """The content of ``report.json``.

    Attributes:
        report_version: Of this structure: 1. Keys that a reader does not know are ignored.
        opset: ONNX operator set of the graph; None where the bundle was made of a ready file and holds no graph.
        versions: Versions of the libraries that took part, by name.
        notes: What was done to the checkpoint and the graphs and is worth knowing, as text.
        parity: How far each stage of the conversion moved the keypoints.
        calibration: What fp16 and int8 were calibrated on; None where nothing was.
        searches: The searches for layers that int8 must leave in float; none where int8 kept its limits without.
        recommendation: The artifacts side by side; None where there is one alone.
        layers: What each artifact is made of as it runs, by its label, in the order of execution; those of ``ort`` and
            ``tflite`` as `splite_deploy.bench.profile` finds them on the machine that exported.
        failures: What was requested and failed, in the order of the work.
    """

    report_version: int
    opset: int | None
    versions: Mapping[str, str]
    notes: tuple[str, ...]
    parity: tuple[Parity, ...]
    calibration: Calibration | None = None
    searches: tuple[LayerSearch, ...] = ()
    recommendation: Recommendation | None = None
    layers: Mapping[str, tuple[Layer, ...]] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    def to_json(self) -> str:
        """The text of ``report.json``."""
        return compact_json(to_plain(self))


def read_report(folder: Path, content: bytes | None = None) -> Report:
    """Reads the report of a bundle.

    Args:
        folder: The bundle's.
        content: Of the file, where it was read before.

    Raises:
        BundleError: It is missing or damaged, or of a later version than this one reads.
    """
    file = folder / REPORT
    hint = "The bundle runs without it. To have it again make the bundle anew with 'splite-deploy export'."
    refuse_link_out(file)
    try:
        data = read_json(file) if content is None else parse_json(content, str(file))
    except MissingError as err:
        raise BundleError(f"The bundle {folder} has no {REPORT}, which says what was measured.", hint=hint) from err
    except ReadError as err:
        raise BundleError(f"{file} cannot be read: {err.reason}.", hint=reading_hint(err, hint)) from err
    version = data.get("report_version") if isinstance(data, dict) else None
    if type(version) is not int or version > REPORT_VERSION:
        newer = type(version) is int
        raise BundleError(
            f"{file} has report version {version}; this version of splite-deploy reads {REPORT_VERSION}.",
            hint="Upgrade splite-deploy on this machine." if newer else hint,
        )
    try:
        report = structure(Report, data, "", unknown="ignore")
    except SpecError as err:
        raise BundleError(f"{file} is malformed: {err.message}", hint=hint) from err
    empty = [f"parity[{index}].tensor_max_abs" for index, one in enumerate(report.parity) if not one.tensor_max_abs]
    if report.recommendation is not None and not report.recommendation.rows:
        empty.append("recommendation.rows")
    if empty:  # the tables show their largest and first
        raise BundleError(f"{file} is malformed: {empty[0]} is empty.", hint=hint)
    return report
