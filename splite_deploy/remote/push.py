"""What has to be on a machine: the runtime as a wheel, and what the command reads, each file by its hash."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from splite_deploy.errors import InputError, RemoteError, UsageError
from splite_deploy.files import is_folder, is_pattern, sha256_of
from splite_deploy.remote.connection import Connection
from splite_deploy.spec import MODEL_TOML
from splite_deploy.version import __version__

_PACKAGE = Path(__file__).parents[1]
_LEFT_OUT = frozenset({"__pycache__", "demo", "cpp"})
"""Parts of the package that no command needs over there: examples, and what C++ projects are made of."""
_WHEEL = f"splite_deploy-{__version__}.dist-info"
_TAGS = b"Wheel-Version: 1.0\nGenerator: splite-deploy\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
_OLDEST_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Sent:
    """A file that has to be there.

    Attributes:
        name: Its path in the folder of the command, with slashes.
        sha256: Its hash.
        size: In bytes.
        source: Where it is here, or its content.
    """

    name: str
    sha256: str
    size: int
    source: Path | bytes

    @classmethod
    def of(cls, name: str, source: Path | bytes) -> Sent:
        """Measures and hashes it.

        Raises:
            InputError: It cannot be read.
        """
        if isinstance(source, bytes):
            return cls(name, hashlib.sha256(source).hexdigest(), len(source), source)
        try:
            return cls(name, sha256_of(source), source.stat().st_size, source)
        except OSError as err:
            message = f"Cannot read {source}: {err.strerror or err}."
            raise InputError(message, hint="Name a file that can be read.") from err


@cache
def runtime_wheel() -> Sent:
    """This very package as a wheel, made of its own files: the same bytes wherever and whenever it is made."""
    members = dict(_members(_PACKAGE, _PACKAGE.name))
    members[f"{_WHEEL}/METADATA"] = f"Metadata-Version: 2.1\nName: splite-deploy\nVersion: {__version__}\n".encode()
    members[f"{_WHEEL}/WHEEL"] = _TAGS
    members[f"{_WHEEL}/RECORD"] = "".join([*map(_record, members, members.values()), f"{_WHEEL}/RECORD,,\n"]).encode()
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as wheel:
        for name in sorted(members):
            wheel.writestr(zipfile.ZipInfo(name, _OLDEST_DATE), members[name], zipfile.ZIP_DEFLATED)
    return Sent.of(f"splite_deploy-{__version__}-py3-none-any.whl", made.getvalue())


def _members(folder: Path, path: str) -> Iterable[tuple[str, bytes]]:
    for one in folder.iterdir():
        if one.is_dir() and one.name not in _LEFT_OUT:
            yield from _members(one, f"{path}/{one.name}")
        elif one.is_file() and not one.name.endswith((".pyc", ".pyo")):
            yield f"{path}/{one.name}", one.read_bytes()


def _record(name: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(content)}\n"


def read_there(path: Path, folder: str) -> tuple[str, list[Sent]]:
    """What a command reads when it is given this path, as it has to lie over there.

    Args:
        path: A bundle, a file without a bundle (with the model.toml beside it), a folder or pattern of images, labels
            with their pictures, or any other file.
        folder: Where it goes, in the folder of the command.

    Returns:
        The path to give to the command there, and the files.

    Raises:
        UsageError: It cannot be read, or names pictures that lie elsewhere.
    """
    from splite_deploy.bundle.new import is_bundle

    name = path.resolve().name or "files"
    if is_folder(path) and is_bundle(path):
        return _bundle(path, f"{folder}/{name}")
    labels = path / "labels.json" if is_folder(path) else path
    if labels.suffix.lower() == ".json" and labels.is_file():
        top = f"{folder}/{labels.resolve().parent.name or 'labels'}"
        sent = [Sent.of(f"{top}/{inside}", file) for inside, file in _labelled(labels)]
        return (top if is_folder(path) else f"{top}/{labels.name}"), sent
    if is_folder(path) or is_pattern(path):
        from splite_deploy.runtime.io.images import image_files

        top = f"{folder}/{name if is_folder(path) else 'images'}"
        files = image_files(path)
        if len({one.name for one in files}) < len(files):
            raise UsageError(f"{path} matches images of one name in several folders.", hint="Name each folder.")
        return top, [Sent.of(f"{top}/{one.name}", one) for one in files]
    beside = [path.with_name(MODEL_TOML)] if path.suffix.lower() in (".onnx", ".tflite", ".engine") else []
    return f"{folder}/{name}", [
        Sent.of(f"{folder}/{called}", one)
        for called, one in [(name, path), *((one.name, one) for one in beside if one.is_file())]
    ]


def _bundle(path: Path, folder: str) -> tuple[str, list[Sent]]:
    """A bundle, whose hashes are checked."""
    from splite_deploy.bundle import MANIFEST, REPORT, Bundle

    names = dict.fromkeys([MANIFEST, REPORT, *(one.file for one in Bundle.open(path).manifest.files)])
    return folder, [Sent.of(f"{folder}/{name}", path / name) for name in names if (path / name).is_file()]


def _labelled(labels: Path) -> Iterable[tuple[str, Path]]:
    """Labels and the pictures that they name, each with its path from the folder of the labels.

    Raises:
        UsageError: They are no labels, or name a picture outside of that folder.
    """
    from splite_deploy.metrics.labels import read_images

    yield labels.name, labels
    top = labels.parent.resolve()
    for one in read_images(labels):
        place = one.parent.resolve() / one.name
        if top not in place.parents or not one.is_file():
            where = "lies outside of its folder" if one.is_file() else "is not there"
            raise InputError(
                f"{labels} names the picture {one}, which {where}.",
                hint="Copy labels and pictures into one folder, and name that.",
            )
        yield place.relative_to(top).as_posix(), one


def push(far: Connection, files: Sequence[Sent], what: str, tell: Callable[[str], None]) -> int:
    """Sends those of some files that a machine lacks.

    Args:
        far: The machine.
        files: What it has to have.
        what: What they are, for people.
        tell: Called with what is being done.

    Returns:
        How many bytes were sent.

    Raises:
        RemoteError: The connection is lost, or the disk over there is full.
        InputError: A file cannot be read any more, or changed while it was sent.
    """
    wanted = {one.sha256: one for one in files}
    far.request("lacking", f"it was asked which files it lacks of {what}", files=list(wanted))
    lacking = far.answer("lacking", wait_s=600.0)["lacking"]
    if not isinstance(lacking, list) or not all(isinstance(one, str) for one in lacking) or set(lacking) - set(wanted):
        raise far.wrong("asks for files that nobody offered")
    todo = [wanted[one] for one in dict.fromkeys(lacking)]
    total = sum(one.size for one in todo)
    done = 0
    for one in todo:
        tell(f"sending {what}: {done / 1e6:.1f} of {total / 1e6:.1f} MB")
        _send(far, one)
        done += one.size
    return total


def _send(far: Connection, one: Sent) -> None:
    try:
        stream = io.BytesIO(one.source) if isinstance(one.source, bytes) else one.source.open("rb")
    except OSError as err:
        raise InputError(f"Cannot read {one.source!s}: {err.strerror}.", hint="Run the command again.") from err
    with stream:
        far.request("put", f"{Path(one.name).name} was sent", sha256=one.sha256, size=one.size)
        far.send(stream, one.size)
    if far.stored().get("stored") is not True:
        raise RemoteError(
            f"{far.device.name}: {Path(one.name).name} arrived with another content.",
            hint="It was changed while it was sent: run the command again.",
        )
