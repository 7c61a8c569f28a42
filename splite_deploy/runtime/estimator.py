"""Image and box to `Pose`: preprocess, session, decode, back to the image."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from splite_deploy.arrays import Feed, FloatArray, is_count
from splite_deploy.bundle import Bundle
from splite_deploy.decoders import Decoded, Decoding, PeopleDecoder, Unit, check_shapes
from splite_deploy.errors import BackendError, UsageError
from splite_deploy.metrics.turned_boxes import wrapped
from splite_deploy.runtime.any_angle import at_any_angle
from splite_deploy.runtime.backends.base import OneAtATime
from splite_deploy.runtime.closing import Closing
from splite_deploy.runtime.lift import absolute, checked_camera, in_palms, weak_perspective
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.pose import Origin, Pose
from splite_deploy.runtime.preprocess import (
    AnyImage,
    Matrix,
    Preprocessor,
    check_box,
    check_image,
    invert,
    transform_points,
)
from splite_deploy.runtime.scores import check_scores
from splite_deploy.runtime.session import OptionSet, Session, backend_of, open_session
from splite_deploy.spec import Color, ModelSpec, Precision

if TYPE_CHECKING:
    from splite_deploy.runtime.following import FollowingEstimator

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class StageTimes:
    """Where the time of some calls of an estimator went; the stages are those that `bench` times.

    Attributes:
        preprocess_ms: Of crops and normalisation.
        inference_ms: Of the session.
        decode_ms: From outputs to poses in the image.
    """

    preprocess_ms: float
    inference_ms: float
    decode_ms: float


@runtime_checkable
class Estimator(Protocol):
    """What finds keypoints in boxes of images: a `PoseEstimator`, or what has one of several answer."""

    @property
    def spec(self) -> ModelSpec:
        """The model."""

    @property
    def color(self) -> Color:
        """Channel order of the images."""

    @property
    def finds_people(self) -> bool:
        """See `PoseEstimator.finds_people`."""

    @property
    def takes_several(self) -> bool:
        """See `PoseEstimator.takes_several`."""

    def __call__(
        self,
        image: AnyImage,
        box: ArrayLike | None = None,
        *,
        intrinsics: ArrayLike | None = None,
        bone_length_mm: float | None = None,
    ) -> Pose:
        """See `PoseEstimator.__call__`."""

    def at_any_angle(self, image: AnyImage, box: ArrayLike | None = None, **options: Any) -> Pose:
        """See `PoseEstimator.at_any_angle`."""

    def batch(
        self,
        image: AnyImage,
        boxes: Iterable[ArrayLike | None],
        *,
        intrinsics: ArrayLike | None = None,
        bone_length_mm: float | None = None,
    ) -> list[Pose]:
        """See `PoseEstimator.batch`."""

    def detect(self, image: AnyImage, box: ArrayLike | None = None) -> list[Pose]:
        """See `PoseEstimator.detect`."""

    def check_options(self, intrinsics: ArrayLike | None = None, bone_length_mm: float | None = None) -> None:
        """See `PoseEstimator.check_options`."""

    def take_times(self) -> StageTimes:
        """See `PoseEstimator.take_times`."""

    def close(self) -> None:
        """Frees what is held."""


class PoseEstimator(Closing):
    """Finds keypoints in boxes of images.

    One serves one thread: a call while one of another thread runs is a `BackendError`.

    The stages are public, so that a benchmark times exactly what an application runs: `prepare`, ``session.run``,
    `decode` and `finish`.

    Args:
        spec: The model.
        session: A loaded artifact of that model. It is closed with the estimator, and also where none comes about.
        color: Channel order of the images it will be given; OpenCV reads ``bgr``.
        compared: Whether an export has compared the artifact with its network. Else the first result tells whether what
            is read as scores lies in 0 to 1, and is refused if not.

    Raises:
        UsageError: There is no such channel order.
        BackendError: The artifact's outputs are not those of the model.
    """

    def __init__(self, spec: ModelSpec, session: Session, color: Color = "bgr", *, compared: bool = True) -> None:
        try:
            if color not in ("rgb", "bgr"):
                raise UsageError(f"The channel order is {color!r}.", hint="Choose 'bgr' (OpenCV) or 'rgb'.")
            check_shapes({tensor.role: tensor.shape for tensor in session.outputs}, spec)
        except BaseException:
            session.close()
            raise
        self.spec = spec
        self.session = session
        self.color = color
        self._guard = OneAtATime("estimator")
        self._spent_s = (0.0, 0.0, 0.0)
        self.preprocessor = Preprocessor(spec.input, color)
        self._decode = Decoding(spec)
        self._compared = compared
        self._depth = spec.decoder.depth
        self._turn = spec.input.turn
        self._gives_more = self._turn is not None or bool(spec.heads)
        self._image = session.inputs[0]
        self._roles = {tensor.name: tensor.role for tensor in session.outputs}

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        backend: str = "auto",
        precision: Precision | None = None,
        threads: int | None = None,
        color: Color = "bgr",
        options: OptionSet = (),
    ) -> PoseEstimator:
        """Opens a bundle.

        Args:
            path: The bundle's folder.
            backend: ``trt``, ``ort``, ``tflite``, ``replay``, the name of a plug-in, or ``auto`` for the first that is
                installed and that the bundle holds an artifact for.
            precision: ``fp32``, ``fp16`` or ``int8``; None takes the backend's first artifact.
            threads: CPU threads; None is the backend's default.
            color: Channel order of the images.
            options: How the backend works, for example ``TrtOptions``; of several those of the backend that runs.

        Raises:
            BundleError: The bundle is missing or damaged.
            UsageError: It has no such artifact, or the options are for another backend.
            MissingDependencyError: The backend's package is not installed.
            BackendError: The backend cannot load the artifact.
        """
        bundle = Bundle.open(path)
        return cls(bundle.model, open_session(bundle, backend, precision, threads=threads, options=options), color)

    @classmethod
    def follow(
        cls,
        store: str | PathLike[str],
        backend: str = "auto",
        precision: Precision | None = None,
        threads: int | None = None,
        color: Color = "bgr",
        options: OptionSet = (),
        *,
        proving_frames: int = 30,
        look_every_s: float = 1.0,
        told: Callable[[str], None] = lambda message: None,
    ) -> FollowingEstimator:
        """Opens what is installed in a store, and goes on with what is installed there later; see `FollowingEstimator`.

        Args:
            store: The folder that ``splite-deploy install`` installs into.
            backend: As for `open`.
            precision: As for `open`.
            threads: As for `open`.
            color: As for `open`.
            options: As for `open`.
            proving_frames: After how many calls without an error a new bundle has proven itself. Until then an error
                leads back to the one before.
            look_every_s: How often to look into the store, in seconds.
            told: Called with a sentence where another bundle answers from now on, or fails, by a thread of its own.

        Raises:
            UpdateError: There is no store.
            UsageError: A value is out of its range, the bundle has no such artifact, or the options do not fit.
            SpliteError: Neither of its bundles can be opened; see `open`.
        """
        from splite_deploy.runtime.following import FollowingEstimator
        from splite_deploy.updates import Store

        if not (is_count(proving_frames, 1) and 0 < look_every_s < math.inf):
            raise UsageError(
                f"A bundle would prove itself in {proving_frames} frames, and be looked for every {look_every_s} s.",
                hint="Pass a whole number from 1 on, and seconds above 0.",
            )

        def load(bundle: Bundle) -> PoseEstimator:
            session = open_session(bundle, backend, precision, threads=threads, options=options)
            return PoseEstimator(bundle.model, session, color)

        return FollowingEstimator(Store(Path(store)), load, proving_frames, look_every_s, told)

    @classmethod
    def open_file(
        cls,
        path: str | PathLike[str],
        model: str | PathLike[str] | None = None,
        backend: str = "auto",
        threads: int | None = None,
        color: Color = "bgr",
        options: OptionSet = (),
    ) -> PoseEstimator:
        """Opens a file without a bundle, of any maker: nothing has compared it with the network that it was made from.

        Args:
            path: An ``.onnx`` or ``.tflite`` file, or an engine.
            model: Its ``model.toml``; None is the one beside it.
            backend: A backend's name, or ``auto`` for the first that is installed and runs such files.
            threads: As for `open`.
            color: As for `open`.
            options: As for `open`.

        Raises:
            SpecError: There is no ``model.toml``, or it is wrong.
            UsageError: No backend runs such a file, it does not exist, or the options do not fit.
            MissingDependencyError: The backend's package is not installed.
            BackendError: The backend cannot load the file, or it is not what ``model.toml`` says.
        """
        file = NetworkFile.read(Path(path), None if model is None else Path(model), backend)
        return cls.of_file(file, backend, threads, color, options)

    @classmethod
    def of_file(
        cls,
        file: NetworkFile,
        backend: str = "auto",
        threads: int | None = None,
        color: Color = "bgr",
        options: OptionSet = (),
    ) -> PoseEstimator:
        """The same of a file whose model spec was read.

        Args:
            file: With its model spec.
            backend: As for `open_file`.
            threads: As for `open`.
            color: As for `open`.
            options: As for `open`.

        Raises:
            SpliteError: See `open_file`.
        """
        session = file.open(backend_of(file.path, backend), threads=threads, options=options)
        return cls(file.spec, session, color, compared=False)

    def __call__(
        self,
        image: AnyImage,
        box: ArrayLike | None = None,
        *,
        intrinsics: ArrayLike | None = None,
        bone_length_mm: float | None = None,
    ) -> Pose:
        """Keypoints in one box.

        A network that finds several people looks inside the box, and the person of the highest score there is given,
        however low that is: `Pose.box_score` tells. `detect` gives all of them.

        Args:
            image: (H, W, 3) uint8, as ``cv2.imread`` gives it; its None, where there is no image, is refused.
            box: xyxy in pixels; None is the whole image. Where crops are turned a fifth number may follow, the angle in
                degrees; see `splite_deploy.metrics.turned_boxes`. `at_any_angle` needs none.
            intrinsics: (3, 3) camera matrix; with ``bone_length_mm`` it makes ``keypoints_3d`` absolute millimetres.
            bone_length_mm: Palm length of this person: the length of the decoder's scale bone, or the root mean
                square of several.

        Raises:
            UsageError: The image or the box cannot be used.
            BackendError: The backend failed, or gave a result that is not finite.
        """
        self.check_options(intrinsics, bone_length_mm)
        return self._estimate(image, [box], best=True, intrinsics=intrinsics, bone_length_mm=bone_length_mm)[0]

    def at_any_angle(self, image: AnyImage, box: ArrayLike | None = None, **options: Any) -> Pose:
        """Keypoints in a box whose angle nobody knows: by two to six inferences where crops are turned, else by one.

        The first looks into the box at angle 0. Where it finds nobody, by the presence, or one who is turned by more
        than 30 degrees, three others look at 90, 180 and -90. The two surest of these, by presence and mean score,
        tell where to look once more, into the tight box of their keypoints at their angle; the surer of these last
        looks counts.

        Args:
            image: See `__call__`.
            box: xyxy in pixels; None is the whole image. One with an angle is looked into once, at that.
            options: Those of `__call__`.

        Raises:
            UsageError: See `__call__`.
            BackendError: See `__call__`.
        """
        return at_any_angle(self, self.spec.input)(image, box, **options)

    def check_options(self, intrinsics: ArrayLike | None = None, bone_length_mm: float | None = None) -> None:
        """Refuses options of `__call__` that cannot be used, whatever an image shows.

        Args:
            intrinsics: See `__call__`.
            bone_length_mm: See `__call__`.

        Raises:
            UsageError: One is given without the other or is unusable, or the model gives no depth.
        """
        if intrinsics is None and bone_length_mm is None:
            return
        if self._depth is None:
            raise UsageError("This model gives no depth.", hint="Leave out intrinsics and bone length.")
        if intrinsics is None or bone_length_mm is None:
            raise UsageError(
                "Absolute 3D needs both the intrinsics and a bone length.",
                hint="Give both, or neither for 3D relative to the root keypoint.",
            )
        checked_camera(intrinsics, bone_length_mm)

    def detect(self, image: AnyImage, box: ArrayLike | None = None) -> list[Pose]:
        """All people whose score reaches the threshold of the model, by falling score; an empty list for none.

        Args:
            image: See `__call__`.
            box: xyxy in pixels in which to look; None is the whole image.

        Raises:
            UsageError: The image or the box cannot be used, or the model finds one hand or person in each box.
            BackendError: See `__call__`.
        """
        if not self.finds_people:
            raise UsageError(
                f"The model '{self.spec.name}' finds one hand or person in each box, and no boxes.",
                hint="Call the estimator itself, with the image and a box.",
            )
        return self._estimate(image, [box], best=False)

    @property
    def finds_people(self) -> bool:
        """Whether the network finds any number of people in an image; see `detect`."""
        return isinstance(self.spec.decoder, PeopleDecoder)

    @property
    def takes_several(self) -> bool:
        """Whether one inference takes several crops; see `batch`."""
        return self._image.shape[0] is None

    def batch(
        self,
        image: AnyImage,
        boxes: Iterable[ArrayLike | None],
        *,
        intrinsics: ArrayLike | None = None,
        bone_length_mm: float | None = None,
    ) -> list[Pose]:
        """Keypoints in several boxes of one image, by one inference; the bundle needs a dynamic batch.

        A network that finds several people gives for each box the person of the highest score.

        Args:
            image: See `__call__`.
            boxes: See `__call__`, any number of them.
            intrinsics: See `__call__`.
            bone_length_mm: See `__call__`; one length holds for all boxes.

        Raises:
            UsageError: The image or a box cannot be used.
            BackendError: The artifact has a fixed batch size, or the backend failed.
        """
        try:
            boxes = list(boxes)
        except TypeError as err:
            raise UsageError(
                f"{boxes!r} is no list of boxes.", hint="Pass a list of boxes; None in it is the whole image."
            ) from err
        self.check_options(intrinsics, bone_length_mm)
        if not boxes:
            return []
        return self._estimate(image, boxes, best=True, intrinsics=intrinsics, bone_length_mm=bone_length_mm)

    def _estimate(
        self,
        image: AnyImage,
        boxes: Sequence[ArrayLike | None],
        *,
        best: bool,
        intrinsics: ArrayLike | None = None,
        bone_length_mm: float | None = None,
    ) -> list[Pose]:
        """All stages in a row; of several people the ``best`` of each box, or all."""
        with self._guard:
            decode = self._decode.best if best else self._decode
            began_s = time.perf_counter()
            tensor, frames = self.prepare(image, boxes)
            prepared_s = time.perf_counter()
            outputs = self.session.run({self._image.name: tensor})
            inferred_s = time.perf_counter()
            poses = self.finish(decode(self._by_role(outputs)), frames, intrinsics, bone_length_mm)
            ended_s = time.perf_counter()
            before = self._spent_s
            self._spent_s = (
                before[0] + prepared_s - began_s,
                before[1] + inferred_s - prepared_s,
                before[2] + ended_s - inferred_s,
            )
            return poses

    def take_times(self) -> StageTimes:
        """Where the time went of all calls since this was last asked: asked after each frame, that of the frame."""
        taken_ms = [1000 * spent_s for spent_s in self._spent_s]
        self._spent_s = (0.0, 0.0, 0.0)
        return StageTimes(*taken_ms)

    def prepare(
        self, image: AnyImage, boxes: Sequence[ArrayLike | None]
    ) -> tuple[Feed, list[tuple[NDArray[np.float64], Matrix]]]:
        """Crops, and normalises where the graph does not; returns the input and, per crop, its box and its matrix."""
        image = check_image(image)
        crops, frames = [], []
        for box in boxes:
            checked = check_box(box, image.shape[0], image.shape[1])
            crop, matrix = self.preprocessor.crop(image, checked)
            crops.append(crop)
            frames.append((checked, matrix))
        return self.preprocessor.feed(crops, self._image), frames

    def decode(self, outputs: dict[str, FloatArray]) -> Decoded:
        """Outputs of the session to keypoints in input pixels; of a network that finds people, of all of them."""
        return self._decode(self._by_role(outputs))

    def _by_role(self, outputs: dict[str, FloatArray]) -> dict[str, FloatArray]:
        named = {self._roles[name]: array for name, array in outputs.items()}
        if not self._compared:
            check_shapes({role: array.shape for role, array in named.items()}, self.spec)
            check_scores(named, self.spec, "the first image", BackendError)
            self._compared = True
        return named

    def finish(
        self,
        decoded: Decoded,
        frames: Sequence[tuple[NDArray[np.float64], Matrix]],
        intrinsics: ArrayLike | None = None,
        bone_length_mm: float | None = None,
    ) -> list[Pose]:
        """Maps keypoints back to the image and lifts them to 3D: a pose of each box, or of each person found."""
        people, poses = decoded.people, []
        for index, crop in enumerate(range(len(frames)) if people is None else people.crops):
            box, matrix = frames[crop]
            keypoints = transform_points(decoded.keypoints[index], invert(matrix)).astype(np.float32)
            points_3d, unit, origin = self._lift(keypoints, decoded, index, matrix, intrinsics, bone_length_mm)
            score = None
            self._check_pose(keypoints, points_3d)
            if people is not None:
                box = transform_points(people.boxes[index].reshape(2, 2), invert(matrix)).reshape(4)
                score = float(people.scores[index])
                if not np.abs(box).max() <= _LARGEST:
                    raise _not_finite("boxes in the image")
            found = keypoints, decoded.scores[index].copy(), box[:4].astype(np.float32)
            pose = Pose(*found, points_3d, unit, origin, score, skeleton=self.spec.skeleton)
            poses.append(replace(pose, **self._more(decoded, index, box)) if self._gives_more else pose)
        return poses

    def _more(self, decoded: Decoded, index: int, box: NDArray[np.float64]) -> dict[str, Any]:
        """What few networks give: heads by name, and the angle of the box."""
        more: dict[str, Any] = {role: float(values[index]) for role, values in (decoded.heads or {}).items()}
        if self._turn is not None:
            more["angle_deg"] = wrapped(float(box[4])) if box.size > 4 else 0.0
        return more

    @staticmethod
    def _check_pose(keypoints: FloatArray, points_3d: FloatArray | None) -> None:
        """Refuses what finite keypoints overflowed to on the way back to the image, and in three dimensions."""
        said = "keypoints in the image" if not np.isfinite(keypoints).all() else ""
        if points_3d is not None and not np.isfinite(points_3d).all():
            said = said or "keypoints in three dimensions"
        if said:
            raise _not_finite(said)

    def _lift(
        self,
        keypoints: FloatArray,
        decoded: Decoded,
        index: int,
        matrix: Matrix,
        intrinsics: ArrayLike | None,
        bone_length_mm: float | None,
    ) -> tuple[FloatArray, Unit, Origin] | tuple[None, None, None]:
        how = self._depth
        if decoded.depth is None or how is None:
            return None, None, None
        depth: FloatArray | None = decoded.depth[index]
        unit: Unit = "mm" if how.unit == "mm" else "palm"
        if how.unit == "pixel":
            image_px = 1 / math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
            depth = in_palms(keypoints, decoded.depth[index] * np.float32(image_px), how)
        if depth is None:
            return None, None, None
        origin: Origin = "root"
        if intrinsics is not None and bone_length_mm is not None:
            unit, origin = "mm", "camera"
            points = absolute(keypoints, depth, how, intrinsics, bone_length_mm)
        else:
            # ModelSpec requires palm_mm where the depth is in millimetres
            palm = self.spec.palm_mm if unit == "mm" and self.spec.palm_mm is not None else 1.0
            points = weak_perspective(keypoints, depth, how, palm)
        return (points, unit, origin) if points is not None else (None, None, None)

    def close(self) -> None:
        """Frees the session.

        Raises:
            BackendError: Another thread uses it.
        """
        if self._guard.forked:
            self.session.close()
            return
        with self._guard:
            self.session.close()


def _not_finite(what: str) -> BackendError:
    return BackendError(
        f"The {what} are not finite (NaN or infinity).",
        hint="The network gives numbers near the end of float32: look at its weights.",
    )
