"""Checkpoints in all their wrappings, and every way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from pickle_bomb import Bomb

from splite_deploy.errors import CheckpointError, SpecError
from splite_deploy.export.source.checkpoint import Checkpoint, build_network, load_symbol, read_checkpoint
from splite_deploy.spec import HostSpec, load_model_toml

ARCH = """
from torch import nn


class Net(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3)
        self.norm = nn.BatchNorm2d(channels)


def build(channels=4):
    return Net(channels)


def own_prefix():
    outer = nn.Module()
    outer.net = Net()
    return outer


def no_module():
    return {"a": 1}


number = 3
"""
PLAIN = {"a.weight": torch.full((2, 3), 1.0), "a.bias": torch.arange(2.0)}
EMA = {name: tensor + 1 for name, tensor in PLAIN.items()}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Saves with torch, or safetensors for a name that ends in it."""

    def write(content: Any, name: str = "c.pt", **options: Any) -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            safetensors_torch.save_file(content, path)
        else:
            torch.save(content, path, **options)
        return path

    return write


@pytest.fixture
def host(tmp_path: Path) -> Callable[..., HostSpec]:
    """A host spec whose architecture is ``ARCH``, or other code."""

    def write(symbol: str = "build", code: str = ARCH, **arguments: Any) -> HostSpec:
        (tmp_path / "arch.py").write_text(code, encoding="utf-8")
        return HostSpec(tmp_path, f"arch.py:{symbol}", arguments)

    return write


def equal(stored: Checkpoint, expected: dict[str, torch.Tensor]) -> bool:
    return set(stored.tensors) == set(expected) and all(torch.equal(stored.tensors[k], v) for k, v in expected.items())


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in PLAIN.items()}


def weights_of(host: HostSpec) -> dict[str, torch.Tensor]:
    network = load_symbol(host.arch, host.folder)(**host.arch_args)
    return {name: torch.rand(tensor.shape).to(tensor.dtype) for name, tensor in network.state_dict().items()}


# --- what is read ---


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (PLAIN, []),
        ({"state_dict": PLAIN}, ["took the weights under 'state_dict'"]),
        ({"model": PLAIN}, ["took the weights under 'model'"]),
        (
            {"epoch": 3, "state_dict": PLAIN, "optimizer": {"state": {0: {"m": torch.ones(1)}}}},
            ["took the weights under 'state_dict'"],
        ),
        ({"model": {"state_dict": PLAIN}}, ["took the weights under 'model'", "took the weights under 'state_dict'"]),
        (prefixed("module."), ["took off the prefix 'module.'"]),
        (prefixed("_orig_mod."), ["took off the prefix '_orig_mod.'"]),
        (prefixed("module._orig_mod."), ["took off the prefix 'module.'", "took off the prefix '_orig_mod.'"]),
        (prefixed("_orig_mod.module."), ["took off the prefix '_orig_mod.'", "took off the prefix 'module.'"]),
        (
            {**prefixed("module."), "n_averaged": torch.tensor(7)},
            ["left out 'n_averaged'", "took off the prefix 'module.'"],
        ),
        ({**PLAIN, "epoch": 3}, []),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_are_found_in_their_wrapping(
    save: Callable[..., Path], content: Any, notes: list[str], zipped: bool
) -> None:
    path = save(content, _use_new_zipfile_serialization=zipped)
    stored = read_checkpoint(path)
    assert equal(stored, PLAIN)
    assert sorted(stored.notes) == sorted(notes)
    assert stored.path == path and len(stored.sha256) == 64


@pytest.mark.parametrize("key", ["ema", "ema_state_dict", "model_ema"])
def test_averaged_weights_are_preferred_and_noted(save: Callable[..., Path], key: str) -> None:
    stored = read_checkpoint(save({"state_dict": PLAIN, key: EMA}))
    assert equal(stored, EMA)
    assert stored.notes == (f"took the weights under '{key}', not state_dict",)


@pytest.mark.parametrize(
    ("weights", "expected"), [("state_dict", PLAIN), ("ema_state_dict", EMA), ("student", PLAIN), ("teacher", EMA)]
)
def test_the_caller_chooses_the_weights(save: Callable[..., Path], weights: str, expected: Any) -> None:
    content = {"state_dict": PLAIN, "ema_state_dict": EMA, "student": PLAIN, "teacher": EMA}
    stored = read_checkpoint(save(content), weights=weights)
    assert equal(stored, expected)
    assert stored.notes[0].startswith(f"took the weights under '{weights}'")


def test_safetensors(save: Callable[..., Path]) -> None:
    stored = read_checkpoint(save(PLAIN, "c.safetensors"))
    assert equal(stored, PLAIN) and stored.notes == ()


@pytest.mark.parametrize("name", ["c.safetensors", "c.pt", "c.tar", "c", "c.bin"])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_is_known_by_its_content(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "safetensors":
        safetensors_torch.save_file(PLAIN, path)
    else:
        torch.save(PLAIN, path, _use_new_zipfile_serialization=kind == "zip")
    assert equal(read_checkpoint(path), PLAIN)


def test_whole_numbers_are_not_asked_for_nan(save: Callable[..., Path]) -> None:
    content = {"norm.num_batches_tracked": torch.tensor(3), "half": torch.ones(2, dtype=torch.float16)}
    assert equal(read_checkpoint(save(content)), content)


# --- what is refused ---


@pytest.mark.parametrize(
    ("content", "weights", "message", "hint"),
    [
        ({"state_dict": PLAIN, "ema": EMA}, "x", "holds no weights under 'x'.", "It holds: state_dict, ema."),
        ({"model": PLAIN, "optimizer": {"state": {}}}, "optimizer", "under 'optimizer'.", "It holds: model."),
        (PLAIN, "x", "holds no weights under 'x'.", "leave out --weights"),
        ({"student": PLAIN}, None, "holds no tensors; its keys are: student.", "with --weights: student."),
        ({"epoch": 3, "lr": 0.1}, None, "holds no tensors; its keys are: epoch, lr.", "torch.save(model.state_dict()"),
        ({}, None, "holds no tensors; it is empty.", "torch.save(model.state_dict()"),
        ([torch.ones(1)], None, "holds a list, not a dictionary of tensors.", "torch.save(model.state_dict()"),
        (torch.ones(1), None, "holds a Tensor, not a dictionary of tensors.", "torch.save(model.state_dict()"),
    ],
)
def test_wrong_content(save: Callable[..., Path], content: Any, weights: str | None, message: str, hint: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(save(content), weights=weights)
    assert message in caught.value.message and hint in caught.value.hint


def test_weights_cannot_be_chosen_in_safetensors(save: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match="holds no weights under 'ema'") as caught:
        read_checkpoint(save(PLAIN, "c.safetensors"), weights="ema")
    assert "leave out --weights" in caught.value.hint


@pytest.mark.parametrize("name", ["c.safetensors", "c.pt"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_named(save: Callable[..., Path], name: str, value: float) -> None:
    broken = {**PLAIN, "b.scale": torch.tensor([0.0, value, 1.0])}
    with pytest.raises(CheckpointError, match=r"the tensor 'b\.scale' holds NaN or infinity") as caught:
        read_checkpoint(save(broken, name))
    assert "earlier checkpoint" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.pt", "No such file or directory"),
        ("folder", "Is a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_no_file(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(tmp_path / name)
    assert caught.value.message.startswith("Cannot read the checkpoint") and caught.value.hint


@pytest.mark.parametrize("name", ["c.safetensors", "c.pt"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    with pytest.raises(CheckpointError, match=r"(?i)header ?too ?small|c\.pt is empty") as caught:
        read_checkpoint(path)
    assert "Copy it again" in caught.value.hint


@pytest.mark.parametrize("name", ["c.safetensors", "c.pt"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file(save: Callable[..., Path], name: str, share: float) -> None:
    path = save(PLAIN, name)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    kind = "safetensors file" if name == "c.safetensors" else "torch checkpoint"
    with pytest.raises(CheckpointError, match=rf"is not a whole {kind}: [^\n]{{1,120}}\.\n|is no checkpoint") as caught:
        read_checkpoint(path)
    assert "Copy it again" in caught.value.hint and "\n" not in caught.value.message


@pytest.mark.parametrize("size", [1, 8, 9, 100, 5000])
def test_random_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(b"\x00" + random.Random(size).randbytes(size - 1))
    with pytest.raises(CheckpointError, match="is no checkpoint: neither safetensors nor torch wrote it") as caught:
        read_checkpoint(path)
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle2", "pickle5"])
def test_no_damage_lets_another_exception_through(tmp_path: Path, kind: str) -> None:
    rng = random.Random(0)
    path = tmp_path / "c.pt"
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps({"a": [1, 2], "b": "text"}, protocol=int(kind[-1])))
    else:
        torch.save(PLAIN, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    refused = 0
    for trial in range(120):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(4, len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged[: rng.randrange(1, len(damaged))] if trial % 2 else damaged)
        try:
            read_checkpoint(path)
        except CheckpointError as err:
            refused += bool(err.hint) and "\n" not in err.message
        else:
            refused += not trial % 2  # a byte may be changed where it means nothing
    assert refused == 120


def test_a_pickled_module_is_refused(save: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"holds pickled Python objects.*it was not loaded") as caught:
        read_checkpoint(save(torch.nn.Linear(2, 2)))
    assert "torch.save(model.state_dict()" in caught.value.hint and "ONNX" in caught.value.hint


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle2", "pickle5"])
def test_code_in_a_pickle_is_never_run(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "proof", tmp_path / "c.pt"
    content = {"state_dict": Bomb(target)}
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(kind[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="holds pickled Python objects"):
        read_checkpoint(path)
    assert not target.exists()
    torch.load(path, weights_only=False) if not kind.startswith("pickle") else pickle.loads(path.read_bytes())
    assert target.exists(), "the file would not have run code at all"


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_plain_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "c.pkl"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"pickled Python objects|is not a whole torch checkpoint"):
        read_checkpoint(path)


# --- weights and architecture ---


def test_the_network_has_the_weights_and_is_in_evaluation_mode(
    host: Callable[..., HostSpec], save: Callable[..., Path]
) -> None:
    weights = weights_of(host(channels=6))
    network = build_network(host(channels=6), read_checkpoint(save(weights)))
    assert not any(module.training for module in network.modules())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod."])
def test_a_prefix_of_the_network_itself_stays(
    host: Callable[..., HostSpec], save: Callable[..., Path], wrapper: str
) -> None:
    weights = weights_of(host("own_prefix"))
    assert all(name.startswith("net.") for name in weights)
    stored = read_checkpoint(save({wrapper + name: tensor for name, tensor in weights.items()}))
    network = build_network(host("own_prefix"), stored)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        (["conv.bias"], {}, "of 7 tensors, 1 missing: 'conv.bias'."),
        (["conv.bias", "norm.weight"], {}, "of 7 tensors, 2 missing: 'conv.bias', 'norm.weight'."),
        ([], {"head.weight": (1,), "head.bias": (1,)}, "of 7 tensors, 2 unknown: 'head.weight', 'head.bias'."),
        (
            ["norm.bias"],
            {"head.weight": (1,)},
            "of 7 tensors, 1 missing: 'norm.bias'; 1 unknown: 'head.weight'.",
        ),
        (
            ["conv.bias"],
            {"conv1.bias": (4,)},
            "of 7 tensors, 1 missing: 'conv.bias'; 1 unknown: 'conv1.bias'. Nearest in the file: 'conv1.bias' for "
            "'conv.bias'.",
        ),
        (
            ["conv.weight"],
            {f"conv.{i}.deep": (4,) for i in range(6)},
            "of 7 tensors, 1 missing: 'conv.weight'; 6 unknown: 'conv.0.deep', 'conv.1.deep', 'conv.2.deep', "
            "'conv.3.deep' and 2 more. Nearest in the file: 'conv.5.deep' for 'conv.weight'.",
        ),
    ],
)
def test_names_that_do_not_fit(
    host: Callable[..., HostSpec], save: Callable[..., Path], drop: list[str], add: dict[str, Any], message: str
) -> None:
    weights = {name: tensor for name, tensor in weights_of(host()).items() if name not in drop}
    weights |= {name: torch.zeros(shape) for name, shape in add.items()}
    path = save(weights)
    with pytest.raises(CheckpointError) as caught:
        build_network(host(), read_checkpoint(path))
    assert caught.value.message == f"{path} does not fit its architecture: {message}"
    assert "[arch_args]" in caught.value.hint and "--weights" in caught.value.hint


def test_shapes_that_do_not_fit(host: Callable[..., HostSpec], save: Callable[..., Path]) -> None:
    stored = read_checkpoint(save(weights_of(host(channels=6))))
    with pytest.raises(CheckpointError) as caught:
        build_network(host(channels=4), stored)
    assert "6 tensors have another shape than the architecture; the first is 'conv.weight'" in caught.value.message
    assert "(6, 3, 3, 3) in the checkpoint and (4, 3, 3, 3) in the architecture" in caught.value.message
    assert "[arch_args]" in caught.value.hint


@pytest.mark.parametrize(
    ("arch", "message", "hint"),
    [
        ("other.py:build", "'other.py:build' in model.toml names no Python file (", '"file.py:symbol"'),
        ("arch.py", "'arch.py' in model.toml names no Python file.", '"file.py:symbol"'),
        ("arch.py:", "names no Python file.", '"file.py:symbol"'),
        ("arch.txt:build", "'arch.txt:build' in model.toml names no Python file.", '"file.py:symbol"'),
        ("arch.py:construct", "arch.py defines no 'construct'.", "It defines: Net, build, own_prefix, no_module."),
        ("arch.py:number", "arch.py defines no 'number'.", "It defines: Net, build"),
        ("arch.py:no_module", "returned a dict, not a torch.nn.Module.", "Return the network."),
    ],
)
def test_an_architecture_that_is_not_there(
    host: Callable[..., HostSpec], tmp_path: Path, arch: str, message: str, hint: str
) -> None:
    host()
    shutil.copy(tmp_path / "arch.py", tmp_path / "arch.txt")
    with pytest.raises(SpecError) as caught:
        build_network(HostSpec(tmp_path, arch, {}), Checkpoint(tmp_path / "c.pt", "", {}))
    assert message in caught.value.message and hint in caught.value.hint


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise ValueError('no')", "cannot be imported: ValueError: no"),
        ("import not_a_module", "cannot be imported: ModuleNotFoundError: No module named 'not_a_module'"),
        ("def build(:", "cannot be imported: SyntaxError"),
        ("import sys; sys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("\0", "cannot be imported: "),
    ],
)
def test_an_architecture_that_cannot_be_imported(host: Callable[..., HostSpec], code: str, message: str) -> None:
    spec = host(code=code)
    with pytest.raises(SpecError) as caught:
        load_symbol(spec.arch, spec.folder)
    assert message in caught.value.message and "Run it with python" in caught.value.hint


def test_a_file_that_defines_nothing(host: Callable[..., HostSpec]) -> None:
    spec = host(code="import numpy\nadd = numpy.add\n")
    with pytest.raises(SpecError, match="defines no 'build'") as caught:
        load_symbol(spec.arch, spec.folder)
    assert caught.value.hint == "It defines: nothing callable."


def test_an_architecture_that_exits(host: Callable[..., HostSpec]) -> None:
    """Else a command would end with status 0 and nothing done."""
    spec = host(code="import sys\ndef build(): sys.exit(0)\n")
    with pytest.raises(SpecError, match=r"arch\.py:build cannot be built: SystemExit: 0"):
        build_network(dataclasses.replace(spec, arch_args={}), Checkpoint(Path("c.pt"), "", {}))


@pytest.mark.parametrize("arguments", [{"width": 3}, {"channels": "many"}, {"channels": -1}])
def test_wrong_arguments_of_the_architecture(host: Callable[..., HostSpec], arguments: dict[str, Any]) -> None:
    spec = host(**arguments)
    with pytest.raises(SpecError, match=r"arch\.py:build cannot be built: \w+Error: ") as caught:
        build_network(spec, Checkpoint(Path("c.pt"), "", {}))
    assert "[arch_args] of model.toml" in caught.value.hint and str(arguments) in caught.value.hint


def test_the_architecture_may_import_its_neighbours(host: Callable[..., HostSpec], tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_arch.py").write_text("VALUE = 5\n", encoding="utf-8")
    spec = host(code="from neighbour_of_arch import VALUE\ndef build(): return VALUE\n")
    assert load_symbol(spec.arch, spec.folder)() == 5


def test_the_tiny_checkpoint_fits(tiny_checkpoint: Path, tiny_model: Path) -> None:
    network = build_network(load_model_toml(tiny_model)[1], read_checkpoint(tiny_checkpoint))
    assert sum(parameter.numel() for parameter in network.parameters()) > 0


def test_models_may_have_siblings_of_the_same_name(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "blocks.py").write_text(f"NAME = '{name}'", encoding="utf-8")
        (tmp_path / name / "arch.py").write_text("from blocks import NAME\ndef build(): return NAME", encoding="utf-8")
    built = [load_symbol("arch.py:build", tmp_path / name)() for name in ("first", "second", "first")]
    assert built == ["first", "second", "first"]
