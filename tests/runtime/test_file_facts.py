"""What files of other makers say of themselves, and that a session takes them as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from foreign_tflite import foreign

from splite_deploy.errors import BackendError, UsageError
from splite_deploy.runtime.backends.litert import TfliteOptions
from splite_deploy.runtime.backends.onnx_file import read_onnx
from splite_deploy.runtime.backends.ort import OrtOptions
from splite_deploy.runtime.file_facts import describe_file
from splite_deploy.runtime.session import open_file


@pytest.fixture
def picture() -> np.typing.NDArray[np.float32]:
    """(1, 64, 48, 3) in 0 to 1."""
    return np.random.default_rng(0).random((1, 64, 48, 3), np.float32)


@pytest.mark.parametrize(
    ("name", "precision", "numbers"),
    [
        ("float32", "fp32", "float32"),
        ("float16", "fp16", "float16 weights, float32 activations"),
        ("uint8", "int8", "int8 weights, int8 activations"),
        ("dynamic-range", "int8", "int8 weights, float32 activations: dynamic range, or weights alone"),
    ],
)
def test_the_precision_is_read_from_the_file(name: str, precision: str, numbers: str) -> None:
    facts = describe_file(foreign(name))
    assert (facts.format, facts.precision) == ("tflite", precision)
    assert facts.numbers.startswith(numbers)
    assert facts.operators["CONV_2D"] == 3
    assert facts.custom == ()
    assert facts.size_bytes == foreign(name).stat().st_size


def test_a_file_without_a_signature_has_the_names_of_its_graph() -> None:
    facts = describe_file(foreign("float32"))
    assert [(one.name, one.shape, one.dtype) for one in facts.inputs] == [("input_1", (1, 64, 48, 3), "float32")]
    assert [(one.name, one.shape) for one in facts.outputs] == [
        ("Identity", (1, 16, 12, 5)),
        ("Identity_1", (1, 15)),
        ("Identity_2", (1, 5)),
    ]


def test_a_file_with_a_signature_has_its_names() -> None:
    facts = describe_file(foreign("signed"))
    assert [one.name for one in facts.inputs] == ["image"]
    assert {one.name: one.shape for one in facts.outputs} == {
        "heatmap": (1, 16, 12, 5),
        "points": (1, 15),
        "scores": (1, 5),
    }


def test_scales_of_integers_and_open_sizes_are_told() -> None:
    (image,) = describe_file(foreign("uint8")).inputs
    assert image.dtype == "uint8"
    assert image.scale == pytest.approx(1 / 255, rel=1e-3)
    assert image.zero_point == 0
    assert str(image) == "input_1: 1 x 64 x 48 x 3 uint8, steps of 0.00392153 from 0"
    assert [one.shape for one in describe_file(foreign("open")).inputs] == [(None, None, None, 3)]


@pytest.mark.parametrize("name", ["float32", "signed", "uint8", "open", "half-input", "dynamic-range"])
def test_a_session_has_the_names_and_sizes_of_the_facts(name: str) -> None:
    facts = describe_file(foreign(name))
    with open_file(foreign(name), threads=1) as session:
        assert [(one.name, one.shape) for one in session.inputs] == [(one.name, one.shape) for one in facts.inputs]
        assert [(one.name, one.shape) for one in session.outputs] == [(one.name, one.shape) for one in facts.outputs]
        assert {one.dtype for one in (*session.inputs, *session.outputs)} == {"float32"}


@pytest.mark.parametrize(
    ("name", "near"), [("float16", 2e-3), ("half-input", 2e-2), ("dynamic-range", 0.05), ("uint8", 0.3)]
)
def test_every_form_gives_what_the_float_file_gives(
    name: str, near: float, picture: np.typing.NDArray[np.float32]
) -> None:
    with open_file(foreign("float32"), threads=1) as plain, open_file(foreign(name), threads=1) as other:
        expected, found = plain.run({"input_1": picture}), other.run({"input_1": picture})
    np.testing.assert_allclose(found["Identity"], expected["Identity"], atol=near)
    np.testing.assert_allclose(found["Identity_2"], expected["Identity_2"], atol=near / 4)


def test_sizes_that_a_file_leaves_open_are_those_of_what_is_fed(picture: np.typing.NDArray[np.float32]) -> None:
    with open_file(foreign("float32"), threads=1) as plain, open_file(foreign("open"), threads=1) as session:
        alone = plain.run({"input_1": picture})["Identity"]
        assert session.run({"input_1": picture})["Identity"].shape == (1, 16, 12, 5)
        both = session.run({"input_1": np.concatenate([picture, picture[:, ::-1]])})["Identity"]
        assert both.shape == (2, 16, 12, 5)
        np.testing.assert_allclose(both[:1], alone, atol=1e-5)
        half = session.run({"input_1": np.ascontiguousarray(picture[:, :32])})["Identity"]
        assert half.shape == (1, 8, 12, 5)
        np.testing.assert_allclose(half[:, :7], alone[:, :7], atol=1e-5)
        with pytest.raises(BackendError, match=r"the network takes float32 NxNxNx3"):
            session.run({"input_1": picture[..., :2].copy()})


def test_reference_kernels_compute_the_same_and_not_by_the_same_code(picture: np.typing.NDArray[np.float32]) -> None:
    reference = TfliteOptions(reference=True)
    for name in ("float32", "uint8"):
        with open_file(foreign(name)) as fast, open_file(foreign(name), options=reference) as plain:
            (found, expected) = (one.run({"input_1": picture})["Identity"] for one in (fast, plain))
        np.testing.assert_allclose(found, expected, atol=1e-4 if name == "float32" else 0.06)
        if name == "float32":
            assert not np.array_equal(found, expected)


@pytest.mark.parametrize(("name", "operator"), [("custom", "Erfc"), ("flex", "FlexErf")])
def test_operators_that_only_the_maker_has(name: str, operator: str) -> None:
    assert describe_file(foreign(name)).custom == (operator,)
    with pytest.raises(BackendError) as caught:
        open_file(foreign(name))
    assert caught.value.message.startswith(f"foreign.{name}.tflite has operators of its maker's own, which LiteRT ")
    assert caught.value.message.endswith(f"lacks: {operator}.")
    assert "export the network" in caught.value.hint.lower() and "TFLITE_BUILTINS" in caught.value.hint


def test_what_is_no_tflite_file(tmp_path: Path) -> None:
    file = tmp_path / "net.tflite"
    whole = foreign("float32").read_bytes()
    for content, said in (
        (b"", "it does not begin as one"),
        (b"PK\x03\x04 a zip archive", "it does not begin as one"),
        (b"\x08\x07\x12\x04onnx", "it looks like an ONNX graph."),
        (whole[:3000], "damaged"),
        (b"\x1c\x00\x00\x00TFL3" + b"\xff" * 40, "damaged"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(40), "damaged"),
    ):
        file.write_bytes(content)
        with pytest.raises(BackendError, match=said) as caught:
            describe_file(file)
        assert caught.value.hint
        with pytest.raises(BackendError, match=r"cannot load net\.tflite|net\.tflite is"):
            open_file(file)
    with pytest.raises(UsageError, match="There is no file"):
        describe_file(tmp_path / "absent.tflite")


def test_a_graph_is_described_without_the_package_onnx(tiny_bundle: Path) -> None:
    facts = describe_file(tiny_bundle / "model.onnx")
    assert (facts.format, facts.precision, facts.numbers, facts.opset) == ("onnx", "fp32", "float32", 18)
    assert facts.operators["Conv"] == 4
    assert facts.custom == ()
    assert [(one.name, one.shape, one.dtype) for one in facts.inputs] == [("image", (1, 3, 64, 48), "float32")]
    assert [one.name for one in facts.outputs] == ["heatmap", "depth"]


def test_operators_and_numbers_of_a_graph_are_counted_as_onnx_counts_them() -> None:
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    weights = helper.make_tensor("w", kinds.FLOAT16, (4, 5), np.zeros((4, 5), np.float16).tobytes(), raw=True)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("FusedThing", ["z"], ["out"], domain="com.example"),
    ]
    ends = [helper.make_tensor_value_info(name, kinds.FLOAT16, None) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights])
    opsets = [helper.make_opsetid("com.example", 1), helper.make_opsetid("", 13)]
    contents = read_onnx(helper.make_model(graph, opset_imports=opsets, producer_name="me").SerializeToString(), "a")
    assert contents.operators == {"MatMul": 1, "Relu": 1, "com.example.FusedThing": 1}
    assert (contents.weights, contents.opset, contents.producer) == ({"float16": 20}, 13, "me")
    for nonsense in (b"", b"nonsense", b"\x08\x07"):
        with pytest.raises(BackendError, match="is not an ONNX graph"):
            read_onnx(nonsense, "a.onnx")


def test_onnx_runtime_without_its_optimisations(tiny_bundle: Path) -> None:
    graph, plain = tiny_bundle / "model.onnx", OrtOptions(reference=True)
    with open_file(graph, threads=1) as fast, open_file(graph, options=plain) as slow:
        feeds = {"image": np.random.default_rng(0).random((1, 3, 64, 48), np.float32)}
        for role, values in slow.run(feeds).items():
            np.testing.assert_allclose(fast.run(feeds)[role], values, atol=1e-5)


def test_tensors_of_one_name_are_told_apart(tmp_path: Path, picture: np.typing.NDArray[np.float32]) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(foreign("float32").read_bytes()))
    graph = model.subgraphs[0]
    for index in graph.outputs:
        graph.tensors[index].name = b"out"
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    file = tmp_path / "same.tflite"
    file.write_bytes(bytes(builder.Output()))
    names = ["out", "out[1]", "out[2]"]
    assert [one.name for one in describe_file(file).outputs] == names
    with open_file(file) as session:
        assert [one.name for one in session.outputs] == names
        assert [values.shape for values in session.run({"input_1": picture}).values()] == [
            (1, 16, 12, 5),
            (1, 15),
            (1, 5),
        ]
