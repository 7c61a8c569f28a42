"""Checks the artifacts of a bundle on this machine: their outputs, and the preprocessing before them.

The golden crops have preprocessing behind them: what an artifact makes of them tells of the backend alone. The golden
image is cropped anew, and its crop compared with the one that the exporting machine cut. Versions of OpenCV round
differently, which is no fault of an artifact: a crop that differs is named, and fails the check only where it alone
moves keypoints by more than float16 may, or, where it differs by rounding alone, by more than int8 may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import Artifact, Bundle, Golden, GoldenImage, Nobody, Parity, Percentiles
from splite_deploy.decoders import Decoded, PeopleDecoder, decode
from splite_deploy.decoders.people import CORNERS, evened, joined
from splite_deploy.device.environment import installed_versions
from splite_deploy.device.int8 import RIGHT_ONNXRUNTIME, read_int8_instructions
from splite_deploy.errors import ParityError, UsageError
from splite_deploy.metrics.parity import (
    MAX_FACTOR,
    NOBODY_FACTOR,
    candidates_of,
    compare,
    head_limit,
    limits_of,
    percentiles,
    violations,
)
from splite_deploy.metrics.people import nearest_person, same_person
from splite_deploy.runtime.backends import distributions
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.backends.placement import Placement
from splite_deploy.runtime.first_load import first_load
from splite_deploy.runtime.nobody import finite_crops, presence_of
from splite_deploy.runtime.preprocess import Image, Matrix, Preprocessor, invert, scale_of, transform_points
from splite_deploy.runtime.selection import Absent, pick_artifacts
from splite_deploy.runtime.session import OptionSet, Placed, Session, check_content, open_artifact
from splite_deploy.spec import LimitSpec, ModelSpec, Precision
from splite_deploy.spec.plain import OPTIONAL
from splite_deploy.text import quoted

TOGETHER = 3
"""So many crops at once are compared with one at a time."""
ROUNDING_LEVELS, ROUNDING_MEAN_LEVELS = 4, 1.0
"""Crops of OpenCV 5 and 4.11 differ by no more: in 162 of photographs, turned and not, by 4 levels at most, by 2 in
half of them, and by 0.12 on average; of noise by 0.4 on average. That moves keypoints of small networks by 0.2 px in
fp32, and in int8, where values change their step, by as much as int8 does. A crop of another place differs by more."""
WHERE_NOBODY_IS = "where nobody is"
_DIGITS = 6
_RECORDED_SCORE = 1e-3
"""How far the scores of this version may lie from recorded ones, decoded from the same numbers: as float32 rounds."""
_TAMPERED = (
    "The golden data of the bundle contradicts itself: it was changed, or another version decoded it. Export it again."
)


def run_each(session: Session, tensors: Feed, spec: ModelSpec) -> dict[str, FloatArray]:
    """Runs N inputs, of `Preprocessor.feed`, one at a time; outputs by role, N first, see `joined`."""
    name = session.inputs[0].name
    by_role = []
    for index in range(len(tensors)):
        result = session.run({name: tensors[index : index + 1]})
        by_role.append({tensor.role: result[tensor.name].copy() for tensor in session.outputs})  # the next run's memory
    return joined(by_role, spec.decoder)


def batch_violations(
    session: Session, crops: Image, spec: ModelSpec, limits: LimitSpec, largest: int = TOGETHER
) -> list[str]:
    """The limits that several crops at once break, compared with one at a time, each as a phrase; empty if none.

    A network can be right for one crop and mix those of a batch, for example where a 1 in reshape stands for the batch.

    Args:
        session: Its batch; nothing is compared where it is fixed, or has no room for two crops.
        crops: (N, h, w, C) uint8; a few of them are run, and of a single one its mirror image too.
        spec: The model.
        limits: How far keypoints may lie.
        largest: How many crops the session takes at once.
    """
    image = session.inputs[0]
    if image.shape[0] is not None or largest < 2:
        return []
    chosen = crops if len(crops) > 1 else np.concatenate([crops, crops[:, :, ::-1]])
    feed = Preprocessor(spec.input, spec.input.color).feed(chosen[:largest], image)
    single, results = run_each(session, feed, spec), session.run({image.name: np.ascontiguousarray(feed)})
    single, together = evened(single, {one.role: results[one.name] for one in session.outputs}, spec.decoder)
    if wrong := [role for role, values in together.items() if values.shape != single[role].shape]:
        role = wrong[0]
        return [f"the output '{role}' has shape {together[role].shape} instead of {single[role].shape}"]
    return violations(compare("batch", single, together, spec, ""), limits, spec)


def presence_violations(session: Session, nobody: Nobody | None, spec: ModelSpec, limits: LimitSpec) -> list[str]:
    """Whether a session moves `presence` where nobody is, as a phrase; empty if not.

    A network is unsure of some of these crops, so that the largest deviation alone has a limit.

    Args:
        session: Of an artifact.
        nobody: What the reference makes of such crops; None compares nothing.
        spec: The model; nothing is compared where it has no `presence`.
        limits: Of the artifact.
    """
    if nobody is None or "presence" not in spec.heads:
        return []
    feed = Preprocessor(spec.input, spec.input.color).feed(nobody.crops, session.inputs[0])
    outputs = run_each(session, feed, spec)
    if wrong := [role for role, values in outputs.items() if not finite_crops(values).all()]:
        return [f"{WHERE_NOBODY_IS} '{wrong[0]}' is NaN or infinity"]
    found = presence_of(outputs, spec)
    moved = np.abs(found.astype(np.float64) - nobody.presence)
    worst, limit = int(moved.argmax()), MAX_FACTOR * head_limit(limits)
    if moved[worst] <= limit:
        return []
    return [
        f"{WHERE_NOBODY_IS} presence moves by {moved[worst]:.4g} (limit {limit:.4g}), to {found[worst]:.4g} from "
        f"{nobody.presence[worst]:.4g}"
    ]


def largest_batch(artifact: Artifact) -> int:
    """How many crops to compare at once: `TOGETHER`, or as many as an engine takes."""
    *_, largest = artifact.target.get("batch", "").split(",")
    return min(TOGETHER, int(largest)) if largest.isdecimal() and len(largest) <= _DIGITS else TOGETHER


@dataclass(frozen=True)
class CropDifference:
    """How the crop of the golden image that this machine cuts differs from the recorded one.

    Attributes:
        differing: Share of pixels that differ, 0 to 1.
        mean_levels: Mean difference of a value, levels of 255.
        max_levels: Largest difference of a value, levels of 255.
        opencv_recorded: Version of OpenCV that cut the recorded crop.
        opencv_here: Version of OpenCV on this machine.
    """

    differing: float
    mean_levels: float
    max_levels: int
    opencv_recorded: str
    opencv_here: str

    @property
    def is_rounding(self) -> bool:
        """Whether two versions of OpenCV may differ so."""
        return self.max_levels <= ROUNDING_LEVELS and self.mean_levels <= ROUNDING_MEAN_LEVELS

    def __str__(self) -> str:
        return (
            f"{self.differing:.2%} of its pixels differ, by {self.mean_levels:.2g} levels on average and "
            f"{self.max_levels} at most (OpenCV {self.opencv_here} here, {self.opencv_recorded} where it was recorded)"
        )


FEW = 4
"""Fewer keypoints, as detectors of hands have them, have no 95th percentile beside their largest value."""


@dataclass(frozen=True)
class ImageDeviation:
    """How far keypoints on the golden image lie off, in pixels of that image.

    Attributes:
        reference_px: From the recorded keypoints of the reference, the whole way: crop, artifact, back to the image.
        crop_px: What the crop alone does: from what the same artifact makes of the recorded crop.
        recorded_px: From the recorded keypoints to what the artifact makes of the recorded crop or of this machine's,
            whichever lies nearer: what is recorded is right where one of the two is.
        recorded_limit_px: What the largest of these may be in fp32, and half of them in fp16 and int8, whose limits are
            those of many crops.
        crop_p95_limit_px: How far the crop alone may move them, 95th percentile: as far as float16 may, or, where no
            value differs by more than rounding, as int8 or this artifact may; see
            `splite_deploy.metrics.parity.limits_of` and `CropDifference.is_rounding`.
            Of fewer than `FEW` keypoints, whose 95th percentile is all but the largest, that for the maximum.
        crop_max_limit_px: The same for the maximum.
    """

    reference_px: Percentiles
    crop_px: Percentiles
    recorded_px: Percentiles
    recorded_limit_px: float
    crop_p95_limit_px: float
    crop_max_limit_px: float

    @property
    def within_limits(self) -> bool:
        """Whether the crop alone moves keypoints by no more than it may."""
        return self.crop_px.p95 <= self.crop_p95_limit_px and self.crop_px.max <= self.crop_max_limit_px

    def __str__(self) -> str:
        return (
            f"p95 {self.crop_px.p95:.3g} px (limit {self.crop_p95_limit_px:.3g}) and max {self.crop_px.max:.3g} px "
            f"(limit {self.crop_max_limit_px:.3g}) of the image"
        )


@dataclass(frozen=True)
class Verification:
    """The check of one artifact on this machine.

    Attributes:
        artifact: The artifact.
        backend: What ran it.
        parity: How far its outputs on the golden crops lie from the reference.
        crop: How this machine's crop of the golden image differs; the same for every artifact.
        image: How far its keypoints on the golden image lie off.
        warnings: Remarks that are not failures, as text.
        violations: The limits it breaks; empty if it passed.
        placements: What ran its nodes, see `splite_deploy.runtime.session.Placed`; left out where nothing but the
            backend's usual device was asked for.
    """

    artifact: Artifact
    backend: str
    parity: Parity
    crop: CropDifference
    image: ImageDeviation
    warnings: tuple[str, ...]
    violations: tuple[str, ...]
    placements: tuple[Placement, ...] = field(default=(), metadata=OPTIONAL)

    @property
    def label(self) -> str:
        """For example ``ort fp32``."""
        return f"{self.backend} {self.artifact.precision}"


def verify(
    bundle: Bundle,
    backend: str | Sequence[str] | None = None,
    precision: Precision | Sequence[Precision] | None = None,
    *,
    threads: int | None = None,
    options: OptionSet = (),
    absent: Absent | None = None,
    progress: Callable[[str], None] = lambda message: None,
) -> list[Verification]:
    """Runs the golden crops and the golden image through the artifacts of a bundle on this machine.

    Args:
        bundle: An opened bundle.
        backend: Only this backend or these; see `pick_artifacts`.
        precision: Only this precision or these. Each backend that is named is checked in each of them.
        threads: CPU threads.
        options: How the backends work.
        absent: See `pick_artifacts`.
        progress: Called with each step as it begins.

    Returns:
        One result per artifact, whether it passed or not; see `check`.

    Raises:
        UsageError: The bundle has no such artifact.
        MissingDependencyError: A backend is not installed.
        BackendError: An artifact cannot be loaded or run.
    """
    chosen = pick_artifacts(bundle, backend, precision, absent=absent)
    golden, spec = bundle.golden(), bundle.model
    preprocessor = Preprocessor(spec.input, spec.input.color)
    crop, matrix = Preprocessor(spec.input, golden.image.color).crop(golden.image.pixels, golden.image.box)
    difference = compare_crops(golden.image, crop)
    recorded = recorded_violations(golden, spec)
    inputs = np.concatenate([golden.crops, golden.image.crop[None], crop[None]])
    results = []
    for runs_it, artifact in chosen:
        label = f"{runs_it.name} {artifact.precision}"
        progress(label)
        file = ModelFile.of(bundle, artifact)
        check_content(file)
        for one in file.each():
            first_load(runs_it, one)  # who made the bundle need not be who runs it
        with open_artifact(bundle, artifact, runs_it, threads=threads, options=options) as session:
            outputs = run_each(session, preprocessor.feed(inputs, session.inputs[0]), spec)
            mixed = batch_violations(session, golden.crops, spec, artifact.limits, largest_batch(artifact))
            present = presence_violations(session, golden.nobody, spec, artifact.limits)
            placements = session.placements() if isinstance(session, Placed) else ()
        on_crops = {role: values[:-2] for role, values in outputs.items()}
        on_image = {role: values[-2:] for role, values in outputs.items()}
        parity = compare(
            label,
            golden.outputs,
            on_crops,
            spec,
            "golden crops of the bundle",
            reference_name=golden.reference,
        )
        deviation = _on_image(on_image, golden.image, matrix, spec, artifact, by_rounding=difference.is_rounding)
        warnings: list[str] = []
        broken = violations(parity, artifact.limits, spec) + recorded
        broken += [f"several crops at once: {one}" for one in mixed] + present
        moved_px = deviation.recorded_px.max if artifact.precision == "fp32" else deviation.recorded_px.p50
        if not broken and not moved_px <= deviation.recorded_limit_px:  # else the artifact is off, not the record
            broken.append(
                f"the recorded keypoints of the golden image lie {moved_px:.4g} px off "
                f"(limit {deviation.recorded_limit_px:.4g})"
            )
        if difference.max_levels:
            said = f"the crop of the golden image differs: {difference}; alone it moves keypoints by {deviation}"
            (warnings if deviation.within_limits else broken).append(said)
        found = parity, difference, deviation, tuple(warnings), tuple(broken)
        results.append(Verification(artifact, runs_it.name, *found, placements))
    return results


def compare_crops(image: GoldenImage, crop: Image) -> CropDifference:
    """How a crop of the golden image differs from the recorded one."""
    levels = np.abs(crop.astype(np.int16) - image.crop)
    return CropDifference(
        differing=float((levels.max(axis=2) > 0).mean()),
        mean_levels=float(levels.mean()),
        max_levels=int(levels.max()),
        opencv_recorded=image.opencv,
        opencv_here=cv2.__version__,
    )


def recorded_violations(golden: Golden, spec: ModelSpec) -> list[str]:
    """What the golden data says that its own outputs do not decode to, each as a phrase; empty if nothing.

    The limits are those of fp32: the same numbers are decoded by the same formula, and only rounding may differ.

    Args:
        golden: Of the bundle.
        spec: The model.
    """
    found, recorded, limits = decode(golden.outputs, spec), golden.decoded, limits_of("fp32", spec)
    if found.people is not None and recorded.people is not None:
        return _recorded_people(found, recorded, spec, limits)
    broken = []
    moved_px = float(np.linalg.norm(found.keypoints - recorded.keypoints, axis=-1).max())
    if not moved_px <= limits.shift_max_px:
        broken.append(f"the recorded keypoints lie {moved_px:.4g} px from what the recorded outputs decode to")
    if not float(np.abs(found.scores - recorded.scores).max()) <= _RECORDED_SCORE:
        broken.append("the recorded scores are not what the recorded outputs decode to")
    if found.depth is not None and recorded.depth is not None:
        moved = float(np.abs(found.depth - recorded.depth).max())
        if not moved <= spec.depth_limit(limits):
            broken.append(f"the recorded depths lie {moved:.4g} from what the recorded outputs decode to")
    for head, values in (found.heads or {}).items():
        if not float(np.abs(values - (recorded.heads or {})[head]).max()) <= _RECORDED_SCORE:
            broken.append(f"the recorded {head} is not what the recorded outputs decode to")
    return broken


def _recorded_people(found: Decoded, recorded: Decoded, spec: ModelSpec, limits: LimitSpec) -> list[str]:
    """The same of people: every one that is no close call has to be among the others."""
    least = spec.decoder.min_score if isinstance(spec.decoder, PeopleDecoder) else 0.0
    for one, other, said in ((recorded, found, "are not"), (found, recorded, "are more than")):
        if one.people is None or other.people is None:
            continue
        for index in np.flatnonzero(one.people.scores > least + limits.score_max):
            same = _marks(other)[other.people.crops == one.people.crops[index]]
            away = np.linalg.norm(same - _marks(one)[index], axis=-1).max(axis=1, initial=0.0)
            if not away.size or not away.min() <= limits.shift_max_px:
                whose = "recorded people" if one is recorded else "people that the recorded outputs decode to"
                whom = "those that the recorded outputs decode to" if one is recorded else "those that are recorded"
                return [f"the {whose} {said} {whom}"]
    return []


def _marks(decoded: Decoded) -> FloatArray:
    """(P, K, 2) keypoints of people, or (P, 2, 2) corners of their boxes where there are none."""
    if decoded.people is None or decoded.keypoints.shape[1]:
        return decoded.keypoints
    return decoded.people.boxes.reshape(-1, CORNERS, 2)


def _on_image(
    outputs: Mapping[str, FloatArray],
    image: GoldenImage,
    matrix: Matrix,
    spec: ModelSpec,
    artifact: Artifact,
    *,
    by_rounding: bool,
) -> ImageDeviation:
    """Deviations on the golden image, from the outputs on the recorded crop and on this machine's, N = 2.

    Where a network finds any number of people those of the best one are compared.
    """
    decoder, back = spec.decoder, invert(matrix)
    if isinstance(decoder, PeopleDecoder):
        candidates = candidates_of(outputs, spec)
        found = same_person(candidates, decoder)[..., :2]
        wanted = transform_points(image.keypoints, matrix).astype(np.float32)
        both = np.stack([nearest_person(one, wanted) for one in candidates])
    else:
        found = both = decode(outputs, spec).keypoints
    on_recorded, nearest = transform_points(both, back)
    recorded, here = transform_points(found, back)
    limits, image_px = limits_of("int8" if by_rounding else "fp16", spec), 1 / scale_of(matrix)
    p95_px, max_px = limits.shift_p95_px, limits.shift_max_px
    if by_rounding:
        p95_px, max_px = max(p95_px, artifact.limits.shift_p95_px), max(max_px, artifact.limits.shift_max_px)
    many = len(recorded) >= FEW
    off = [percentiles(np.linalg.norm(one - image.keypoints, axis=-1)) for one in (nearest, on_recorded)]
    return ImageDeviation(
        reference_px=off[0],
        recorded_px=min(off, key=lambda one: one.max),
        recorded_limit_px=NOBODY_FACTOR * artifact.limits.shift_max_px * image_px
        if isinstance(decoder, PeopleDecoder)
        else artifact.limits.shift_max_px * image_px,
        crop_px=percentiles(np.linalg.norm(here - recorded, axis=-1)),
        crop_p95_limit_px=(p95_px if many else max_px) * image_px,
        crop_max_limit_px=max_px * image_px,
    )


def _of_this_cpu(hint: str) -> str:
    """What to do about int8 in ONNX Runtime where it may be this CPU that makes the difference."""
    cpu, version = read_int8_instructions(), installed_versions(distributions()).get("onnxruntime", "")
    if cpu.miscounts(version):
        return f"ONNX Runtime {version} computes some int8 layers wrongly on CPUs with AMX: {RIGHT_ONNXRUNTIME}. {hint}"
    if cpu.saturates:
        hint += (
            " Or sums of int8 saturate: this CPU has neither VNNI nor AMX. Then export again with --reduce-range, or "
            "run fp32 here."
        )
    return hint


def check(results: list[Verification]) -> None:
    """Raises `ParityError` if an artifact broke its limits."""
    if not results:
        raise UsageError("Nothing was verified.", hint="Name a bundle with artifacts.")
    for result in results:
        if result.violations:
            hint = (
                "Do not ship it from here: compare the backend's version, which 'splite-deploy doctor' tells, with "
                "that in the bundle's report.json."
            )
            if result.label == "ort int8":
                hint = _of_this_cpu(hint)
            if any("recorded" in one and "crop" not in one for one in result.violations):
                hint = _TAMPERED
            if not result.image.within_limits:
                recorded = result.crop.opencv_recorded
                package = quoted(f"opencv-python-headless=={recorded}.*")
                hint = f"Install OpenCV {recorded} here (pip install {package})."
            raise ParityError(f"{result.label} differs on this machine: {'; '.join(result.violations)}.", hint=hint)
