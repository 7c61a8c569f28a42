"""Files in the place of checkpoints that hold anything but plain weights."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from splite_deploy.errors import CheckpointError, SpliteError
from splite_deploy.export.source.checkpoint import read_checkpoint
from splite_deploy.export.source.formats import read_head
from splite_deploy.spec.reading import StandInError

NAME = "conv.weight"


def weights(tensor: Any) -> dict[str, Any]:
    return {"conv.bias": torch.zeros(8), NAME: tensor}


def cyclic(key: str) -> dict[str, Any]:
    held: dict[str, Any] = {"x": torch.zeros(1)}
    held[key] = held
    return held


def every_wrapper_is_itself() -> dict[str, Any]:
    """What a search without a memory needs 15 ** 16 steps for."""
    from splite_deploy.export.source.checkpoint import EMA_WRAPPERS, WRAPPERS

    held: dict[str, Any] = {}
    for key in (*EMA_WRAPPERS, *WRAPPERS):
        held[key] = held
    return held


def wrapped(times: int) -> dict[str, Any]:
    held: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(times):
        held = {"state_dict": held}
    return held


CONTENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a wrapper that is itself": (lambda: cyclic("model"), "its weights are wrapped in themselves"),
    "every wrapper is itself": (every_wrapper_is_itself, "holds no tensors"),
    "deeply wrapped": (lambda: wrapped(40), "or more than 16 times"),
    "a list in itself": (lambda: (lambda one: (one.append(one), one)[1])([]), "holds a list, not a dictionary"),
    "sparse": (lambda: weights(torch.eye(3).to_sparse()), "is a sparse_coo tensor, not a plain array"),
    "sparse rows": (lambda: weights(torch.eye(3).to_sparse_csr()), "is a sparse_csr tensor, not a plain array"),
    "nested": (lambda: weights(torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])), "is a nested tensor"),
    "float8": (lambda: weights(torch.zeros(3).to(torch.float8_e4m3fn)), "has values of float8_e4m3fn"),
    "complex": (lambda: weights(torch.zeros(3).to(torch.complex64)), "has complex values (complex64)"),
    "meta": (lambda: weights(torch.empty(3, device="meta")), "has no values: its device is 'meta'"),
    "expanded": (lambda: weights(torch.zeros(1).expand(10**6, 10**6)), "has 1,000,000,000,000 values by its shape"),
    "NaN": (lambda: weights(torch.full((3,), float("nan"))), "holds NaN or infinity."),
    "infinite": (lambda: weights(torch.full((3,), float("-inf"))), "holds NaN or infinity."),
    "beyond float32": (lambda: weights(torch.full((3,), 1e300, dtype=torch.float64)), "that float32 cannot hold"),
    "a long name": (lambda: {"n" * 100_000: torch.zeros(1)}, "has a name of 100000 characters"),
    "a tensor": (lambda: torch.zeros(3), "holds a Tensor, not a dictionary"),
    "nothing": (lambda: None, "holds a NoneType, not a dictionary"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("case", CONTENTS)
def test_content_that_is_no_plain_weights(case: str, tmp_path: Path) -> None:
    make, message = CONTENTS[case]
    file = tmp_path / "a.pt"
    torch.save(make(), file)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file)
    assert message in caught.value.message and caught.value.hint
    assert len(caught.value.message) < 1000
    assert "the tensor '" not in caught.value.message or NAME in caught.value.message or case == "a long name"


def test_views_and_other_floats_are_read(tmp_path: Path) -> None:
    held = {"a": torch.arange(12.0).reshape(3, 4).t(), "b": torch.zeros(1).expand(8, 8), "c": torch.ones(2).bfloat16()}
    torch.save(held, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt").tensors
    assert found["a"][1, 2] == 9 and found["b"].shape == (8, 8) and found["c"].dtype == torch.bfloat16


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".onnx", ".tflite"])
@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "is a pointer of Git LFS, not the file",
            "git lfs pull",
        ),
        (b"<!DOCTYPE html>\n<html><title>404</title>", "is a web page, as a failed download leaves it", "browser"),
        (b"\n <HTML><body>Sign in</body>", "is a web page", "browser"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error>", "is a web page", "browser"),
    ],
)
def test_what_downloads_leave_is_named(
    content: bytes, message: str, hint: str, suffix: str, tiny_model: Path, tmp_path: Path, splite: Any
) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(content)
    with pytest.raises(StandInError) as caught:
        read_head(file)
    assert message in caught.value.message and hint in caught.value.hint
    shown = splite("export", file, "-o", tmp_path / "a.splite", "--model", tiny_model)
    assert shown.exit_code == 1 and message in shown.stderr and hint in shown.stderr


def rewritten(file: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]], method: int) -> None:
    old = zipfile.ZipFile(io.BytesIO(file.read_bytes()))
    with zipfile.ZipFile(file, "w", method) as new:
        for name in old.namelist():
            for entry, content in change(name, old.read(name)):
                new.writestr(entry, content)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "method", "message"),
    [
        (lambda name, content: [(name, content)] * 2, zipfile.ZIP_STORED, "files of one name"),
        (lambda name, content: [(name, content)], zipfile.ZIP_DEFLATED, "it may unpack to any size"),
        (
            lambda name, content: [(name, content[:4] if "/data/" in name else content)],
            zipfile.ZIP_STORED,
            "is not a whole torch checkpoint",
        ),
        (
            lambda name, content: [] if name.endswith("data.pkl") else [(name, content)],
            zipfile.ZIP_STORED,
            "is not a whole torch checkpoint",
        ),
    ],
)
def test_archives_that_torch_did_not_write(
    change: Callable[[str, bytes], list[tuple[str, bytes]]], method: int, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(100)}, file)
    rewritten(file, change, method)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(file)
    assert message in caught.value.message and caught.value.hint


def test_a_pipe_in_the_place_of_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(SpliteError, match="it is a device, not a file"):
        read_checkpoint(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_safetensors_of_eight_bits(dtype: str, tmp_path: Path) -> None:
    header = f'{{"a":{{"dtype":"{dtype}","shape":[8],"data_offsets":[0,8]}}}}'.encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match="the tensor 'a' has values of float8"):
        read_checkpoint(tmp_path / "a.safetensors")
