"""Archives of arrays that are damaged in the ways in which zip and numpy raise something else each time."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from splite_deploy.errors import UsageError
from splite_deploy.runtime.io.npz import read_npz


def header(text: str) -> bytes:
    """An array in numpy's format 1.0 with this text as its header."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def archive(name: str, content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        made.writestr(name, content)
    return out.getvalue()


def unknown_compression(data: bytes) -> bytes:
    """The method 97 in the directory's entry and before the content."""
    new = bytearray(data)
    new[8] = new[data.index(b"PK\1\2") + 10] = 97
    return bytes(new)


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(archive("a.npy", header("{'descr': (\n")), "TokenError: ", id="open bracket"),
        pytest.param(archive("a.npy", header(PLAIN.replace("<f4", "<q9"))), "not understood", id="type"),
        pytest.param(archive("a.npy", header(PLAIN.replace("(2,)", "(9000000000000,)"))), "", id="size"),
        pytest.param(archive("a.txt", b"text"), "its member 'a.txt' is no array", id="text"),
        pytest.param(unknown_compression(archive("a.npy", header(PLAIN))), "NotImplementedError: ", id="compression"),
        pytest.param(archive("a.npy", header(PLAIN))[:-9], "", id="cut"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"a\.npz is not an \.npz archive that can be read: ") as caught:
        read_npz(tmp_path / "a.npz", "Do this.")
    assert reason in caught.value.message and not caught.value.message.endswith(": .")
    assert caught.value.hint == "Do this."


def test_whole_ones_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.float32(2))
    assert [*read_npz(tmp_path / "a.npz")] == ["x", "y"]
