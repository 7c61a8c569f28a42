"""An imported ONNX graph: exported as it is, compared with itself, or refused with what to do."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from exports import golden_is_of, refused

from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError, CheckpointError, ExportError, SpliteError
from splite_deploy.export.source.formats import format_of
from splite_deploy.files import sha256_of
from splite_deploy.runtime.session import open_file
from splite_deploy.runtime.verify import verify
from splite_deploy.spec import OutputView, View

Export = Callable[..., Bundle]
Change = Callable[[Any], Any]
KEPT = "kept the opset 18 of the graph"
SAID = "the reference is the imported ONNX graph in ONNX Runtime; it was not compared with a torch network"
UNUSED = "arch in model.toml was not used: the graph is the network"


@pytest.fixture
def graph(tiny_bundle: Path, tiny_dynamic_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the graph of the tiny network, changed; ``open_batch`` takes that of any batch."""

    def write(change: Change = lambda model: None, name: str = "g.onnx", open_batch: bool = False) -> Path:
        model = onnx.load(str((tiny_dynamic_bundle if open_batch else tiny_bundle) / "model.onnx"))
        change(model)
        onnx.save(model, str(tmp_path / name))
        return tmp_path / name

    return write


def rename(**names: str) -> Change:
    """Gives tensors of the graph other names."""

    def change(model: Any) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.name = names.get(value.name, value.name)
        for node in model.graph.node:
            for held in (node.input, node.output):
                held[:] = [names.get(name, name) for name in held]

    return change


def batch_of(count: int) -> Change:
    """Fixes the batch of the graph's ends."""

    def change(model: Any) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = count

    return change


def opset(version: int) -> Change:
    def change(model: Any) -> None:
        (entry,) = model.opset_import
        entry.version = version

    return change


def outer(**names: str) -> Change:
    """The same names on the outside, while tensors inside have those that a bundle's graph needs."""

    def change(model: Any) -> None:
        rename(image="in", heatmap="a", depth="b")(model)
        inner = model.graph.node[0].output[0]
        rename(**{inner: "image", model.graph.node[1].output[0]: "heatmap"})(model)

    return change


# --- what is exported ---


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (lambda model: None, ()),
        (rename(heatmap="depth", depth="heatmap"), ()),  # by name: the tests of the values are below
        (rename(image="x", heatmap="a", depth="b"), ("'a' is the heatmap, 'b' is the depth",)),
        (outer(), ("'a' is the heatmap, 'b' is the depth",)),
    ],
    ids=["names", "order", "other names", "names inside"],
)
def test_a_graph_is_its_own_reference(
    export: Export,
    graph: Callable[..., Path],
    tiny: Any,
    request: pytest.FixtureRequest,
    change: Change,
    more: tuple[str],
) -> None:
    path = graph(change)
    before = sha256_of(path)
    bundle = export(path)
    source, report, artifact = bundle.manifest.source, bundle.report(), bundle.find()
    assert report.notes == (SAID, KEPT, *(f"matched the graph's outputs by their order: {m}" for m in more), UNUSED)
    assert (source.checkpoint, source.checkpoint_sha256, report.opset) == (path.name, before, 18)
    (parity,) = report.parity
    assert (parity.label, parity.crops) == ("onnx -> simplified", 2)
    assert artifact.inputs[0].name == "image" and {tensor.name for tensor in artifact.outputs} == {"heatmap", "depth"}
    assert verify(bundle)[0].parity.label == "onnx -> ort fp32"
    if "order" not in request.node.callspec.id.split("-"):
        golden_is_of(bundle, tiny)
    session = ort.InferenceSession(str(bundle.path / "model.onnx"))
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 48), np.float32)
    given = ort.InferenceSession(str(path))
    by_name = dict(
        zip([o.name for o in given.get_outputs()], given.run(None, {given.get_inputs()[0].name: image}), strict=True)
    )
    for role, value in zip(("heatmap", "depth"), session.run(["heatmap", "depth"], {"image": image}), strict=True):
        np.testing.assert_allclose(
            value, by_name.get(role, by_name.get({"heatmap": "a", "depth": "b"}[role])), atol=1e-4
        )


def in_a_sequence(model: Any) -> None:
    """Gives the first output as a sequence of one, under names that are no roles."""
    rename(depth="b")(model)
    (value, *others) = model.graph.output
    made = onnx.helper.make_tensor_sequence_value_info("list", onnx.TensorProto.FLOAT, None)
    model.graph.node.append(onnx.helper.make_node("SequenceConstruct", [value.name], ["list"]))
    del model.graph.output[:]
    model.graph.output.extend([made, *others])


def test_an_output_that_is_no_tensor_is_told(export: Export, graph: Callable[..., Path], tiny_bundle: Path) -> None:
    path = graph(in_a_sequence)
    hint = "Name another output as source of [outputs.heatmap] in model.toml"
    refused(ExportError, "The network's output 'list', which is the 'heatmap', is no tensor", hint, export, path)
    spec = Bundle.open(tiny_bundle).model
    view = View(outputs={"heatmap": OutputView("list"), "depth": OutputView(1)})
    with pytest.raises(BackendError, match="'list', which is the 'heatmap', is no tensor"):
        open_file(path, view=view, model=spec)


@pytest.mark.parametrize("version", [13, 17, 21])
def test_the_opset_is_kept(export: Export, graph: Callable[..., Path], tiny: Any, version: int) -> None:
    bundle = export(graph(opset(version)))
    written = onnx.load(str(bundle.path / "model.onnx")).opset_import
    assert [entry.version for entry in written if not entry.domain] == [version] == [bundle.report().opset]
    golden_is_of(bundle, tiny)


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_an_open_batch(export: Export, graph: Callable[..., Path], tiny: Any, dynamic_batch: bool) -> None:
    bundle = export(graph(open_batch=True), dynamic_batch=dynamic_batch)
    tensors = (*bundle.find().inputs, *bundle.find().outputs)
    assert {tensor.shape[0] for tensor in tensors} == {None if dynamic_batch else 1}
    golden_is_of(bundle, tiny)


def test_a_graph_is_known_without_its_suffix(export: Export, graph: Callable[..., Path]) -> None:
    path = graph(name="checkpoint")
    assert format_of(path) == "onnx"
    assert export(path).manifest.source.checkpoint == "checkpoint"


def test_weights_beside_the_graph(export: Export, graph: Callable[..., Path], tiny: Any, tmp_path: Path) -> None:
    model = onnx.load(str(graph()))
    onnx.save(model, str(tmp_path / "e.onnx"), save_as_external_data=True, location="e.data", size_threshold=0)
    bundle = export(tmp_path / "e.onnx")
    assert {file.name for file in bundle.path.iterdir()} == {"manifest.json", "report.json", "golden.bin", "model.onnx"}
    golden_is_of(bundle, tiny)
    (tmp_path / "e.data").unlink()
    shutil.rmtree(bundle.path)
    refused(
        CheckpointError,
        "keeps weights in another file, which cannot be read",
        "Copy that file too",
        export,
        tmp_path / "e.onnx",
    )


def test_it_is_said_on_the_command_line(
    splite: Callable[..., Result], graph: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    done = splite("export", graph(), "--model", tiny_model, "--crops", 2, "-o", tmp_path / "t.splite")
    assert done.exit_code == 0, done.output
    assert f"note: {SAID}" in done.stderr
    assert "onnx -> simplified" in done.stdout
    assert "torch ->" not in done.stdout


# --- what is refused ---


def typed(where: str, kind: int) -> Change:
    def change(model: Any) -> None:
        getattr(model.graph, where)[0].type.tensor_type.elem_type = kind

    return change


def sized(*sizes: int) -> Change:
    def change(model: Any) -> None:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        del dims[len(sizes) :]
        for dim, size in zip(dims, sizes, strict=True):
            dim.dim_value = size

    return change


def no_depth(model: Any) -> None:
    del model.graph.output[1:]


def same_shape_twice(model: Any) -> None:
    model.graph.input.add().CopyFrom(model.graph.input[0])
    model.graph.input[1].name = "second"


def in_integers(model: Any) -> None:
    model.graph.node[0].op_type = "QLinearConv"


def own_kernels(model: Any) -> None:
    node = model.graph.node[0]
    node.op_type, node.domain = "FusedConv", "com.microsoft"


def smaller_maps(model: Any) -> None:
    """The first convolution goes by 4 pixels instead of 2."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    next(item for item in conv.attribute if item.name == "strides").ints[:] = [4, 4]
    for output in model.graph.output:
        for dim, size in zip(output.type.tensor_type.shape.dim, (1, 5, 8, 6), strict=True):
            dim.dim_value = size
    del model.graph.value_info[:]


def unknown_operator(model: Any) -> None:
    model.opset_import.add().CopyFrom(onnx.helper.make_opsetid("nobody", 1))
    model.graph.node[-1].domain = "nobody"


def unsorted_nodes(model: Any) -> None:
    nodes = list(reversed(model.graph.node))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


@pytest.mark.parametrize(
    ("change", "options", "kind", "message", "hint"),
    [
        (opset(8), {}, ExportError, "The graph has opset 8; 9 is the least.", "again with opset 18"),
        (opset(18), {"opset": 17}, ExportError, "has opset 18, which cannot become 17", "or choose 18 to 23"),
        (opset(13), {"opset": 17}, ExportError, "has opset 13, which cannot become 17", "or choose 18 to 23"),
        (typed("input", 2), {}, ExportError, "input 'image' is uint8 1x3x64x48; the model spec", 'dtype = "uint8".'),
        (in_integers, {}, ExportError, "in integers: it has 1 nodes such as QLinearConv.", "QuantFormat.QDQ"),
        (own_kernels, {}, ExportError, "nodes are its own (FusedConv)", "was given before"),
        (sized(1, 3, 64, 64), {}, ExportError, "float32 1x3x64x64; the model spec says float32 1x3x64x48.", "size in"),
        (sized(1, 64, 48, 3), {}, ExportError, "'image' is float32 1x64x48x3;", 'layout = "NHWC".'),
        (sized(3, 64, 48), {}, ExportError, "'image' is float32 3x64x48;", "the input's size"),
        (same_shape_twice, {}, ExportError, "The graph takes 2 inputs: image, second.", "one input, the image"),
        (no_depth, {}, ExportError, "gives 1 output: heatmap; the decoder 'softargmax-depth' reads 2", "Choose the"),
        (rename(depth="z"), {}, ExportError, "outputs are heatmap, z: only heatmap is named", "[outputs.depth] with"),
        (smaller_maps, {}, ExportError, "'heatmap' has shape (1, 5, 8, 6); the spec says (1, 5, 16, 12)", "stride"),
        (lambda m: None, {"dynamic_batch": True}, ExportError, "for a batch of 1.", "Leave out --dynamic-batch"),
        (
            batch_of(4),
            {"dynamic_batch": True},
            ExportError,
            "for a batch of 4, which export",
            "Leave out --dynamic-batch",
        ),
        (unknown_operator, {}, BackendError, "ONNX Runtime", "The operator nobody:"),
        (unsorted_nodes, {}, CheckpointError, "g.onnx is not valid ONNX: ValidationError", "Export it again"),
    ],
)
def test_a_graph_that_does_not_fit(
    export: Export,
    graph: Callable[..., Path],
    tmp_path: Path,
    change: Change,
    options: dict[str, Any],
    kind: type[SpliteError],
    message: str,
    hint: str,
) -> None:
    path = graph(change)
    refused(kind, message, hint, export, path, **options)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mark", [b"a mark", b"Relu", b"heatmap"])
def test_a_text_that_is_not_utf_8(export: Export, graph: Callable[..., Path], mark: bytes) -> None:
    path = graph(lambda model: setattr(model, "doc_string", "a mark"))
    content = path.read_bytes()
    assert mark in content
    path.write_bytes(content.replace(mark, b"\xe9" * len(mark)))
    refused(CheckpointError, "g.onnx is not valid ONNX: a text in it is not UTF-8.", "Export it again", export, path)


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x0a", None])
def test_a_damaged_graph(export: Export, graph: Callable[..., Path], content: bytes | None) -> None:
    path = graph()
    path.write_bytes(path.read_bytes()[:-300] if content is None else content)
    refused(CheckpointError, "g.onnx is not a whole ONNX graph.", "Copy it again", export, path)
