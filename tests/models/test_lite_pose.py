"""The lightweight networks: sizes as published, shapes, and what their blocks promise to converters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from splite_deploy.export.source.symbol import load_symbol
from splite_deploy.spec import load_model_toml

LITE = Path(__file__).parents[2] / "models" / "lite_pose"
build = load_symbol("lite_arch.py:build", LITE)
BACKBONES = build.__globals__["BACKBONES"]

SIMPLE = "Xiao et al. 2018, whose released checkpoints have exactly so many"
MMPOSE = "mmpose 0.20, docs/inference_speed_summary.md"
LITE_HRNET = "HRNet/Lite-HRNet, README.md"
FASTPOSE = {"backbone": "fastpose-50", "upsampling": "pixel-shuffle", "channels": 128, "kernel": 3}
VIPNAS = {"backbone": "vipnas-mobilenetv3", "upsampling": "grouped-deconvolution", "channels": 160}
PUBLISHED: tuple[tuple[dict[str, Any], float, float | None, str], ...] = (
    ({"backbone": "resnet-18"}, 15_376_721, None, SIMPLE),
    ({"backbone": "resnet-50"}, 33_999_697, 5.46, f"{SIMPLE}; {MMPOSE}"),
    ({"backbone": "resnet-101"}, 52_991_825, 9.11, f"{SIMPLE}; {MMPOSE}"),
    ({"backbone": "resnet-152"}, 68_635_473, 12.77, f"{SIMPLE}; {MMPOSE}"),
    ({"backbone": "se-resnet-50"}, 36.53e6, 5.47, MMPOSE),
    ({"backbone": "se-resnet-101"}, 57.77e6, 9.13, MMPOSE),
    ({"backbone": "se-resnet-152"}, 75.26e6, 12.79, MMPOSE),
    (FASTPOSE, 40.58e6, 5.89, "counted on the layers of AlphaPose's FastPose with SE-ResNet-50"),
    (
        {"backbone": "lite-hrnet-18", "upsampling": "none"},
        1.13e6,
        0.2052,
        f"Yu et al. 2021, table 1: 1.1 M; {LITE_HRNET}",
    ),
    ({"backbone": "lite-hrnet-30", "upsampling": "none"}, 1.76e6, 0.3192, f"{MMPOSE}; {LITE_HRNET}"),
    ({"backbone": "shufflenetv2"}, 7.55e6, 1.37, MMPOSE),
    ({"backbone": "mobilenetv2"}, 9.57e6, 1.59, MMPOSE),
    (VIPNAS, 5.9e6, 0.76, MMPOSE),
)


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gmacs(network: nn.Module, height: int = 256, width: int = 192) -> float:
    """Multiply-adds of convolutions and linear layers, in thousand millions."""
    total = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.ConvTranspose2d):
            total += inputs[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Conv2d):
            total += output.numel() * module.weight[0].numel()

    for module in network.modules():
        module.register_forward_hook(count)  # type: ignore[arg-type]
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, height, width))
    return total / 1e9


@pytest.mark.parametrize(
    ("arguments", "published", "published_gmacs", "source"), PUBLISHED, ids=[one[0]["backbone"] for one in PUBLISHED]
)
def test_sizes_are_those_published(
    arguments: dict[str, Any], published: float, published_gmacs: float | None, source: str
) -> None:
    network = build(**arguments)
    count = parameters(network)
    exact = isinstance(published, int)
    assert count == published if exact else count == pytest.approx(published, rel=0.01), source
    if published_gmacs is not None:  # theirs count batch norms, ReLUs and sums too
        assert gmacs(network) == pytest.approx(published_gmacs, rel=0.04), source


CLASSIFIERS: tuple[tuple[str, float, int, tuple[int, ...]], ...] = (
    ("mobilenetv2", 1.0, 3_504_872, (1000,)),
    ("mobilenetv3-small", 1.0, 2_542_856, (1024, 1000)),
    ("mobilenetv3-large", 1.0, 5_483_032, (1280, 1000)),
    ("shufflenetv2", 0.5, 1_366_792, (1000,)),
    ("shufflenetv2", 1.0, 2_278_604, (1000,)),
    ("shufflenetv2", 1.5, 3_503_624, (1000,)),
    ("shufflenetv2", 2.0, 7_393_996, (1000,)),
    ("resnet-18", 1.0, 11_689_512, (1000,)),
    ("resnet-34", 1.0, 21_797_672, (1000,)),
    ("resnet-50", 1.0, 25_557_032, (1000,)),
)
"""The backbones as torchvision publishes them (``num_params`` of its weights), with the linear layers behind them."""


@pytest.mark.parametrize(("backbone", "width", "published", "linear"), CLASSIFIERS)
def test_backbones_have_the_size_of_the_published_classifiers(
    backbone: str, width: float, published: int, linear: tuple[int, ...]
) -> None:
    network = BACKBONES[backbone](width)
    count, cin = parameters(network), network.channels
    for cout in linear:
        count, cin = count + cin * cout + cout, cout
    assert count == published


EVERY = (
    *(
        {"backbone": name, "upsampling": "pixel-shuffle", "channels": 32}
        for name in ("fastpose-18", "mobilenetv3-large")
    ),
    {"backbone": "mobilenetv3-small", "upsampling": "deconvolution", "channels": 64},
    {"backbone": "shufflenetv2", "upsampling": "pixel-shuffle", "channels": 32},
    {"backbone": "lite-hrnet-18", "upsampling": "none"},
    {"backbone": "mobilenetv2", "upsampling": "none"},
)


@pytest.mark.parametrize("arguments", EVERY, ids=[one["backbone"] for one in EVERY])
@pytest.mark.parametrize("keypoints", [17, 133])
def test_shapes_of_every_head(arguments: dict[str, Any], keypoints: int) -> None:
    stride = 32 if arguments["backbone"] == "mobilenetv2" else 4
    with torch.inference_mode():
        heatmap = build(**arguments, keypoints=keypoints, width=0.5).eval()(torch.zeros(2, 3, 256, 192))
        x, y = build(**arguments, head="simcc", keypoints=keypoints, width=0.5).eval()(torch.zeros(2, 3, 256, 192))
    assert heatmap.shape == (2, keypoints, 256 // stride, 192 // stride)
    assert (x.shape, y.shape) == ((2, keypoints, 384), (2, keypoints, 512))


@pytest.mark.parametrize("backbone", ["mobilenetv2", "mobilenetv3-small", "shufflenetv2", "lite-hrnet-18", "resnet-18"])
def test_a_smaller_width_gives_a_smaller_network_of_multiples_of_eight(backbone: str) -> None:
    full, half = BACKBONES[backbone](1.0), BACKBONES[backbone](0.5)
    assert parameters(half) < 0.45 * parameters(full)
    assert BACKBONES[backbone](0.75).channels % 8 == 0


def test_the_readme_tells_the_sizes() -> None:
    rows = [
        line.split("|") for line in (LITE / "README.md").read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    assert sorted(row[1].strip(" `") for row in rows) == sorted(file.parent.name for file in LITE.glob("*/model.toml"))
    for row in rows:
        _, host = load_model_toml(LITE / row[1].strip(" `") / "model.toml")
        network = build(**host.arch_args)
        assert row[5].strip() == f"{parameters(network) / 1e6:.2f} M"
        assert row[6].strip() == f"{gmacs(network):.2f}"


def test_an_unknown_part_is_named() -> None:
    with pytest.raises(ValueError, match="backbone is 'vgg': it has to be one of mobilenetv2, mobilenetv3-small"):
        build(backbone="vgg")
    with pytest.raises(ValueError, match="head is 'boxes': it has to be one of heatmap, simcc"):
        build(head="boxes")
