"""SPLite Hand 2 before its training: architecture, renderings, tiles, crops, losses, and the whole road in small."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scripts import load_script, run_main

from splite_deploy.errors import UsageError
from splite_deploy.export.source.checkpoint import read_checkpoint
from splite_deploy.export.source.load import load_model
from splite_deploy.metrics.labels import LabelledImage, tight_box
from splite_deploy.metrics.turned_boxes import angle_of
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.spec import ModelSpec, load_model_toml

HAND2 = Path(__file__).parents[2] / "models" / "splite_hand2"
for folder in (HAND2, HAND2.parent / "common"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import augmentation
import fake_quant
import hand2_arch
import hand2_data
import hand2_equalise
import hand2_evaluate
import hand2_int8
import hand2_losses
import hand2_renders
import hand2_teachers
import hand2_tiles
import hand2_travel

train = load_script(HAND2 / "train.py")


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_model_toml(HAND2 / "model.toml")[0]


def disc(spec: ModelSpec, at: tuple[float, float] = (90.5, 60.5)) -> hand2_tiles.Tile:
    """A hand that points up in a dark tile, with a white disc at its keypoint 3."""
    keypoints = np.random.default_rng(0).uniform(50, 110, (21, 2))
    keypoints[0], keypoints[9], keypoints[3] = (80, 120), (80, 70), at
    image = np.zeros((160, 160, 4), np.uint8)
    cv2.circle(image, (int(at[0]), int(at[1])), 7, (255, 255, 255, 255), -1)
    return hand2_tiles.Tile(image, keypoints, np.arange(21.0), np.linspace(0.2, 1, 21), 0.9, False)


def found_at(pixels: Any) -> Any:
    """The middle of what is bright, (x, y) from the corner of the first pixel."""
    grey = pixels[..., :3].astype(float).mean(axis=2)
    rows, columns = np.nonzero(grey > 0.6 * grey.max())
    return np.array([columns.mean(), rows.mean()]) + 0.5


# --- architecture ---------------------------------------------------------------------------------


@pytest.mark.parametrize("partial", [False, True])
def test_the_network_gives_maps_and_facts(partial: bool) -> None:
    network = hand2_arch.build((8, 16, 24), (1, 0, 2), (16, 8), (3, 1), 5, partial).eval()
    with torch.inference_mode():
        found = network(torch.zeros(2, 3, 128, 96))
    assert {role: tuple(value.shape) for role, value in found.items()} == {
        "heatmap": (2, 5, 32, 24),
        "depth": (2, 5, 32, 24),
        "presence": (2, 1),
        "handedness": (2, 1),
    }
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert all(module.groups == 1 for module in convolutions)
    assert {module.kernel_size for module in convolutions} == {(3, 3), (1, 1)}


def seeded() -> tuple[torch.nn.Module, torch.Tensor]:
    """A small network whose channels have very different ranges, and crops for it."""
    torch.manual_seed(0)
    network = hand2_arch.build((8, 16, 24), (1, 1, 2), (16, 8))
    crops = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        network.train()(crops)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.mul_(torch.logspace(-0.5, 0.5, module.num_features))
    return network.eval(), crops


def int8_error(network: torch.nn.Module, crops: torch.Tensor) -> float:
    hand2_int8.quantise(network)
    hand2_int8.set_quantisers(network, quantising=True, observing=True)
    with torch.no_grad():
        network(crops)
        hand2_int8.set_quantisers(network, quantising=False, observing=False)
        floats = network(crops)["heatmap"]
        hand2_int8.set_quantisers(network, quantising=True, observing=False)
        return float((network(crops)["heatmap"] - floats).norm() / floats.norm())


def test_int8_weights_have_7_bits(spec: ModelSpec) -> None:
    """Sums of products with them cannot saturate, whatever the CPU."""
    torch.manual_seed(0)
    network = hand2_int8.quantise(hand2_arch.build((8, 16, 16), (0, 1, 1), (16, 8)).eval())
    hand2_int8.set_quantisers(network, quantising=True, observing=True)
    with torch.no_grad():
        network(torch.randn(2, 3, spec.input.height, spec.input.width))
        hand2_int8.round_weights(network)
        found = [module for module in network.modules() if isinstance(module, fake_quant.QuantisedConv)]
        for module in found:
            gain = module[1].weight * torch.rsqrt(module[1].running_var + module[1].eps)
            folded = module[0].weight * gain[:, None, None, None]
            steps = folded / module.weight_quantiser.scale[:, None, None, None]
            assert float(steps.abs().max()) == pytest.approx(63, abs=1e-3)
            torch.testing.assert_close(module.weight_quantiser(folded), folded, rtol=0, atol=1e-6)
    assert len(found) > 5


def test_equalised_channels_say_the_same_and_quantise_better() -> None:
    network, crops = seeded()
    with torch.no_grad():
        before = network(crops)
        hand2_equalise.equalise(network, crops)
        for role, value in network(crops).items():
            torch.testing.assert_close(value, before[role], rtol=1e-4, atol=1e-5)
    assert int8_error(network, crops) < 0.9 * int8_error(seeded()[0], crops)


# --- renderings -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scenes() -> list[Any]:
    return [hand2_renders.render_scene(np.random.default_rng([3, i])) for i in range(24)]


def test_rendered_hands_are_seen_where_their_labels_say(scenes: list[Any]) -> None:
    on_hand = []
    for scene in scenes:
        assert scene.image.shape == (160, 160, 3) and scene.image.dtype == np.uint8
        inside = scene.keypoints[((scene.keypoints >= 0) & (scene.keypoints < 160)).all(axis=1)].astype(int)
        on_hand.append(scene.mask[inside[:, 1], inside[:, 0]].mean())
    assert np.mean(on_hand) > 0.85
    assert {scene.handedness for scene in scenes} == {"left", "right"}
    again = hand2_renders.render_scene(np.random.default_rng([3, 5]))
    assert (again.image == scenes[5].image).all() and (again.keypoints == scenes[5].keypoints).all()


def test_hands_are_rendered_from_all_sides(scenes: list[Any]) -> None:
    """The palm's normal, from the thumb's to the little finger's side, points to the camera and away from it."""
    towards = []
    for scene in scenes:
        wrist, index, little = scene.keypoints_3d_mm[[0, 5, 17]]
        normal = np.cross(index - wrist, little - wrist) * (1 if scene.handedness == "right" else -1)
        towards.append(normal[2] / np.linalg.norm(normal))
    assert min(towards) < -0.6 and max(towards) > 0.6
    assert 0.15 < np.mean(np.array(towards) > 0) < 0.85


def test_what_is_nearer_hides_what_is_behind() -> None:
    """Of two flat squares of rays the nearer one is seen, and the labelled one's share is told."""

    def square(columns: slice, z: float) -> tuple[Any, Any]:
        pixel = np.arange(16).reshape(4, 4)[:, columns].ravel()
        count = len(pixel)
        point = np.column_stack([np.zeros((count, 2)), np.full(count, z)])
        ones = np.ones((count, 3))
        surface = hand2_renders.Surface((4, 4), pixel, point, ones, ones, ones[:, 0], pixel, ones[:, 0], ones[:, 0])
        return surface, np.full((count, 3), z)

    surface, albedo, seen = hand2_renders._nearest([square(slice(0, 3), 5.0), square(slice(2, 4), 3.0)])
    assert seen == pytest.approx(8 / 12)
    assert sorted(surface.pixel.tolist()) == list(range(16))
    assert (albedo[:, 0] == surface.point[:, 2]).all()
    assert set(surface.pixel[albedo[:, 0] == 3.0] % 4) == {2, 3}


def test_samples_have_boxes_with_angles(spec: ModelSpec) -> None:
    for image, box in hand2_renders.samples(3, 1):
        assert image.shape == (160, 160, 3) and box.shape == (5,)
    assert spec.input.turn == hand2_renders.TURN


# --- tiles ----------------------------------------------------------------------------------------


def test_tiles_travel_as_pictures(tmp_path: Path, spec: ModelSpec) -> None:
    tiles = [*hand2_tiles.renders(4, 5, spec)]
    unmasked = dataclasses.replace(tiles[0], image=tiles[0].image * np.array([1, 1, 1, 0], np.uint8), masked=False)
    hand2_tiles.write_tiles(tmp_path / "tiles", "some", iter([*tiles, unmasked]))
    hand2_travel.pack(tmp_path / "tiles" / "some.npz", tmp_path / "packed" / "some.npz")
    assert (tmp_path / "packed" / "some.npz").stat().st_size < 0.3 * (tmp_path / "tiles" / "some.tiles").stat().st_size
    hand2_travel.unpack(tmp_path / "packed" / "some.npz", tmp_path / "there" / "some.npz")
    before, after = (hand2_tiles.Tiles(tmp_path / folder, "some") for folder in ("tiles", "there"))
    assert len(before) == len(after) == 5
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.image[..., 3], other.image[..., 3])
        assert np.abs(one.image[..., :3].astype(float) - other.image[..., :3]).mean() < 6
        for name in hand2_travel.FACTS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_what_travels_is_looked_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, HAND2 / "hand2_travel.py", "pack", tmp_path, tmp_path / "packed"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "holds no .npz files" in done.stderr


def test_tiles_come_back_as_they_were(tmp_path: Path, spec: ModelSpec) -> None:
    tiles = [*hand2_tiles.renders(2, 5, spec), disc(spec)]
    tiles.append(dataclasses.replace(tiles[0], image=tiles[0].image[:50, :70]))
    hand2_tiles.write_tiles(tmp_path, "some", iter(tiles))
    stored = hand2_tiles.Tiles(tmp_path, "some")
    assert len(stored) == 4
    for one, expected in zip((stored[i] for i in range(4)), tiles, strict=True):
        assert (one.image == expected.image).all()
        for name in ("keypoints", "depth", "weight"):
            np.testing.assert_allclose(getattr(one, name), getattr(expected, name), rtol=1e-5)
        assert (one.right, one.masked) == (pytest.approx(expected.right), expected.masked)
    hand2_tiles.write_tiles(tmp_path, "none", iter(()))
    assert len(hand2_tiles.Tiles(tmp_path, "none")) == 0


@pytest.mark.parametrize("size", [60, 400])
def test_a_tile_is_as_fine_as_crops_need(spec: ModelSpec, size: int) -> None:
    """A hand of 400 pixels shrinks to the resolution of crops; one of 60 stays as it is. The disc goes along."""
    scale = size / 60
    image = np.zeros((int(220 * scale), int(260 * scale), 3), np.uint8)
    keypoints = np.random.default_rng(1).uniform(100 * scale, 160 * scale, (21, 2))
    keypoints[3], keypoints[0], keypoints[1] = (
        (130 * scale, 130 * scale),
        (100 * scale, 100 * scale),
        (160 * scale,) * 2,
    )
    cv2.circle(image, tuple(int(v) for v in keypoints[3]), int(4 * scale), (255, 255, 255), -1)
    tile, moved = hand2_tiles.around(image, keypoints, spec)
    side = float(np.ptp(moved, axis=0).max())
    finest = hand2_tiles.FINER * 128 / 1.25
    assert side == pytest.approx(min(size, finest), rel=0.02)
    assert tile.shape[0] == pytest.approx(2 * hand2_tiles.REACH * side, abs=3)
    assert np.linalg.norm(found_at(tile) - moved[3]) < 1.0


def test_what_teachers_contradict_is_dropped() -> None:
    sure, unsure = np.full(21, 0.03), np.full(21, 0.1)
    assert hand2_tiles.agreed(sure, 0.9, usable=True) and not hand2_tiles.agreed(unsure, 0.9, usable=True)
    assert not hand2_tiles.agreed(sure, 0.3, usable=True)
    assert hand2_tiles.agreed(sure, 0.95, usable=False) and not hand2_tiles.agreed(sure, 0.8, usable=False)
    assert not hand2_tiles.agreed(np.full(21, 0.06), 0.95, usable=False)


def test_the_mask_of_a_hand_is_its_shape(spec: ModelSpec) -> None:
    scene = next(
        s for i in range(9) if (s := hand2_renders.render_scene(np.random.default_rng([8, i]))).mask.mean() > 0.1
    )
    plain = np.where(scene.mask[..., None], scene.image, np.uint8(240))
    mask = hand2_tiles.cut_out(plain, scene.keypoints.astype(float), spec)
    assert mask is not None
    either, both = (mask > 127) | scene.mask, (mask > 127) & scene.mask
    assert both.sum() > 0.6 * either.sum()
    noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3)).astype(np.uint8)
    wrong = np.random.default_rng(1).uniform(20, 140, (21, 2))
    assert hand2_tiles.cut_out(noise, wrong, spec) is None or hand2_tiles.cut_out(noise, wrong, spec).shape == (
        160,
        160,
    )


def write_scenes(folder: Path) -> None:
    """Two photographs: in one people have drawn a box, in the other nobody has."""
    (folder / "images" / "some").mkdir(parents=True)
    rng = np.random.default_rng(0)
    hand = rng.uniform(40, 100, (21, 2)).round(1).tolist()
    names = ["images/some/a.jpg", "images/some/b.jpg"]
    for name in names:
        picture = cv2.GaussianBlur(rng.integers(0, 256, (200, 240, 3)).astype(np.uint8), (0, 0), 3)
        cv2.rectangle(picture, (40, 40), (100, 100), (0, 0, 255), -1)
        cv2.imwrite(str(folder / name), picture)
    found = {"keypoints": hand, "score": 0.95}
    scenes = [
        {
            "image": names[0],
            "split": "train",
            "human_boxes": [[40, 40, 100, 100]],
            "hands": [{**found, "usable": True}],
        },
        {"image": names[1], "split": "train", "human_boxes": None, "hands": [{**found, "usable": False}]},
        {"image": names[1], "split": "val", "human_boxes": None, "hands": [{**found, "usable": True}]},
    ]
    (folder / "scenes.json").write_text(json.dumps({"scenes": scenes}))
    label = {
        "image": names[0],
        "split": "train",
        "keypoints": hand,
        "world_mm": [[0.0, 0, 0]] * 21,
        "handedness": "Left",
    }
    (folder / "labels.json").write_text(json.dumps({"samples": [label, {**label, "split": "val"}]}))


def test_an_opencv_that_finds_no_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(tmp_path)
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    with pytest.raises(UsageError, match=r"OpenCV [\d.]+ finds no faces") as caught:
        next(hand2_tiles.negatives(tmp_path, "train", 0))
    assert caught.value.hint == "Cut them with OpenCV 4: pip install 'opencv-python-headless<5'."


@pytest.mark.skipif(not hasattr(cv2, "CascadeClassifier"), reason="this OpenCV finds no faces")
def test_pictures_without_hands_show_none(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    tiles = list(hand2_tiles.negatives(tmp_path, "train", 0, each=20))
    assert tiles
    for tile in tiles:
        red = (tile.image[..., 0] > 200) & (tile.image[..., 1] < 60)
        assert red.mean() < 0.06  # what touches the marked square by less than a twentieth
        assert max(tile.image.shape[:2]) <= hand2_tiles.NEGATIVE_PX
        assert np.isnan(tile.keypoints).all() and not tile.weight.any()
    assert len(tiles) <= 20 + 5  # the photograph without drawn boxes gives none but what is taken for a face
    assert list(hand2_tiles.negatives(tmp_path, "val", 0, each=20))  # nobody has drawn any there


# --- crops ----------------------------------------------------------------------------------------


@pytest.fixture
def crops(tmp_path: Path, spec: ModelSpec) -> hand2_data.Crops:
    nothing = hand2_tiles.Tile(np.full((40, 50, 4), 90, np.uint8), *hand2_tiles._NOTHING)
    hand2_tiles.write_tiles(tmp_path, "hands", iter([disc(spec)]))
    hand2_tiles.write_tiles(tmp_path, hand2_tiles.NEGATIVES, iter([nothing]))
    sources = {name: hand2_tiles.Tiles(tmp_path, name) for name in ("hands", hand2_tiles.NEGATIVES)}
    return hand2_data.Crops(sources, {"hands": 0.7, hand2_tiles.NEGATIVES: 0.3}, spec)


def test_keypoints_move_with_the_picture(spec: ModelSpec) -> None:
    """A white disc drawn at a keypoint is found at the keypoint's new place, mirrored or not."""
    tile, seen = disc(spec), 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        matrix = hand2_data.looked_at(tile.keypoints, spec, rng)
        if seed % 2:
            matrix = hand2_data.mirror(matrix, 128)
        place = hand2_data.transform_points(tile.keypoints, matrix)[3]
        if (place > 14).all() and (place < 114).all():
            seen += 1
            assert np.linalg.norm(found_at(hand2_data.cut(tile.image, matrix, spec, 0)) - place) < 0.8
    assert seen > 30


def test_most_crops_are_nearly_upright_and_some_are_not(spec: ModelSpec) -> None:
    assert spec.input.turn is not None
    tile = disc(spec)
    angle = np.radians(70)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lying = (tile.keypoints - 80) @ turn.T + 80
    rng = np.random.default_rng(0)
    angles = []
    for _ in range(1000):
        moved = hand2_data.transform_points(lying, hand2_data.looked_at(lying, spec, rng))
        angles.append(angle_of(moved, spec.input.turn))
    upright = np.abs(np.array(angles, float)) < 30
    assert 0.6 < upright.mean() < 0.76
    assert np.std(np.array(angles, float)[upright]) == pytest.approx(hand2_data.ANGLE_DEG, rel=0.15)
    assert np.mean(np.abs(np.array(angles, float) - 70) < 20) == pytest.approx(hand2_data.UNTURNED, abs=0.04)


def test_crops_tell_hands_from_nothing(crops: hand2_data.Crops) -> None:
    rng = np.random.default_rng(0)
    drawn = [crops.draw(rng) for _ in range(200)]
    hands, others = ([crop for crop in drawn if crop.present is present] for present in (True, False))
    assert 30 < len(others) < 90
    for crop in drawn:
        assert crop.image.shape == (128, 128, 3) and crop.image.dtype == np.uint8
    assert all(not crop.weight.any() and np.isnan(crop.right) for crop in others)
    rights = {round(crop.right, 3) for crop in hands}
    assert rights == {0.9, 0.1}  # mirrored hands are of the other side
    for crop in hands:
        outside = ((crop.keypoints <= 0) | (crop.keypoints >= 128)).any(axis=1)
        assert (crop.weight[outside] == 0).all()
        np.testing.assert_allclose(crop.weight[~outside], np.linspace(0.2, 1, 21)[~outside], rtol=1e-6)


def test_a_batch_is_a_function_of_seed_and_step(crops: hand2_data.Crops) -> None:
    batches = hand2_data.Batches(crops, 6, 5)
    first, again, other = batches[3], batches[3], batches[4]
    assert (first.image == again.image).all() and (first.keypoints == again.keypoints).all()
    assert not (first.image == other.image).all()
    assert first.image.shape == (6, 128, 128, 3) and first.image.dtype == torch.uint8
    assert first.right.shape == first.present.shape == (6,) and first.weight.shape == first.depth.shape == (6, 21)


def test_a_background_is_replaced_where_the_hand_is_not() -> None:
    crop = np.full((4, 4, 4), 200, np.uint8)
    crop[..., 3] = [0, 255, 128, 0]
    mixed = augmentation.before(crop, np.full((4, 4, 4), 100, np.uint8))
    assert (mixed[:, 0] == 100).all() and (mixed[:, 1] == 200).all() and (mixed[:, 2] == 150).all()


# --- losses ---------------------------------------------------------------------------------------


def batch_of(present: list[float], right: list[float], weight: float = 1.0) -> hand2_data.Batch:
    count = len(present)
    shown = torch.tensor(present)
    return hand2_data.Batch(
        image=torch.zeros(count, 128, 128, 3, dtype=torch.uint8),
        keypoints=torch.full((count, 21, 2), 40.0),
        depth=torch.zeros(count, 21),
        weight=weight * shown[:, None].expand(count, 21).clone(),
        present=shown,
        right=torch.tensor(right),
    )


def outputs_of(count: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    maps = {role: torch.randn(count, 21, 32, 32, requires_grad=True) for role in ("heatmap", "depth")}
    return maps | {role: torch.randn(count, 1, requires_grad=True) for role in hand2_losses.HEADS}


def test_crops_without_a_hand_teach_the_presence_alone(spec: ModelSpec) -> None:
    loss, found = hand2_losses.LabelLoss(spec), outputs_of(2)
    terms = loss(found, batch_of([1.0, 0.0], [0.0, float("nan")]))
    sum(terms.values()).backward()
    for role in ("heatmap", "depth", "handedness"):
        gradient = found[role].grad
        assert gradient is not None and gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0
    presence = found["presence"].grad
    assert presence is not None and presence[0] < 0 < presence[1]


def test_wrong_labels_draw_less_the_further_they_are(spec: ModelSpec) -> None:
    """A pixel more costs a third of what it does near the label, where that is half the heatmap away."""
    loss, found = hand2_losses.LabelLoss(spec), outputs_of(1)
    found["heatmap"] = torch.zeros(1, 21, 32, 32)
    found["heatmap"][..., 10, 10] = 30.0  # found at 42 pixels

    def cost(away_px: float) -> float:
        batch = batch_of([1.0], [1.0])
        batch.keypoints[:] = 42.0 + away_px
        return float(loss(found, batch)["position"])

    assert cost(4.0) == pytest.approx(2 * 4 * np.log1p(1 / 4), rel=1e-3)
    assert cost(61.0) - cost(60.0) < 0.35 * (cost(5.0) - cost(4.0))


def test_the_distance_of_a_network_from_itself_is_none(spec: ModelSpec) -> None:
    found = outputs_of(2)
    for loss in (hand2_losses.Distillation(spec), hand2_losses.Int8Deviation(spec)):
        same, other = (
            loss(found, found),
            loss(found, {role: value + torch.randn_like(value) for role, value in found.items()}),
        )
        assert set(same) <= set(hand2_losses.WEIGHTS)
        maps = [name for name in same if not name.endswith(hand2_losses.HEADS)]
        assert all(abs(float(same[name].detach())) < 2e-3 for name in maps)
        assert all(float(other[name].detach()) > float(same[name].detach()) for name in maps)


# --- the road -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model.toml of a very small network."""
    file = tmp_path_factory.mktemp("small") / "model.toml"
    train.move_model_toml(HAND2 / "model.toml", file, {})
    text = file.read_text(encoding="utf-8")
    text = text.replace("channels = [32, 64, 128]", "channels = [32, 64, 64]").replace(
        "head = [64, 64]", "head = [64, 32]"
    )
    file.write_text(text.replace("blocks = [1, 2, 3]", "blocks = [1, 0, 1]"), encoding="utf-8")
    return file


def typed(stage: str, out: Path, model: Path, *more: Any) -> list[str]:
    fixed = ["--renders", 5, "--threads", 1, "--steps", 1e-4, "--batch", 8]
    return [str(part) for part in (stage, "--out", out, "--model", model, *fixed, *more)]


@pytest.mark.slow
def test_the_whole_road_goes_on_where_it_was_cut(tmp_path: Path, small: Path) -> None:
    command = [sys.executable, HAND2 / "train.py", *typed("all", tmp_path / "cut", small, "--stop-after", 2)]
    cut = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # its tiles are spawned
    assert cut.returncode == 0, cut.stderr
    assert not (tmp_path / "cut" / "dense" / train.NAME).exists()
    gone_on = run_main(train.main, *typed("all", tmp_path / "cut", small))
    assert gone_on.returncode == 0, gone_on.stderr
    assert "going on from step 2" in gone_on.stdout

    dense, compact, tuned = (
        load_model(tmp_path / "cut" / s / train.NAME, small, None) for s in ("dense", "compact", "tuned")
    )
    sizes = [sum(p.numel() for p in one.network.parameters()) for one in (dense, compact, tuned)]
    assert sizes[0] > 1.5 * sizes[1] and sizes[1] == sizes[2]
    assert dense.spec.heads == ("presence", "handedness")
    quantised = load_model(tmp_path / "cut" / "int8" / "qat" / train.NAME, None, None)
    assert any(isinstance(module, torch.ao.quantization.FakeQuantize) for module in quantised.network.modules())
    log = [json.loads(line) for line in (tmp_path / "cut" / "training-log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in log] == ["dense", "dense", "sparse", "tuned", "int8"]
    assert {"soft_heatmap", "sparsity"} <= set(log[2]) and {"int8_position", "int8_presence"} <= set(log[-1])

    first, second = (tmp_path / "cut" / "tuned" / name for name in (train.NAME, "first.safetensors"))
    first.rename(second)
    (second.parent / "state.pt").unlink(missing_ok=True)
    again = run_main(train.main, *typed("tuned", tmp_path / "cut", small, "--init", second))
    assert again.returncode == 0, again.stderr
    recipe = json.loads(read_checkpoint(first).metadata["recipe"])
    assert recipe["init_sha256"] == read_checkpoint(second).sha256

    shifted = run_main(train.main, *typed("presence", tmp_path / "cut", small, "--init", second))
    assert shifted.returncode == 0 and "the presence is shifted by" in shifted.stdout, shifted.stderr
    before, after = read_checkpoint(second), read_checkpoint(tmp_path / "cut" / "presence" / train.NAME)
    moved = {name: float((after.tensors[name] - values).abs().max()) for name, values in before.tensors.items()}
    assert moved.pop("presence.bias") < 1e-3, "the stage has done it already"
    assert set(moved.values()) == {0.0}
    assert after.metadata["recipe"] == before.metadata["recipe"]
    assert float(after.metadata[train.SHIFT]) == pytest.approx(float(before.metadata[train.SHIFT]), abs=1e-3)


def test_the_presence_is_shifted_until_nearly_all_hands_pass(crops: hand2_data.Crops) -> None:
    torch.manual_seed(0)
    network = hand2_arch.build(channels=(8, 8, 8), blocks=(1, 0, 0), head=(8, 8)).eval()
    batches = [hand2_data.Batches(crops, 32, 0)[step] for step in range(4)]

    def images(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.permute(0, 3, 1, 2) / 255

    def chances() -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([network(images(one.image))["presence"].sigmoid()[one.present > 0] for one in batches])

    before = chances()
    shift = train.shift_presence(network, images, iter(batches))
    passing = float((chances() > 0.5).float().mean())
    assert passing == pytest.approx(train.PASSING, abs=1 / len(before))
    assert torch.logit(chances()) - torch.logit(before) == pytest.approx(shift, abs=1e-4)


def test_tiles_come_first(tmp_path: Path) -> None:
    refused = run_main(train.main, *typed("dense", tmp_path, HAND2 / "model.toml"))
    assert refused.returncode == 1
    assert "has no tiles of renders-0. Run the stage 'tiles' first." in " ".join(refused.stderr.split())


def test_labels_stay_near_what_teachers_say_together() -> None:
    agreed_on = np.array([[0.0, 0.0], [200.0, 0.0], [0.0, 100.0]])
    away = np.array([[4.0, 3.0], [-30.0, 40.0], [0.0, 0.0]])
    kept = hand2_tiles.settled(agreed_on + away, agreed_on)
    assert kept - agreed_on == pytest.approx(np.array([[4, 3], [-3.6, 4.8], [0, 0]]))


def test_photographs_need_their_teachers(tmp_path: Path) -> None:
    refused = run_main(train.main, *typed("all", tmp_path, HAND2 / "model.toml", "--digits", tmp_path))
    assert refused.returncode == 2 and "photographs need --teachers" in refused.stderr


def test_only_a_stage_starts_from_a_checkpoint(tmp_path: Path) -> None:
    refused = run_main(train.main, *typed("all", tmp_path, HAND2 / "model.toml", "--init", tmp_path))
    assert (
        refused.returncode == 2
        and "--init is for one of the stages dense, sparse, tuned, int8, presence" in refused.stderr
    )
    refused = run_main(train.main, *typed("presence", tmp_path, HAND2 / "model.toml"))
    assert refused.returncode == 2 and "presence needs --init" in refused.stderr


# --- evaluation -----------------------------------------------------------------------------------


def labelled_hands() -> Iterator[hand2_evaluate.Photograph]:
    for seed in range(4):
        keypoints = np.random.default_rng(seed).uniform(20, 120, (21, 2))
        keypoints[:2] = (20, 20), (120, 120)
        world = np.random.default_rng(seed).normal(0, 40, (21, 3))
        label = LabelledImage(Path("none.jpg"), keypoints, tight_box(keypoints), world, right=seed % 2 == 0)
        yield hand2_evaluate.Photograph(label, np.zeros((140, 140, 3), np.uint8))


def test_figures_are_those_of_what_was_found() -> None:
    def look(_image: Any, labelled: LabelledImage) -> Pose:
        off = 0.2 if labelled.keypoints[2, 0] > 100 else 0.02  # of the box, whose side is 100
        moved = (labelled.keypoints + np.array([100 * off, 0])).astype(np.float32)
        scores, box = np.ones(21, np.float32), labelled.box.astype(np.float32)
        assert labelled.world_mm is not None
        world = labelled.world_mm.astype(np.float32) * 3
        # labels of MediaPipe mean mirrored pictures: what they call right is a left hand
        return Pose(moved, scores, box, world, "mm", "root", presence=0.9, handedness=0.0 if labelled.right else 0.8)

    photos = list(labelled_hands())
    lost = [one.labelled.keypoints[2, 0] > 100 for one in photos]
    found = hand2_evaluate.figures(photos, look)
    assert found.lost == np.mean(lost)
    assert found.mean_pct == pytest.approx(100 * np.mean(np.where(lost, 0.2, 0.02)), rel=1e-4)
    assert found.pck_05 == 1 - np.mean(lost)
    assert found.pa_mm == pytest.approx(0, abs=1e-3)
    assert found.right == 1 and found.presence == pytest.approx(0.9) and found.there == 1


def test_the_torch_network_runs_as_the_runtime_runs_it(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    network = hand2_arch.build((8, 16, 16), (0, 1, 1), (16, 8)).eval()
    image, box = next(hand2_renders.samples(1, 4))
    with PoseEstimator(spec, train.TorchSession(network, spec, torch.device("cpu")), "rgb") as estimator:
        pose = estimator(image, box)
        crop, _ = estimator.preprocessor.crop(image, box)
        tensor = torch.from_numpy(estimator.preprocessor.normalise([crop]))
        twice = hand2_evaluate.ways(estimator)[hand2_evaluate.FOUND](
            image, LabelledImage(Path(), pose.keypoints, box[:4], None)
        )
    with torch.inference_mode():
        found = network(tensor)
    assert pose.presence == pytest.approx(float(found["presence"].sigmoid()), abs=1e-5)
    assert pose.handedness == pytest.approx(float(found["handedness"].sigmoid()), abs=1e-5)
    assert twice.angle_deg is not None and twice.angle_deg != 0


# --- teachers -------------------------------------------------------------------------------------


def test_teachers_are_asked_of_the_training_split_alone(tmp_path: Path) -> None:
    write_scenes(tmp_path)
    hands = hand2_teachers.training_hands(tmp_path)
    assert [(hand.image, hand.usable) for hand in hands] == [("images/some/a.jpg", True), ("images/some/b.jpg", False)]


def test_all_views_agree_on_an_open_hand(hand_digits: Path) -> None:
    source = os.environ.get("SPLITE_MEDIAPIPE")
    if source is None:
        pytest.skip("mediapipe's .tflite files are not here; name its wheel or their folder in SPLITE_MEDIAPIPE")
    files = {name: f"hand_landmark_{name}.tflite" for name in ("full", "lite")}
    nets = {
        name: hand2_teachers.LandmarkNet(hand2_teachers.read_tflite(Path(source), file)) for name, file in files.items()
    }
    hand = hand2_teachers.training_hands(hand_digits)[700]
    (said,) = hand2_teachers.opinions(nets, hand_digits, [hand])
    side = float(np.ptp(hand.keypoints, axis=0).max())
    assert said["spread"].mean() < 0.03
    assert np.linalg.norm(said["keypoints"] - hand.keypoints, axis=1).mean() < 0.03 * side
    assert said["presence"] > 0.9 and (said["right"] < 0.1 or said["right"] > 0.9)
