"""The published result of one benchmark: what is written as one line of JSON, and its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from splite_deploy.bench.loop import END_TO_END, MODEL_ONLY, STAGES
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle.report import BoxAccuracy, Layer, Percentiles
from splite_deploy.device.environment import Environment
from splite_deploy.device.sensors import Sensors
from splite_deploy.errors import SpecError, UsageError
from splite_deploy.runtime.backends.placement import Placement
from splite_deploy.spec import Precision
from splite_deploy.spec.plain import OPTIONAL, structure, to_plain

SCHEMA_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)
"""Versions 1 and 2 have other words, see `upgraded`. Version 1 lacks what has a default below, and its times contain
the cost of reading the clock."""
_STAGES_BEFORE_3 = {"total": END_TO_END, "bare_inference": MODEL_ONLY}

Angles = Literal["found", "labels"]
HandLabels = Literal["as-seen", "mirrored"]
ThrottlingState = Literal["steady", "slowed", "throttled", "too short"]


@dataclass(frozen=True)
class Windows:
    """How steady the figures were.

    Attributes:
        frames: Frames of each window.
        p50_ms: Median of each window in the order of time, end to end; of the model alone where that is all
            there is. Milliseconds.
        stable: Whether the last three lie within ``tolerance`` of each other. Then they alone are the result, and
            those before belong to the warm-up; otherwise all of them are the result.
        tolerance: Largest over smallest of three medians, minus 1.
    """

    frames: int
    p50_ms: tuple[float, ...]
    stable: bool
    tolerance: float


@dataclass(frozen=True)
class Startup:
    """What a process pays before it has a first result, measured in one of its own (a cold start).

    Attributes:
        import_ms: Importing the runtime and the backend, milliseconds.
        load_ms: Opening the bundle, hashes and all, and loading the artifact; milliseconds.
        first_inference_ms: The first run of the network, milliseconds.
    """

    import_ms: float
    load_ms: float
    first_inference_ms: float


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process that does nothing but run this artifact, MiB (2**20 bytes).

    Attributes:
        rss_before_mib: After the imports, before loading.
        rss_steady_mib: After some inferences.
        rss_peak_mib: The most that it ever had.
    """

    rss_before_mib: float
    rss_steady_mib: float
    rss_peak_mib: float


@dataclass(frozen=True)
class CurvePoint:
    """One second of a sustained run.

    Attributes:
        second: Its number, from 0; a second in which no frame ended has no point.
        frames: Frames that ended in it.
        p50_ms: Median of a frame end to end, milliseconds.
        max_ms: Its largest, milliseconds.
    """

    second: int
    frames: int
    p50_ms: float
    max_ms: float


@dataclass(frozen=True)
class Sustained:
    """The estimator without a pause for a given time.

    Attributes:
        seconds: How long it ran.
        frames: Frames that it did.
        frames_per_second: Frames over seconds.
        curve: Second by second.
        state: ``steady``; ``slowed``: the end is slower than the beginning; ``throttled``: it is, and a clock that
            was read fell with it; ``too short`` to tell.
        reason: The reason for the state, as text.
        sensors: Power, temperatures and clocks meanwhile; None where the machine has none to read.
    """

    seconds: float
    frames: int
    frames_per_second: float
    curve: tuple[CurvePoint, ...]
    state: ThrottlingState
    reason: str
    sensors: Sensors | None


@dataclass(frozen=True)
class Streams:
    """Several estimators at once, each with its own session and thread.

    Attributes:
        count: Their number.
        frames: Frames of all of them together.
        frames_per_second: Of all of them together.
        speed_up: That over the frames per second of one alone, measured just before.
        latency: Of frames end to end, all streams together.
    """

    count: int
    frames: int
    frames_per_second: float
    speed_up: float
    latency: LatencyStats


@dataclass(frozen=True)
class ImageError:
    """One labelled image.

    Attributes:
        image: Its path, relative to the labels file.
        box: Its xyxy box, pixels.
        error_box_pct: Mean keypoint error in percent of the longer side of the tight box of the labels, or of
            their box where a keypoint is not labelled.
        angle_deg: Of a network whose crops are turned: by how much the box was turned, in degrees; left out where it
            was not.
    """

    image: str
    box: tuple[float, float, float, float]
    error_box_pct: float
    angle_deg: float | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of this very file on labelled images; formulas in `splite_deploy.metrics.accuracy`.

    Attributes:
        labels_from: Where the labels come from, as text.
        images: Number of labelled hands or persons that errors are of: of a network that finds them itself those that
            it found. Where it found none the next four are None.
        epe_px: Mean keypoint error, pixels of the image.
        epe_box_pct: The same in percent of the longer side of the tight box of the labels, of COCO's box where a
            keypoint is not labelled.
        pck_05: Share of keypoints within 5 % of that side.
        pck_auc: Area under that share for limits from 0 to 20 % of the side, over 20 %.
        mpjpe_mm: Mean per-keypoint 3D error relative to the root keypoint, millimetres; what a model gives in palms is
            scaled by the palm of the label. None where labels or model have no third dimension.
        pa_mpjpe_mm: The same after a similarity alignment of each sample; None without a third dimension.
        oks_ap: COCO's average precision by object keypoint similarity, 0 to 1; None for skeletons without sigmas.
        worst: The images with the largest error, largest first.
        median: The images around the median error.
        angles: Of a network whose crops are turned, where the angles of boxes came from: ``found`` by
            the network, as for who has a box alone; ``labels``; or ``two-passes``, from one look at angle 0 alone, as
            0.2.0 found them. Left out for others.
        handedness: Share of hands whose handedness it tells right, 0 to 1; left out where labels or network have none.
        handedness_hands: How many hands that share is of.
        handedness_labels: Whose left and right those labels mean: ``as-seen``, or ``mirrored`` as of MediaPipe.
        boxes: How well boxes are found, of a network that finds hands or people itself; left out for others. One
            without keypoints has its errors above measured at two corners of each box.
    """

    labels_from: str
    images: int
    epe_px: float | None
    epe_box_pct: float | None
    pck_05: float | None
    pck_auc: float | None
    mpjpe_mm: float | None
    pa_mpjpe_mm: float | None
    oks_ap: float | None
    worst: tuple[ImageError, ...]
    median: tuple[ImageError, ...]
    angles: Angles | Literal["two-passes"] | None = field(default=None, metadata=OPTIONAL)
    handedness: float | None = field(default=None, metadata=OPTIONAL)
    handedness_hands: int | None = field(default=None, metadata=OPTIONAL)
    handedness_labels: HandLabels | None = field(default=None, metadata=OPTIONAL)
    boxes: BoxAccuracy | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class KeypointDeviation:
    """How far a file moves keypoints from those of the network that it was made of.

    Attributes:
        origin: ``recorded``: when the bundle was made, with the backend that the file was made for; ``measured``: by
            this benchmark on its machine, on the golden crops of the bundle.
        crops: Number of crops compared.
        crops_from: Where the crops came from.
        deviation_px: Pixels of the network's input.
        deviation_pct: The same in percent of the longer side of the network's input.
        depth: Deviation of the depth, in ``depth_unit``; None for models without depth.
        depth_unit: ``mm``, ``palm`` where the model spec has no ``palm_mm``, or ``pixel``; empty without depth.
        violations: The limits that it breaks, then or on the golden crops here, each as a phrase; none if it keeps all.
    """

    origin: Literal["recorded", "measured"]
    crops: int
    crops_from: str
    deviation_px: Percentiles
    deviation_pct: Percentiles
    depth: Percentiles | None
    depth_unit: str
    violations: tuple[str, ...]


def label_of(backend: str, provider: str | None, precision: Precision | None) -> str:
    """What ran a file, and its precision: ``ort/openvino fp32``; see `BenchResult` for these."""
    return " ".join(filter(None, ("/".join(filter(None, (backend, provider))), precision)))


@dataclass(frozen=True)
class BenchResult:
    """One artifact, measured once on one machine. None and empty: not measured.

    Attributes:
        schema_version: `SCHEMA_VERSION`; 1 where it was read from a line of that version.
        date_utc: Start of the measurement, ISO 8601 in UTC.
        bundle: Name of the bundle's folder, without its path, or of several of one name with as much of its end as
            tells them apart; empty for a file that was measured without a bundle.
        model: Name of the model; of a file alone its name without the suffix.
        artifact_file: Name of the file; of several without a bundle as ``bundle``.
        artifact_sha256: Its hash.
        backend: The backend that ran it; ``replay`` runs no network.
        precision: Its precision; None for a file alone, which does not say.
        batch: Crops per frame.
        threads: CPU threads that the backend was given; None is the backend's default.
        opencv_threads: CPU threads that OpenCV used for the preprocessing.
        frames: Timed frames per stage that the statistics are of.
        warmup_frames: Untimed frames beforehand, and those of windows that were not steady yet.
        warmup_s: Seconds of the untimed ones.
        inputs_from: Where the images, or the tensors for a file alone, came from.
        inputs_count: Number of different inputs, used in turn.
        image_width_px: Width of the largest image; 0 for a file alone.
        image_height_px: Height of the largest image; 0 for a file alone.
        timer_overhead_us: Cost of one reading of the clock, microseconds. It is taken off once from each stage, and
            three times from ``end_to_end``.
        stages: Statistics by stage, those of `splite_deploy.bench.loop.STAGES`; of a file alone only
            ``model_only``. Where the backend can tell, ``host_to_device``, ``compute`` and ``device_to_host`` as well.
        environment: The machine.
        windows: How steady the figures were.
        samples_ms: By stage every ``samples_every``-th time that the statistics are of, in the order of time.
        samples_every: See ``samples_ms``.
        affinity: Cores that it was bound to; None if it was not bound.
        model_bytes: Size of the file.
        startup: What a process of its own pays before its first result.
        memory: What that process takes.
        sustained: The run of ``--duration``.
        streams: The run of ``--streams``.
        accuracy: That of ``--eval``.
        layers: What the file is made of, where the backend can tell; with their times where it measured them.
        people_per_image: How many people the network finds in an image, on average; None where it finds none itself.
            Of more of them decoding takes longer.
        run: What the results of one run have in common, whose artifacts were timed in turn; left out where it was timed
            alone.
        deviation: How far it moves keypoints; left out for a file without a bundle, and by earlier versions.
        manifest_sha256: Hash of the bundle's manifest, which has those of all its files; left out as ``deviation``.
        device: What the machine was called that ``--device`` named; left out where it was this one.
        keypoints: How many keypoints the network finds of each; left out for a file without a model spec, and by
            earlier versions.
        provider: What was asked to run the network instead of the backend's usual device: an execution provider of
            ONNX Runtime, or a delegate of LiteRT by the name of its file. Left out where nothing was.
        placements: What really ran it, read back, with the times of ``layers``. Left out as ``provider``.
    """

    schema_version: int
    date_utc: str
    bundle: str
    model: str
    artifact_file: str
    artifact_sha256: str
    backend: str
    precision: Precision | None
    batch: int
    threads: int | None
    opencv_threads: int
    frames: int
    warmup_frames: int
    warmup_s: float
    inputs_from: str
    inputs_count: int
    image_width_px: int
    image_height_px: int
    timer_overhead_us: float
    stages: Mapping[str, LatencyStats]
    environment: Environment
    windows: Windows | None = None
    samples_ms: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    samples_every: int = 1
    affinity: tuple[int, ...] | None = None
    model_bytes: int | None = None
    startup: Startup | None = None
    memory: Memory | None = None
    sustained: Sustained | None = None
    streams: Streams | None = None
    accuracy: Evaluation | None = None
    layers: tuple[Layer, ...] = ()
    people_per_image: float | None = None
    run: str | None = field(default=None, metadata=OPTIONAL)
    deviation: KeypointDeviation | None = field(default=None, metadata=OPTIONAL)
    manifest_sha256: str | None = field(default=None, metadata=OPTIONAL)
    device: str | None = field(default=None, metadata=OPTIONAL)
    keypoints: int | None = field(default=None, metadata=OPTIONAL)
    provider: str | None = field(default=None, metadata=OPTIONAL)
    placements: tuple[Placement, ...] = field(default=(), metadata=OPTIONAL)

    @property
    def label(self) -> str:
        """For example ``ort fp32``, or ``ort/openvino fp32`` by an execution provider."""
        return label_of(self.backend, self.provider, self.precision)

    @property
    def undescribed(self) -> bool:
        """Whether it is of an engine without a manifest, so that the types it computes in are unknown."""
        return self.backend == "trt" and not self.bundle

    @property
    def unsteady(self) -> bool:
        """Whether the medians of its last windows did not agree."""
        return self.windows is not None and not self.windows.stable

    @property
    def headline(self) -> str:
        """The stage that stands for a frame: ``end_to_end``, or ``model_only`` of a file alone."""
        return END_TO_END if END_TO_END in self.stages else MODEL_ONLY

    @property
    def overhead_ms(self) -> float:
        """The p50 end to end minus that of the model alone, in milliseconds; noise may make it negative."""
        return self.stages[self.headline].p50_ms - self.stages[MODEL_ONLY].p50_ms

    @property
    def frames_per_second(self) -> float:
        """Frames (of ``batch`` crops each) per second, one after the other, at the median of the headline stage."""
        return 1e3 / self.stages[self.headline].p50_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` reads back to an equal result."""
        return to_plain(self)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BenchResult:
        """Reads a result from plain data.

        Raises:
            UsageError: It is of another schema version, or a key is missing, unknown or of the wrong type.
        """
        version = data.get("schema_version")
        if version not in READABLE_VERSIONS:
            raise UsageError(
                f"The benchmark result has schema version {version}; this version reads "
                f"{', '.join(map(str, READABLE_VERSIONS))}.",
                hint="Read it with the version of splite-deploy that wrote it, or measure again.",
            )
        try:
            result = structure(cls, upgraded(data), "")
        except SpecError as err:
            raise UsageError(f"The benchmark result is malformed: {err.message}", hint="Measure again.") from err
        needed = STAGES if result.bundle else (MODEL_ONLY,)
        missing = [stage for stage in needed if stage not in result.stages]
        if missing:
            raise UsageError(
                f"The benchmark result is malformed: it lacks the stage {missing[0]}.", hint="Measure again."
            )
        for stage in needed:
            stats = result.stages[stage]
            least_ms = min(stats.min_ms, stats.p50_ms, stats.mean_ms)  # other times are divided by these
            if stats.count < 1 or (stage in (END_TO_END, MODEL_ONLY) and least_ms <= 0):
                raise UsageError(
                    f"The benchmark result is malformed: the stage {stage} has {stats.count} samples, and one of its "
                    f"minimum, median and mean is {least_ms:g} ms.",
                    hint="Measure again.",
                )
        if result.sustained is not None and (uneven := _uneven(result.sustained.sensors)):
            raise UsageError(
                f"The benchmark result is malformed: sustained.sensors.{uneven} has not one value for each of seconds.",
                hint="Measure again.",
            )
        return result


def _uneven(sensors: Sensors | None) -> str:
    """The first series of readings that has another length than the times; empty if none."""
    if sensors is None:
        return ""
    kinds = {"power_mw": sensors.power_mw, "temperatures_c": sensors.temperatures_c, "clocks_mhz": sensors.clocks_mhz}
    series = [(f"{kind}.{name}", values) for kind, lines in kinds.items() for name, values in lines.items()]
    return next((name for name, values in series if len(values) != len(sensors.seconds)), "")


def upgraded(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data of a result of any readable version, in the words of `SCHEMA_VERSION`.

    In version 3 the stages ``total`` and ``bare_inference`` are called ``end_to_end`` and ``model_only``, and the
    ``verdict`` of a sustained run its ``state``.
    """
    new = dict(data)
    if new.get("schema_version") == 2:
        new["schema_version"] = SCHEMA_VERSION
    for name in ("stages", "samples_ms"):
        if isinstance(stages := new.get(name), Mapping):
            new[name] = {_STAGES_BEFORE_3.get(stage, stage): values for stage, values in stages.items()}
    new.setdefault("people_per_image", None)  # of a result before networks found people
    if isinstance(run := new.get("sustained"), Mapping):
        new["sustained"] = {"state" if key == "verdict" else key: value for key, value in run.items()}
    return new
