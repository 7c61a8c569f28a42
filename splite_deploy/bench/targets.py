"""What a benchmark times: an artifact of a bundle, a file with its model spec, or the network of a file alone."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bench.deviation import deviation_of
from splite_deploy.bench.feeds import feeds_from_file, random_feeds
from splite_deploy.bench.loop import EstimatorSubject, Input, NetworkSubject, Subject
from splite_deploy.bench.process import cold_start
from splite_deploy.bench.profile import profile_artifact, profile_file, profile_network
from splite_deploy.bench.result import KeypointDeviation, Memory, Startup, label_of
from splite_deploy.bundle import MANIFEST, Artifact, Bundle
from splite_deploy.bundle.report import Layer
from splite_deploy.files import sha256_of
from splite_deploy.runtime.backends.base import Backend
from splite_deploy.runtime.crops import cut, random_pictures
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.preprocess import check_image
from splite_deploy.runtime.session import (
    OptionSet,
    Session,
    backend_of,
    configured,
    open_artifact,
    open_model_file,
    read_file,
)
from splite_deploy.spec import Color, InputSpec, ModelSpec

RANDOM_PICTURES = 8
"""Where neither images nor golden crops are at hand."""


@dataclass(frozen=True)
class Opened:
    """A target that is loaded.

    Attributes:
        subject: What is timed.
        estimator: What finds poses; None of a network alone.
        session: What runs the network.
        facts: What it says of itself in a result.
    """

    subject: Subject
    estimator: PoseEstimator | None
    session: Session
    facts: Mapping[str, Any]


class Target(ABC):
    """One file and the backend that runs it.

    Attributes:
        backend: The backend.
        facts: What it says of itself in a result before it is loaded.
    """

    backend: Backend
    facts: Mapping[str, Any]

    @property
    def source(self) -> str:
        """What the bundle, or the file without one, is called: ``hand.splite``."""
        return str(self.facts["bundle"] or self.facts["artifact_file"])

    def rename(self, source: str) -> None:
        """Calls the bundle, or the file without one, something else in results."""
        self.facts = {**self.facts, "bundle" if self.facts["bundle"] else "artifact_file": source}

    @property
    def label(self) -> str:
        """For example ``hand.splite ort int8``."""
        ran = label_of(self.backend.name, self.facts["provider"], self.facts["precision"])
        return f"{self.source} {ran}"

    @property
    @abstractmethod
    def path(self) -> Path:
        """The bundle, or the file without one."""

    @abstractmethod
    def opened(self, batch: int) -> AbstractContextManager[Opened]:
        """A context in which it is loaded, as `Opened`.

        Args:
            batch: Crops per frame.

        Raises:
            MissingDependencyError: The backend's package is not installed.
            BackendError: The backend cannot load it.
        """

    @abstractmethod
    def cold_start(self, batch: int) -> tuple[Startup, Memory | None]:
        """See `splite_deploy.bench.process.cold_start`; after it was loaded."""

    def layers(self) -> tuple[Layer, ...]:
        """What it is made of, where the backend can tell."""
        return ()


class PoseTarget(Target):
    """One that is timed end to end.

    Args:
        model: Its model.
        backend: What runs it.
        inputs: Images with boxes, used in turn.
        color: Channel order of these.
        inputs_from: Where they come from, as text.
        options: How the backends work.
        threads: CPU threads of the backend; None is its default.
    """

    def __init__(
        self,
        model: ModelSpec,
        backend: Backend,
        inputs: Sequence[Input],
        color: Color,
        inputs_from: str,
        options: OptionSet,
        threads: int | None,
    ) -> None:
        self.model, self.backend, self.inputs, self.color = model, backend, inputs, color
        self._settings = configured(backend, options, threads=threads)
        self._timed = configured(backend, self._settings, stage_timing=True)
        sizes = [check_image(image).shape for image, _ in inputs] or [(0, 0, 3)]
        height_px, width_px = max(sizes, key=lambda shape: shape[0] * shape[1])[:2]
        self.facts = {
            "inputs_from": inputs_from,
            "inputs_count": len(inputs),
            "image_width_px": width_px,
            "image_height_px": height_px,
            "provider": self._settings.runs_on or None,
        }

    @abstractmethod
    def open_estimator(self) -> PoseEstimator:
        """An estimator of its own."""

    def deviation(self, session: Session) -> KeypointDeviation | None:
        """How far it moves keypoints, by a session of it; None where there is nothing to compare with."""
        return None

    @contextmanager
    def opened(self, batch: int) -> Iterator[Opened]:
        """See `Target.opened`."""
        with self.open_estimator() as estimator:
            yield Opened(EstimatorSubject(estimator, self.inputs, batch), estimator, estimator.session, self.facts)


class ArtifactTarget(PoseTarget):
    """An artifact of a bundle.

    Args:
        bundle: The bundle.
        artifact: One of its artifacts.
        backend: What runs it.
        options: How the backends work.
        threads: CPU threads of the backend; None is its default.
        inputs: Images with boxes; None takes the golden crops.
        color: Channel order of these; golden crops are in the model's own.
        inputs_from: Where they come from, as text.
    """

    def __init__(
        self,
        bundle: Bundle,
        artifact: Artifact,
        backend: Backend,
        *,
        options: OptionSet = (),
        threads: int | None = None,
        inputs: Sequence[Input] | None = None,
        color: Color = "bgr",
        inputs_from: str = "images given by the caller",
    ) -> None:
        if inputs is None:
            inputs, color = golden_inputs(bundle), bundle.model.input.picture_color
            inputs_from = "golden crops of the bundle"
        super().__init__(bundle.model, backend, inputs, color, inputs_from, options, threads)
        self.bundle, self.artifact = bundle, artifact
        self.facts = {
            **self.facts,
            "bundle": bundle.path.resolve().name,
            "model": bundle.model.name,
            "artifact_file": artifact.files_text,
            "artifact_sha256": artifact.content_sha256,
            "precision": artifact.precision,
            "model_bytes": bundle.size_of(artifact),
            "manifest_sha256": sha256_of(bundle.path / MANIFEST),
        }

    @property
    def path(self) -> Path:
        """See `Target.path`."""
        return self.bundle.path

    def open_estimator(self) -> PoseEstimator:
        """See `PoseTarget.open_estimator`."""
        session = open_artifact(self.bundle, self.artifact, self.backend, options=self._timed)
        return PoseEstimator(self.bundle.model, session, self.color)

    def layers(self) -> tuple[Layer, ...]:
        """See `Target.layers`."""
        if self.backend.open_traced is None:
            return ()
        return profile_artifact(self.bundle, self.artifact, backend=self.backend, threads=None, options=self._settings)

    def deviation(self, session: Session) -> KeypointDeviation | None:
        """See `PoseTarget.deviation`."""
        if not self.backend.computes:
            return None
        usual = not self._settings.runs_on  # what was recorded is of the backend's usual device
        return deviation_of(self.bundle, self.artifact, self.backend, session, recorded=usual)

    def cold_start(self, batch: int) -> tuple[Startup, Memory | None]:
        """See `Target.cold_start`."""
        return cold_start(self.bundle.path, self.backend, self.artifact.precision, self._settings, batch)


class FileTarget(PoseTarget):
    """A file without a bundle, by its model spec.

    Args:
        file: The file.
        backend: What runs it.
        options: How the backends work.
        threads: CPU threads of the backend; None is its default.
        inputs: Images with boxes; None takes random pictures as small as the input of the network.
        color: Channel order of these.
        inputs_from: Where they come from, as text.
    """

    def __init__(
        self,
        file: NetworkFile,
        backend: Backend,
        *,
        options: OptionSet = (),
        threads: int | None = None,
        inputs: Sequence[Input] | None = None,
        color: Color = "bgr",
        inputs_from: str = "images given by the caller",
    ) -> None:
        spec = file.spec
        if inputs is None:
            pictures = random_pictures(RANDOM_PICTURES, max(spec.input.height, spec.input.width))
            inputs, color, inputs_from = [(picture, None) for picture in pictures], "bgr", "random pictures"
        super().__init__(spec, backend, inputs, color, inputs_from, options, threads)
        self.file = file
        self.facts = {
            **self.facts,
            "bundle": "",
            "model": spec.name,
            "artifact_file": file.path.name,
            "artifact_sha256": hashlib.sha256(file.data).hexdigest(),
            "precision": None,
            "model_bytes": len(file.data),
        }

    @property
    def path(self) -> Path:
        """See `Target.path`."""
        return self.file.path

    def open_estimator(self) -> PoseEstimator:
        """See `PoseTarget.open_estimator`."""
        session = self.file.open(self.backend, options=self._timed)
        return PoseEstimator(self.file.spec, session, self.color, compared=False)

    def layers(self) -> tuple[Layer, ...]:
        """See `Target.layers`."""
        if self.backend.open_traced is None:
            return ()
        spec, few = self.file.spec, self.inputs[:RANDOM_PICTURES]
        boxed = [(image, None if box is None else np.asarray(box, float)) for image, box in few]
        crops = cut(boxed, self.color, spec.input)
        return profile_file(self.backend, self.file.content(self.backend), spec, crops, options=self._settings)

    def cold_start(self, batch: int) -> tuple[Startup, Memory | None]:
        """See `Target.cold_start`."""
        sizes = [(batch, *self.file.image_shape)]
        return cold_start(self.file.path, self.backend, None, self._settings, batch, sizes)


class NetworkTarget(Target):
    """The network alone of a file of which no model spec is needed.

    Args:
        path: The file.
        backend: A backend's name, or ``auto``; see `splite_deploy.runtime.session.backend_of`.
        options: How the backends work.
        threads: CPU threads of the backend; None is its default.
        tensors: A ``.npz`` of inputs, used in turn, see `feeds_from_file`; None takes random numbers.

    Raises:
        UsageError: No backend runs such a file, or an option cannot be used.
        MissingDependencyError: The backend's package is not installed.
    """

    def __init__(
        self,
        path: Path,
        backend: str = "auto",
        *,
        options: OptionSet = (),
        threads: int | None = None,
        tensors: Path | None = None,
    ) -> None:
        self._path, self.backend = path, backend_of(path, backend)
        self._settings = configured(self.backend, options, threads=threads)
        self._tensors = tensors
        self._feeds: Sequence[Mapping[str, NDArray[Any]]] = ()
        self._file = read_file(path, self.backend)
        self.facts = {
            "bundle": "",
            "model": path.stem,
            "artifact_file": path.name,
            "artifact_sha256": hashlib.sha256(self._file.data).hexdigest(),
            "precision": None,
            "model_bytes": len(self._file.data),
            "inputs_from": "random numbers" if tensors is None else f"tensors of {tensors.name}",
            "image_width_px": 0,
            "image_height_px": 0,
            "provider": self._settings.runs_on or None,
        }

    @property
    def path(self) -> Path:
        """See `Target.path`."""
        return self._path

    @contextmanager
    def opened(self, batch: int) -> Iterator[Opened]:
        """See `Target.opened`; the result has the batch of the one input that is run."""
        with open_model_file(self.backend, self._file, options=self._settings) as session:
            tensors = self._tensors
            feeds = random_feeds(session.inputs, batch) if tensors is None else feeds_from_file(tensors, session.inputs)
            self._feeds = feeds
            facts = {**self.facts, "batch": _crops(feeds[0], batch), "inputs_count": len(feeds)}
            yield Opened(NetworkSubject(session, feeds), None, session, facts)

    def layers(self) -> tuple[Layer, ...]:
        """See `Target.layers`; after it was loaded."""
        if self.backend.open_traced is None or not self._feeds:
            return ()
        return profile_network(self.backend, self._file, self._feeds, options=self._settings)

    def cold_start(self, batch: int) -> tuple[Startup, Memory | None]:
        """See `Target.cold_start`."""
        sizes = [values.shape for values in self._feeds[0].values()] if self._feeds else []
        return cold_start(self.path, self.backend, None, self._settings, batch, sizes)


def _crops(feed: Mapping[str, NDArray[Any]], batch: int) -> int:
    """Crops in one inference of a file that has no model spec: those of its input, where it is one of images."""
    values = next(iter(feed.values()))
    return len(values) if len(feed) == 1 and values.ndim == 4 else batch


def golden_inputs(bundle: Bundle) -> list[Input]:
    """The golden crops as images, see `crop_inputs`."""
    return crop_inputs(bundle.golden().crops, bundle.model.input)


def crop_inputs(crops: NDArray[np.uint8], spec: InputSpec) -> list[Input]:
    """Crops as images, each with the box that cuts out the whole of it.

    The preprocessing pads a box before it cuts; shrunk by that padding, the box of the whole crop gives it
    back pixel by pixel. The images have the channel order of the model; grey crops get three equal channels.

    Args:
        crops: (N, h, w, C).
        spec: What they were cut for.
    """
    margin_x = spec.width / 2 * (1 - 1 / spec.box_padding)
    margin_y = spec.height / 2 * (1 - 1 / spec.box_padding)
    box = (margin_x, margin_y, spec.width - margin_x, spec.height - margin_y)
    return [(crop if spec.channels == 3 else np.repeat(crop, 3, 2), box) for crop in crops]
