"""What the command bench times: of bundles every artifact that runs here, and files without a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splite_deploy.cli.network_file import is_network_file, reject_bundle_options, reject_model
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.spec import InputSpec, Precision

if TYPE_CHECKING:
    from splite_deploy.bench import BenchResult, Target
    from splite_deploy.bundle import Artifact, Bundle
    from splite_deploy.runtime.backends.base import BackendOptions

BENCH_IMAGES = 64
"""Largest number of images that are kept in memory and used in turn."""


@dataclass(frozen=True)
class LeftOut:
    """Something that was not timed.

    Attributes:
        name: What it is.
        error: Why.
        expected: Whether that is no failure: its backend is not installed, or it needs a GPU of NVIDIA.
    """

    name: str
    error: SpliteError
    expected: bool

    def __str__(self) -> str:
        hint = f" {self.error.hint}" if self.error.hint else ""
        return f"Left out {self.name}: {self.error.message}{hint}"


class Targets:
    """What is to be timed, and what is not.

    Args:
        model: The model spec of files without a bundle; None is the one beside each.
        backends: Only these; none for all that are installed.
        precisions: Only these of bundles; none for all.
        images: Images to time; None takes golden crops or random pictures.
        inputs: Tensors of a file of which the network alone is timed.
        threads: CPU threads of the backends.
        tuning: How the backends work.
    """

    def __init__(
        self,
        *,
        model: Path | None,
        backends: tuple[str, ...],
        precisions: tuple[Precision, ...],
        images: Path | None,
        inputs: Path | None,
        threads: int | None,
        tuning: tuple[BackendOptions, ...],
    ) -> None:
        self._model, self._backends, self._precisions = model, backends, precisions
        self._images, self._inputs = images, inputs
        self.tuning = tuning
        self._common: dict[str, Any] = {"threads": threads, "options": tuning}
        self._read: dict[object, dict[str, Any]] = {}
        self.chosen: list[Target] = []
        self.left_out: list[LeftOut] = []

    def add(self, paths: Sequence[Path]) -> None:
        """Takes what bundles and files hold.

        Raises:
            UsageError: One is named twice, is neither a bundle nor a file that a backend runs, or has no use for an
                option; or nothing of them runs here.
            MissingDependencyError: None of the backends is installed, or one that was named.
            BundleError: A bundle is missing or damaged.
        """
        places: dict[Path, Path] = {}
        for path in paths:
            if (same := places.setdefault(path.resolve(), path)) is not path:
                raise UsageError(f"{same} and {path} are the same.", hint="Name each bundle and file once.")
        for path in paths:
            if is_network_file(path):
                reject_bundle_options(path, {"--precision": self._precisions or None})
                self.chosen += self._of_file(path)
            else:
                reject_model(path, self._model)
                if self._inputs is not None:
                    raise UsageError("--inputs are for a file without a bundle.", hint="Name images with --images.")
                self.chosen += self._of_bundle(path)
        if not self.chosen:
            raise self.left_out[0].error
        _tell_apart(self.chosen)

    def failed(self, target: Target, error: SpliteError) -> None:
        """Takes note of one that could not be loaded or run."""
        expected = target.backend.needs_nvidia and target.backend.name not in self._backends
        self.left_out.append(LeftOut(target.label, error, expected))

    def path_of(self, result: BenchResult) -> Path:
        """The bundle or file that a result is of."""
        return next(
            one.path
            for one in self.chosen
            if (one.facts["artifact_sha256"], one.backend.name, one.facts["bundle"])
            == (result.artifact_sha256, result.backend, result.bundle)
        )

    def _of_bundle(self, path: Path) -> Iterator[Target]:
        from splite_deploy.bench import ArtifactTarget
        from splite_deploy.bundle import Bundle
        from splite_deploy.runtime.selection import pick_artifacts

        opened: Bundle = Bundle.open(path)

        def absent(artifact: Artifact, error: SpliteError) -> None:
            self.left_out.append(LeftOut(f"{path.resolve().name} {artifact.label}", error, expected=True))

        picked = pick_artifacts(opened, self._backends, self._precisions, recordings=True, absent=absent)
        given = self._given(opened.model.input)
        for backend, artifact in picked:
            yield ArtifactTarget(opened, artifact, backend, **self._common, **given)

    def _of_file(self, file: Path) -> Iterator[Target]:
        """A file by each of the backends that were named: end to end where there is a model spec, else its network.

        Raises:
            UsageError: Tensors are given beside images or a model spec, or images without a model spec.
        """
        from splite_deploy.bench import FileTarget, NetworkTarget
        from splite_deploy.runtime.network_file import NetworkFile
        from splite_deploy.runtime.session import backend_of
        from splite_deploy.spec import MODEL_TOML

        if self._inputs is not None:
            for name, value in (("--model", self._model), ("--images", self._images)):
                if value is not None:
                    raise UsageError(
                        f"--inputs are tensors of the network alone, and {name} is for a measurement end to end.",
                        hint="Leave one of them out.",
                    )
        end_to_end = self._model is not None or self._images is not None or file.with_name(MODEL_TOML).is_file()
        for name in self._backends or ("auto",):
            if self._inputs is not None or not end_to_end:
                yield NetworkTarget(file, name, tensors=self._inputs, **self._common)
                continue
            network = NetworkFile.read(file, self._model, name)
            given = self._given(network.spec.input)
            yield FileTarget(network, backend_of(file, name), **self._common, **given)

    def _given(self, spec: InputSpec) -> Mapping[str, Any]:
        """The user's images as arguments of a target; those of one kind of model are read once."""
        if self._images is None:
            return {}
        from splite_deploy.runtime.io.images import boxed_images, read_image

        whole = spec.letterbox is not None
        if (whole, spec.turn) not in self._read:
            boxed, origin = boxed_images(self._images, BENCH_IMAGES, whole=whole, turn=spec.turn)
            pictures = {file: read_image(file) for file, _ in boxed}
            self._read[whole, spec.turn] = {
                "inputs": [(pictures[file], box) for file, box in boxed],
                "inputs_from": origin,
            }
        return self._read[whole, spec.turn]


def _tell_apart(targets: Sequence[Target]) -> None:
    """Gives bundles and files of one name, such as ``v1/hand.splite`` and ``v2/hand.splite``, names that differ.

    They are called by the end of their path that no other of that name has: what has one name counts as one network.
    """
    places: dict[str, set[Path]] = {}
    for one in targets:
        places.setdefault(one.source, set()).add(one.path.resolve())
    for one in targets:
        alike, length = places[one.source], 1
        while len({place.parts[-length:] for place in alike}) < len(alike):
            length += 1
        if length > 1:
            one.rename("/".join(one.path.resolve().parts[-length:]))
