"""Checkpoints as training tools leave them: each is loaded whole and says what was done, or is refused."""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from torch import Tensor, nn  # noqa: TID253

from splite_deploy.errors import CheckpointError
from splite_deploy.export.source.checkpoint import load_weights, read_checkpoint

State = dict[str, Tensor]


class Net(nn.Module):
    """Two parts, as most pose networks have them."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
        self.head = nn.Conv2d(4, 2, 1)


class Holder(nn.Module):
    """Holds the network under a name of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.anything = Net()


class Tied(nn.Module):
    """One tensor under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight


def state(network: nn.Module | None = None, seed: int = 1) -> State:
    generator = torch.Generator().manual_seed(seed)
    own = (network or Net()).state_dict()
    return {
        name: torch.rand(t.shape, generator=generator) if t.is_floating_point() else torch.tensor(seed)
        for name, t in own.items()
    }


def put(prefix: str, tensors: State) -> State:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without(tensors: State, *ends: str) -> State:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(ends)}


RAW, AVERAGED = state(seed=1), state(seed=2)
COUNTED = {f"{layer}.{what}": torch.zeros(1, dtype=torch.float64) for layer in ("backbone.0", "head") for what in
           ("total_ops", "total_params")}  # fmt: skip


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., tuple[State, str]]:
    """Saves, reads, and loads into a network; gives its state and the notes."""

    def run(content: Any, network: nn.Module | None = None, weights: str | None = None) -> tuple[State, str]:
        torch.save(content, tmp_path / "c.pt")
        network = (network or Net()).eval()
        stored = read_checkpoint(tmp_path / "c.pt", weights=weights)
        notes = load_weights(network, stored)
        return network.state_dict(), "; ".join((*stored.notes, *notes))

    return run


def same(one: State, other: State) -> bool:
    return all(torch.equal(one[name], other[name]) for name in other if not name.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (without(RAW, "num_batches_tracked"), "1 counters 'num_batches_tracked' are missing"),
        ({**RAW, **COUNTED}, "left out 'total_ops', 'total_params'"),
        (put("backbone.module.", RAW), "took off the prefix 'backbone.module.'"),
        (put("model._orig_mod.", RAW), "took off the prefix 'model._orig_mod.'"),
        (put("anything.at.all.", RAW), "took off the prefix 'anything.at.all.'"),
        (put("module.", {**RAW, **COUNTED}), "took off the prefix 'module.'"),
        (
            {name.replace("backbone.", "backbone.module."): tensor for name, tensor in RAW.items()},
            "took 'module' out of 9 names",
        ),
        (
            {"state_dict": {**put("model.", RAW), "loss.weight": torch.ones(3), "metric.total": torch.tensor(1)}},
            "left out 2 other tensors: 'loss.*', 'metric.*'",
        ),
        ({**RAW, "auxiliary_head.conv.weight": torch.ones(3)}, "left out 1 other tensors: 'auxiliary_head.*'"),
        ({**RAW, "head.criterion.weight": torch.ones(3)}, "left out 1 other tensors: 'head.criterion.*'"),
        ({**RAW, "norm.num_batches_tracked": torch.tensor(1)}, "left out 1 other tensors: 'norm.*'"),
        ({"model": RAW, "ema": {"decay": 0.99, "updates": 3}}, "took the weights under 'model'"),
        ({"params": RAW, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}, "under 'params'"),
        (RAW, ""),
    ],
)  # fmt: skip
def test_weights_are_found_and_said(load: Callable[..., tuple[State, str]], content: Any, note: str) -> None:
    loaded, notes = load(content)
    assert same(loaded, RAW)
    assert note in notes and bool(note) == bool(notes)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
def test_an_architecture_may_hold_the_network(load: Callable[..., tuple[State, str]], prefix: str) -> None:
    loaded, notes = load(put(prefix, RAW), Holder())
    assert same(loaded, put("anything.", RAW))
    assert "'anything.'" in notes


MMENGINE = {
    "meta": {"epoch": 3},
    "state_dict": AVERAGED,
    "ema_state_dict": {**put("module.", RAW), "steps": torch.tensor(30)},
}
PARAMETERS = without(AVERAGED, "running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (MMENGINE, "'state_dict' holds the averaged weights: EMAHook of mmengine puts them there"),
        ({"state_dict": RAW, "state_dict_ema": AVERAGED}, "took the weights under 'state_dict_ema', not state_dict"),
        ({"model": RAW, "model_ema": {"module": AVERAGED, "updates": 3}}, "took the weights under 'model_ema'"),
        ({"model": RAW, "ema": {"decay": 0.9, "shadow": AVERAGED}}, "took the weights under 'shadow'"),
        ({"params": RAW, "params_ema": AVERAGED}, "took the weights under 'params_ema', not params"),
        ({"state_dict": {**put("model.", RAW), **put("ema.module.", AVERAGED)}}, "prefix 'ema.module.'"),
        (
            {**RAW, **put("ema.", AVERAGED)},
            "took off the prefix 'ema.'; left out 11 other tensors: 'backbone.*', 'head.*'",
        ),
        ({**AVERAGED, **{f"ema_{name.replace('.', '_')}": t for name, t in RAW.items()}}, "left out 11 other tensors"),
    ],
    ids=["mmengine", "timm", "nested", "shadow", "basicsr", "lightning", "beside the raw ones", "mmcv"],
)
def test_averaged_weights_are_taken(load: Callable[..., tuple[State, str]], content: Any, note: str) -> None:
    loaded, notes = load(content)
    assert same(loaded, AVERAGED)
    assert note in notes


def test_the_raw_weights_of_mmengine_are_chosen_by_name(load: Callable[..., tuple[State, str]]) -> None:
    loaded, notes = load(MMENGINE, weights="ema_state_dict")
    assert same(loaded, RAW)
    assert "left out 'steps'" in notes


def test_statistics_come_with_averaged_parameters(load: Callable[..., tuple[State, str]]) -> None:
    loaded, notes = load({"state_dict": RAW, "ema": PARAMETERS})
    assert same(loaded, {**RAW, **PARAMETERS})
    assert "took 3 statistics of norms, which were not averaged, from the raw weights" in notes


def test_of_two_networks_in_a_file_one_is_chosen(load: Callable[..., tuple[State, str]]) -> None:
    content = {**put("student.", RAW), **put("teacher.", AVERAGED)}
    with pytest.raises(CheckpointError, match="holds several networks of this architecture: 'student', 'teacher'") as e:
        load(content)
    assert "--weights student" in e.value.hint
    loaded, notes = load(content, weights="teacher")
    assert same(loaded, AVERAGED) and "took the weights under 'teacher.'" in notes
    assert same(load({**put("a.", RAW), **put("b.", RAW)})[0], RAW)


class History:
    """As mmengine's HistoryBuffer, which every checkpoint of a user's own training holds."""

    def __init__(self) -> None:
        self.log = np.array([(1.0, 2)])


class Config(dict):  # type: ignore[type-arg]
    """A dictionary of another kind, with state."""

    def __init__(self, **items: Any) -> None:
        super().__init__(items)
        self.frozen = True


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"best": np.float64(0.7)}, "scalar"),
        ({"best": np.float32(0.7), "curve": np.arange(3), "kind": np.dtype("int8")}, "ndarray"),
        ({"args": argparse.Namespace(lr=0.1, out=PurePosixPath("runs/1"))}, "argparse.Namespace"),
        ({"message_hub": {"log_scalars": OrderedDict(loss=History())}}, "test_checkpoint_forms.History"),
        ({"hyper_parameters": Config(width=3, inner=defaultdict(list, a=[1]))}, "collections.defaultdict"),
    ],
)
def test_objects_beside_the_weights_are_not_read(
    load: Callable[..., tuple[State, str]], beside: dict[str, Any], named: str
) -> None:
    loaded, notes = load({**beside, "state_dict": RAW})
    assert same(loaded, RAW)
    assert "left objects beside the weights unread: " in notes and named in notes


def test_a_numpy_scalar_in_the_old_format(tmp_path: Path) -> None:
    content = {"best": np.float64(0.7), "curve": np.arange(3.0), "state_dict": RAW}
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    assert same(dict(read_checkpoint(tmp_path / "c.pt").tensors), RAW)


def test_pickled_networks_are_refused_with_a_way_out(
    load: Callable[..., tuple[State, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r"holds pickled Python objects \(.*Net, torch\.nn.*it was not loaded"):
        load({"model": None, "ema": Net(), "epoch": 3})
    module = ModuleType("ultralytics.nn.tasks")
    module.PoseModel = type("PoseModel", (Net,), {"__module__": module.__name__})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ultralytics", ModuleType("ultralytics"))
    monkeypatch.setitem(sys.modules, "ultralytics.nn", ModuleType("ultralytics.nn"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(CheckpointError, match=r"pickled Python objects \(ultralytics\.nn\.tasks\.PoseModel\)") as e:
        load({"model": module.PoseModel(), "ema": None})
    assert "yolo export format=onnx" in e.value.hint


def test_tied_tensors_may_lie_under_one_name(tmp_path: Path, load: Callable[..., tuple[State, str]]) -> None:
    torch.manual_seed(3)
    trained = Tied()
    safetensors_torch.save_model(trained, str(tmp_path / "c.safetensors"))
    stored, network = read_checkpoint(tmp_path / "c.safetensors"), Tied()
    load_weights(network, stored)
    assert "'b.weight' is tied to 'a.weight'" in stored.notes
    assert same(network.state_dict(), trained.state_dict())
    loaded, notes = load(without(trained.state_dict(), "b.weight"), Tied())
    assert same(loaded, trained.state_dict()) and "'b.weight' is tied to 'a.weight'" in notes


def test_the_alias_of_a_network_that_is_held(tmp_path: Path) -> None:
    """The metadata names what the file has, whatever prefix lies before it."""
    holder = nn.Module()
    holder.model = Tied()
    safetensors_torch.save_model(holder, str(tmp_path / "c.safetensors"))
    network = Tied()
    load_weights(network, read_checkpoint(tmp_path / "c.safetensors"))
    assert same(network.state_dict(), holder.model.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(load: Callable[..., tuple[State, str]], dtype: Any) -> None:
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in RAW.items()}
    loaded, notes = load(stored)
    assert same(loaded, {name: tensor.float() for name, tensor in stored.items()})
    assert ("10 tensors were stored as" in notes) == (dtype is not torch.float64)


# --- what is no network of this architecture is never half-loaded ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**RAW, "backbone.3.weight": torch.ones(3)}, r"of 11 tensors, 1 unknown: 'backbone\.3\.weight'\."),
        ({**RAW, "neck.weight": torch.ones(3)}, r"1 unknown: 'neck\.weight'\."),
        (without(RAW, "head.weight"), r"1 missing: 'head\.weight'\."),
        (put("model.", without(RAW, "head.weight")), r"1 missing: 'head\.weight'\."),
        ({**put("model.", RAW), "model.neck.weight": torch.ones(3)}, r"1 unknown: 'neck\.weight'\."),
        ({f"features.{i}.kernel": torch.ones(3) for i in range(9)}, r"10 missing: .* and 6 more; 9 unknown: "),
        (without(RAW, "running_var"), r"1 missing: 'backbone\.1\.running_var'"),
        (
            {**RAW, "head.weight": torch.ones(2, 4, 1, 1, dtype=torch.int8), "head.weight_scale": torch.ones(2)},
            r"1 unknown: 'head\.weight_scale'",
        ),
        (
            {**RAW, "head.weight": torch.ones(2, 4, 1, 1, dtype=torch.int8)},
            r"1 of 11 tensors hold whole numbers .* the first is 'head\.weight', of int8\.",
        ),
    ],
)
def test_what_does_not_fit_is_refused(load: Callable[..., tuple[State, str]], content: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(content)
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_weights_that_torch_quantised_are_refused(load: Callable[..., tuple[State, str]]) -> None:
    quantised = torch.quantize_per_tensor(torch.rand(2, 4, 1, 1), 0.1, 0, torch.qint8)
    for content in (
        {**RAW, "head.weight": quantised},
        {"state_dict": {**RAW, "head._packed_params": (quantised, None)}},
    ):
        with pytest.raises(
            CheckpointError, match=r"int8 weights of torch's quantisation, 1 of \d+, .*'head\."
        ) as caught:
            load(content)
        assert "from before torch.ao.quantization.convert" in caught.value.hint


def test_a_graph_in_onnx_runtimes_own_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.ort").write_bytes(b"\x30\x00\x00\x00ORTM" + bytes(100))
    with pytest.raises(CheckpointError, match=r"in ONNX Runtime's own format \(\.ort\)") as caught:
        read_checkpoint(tmp_path / "net.ort")
    assert "Give the .onnx file" in caught.value.hint
