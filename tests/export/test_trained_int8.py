"""Checkpoints of networks that were trained with fake quantisation: their scales arrive in the files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from int8_cpu import EXACT_INT8

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from splite_deploy.bundle import Bundle
from splite_deploy.export.graph.walk import constant, load
from splite_deploy.export.source.symbol import load_symbol

Run = Callable[..., Result]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


Place = Callable[..., Path]


@pytest.fixture
def place_of(tmp_path: Path, tiny_model: Path) -> Place:
    """Makes model, architecture and checkpoint; the observers were left on, as a training loop leaves them."""
    from safetensors.torch import save_file

    def make(kind: str = "symmetric", gated: bool = False) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model.parent, folder)
        text = (folder / "model.toml").read_text(encoding="utf-8").replace("arch.py:build", "arch_int8.py:build")
        arguments = f'[arch_args]\nkind = "{kind}"\ngated = {str(gated).lower()}\n'
        (folder / "model.toml").write_text(text.replace("[arch_args]\n", arguments), encoding="utf-8")
        network = load_symbol("arch_int8.py:build", folder)(kind=kind, gated=gated)
        network(torch.randn(4, 3, 64, 48, generator=torch.Generator().manual_seed(0)))
        tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_file(tensors, folder / "int8.safetensors")
        return folder

    return make


@pytest.fixture
def place(place_of: Place) -> Path:
    return place_of()


def hops(bundle: Bundle) -> dict[str, float]:
    """The largest keypoint deviation of each comparison, in pixels."""
    return {hop.label: hop.deviation_px.max for hop in bundle.report().parity}


@EXACT_INT8
def test_the_scales_arrive(place: Path, splite: Run, tmp_path: Path) -> None:
    output = tmp_path / "int8.splite"
    result = splite("export", place / "int8.safetensors", "-b", "ort", "-b", "trt", "-p", "int8", "-o", output)
    assert result.exit_code == 0, result.stderr
    assert "trained for int8: 5 fake quantisers keep their scales" in result.stderr
    bundle = Bundle.open(output)
    assert [artifact.label for artifact in bundle.manifest.artifacts] == ["ort int8"]
    assert {graph.file for graph in bundle.manifest.graphs} == {"model.int8.trt.onnx", "model.int8-fp16.trt.onnx"}
    assert bundle.report().calibration is None
    assert not (output / "model.onnx").exists()
    # the reference is the network with its quantisers, so that int8 lies next to it
    found = hops(bundle)
    assert found["torch -> ort int8"] < 0.05 and found["torch -> trt int8 graph (weakly typed)"] < 0.05
    from safetensors.torch import load_file

    scale = load_file(place / "int8.safetensors")["backbone.0.weight.scale"].numpy()
    written = [constant(value) for value in load(output / "model.int8.trt.onnx").graph.initializers.values()]
    assert any(array.shape == scale.shape and np.allclose(array, scale) for array in written)
    assert splite("verify", output).exit_code == 0
    shown = splite("inspect", output, "--widths")
    assert shown.exit_code == 0 and "The channel widths are not checked" in shown.stdout
    refused = splite("inspect", output, "--measure")
    assert refused.exit_code == 1 and "holds no ort fp32 artifact" in refused.stderr


def test_the_checkpoint_serves_float_as_well(place: Path, splite: Run, tmp_path: Path) -> None:
    """With another precision beside int8 everything is compared with the network without its quantisers."""
    output = tmp_path / "all.splite"
    requested = ("-b", "ort", "-b", "trt", "-p", "fp32", "-p", "fp16", "-p", "int8")
    result = splite("export", place / "int8.safetensors", *requested, "-o", output)
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    assert [artifact.label for artifact in bundle.manifest.artifacts] == ["ort fp32", "ort fp16", "ort int8"]
    found = hops(bundle)
    assert found["torch -> float form"] < 1e-3  # torch with its quantisers switched off
    assert 0.01 < found["torch -> ort int8"] < 0.5  # its own quantisers' rounding
    floats = [node.op_type for node in load(output / "model.onnx").graph]
    assert "QuantizeLinear" not in floats and "DequantizeLinear" not in floats
    assert splite("verify", output).exit_code == 0


def test_tflite_gets_the_trained_scales(
    place: Path, splite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The float form is converted, and its tensors have the ranges that were trained, not those of any images."""
    pytest.importorskip("ai_edge_quantizer")
    from ai_edge_litert.interpreter import Interpreter
    from converters import use_any_converter
    from safetensors.torch import load_file

    use_any_converter(monkeypatch)
    output = tmp_path / "int8.splite"
    requested = ("-b", "ort", "-b", "tflite", "-p", "int8")
    result = splite("export", place / "int8.safetensors", *requested, "-o", output)
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    assert [artifact.label for artifact in bundle.manifest.artifacts] == ["ort int8", "tflite int8"]
    assert bundle.report().calibration is None
    found = hops(bundle)
    assert found["torch -> tflite int8"] < 0.6  # its heads are int8 too
    details = Interpreter(model_content=(output / "model.int8.tflite").read_bytes()).get_tensor_details()
    scales = [float(scale) for one in details for scale in one["quantization_parameters"]["scales"]]
    tensors = load_file(place / "int8.safetensors")
    for name in ("backbone.1.activation", "backbone.2"):  # behind a ReLU: 127 steps of the scale are 255 of a byte
        wanted = 127 * float(tensors[f"{name}.scale"]) / 255
        assert np.isclose(scales, wanted, rtol=1e-4).any(), name


@EXACT_INT8
@pytest.mark.parametrize(("kind", "gated"), [("fused", False), ("affine", False), ("symmetric", True)])
def test_every_kind_of_training_becomes_int8(
    place_of: Place, splite: Run, tmp_path: Path, kind: str, gated: bool
) -> None:
    """Observers fused into quantisers, zero points, which TensorRT does not take, and linear layers."""
    output = tmp_path / "int8.splite"
    folder = place_of(kind, gated)
    result = splite("export", folder / "int8.safetensors", "-b", "ort", "-b", "trt", "-p", "int8", "-o", output)
    assert result.exit_code == 0, result.stderr
    bundle = Bundle.open(output)
    found = hops(bundle)
    assert found["torch -> ort int8"] < (0.6 if gated else 0.05)
    assert found["torch -> trt int8 graph (weakly typed)"] < (0.05 if kind == "symmetric" and not gated else 0.6)
    notes = {note.partition(":")[0]: note for note in bundle.report().notes}
    anew = "made anew with the trained scales"
    assert (anew in notes["model.int8.trt.onnx"]) == (kind != "symmetric")  # the fused one has zero points, too
    if kind != "symmetric":
        assert "(a zero point that is not 0)" in notes["model.int8.trt.onnx"]
        assert anew not in notes["model.int8.onnx"]


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("-p", "int8", "--max-shift-px", 1), "nothing is calibrated or searched", "Leave out --calibration"),
        (("-p", "int8", "--reduce-range"), "weights keep their 8 bits", "--max-shift-* and --reduce-range"),
    ],
)
def test_what_its_scales_rule_out(
    place: Path, splite: Run, tmp_path: Path, arguments: tuple[Any, ...], message: str, hint: str
) -> None:
    result = splite("export", place / "int8.safetensors", "-o", tmp_path / "int8.splite", *arguments)
    assert result.exit_code == 1 and message in result.stderr and hint in result.stderr
    assert not (tmp_path / "int8.splite").exists()
