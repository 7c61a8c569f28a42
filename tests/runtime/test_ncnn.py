"""ncnn: its archive, float16 for fp16 artifacts alone, damaged files, and the way there through pnnx."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends import ncnn as backend
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.backends.ncnn_file import pack, read_param, unpack, write_param
from splite_deploy.runtime.session import open_bytes, open_session

Run = Callable[..., Result]
PARAMS = "7767517\n3 3\nInput in 0 1 image 0=4 1=4 2=3\nReLU a 1 1 image one\nReLU b 1 1 one two 0=0.1\n"


def archive(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", compression) as written:
        for name, content in members.items():
            written.writestr(f"network.{name}", content)
    return held.getvalue()


def test_an_archive_gives_back_what_it_was_made_of() -> None:
    data = pack(PARAMS, b"weights")
    assert unpack(data, "a") == (PARAMS, b"weights") and pack(PARAMS, b"weights") == data
    layers = read_param(PARAMS, "a")
    assert write_param(layers) == PARAMS
    assert [(one.kind, one.inputs, one.outputs, one.settings) for one in layers] == [
        ("Input", (), ("image",), ("0=4", "1=4", "2=3")),
        ("ReLU", ("image",), ("one",), ()),
        ("ReLU", ("one",), ("two",), ("0=0.1",)),
    ]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "File is not a zip file"),
        (pack(PARAMS, b"weights")[:-30], "File is not a zip file"),
        (pack(PARAMS, b"weights").replace(b"weights", b"wEights"), "Bad CRC-32"),
        (archive(), "it holds nothing"),
        (archive(param=b""), r"it holds network\.param"),
        (archive(param=b"", bin=b"", more=b""), "it holds"),
        (archive(zipfile.ZIP_DEFLATED, param=b"0" * 99, bin=b""), "it is compressed"),
        (archive(param="é".encode(), bin=b""), "'ascii' codec can't decode"),
    ],
)
def test_what_is_no_archive_of_a_network(data: bytes, reason: str) -> None:
    with pytest.raises(BackendError, match=rf"^a\.zip is no archive of .*, or a damaged one: .*{reason}") as caught:
        unpack(data, "a.zip")
    assert caught.value.hint == "Copy the bundle again, or export it again."


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (("7767517", "7767518"), "its head is not that of its layers"),
        (("3 3", "4 3"), "its head is not that of its layers"),
        (("a 1 1", "a 9 1"), "the layer a has fewer inputs or outputs than it says"),
        (("a 1 1", "a -1 1"), "the layer a has fewer inputs or outputs than it says"),
        (("a 1 1", "a one 1"), "invalid literal for int"),
        (("ReLU a 1 1 image one", "ReLU"), "not enough values to unpack"),
    ],
)
def test_damaged_layers(changed: tuple[str, str], reason: str) -> None:
    with pytest.raises(BackendError, match=rf"^a has no layers of ncnn, or damaged ones: .*{reason}"):
        read_param(PARAMS.replace(*changed), "a")


# --- with ncnn ---

HERE = pytest.mark.skipif(not backend.BACKEND.installed, reason="ncnn is not installed: pip install ncnn")


def opened(bundle: Bundle, precision: Any) -> backend.TracedNcnnSession:
    return backend.TracedNcnnSession(ModelFile.of(bundle, bundle.find("ncnn", precision)), backend.NcnnOptions(1))


@HERE
def test_float16_is_for_fp16_alone(tiny_ncnn_bundle: Path) -> None:
    bundle = Bundle.open(tiny_ncnn_bundle)
    found = {}
    for precision in ("fp32", "fp16"):
        with opened(bundle, precision) as session:
            used = session._net.opt
            half = (used.use_fp16_storage, used.use_fp16_packed, used.use_fp16_arithmetic, used.use_bf16_storage)
            assert half == (*(precision == "fp16",) * 3, False)
            found[precision] = [(one.kind, one.types) for one in session.layers()]
    assert len(found["fp32"]) == 5 and {types for _, types in found["fp32"]} == {"float32"}
    stored = {types for kind, types in found["fp16"] if kind.startswith("Convolution")}
    assert stored <= {"float32[float16]", "float16"}, "as the CPU has it"


@HERE
def test_verify_and_bench(tiny_ncnn_bundle: Path, tmp_path: Path, splite: Run) -> None:
    result = splite("verify", tiny_ncnn_bundle, "--json", "-")
    assert result.exit_code == 0, result.output
    fp32, fp16 = json.loads(result.stdout)
    assert (fp32["backend"], fp32["violations"], fp16["violations"]) == ("ncnn", [], [])
    assert fp32["parity"]["deviation_px"]["max"] < 1e-3
    file = tmp_path / "bench.jsonl"
    quick = ("--frames", 10, "--warmup", 1, "--threads", 1, "--json", file)
    result = splite("bench", tiny_ncnn_bundle, "-p", "fp32", *quick)
    assert result.exit_code == 0, result.output
    measured = json.loads(file.read_text())
    assert (measured["backend"], measured["precision"]) == ("ncnn", "fp32")
    assert measured["environment"]["versions"]["ncnn"] and len(measured["layers"]) == 5


@HERE
def test_what_is_fed_stays_as_it_is(tiny_bundle: Path) -> None:
    """ncnn computes a ReLU in place."""
    artifact = replace(Bundle.open(tiny_bundle).find("ort"), format="ncnn", backend="ncnn", file="a.zip")
    image = replace(artifact.inputs[0], shape=(1, 3, 4, 4))
    artifact = replace(artifact, inputs=(image,), outputs=(replace(image, name="two", role="heatmap"),))
    fed = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    before = fed.copy()
    with open_bytes(pack(PARAMS, b""), artifact) as session:
        given = session.run({"image": fed})["two"]
    np.testing.assert_array_equal(fed, before)
    np.testing.assert_allclose(given, np.maximum(before, 0), rtol=1e-6)


@HERE
@pytest.mark.parametrize(
    ("layers", "kept", "reason"),
    [
        (lambda text: text.replace("Convolution", "Folding"), 1.0, "layer Folding not exists or registered"),
        (lambda text: text, 0.5, "failed"),
    ],
)
def test_what_ncnn_cannot_load(
    tiny_ncnn_bundle: Path, layers: Callable[[str], str], kept: float, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = Bundle.open(tiny_ncnn_bundle)
    artifact = bundle.find("ncnn", "fp32")
    param, weights = unpack(bundle.read(artifact), artifact.file)
    data = pack(layers(param), weights[: int(kept * len(weights))])
    with pytest.raises(BackendError, match=rf"^ncnn [\d.]+ cannot load model\.fp32\.ncnn\.zip: .*{reason}") as caught:
        open_bytes(data, artifact)
    assert caught.value.hint.startswith("Upgrade ncnn, or export the network again")
    assert capfd.readouterr().err == "", "what ncnn prints is in the message"


# --- through pnnx ---


@HERE
@pytest.mark.slow
@pytest.mark.skipif(find_spec("pnnx") is None, reason="pnnx is not installed: pip install pnnx")
def test_export_makes_them_of_the_graph(
    tiny_checkpoint: Path, tiny_model: Path, tiny_ncnn_bundle: Path, tmp_path: Path, splite: Run
) -> None:
    path = tmp_path / "a.splite"
    asked = ("-b", "ncnn", "-p", "fp32", "-p", "fp16", "-p", "int8", "--crops", 4)
    result = splite("export", tiny_checkpoint, "--model", tiny_model, "-o", path, *asked)
    assert result.exit_code == 3 and "ncnn int8 cannot be made: ncnn quantises with programs" in result.stderr
    made, kept = Bundle.open(path), Bundle.open(tiny_ncnn_bundle)
    assert [one.label for one in made.manifest.artifacts] == ["ncnn fp32", "ncnn fp16", "ort fp32"]
    feed = {"image": np.random.default_rng(0).normal(size=(1, 3, 64, 48)).astype(np.float32)}
    for precision in ("fp32", "fp16"):
        with open_session(made, "ncnn", precision) as one, open_session(kept, "ncnn", precision) as other:  # type: ignore
            expected = other.run(feed)
            for name, values in one.run(feed).items():
                np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg="run tests/vectors/make_ncnn.py")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("pnnx") is None, reason="pnnx is not installed: pip install pnnx")
def test_graphs_that_become_no_network(tiny_bundle: Path) -> None:
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    from splite_deploy.compile.ncnn import to_ncnn
    from splite_deploy.errors import CompileError

    bundle = Bundle.open(tiny_bundle)
    artifact = bundle.find("ort")
    several = replace(artifact.inputs[0], shape=(None, *artifact.inputs[0].shape[1:]))
    with pytest.raises(CompileError, match="ncnn takes one float32 crop at a time") as caught:
        to_ncnn(bundle.read(artifact), [several], artifact.outputs, half=False, label="ncnn fp32")
    assert "--dynamic-batch" in caught.value.hint
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 4, 4]) for name in ("image", "y")]
    graph = helper.make_graph([helper.make_node("Fold", ["image"], ["y"], domain="own")], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("own", 1)], ir_version=9).SerializeToString()
    image = replace(artifact.inputs[0], shape=(1, 3, 4, 4))
    with pytest.raises(CompileError, match=r"^ncnn fp32 could not be made: pnnx ") as broken:
        to_ncnn(model, [image], [replace(image, name="y")], half=False, label="ncnn fp32")
    assert "Fold" in broken.value.message and "-b tflite run more" in broken.value.hint
