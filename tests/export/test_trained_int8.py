"""Checkpoints of networks that were trained with fake quantisation: their scales arrive in the files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

from splite_deploy.bundle import Bundle
from splite_deploy.export.graph.walk import constant, load
from splite_deploy.export.source.checkpoint import load_symbol

Run = Callable[..., Result]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path) -> Path:
    """Model, architecture and checkpoint; the observers were left on, as a training loop leaves them."""
    from safetensors.torch import save_file

    shutil.copytree(tiny_model.parent, tmp_path / "model")
    folder = tmp_path / "model"
    text = (folder / "model.toml").read_text(encoding="utf-8")
    (folder / "model.toml").write_text(text.replace("arch.py:build", "arch_int8.py:build"), encoding="utf-8")
    network = load_symbol("arch_int8.py:build", folder)()
    network(torch.randn(4, 3, 64, 48, generator=torch.Generator().manual_seed(0)))
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "int8.safetensors")
    return folder


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
    hops = {hop.label: hop.deviation_px.max for hop in bundle.report().parity}
    assert hops["torch -> ort int8"] < 0.05 and hops["torch -> trt int8 graph (weakly typed)"] < 0.05
    from safetensors.torch import load_file

    scale = load_file(place / "int8.safetensors")["backbone.0.weight.scale"].numpy()
    written = [constant(value) for value in load(output / "model.int8.trt.onnx").graph.initializers.values()]
    assert any(array.shape == scale.shape and np.allclose(array, scale) for array in written)
    assert splite("verify", output).exit_code == 0
    shown = splite("inspect", output)
    assert shown.exit_code == 0 and "The channel widths are not checked" in shown.stdout
    refused = splite("inspect", output, "--measure")
    assert refused.exit_code == 1 and "holds no ort fp32 artifact" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        ((), "brings its own scales: it cannot become another precision.", "-p int8 alone"),
        (("-p", "int8", "-p", "fp16"), "brings its own scales: it cannot become another precision.", "-p int8 alone"),
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
