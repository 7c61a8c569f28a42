"""The error of a network: on labels where there are some, else how far its keypoints lie from the parent's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splite_deploy.bench.evaluation import evaluate, evaluation_labels, evaluation_scenes, ignored_labels
from splite_deploy.bench.loop import Input
from splite_deploy.bench.targets import crop_inputs
from splite_deploy.bundle import Bundle
from splite_deploy.errors import UsageError
from splite_deploy.export.artifacts import GraphFile
from splite_deploy.export.crops import make_crops
from splite_deploy.export.graph.torch_to_onnx import simplified_graph
from splite_deploy.export.source.load import LoadedModel, load_model
from splite_deploy.metrics.parity import percentiles
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.session import Session, open_artifact, open_bytes, pick_artifact
from splite_deploy.spec.plain import to_plain

UNITS = {"labels": "% of the box", "parent": "px from the parent"}
"""Of an error, by what it was measured against."""


@dataclass(frozen=True)
class Yardstick:
    """What errors are measured against.

    Attributes:
        labels: Labels of the model's skeleton; None compares with the parent.
        parent: The network that the search began with.
        model: Its model spec.
        images: Images to compare with the parent on; None renders them.
        crops: How many.
    """

    labels: Path | None
    parent: Path
    model: Path
    images: Path | None
    crops: int

    @property
    def against(self) -> str:
        """A key of `UNITS`."""
        return "parent" if self.labels is None else "labels"

    def of_checkpoint(self, checkpoint: Path, model: Path) -> dict[str, Any]:
        """The error of a network in float32, see `_measure`.

        Args:
            checkpoint: Its weights.
            model: Its model spec.

        Raises:
            SpliteError: It cannot be loaded, or nothing can be measured with it.
        """
        with _open(network := load_model(checkpoint, model, None)) as session:
            return self._measure(PoseEstimator(network.spec, session, "rgb"))

    def of_bundle(self, bundle: Bundle, backend: str) -> dict[str, Any]:
        """The error of the first artifact of a bundle, as a backend computes it on this machine."""
        chosen, artifact = pick_artifact(bundle, backend, None)
        with open_artifact(bundle, artifact, chosen, threads=1) as session:
            return self._measure(PoseEstimator(bundle.model, session, "rgb"))

    def _measure(self, estimator: PoseEstimator) -> dict[str, Any]:
        """The error, and beside it what else is known.

        Args:
            estimator: Takes RGB.

        Returns:
            ``error``: the mean keypoint error on labels, percent of the box; or the 95th percentile of how far
            keypoints lie from the parent's, pixels of the parent's input. ``against``: a key of `UNITS`. ``details``.
        """
        found, details = self._on_labels(estimator) if self.labels is not None else self._beside_parent(estimator)
        return {"error": found, "against": self.against, "details": details}

    def _on_labels(self, estimator: PoseEstimator) -> tuple[float, Mapping[str, Any]]:
        assert self.labels is not None
        count = estimator.spec.keypoint_count
        labels = evaluation_labels(self.labels, count)
        folder = self.labels if self.labels.is_dir() else self.labels.parent
        scenes = evaluation_scenes(self.labels) if estimator.finds_people else {}
        ignored = ignored_labels(self.labels, count)
        found = evaluate(estimator, labels, folder.resolve().name, folder, ignored=ignored, scenes=scenes)
        if found.epe_box_pct is None:
            raise UsageError("The network finds nobody on these labels.", hint="Fine-tune it for longer: --steps.")
        return found.epe_box_pct, {"images": found.images, "pck_05": found.pck_05, "pa_mpjpe_mm": found.pa_mpjpe_mm}

    def _beside_parent(self, estimator: PoseEstimator) -> tuple[float, Mapping[str, Any]]:
        if estimator.finds_people:
            raise UsageError(
                "The network finds people itself, so its keypoints cannot be compared one by one with the parent's.",
                hint="Name labels to measure its error on: --labels.",
            )
        parent = load_model(self.parent, self.model, None)
        made = make_crops(self.images, self.crops, parent.spec.input, parent.host)
        inputs = crop_inputs(made.pixels, parent.spec.input)
        color = parent.spec.input.picture_color
        with _open(parent) as session:
            truth = _keypoints(PoseEstimator(parent.spec, session, color), inputs)
        found = _keypoints(PoseEstimator(estimator.spec, estimator.session, color), inputs)
        moved = percentiles(np.linalg.norm(found - truth, axis=-1))
        return moved.p95, {**to_plain(moved), "crops": len(inputs), "crops_from": made.origin}


def _open(network: LoadedModel) -> Session:
    graph = simplified_graph(network.network, network.spec)
    file = GraphFile.of("network.onnx", graph, network.spec.decoder)
    return open_bytes(file.content, file.artifact("fp32", network.spec.limits), threads=1)


def _keypoints(estimator: PoseEstimator, inputs: list[Input]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, K, 2) keypoints in pixels of the pictures."""
    return np.stack(
        [estimator(image, None if box is None else np.asarray(box, float)).keypoints for image, box in inputs]
    )
