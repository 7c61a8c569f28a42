"""Weights that a graph keeps beside its file: read once and hashed, from its own folder alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
TensorProto, helper, numpy_helper = onnx.TensorProto, onnx.helper, onnx.numpy_helper

from splite_deploy.errors import CheckpointError
from splite_deploy.export.source.onnx_file import read_graph

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)
FLOAT = TensorProto.FLOAT


def write(folder: Path, location: str, **told: object) -> Path:
    """A graph that adds weights, which it says lie at a location."""
    tensor = numpy_helper.from_array(WEIGHTS, "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **told}.items():
        tensor.external_data.add(key=key, value=str(value))
    ends = [helper.make_tensor_value_info(name, FLOAT, (2, 3)) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    path = folder / "net.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with weights, in another one that has such a file, too."""
    (tmp_path / "outside.bin").write_bytes(WEIGHTS.tobytes())
    made = tmp_path / "net"
    (made / "sub").mkdir(parents=True)
    for name in ("w.bin", "sub/w.bin"):
        (made / name).write_bytes(b"before" + WEIGHTS.tobytes() + b"after")
    return made


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./w.bin"])
def test_weights_beside_the_graph_belong_to_its_hash(folder: Path, location: str) -> None:
    path = write(folder, location, offset=6, length=24)
    model, _, _, digest = read_graph(path)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), WEIGHTS)
    beside = folder / location
    assert digest == hashlib.sha256(path.read_bytes() + beside.read_bytes()).hexdigest()
    beside.write_bytes(b"before" + WEIGHTS[::-1].tobytes() + b"after")
    assert read_graph(path)[3] != digest


def test_a_graph_without_other_files_has_the_hash_of_its_file(folder: Path) -> None:
    path = write(folder, "w.bin", offset=6, length=24)
    onnx.save(onnx.load(path), folder / "whole.onnx")
    content = (folder / "whole.onnx").read_bytes()
    assert read_graph(folder / "whole.onnx")[3] == hashlib.sha256(content).hexdigest()


def link(folder: Path) -> str:
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    return "link.bin"


def folder_link(folder: Path) -> str:
    (folder / "up").symlink_to(folder.parent)
    return "up/outside.bin"


def loop(folder: Path) -> str:
    (folder / "loop.bin").symlink_to("loop.bin")
    return "loop.bin"


def fifo(folder: Path) -> str:
    os.mkfifo(folder / "pipe.bin")
    return "pipe.bin"


@pytest.mark.skipif(os.name != "posix", reason="links and pipes are made otherwise elsewhere")
@pytest.mark.parametrize(
    ("location", "message", "hint"),
    [
        ("/etc/passwd", r"keeps weights in '/etc/passwd', which is no file beside it", "It was not read"),
        ("../outside.bin", r"keeps weights in '\.\./outside\.bin', which is no file beside it", "onnx.save(onnx.load("),
        ("sub/../../outside.bin", "which is no file beside it", "It was not read"),
        ("..\\outside.bin", "which is no file beside it", "It was not read"),
        ("C:\\w.bin", "which is no file beside it", "It was not read"),
        ("w.bin\0", "which is no file beside it", "It was not read"),
        ("", "which is no file beside it", "It was not read"),
        ("*/_ORT_MEM_ADDR_/*", r"cannot be read: \*: No such file", "Copy that file too"),
        ("missing.bin", r"which cannot be read: missing\.bin: No such file", "Copy that file too"),
        ("sub", r"which cannot be read: sub: Is a directory", "Copy that file too"),
        (link, r"'link\.bin', a link to .*outside\.bin, outside of its folder", "cp -L"),
        (folder_link, r"'up/outside\.bin', a link to .*outside\.bin, outside of its folder", "cp -L"),
        (loop, r"'?loop\.bin'?.* cannot be read", "Copy that file too"),
        (fifo, r"pipe\.bin: it is a device, not a file", "Copy that file too"),
    ],
)
def test_whatever_else_the_graph_names_is_not_read(
    folder: Path, location: str | Callable[[Path], str], message: str, hint: str
) -> None:
    path = write(folder, location if isinstance(location, str) else location(folder), length=24)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_graph(path)
    assert hint in caught.value.hint


@pytest.mark.parametrize("told", [{"offset": 30}, {"offset": -1}, {"length": 10**20}, {"offset": "x"}, {"length": -3}])
def test_places_beyond_the_file(folder: Path, told: dict[str, Any]) -> None:
    path = write(folder, "w.bin", **{"length": 24, **told})
    with pytest.raises(
        CheckpointError, match=r"the tensor 'w' in 'w\.bin', which ends before it: the file has 35 bytes"
    ):
        read_graph(path)
