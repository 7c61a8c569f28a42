"""Which form a checkpoint has, told from its content and not from its name."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from splite_deploy.errors import CheckpointError

Form = Literal["weights", "program", "script", "onnx"]
FORMS: dict[Form, str] = {
    "weights": "a file of weights",
    "program": "a torch.export program",
    "script": "a TorchScript archive",
    "onnx": "an ONNX graph",
}
"""Every form, in words."""
_ZIP = b"PK\x03\x04"
_ONNX = b"\x08"
"""The tag of ``ir_version``, the first field that ONNX writers put into a file; protobuf has no other mark."""


def read_head(path: Path) -> bytes:
    """The first nine bytes of a checkpoint; fewer where it is shorter.

    Raises:
        CheckpointError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(9)
    except OSError as err:
        raise CheckpointError(
            f"Cannot read the checkpoint {path}: {err.strerror}.",
            hint="Name a .safetensors or .pt file, or an .onnx graph.",
        ) from err


def form_of(path: Path) -> Form:
    """The form of a checkpoint; what is damaged or unknown counts as weights, whose reader says what is wrong.

    Raises:
        CheckpointError: It cannot be read.
    """
    head = read_head(path)
    if head.startswith(_ZIP):
        return _form_of_archive(path)
    is_safetensors = head[8:9] == b"{"
    return "onnx" if not is_safetensors and (path.suffix == ".onnx" or head.startswith(_ONNX)) else "weights"


def _form_of_archive(path: Path) -> Form:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "weights"
    inner = {name.partition("/")[2] for name in names}  # torch puts all under one folder
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return "script"
    # The second name is that of torch 2.1 to 2.6
    if "archive_format" in inner or "serialized_exported_program.json" in names:
        return "program"
    return "weights"


def require_trust(path: Path, form: Form, trust: bool) -> None:
    """Refuses the forms whose loading can run code, unless the caller said that the file is trusted.

    TorchScript is a program, and its operators read and write files. ``torch.export.load`` unpickles what is no plain
    tensor (``pickle.loads``, ``weights_only=False``) and evaluates the shape expressions and guards of the file as
    Python; none of that can be switched off.

    Raises:
        CheckpointError: It is such a form, and not trusted.
    """
    if form in ("program", "script") and not trust:
        raise CheckpointError(
            f"{path} is {FORMS[form]}; it was not loaded, since that can run code.",
            hint="If you know who made it add --trust; else ask for the weights alone (.safetensors) or an .onnx file.",
        )
