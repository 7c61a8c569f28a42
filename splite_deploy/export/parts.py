"""An artifact of ONNX Runtime cut into parts that give the same numbers, to the bit.

What ONNX Runtime fuses and in which layout it computes may reach over a cut, and then numbers are added in another
order. So the parts run beside the whole graph, and kinds of places whose cut changed a bit are not taken again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle.manifest import Artifact, Part
from splite_deploy.errors import ExportError
from splite_deploy.export.artifacts import GraphFile, Measured
from splite_deploy.export.graph.split import GraphPart, Kind, Splitter
from splite_deploy.export.reference import Reference
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.session import Session, open_model_file

PARTS = "onnx-parts"
_COMPARED = 2
"""Crops, or batches where the graph takes several at once, on which bits are compared while places are chosen."""
_PROVED = 4
"""So many times more are compared in the end."""
_TRIES = 16
Run = dict[str, FloatArray]


def in_parts(
    whole: Measured,
    file: GraphFile,
    folder: Path,
    parts: int,
    reference: Reference,
    stack: ExitStack,
    progress: Callable[[str], None],
) -> Measured:
    """Cuts an artifact, and writes its parts.

    Args:
        whole: The artifact as one file, compared and still open.
        file: Its graph.
        folder: Of the bundle.
        parts: Into how many.
        reference: Whose crops it is run on.
        stack: Closes the session.
        progress: Called with each step as it begins.

    Raises:
        ExportError: It cannot be cut into so many that give the same to the bit.
        OutputError: A part cannot be written.
    """
    feed = reference.feed(whole.session)
    least = (whole.session.inputs[0].shape[0] or 1) * _COMPARED
    few, more = feed[:least], feed[: _PROVED * least]
    wanted = _runs(whole.session, few)
    splitter, refused = Splitter(file.model), set[Kind]()
    for _ in range(_TRIES):
        places = splitter.plan(parts, refused)
        cut = splitter.cut(places)
        progress(f"comparing {parts} parts of {whole.artifact.label} bit by bit")
        if _same(whole.artifact, cut, few, wanted):
            break
        changing = {one.kind for one in places if not _same(whole.artifact, splitter.cut([one]), few, wanted)}
        refused |= changing or {one.kind for one in places}
    else:
        raise ExportError(
            f"{whole.artifact.label} in {parts} parts does not give the same to the bit, wherever it was cut.",
            hint="Give a smaller number to --parts, or leave it out.",
        )
    artifact = _artifact(whole.artifact, cut)
    session = stack.enter_context(_opened(artifact, cut))
    if not _equal(_runs(session, more), _runs(whole.session, more)):
        raise ExportError(
            f"{whole.artifact.label} in {parts} parts gives other bits than the whole on some of {len(more)} crops.",
            hint="Give another number to --parts, or leave it out.",
        )
    for part, made in zip(artifact.parts, cut, strict=True):
        (folder / part.file).write_bytes(made.content)  # a new bundle's folder vanishes where that fails
    return replace(whole, artifact=artifact, session=session, size_bytes=sum(len(one.content) for one in cut))


def _artifact(whole: Artifact, cut: Sequence[GraphPart]) -> Artifact:
    stem = whole.file.removesuffix(".onnx")
    parts = tuple(
        Part(
            f"{stem}.part{index}of{len(cut)}.onnx",
            hashlib.sha256(one.content).hexdigest(),
            one.inputs,
            one.outputs,
        )
        for index, one in enumerate(cut, 1)
    )
    return replace(whole, format=PARTS, file=parts[0].file, sha256=parts[0].sha256, parts=parts)


def _opened(artifact: Artifact, cut: Sequence[GraphPart]) -> Session:
    contents = {part.file: one.content for part, one in zip(artifact.parts, cut, strict=True)}
    file = ModelFile(b"", artifact.file, PARTS, artifact, read_part=lambda part: contents[part.file])
    return open_model_file(find_backend(artifact.backend), file, threads=1)


def _same(whole: Artifact, cut: Sequence[GraphPart], feed: Feed, wanted: Sequence[Run]) -> bool:
    with _opened(_artifact(whole, cut), cut) as session:
        return _equal(_runs(session, feed), wanted)


def _runs(session: Session, feed: Feed) -> list[Run]:
    """Copies of the outputs, of as few crops at a time as the graph takes."""
    image = session.inputs[0]
    size = image.shape[0] or 1
    batches = (np.ascontiguousarray(feed[first : first + size]) for first in range(0, len(feed) // size * size, size))
    return [{key: value.copy() for key, value in session.run({image.name: batch}).items()} for batch in batches]


def _equal(some: Sequence[Run], others: Sequence[Run]) -> bool:
    return all(
        one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)
        for one, other in zip(some, others, strict=True)
    )
