"""What the package brings along is made of the checkpoints in models/."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("onnx")

from rich.console import Console
from scripts import load_script

from splite_deploy.bundle import Bundle
from splite_deploy.bundle.packaged import HAND, PALM, PICTURE, packaged
from splite_deploy.files import sha256_of
from splite_deploy.spec import load_model_toml

MOST_BYTES = 5_000_000
"""Of all of it as it lies in a folder; a wheel packs it to less than 4 MB, see tests/test_packaging.py."""


@pytest.fixture(scope="module")
def script(root: Path) -> ModuleType:
    return load_script(root / "models" / "make_demo.py")


@pytest.mark.parametrize("name", [HAND, PALM])
def test_the_packaged_bundles_are_of_the_shipped_checkpoints(script: ModuleType, name: str) -> None:
    checkpoint: Path = script.CHECKPOINTS[name]
    bundle = Bundle.open(packaged(name))
    if not checkpoint.is_file():
        pytest.skip(f"{checkpoint.name} is not shipped yet: {name} is of one whose training goes on")
    advice = "make demo-bundles"
    assert bundle.manifest.source.checkpoint_sha256 == sha256_of(checkpoint), advice
    assert bundle.model == load_model_toml(checkpoint.parent / "model.toml")[0], advice


@pytest.mark.parametrize("name", [HAND, PALM])
def test_the_packaged_bundles_are_small_and_made_of_renders(name: str) -> None:
    bundle = Bundle.open(packaged(name))
    assert [one.label for one in bundle.manifest.artifacts] == ["ort fp32", "ort int8"]
    golden = bundle.golden()
    assert golden.reference == "torch" and len(golden.crops) <= 3
    origin = bundle.report().parity[0].crops_from
    assert "synthetic images of " in origin and origin.endswith(("synthetic.py", "renders.py"))


def test_nothing_else_is_packaged() -> None:
    folder = packaged(PICTURE).parent
    assert sorted(one.name for one in folder.iterdir()) == [HAND, PICTURE, PALM]
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < MOST_BYTES


@pytest.mark.slow
def test_a_bundle_takes_the_place_of_the_one_before(
    script: ModuleType, tiny_checkpoint: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(tiny_model.parent, tmp_path / "model")
    checkpoint = Path(shutil.copy(tiny_checkpoint, model))
    out = tmp_path / "out"
    (out / HAND).mkdir(parents=True)
    (out / HAND / "old.onnx").touch()
    script.make_bundle(HAND, checkpoint, out, Console(quiet=True))
    made = Bundle.open(out / HAND)
    assert made.manifest.source.checkpoint_sha256 == sha256_of(checkpoint) and len(made.golden().crops) == 3
    assert [one.label for one in made.manifest.artifacts] == ["ort fp32", "ort int8"]
    assert made.manifest.artifacts[0].inputs[0].shape[0] is None  # several hands at once
    assert not (out / HAND / "old.onnx").exists()


def test_a_scene_has_its_hands_in_their_places(root: Path) -> None:
    """Labels of the renderer are where skin is."""

    renders = load_script(root / "models" / "splite_palm" / "palm_renders.py")
    place = renders.Place(40.0, 20.0, 120, left=True, free=0.0)
    background = np.full((200, 200, 3), (0.1, 0.5, 0.9))
    scene = renders.render_hands(np.random.default_rng(3), [place], background, 160)
    assert scene.image.shape == (160, 200, 3) and scene.keypoints.shape == (1, 21, 2)
    (box,) = scene.boxes
    assert box[0] > 35 and box[1] > 15 and box[2] < 165 and box[3] < 145
    palm = scene.keypoints[0, [0, 5, 9, 13, 17]].mean(axis=0).astype(int)
    blue = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)[..., 0].astype(int)
    assert blue[palm[1], palm[0]] < blue[5, 5] - 20
    empty = renders.render_hands(np.random.default_rng(3), [], background, 160)
    assert empty.boxes.shape == (0, 4)
    (one, whole), *_ = renders.samples(2, seed=4)
    assert one.shape == (240, 320, 3) and whole.tolist() == [0, 0, 320, 240]
