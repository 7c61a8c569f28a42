"""The files of tests/vectors/make_foreign_tflite.py, and how their ends are described in model.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

VECTORS = Path(__file__).parents[1] / "vectors"
MODEL = """
name = "foreign"

[input]
height = 64
width = 48
color = "rgb"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
box_padding = 1.25
pad_value = 127

[decoder]
{decoder}

[skeleton]
keypoint_names = ["a", "b", "c", "d", "e"]
edges = [[0, 1]]
"""
HEATMAP = """type = "softargmax"
stride = 4.0
beta = 1.0
alignment = "corner"
score_window = 5"""
COORDINATES = """type = "coordinates"
scale = "pixel\""""
NHWC = """
[inputs.image]
layout = "NHWC"
"""
READ_HEATMAP = NHWC + '[outputs.heatmap]\nsource = "Identity"\nlayout = "NHWC"\n'
READ_POINTS = NHWC + (
    '[outputs.coordinates]\nsource = "Identity_1"\nlayout = "N(KC)"\ncolumns = ["x", "y", "score"]\n'
    'activation = "sigmoid"\n'
)


def foreign(name: str) -> Path:
    """The file ``foreign.NAME.tflite``."""
    return VECTORS / f"foreign.{name}.tflite"


def with_model(folder: Path, name: str, *, decoder: str = HEATMAP, view: str = READ_HEATMAP) -> Path:
    """A copy of a file in a folder, with its ``model.toml`` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.toml").write_text(MODEL.format(decoder=decoder) + view, encoding="utf-8")
    return Path(shutil.copy(foreign(name), folder / f"{name}.tflite"))
