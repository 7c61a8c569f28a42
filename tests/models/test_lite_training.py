"""Training of the body networks: targets, every mode in two steps on eight rendered people, and what it writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripts import load_script
from torch.ao import quantization as ao

from splite_deploy.decoders import decode
from splite_deploy.export.source.checkpoint import read_checkpoint
from splite_deploy.export.source.load import load_model
from splite_deploy.metrics.accuracy import pck
from splite_deploy.spec import ModelSpec, load_model_toml

LITE = Path(__file__).parents[2] / "models" / "lite_pose"
for folder in (LITE, LITE.parent / "common"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

import lite_data
import lite_losses
import rendered_bodies

train = load_script(LITE / "train.py")

DECODERS = {
    "softargmax": 'type = "softargmax"\nstride = 4\nbeta = 1.0\nalignment = "corner"\nscore_window = 5',
    "argmax": 'type = "argmax"\nstride = 4\nalignment = "centre"\noffset = "quarter"',
    "dark": 'type = "dark"\nstride = 4\nalignment = "centre"\nblur_kernel = 1',
    "udp": 'type = "udp"\nstride = 4\nalignment = "udp"\ntarget = "gaussian"\nblur_kernel = 1',
    "simcc": 'type = "simcc"\nsplit_ratio = 2.0\nrefine = "none"',
    "window": 'type = "softargmax-window"\nstride = 4\nbeta = 20.0\nalignment = "udp"\nwindow = 9',
}


def write_model(folder: Path, decoder: str, skeleton: str = 'preset = "coco17"', **arguments: Any) -> Path:
    """A model.toml of a very small network."""
    arguments = {"backbone": "mobilenetv3-small", "upsampling": "pixel-shuffle", "channels": 32, **arguments}
    arguments |= {"width": 0.25, "height_px": 128, "width_px": 96}
    folder.mkdir(exist_ok=True)
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in arguments.items())
    (folder / "model.toml").write_text(
        f'name = "small"\narch = "{LITE}/lite_arch.py:build"\nsamples = "{LITE}/rendered_bodies.py:samples"\n'
        f'[arch_args]\n{lines}\n[input]\nheight = 128\nwidth = 96\ncolor = "rgb"\nmean = [127.5, 127.5, 127.5]\n'
        f"std = [64.0, 64.0, 64.0]\nbox_padding = 1.25\npad_value = 0\n[decoder]\n{DECODERS[decoder]}\n"
        f"[skeleton]\n{skeleton}\n"
    )
    return folder / "model.toml"


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    rendered_bodies.write_coco(folder, 8, 3)
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(model: Path, out: Path, people: Path, *more: Any, steps: int = 2) -> list[dict[str, float]]:
    """Trains, and returns the log."""
    fixed = ["--data", people, "--val", people, "--steps", steps, "--batch", 4, "--eval-every", 2]
    train.train(train.parse_arguments(list(map(str, ["--model", model, "--out", out, *fixed, *more]))))
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def spec_of(model: Path) -> ModelSpec:
    return load_model_toml(model)[0]


@pytest.mark.parametrize(
    ("decoder", "terms", "arguments"),
    [
        ("softargmax", {"position", "heatmap"}, {}),
        ("argmax", {"squared"}, {}),
        ("simcc", {"bins"}, {"head": "simcc", "upsampling": "none"}),
    ],
)
def test_each_head_learns(
    decoder: str, terms: set[str], arguments: dict[str, Any], people: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "net", decoder, **arguments)
    log = run(model, tmp_path / "out", people)
    assert log[-1]["step"] == 2
    assert terms | {"error_box_pct", "pck_05", "pck_10", "ap"} <= set(log[-1])
    loaded = load_model(tmp_path / "out" / "net.safetensors", model, None)
    assert loaded.spec.name == "small"
    metadata = read_checkpoint(tmp_path / "out" / "net.safetensors").metadata
    assert json.loads(metadata["recipe"])["steps"] == 2 and "pck_05" in json.loads(metadata["accuracy"])


def test_a_network_learns_eight_people_by_heart(people: Path, tmp_path: Path) -> None:
    """The whole path, augmentation to figures: what is wrong in one of them shows here."""
    model = write_model(tmp_path / "net", "softargmax")
    before, after = run(model, tmp_path / "out", people, "--eval-every", 40, "--learning-rate", 4e-3, steps=80)
    assert after["error_box_pct"] < 0.9 * before["error_box_pct"], (before, after)


def test_training_resumes_where_it_was_cut(people: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "net", "softargmax")
    run(model, tmp_path / "whole", people, steps=4)
    run(model, tmp_path / "cut", people, "--stop-after", 2, steps=4)
    assert not (tmp_path / "cut" / "net.safetensors").exists()
    log = run(model, tmp_path / "cut", people, steps=4)
    assert [line["step"] for line in log] == [2, 4]
    whole, cut = (read_checkpoint(tmp_path / name / "net.safetensors").tensors for name in ("whole", "cut"))
    for name, tensor in whole.items():
        torch.testing.assert_close(cut[name], tensor, rtol=1e-4, atol=1e-5)
    with pytest.raises(SystemExit, match="belongs to another recipe"):
        run(model, tmp_path / "cut", people, "--half-body", 0.5, steps=4)


def test_a_teacher_draws_the_student_to_itself(people: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "net", "softargmax")
    wide = write_model(tmp_path / "wide", "softargmax", backbone="shufflenetv2")
    run(wide, tmp_path / "teacher", people)
    teacher = ["--teacher", tmp_path / "teacher" / "net.safetensors", "--teacher-model", wide]
    log = run(model, tmp_path / "out", people, *teacher)
    assert log[-1]["taught"] > 0
    other = write_model(tmp_path / "other", "window")
    with pytest.raises(ValueError, match=r"The teacher .* has the decoder .*: give both the same \[decoder\]"):
        run(other, tmp_path / "wrong", people, *teacher)


@pytest.mark.parametrize("arguments", [{}, {"backbone": "fastpose-18"}])
def test_int8_training_writes_both_checkpoints(arguments: dict[str, Any], people: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "net", "softargmax", **arguments)
    run(model, tmp_path / "float", people)
    init = tmp_path / "float" / "net.safetensors"
    log = run(model, tmp_path / "qat", people, "--qat", "--init", init, "--learning-rate", 1e-5)
    assert {"int8", "int8_pck_05", "int8_error_box_pct"} <= set(log[-1])
    plain = load_model(tmp_path / "qat" / "net.safetensors", model, None)
    trained = load_model(tmp_path / "qat" / "int8" / "net.safetensors", None, None)
    assert any("trained for int8" in note for note in trained.notes)
    assert set(plain.network.state_dict()) < set(trained.network.state_dict())
    quantisers = [m for m in trained.network.modules() if isinstance(m, ao.FakeQuantize)]
    convolutions = [m for m in plain.network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(quantisers) > 1.6 * len(convolutions)
    assert all(float(m.scale.max()) != 1.0 for m in quantisers)  # observed
    image = torch.randn(2, 3, 128, 96)
    with torch.inference_mode():
        ours, theirs = trained.network(image), plain.network(image)
    assert 0 < float((ours - theirs).norm() / theirs.norm()) < 0.5


def test_the_last_layer_alone_is_trained_for_new_data(people: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "net", "softargmax")
    run(model, tmp_path / "old", people)
    init = tmp_path / "old" / "net.safetensors"
    run(model, tmp_path / "new", people, "--update-head", "--init", init)
    before, after = (read_checkpoint(tmp_path / name / "net.safetensors").tensors for name in ("old", "new"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}


def test_the_last_layer_is_renewed_for_other_keypoints(people: Path, tmp_path: Path) -> None:
    old = write_model(tmp_path / "net", "softargmax")
    run(old, tmp_path / "old", people)
    labels = json.loads((people / "annotations.json").read_text())
    names = ["nose", "left_wrist", "right_wrist"]
    for annotation in labels["annotations"]:
        triples = np.array(annotation["keypoints"]).reshape(17, 3)
        triples[0, 2] = 1
        annotation["keypoints"] = triples[[0, 9, 10]].ravel().tolist()
    (people / "three.json").write_text(json.dumps(labels))
    skeleton = f"keypoint_names = {json.dumps(names)}\nedges = [[1, 2]]\nflip_pairs = [[1, 2]]"
    three = write_model(tmp_path / "three", "softargmax", skeleton, keypoints=3)
    init = ["--update-head", "--init", tmp_path / "old" / "net.safetensors"]
    with pytest.raises(
        ValueError, match=r"labels 17 keypoints, and small has 3\. Name a model.toml with those keypoints"
    ):
        run(three, tmp_path / "new", people, *init)
    train.train(
        train.parse_arguments(
            list(
                map(
                    str,
                    ["--model", three, "--out", tmp_path / "new", "--data", people / "three.json", "--steps", 2, *init],
                )
            )
        )
    )
    after = read_checkpoint(tmp_path / "new" / "net.safetensors").tensors
    assert after["head.weight"].shape[0] == 3
    assert load_model(tmp_path / "new" / "net.safetensors", three, None).spec.keypoint_count == 3


def test_options_that_exclude_each_other_are_refused(people: Path, tmp_path: Path) -> None:
    model = write_model(tmp_path / "net", "softargmax")
    for option in ("--qat", "--update-head"):
        with pytest.raises(ValueError, match="start from a trained network: name it with --init"):
            run(model, tmp_path / "out", people, option)
    with pytest.raises(ValueError, match="--qat trains every layer, and --update-head the last one alone"):
        run(model, tmp_path / "out", people, "--qat", "--update-head", "--init", tmp_path / "x")
    with pytest.raises(ValueError, match="sides have to be multiples of 32"):
        run(model, tmp_path / "out", people, "--input-scale", 0.3)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("decoder", DECODERS)
def test_targets_are_decoded_where_they_were_drawn(decoder: str, tmp_path: Path) -> None:
    """The decoder of the runtime reads the very targets that a network is trained on."""
    spec = spec_of(write_model(tmp_path / "net", decoder))
    rng = np.random.default_rng(0)
    keypoints = torch.from_numpy(rng.uniform((12, 12), (84, 116), (6, 17, 2)).astype(np.float32))
    target = lite_losses.target_of(spec)
    if isinstance(target, lite_losses.GaussianTarget):
        outputs = {"heatmap": target.gaussians(keypoints)}
    elif decoder == "simcc":
        centres = {"simcc_x": torch.arange(192) / 2 + 0.5, "simcc_y": torch.arange(256) / 2 + 0.5}
        outputs = {
            role: -((at - keypoints[..., axis, None]) ** 2) / (2 * 10 * len(at) / 16 / 4) + 1
            for axis, (role, at) in enumerate(centres.items())
        }
    else:
        xs, ys = torch.arange(24) * 4 + 2.0, torch.arange(32) * 4 + 2.0
        off = (xs[None, :] - keypoints[..., 0, None, None]) ** 2 + (ys[:, None] - keypoints[..., 1, None, None]) ** 2
        outputs = {"heatmap": -off / (2 * 4.0**2)}
    found = decode({role: output.numpy() for role, output in outputs.items()}, spec)
    # A quarter of a cell beside the largest is a pixel wrong at worst, half a bin a quarter, a window's cut a third
    worst = {"argmax": 1.01, "simcc": 0.26, "window": 0.35}.get(decoder, 0.02)
    assert np.abs(found.keypoints - keypoints.numpy()).max() < worst
    batch = lite_data.Batch(torch.zeros(6, 3, 128, 96), keypoints, torch.ones(6, 17))
    moved = lite_data.Batch(batch.image, keypoints + 6, batch.weight)
    right, wrong = (sum(target.loss(tuple(outputs.values()), one).values()) for one in (batch, moved))
    assert right < 0.7 * wrong
    unseen = lite_data.Batch(batch.image, keypoints + 6, torch.zeros(6, 17))
    assert sum(target.loss(tuple(outputs.values()), unseen).values()) == 0


def test_rounded_targets_lie_on_cells(tmp_path: Path) -> None:
    spec = spec_of(write_model(tmp_path / "net", "window"))
    target = lite_losses.GaussianTarget(spec, rounded=True)
    maps = target.gaussians(torch.tensor([[[41.3, 50.2]] * 17]))
    assert maps.amax((2, 3)).min() == 1.0


def test_a_mirror_exchanges_left_and_right(people: Path, tmp_path: Path) -> None:
    spec = spec_of(write_model(tmp_path / "net", "softargmax"))
    person = train.read_people(people, spec)[0]
    views = [lite_data.augment(person, spec, np.random.default_rng(seed), 0.0) for seed in range(24)]
    turns = []
    for _, keypoints, _ in views:
        across, down = keypoints[11] - keypoints[12], keypoints[[11, 12]].mean(axis=0) - keypoints[0]
        turns.append(across[0] * down[1] - across[1] * down[0] > 0)
    assert len(set(turns)) == 1  # rotations keep it, and a mirror that left the names would not
    for crop, keypoints, weight in views:
        assert crop.shape == (128, 96, 3)
        inside = ((keypoints > 0) & (keypoints < (96, 128))).all(axis=1)
        assert not (weight & ~inside).any()


def test_half_a_body_fills_the_crop(people: Path, tmp_path: Path) -> None:
    spec = spec_of(write_model(tmp_path / "net", "softargmax"))
    person = next(one for one in train.read_people(people, spec) if one.labelled[:17].all())
    boxes = [lite_data.half_box(person, np.random.default_rng(seed)) for seed in range(8)]
    heights = {round(float(box[3] - box[1])) for box in boxes}
    assert len(heights) == 2 and max(heights) < person.box[3] - person.box[1]


def test_validation_goes_through_the_runtime(people: Path, tmp_path: Path) -> None:
    """A network that gives the labels themselves has no error."""
    spec = spec_of(write_model(tmp_path / "net", "softargmax"))
    persons = train.read_people(people, spec)

    class Oracle(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.done = 0

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            maps = []
            for person in persons[self.done : self.done + len(image)]:
                _, matrix = train.Preprocessor(spec.input, "rgb").crop(person.image, person.box)
                points = torch.from_numpy(train.transform_points(person.keypoints, matrix))
                xs, ys = torch.arange(24) * 4 + 2.0, torch.arange(32) * 4 + 2.0
                maps.append(
                    -((xs - points[:, 0, None, None]) ** 2 + (ys[:, None] - points[:, 1, None, None]) ** 2) / 32
                )
            self.done += len(image)
            return torch.stack(maps)

    figures = train.validate(Oracle(), spec, persons, torch.device("cpu"))
    assert figures["pck_05"] > 0.95 and figures["ap"] > 0.9 and figures["error_box_pct"] < 2
    assert pck(np.array([0.01]), 0.05) == 1.0


TRAINED = LITE / "mobilenetv3_small" / "mobilenetv3_small.safetensors"


def test_the_trained_network_finds_unseen_people(tmp_path: Path) -> None:
    assert TRAINED.stat().st_size <= 3_000_000
    loaded = load_model(TRAINED, None, None)
    rendered_bodies.write_coco(tmp_path, 40, 11)
    people = train.read_people(tmp_path, loaded.spec)
    figures = train.validate(loaded.network, loaded.spec, people, torch.device("cpu"))
    assert figures["pck_10"] > 0.6 and figures["pck_05"] > 0.3


def test_the_card_tells_what_was_measured() -> None:
    accuracy = json.loads(read_checkpoint(TRAINED).metadata["accuracy"])
    card = TRAINED.with_name("CARD.md").read_text(encoding="utf-8")
    figures = (f"{accuracy['error_box_pct']:.1f}", *(f"{accuracy[name]:.2f}" for name in ("pck_05", "pck_10", "ap")))
    row = f"| {' | '.join(figures)} |"
    assert row in card
