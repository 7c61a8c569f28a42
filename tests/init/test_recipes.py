"""What families are known for: every recipe gives a model.toml that loads, with the values of its publication."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from splite_deploy.spec import load_model_toml
from splite_deploy.spec.recipes import RECIPES

pytest.importorskip("torch")

from strange_nets import heatmaps, integral_heatmaps, mediapipe_hand, movenet, simcc, yolo

Write = Callable[[Path], Path]
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
UNIT = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)


@pytest.mark.parametrize(
    ("like", "write", "decoder", "color", "scale"),
    [
        ("rtmpose", simcc, "simcc", "rgb", IMAGENET),
        ("vitpose", heatmaps, "udp", "rgb", IMAGENET),
        ("hrnet", heatmaps, "argmax", "rgb", IMAGENET),
        ("simplebaseline", heatmaps, "argmax", "bgr", IMAGENET),
        ("alphapose", heatmaps, "argmax", "rgb", ((103.53, 116.535, 122.4), UNIT[1])),
        ("alphapose", integral_heatmaps, "expectation", "rgb", ((103.53, 116.535, 122.4), UNIT[1])),
        ("movenet", movenet, "coordinates", "rgb", ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))),
        ("mediapipe-hand", mediapipe_hand, "coordinates", "rgb", UNIT),
        ("yolo-pose", yolo, "yolo-pose", "rgb", UNIT),
    ],
)
def test_every_recipe_loads(
    like: str,
    write: Write,
    decoder: str,
    color: str,
    scale: tuple[tuple[float, ...], tuple[float, ...]],
    tmp_path: Path,
    splite: Callable[..., Result],
) -> None:
    result = splite("init", write(tmp_path / "net.onnx"), "--like", like)
    assert result.exit_code == 0, result.output
    assert "Next:" in result.output  # nothing is left to be filled in
    spec, host = load_model_toml(tmp_path / "model.toml")
    assert (spec.decoder.type, spec.input.color, (spec.input.mean, spec.input.std)) == (decoder, color, scale)
    assert spec.input.pad_value == (114 if like == "yolo-pose" else 0)
    padding = {"movenet": 1.0, "yolo-pose": 1.0, "mediapipe-hand": 1.65}.get(like, 1.25)
    assert spec.input.box_padding == padding
    sigmoid = {role: view.activation for role, view in host.view.outputs.items()}
    assert sigmoid.get("heatmap") == ("sigmoid" if write is integral_heatmaps else None)
    alignment = {"vitpose": "udp", "hrnet": "centre", "simplebaseline": "centre", "alphapose": "centre"}.get(like)
    assert getattr(spec.decoder, "alignment", None) == alignment


def test_every_recipe_is_tried_and_names_its_source() -> None:
    assert list(RECIPES) == [
        *("rtmpose", "vitpose", "hrnet", "simplebaseline", "alphapose"),
        *("movenet", "mediapipe-hand", "yolo-pose"),
    ]
    assert all("arXiv" in recipe.about or "tfhub.dev" in recipe.about for recipe in RECIPES.values())
