"""Weights with something beside them: a list of widths, masks, or the header of a compacted checkpoint."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
parametrizations = pytest.importorskip("torch.nn.utils.parametrizations")
prune = pytest.importorskip("torch.nn.utils.prune")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import nets
from exports import golden_is_of, refused

from splite_deploy.bundle import Bundle
from splite_deploy.compact import CompactOptions, compact
from splite_deploy.errors import CheckpointError
from splite_deploy.export.source.checkpoint import load_weights, read_checkpoint
from splite_deploy.export.source.header import FORMAT_VERSION, HEADER, compacted_metadata
from splite_deploy.export.source.load import load_model
from splite_deploy.export.source.masks import count_zeros
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.spec import load_model_toml

IMAGE = torch.zeros(1, 3, 64, 48)
Export = Callable[..., Bundle]


# --- widths beside the weights ---


@pytest.mark.parametrize("cfg", [[8, "M", 5], {"backbone": [8, 8], "head": {"k": 5}}, [[8, 8], (5, None, True)]])
def test_widths_beside_the_weights_are_not_needed(cfg: Any, tmp_path: Path) -> None:
    dense = nets.randomised(nets.MobileNet())
    compacted = compact(dense, nets.sample(), CompactOptions("l1", ratio=0.3, round_to=1)).network
    torch.save({"cfg": cfg, "state_dict": compacted.state_dict(), "best_prec1": 0.9}, tmp_path / "c.pt")
    stored, network = read_checkpoint(tmp_path / "c.pt"), nets.MobileNet().eval()
    assert "'cfg' was not needed: the widths follow from the tensors" in stored.notes
    (note,) = load_weights(network, stored, nets.sample())
    assert note.startswith("reshaped ")
    assert torch.equal(nets.outputs(network, nets.sample())[0], nets.outputs(compacted, nets.sample())[0])


def test_widths_beside_the_weights_through_an_export(export: Export, tiny_model: Path, tmp_path: Path) -> None:
    narrow = load_symbol("arch.py:build", tiny_model.parent)(channels=5).eval()
    torch.save({"cfg": [5, 5], "state_dict": narrow.state_dict()}, tmp_path / "c.pt")
    bundle = export(tmp_path / "c.pt")
    took, cfg, reshaped = bundle.report().notes
    assert took == "took the weights under 'state_dict'"
    assert cfg.startswith("'cfg' was not needed")
    assert reshaped.startswith("reshaped ")
    golden_is_of(bundle, narrow)


# --- masks ---


def pruned(network: Any, structured: bool) -> Any:
    for module in (network.backbone[0], network.backbone[3]):
        if structured:
            prune.ln_structured(module, "weight", amount=0.5, n=1, dim=0)
            module.bias.data[(module.weight_mask.flatten(1) == 0).all(1)] = 0  # else they put out a constant
        else:
            prune.l1_unstructured(module, "weight", amount=0.6)
    return network


@pytest.mark.parametrize("structured", [True, False])
def test_masks_are_applied_and_the_way_on_is_named(
    splite: Callable[..., Result], tiny: Any, tiny_model: Path, tmp_path: Path, structured: bool
) -> None:
    path = tmp_path / "with space.pt"
    torch.save(pruned(tiny, structured).state_dict(), path)
    assert "backbone.0.weight_mask" in torch.load(path)
    done = splite("export", path, "--model", tiny_model, "--crops", 2, "-o", tmp_path / "t.splite")
    assert done.exit_code == 0, done.output
    golden_is_of(Bundle.open(tmp_path / "t.splite"), tiny)
    assert "note: applied the masks of 2 tensors" in done.stderr
    (note,) = [line for line in done.stderr.splitlines() if "masked, not smaller" in line]
    assert ("8 of 26 filters of its convolutions are zero" if structured else "hardly a whole channel") in note
    name, *command = shlex.split(note.partition(": splite-deploy")[2])
    assert (name, command[0], command[-1]) == ("compact", str(path), "compacted.safetensors")
    if structured:  # what is named runs, and removes nothing that is not zero
        thin = tmp_path / "thin.safetensors"
        done = splite(name, *command[:-1], thin, "--crops", 2)
        assert done.exit_code == 0, done.output
        assert "note: applied the masks" in done.stderr
        assert "masked, not smaller" not in done.stderr
        network, image = load_model(thin, tiny_model, None).network, torch.rand(1, 3, 64, 48)
        assert network.backbone[0].out_channels < 8
        for new, old in zip(network(image), tiny(image), strict=True):
            torch.testing.assert_close(new, old, atol=1e-4, rtol=1e-4)


def test_scales_of_zero_are_found_and_removed(
    splite: Callable[..., Result], tiny: Any, tiny_model: Path, tmp_path: Path
) -> None:
    with torch.no_grad():
        tiny.backbone[1].weight[:3] = 0
    path = tmp_path / "c.safetensors"
    safetensors_torch.save_file(tiny.state_dict(), path)
    done = splite("export", path, "--model", tiny_model, "--crops", 2, "-o", tmp_path / "t.splite")
    assert "3 of 8 scales of its norms are zero" in done.stderr, done.output
    command = shlex.split(done.stderr.partition(": splite-deploy ")[2].splitlines()[0])
    done = splite(*command[:-1], tmp_path / "thin.safetensors", "--crops", 2)
    assert done.exit_code == 0, done.output
    assert load_model(tmp_path / "thin.safetensors", tiny_model, None).network.backbone[0].out_channels == 5


def test_zeros_are_counted_by_the_channel() -> None:
    conv, depthwise = torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 8, 3, groups=8)
    transposed, norm = torch.nn.ConvTranspose2d(8, 6, 2, groups=2), torch.nn.BatchNorm2d(6)
    with torch.no_grad():
        conv.weight[2] = 0
        depthwise.weight.zero_()
        transposed.weight[4:, 1] = 0  # the fifth output: the second one of the second group
        norm.weight[:2] = 0
    zeros = count_zeros(torch.nn.Sequential(conv, depthwise, transposed, norm, torch.nn.BatchNorm2d(6, affine=False)))
    assert (zeros.filters, zeros.scales) == ((2, 14), (2, 6))
    assert zeros.weights == (36 + 16, conv.weight.numel() + transposed.weight.numel())


def test_a_mask_of_another_shape(tiny: Any, tiny_model: Path, tmp_path: Path) -> None:
    state = pruned(tiny, True).state_dict()
    state["backbone.0.weight_mask"] = state["backbone.0.weight_mask"][:4]
    torch.save(state, tmp_path / "c.pt")
    message = "the mask of 'backbone.0.weight' has shape (4, 3, 3, 3), its weights (8, 3, 3, 3)."
    refused(CheckpointError, message, "torch.nn.utils.prune.remove", load_model, tmp_path / "c.pt", tiny_model, None)


def test_parametrized_weights(tiny: Any, tiny_model: Path, tmp_path: Path) -> None:
    parametrizations.weight_norm(tiny.heatmap)
    torch.save(tiny.state_dict(), tmp_path / "c.pt")
    message = "'heatmap' is parametrized, so that its weight is not in the file"
    hint = "remove_parametrizations(module, 'weight')"
    refused(CheckpointError, message, hint, load_model, tmp_path / "c.pt", tiny_model, None)


# --- the header of a compacted checkpoint ---


@pytest.fixture
def headed(tiny: Any, tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny weights with a header whose entries are changed."""

    def write(text: str | None = None, **changes: Any) -> Path:
        entry = json.loads(compacted_metadata(load_model_toml(tiny_model)[0])[HEADER])
        for key, value in changes.items():
            entry[key] = {**entry[key], **value} if isinstance(value, dict) else value
        path = tmp_path / "c.safetensors"
        safetensors_torch.save_file(tiny.state_dict(), path, metadata={HEADER: text or json.dumps(entry)})
        return path

    return write


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({}, None),
        ({"model": "other"}, "the checkpoint was compacted for the model 'other', not 'tiny'"),
        ({"spec_sha256": "0"}, None),
    ],
)
def test_a_header_that_fits(
    headed: Callable[..., Path], tiny_model: Path, changes: dict[str, Any], note: str | None
) -> None:
    assert load_model(headed(**changes), tiny_model, None).notes == (() if note is None else (note,))


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        (
            {"format_version": FORMAT_VERSION + 1},
            f"format version {FORMAT_VERSION + 1}; this version",
            "Update splite-",
        ),
        ({"input": {"height": 96}}, "compacted for input.height = 96; the model spec says 64.", "--model"),
        ({"input": {"mean": [0, 0, 0]}}, "input.mean = [0, 0, 0]; the model spec says [120.0, 115.0", "--model"),
        ({"input": {"gamma": 2}}, "input.gamma = 2; the model spec says null.", "--model"),
        ({"text": "{"}, "its header entry 'splite' is damaged: ", "Compact the dense checkpoint again"),
        ({"text": '{"format_version": 1}'}, "its header entry 'splite' is damaged: ", "Compact the dense checkpoint"),
        ({"text": "[1]"}, "its header entry 'splite' is damaged: ", "Compact the dense checkpoint again"),
        ({"format_version": "new"}, "its header entry 'splite' is damaged: ", "Compact the dense checkpoint again"),
    ],
)
def test_a_header_that_does_not_fit(
    headed: Callable[..., Path], tiny_model: Path, changes: dict[str, Any], message: str, hint: str
) -> None:
    refused(CheckpointError, message, hint, load_model, headed(**changes), tiny_model, None)
