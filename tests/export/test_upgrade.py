"""Graphs of opset 9 and up, from whichever exporter: written anew where they are old, with the same values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

import case_nets
from exports import refused
from onnx import helper, numpy_helper  # noqa: TID253

from splite_deploy.bundle import Bundle
from splite_deploy.errors import ExportError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.graph.upgrade import upgrade
from splite_deploy.export.graph.walk import from_proto, to_proto
from splite_deploy.runtime.verify import check, verify

node = helper.make_node
F = np.float32
HALVES = F([0.5, 1.5, 2.5, 3.5])
BIAS = numpy_helper.from_array(F([2]), "two")


def old(opset: int, nodes: list[Any], shape: tuple[Any, ...] = (1, 4, 6, 6), **constants: Any) -> Any:
    """A graph from x to y, and to i where a node gives that."""
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    names = [name for name in ("y", "i") if any(name in made.output for made in nodes)]
    outputs = [helper.make_empty_tensor_value_info(name) for name in names]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)], outputs, values
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    inferred = onnx.shape_inference.infer_shapes(model)
    for output, known in zip(model.graph.output, inferred.graph.output, strict=True):
        output.type.CopyFrom(known.type)
    return model


def run(model: Any, image: Any) -> list[Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": image}))


def branch(result: str, *nodes: Any) -> Any:
    return helper.make_graph(list(nodes), result, [], [helper.make_empty_tensor_value_info(result)])


THERE_AND_BACK = [node("Squeeze", ["x"], ["t"], axes=[0]), node("Unsqueeze", ["t"], ["o"], axes=[0])]
SCALES = F([1, 1, 2, 1.5])
REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
GRAPHS: dict[str, Any] = {
    "Upsample": old(9, [node("Upsample", ["x", "s"], ["y"], mode="nearest")], s=SCALES),
    "Upsample linear": old(9, [node("Upsample", ["x", "s"], ["y"], mode="linear")], s=SCALES),
    "Upsample computed": old(
        9,
        [
            node("Shape", ["x"], ["n"]),
            node("Slice", ["n"], ["m"], starts=[2], ends=[4]),
            node("Cast", ["m"], ["f"], to=1),
            node("Div", ["f", "three"], ["r"]),
            node("Concat", ["one", "r"], ["s"], axis=0),
            node("Upsample", ["x", "s"], ["y"]),
        ],
        three=F([3, 3]),
        one=F([1, 1]),
    ),
    "Resize 10": old(10, [node("Resize", ["x", "s"], ["y"], mode="nearest")], s=SCALES),
    "Resize 10 linear": old(10, [node("Resize", ["x", "s"], ["y"], mode="linear")], s=SCALES),
    **{
        f"Resize 11 {mode}": old(
            11,
            [node("Resize", ["x", "r", "e", "s"], ["y"], mode="linear", coordinate_transformation_mode=mode)],
            r=F([]),
            e=F([]),
            s=np.int64([1, 4, 12, 9]),
        )
        for mode in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    },
    "Resize 11 of tf": old(
        11,
        [
            node(
                "Resize",
                ["x", "r", "s"],
                ["y"],
                coordinate_transformation_mode="tf_half_pixel_for_nn",
                nearest_mode="floor",
            )
        ],
        r=F([]),
        s=F([1, 1, 2, 2.5]),
    ),
    "Slice": old(9, [node("Slice", ["x"], ["y"], starts=[1, 0], ends=[3, 100000], axes=[1, 2])]),
    "Slice of all axes": old(9, [node("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, -1])]),
    "Pad": old(9, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 3, 4], value=0.5)]),
    "Pad reflected": old(9, [node("Pad", ["x"], ["y"], mode="reflect", pads=[0, 0, 1, 2, 0, 0, 3, 4])]),
    "Clip": old(9, [node("Clip", ["x"], ["y"], min=0.0, max=0.6)]),
    "Clip below": old(9, [node("Clip", ["x"], ["y"], min=0.0)]),
    "Dropout": old(9, [node("Dropout", ["x"], ["y"], ratio=0.3)]),
    "Dropout with a mask": old(10, [node("Dropout", ["x"], ["y", "m"], ratio=0.3)]),
    "BatchNormalization": old(
        9, [node("BatchNormalization", ["x", "a", "a", "a", "a"], ["y"], momentum=0.8)], a=HALVES
    ),
    "Squeeze": old(9, [node("ReduceMean", ["x"], ["t"], axes=[2, 3]), node("Squeeze", ["t"], ["y"], axes=[2, 3])]),
    "Squeeze all": old(9, [node("ReduceMax", ["x"], ["t"], axes=[2, 3]), node("Squeeze", ["t"], ["y"])]),
    "Unsqueeze": old(9, [node("Unsqueeze", ["x"], ["y"], axes=[0, 2])]),
    **{
        f"Reduce{kind}": old(
            11, [node("Abs", ["x"], ["a"]), node(f"Reduce{kind}", ["a"], ["y"], axes=[2, -1], keepdims=0)]
        )
        for kind in REDUCTIONS
    },
    "ReduceSum of all": old(9, [node("ReduceSum", ["x"], ["y"])]),
    **{
        f"{kind} over {axis} and behind": old(9, [node(kind, ["x"], ["y"], axis=axis)])
        for kind in ("Softmax", "LogSoftmax", "Hardmax")
        for axis in (0, 1, 2, 3)
    },
    "Softmax over the last": old(11, [node("Softmax", ["x"], ["y"], axis=-1)]),
    "Softmax as it comes": old(9, [node("Softmax", ["x"], ["y"])]),
    "Softmax of any batch": old(9, [node("Softmax", ["x"], ["y"], axis=1)], shape=("n", 4, 6, 6)),
    "TopK": old(9, [node("TopK", ["x"], ["y", "i"], axis=2, k=2)]),
    "Split": old(
        9, [node("Split", ["x"], ["a", "b"], axis=1, split=[1, 3]), node("Concat", ["b", "a"], ["y"], axis=1)]
    ),
    "Split equally": old(9, [node("Split", ["x"], ["a", "b"], axis=1), node("Concat", ["b", "a"], ["y"], axis=1)]),
    "Split 13": old(13, [node("Split", ["x"], ["a", "b"], axis=1), node("Concat", ["b", "a"], ["y"], axis=1)]),
    "Scatter": old(
        9,
        [node("Scatter", ["x", "j", "u"], ["y"], axis=1)],
        j=np.zeros((1, 1, 6, 6), np.int64),
        u=np.ones((1, 1, 6, 6), F),
    ),
    "If of a constant": old(
        11,
        [
            node(
                "If",
                ["c"],
                ["y"],
                then_branch=branch("o", *THERE_AND_BACK),
                else_branch=branch("p", node("Neg", ["x"], ["p"])),
            )
        ],
        c=np.bool_(True),
    ),
    "If of a value": old(
        9,
        [
            node("ReduceSum", ["x"], ["t"], keepdims=0),
            node("Greater", ["t", "zero"], ["c"]),
            node(
                "If",
                ["c"],
                ["y"],
                then_branch=branch("o", node("Neg", ["x"], ["o"])),
                else_branch=branch("p", node("Clip", ["x"], ["p"], max=0.5)),
            ),
        ],
        zero=F(0),
    ),
    "what has not changed": old(
        9,
        [
            node("Conv", ["x", "w"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
            node("PRelu", ["c", "p"], ["d"]),
            node("MaxPool", ["d"], ["e"], kernel_shape=[2, 2]),
            node("DepthToSpace", ["e"], ["f"], blocksize=2),
            node("Flatten", ["f"], ["g"]),
            node("ArgMax", ["g"], ["h"], axis=1),
            node("Cast", ["h"], ["y"], to=1),
        ],
        w=np.linspace(-1, 1, 4 * 4 * 9, dtype=F).reshape(4, 4, 3, 3),
        p=F([[[0.1]]]),
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_an_old_operator_gives_the_same_values(name: str) -> None:
    model = GRAPHS[name]
    image = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(F)
    before = run(model, image)
    upgraded, _ = upgrade(from_proto(model), 18)
    written = to_proto(upgraded)
    onnx.checker.check_model(written, full_check=True)
    after = run(written, image)
    for one, other in zip(before, after, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, atol=1e-6)
    assert [entry.version for entry in written.opset_import if not entry.domain] == [18]


def test_what_was_rewritten_is_said() -> None:
    _, (said,) = upgrade(from_proto(GRAPHS["Upsample computed"]), 18)
    assert said == (
        "wrote the graph of opset 9 anew in opset 18, since these have another form or meaning for converters: "
        "1 Slice, 1 Upsample"
    )
    _, (same,) = upgrade(from_proto(GRAPHS["what has not changed"]), 18)
    assert same == "wrote the graph of opset 9 anew in opset 18: every node is the same in both"
    _, notes = upgrade(from_proto(GRAPHS["Upsample linear"]), 18)
    assert "at other positions than torch's interpolate" in notes[1]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (old(9, [node("Dropout", ["x"], ["z", "i"]), node("Identity", ["z"], ["y"])]), r"Dropout:z \(Dropout\) of op"),
        (
            old(
                11,
                [node("Resize", ["x", "r", "s"], ["y"], mode="linear",
                      coordinate_transformation_mode="tf_half_pixel_for_nn")],
                r=F([]),
                s=SCALES,
            ),
            r"Resize:y \(Resize\) of opset 11 has no form in opset 18\.",
        ),
    ],
)  # fmt: skip
def test_what_has_no_later_form_is_named(model: Any, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        upgrade(from_proto(model), 18)
    assert "Export the graph again with opset 18" in caught.value.hint


# --- whole files ---


@pytest.fixture
def exported(tmp_path: Path) -> Callable[..., Bundle]:
    def run_export(graph: Path, **options: Any) -> Bundle:
        bundle = export_bundle(
            graph, tmp_path / "net.splite", options=ExportOptions(**{"crops": 4, "overwrite": True} | options)
        )
        check(verify(bundle))
        return bundle

    return run_export


def is_of(bundle: Bundle, network: Any, atol: float = 1e-4) -> None:
    """Asserts that a bundle computes what a network does."""
    session = ort.InferenceSession(str(bundle.path / "model.onnx"), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(F)
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(session.run(None, {"image": image})[0], expected, atol=atol)


def changed(path: Path, change: Callable[[Any], Any]) -> Path:
    model = onnx.load(str(path))
    change(model)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("opset", [9, 10, 11, 12])
@pytest.mark.parametrize("kind", [case_nets.ScaleNorm, case_nets.Shuffle, case_nets.PaddedChannels])
def test_a_graph_of_torchs_old_exporter(exported: Callable[..., Bundle], tmp_path: Path, kind: Any, opset: int) -> None:
    bundle = exported(case_nets.write_onnx(kind, tmp_path, opset, keep_initializers_as_inputs=opset < 11))
    report = bundle.report()
    assert report.opset == 18
    assert any(note.startswith(f"wrote the graph of opset {opset} anew in opset 18") for note in report.notes)
    is_of(bundle, case_nets.seeded(kind))


def test_an_opset_may_be_requested(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = exported(case_nets.write_onnx(case_nets.Stem, tmp_path, 13), opset=20)
    assert bundle.report().opset == 20
    is_of(bundle, case_nets.seeded(case_nets.Stem))


def test_a_fixed_batch_of_several(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    bundle = exported(case_nets.write_onnx(case_nets.Stem, tmp_path, 17, batch=4))
    assert "set the graph's batch of 4 to 1: each crop is computed by itself" in bundle.report().notes
    is_of(bundle, case_nets.seeded(case_nets.Stem))
    graph = case_nets.write_onnx(case_nets.MixedBatch, tmp_path, 17, batch=4)
    refused(ExportError, "for a batch of 4, and does not compute one crop", "open first axis", exported, graph)


def test_open_sizes_become_those_of_the_model(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    graph = case_nets.write_onnx(
        case_nets.Stem, tmp_path, 11, input_names=["x"], dynamic_axes={"x": {0: "n", 2: "rows", 3: "columns"}}
    )
    bundle = exported(graph)
    assert bundle.find().inputs[0].shape == (1, 3, 64, 64)
    is_of(bundle, case_nets.seeded(case_nets.Stem))


def test_a_graph_exported_in_training_mode(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, 4, 1), torch.nn.BatchNorm2d(8), torch.nn.Dropout(0.5), torch.nn.Conv2d(8, 4, 1)
    )
    network[1].running_mean.uniform_(-1, 1)
    for opset in (9, 17):
        graph = case_nets.write_onnx(
            case_nets.Stem, tmp_path, opset, network=network, training=torch.onnx.TrainingMode.TRAINING,
            do_constant_folding=False,
        )  # fmt: skip
        bundle = exported(graph, overwrite=True)
        assert any("exported in training mode" in note for note in bundle.report().notes)
        is_of(bundle, network.eval())
        network.train()


def test_a_graph_in_float64(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    graph = case_nets.write_onnx(case_nets.Stem, tmp_path, 17)

    def doubled(model: Any) -> None:
        for tensor in model.graph.initializer:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE

    bundle = exported(changed(graph, doubled))
    assert "made float32 of float64 in the graph, in which the reference computes" in bundle.report().notes
    is_of(bundle, case_nets.seeded(case_nets.Stem))


def test_versions_that_are_too_new(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    graph = case_nets.write_onnx(case_nets.Stem, tmp_path, 17)

    def newer(ir_version: int, opset: int) -> Callable[[Any], None]:
        def change(model: Any) -> None:
            model.ir_version, model.opset_import[0].version = ir_version, opset

        return change

    bundle = exported(changed(graph, newer(99, 24 if onnx.defs.onnx_opset_version() >= 24 else 23)))
    assert "wrote IR version 10 for 99, which not every runtime reads" in bundle.report().notes
    is_of(bundle, case_nets.seeded(case_nets.Stem))
    refused(ExportError, "The graph has opset 99; onnx", "again with opset 18", exported, changed(graph, newer(99, 99)))


def test_a_graph_that_onnx_runtime_has_optimised(exported: Callable[..., Bundle], tmp_path: Path) -> None:
    graph = case_nets.write_onnx(case_nets.Stem, tmp_path, 17)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fast.onnx")
    options.log_severity_level = 3  # it warns that the file is for this machine
    ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    with pytest.raises(ExportError, match=r"was optimised by ONNX Runtime: \d of \d nodes are its own \(") as caught:
        exported(tmp_path / "fast.onnx")
    assert "Give the file that ONNX Runtime was given before" in caught.value.hint


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_graph_that_others_have_quantised(exported: Callable[..., Bundle], tmp_path: Path, form: str) -> None:
    from onnxruntime import quantization

    class Noise(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            random = np.random.default_rng(0)
            self._crops = iter([{"x": random.standard_normal((1, 3, 64, 64)).astype(F)} for _ in range(8)])

        def get_next(self) -> Any:
            return next(self._crops, None)

    graph = case_nets.write_onnx(case_nets.Stem, tmp_path, 17, input_names=["x"])
    quantised = tmp_path / "q.onnx"
    quantization.quantize_static(str(graph), str(quantised), Noise(), quant_format=quantization.QuantFormat[form])
    if form == "QOperator":
        refused(ExportError, "The graph computes in integers: it has ", "QuantFormat.QDQ", exported, quantised)
        return
    bundle = exported(quantised, precisions=("int8",))
    (artifact,) = bundle.manifest.artifacts
    assert artifact.precision == "int8"
    given, kept = (ort.InferenceSession(str(file)) for file in (quantised, bundle.path / artifact.file))
    image = np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype(F)
    expected = given.run(None, {"x": image})[0]
    np.testing.assert_allclose(kept.run(None, {"image": image})[0], expected, atol=0.05 * np.abs(expected).max())
