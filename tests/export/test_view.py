"""The view of a network in torch and in graphs, and bundles of networks that need one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from exports import refused
from graphs import run_onnx
from viewed_nets import KINDS, Network, model_toml

from splite_deploy.bundle import Bundle
from splite_deploy.errors import ExportError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.graph.compose import graph_of
from splite_deploy.export.graph.view import InputModule, OutputsModule, keep_pixels_float
from splite_deploy.export.graph.walk import from_proto, to_proto
from splite_deploy.export.log_output import quiet
from splite_deploy.export.source.floats import to_float32
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.verify import verify
from splite_deploy.spec import InputSpec
from splite_deploy.spec.view import Dtype
from tests.shared.view_vectors import INPUTS, OUTPUTS, expected, given, input_view_of, model_of, view_of

Export = Callable[..., Bundle]


@pytest.mark.parametrize("case", OUTPUTS, ids=lambda case: case["name"])
def test_outputs_in_torch_and_in_a_graph(case: dict[str, Any]) -> None:
    model, role, values = model_of(case), case["role"], torch.from_numpy(given(case))
    one = view_of(case).output(role)
    count, shape = model.keypoint_count, tuple(values.shape[1:])
    module = OutputsModule([(0, one.steps(role, model.decoder, count, model.input, shape, ExportError))])
    (found,) = module(values)
    np.testing.assert_allclose(found.numpy(), expected(case), rtol=0, atol=1e-6)
    graph = graph_of(module.eval(), (values,), ["given"], [role], "view")
    (found,) = run_onnx(graph, {"given": values.numpy()})
    np.testing.assert_allclose(found, expected(case), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", INPUTS, ids=lambda case: case["name"])
def test_inputs_in_torch_and_in_a_graph(case: dict[str, Any]) -> None:
    view, values = input_view_of(case), torch.from_numpy(given(case))
    _, channels, height, width = values.shape
    color = "gray" if channels == 1 else "rgb"
    spec = InputSpec(height, width, color, (0.0,) * channels, (255.0,) * channels, 1.0, 0)  # type: ignore[arg-type]
    module, wanted = InputModule(view, spec).eval(), expected(case).astype(view.dtype)
    found = module(values).numpy()
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    (found,) = run_onnx(graph_of(module, (values,), ["image"], ["taken"], "view"), {"image": values.numpy()})
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "std", "dtype", "rounds"),
    [(0, 1, "uint8", False), (128, 1, "int8", False), (0, 1, "int8", True), (0, 255, "uint8", True)],
)
def test_pixels_as_they_are_need_no_rounding(mean: float, std: float, dtype: Dtype, rounds: bool) -> None:
    spec = InputSpec(4, 4, "rgb", (mean,) * 3, (std,) * 3, 1.0, 0)
    view = input_view_of({"view": {"dtype": dtype}})
    graph = graph_of(InputModule(view, spec).eval(), (torch.zeros(1, 3, 4, 4),), ["image"], ["taken"], "view")
    assert ("Round" in {node.op_type for node in graph.graph.node}) == rounds


@pytest.mark.parametrize(
    ("behind", "kept"),
    [
        (["Cast"], False),
        (["Transpose", "Cast"], False),
        (["Transpose"], True),  # integers are what the graph gives
        (["Neg", "Cast"], True),  # something else computes with them
    ],
)
def test_integers_stay_where_something_computes_with_them(behind: list[str], kept: bool) -> None:
    def node(kind: str, given: str, made: str) -> Any:
        more = {"perm": [0, 2, 3, 1]} if kind == "Transpose" else {}
        return onnx.helper.make_node(
            kind, [given], [made], **(more if kind != "Cast" else {"to": onnx.TensorProto.FLOAT})
        )

    names = ["taken", *(f"t{index}" for index in range(len(behind)))]
    nodes = [
        onnx.helper.make_node("Round", ["image"], ["round"]),
        onnx.helper.make_node("Cast", ["round"], ["taken"], to=onnx.TensorProto.INT32),
        *(node(kind, *pair) for kind, pair in zip(behind, pairwise(names), strict=True)),
    ]
    kind = onnx.TensorProto.FLOAT if behind[-1] == "Cast" else onnx.TensorProto.INT32
    sizes = [1, 4, 5, 3] if "Transpose" in behind else [1, 3, 4, 5]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 3, 4, 5])],
        [onnx.helper.make_tensor_value_info(names[-1], kind, sizes)],
    )
    before = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    after = to_proto(keep_pixels_float(from_proto(before)))
    held = [one for one in after.graph.node if one.op_type == "Cast" and one.attribute[0].i == onnx.TensorProto.INT32]
    assert bool(held) == kept
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 4, 5)).astype(np.float32)
    (expected,), (found,) = (run_onnx(model, {"image": image}) for model in (before, after))
    np.testing.assert_array_equal(found, expected)


# --- from a source to a bundle ---


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(5)
    for index in range(3):
        small = random.integers(0, 256, (8, 6, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(small, (48, 64), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.fixture
def made(tmp_path: Path, images: Path) -> Callable[..., tuple[Bundle, Network]]:
    """Exports a kind of network from one form of source, with its model.toml changed."""

    def make(
        name: str,
        form: str,
        change: Callable[[str], str] = lambda text: text,
        content: Callable[[Any], Any] = lambda model: None,
        **options: Any,
    ) -> tuple[Bundle, Network]:
        network = Network(name).eval()
        arch = 'arch = "arch.py:build"' if form == "weights" else ""
        (tmp_path / "model.toml").write_text(change(model_toml(name, arch)), encoding="utf-8")
        (tmp_path / "arch.py").write_text(
            f"from tests.shared.viewed_nets import Network\ndef build():\n    return Network({name!r})\n",
            encoding="utf-8",
        )
        with quiet():
            file = write_source(network, form, tmp_path)
        if form == "onnx":
            model = onnx.load(str(file))
            content(model)
            onnx.save(model, str(file))
        chosen = ExportOptions(crops=3, images=images, trust=form in ("script", "program"), **options)
        return export_bundle(file, tmp_path / "t.splite", options=chosen), network

    return make


def write_source(network: Network, form: str, folder: Path) -> Path:
    """Writes a network as one form of source."""
    if form == "weights":
        torch.save(network.state_dict(), folder / "net.pt")
        return folder / "net.pt"
    if form == "script":
        torch.jit.trace(network, (network.example(),), strict=False).save(str(folder / "net.pt"))
        return folder / "net.pt"
    if form == "program":
        torch.export.save(torch.export.export(network, (network.example(),), strict=False), folder / "net.pt2")
        return folder / "net.pt2"
    file, outputs = folder / "net.onnx", network(network.example())
    names = [f"given_{index}" for index in range(len(outputs) if isinstance(outputs, list | tuple) else 1)]
    torch.onnx.export(
        network,
        (network.example(),),
        str(file),
        input_names=["input_1"],
        output_names=names,
        opset_version=18,
        dynamo=False,
    )
    return file


def check_bundle(bundle: Bundle, network: Network, images: Path, atol: float = 2e-5) -> None:
    """The bundle gives what the network gives, whatever that looks like, and finds the keypoints that it finds."""
    spec, golden = bundle.model, bundle.golden()
    tensors = Preprocessor(spec.input, spec.input.color).normalise(golden.crops)
    with torch.inference_mode():
        wanted = network.canonical(torch.from_numpy(tensors)).numpy()
    (role,) = golden.outputs
    np.testing.assert_allclose(golden.outputs[role], wanted, rtol=0, atol=atol * max(1, np.abs(wanted).max()))
    for result in verify(bundle):
        assert not result.violations
    image: NDArray[np.uint8] = cv2.imread(str(images / "0.png"))  # type: ignore[assignment]
    with PoseEstimator.open(bundle.path) as estimator:
        pose = estimator(image)
        feed, _ = estimator.prepare(image, [None])
    with torch.inference_mode():
        given = {role: network.canonical(torch.from_numpy(feed)).numpy()}
    decoded = spec.decoder.decode(given, spec.input)
    np.testing.assert_allclose(pose.keypoints, decoded.keypoints[0], rtol=0, atol=0.01)
    np.testing.assert_allclose(pose.scores, decoded.scores[0], rtol=0, atol=1e-3)


FORMS = {
    "a dictionary": "weights",
    "the last of the stages": "onnx",
    "an object with attributes": "weights",
    "pixels, channels last": "onnx",
    "maps, channels last": "script",
    "flat triples with a visibility": "onnx",
    "y, x and a score behind an axis of one": "onnx",
    "a score as a logit": "program",
    "maps as logits": "onnx",
    "the first channels of three times as many": "weights",
    "transposed pairs": "script",
    "a grey image without channels": "onnx",
}


@pytest.mark.parametrize("name", KINDS)
def test_a_network_of_any_form_becomes_a_bundle(made: Callable[..., Any], images: Path, name: str) -> None:
    bundle, network = made(name, FORMS[name])
    check_bundle(bundle, network, images)
    (said,) = (note for note in bundle.report().notes if "view of model.toml" in note)
    assert said.startswith("built the view of model.toml into the graph: ")
    session = ort.InferenceSession(str(bundle.path / "model.onnx"))
    assert "Cast" not in {node.op_type for node in onnx.load(str(bundle.path / "model.onnx")).graph.node}
    (image,) = session.get_inputs()
    channels = 1 if KINDS[name].color == "gray" else 3
    assert (image.name, image.shape, image.type) == ("image", [1, channels, 64, 48], "tensor(float)")


@pytest.mark.parametrize("form", ["weights", "onnx"])
def test_several_crops_at_once(made: Callable[..., Any], images: Path, form: str) -> None:
    def open_batch(model: Any) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
        del model.graph.value_info[:]

    bundle, network = made("maps as logits", form, content=open_batch, dynamic_batch=True)
    check_bundle(bundle, network, images)
    assert bundle.find().inputs[0].shape == (None, 3, 64, 48)


def test_outputs_in_a_dictionary_that_are_named_by_their_roles_need_no_view(
    made: Callable[..., Any], images: Path
) -> None:
    bundle, network = made(
        "a dictionary", "weights", lambda text: text.replace('[outputs.heatmap]\nsource = "preds"', "")
    )
    check_bundle(bundle, network, images)


def test_one_tensor_may_hold_what_two_roles_are(made: Callable[..., Any], images: Path) -> None:
    def with_depth(text: str) -> str:
        decoder = 'type = "softargmax-depth"\nroot_keypoint = 0\nunit = "palm"\nscale_bones = [[0, 1]]'
        tables = "\n".join(
            f"[outputs.{role}]\nsource = 0\nslice = {{ C = [{begin}, {begin + 5}] }}"
            for role, begin in (("heatmap", 0), ("depth", 5))
        )
        text = text.replace('type = "softargmax"', decoder)
        return text.replace("[outputs.heatmap]\nslice = { C = [0, 5] }", tables)

    bundle, network = made("the first channels of three times as many", "onnx", with_depth)
    golden = bundle.golden()
    tensors = Preprocessor(bundle.model.input, "rgb").normalise(golden.crops)
    with torch.inference_mode():
        maps = network.trunk(torch.from_numpy(tensors)).numpy()
    np.testing.assert_allclose(golden.outputs["heatmap"], maps[:, :5], atol=1e-4)
    np.testing.assert_allclose(golden.outputs["depth"], maps[:, 5:10], atol=1e-4)
    assert not verify(bundle)[0].violations


@pytest.mark.parametrize("keep_ends", [False, True])
def test_a_graph_of_half_precision_is_widened(made: Callable[..., Any], images: Path, keep_ends: bool) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    def half(model: Any) -> None:
        with quiet():
            model.CopyFrom(convert_float_to_float16(model, keep_io_types=keep_ends))
        model.graph.node.sort(key=lambda node: not node.name.startswith("graph_input_cast"))  # it appends these

    bundle, network = made("the last of the stages", "onnx", content=half)
    check_bundle(bundle, network, images, atol=2e-3)  # weights were rounded to half
    said = "made float32 of float16 in the graph, in which the reference computes"
    assert said in bundle.report().notes
    held = onnx.load(str(bundle.path / "model.onnx"))
    assert not to_float32(held)
    assert (held.graph.input[0].type.tensor_type.elem_type, held.graph.output[0].type.tensor_type.elem_type) == (1, 1)


def test_half_precision_may_be_said(made: Callable[..., Any], images: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    def half(model: Any) -> None:
        with quiet():
            model.CopyFrom(convert_float_to_float16(model))

    bundle, network = made(
        "the last of the stages", "onnx", lambda text: text + '[inputs.image]\ndtype = "float16"\n', half
    )
    check_bundle(bundle, network, images, atol=2e-3)


@pytest.mark.parametrize("columns", ["", 'columns = ["x", "y", "score"]'])
def test_a_third_column_outside_0_to_1_is_no_score(made: Callable[..., Any], columns: str) -> None:
    def change(text: str) -> str:
        return text.replace('columns = ["x", "y", "visibility"]', columns)

    refused(
        ExportError,
        "Column 3 of 'coordinates' is read as the score, and lies between ",
        'columns = ["x", "y", "score"] with activation = "sigmoid".',
        made,
        "flat triples with a visibility",
        "onnx",
        change,
    )


@pytest.mark.parametrize(
    ("name", "form", "change", "message", "hint"),
    [
        ("pixels, channels last", "onnx", ('layout = "NHWC"', ""), "is uint8 1x64x48x3; the", 'layout = "NHWC".'),
        ("pixels, channels last", "onnx", ('dtype = "uint8"', ""), "is uint8 1x64x48x3; the", 'dtype = "uint8".'),
        (
            "a score as a logit",
            "program",
            ("[outputs", '[inputs.image]\nlayout = "NHWC"\n[outputs'),
            "1x64x48x3",
            "[inputs",
        ),
        ("the last of the stages", "onnx", ("source = -1", "source = 3"), "gives 3 outputs: given_0", "Correct source"),
        ("maps, channels last", "script", ('layout = "NHWC"', ""), "(1, 16, 12, 5); the spec says", "[outputs]"),
    ],
)
def test_an_input_that_does_not_fit_says_what_to_write(
    made: Callable[..., Any], name: str, form: str, change: tuple[str, str], message: str, hint: str
) -> None:
    refused(ExportError, message, hint, made, name, form, lambda text: text.replace(*change))


def test_a_compacted_network_keeps_its_view_and_its_names(
    made: Callable[..., Any], tmp_path: Path, images: Path
) -> None:
    from safetensors.torch import load_file

    from splite_deploy.compact.pipeline import compact_checkpoint
    from splite_deploy.compact.prune import CompactOptions

    made("the first channels of three times as many", "weights")
    options = CompactOptions("l1", ratio=0.5, round_to=4)
    small = tmp_path / "small.safetensors"
    compaction = compact_checkpoint(tmp_path / "net.pt", small, options, images=images, latency=False)
    assert [(row.name, row.outputs_before, row.outputs_after) for row in compaction.layers] == [
        ("trunk.first", 8, 4),
        ("trunk.second", 15, 15),
    ]
    assert load_file(small)["trunk.first.weight"].shape == (4, 3, 3, 3)
    bundle = export_bundle(small, tmp_path / "s.splite", options=ExportOptions(crops=3, images=images))
    assert bundle.golden().outputs["heatmap"].shape == (3, 5, 16, 12)


def test_int8_and_fused_ends_of_a_network_with_a_view(made: Callable[..., Any], images: Path, tmp_path: Path) -> None:
    calibration = tmp_path / "calibration"
    calibration.mkdir()
    random = np.random.default_rng(6)
    for index in range(24):
        small = random.integers(0, 256, (8, 6, 3), np.uint8)
        cv2.imwrite(str(calibration / f"{index}.png"), cv2.resize(small, (48, 64), interpolation=cv2.INTER_CUBIC))
    bundle, _ = made(
        "y, x and a score behind an axis of one",
        "onnx",
        precisions=("fp32", "int8"),
        calibration=calibration,
        fuse_input=True,
        fuse_decode=True,
        max_shift_px=3.0,
    )
    assert [artifact.precision for artifact in bundle.manifest.artifacts] == ["fp32", "int8"]
    for result in verify(bundle):
        assert not result.violations
