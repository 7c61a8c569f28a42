"""The hand detector: architecture, what its training draws, losses, and a training that is interrupted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scripts import load_script, run_main

from splite_deploy.bundle import packaged
from splite_deploy.decoders import CenterNet, decode
from splite_deploy.errors import UsageError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.metrics.detections import box_accuracy
from splite_deploy.metrics.labels import read_scenes, tight_box
from splite_deploy.runtime import PoseEstimator
from splite_deploy.spec import ModelSpec, load_model_toml

PALM = Path(__file__).parents[2] / "models" / "splite_palm"
for folder in (PALM, PALM.parent / "common", PALM.parent / "splite_hand2"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import palm_arch
import palm_data
import palm_losses
from hand2_tiles import Tile, write_tiles
from palm_data import Batch, Batches, CutOuts, Hand, Placed, Scene, Views
from seeded_weights import normalise

train = load_script(PALM / "train.py")
HAND = np.array([[0.1 * (i % 5), 0.1 * (i // 5)] for i in range(21)])
"""A grid of 21 points."""
SIDES = (192, 192)
CELLS = 24 * 24


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_model_toml(PALM / "model.toml")[0]


def jpeg(seed: int = 0, width: int = 120, height: int = 90) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return cv2.imencode(".jpg", cv2.GaussianBlur(noise, (0, 0), 3))[1].tobytes()


def scene(*hands: Hand, seed: int = 0, source: str = "subhih_hands", closed: bool = True) -> Scene:
    return Scene(jpeg(seed), source, hands, closed)


def hand_at(x: float, y: float, size: float = 30.0) -> Hand:
    keypoints = HAND * size / 0.4 + [x, y]
    return Hand(tight_box(keypoints), keypoints)


def stacked(hands: list[list[Placed]], spec: ModelSpec) -> Batch:
    drawn = [np.stack(part) for part in zip(*(palm_data.targets(one, spec) for one in hands), strict=True)]
    return Batch(torch.zeros(len(hands), 3, *SIDES), *map(torch.from_numpy, drawn))


def test_the_network_is_small_and_gives_what_its_decoder_reads(spec: ModelSpec) -> None:
    network = palm_arch.build().eval()
    assert sum(one.numel() for one in network.parameters()) < 160_000
    kinds = {type(module).__name__ for module in network.modules()}
    assert not kinds & {"Hardsigmoid", "SiLU", "Sigmoid", "ConvTranspose2d"}
    assert all(module.groups == 1 for module in network.modules() if isinstance(module, torch.nn.Conv2d))
    with torch.no_grad():
        found = network(torch.zeros(2, 3, *SIDES))
    wanted = spec.decoder.shapes(spec.keypoint_count, spec.input)
    assert {role: tuple(values.shape) for role, values in found.items()} == {r: (2, *s) for r, s in wanted.items()}


def test_targets_are_decoded_to_the_hands_that_were_drawn(spec: ModelSpec) -> None:
    large, small = np.array([20.0, 30, 110, 140]), np.array([121.0, 17, 141, 45])
    points = [np.array([[60.0, 130], [70, 60]]), np.array([[130.0, 44], [125, 20]])]
    hands = [Placed(box, its, True) for box, its in zip((large, small), points, strict=True)]
    batch = stacked([hands], spec)
    p = batch.heatmap.clamp(1e-5, 1 - 1e-5)
    outputs = {"heatmap": torch.log(p / (1 - p)), "boxes": batch.boxes, "keypoints": batch.keypoints}
    found = decode({role: values.numpy() for role, values in outputs.items()}, spec)
    assert found.people is not None and len(found.people.boxes) == 2
    order = np.argsort(found.people.boxes[:, 0])
    np.testing.assert_allclose(found.people.boxes[order], [large, small], atol=1e-3)
    np.testing.assert_allclose(found.keypoints[order], points, atol=1e-3)
    assert batch.weight.sum().item() == pytest.approx(2) and (batch.heatmap == 1).sum() == 2
    terms = palm_losses.loss_terms(outputs, batch)
    assert all(terms[name] < 0.01 for name in ("overlap", "sides", "keypoints"))
    worse = {**outputs, "boxes": outputs["boxes"] + 0.5, "keypoints": outputs["keypoints"] - 0.5}
    assert all(palm_losses.loss_terms(worse, batch)[name] > 0.02 for name in ("overlap", "sides", "keypoints"))


def test_what_nobody_knows_is_neither_a_hand_nor_none(spec: ModelSpec) -> None:
    unsure = Placed(np.array([40.0, 40, 80, 88]), None, known=False)
    batch = stacked([[unsure]], spec)
    assert batch.heatmap.max() == 0 and batch.weight.sum() == 0
    assert (batch.counted[0, 0, 5:11, 5:10] == 0).all() and batch.counted.sum() == CELLS - 30
    quiet = {"heatmap": torch.full_like(batch.heatmap, -9.0), "boxes": batch.boxes, "keypoints": batch.keypoints}
    loud = {**quiet, "heatmap": torch.where(batch.counted == 0, 9.0, -9.0)}
    said = [palm_losses.loss_terms(one, batch)["heatmap"].item() for one in (quiet, loud)]
    assert said[0] == said[1] < 1e-3


def test_a_hand_without_keypoints_is_learnt_by_its_middle_alone(spec: ModelSpec) -> None:
    drawn = Placed(np.array([40.0, 40, 88, 88]), None, known=True)
    batch = stacked([[drawn]], spec)
    assert batch.heatmap[0, 0, 8, 8] == 1 and batch.weight.sum() == 0 and batch.counted.min() == 1
    terms = palm_losses.loss_terms(
        {name: getattr(batch, name) * 3 for name in ("heatmap", "boxes", "keypoints")}, batch
    )
    assert terms["overlap"] == terms["sides"] == terms["keypoints"] == 0


def test_teacher_and_people_are_joined() -> None:
    usable, fist = (HAND * 100 + [10, 10]).tolist(), (HAND * 100 + [200, 10]).tolist()
    far = (HAND * 100 + [10, 200]).tolist()
    entry: dict[str, Any] = {
        "human_boxes": [[8, 8, 52, 52], [198, 8, 242, 52]],
        "hands": [
            {"keypoints": usable, "usable": True},
            {"keypoints": fist, "usable": False},
            {"keypoints": far, "usable": False},
        ],
    }
    seen, unsure, drawn = palm_data.hands_of(entry)
    assert seen.keypoints is not None and seen.known
    np.testing.assert_allclose(seen.box, [10, 10, 50, 50])
    assert unsure.keypoints is None and not unsure.known and unsure.box[1] == 200
    assert drawn.keypoints is None and drawn.known and drawn.box.tolist() == [198, 8, 242, 52]
    _, fist_unsure, _ = palm_data.hands_of({**entry, "human_boxes": None})
    assert not fist_unsure.known


def test_a_turned_box_holds_a_turned_hand() -> None:
    hand = hand_at(20, 20)
    for degrees in (0.0, 30.0, 90.0, 200.0):
        matrix = palm_data.turned(degrees, 2.0, np.array([35.0, 35]), np.array([80.0, 80]))
        box, points = palm_data.placed(hand, matrix)
        moved = palm_data.transform_points(hand.keypoints, matrix)
        np.testing.assert_allclose(box, tight_box(moved))
        assert points is not None and np.allclose(points, moved[[0, 9]])
        alone, none = palm_data.placed(Hand(hand.box, None), matrix)
        assert none is None and np.allclose((alone[:2] + alone[2:]) / 2, (80, 80))
    np.testing.assert_allclose(alone, palm_data.placed(Hand(hand.box, None), matrix)[0])


def test_a_cut_hand_is_unsure_and_one_outside_is_none() -> None:
    frame, still = np.array([0.0, 0, 120, 90]), np.eye(2, 3)
    places = {"inside": (40, 30), "cut": (-14, 30), "outside": (-40, 30)}
    found = {name: palm_data.seen_in(scene(hand_at(*place)), still, frame) for name, place in places.items()}
    assert [one.known for one in found["inside"]] == [True] and [one.known for one in found["cut"]] == [False]
    assert found["outside"] == []


def test_views_are_a_function_of_seed_and_step(spec: ModelSpec) -> None:
    scenes = [scene(hand_at(30, 30), seed=i) for i in range(4)] + [scene(hand_at(5, 5), seed=9, source="hands_dguzk")]
    first, again = (Batches(scenes, spec, 6, seed=3) for _ in range(2))
    for name in vars(first[5]):
        torch.testing.assert_close(getattr(first[5], name), getattr(again[5], name), rtol=0, atol=0)
    assert not torch.equal(first[5].image, first[6].image)
    assert first[5].image.shape == (6, 3, *SIDES) and torch.isfinite(first[5].boxes).all()


def test_views_show_hands_of_all_sizes_and_none(spec: ModelSpec) -> None:
    views = Views([scene(hand_at(70, 30), seed=i) for i in range(3)], spec)
    sides, empty = [], 0
    for seed in range(150):
        image, hands = views(np.random.default_rng(seed))
        assert image.shape == (*SIDES, 3) and image.dtype == np.uint8
        empty += not hands
        sides += [float((one.box[2:] - one.box[:2]).max()) for one in hands if one.known]
    assert empty > 8 and min(sides) < 40 and max(sides) > 110


def cut_out(lower: int = 0, *, masked: bool = True) -> Tile:
    """A bright disc with 21 keypoints in it, seen through a mask of the same form."""
    image = np.full((60, 60, 4), (230, 40, 40, 255), np.uint8)
    image[..., 3] = cv2.circle(np.zeros((60, 60), np.uint8), (30, 30), 26, 255, -1)
    keypoints = HAND * 100 + [10, 15 + lower]
    return Tile(image, keypoints, np.zeros(21), np.ones(21), 1.0, masked)


def test_hands_are_pasted_where_their_boxes_say(tmp_path: Path, spec: ModelSpec) -> None:
    write_tiles(tmp_path, "people", iter([cut_out(), cut_out(masked=False)]))
    write_tiles(tmp_path, "renders-0", iter([cut_out(3)]))
    write_tiles(tmp_path, "negatives", iter(()))
    drawn = CutOuts(tmp_path)
    mostly = [float(drawn.draw(np.random.default_rng(seed)).keypoints[0, 1]) for seed in range(80)]
    assert set(mostly) == {15.0, 18.0} and 10 <= mostly.count(18.0) <= 30  # a quarter is rendered

    views = Views([scene(seed=i) for i in range(3)], spec, drawn)
    spread: dict[str, list[float]] = {"in": [], "out": []}  # of colours: a disc is red, what is behind it grey noise
    for seed in range(40):
        image, hands = views._pasted(np.random.default_rng(seed))
        assert image.shape == (*SIDES, 3) and 1 <= len(hands) <= 3
        boxes = [one.box for one in hands]
        assert all(palm_data.overlap(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(one.known and one.keypoints is not None and np.ptp(one.box[::2]) > 10 for one in hands)
        colours = np.ptp(cv2.blur(image, (5, 5)).astype(int), axis=2)
        inside = np.zeros(SIDES, bool)
        for x0, y0, x1, y1 in np.clip(boxes, 0, SIDES[0]).astype(int):
            inside[y0:y1, x0:x1] = True
        spread["in"].append(float(np.median(colours[inside])))
        spread["out"].append(float(np.median(colours[~inside])))
    assert np.mean(spread["in"]) > 2 * np.mean(spread["out"])
    with pytest.raises(UsageError, match="has no tiles with the mask of a hand") as refused:
        CutOuts(tmp_path / "none")
    assert "splite_hand2/train.py tiles" in str(refused.value.hint)


def test_parts_without_hands_touch_none() -> None:
    scenes = [scene(hand_at(80, 10, 25), seed=i) for i in range(3)]
    parts = list(palm_data.without_hands(scenes, 2, 0, lambda _: None))
    assert len(parts) == 2 and all(min(part.shape[:2]) >= 36 for part in parts)
    assert list(palm_data.without_hands([scene(hand_at(0, 0, 90))], 2, 0, lambda _: None)) == []


# --- the program ---


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as hands-varied is, with 24 pictures of a bright square as a hand."""
    folder = tmp_path_factory.mktemp("varied")
    (folder / "images" / "subhih_hands").mkdir(parents=True)
    scenes = []
    for number in range(24):
        hand = hand_at(10 + 2 * number, 20, 36)
        image = np.frombuffer(jpeg(number), np.uint8)
        pixels = cv2.imdecode(image, cv2.IMREAD_COLOR) // 3
        x0, y0, x1, y1 = hand.box.astype(int).tolist()
        pixels[y0:y1, x0:x1] = 250
        name = f"images/subhih_hands/{number:05d}.jpg"
        cv2.imwrite(str(folder / name), pixels)
        assert hand.keypoints is not None
        seen = {"keypoints": hand.keypoints.tolist(), "score": 0.99, "usable": True}
        split = {"split": "val" if number % 4 == 3 else "train", "width": 120, "height": 90}
        scenes.append({"image": name, **split, "human_boxes": [hand.box.tolist()], "hands": [seen]})
    (folder / "scenes.json").write_text(json.dumps({"scenes": scenes}))
    return folder


def run(*arguments: str | Path) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_training_that_was_stopped_goes_on(varied: Path, tmp_path: Path) -> None:
    command = ["--data", varied, "--steps", 6, "--batch", 2, "--threads", 1, "--eval-every", 3, "--out"]
    for out, *more in (["whole"], ["parts", "--stop-after", 3], ["parts"]):
        assert not (tmp_path / "parts" / "splite_palm.safetensors").exists()
        done = run_main(train.main, *command, tmp_path / out, *more)
        assert done.returncode == 0, done.stderr
    assert "going on from step 3" in done.stdout
    both = []
    for name in ("whole", "parts"):
        with safe_open(tmp_path / name / "splite_palm.safetensors", "pt") as file:
            both.append({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - it is no dictionary
            assert json.loads(file.metadata()["recipe"])["steps"] == 6 and "ap_30" in file.metadata()["held_out"]
    for key, values in both[0].items():
        torch.testing.assert_close(values, both[1][key], rtol=1e-4, atol=1e-5)
    assert len((tmp_path / "whole" / "log.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_it_is_exported_with_its_decoding_inside(varied: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    network = palm_arch.build()
    normalise(network, torch.from_numpy(rng.normal(0, 1, (4, 3, *SIDES)).astype(np.float32)), {"heatmap": 2.0})
    save_file(network.state_dict(), tmp_path / "palm.safetensors")
    options = ExportOptions(images=varied / "images" / "subhih_hands", crops=8, fuse_decode=True, dynamic_batch=True)
    export_bundle(tmp_path / "palm.safetensors", tmp_path / "palm.splite", model=PALM / "model.toml", options=options)
    said = run(PALM / "palm_evaluate.py", tmp_path / "palm.splite", "--data", varied, "--thresholds")
    thresholds = [0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6]
    assert [float(line.split(":")[0]) for line in said.splitlines()] == thresholds
    assert all("recall_30 " in line and "false_alarms " in line for line in said.splitlines())
    both = run(
        PALM / "palm_evaluate.py",
        tmp_path / "palm.splite",
        "--data",
        varied,
        "--hand",
        packaged.packaged(packaged.HAND),
    )
    assert both.startswith("hands-varied val: hands 6, found ") and ", false_hands " in both
    hand = ("--hand", packaged.packaged(packaged.HAND), "--thresholds")
    each = run(PALM / "palm_evaluate.py", tmp_path / "palm.splite", "--data", varied, *hand).splitlines()
    assert len(each) == len(thresholds) and all(": hands " in line and ", false_hands " in line for line in each)
    with PoseEstimator.open(tmp_path / "palm.splite", color="rgb") as opened:
        (told,) = opened.session.outputs
        assert (told.role, told.shape[1:]) == ("candidates", (CELLS, 11))
        image = rng.integers(0, 255, (90, 120, 3)).astype(np.uint8)
        whole, half = opened.batch(image, [None, (0, 0, 60, 90)])
        again = opened(image)
        np.testing.assert_allclose(whole.keypoints, again.keypoints, atol=1e-3)
        assert whole.keypoints.shape == (2, 2) and half.box_score is not None


def test_labels_for_bench_are_written(varied: Path, tmp_path: Path) -> None:
    run(PALM / "palm_evaluate.py", "--data", varied, "--write", tmp_path / "labels")
    scenes = read_scenes(tmp_path / "labels" / "labels.json")
    shown = [one for one in scenes.values() if len(one.labelled)]
    assert len(shown) == 6 and len(scenes) > 6
    assert all(len(one.labelled) == 1 and not len(one.ignored) for one in shown)
    assert all((tmp_path / "labels" / path.name).is_file() for path in scenes)
    assert isinstance(load_model_toml(PALM / "model.toml")[0].decoder, CenterNet) and box_accuracy([], 0.4) is None
