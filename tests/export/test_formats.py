"""Checkpoints that bring their own code: torch.export programs and TorchScript archives."""

from __future__ import annotations

import shutil
import warnings
import zipfile
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


from exports import golden_is_of, refused

from splite_deploy.bundle import Bundle
from splite_deploy.errors import CheckpointError, ExportError, SpecError, SpliteError, UsageError
from splite_deploy.export.source.formats import format_of
from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.files import sha256_of

IMAGE = torch.zeros(1, 3, 64, 48)
Export = Callable[..., Bundle]


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny network in every form that brings its own code."""
    folder = tmp_path_factory.mktemp("forms")
    build = load_symbol("arch.py:build", tiny_model.parent)
    two = (torch.zeros(2, 3, 64, 48),)
    programs = {
        "program": torch.export.export(build().eval(), (IMAGE,)),
        "open": torch.export.export(build().eval(), two, dynamic_shapes=({0: torch.export.Dim("n")},)),
        "training": torch.export.export(torch.nn.BatchNorm2d(3), (IMAGE,)),
        "large": torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 3, 64, 64),)),
        "double": torch.export.export(torch.nn.ReLU(), (IMAGE.double(),)),
        "pair": torch.export.export(_Pair(), (IMAGE, IMAGE)),
    }
    paths = {name: folder / f"{name}.pt2" for name in programs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, program in programs.items():
            torch.export.save(program, paths[name])
        paths |= {name: folder / f"{name}.pt" for name in ("traced", "scripted", "shuffled")}
        torch.jit.save(torch.jit.trace(build().eval(), IMAGE), paths["traced"])
        torch.jit.save(torch.jit.script(build().train()), paths["scripted"])
        torch.jit.save(torch.jit.script(_Shuffled(build().eval())), paths["shuffled"])
    return paths


class _Pair(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


class _Shuffled(torch.nn.Module):
    """Has an operator that torch's exporter of scripts does not know."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heatmap, depth = self.inner(image)
        return torch.channel_shuffle(heatmap, 5), depth


@pytest.fixture
def no_arch(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model spec without an architecture."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__", "arch.py"))
    text = (folder / "model.toml").read_text(encoding="utf-8")
    head, _, tail = text.replace('arch = "arch.py:build"\n', "").partition("[arch_args]")
    (folder / "model.toml").write_text(head + tail[tail.index("[input]") :], encoding="utf-8")
    return folder / "model.toml"


def test_forms_are_told_by_content(made: dict[str, Path], tiny_checkpoint: Path, tiny_bundle: Path) -> None:
    assert format_of(made["program"]) == "program"
    assert format_of(made["traced"]) == format_of(made["scripted"]) == "script"
    assert format_of(tiny_checkpoint) == "weights"
    assert format_of(tiny_bundle / "model.onnx") == "onnx"


@pytest.mark.parametrize(
    ("name", "dynamic_batch", "words"),
    [
        ("program", False, "a torch.export program"),
        ("open", True, "a torch.export program"),
        ("open", False, "a torch.export program"),
        ("traced", False, "a TorchScript archive"),
        ("scripted", True, "a TorchScript archive"),
    ],
)
def test_networks_with_their_own_code(
    export: Export, made: dict[str, Path], tiny: Any, name: str, dynamic_batch: bool, words: str
) -> None:
    bundle = export(made[name], trust=True, dynamic_batch=dynamic_batch)
    source, report = bundle.manifest.source, bundle.report()
    assert report.notes == (f"the network is {words}; arch in model.toml was not used",)
    assert (source.checkpoint_sha256, report.opset) == (sha256_of(made[name]), 18)
    assert [parity.label for parity in report.parity] == ["torch -> onnx", "torch -> simplified"]
    assert bundle.find().inputs[0].shape[0] == (None if dynamic_batch else 1)
    golden_is_of(bundle, tiny)


def test_their_own_code_needs_no_architecture(export: Export, made: dict[str, Path], no_arch: Path) -> None:
    report = export(made["traced"], no_arch, trust=True).report()
    assert report.notes == ("the network is a TorchScript archive",)


def test_weights_alone_need_an_architecture(export: Export, tiny_checkpoint: Path, no_arch: Path) -> None:
    refused(SpecError, "does not name its architecture", 'arch = "arch.py:build"', export, tiny_checkpoint, no_arch)


@pytest.mark.parametrize(
    ("name", "options", "kind", "message", "hint"),
    [
        ("program", {}, CheckpointError, "is a torch.export program; it was not loaded, since", "add --trust"),
        ("traced", {}, CheckpointError, "is a TorchScript archive; it was not loaded, since that can", "add --trust"),
        ("program", {"dynamic_batch": True}, ExportError, "exported for a batch of 1.", "Leave out --dynamic-batch"),
        ("large", {}, ExportError, "takes float32 1x3x64x64; the model spec says float32 1x3x64x48.", "model.toml"),
        ("double", {}, ExportError, "The program takes float64 1x3x64x48;", "one float32 image"),
        ("pair", {}, ExportError, "The program takes 2 inputs: a, b.", "one tensor, the image"),
        ("training", {}, ExportError, "in training mode: 'batch_norm' trains.", "network.eval() before"),
        ("traced", {"weights": "ema"}, UsageError, "there are no weights to choose.", "Leave out --weights"),
        ("traced", {"opset": 9}, ExportError, "Opset 9 is not supported.", "Choose 18"),
        ("shuffled", {}, ExportError, "torch cannot export this network: UnsupportedOperatorError", "weights alone"),
    ],
)
def test_networks_with_their_own_code_that_do_not_fit(
    export: Export,
    made: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    options: dict[str, Any],
    kind: type[SpliteError],
    message: str,
    hint: str,
) -> None:
    refused(kind, message, hint, export, made[name], **{"trust": kind is not CheckpointError, **options})
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "member", "message"),
    [("program", "/models/model.json", "as a torch.export program"), ("traced", "/data.pkl", "as TorchScript")],
)
def test_damaged_archives(
    export: Export, made: dict[str, Path], tmp_path: Path, name: str, member: str, message: str
) -> None:
    path = tmp_path / "damaged.pt"
    with zipfile.ZipFile(made[name]) as whole, zipfile.ZipFile(path, "w") as damaged:
        for item in whole.namelist():
            damaged.writestr(item, b"\x00{" if item.endswith(member) else whole.read(item))
    refused(CheckpointError, message, "Copy it again", export, path, trust=True)
    path.write_bytes(made[name].read_bytes()[:-200])
    refused(CheckpointError, "is not a whole torch checkpoint", "Copy it again", export, path, trust=True)


@pytest.mark.parametrize("name", ["program", "traced", "onnx"])
def test_compacting_takes_weights(
    splite: Callable[..., Result], made: dict[str, Path], tiny_bundle: Path, tiny_model: Path, tmp_path: Path, name: str
) -> None:
    path = {**made, "onnx": tiny_bundle / "model.onnx"}[name]
    base = ("compact", path, "--model", tiny_model, "--method", "l1", "--ratio", 0.5)
    done = splite(*base, "-o", tmp_path / "c.safetensors")
    assert done.exit_code == 1
    assert ", not weights by name." in done.stderr
    assert "torch.save(model.state_dict()" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_trust_is_an_option(
    splite: Callable[..., Result], made: dict[str, Path], tiny_model: Path, tmp_path: Path
) -> None:
    base = ("export", made["scripted"], "--model", tiny_model, "--crops", 2, "-o", tmp_path / "t.splite")
    done = splite(*base)
    assert done.exit_code == 1
    assert "hint:  If you know who made it add --trust;" in done.stderr
    done = splite(*base, "--trust")
    assert done.exit_code == 0, done.output
    assert "note: the network is a TorchScript archive" in done.stderr
