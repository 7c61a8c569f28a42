"""One file with both files of an ncnn network: a zip archive without compression, which any unzip takes apart."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from splite_deploy.errors import BackendError

PARAM, WEIGHTS = "network.param", "network.bin"
"""What lies in the archive: the layers as text, and their weights."""
_MAGIC = "7767517"  # of ncnn's param files as text
_HINT = "Copy the bundle again, or export it again."
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of everything in an archive: the same network gives the same bytes


@dataclass(frozen=True)
class NcnnLayer:
    """A line of a param file.

    Attributes:
        kind: Its operator.
        name: Its name.
        inputs: Names of the blobs that it reads.
        outputs: Names of the blobs that it makes.
        settings: Its parameters, each ``number=value``.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: tuple[str, ...]

    def __str__(self) -> str:
        counts = (str(len(self.inputs)), str(len(self.outputs)))
        return " ".join((self.kind, self.name, *counts, *self.inputs, *self.outputs, *self.settings))


def pack(param: str, weights: bytes) -> bytes:
    """The archive of a network.

    Args:
        param: Its layers.
        weights: Their weights.
    """
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(PARAM, _EPOCH), param)
        archive.writestr(zipfile.ZipInfo(WEIGHTS, _EPOCH), weights)
    return held.getvalue()


def unpack(data: bytes, name: str) -> tuple[str, bytes]:
    """The layers and the weights of a network.

    Args:
        data: Its archive.
        name: Its file, for messages.

    Raises:
        BackendError: It is no such archive.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            held = {one.filename: one for one in archive.infolist()}
            if set(held) != {PARAM, WEIGHTS}:
                raise ValueError(f"it holds {', '.join(sorted(held)) or 'nothing'}")
            if any(one.compress_type != zipfile.ZIP_STORED for one in held.values()):
                raise ValueError("it is compressed")
            return archive.read(PARAM).decode("ascii"), archive.read(WEIGHTS)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as err:
        raise BackendError(
            f"{name} is no archive of {PARAM} and {WEIGHTS}, or a damaged one: {err}.", hint=_HINT
        ) from err


def read_param(param: str, name: str) -> tuple[NcnnLayer, ...]:
    """The layers of a param file, in order.

    Args:
        param: The text.
        name: Its file, for messages.

    Raises:
        BackendError: It is no param file.
    """
    try:
        magic, counts, *lines = [line.split() for line in param.splitlines() if line.strip()]
        layers = tuple(_layers(lines))
        blobs = sum(len(one.outputs) for one in layers)
        if magic != [_MAGIC] or counts != [str(len(layers)), str(blobs)]:
            raise ValueError("its head is not that of its layers")
    except (ValueError, IndexError) as err:
        raise BackendError(f"{name} has no layers of ncnn, or damaged ones: {err}.", hint=_HINT) from err
    return layers


def write_param(layers: tuple[NcnnLayer, ...]) -> str:
    """The param file of these layers."""
    blobs = sum(len(one.outputs) for one in layers)
    return "\n".join([_MAGIC, f"{len(layers)} {blobs}", *map(str, layers)]) + "\n"


def _layers(lines: list[list[str]]) -> Iterator[NcnnLayer]:
    for kind, name, inputs, outputs, *rest in lines:
        reads, makes = int(inputs), int(outputs)
        if min(reads, makes) < 0 or len(rest) < reads + makes:
            raise ValueError(f"the layer {name} has fewer inputs or outputs than it says")
        ends = reads + makes
        yield NcnnLayer(kind, name, tuple(rest[:reads]), tuple(rest[reads:ends]), tuple(rest[ends:]))
