"""Graphs in parts: the same to the bit, loaded one at a time, and refused where they are not what was exported."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # noqa: TID253
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253

pytest.importorskip("torch")

from splite_deploy import PoseEstimator
from splite_deploy.bundle import Bundle
from splite_deploy.errors import BundleError, ExportError, OptionError, UsageError
from splite_deploy.export import ExportOptions
from splite_deploy.export.graph.split import Splitter
from splite_deploy.export.graph.walk import from_proto
from splite_deploy.runtime import session as sessions
from splite_deploy.runtime.backends import ort as backend
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.backends.ort import OrtOptions, load_graph, run_graph
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import open_session, open_traced
from splite_deploy.spec import PRECISIONS, Precision

PARTS = 3


@pytest.fixture
def in_parts(tiny_parts_bundle: Path) -> Path:
    return tiny_parts_bundle


def outputs(
    path: Path, crops: NDArray[np.uint8], precision: Precision = "fp32"
) -> list[dict[str, NDArray[np.float32]]]:
    bundle = Bundle.open(path)
    with open_session(bundle, "ort", precision, threads=1) as session:
        feed = Preprocessor(bundle.model.input, bundle.model.input.color).feed(crops, session.inputs[0])
        return [
            {name: value.copy() for name, value in session.run({session.inputs[0].name: crop[None]}).items()}
            for crop in feed
        ]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_parts_give_the_same_to_the_bit_as_the_whole(in_parts: Path, precision: Precision) -> None:
    whole = in_parts.with_name("whole.splite")
    crops = Bundle.open(whole).golden().crops[:4]
    assert len(Bundle.open(in_parts).find("ort", precision).files) == PARTS
    for part, one in zip(outputs(in_parts, crops, precision), outputs(whole, crops, precision), strict=True):
        assert part.keys() == one.keys()
        assert all(part[name].tobytes() == one[name].tobytes() for name in one)


def test_what_is_alive_between_parts_of_fp16_crosses_in_float32(in_parts: Path) -> None:
    artifact = Bundle.open(in_parts).find("ort", "fp16")
    assert all(name.endswith(".float32") for part in artifact.parts[1:] for name in part.inputs if name != "image")
    weights = {one.data_type for one in onnx.load(in_parts / artifact.parts[1].file).graph.initializer}
    assert TensorProto.FLOAT16 in weights and TensorProto.FLOAT not in weights


@pytest.mark.parametrize("back", [False, True])
def test_an_update_brings_a_bundle_in_parts_and_takes_one(
    in_parts: Path, back: bool, splite: Any, tmp_path: Path
) -> None:
    whole, store, update = in_parts.with_name("whole.splite"), tmp_path / "store", tmp_path / "it.update"
    old, new = (in_parts, whole) if back else (whole, in_parts)
    for command in (
        ("install", store, old),
        ("delta", old, new, "-o", update),
        ("install", store, update),
        ("verify", store),
    ):
        done = splite(*command)
        assert done.exit_code == 0, done.output
    crops = Bundle.open(whole).golden().crops[:1]
    installed = tmp_path / "store" / "2.splite"
    assert [one.format for one in Bundle.open(installed).manifest.artifacts] == 3 * ["onnx" if back else "onnx-parts"]
    with PoseEstimator.follow(store, "ort", "fp16") as estimator:
        assert estimator.slot == 2 and np.isfinite(estimator(crops[0][..., ::-1]).keypoints).all()


def test_a_manifest_lists_the_parts_and_no_other_graph_lies_there(in_parts: Path) -> None:
    bundle = Bundle.open(in_parts)
    for artifact in bundle.manifest.artifacts:
        assert artifact.format == "onnx-parts" and len(artifact.parts) == PARTS
        assert {one.inputs for one in artifact.parts[:1]} == {("image",)}
    graphs = {file.name for file in in_parts.glob("*.onnx")}
    assert graphs == {part.file for artifact in bundle.manifest.artifacts for part in artifact.parts}


def test_one_part_at_a_time_is_in_memory(in_parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of ONNX Runtime is gone before the next is made."""
    from splite_deploy.runtime.backends import ort_parts

    open_now: list[Any] = []
    most = 0

    class Watched:
        def __init__(self, real: Any) -> None:
            nonlocal most
            self.real = real
            open_now.append(1)
            most = max(most, len(open_now))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def __del__(self) -> None:
            open_now.pop()

    monkeypatch.setattr(ort_parts, "load_graph", lambda *args, **kwargs: Watched(load_graph(*args, **kwargs)))
    crops = Bundle.open(in_parts).golden().crops[:2]
    assert len(outputs(in_parts, crops)) == 2
    assert most == 1 and not open_now


def test_commands_take_a_bundle_in_parts(in_parts: Path, splite: Any, tmp_path: Path) -> None:
    verified = splite("verify", in_parts)
    assert verified.exit_code == 0, verified.output
    shown = splite("inspect", in_parts)
    assert "model.part1of3.onnx and" in shown.output
    measured = splite("bench", in_parts, "-p", "fp32", "--frames", 10, "--json", tmp_path / "b.jsonl")
    assert measured.exit_code == 0, measured.output
    result = json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0])
    artifact = Bundle.open(in_parts).find("ort", "fp32")
    assert result["artifact_sha256"] == artifact.content_sha256 != artifact.sha256
    assert result["model_bytes"] == sum((in_parts / part.file).stat().st_size for part in artifact.parts)


def test_layers_of_all_parts_are_told(in_parts: Path) -> None:
    bundle = Bundle.open(in_parts)
    file = ModelFile.of(bundle, bundle.find("ort", "fp32"))
    with open_traced(backend.BACKEND, file, threads=1) as session:
        crop = bundle.golden().crops[:1]
        feed = Preprocessor(bundle.model.input, bundle.model.input.color).feed(crop, session.inputs[0])
        session.run({session.inputs[0].name: feed})
        layers = session.layers()
        assert {layer.kind for layer in layers} >= {"Conv"}
        assert session.layers() == layers
        session.run({session.inputs[0].name: feed})


def test_parts_run_on_the_cpu_alone(in_parts: Path) -> None:
    with pytest.raises(
        UsageError, match="ort fp32 is in parts, which run on the CPU alone, not by 'openvino'"
    ) as caught:
        open_session(Bundle.open(in_parts), "ort", "fp32", options=OrtOptions(provider="openvino"))
    assert caught.value.hint == "Leave out --provider, or export without --parts."


def test_a_damaged_part_is_refused_when_it_is_opened_and_when_it_runs(in_parts: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.splite"
    shutil.copytree(in_parts, spoilt)
    bundle = Bundle.open(spoilt)
    part = bundle.find("ort", "fp32").parts[1]
    crops = bundle.golden().crops[:1]
    with open_session(bundle, "ort", "fp32", threads=1) as session:
        content = bytearray((spoilt / part.file).read_bytes())
        content[-1] ^= 1
        (spoilt / part.file).write_bytes(content)
        feed = Preprocessor(bundle.model.input, bundle.model.input.color).feed(crops, session.inputs[0])
        with pytest.raises(BundleError, match="is not the file that the manifest describes"):
            session.run({session.inputs[0].name: feed})
    with pytest.raises(BundleError, match=f"{part.file} is not the file that the manifest describes"):
        Bundle.open(spoilt)
    (spoilt / part.file).unlink()
    with pytest.raises(BundleError, match=f"lacks its file {part.file}"):
        Bundle.open(spoilt)


def test_parts_that_do_not_fit_together_are_no_manifest(in_parts: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(in_parts)
    artifact = bundle.find("ort", "fp32")
    first, *rest = artifact.parts
    for parts, said in (
        ((first, replace(rest[0], inputs=("nothing",)), rest[1]), "takes 'nothing', which no part before it gives"),
        ((first,), "has 1 parts"),
        ((), "is onnx-parts of 0 parts"),
        ((rest[0], first, rest[1]), "begins with another part"),
        ((first, *rest[:1]), "no part of ort fp32 gives its output"),
        ((first, first, *rest), "has a part twice"),
    ):
        changed = replace(bundle.manifest, artifacts=(replace(artifact, parts=parts),))
        (tmp_path / "manifest.json").write_text(changed.to_json(), encoding="utf-8")
        with pytest.raises(BundleError, match=said):
            Bundle.open(tmp_path)


def test_a_reader_that_knows_no_parts_says_so(in_parts: Path, monkeypatch: pytest.MonkeyPatch, splite: Any) -> None:
    older = replace(backend.BACKEND, formats=("onnx",))
    monkeypatch.setattr(sessions, "all_backends", lambda: {"ort": older})
    with pytest.raises(UsageError, match="holds no artifact that this version of splite-deploy runs") as caught:
        open_session(Bundle.open(in_parts))
    assert caught.value.hint == "It holds: ort (onnx-parts). Upgrade splite-deploy on this machine."


def test_the_cpp_runtime_refuses_parts(in_parts: Path, tmp_path: Path, splite: Any) -> None:
    refused = splite("cpp", tmp_path / "project", "--bundle", in_parts)
    assert refused.exit_code != 0
    assert "in parts, which the C++ runtime does not load" in refused.output
    assert "without --parts" in refused.output


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OptionError, match="not cut into 0 parts") as caught:
        ExportOptions(parts=0)
    assert caught.value.hint == "Give --parts 1 to 64."
    with pytest.raises(OptionError, match="Only ONNX Runtime runs a graph in parts"):
        ExportOptions(parts=2, backends=("trt",))


def residual(blocks: int = 4, channels: int = 16, side: int = 24) -> onnx.ModelProto:
    """A stem and residual blocks: what ONNX Runtime adds while it convolves, in a layout of its own on x86."""
    rng = np.random.default_rng(0)
    nodes, constants = [], []

    def convolve(source: str, name: str, taken: int) -> str:
        weights = rng.normal(size=(channels, taken, 3, 3)).astype(np.float32) / 10
        bias = rng.normal(size=channels).astype(np.float32)
        constants.extend([numpy_helper.from_array(weights, f"{name}.w"), numpy_helper.from_array(bias, f"{name}.b")])
        inputs = [source, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", inputs, [name], name, pads=[1, 1, 1, 1]))
        return name

    def relu(source: str) -> str:
        nodes.append(helper.make_node("Relu", [source], [f"{source}.relu"], f"{source}.relu"))
        return f"{source}.relu"

    last = relu(convolve("image", "stem", 3))
    for index in range(blocks):
        inner = convolve(relu(convolve(last, f"{index}.a", channels)), f"{index}.b", channels)
        nodes.append(helper.make_node("Add", [inner, last], [f"{index}.sum"], f"{index}.sum"))
        last = relu(f"{index}.sum")
    sizes = [1, channels, side, side]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, side, side])
    out = helper.make_tensor_value_info(last, TensorProto.FLOAT, sizes)
    graph = helper.make_graph(nodes, "residual", [image], [out], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run_parts(parts: Any, image: NDArray[np.float32]) -> dict[str, Any]:
    alive: dict[str, Any] = {"image": image}
    for part in parts:
        loaded = load_graph(ModelFile(part.content, "part.onnx", "onnx"), OrtOptions(threads=1))
        alive |= run_graph(loaded, part.outputs, {name: alive[name] for name in part.inputs})
    return alive


def test_cuts_between_residual_blocks_change_no_bit() -> None:
    model = residual()
    name = model.graph.output[0].name
    image = np.random.default_rng(1).normal(size=(1, 3, 24, 24)).astype(np.float32)
    whole = load_graph(ModelFile(model.SerializeToString(), "whole.onnx", "onnx"), OrtOptions(threads=1))
    wanted = run_graph(whole, [name], {"image": image})[name]
    splitter = Splitter(from_proto(model))
    between = [place for place in splitter.places if place.kind == (("Relu", "Conv", "Add"),)]
    assert len(between) == 4
    assert run_parts(splitter.cut(between), image)[name].tobytes() == wanted.tobytes()


def test_a_plan_balances_the_weights_where_little_is_alive() -> None:
    splitter = Splitter(from_proto(residual(blocks=8, side=4)))
    parts = splitter.cut(splitter.plan(4))
    sizes = [len(part.content) for part in parts]
    assert len(parts) == 4 and max(sizes) < 1.5 * sum(sizes) / 4, sizes
    made = {"image"}
    for part in parts:
        assert set(part.inputs) <= made
        made.update(part.outputs)
    few = r"can be cut into \d+ parts at most that give the same to the bit, not 60"
    with pytest.raises(ExportError, match=few) as caught:
        splitter.plan(60)
    assert caught.value.hint == "Give a smaller number to --parts."
    with pytest.raises(ExportError, match="cannot be cut into parts"):
        splitter.plan(2, without={place.kind for place in splitter.places})
