"""Checks a file without a bundle on this machine: nothing was recorded of it, so that other kernels are what it meets.

What a file means its runtime's plainest kernels say; the fast ones may not move keypoints from that by more than the
file's precision does. Another file of the same network, above all a float one, tells what its quantisation costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splite_deploy.bundle import Parity
from splite_deploy.decoders import decode
from splite_deploy.errors import BackendError, ParityError, SpecError, UsageError
from splite_deploy.metrics.parity import Outputs, compare, limits_of, violations
from splite_deploy.runtime.backends.base import Backend
from splite_deploy.runtime.crops import Crops, crops_from_images, crops_without_images
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.nobody import nobody_by
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.scores import COMPARED, check_candidates, check_scores
from splite_deploy.runtime.session import OptionSet, Session, backend_of
from splite_deploy.runtime.verify import WHERE_NOBODY_IS, batch_violations, presence_violations, run_each
from splite_deploy.spec import PRECISIONS, LimitSpec, ModelSpec, Precision

CROPS = 24
"""Crops that are compared at most; reference kernels take a hundred times as long as others."""
Progress = Callable[[str], None]


@dataclass(frozen=True)
class FileComparison:
    """How far a file's keypoints lie from what it is compared with.

    Attributes:
        file: Its name.
        backend: What ran it.
        precision: What it was recognised as.
        numbers: How its weights are stored and what it computes in.
        parity: How far.
        limits: How far they may lie.
        violations: The limits that it breaks; empty if it passed.
    """

    file: str
    backend: str
    precision: Precision
    numbers: str
    parity: Parity
    limits: LimitSpec
    violations: tuple[str, ...]


def compared_crops(images: Path | None, spec: ModelSpec, count: int = CROPS) -> Crops:
    """Crops of the user's images, or of random pictures where there are none; `Crops.origin` says which."""
    return crops_without_images(count, spec.input) if images is None else crops_from_images(images, count, spec.input)


def verify_file(
    file: NetworkFile,
    backend: str = "auto",
    *,
    images: Path | None = None,
    reference: NetworkFile | None = None,
    threads: int | None = None,
    options: OptionSet = (),
    progress: Progress = lambda message: None,
) -> list[FileComparison]:
    """Compares a file with its runtime's reference kernels, and with another file of the same network.

    Args:
        file: The file.
        backend: What runs it; see `splite_deploy.runtime.session.backend_of`.
        images: A folder of images or a labels file; None takes random pictures.
        reference: The other file; None compares kernels alone.
        threads: CPU threads.
        options: How the backend works.
        progress: Called with each step as it begins.

    Returns:
        One result for each comparison, whether it passed or not; see `check_file`.

    Raises:
        UsageError: There is nothing to compare with, or the images do not serve.
        MissingDependencyError: A backend is not installed.
        BackendError: A file cannot be loaded or run, or is not what its ``model.toml`` says.
    """
    chosen = backend_of(file.path, backend)
    spec, facts = file.spec, file.facts
    if reference is None and not chosen.reference:
        raise UsageError(
            f"{chosen.label} has no reference kernels with which {file.path.name} could be compared.",
            hint="Name another file of the same network with --reference, for example the graph that it was made from.",
        )
    if reference is not None:
        _check_comparable(file, reference, images)
    progress("cropping images")
    crops = compared_crops(images, spec)
    expected, nobody, lowest = None, None, facts.precision
    if reference is not None:
        progress(f"running {reference.path.name}")
        with _opened_reference(reference, backend_of(reference.path)) as session:
            expected = _run(reference, session, crops)
            nobody = nobody_by(partial(_outputs, reference, session), reference.spec)
        lowest = max(facts.precision, reference.facts.precision, key=PRECISIONS.index)
    progress(f"running {file.path.name}")
    with file.open(chosen, threads=threads, options=options) as session:
        found = _run(file, session, crops)
        mixed = batch_violations(session, crops.pixels, spec, limits_of(facts.precision, spec))
        present = presence_violations(session, nobody, spec, limits_of(lowest, spec))
    results = []
    if chosen.reference:
        progress(f"running {file.path.name} by {chosen.reference}")
        with file.open(chosen, reference=True, options=options) as session:
            plain = _run(file, session, crops)
        together = [f"several crops at once: {one}" for one in mixed]
        results.append(_compared(file, chosen, chosen.reference, plain, found, crops, facts.precision, together))
    if reference is not None and expected is not None:
        before, after = expected, found
        if reference.spec.decoder != spec.decoder:  # one of them decodes by itself, for example
            before, after = decode(expected, reference.spec).by_role(), decode(found, spec).by_role()
        results.append(_compared(file, chosen, reference.path.name, before, after, crops, lowest, present))
    return results


def _run(file: NetworkFile, session: Session, crops: Crops) -> Outputs:
    """What a session of a file makes of crops: by role, N first.

    Raises:
        BackendError: It cannot be run, its scores are none, or it gives no candidates.
    """
    outputs = _outputs(file, session, crops.pixels)
    check_scores(outputs, file.spec, COMPARED, BackendError)
    check_candidates(outputs, file.spec, BackendError)
    return outputs


def _outputs(file: NetworkFile, session: Session, pixels: NDArray[np.uint8]) -> Outputs:
    preprocessor = Preprocessor(file.spec.input, file.spec.input.picture_color)
    return run_each(session, preprocessor.feed(pixels, session.inputs[0]), file.spec)


def _check_comparable(file: NetworkFile, reference: NetworkFile, images: Path | None) -> None:
    """Refuses two files whose keypoints say nothing of each other.

    Raises:
        UsageError: They take other crops, or differ in precision and there are no images.
    """
    ours, theirs = file.spec, reference.spec
    wanted, found = ((spec.keypoint_count, *spec.input.planes, spec.input.box_padding) for spec in (ours, theirs))
    if ours.input.turn != theirs.input.turn:
        raise UsageError(
            f"{file.path.name} and {reference.path.name} are given other crops: rotate_by differs.",
            hint="Name a file of the same network with --reference.",
        )
    if wanted != found or ours.input.color != theirs.input.color:
        raise UsageError(
            f"{file.path.name} and {reference.path.name} are no two forms of one network: keypoints, channels, height, "
            f"width and box padding are {wanted} and {found}.",
            hint="Name a file of the same network with --reference.",
        )
    rough = [one.path.name for one in (file, reference) if one.facts.precision != "fp32"]
    if images is None and rough:
        raise UsageError(
            f"How far {rough[0]} lies from the other file can only be seen on what the network is made for.",
            hint="Name photographs with --images: a folder, or a labels.json with boxes.",
        )


def _opened_reference(reference: NetworkFile, backend: Backend) -> Session:
    """Opens the other file, and says whose model spec was taken where that does not fit."""
    try:
        return reference.open(backend, reference=bool(backend.reference))
    except (BackendError, SpecError) as err:
        hint = err.hint + " Where its tensors lie in another way, name its own spec with --reference-model."
        raise type(err)(f"{reference.path.name}: {err.message}", hint=hint) from err


def _compared(
    file: NetworkFile,
    backend: Backend,
    name: str,
    reference: Outputs,
    found: Outputs,
    crops: Crops,
    precision: Precision,
    more: Sequence[str],
) -> FileComparison:
    limits = limits_of(precision, file.spec)
    stage = f"{backend.name} {file.facts.precision}"
    parity = compare(stage, reference, found, file.spec, crops.origin, reference_name=name)
    broken = (*violations(parity, limits, file.spec), *more)
    facts = file.facts
    return FileComparison(file.path.name, backend.name, facts.precision, facts.numbers, parity, limits, broken)


def check_file(results: Sequence[FileComparison]) -> None:
    """Raises `ParityError` if a comparison broke its limits."""
    for result in results:
        if result.violations:
            where = "" if _is_elsewhere(result) else f" on {result.parity.crops_from}"
            raise ParityError(
                f"{result.file} differs from {result.parity.reference}{where}: {'; '.join(result.violations)}.",
                hint=_hint(result),
            )


def _is_elsewhere(result: FileComparison) -> bool:
    """Whether what is wrong shows on none of the crops that were compared."""
    return all(WHERE_NOBODY_IS in one for one in result.violations)


def _hint(result: FileComparison) -> str:
    """What to do about a comparison that broke its limits."""
    if _is_elsewhere(result):
        return (
            "Quantise it again with pictures that show nobody among those of its calibration; if the deviation is "
            "acceptable, raise head_p95 in [limits] of model.toml."
        )
    if "random" in result.parity.crops_from:
        return "Compare on photographs of what it is made for, with --images; random pictures may show it nothing."
    return (
        "It may be another network, or quantised too coarsely: convert it again, with calibration images of what it is "
        "made for; if the deviation is acceptable, raise [limits] in model.toml."
    )
