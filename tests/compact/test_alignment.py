"""Widths that hardware pads: counted by hand, read from graphs and from tensors, and shown by the command."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import Result

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("safetensors")

from splite_deploy.bundle import Bundle
from splite_deploy.compact import CompactOptions, compact, compacted_metadata, save_compacted
from splite_deploy.compact.alignment import Alignment, align
from splite_deploy.compact.groups import Groups
from splite_deploy.compact.inspection import (
    inspect_bundle,
    inspect_checkpoint,
    layers_of_tensors,
    time_layers,
)
from splite_deploy.compact.onnx_layers import LayerGraph
from splite_deploy.compact.trace import trace
from splite_deploy.errors import BackendError, ExportError
from splite_deploy.export.graph.walk import from_proto, load
from splite_deploy.export.source.checkpoint import build_architecture
from splite_deploy.spec import load_model_toml

FLOAT = onnx.TensorProto.FLOAT
Node = tuple[str, str, str, str, dict[str, Any]]
"""Operation, inputs, output, shape of its weight (empty without one), attributes."""


def graph(nodes: list[Node], outputs: str, image: tuple[int | str, ...] = (1, 3, 16, 16)) -> LayerGraph:
    """A graph of nodes; a weight is named after its node's output, with a bias where the shape ends with '+'."""
    made, stored = [], []

    def store(name: str, sizes: list[int]) -> str:
        stored.append(onnx.helper.make_tensor(name, FLOAT, sizes, [0.0] * prod(sizes)))
        return name

    for operation, inputs, output, shape, attributes in nodes:
        names = inputs.split()
        sizes = [int(size) for size in shape.removesuffix("+").split("x") if size]
        names += [store(f"{output}.weight", sizes)] if sizes else []
        if shape.endswith("+"):
            names.append(store(f"{output}.bias", sizes[:1]))
        made.append(onnx.helper.make_node(operation, names, [output], f"node_{output}", **attributes))
    x = onnx.helper.make_tensor_value_info("image", FLOAT, image)
    ends = [onnx.helper.make_tensor_value_info(name, FLOAT, None) for name in outputs.split()]
    whole = onnx.helper.make_graph(made, "net", [x], ends, stored)
    model = onnx.helper.make_model(whole, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    return LayerGraph(from_proto(model))


PAD = {"pads": [1, 1, 1, 1]}
MIXED: list[Node] = [
    ("Conv", "image", "stem", "13x3x3x3+", {**PAD, "strides": [2, 2]}),  # 8 x 8 positions
    ("Relu", "stem", "act", "", {}),
    ("Conv", "act", "dw", "13x1x3x3", {**PAD, "group": 13}),
    ("Conv", "dw", "wide", "20x13x1x1", {}),
    ("Conv", "wide", "grouped", "20x5x3x3+", {**PAD, "group": 4}),
    ("ConvTranspose", "grouped", "up", "20x6x2x2", {"strides": [2, 2]}),  # from 8 x 8 positions
    ("GlobalAveragePool", "up", "pool", "", {}),
    ("Flatten", "pool", "flat", "", {}),
    ("Gemm", "flat", "fc", "5x6+", {"transB": 1}),
]
"""With every kind of layer."""


def widths(alignment: Alignment, fit: int) -> dict[str, tuple[int, int]]:
    return {misfit.layer: (misfit.inputs, misfit.outputs) for misfit in alignment.fits[fit].misfits}


def test_the_padding_of_every_kind_of_layer_is_that_counted_by_hand() -> None:
    alignment = align(graph(MIXED, "fc").layers)
    assert [(layer.name, layer.kind, *layer.widths, layer.positions) for layer in alignment.layers] == [
        ("stem", "conv", 3, 13, 64),
        ("dw", "depthwise", 13, 13, 64),
        ("wide", "conv", 13, 20, 64),
        ("grouped", "grouped", 20, 20, 64),
        ("up", "transposed", 20, 6, 64),
        ("fc", "linear", 6, 5, 1),
    ]
    macs = [64 * 9 * 3 * 13, 64 * 9 * 13, 64 * 13 * 20, 64 * 9 * 20 * 20 // 4, 64 * 4 * 20 * 6, 6 * 5]
    weights = [9 * 3 * 13 + 13, 9 * 13, 13 * 20, 9 * 20 * 5 + 20, 4 * 20 * 6, 6 * 5 + 5]
    assert alignment.now.macs == sum(macs)
    assert alignment.now.parameters == sum(weights)
    assert alignment.now.megabytes == pytest.approx(sum(weights) * 4e-6)

    eight = alignment.fits[0]
    assert (eight.precision, eight.multiple) == ("fp16", 8)
    assert widths(alignment, 0) == {
        "stem": (8, 16), "dw": (16, 16), "wide": (16, 24), "grouped": (24, 24), "up": (24, 8), "fc": (8, 8)
    }  # fmt: skip
    costs = [128 / 39, 16 / 13, 16 * 24 / 260, 24 * 24 / 400, 24 * 8 / 120, 64 / 30]
    assert [misfit.cost for misfit in eight.misfits] == pytest.approx([cost - 1 for cost in costs])
    assert eight.cost == pytest.approx(sum(m * c for m, c in zip(macs, costs, strict=True)) / sum(macs) - 1)
    # 3 inputs and 5 outputs are fixed
    assert (
        eight.rounded.macs == 64 * 9 * 3 * 16 + 64 * 9 * 16 + 64 * 16 * 24 + 64 * 9 * 24 * 6 + 64 * 4 * 24 * 8 + 8 * 5
    )
    assert eight.rounded.parameters == 9 * 3 * 16 + 16 + 9 * 16 + 16 * 24 + 9 * 24 * 6 + 24 + 4 * 24 * 8 + 8 * 5 + 5
    assert not any(misfit.fixed for misfit in eight.misfits)

    assert [(fit.precision, fit.multiple) for fit in alignment.fits[1:]] == [("int8", 16), ("int8", 32)]
    assert widths(alignment, 2)["grouped"] == (32, 32)
    assert widths(alignment, 1)["dw"] == (16, 16)


def test_groups_and_depthwise_multipliers_stay_whole() -> None:
    nodes: list[Node] = [
        ("Conv", "image", "a", "15x3x1x1", {}),
        ("Conv", "a", "five", "15x3x1x1", {"group": 5}),
        ("Conv", "five", "twice", "30x1x1x1", {"group": 15}),
        ("Conv", "twice", "end", "4x30x1x1", {}),
    ]
    found = widths(align(graph(nodes, "end").layers), 0)
    assert found["five"] == (40, 40)  # multiples of 8 and of 5
    assert found["twice"] == (16, 32)


@pytest.mark.parametrize(
    ("nodes", "outputs", "expected"),
    [
        pytest.param(
            [("Conv", "image", "a", "13x3x1x1", {}), ("Relu", "a", "b", "", {}), ("Conv", "b", "c", "5x13x1x1", {})],
            "c",
            {"a": ("input", ""), "c": ("", "output")},
            id="first and last",
        ),
        pytest.param(
            [("Conv", "image", "a", "3x1x1x1", {"group": 3}), ("Conv", "a", "c", "5x3x1x1", {})],
            "c",
            {"a": ("input", "input"), "c": ("input", "output")},
            id="depthwise on the image",
        ),
        pytest.param(
            [("Conv", "image", "a", "5x3x1x1", {}), ("Conv", "a", "c", "5x1x1x1", {"group": 5})],
            "c",
            {"a": ("input", "output"), "c": ("output", "output")},
            id="depthwise at the end",
        ),
        pytest.param(
            [("Conv", "image", "a", "5x3x1x1", {}), ("Sigmoid", "a", "b", "", {}), ("Conv", "b", "c", "7x5x1x1", {})],
            "a c",
            {"a": ("input", "output"), "c": ("output", "output")},
            id="an output that is read again",
        ),
        pytest.param(
            [
                ("Conv", "image", "a", "13x3x1x1", {}),
                ("Conv", "a", "mask", "1x13x1x1", {}),
                ("Mul", "a mask", "b", "", {}),
                ("Conv", "b", "c", "5x13x1x1", {}),
            ],
            "c",
            {"a": ("input", ""), "mask": ("", "broadcast"), "c": ("", "output")},
            id="a mask",
        ),
        pytest.param(
            [
                ("Conv", "image", "a", "3x3x1x1", {}),
                ("Shape", "image", "size", "", {}),
                ("Expand", "a size", "b", "", {}),
                ("Conv", "b", "c", "5x3x1x1", {}),
            ],
            "c",
            {"a": ("input", ""), "c": ("", "output")},
            id="only the size of the image",
        ),
    ],
)
def test_what_cannot_change_is_marked(nodes: list[Node], outputs: str, expected: dict[str, tuple[str, str]]) -> None:
    found = {layer.name: (layer.fixed_inputs, layer.fixed_outputs) for layer in graph(nodes, outputs).layers}
    assert found == expected


def test_a_layer_that_runs_twice_is_there_once() -> None:
    model: list[Node] = [("Conv", "image", "a", "3x3x1x1", {}), ("Conv", "a a.weight", "b", "", {})]
    (layer,) = graph(model, "b").layers
    assert (layer.name, layer.positions) == ("a", 2 * 256)
    assert align([layer]).now.parameters == 9


def test_every_kind_of_layer_is_timed_alone(tmp_path: Path) -> None:
    plan = graph(MIXED, "fc")
    alignment = align(plan.layers)
    timings = time_layers(plan, alignment, inferences=10)
    assert [timing.layer for timing in timings] == [layer.name for layer in alignment.layers]
    for timing in timings:
        assert timing.now.count == 10
        assert timing.now.min_ms > 0
        assert list(timing.rounded) == [8, 16, 32]
    up = next(layer for layer in plan.layers if layer.name == "up")
    plan.alone(up, (24, 8), tmp_path / "up.onnx")
    alone = onnx.load(str(tmp_path / "up.onnx"))
    assert list(alone.graph.initializer[0].dims) == [24, 8, 2, 2]
    assert [size.dim_value for size in alone.graph.input[0].type.tensor_type.shape.dim] == [1, 24, 8, 8]


def test_what_has_no_size_is_not_timed() -> None:
    plan = graph([("Conv", "image", "a", "13x3x1x1", {}), ("Conv", "a", "c", "5x13x1x1", {})], "c", (1, 3, "h", "w"))
    alignment = align(plan.layers)
    assert alignment.now.macs is None
    assert alignment.fits[0].cost is None
    assert alignment.fits[0].misfits[0].cost == pytest.approx(8 * 16 / 39 - 1)
    with pytest.raises(ExportError, match="The size of what enters 'a' is not known") as caught:
        time_layers(plan, alignment)
    assert "--measure" in caught.value.hint


def test_tensors_alone_tell_kinds_and_widths(nets: ModuleType) -> None:
    network = torch.nn.Sequential(nets.conv_bn(3, 13), nets.conv_bn(13, 13, groups=13), torch.nn.Linear(13, 5))
    layers = layers_of_tensors(network.state_dict())
    assert [(layer.name, layer.kind, layer.fixed_inputs, *layer.widths) for layer in layers] == [
        ("0.0", "conv", "input", 3, 13),
        ("1.0", "depthwise", "", 13, 13),
        ("2", "linear", "", 13, 5),
    ]
    assert [layer.bias for layer in layers] == [False, False, True]
    assert align(layers).now.macs is None


# --- a bundle and a checkpoint ---


def test_bundle_and_checkpoint_agree_with_each_other_and_with_the_trace(
    tiny_bundle: Path, tiny_dynamic_bundle: Path, tiny_checkpoint: Path, tiny_model: Path
) -> None:
    report = inspect_checkpoint(tiny_checkpoint, model=tiny_model, trust=True)
    assert inspect_bundle(Bundle.open(tiny_bundle)) == report.alignment
    assert inspect_bundle(Bundle.open(tiny_dynamic_bundle)) == report.alignment
    spec, host = load_model_toml(tiny_model)
    network = build_architecture(host)
    groups = Groups(trace(network, torch.zeros(1, 3, spec.input.height, spec.input.width)))
    assert report.alignment.now.macs == sum(
        layer.work * len(layer.inputs) * len(layer.outputs) for layer in groups.layers.values()
    )
    assert [layer.name for layer in report.alignment.layers] == list(groups.layers)
    assert report.parameters == sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The folder of the tiny model with 24 channels, and compacted checkpoints of it."""
    folder = tmp_path_factory.mktemp("wide") / "model"
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    text = (folder / "model.toml").read_text(encoding="utf-8").replace("channels = 8", "channels = 24")
    (folder / "model.toml").write_text(text, encoding="utf-8")
    spec, host = load_model_toml(folder / "model.toml")
    image = torch.randn(2, 3, spec.input.height, spec.input.width)
    for round_to in (1, 8):
        options = CompactOptions(method="l1", ratio=0.4, round_to=round_to)
        done = compact(build_architecture(host), image, options, data=[image])
        save_compacted(folder / f"by-{round_to}.safetensors", done.network, compacted_metadata(spec))
    return folder


def test_compacting_to_multiples_leaves_only_what_is_fixed(wide: Path, splite: Callable[..., Result]) -> None:
    odd = inspect_checkpoint(wide / "by-1.safetensors", trust=True).alignment
    assert any(not misfit.fixed for misfit in odd.fits[0].misfits)
    done = splite("inspect", wide / "by-8.safetensors", "--trust", "--json", "-")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["format"] == "safetensors"
    assert report["compacted"]["model"] == "tiny"
    assert "reshaped" in " ".join(report["notes"])
    eight = report["alignment"]["fits"][0]
    assert {misfit["layer"] for misfit in eight["misfits"]} == {"backbone.0", "heatmap", "depth"}
    assert all(misfit["fixed"] for misfit in eight["misfits"])
    assert eight["rounded"] == report["alignment"]["now"]
    assert report["alignment"]["layers"][0]["fixed_inputs"] == "input"
    assert report["alignment"]["timings"] == []


def test_the_command_shows_a_compacted_checkpoint_and_times_it(wide: Path, splite: Callable[..., Result]) -> None:
    done = splite("inspect", wide / "by-1.safetensors", "--trust", "--measure")
    assert done.exit_code == 0, done.output
    for expected in (
        "compacted",
        "model tiny",
        "3 (input)",
        "5 (output)",
        "to 8 (fp16)",
        "to 32 (int8)",
        "predicted cost",
    ):
        assert expected in done.stdout
    assert "On this CPU: ONNX Runtime, fp32, one thread" in done.stdout
    assert "--round-to 8" in done.stdout
    assert "timing layers on one thread" in done.stderr


def test_without_a_spec_the_tensors_speak(tiny_checkpoint: Path, tmp_path: Path, splite: Callable[..., Result]) -> None:
    state = torch.nn.Sequential(torch.nn.Conv2d(3, 13, 3), torch.nn.Conv2d(13, 32, 3)).state_dict()
    torch.save({"state_dict": state}, tmp_path / "net.pt")
    done = splite("inspect", tmp_path / "net.pt", "--widths")
    assert done.exit_code == 0, done.output
    for expected in ("torch, sha256", "13 -> 32", "unknown", "MACs, groups and which widths", "took the weights under"):
        assert expected in done.stdout


def test_what_fits_is_said_in_a_line(tmp_path: Path, splite: Callable[..., Result]) -> None:
    torch.save(
        torch.nn.Sequential(torch.nn.Conv2d(32, 64, 1), torch.nn.Conv2d(64, 32, 1)).state_dict(), tmp_path / "n.pt"
    )
    done = splite("inspect", tmp_path / "n.pt", "--widths")
    assert "Every channel width is a multiple of 8 (fp16), 16 (int8), 32 (int8)." in done.stdout
    assert "--round-to" not in done.stdout


def test_the_command_shows_and_times_a_bundle(tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    plain, listed = (splite("inspect", tiny_bundle, *option).stdout for option in ((), ("--widths",)))
    assert "hardware pads" not in plain and "hardware pads" in listed and listed.startswith(plain)
    assert "measured" not in listed.removeprefix(plain)
    done = splite("inspect", tiny_bundle, "--measure")
    assert done.exit_code == 0, done.output
    assert "artifacts" in done.stdout
    assert "8 -> 5 (output)" in done.stdout
    assert "measured: each layer alone" in done.stdout
    timings = inspect_bundle(Bundle.open(tiny_bundle), timed=True).timings
    assert [timing.layer for timing in timings] == ["backbone.0", "backbone.3", "heatmap", "depth"]
    assert all(stats.p50_ms > 0 for timing in timings for stats in (timing.now, *timing.rounded.values()))


def test_the_json_of_a_bundle_is_its_manifest(tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    done = splite("inspect", tiny_bundle, "--json", "-")
    assert done.stdout == (tiny_bundle / "manifest.json").read_text(encoding="utf-8")


DEVICE = """
import sys
sys.modules.update(torch=None, onnx=None, safetensors=None)
from splite_deploy.cli import main
main(sys.argv[1:])
"""


def test_a_device_without_onnx_still_shows_the_bundle(tiny_bundle: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", DEVICE, "inspect", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)

    done = run(tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "artifacts" in done.stdout
    for option in ("--widths", "--measure"):
        asked = run(tiny_bundle, option)
        assert asked.returncode == 1
        assert "pip install 'splite-deploy[export]'" in asked.stderr


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("hand.png",), "hand.png is a file, not a bundle folder.", "Or name a checkpoint: .safetensors or .pt."),
        (("none",), "none does not exist.", "Or name a checkpoint: .safetensors or .pt."),
        (("empty",), "empty holds no manifest.json, so it is not a bundle.", "Or name a checkpoint"),
        (("none.splite",), "none.splite does not exist.", "splite-deploy export"),
        (("none.pt",), "Cannot read the checkpoint none.pt: No such file", ".safetensors or .pt"),
        (("text.pt",), "text.pt is no checkpoint", ".safetensors or .pt"),
        (("odd.safetensors",), "odd.safetensors: its header entry 'splite' is damaged: ", "Compact"),
        (("net.pt", "--measure"), "inspect does not run it by itself", "If you know who wrote it add --trust"),
        (("net.pt", "--model", "none.toml"), "--model takes the network", "If you know who wrote it add --trust"),
        (("net.pt", "--measure", "--trust"), "There is no model spec beside net.pt", "--model"),
        (("net.pt", "--trust"), "There is no model spec beside net.pt", "leave out --trust"),
        (("net.pt", "--model", "none.toml", "--trust"), "No model spec at none.toml.", "--model"),
        (("tiny.splite", "--trust"), "--trust is for a checkpoint or a program", "Leave it out."),
        (("tiny.splite", "--model", "m.toml"), "--model and --weights are for a checkpoint", "Leave it out."),
        (("tiny.splite", "--measure", "--json", "-"), "--json with --measure is for a checkpoint", "Leave it out."),
        (("tiny.splite", "--widths", "--json", "-"), "--json with --widths is for a checkpoint", "Leave it out."),
    ],
)
def test_a_bad_path_or_option(
    splite: Callable[..., Result],
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
    hint: str,
) -> None:
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_bundle, "tiny.splite")
    Path("empty").mkdir()
    for name in ("hand.png", "text.pt"):
        Path(name).write_text("text", encoding="utf-8")
    state = torch.nn.Conv2d(3, 13, 3).state_dict()
    torch.save(state, "net.pt")
    save_file(state, "odd.safetensors", metadata={"splite": "[]x"})
    done = splite("inspect", *arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert hint in done.stderr
    assert done.stdout == ""


# --- graphs that are wrong ---


def test_sizes_that_contradict_each_other_are_an_error() -> None:
    with pytest.raises(ExportError, match=r"The sizes in the ONNX graph contradict each other: .*") as caught:
        graph([("Conv", "image", "y", "8x3x3x3", {}), ("Relu", "", "z", "", {})], "z")
    assert caught.value.hint == "Check the graph with onnx.checker.check_model; export it again."


def test_a_graph_that_reads_what_nobody_makes_is_refused_as_it_is_read(tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["nothing"], ["y"])
    ends = [onnx.helper.make_tensor_value_info(name, FLOAT, [1, 3]) for name in ("x", "y")]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:]))
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"g\.onnx is not an ONNX graph: ValidationError: .*nothing"):
        load(tmp_path / "g.onnx")
    with pytest.raises(BackendError, match="is no ONNX graph, or a damaged one"):
        load(tmp_path / "g.onnx", b"\xff\xff")
