"""ONNX graphs that keep weights in other files: found in the bytes alone, and refused before an engine sees them."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splite_deploy.bench.profile import profile_artifact
from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError
from splite_deploy.runtime import open_bytes, open_file
from splite_deploy.runtime.backends.onnx_file import check_onnx

onnx = pytest.importorskip("onnx")

helper, numpy_helper, FLOAT = onnx.helper, onnx.numpy_helper, onnx.TensorProto.FLOAT
WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


def has_external_data(data: bytes) -> bool:
    """Whether a graph is refused for that."""
    try:
        check_onnx(data, "a.onnx")
    except BackendError as err:
        if "keeps weights in another file" not in err.message:
            raise
        return True
    return False


def external(name: str) -> Any:
    tensor = numpy_helper.from_array(WEIGHTS, name)
    onnx.external_data_helper.set_external_data(tensor, location="weights.bin", offset=0, length=WEIGHTS.nbytes)
    tensor.ClearField("raw_data")
    return tensor


def graph(nodes: list[Any], initializers: Sequence[Any] = (), **more: Any) -> Any:
    inputs = [helper.make_tensor_value_info("x", FLOAT, (2, 3))]
    outputs = [helper.make_tensor_value_info("y", FLOAT, (2, 3))]
    return helper.make_graph(nodes, "g", inputs, outputs, initializer=initializers, **more)


def added(constant: Any) -> Any:
    return graph([helper.make_node("Constant", [], ["w"], value=constant), helper.make_node("Add", ["x", "w"], ["y"])])


def branches(constant: Any) -> Any:
    then = helper.make_graph(
        [helper.make_node("Constant", [], ["w"], value=constant), helper.make_node("Identity", ["w"], ["b"])],
        "then",
        [],
        [helper.make_tensor_value_info("b", FLOAT, (2, 3))],
    )
    condition = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True)))
    return graph([condition, helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=then)])


def sparse(values: Any) -> Any:
    indices = numpy_helper.from_array(np.arange(6, dtype=np.int64), "indices")
    tensor = helper.make_sparse_tensor(values, indices, [2, 3])
    return graph([helper.make_node("Add", ["x", "w"], ["y"])], sparse_initializer=[tensor])


def model_of(made: Any, functions: Sequence[Any] = ()) -> bytes:
    return bytes(helper.make_model(made, functions=functions).SerializeToString())


def function_of(constant: Any) -> bytes:
    nodes = [helper.make_node("Constant", [], ["w"], value=constant), helper.make_node("Add", ["a", "w"], ["b"])]
    function = helper.make_function("own", "Plus", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])
    return model_of(graph([helper.make_node("Plus", ["x"], ["y"], domain="own")]), [function])


PLACES = {
    "initializer": lambda tensor: model_of(graph([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])),
    "constant": lambda tensor: model_of(added(tensor)),
    "branch": lambda tensor: model_of(branches(tensor)),
    "sparse": lambda tensor: model_of(sparse(tensor)),
    "function": function_of,
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_the_tensor_lies(place: str) -> None:
    inside = numpy_helper.from_array(WEIGHTS.reshape(-1) if place == "sparse" else WEIGHTS, "w")
    inside.doc_string = "at this location"  # the word alone says nothing
    assert not has_external_data(PLACES[place](inside))
    assert has_external_data(PLACES[place](external("w")))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it holds no graph"),
        (b"location", "a group ends that has not begun"),
        (b"\x3a\xff\x01location", "a field ends after its message"),
        (b"\xff" * 20 + b"location", "a number has more than ten bytes"),
        (b"\x0f location", "a field has the wire type 7"),
        (b"\x08", "it ends within a number"),
        (b"\x3a", "it ends within a number"),
        (b"\x3d\0\0", "a field ends after its message"),
        (b"\x3b", "a group does not end"),
        (b"\x3c", "a group ends that has not begun"),
        (b"\xba\x80\x80\x80\x10\x00", "a field has a number that none has"),
    ],
)
def test_what_is_no_graph(content: bytes, why: str) -> None:
    with pytest.raises(
        BackendError, match=rf"^a\.onnx is no ONNX graph, or a damaged one of \d+ bytes: {why}"
    ) as caught:
        check_onnx(content, "a.onnx")
    assert caught.value.hint == "Copy it again, or export it again from its framework."


def test_training_hides_nothing() -> None:
    model = onnx.load_from_string(model_of(graph([helper.make_node("Add", ["x", "w"], ["y"])])))
    model.training_info.add().algorithm.initializer.append(external("w"))
    assert has_external_data(model.SerializeToString())


def test_nested_without_end() -> None:
    data = b""
    for _ in range(400):  # a graph in an attribute of a node of a graph
        for number in (6, 5, 1):
            data = bytes([number << 3 | 2]) + varint(len(data)) + data
    with pytest.raises(BackendError, match="it is nested too deeply"):
        check_onnx(b"\x3a" + varint(len(data)) + data, "a.onnx")


def varint(number: int) -> bytes:
    digits = [number >> 7 * index & 0x7F | 0x80 for index in range(max(1, -(-number.bit_length() // 7)))]
    return bytes([*digits[:-1], digits[-1] & 0x7F])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda tensor: tensor.dims.append(2), r"a tensor of 12 elements has 24 bytes of float32"),
        (lambda tensor: tensor.dims.append(-1), "a tensor has a size that is none"),
        (lambda tensor: tensor.dims.append(2**62), "a tensor has a size that is none"),
        (lambda tensor: tensor.dims.extend([2**39, 2**39]), r"a tensor has [\d,]+ elements"),
        (lambda tensor: setattr(tensor, "data_type", 7), r"a tensor of 6 elements has 24 bytes of int64"),
        (lambda tensor: setattr(tensor, "raw_data", tensor.raw_data[:-1]), r"has 23 bytes of float32"),
    ],
)
def test_constants_that_are_not_as_large_as_they_say(change: Any, why: str) -> None:
    tensor = numpy_helper.from_array(WEIGHTS, "w")
    check_onnx(PLACES["branch"](tensor), "a.onnx")
    change(tensor)
    with pytest.raises(BackendError, match=f"^a.onnx is no ONNX graph, or a damaged one of .* bytes: .*{why}"):
        check_onnx(PLACES["branch"](tensor), "a.onnx")


STEPS: list[dict[str, Any]] = [{"strides": [0, 1]}, {"dilations": [1, -1]}, {"group": 0}, {"kernel_shape": [0, 3]}, {}]


@pytest.mark.parametrize("given", STEPS)
def test_steps_of_zero(given: dict[str, Any]) -> None:
    """ONNX Runtime divides by some of them, which ends the process."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], **given)
    if given == {}:
        node.attribute.append(onnx.AttributeProto(name="group", type=onnx.AttributeProto.INT))  # its value: 0
    data = model_of(graph([node]))
    with pytest.raises(BackendError, match=f"a node has {next(iter(given), 'group')} below 1"):
        check_onnx(data, "a.onnx")


def test_any_part_of_a_graph(tiny_bundle: Path) -> None:
    """Cut short, or with other bytes, a graph is refused or read, and nothing else happens."""
    data, rng, refused = (tiny_bundle / "model.onnx").read_bytes(), random.Random(0), 0
    for _ in range(400):
        changed = bytearray(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        for _ in range(rng.choice((0, 1, 8)) if changed else 0):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        try:
            check_onnx(bytes(changed), "a.onnx")
        except BackendError:
            refused += 1
    assert refused > 100


def test_groups_of_another_writer_hide_nothing() -> None:
    """Protocol buffers skip fields that they do not know, also in the form that is out of use."""
    data = model_of(graph([helper.make_node("Add", ["x", "w"], ["y"])], [external("w")]))
    group = b"\xa3\x3e" + b"\x08\x01" + b"\x15\x00\x00\x00\x00" + b"\x11" + bytes(8) + b"\x1a\x02hi" + b"\xa4\x3e"
    assert onnx.load_from_string(group + data).graph.node[0].op_type == "Add"
    assert has_external_data(group + data)


def test_a_location_written_with_more_bits_than_it_has_hides_nothing() -> None:
    """Protocol buffers keep the lower 32 bits of an enumeration's number."""
    tensor = external("w")
    tensor.ClearField("data_location")
    longer = tensor.SerializeToString() + b"\x70\x81\x80\x80\x80\x10"  # 2 ** 32 + 1
    assert len(longer) < 0x7E
    initializer = b"\x2a" + bytes([len(longer)]) + longer
    data = (
        model_of(graph([helper.make_node("Add", ["x", "w"], ["y"])]))
        + b"\x3a"
        + bytes([len(initializer)])
        + initializer
    )
    loaded = onnx.load_from_string(data).graph.initializer[0]
    assert loaded.data_location == onnx.TensorProto.EXTERNAL
    assert has_external_data(data)


@pytest.fixture
def external_graph(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny network with its weights beside it, where a path in the graph would lead from the working folder."""
    path = tmp_path / "external.onnx"
    model = onnx.load(tiny_bundle / "model.onnx")
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_real_graph_with_external_data_is_refused(external_graph: Path, tiny_bundle: Path) -> None:
    pytest.importorskip("onnxruntime")
    bundle = Bundle.open(tiny_bundle)
    artifact = bundle.find("ort")
    assert not has_external_data((tiny_bundle / "model.onnx").read_bytes())
    for attempt in (
        lambda: open_file(external_graph),
        lambda: open_bytes(external_graph.read_bytes(), artifact),
    ):
        with pytest.raises(
            BackendError, match="keeps weights in another file, which nothing here has checked"
        ) as caught:
            attempt()
        assert "onnx.save(onnx.load(" in caught.value.hint


def test_a_bundle_whose_graph_has_external_data_is_refused(
    external_graph: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.splite"
    shutil.copytree(tiny_bundle, path)
    data = external_graph.read_bytes()
    (path / "model.onnx").write_bytes(data)
    bundle = Bundle.open(tiny_bundle)
    artifact = dataclasses.replace(bundle.find("ort"), sha256=hashlib.sha256(data).hexdigest())
    changed = Bundle(path, dataclasses.replace(bundle.manifest, artifacts=(artifact,)))
    with pytest.raises(BackendError, match=r"model\.onnx keeps weights in another file"):
        profile_artifact(changed, artifact)
