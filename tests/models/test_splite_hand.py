"""The reference network: architecture, data, loss, training, and the checkpoint that is shipped."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from scripts import run_main
from torch.ao import quantization as ao

from splite_deploy.bench.evaluation import keypoint_errors
from splite_deploy.compact import CompactOptions, compact_checkpoint
from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.export.quant.trained import without_quantisers
from splite_deploy.export.source.checkpoint import read_checkpoint
from splite_deploy.export.source.header import HEADER
from splite_deploy.export.source.load import load_model
from splite_deploy.metrics.labels import read_labels
from splite_deploy.spec import ModelSpec, load_model_toml

HAND = Path(__file__).parents[2] / "models" / "splite_hand"
CHECKPOINT = HAND / "splite_hand.safetensors"
DENSE = HAND / "splite_hand_dense.safetensors"
INT8 = HAND / "int8" / "splite_hand.safetensors"
if str(HAND) not in sys.path:
    sys.path.insert(0, str(HAND))

import arch
import arch_int8
import data
import equalise
import losses
import train
from synthetic import render_hand


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return load_model_toml(HAND / "model.toml")[0]


@pytest.mark.parametrize("width", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("depth", [0.5, 1.0])
@pytest.mark.parametrize("squeeze_excite", [False, True])
def test_width_and_depth_are_arguments(width: float, depth: float, squeeze_excite: bool) -> None:
    network = arch.build(width, depth, 21, squeeze_excite).eval()
    with torch.inference_mode():
        heatmap, maps = network(torch.zeros(2, 3, 128, 96))
    assert heatmap.shape == maps.shape == (2, 21, 32, 24)
    gates = [module for module in network.modules() if isinstance(module, arch.SqueezeExcite)]
    assert bool(gates) == squeeze_excite
    assert all(
        m.out_channels % 8 == 0 for m in network.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels != 21
    )


@pytest.mark.parametrize("file", [CHECKPOINT, DENSE])
def test_the_checkpoints_say_what_they_are(file: Path, spec: ModelSpec) -> None:
    with safe_open(file, framework="pt") as stored:
        metadata = stored.metadata()
    assert metadata["model"] == spec.name
    assert json.loads(metadata["recipe"])["steps"] > 0
    loaded = load_model(file, None, None)
    assert (HEADER in metadata) == (file == CHECKPOINT)
    assert bool(loaded.notes) == (file == CHECKPOINT)  # reshaped to its widths, and nothing else to say


def test_the_compacted_checkpoint_is_small() -> None:
    assert CHECKPOINT.stat().st_size <= 1_000_000
    dense, compacted = (load_model(file, None, None).network for file in (DENSE, CHECKPOINT))
    before, after = (sum(p.numel() for p in network.parameters()) for network in (dense, compacted))
    assert before > 5 * after
    widths = [m.out_channels for m in compacted.modules() if isinstance(m, torch.nn.Conv2d) and m.out_channels != 21]
    assert all(width % 16 == 0 for width in widths)


def test_the_checkpoint_finds_rendered_hands(spec: ModelSpec) -> None:
    """Runs everywhere; the accuracy on photographs is tested where they are."""
    estimator = train.TorchEstimator(load_model(CHECKPOINT, None, None).network, spec, torch.device("cpu"))
    shares = []
    for index in range(40):
        hand = render_hand(np.random.default_rng([10_000, index]))
        keypoints, _ = estimator(hand.image, hand.box.astype(np.float64))
        side = float(np.ptp(hand.keypoints, axis=0).max())
        shares.append(np.linalg.norm(keypoints - hand.keypoints, axis=1) / side)
    # a quarter of them are seen from any side, some are half hidden: the mean is theirs, the median that of the rest
    assert np.median(shares) < 0.035
    assert np.mean(np.array(shares) < 0.05) > 0.55


def test_the_checkpoints_are_accurate_on_photographs(hand_digits: Path, spec: ModelSpec) -> None:
    """By no more may compaction cost accuracy than MediaPipe's lite network differs from its full one."""
    labels = read_labels(hand_digits, split="val")
    dense, compacted = (
        keypoint_errors(
            labels, train.TorchEstimator(load_model(file, None, None).network, spec, torch.device("cpu"))
        ).summary()
        for file in (DENSE, CHECKPOINT)
    )
    assert compacted.images == 289
    assert compacted.mean_error_box_pct <= min(2.1, dense.mean_error_box_pct + 0.1)
    assert compacted.pck_05 >= 0.945
    assert compacted.pa_mpjpe_mm <= min(7.1, dense.pa_mpjpe_mm + 0.1)


@pytest.mark.slow
def test_evaluate_prints_the_same_through_the_runtime(hand_digits: Path, tmp_path: Path, spec: ModelSpec) -> None:
    from splite_deploy.export import ExportOptions, export_bundle

    bundle = export_bundle(CHECKPOINT, tmp_path / "hand.splite", options=ExportOptions(images=hand_digits, crops=24))
    for parity in bundle.report().parity:
        assert parity.deviation_px.p95 <= 0.01
        assert parity.crops_from == "24 labelled images of hand-digits"
    command = [sys.executable, HAND / "evaluate.py", bundle.path, "--data", hand_digits, "--json", "-"]
    printed = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    estimator = train.TorchEstimator(load_model(CHECKPOINT, None, None).network, spec, torch.device("cpu"))
    expected = keypoint_errors(read_labels(hand_digits, split="val"), estimator).summary()
    for name, value in dataclasses.asdict(expected).items():
        assert printed[name] == pytest.approx(value, abs=1e-3)


@pytest.fixture(scope="module")
def pool(spec: ModelSpec) -> list[data.Sample]:
    return [data.synthetic_sample(render_hand(np.random.default_rng([5, i])), spec) for i in range(4)]


def test_augmentation_moves_image_and_keypoints_together(spec: ModelSpec) -> None:
    """A white disc drawn at a keypoint is found at the keypoint's new place, mirrored or not."""
    import cv2

    keypoints = np.random.default_rng(0).uniform(40, 120, (21, 2))
    keypoints[3] = (90.5, 70.5)
    canvas = np.zeros((160, 160, 3), np.uint8)
    cv2.circle(canvas, (90, 70), 9, (255, 255, 255), -1)
    sample = data.Sample(canvas, keypoints, np.zeros(21), np.zeros((160, 160), np.uint8))
    seen = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        matrix = data.random_matrix(np.array([40.0, 40, 120, 120]), spec, rng)
        view, moved, _ = data.augment(dataclasses.replace(sample), spec, np.random.default_rng(seed))
        assert matrix.shape == (2, 3)
        grey = view.astype(float).mean(axis=2)
        bright = grey > (grey.max() + np.median(grey)) / 2
        ys, xs = np.nonzero(bright)
        inside = (moved[3] > 20).all() and (moved[3] < 108).all()
        if inside and 100 < bright.sum() < 900 and grey.max() - np.median(grey) > 60:
            seen.append(np.hypot(xs.mean() + 0.5 - moved[3, 0], ys.mean() + 0.5 - moved[3, 1]))
    assert len(seen) >= 8
    assert np.median(seen) < 1.0


def test_a_mirror_exchanges_left_and_right(spec: ModelSpec, pool: list[data.Sample]) -> None:
    pairs = tuple((2 * i, 2 * i + 1) for i in range(10))
    twin = dataclasses.replace(spec, skeleton=dataclasses.replace(spec.skeleton, flip_pairs=pairs))
    exchanged = 0
    for seed in range(12):
        _, plain, plain_depth = data.augment(pool[0], spec, np.random.default_rng(seed))
        _, paired, paired_depth = data.augment(pool[0], twin, np.random.default_rng(seed))
        if not np.array_equal(plain, paired):
            exchanged += 1
            np.testing.assert_array_equal(paired[0], plain[1])
            np.testing.assert_array_equal(paired_depth[0], plain_depth[1])
    assert 2 <= exchanged <= 10


def test_a_batch_is_a_function_of_seed_and_step(spec: ModelSpec, pool: list[data.Sample]) -> None:
    batches = data.Batches([], pool, spec, 3, 0.5, seed=1)
    assert torch.equal(batches[7].image, batches[7].image)
    assert not torch.equal(batches[7].image, batches[8].image)
    assert not torch.equal(batches[7].image, data.Batches([], pool, spec, 3, 0.5, seed=2)[7].image)


def test_the_loss_is_least_at_the_truth(spec: ModelSpec) -> None:
    assert isinstance(spec.decoder, SoftArgmaxDepth)
    keypoints = torch.rand(2, 21, 2) * 90 + 20
    depth = torch.randn(2, 21)
    depth = depth - depth[:, spec.decoder.root_keypoint : spec.decoder.root_keypoint + 1]
    batch = data.Batch(torch.zeros(2, 3, 128, 128), keypoints, depth)
    centres = (torch.arange(32) + 0.5) * 4
    squared = (centres[None, None, None, :] - keypoints[..., 0, None, None]) ** 2
    squared = squared + (centres[None, None, :, None] - keypoints[..., 1, None, None]) ** 2
    heatmap = -squared / (2 * 4.0**2)
    maps = depth[..., None, None].expand(-1, -1, 32, 32)
    loss = losses.PoseLoss(spec)
    good = loss(heatmap, maps, batch)
    assert good["position"] < 0.01
    assert good["depth"] < 1e-5
    moved = data.Batch(batch.image, keypoints + 4, depth + torch.arange(21) * 0.1)
    bad = loss(heatmap, maps, moved)
    assert bad["position"] == pytest.approx(2.0, abs=0.05)  # one cell in x and one in y
    assert bad["heatmap"] > good["heatmap"] + 0.5
    assert bad["depth"] > 0.1
    outside = data.Batch(batch.image, keypoints + 1000, depth)
    assert all(value == 0 for value in loss(heatmap, maps, outside).values())


def test_distillation_is_least_at_the_teacher(spec: ModelSpec) -> None:
    torch.manual_seed(0)
    teacher = 3 * torch.randn(2, 21, 32, 32), torch.randn(2, 21, 32, 32)
    loss = losses.Distillation(spec)
    same = loss((teacher[0] + 5.0, teacher[1]), teacher)  # a softmax does not see what all cells have in common
    assert same["soft_heatmap"].item() == pytest.approx(0, abs=1e-5)
    assert same["soft_depth"] == 0
    p = torch.softmax(teacher[0].flatten(2), 2)
    q = torch.softmax(0.5 * teacher[0].flatten(2), 2)
    other = loss((0.5 * teacher[0], teacher[1] + 0.25), teacher)
    assert other["soft_heatmap"].item() == pytest.approx(float((p * (p / q).log()).sum(2).mean()), rel=1e-4)
    assert other["soft_depth"].item() == pytest.approx(0.25, rel=1e-5)


def run_training(folder: Path, steps: int, *more: Any) -> subprocess.CompletedProcess[str]:
    fixed = ["--synthetic", 6, "--batch", 2, "--eval-every", 2, "--threads", 1]
    return run_main(train.main, "--out", folder, "--steps", steps, *more, *fixed)


@pytest.mark.slow
def test_training_resumes_where_it_was_cut(tmp_path: Path) -> None:
    whole = run_training(tmp_path / "whole", 4)
    assert whole.returncode == 0, whole.stderr
    reference = read_checkpoint(tmp_path / "whole" / "splite_hand.safetensors").tensors

    cut = run_training(tmp_path / "cut", 4, "--stop-after", 2)
    assert cut.returncode == 0, cut.stderr
    assert not (tmp_path / "cut" / "splite_hand.safetensors").exists()
    resumed = run_training(tmp_path / "cut", 4)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step 2" in resumed.stdout
    found = read_checkpoint(tmp_path / "cut" / "splite_hand.safetensors").tensors
    for name, tensor in reference.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)

    other = run_training(tmp_path / "cut", 5)
    assert other.returncode == 1
    assert "belongs to another recipe" in other.stderr


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere torch's own watch ends it, in seconds")
def test_no_process_outlives_a_killed_training(tmp_path: Path) -> None:
    command = [sys.executable, HAND / "train.py", "--out", tmp_path, "--steps", 9999]
    command += ["--synthetic", 6, "--batch", 2, "--eval-every", 2, "--threads", 1]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL) as training:
        children = Path(f"/proc/{training.pid}/task/{training.pid}/children")
        end = time.monotonic() + 60
        while not (tmp_path / "log.jsonl").exists() and training.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        workers = [Path("/proc") / name for name in children.read_text().split()]
        assert len(workers) == 1
        training.kill()
    end = time.monotonic() + 2
    while workers[0].exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert not workers[0].exists()


@pytest.mark.slow
def test_sparse_training_compaction_and_fine_tuning(tmp_path: Path, spec: ModelSpec) -> None:
    """The road of the shipped network in a few steps: pruned on the way, cut and gone on, compacted, taught."""
    sparse = ["--init", DENSE, "--teacher", DENSE, "--sparsity", "group-lasso"]
    sparse += ["--prune", "group-norm", "--prune-speed-up", 3, "--prune-round-to", 16]
    cut = run_training(tmp_path / "sparse", 6, *sparse, "--stop-after", 2)
    assert cut.returncode == 0, cut.stderr
    resumed = run_training(tmp_path / "sparse", 6, *sparse)
    assert resumed.returncode == 0, resumed.stderr
    log = [json.loads(line) for line in (tmp_path / "sparse" / "log.jsonl").read_text().splitlines()]
    assert {"soft_heatmap", "soft_depth", "sparsity"} <= set(log[-1])

    file = tmp_path / "sparse" / "splite_hand.safetensors"
    options = CompactOptions("group-norm", speed_up=3, round_to=16)
    compacted = tmp_path / "compacted.safetensors"
    result = compact_checkpoint(file, compacted, options, model=HAND / "model.toml", crops=2, latency=False)
    assert result.speed_up >= 3
    network = load_model(file, HAND / "model.toml", None).network
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 128, 128), np.float32))
    with torch.inference_mode():
        for ours, theirs in zip(result.network(image), network(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)  # what went was zero already

    tuned = run_training(tmp_path / "tuned", 2, "--init", compacted, "--teacher", DENSE)
    assert tuned.returncode == 0, tuned.stderr
    shapes = {
        name: t.shape for name, t in read_checkpoint(tmp_path / "tuned" / "splite_hand.safetensors").tensors.items()
    }
    assert shapes == {name: t.shape for name, t in read_checkpoint(compacted).tensors.items()}

    missing = run_training(tmp_path / "missing", 2, "--init", tmp_path / "none.safetensors")
    assert missing.returncode == 1
    assert "Cannot read the checkpoint" in missing.stderr


def seeded(spec: ModelSpec) -> tuple[arch.SpliteHand, torch.Tensor]:
    """A small network whose channels have very different ranges, and crops for it."""
    torch.manual_seed(0)
    network = arch.SpliteHand(0.5, 1.0, 21, True)
    crops = torch.randn(4, 3, spec.input.height, spec.input.width)
    with torch.no_grad():
        network.train()(crops)  # gives batch norms statistics
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.mul_(torch.logspace(-0.5, 0.5, module.num_features))
    return network.eval(), crops


def int8_error(network: torch.nn.Module, crops: torch.Tensor) -> float:
    """How far the outputs of an int8 form lie from the float ones, relative to these."""
    arch_int8.quantise(network)
    arch_int8.set_quantisers(network, quantising=True, observing=True)
    with torch.no_grad():
        network(crops)
        arch_int8.set_quantisers(network, quantising=False, observing=False)
        floats = network(crops)[0]
        arch_int8.set_quantisers(network, quantising=True, observing=False)
        return float((network(crops)[0] - floats).norm() / floats.norm())


def test_equalised_channels_say_the_same_and_quantise_better(spec: ModelSpec) -> None:
    network, crops = seeded(spec)
    with torch.no_grad():
        before = network(crops)
        equalise.equalise(network, crops)
        for ours, theirs in zip(network(crops), before, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))
    assert int8_error(network, crops) < 0.6 * int8_error(seeded(spec)[0], crops)


def test_quantisers_off_leave_the_float_network(spec: ModelSpec) -> None:
    network, crops = seeded(spec)
    with torch.no_grad():
        floats = network(crops)
        names = set(network.state_dict())
        arch_int8.quantise(network)
        arch_int8.set_quantisers(network, quantising=True, observing=True)
        quantised = network(crops)
        arch_int8.set_quantisers(network, quantising=False, observing=False)
        for ours, theirs in zip(network(crops), floats, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()))
    assert (quantised[0] - floats[0]).abs().max() > 1e-3 * floats[0].abs().max()
    assert names < set(network.state_dict())


def test_rounded_weights_are_those_of_int8(spec: ModelSpec) -> None:
    network, crops = seeded(spec)
    arch_int8.quantise(network)
    with torch.no_grad():
        before = [parameter.clone() for parameter in network.parameters()]
        arch_int8.round_weights(network)
        arch_int8.set_quantisers(network, quantising=True, observing=True)
        network(crops)
        for module in network.modules():  # the weights are quantised, the activations are not
            if isinstance(module, ao.FakeQuantize):
                module.enable_fake_quant(module.is_per_channel)
        int8 = network(crops)[0]
        arch_int8.set_quantisers(network, quantising=False, observing=False)
        floats = network(crops)[0]
    assert (int8 - floats).norm() < 1e-5 * floats.norm()
    moved = [(a - b).norm() / b.norm() for a, b in zip(network.parameters(), before, strict=True) if b.dim() == 4]
    assert 0 < max(moved) < 0.02


def test_the_checkpoint_for_int8_serves_float_and_int8(hand_digits: Path, spec: ModelSpec) -> None:
    labels = read_labels(hand_digits, split="val")
    loaded = load_model(INT8, None, None)
    assert loaded.spec == spec
    estimator = train.TorchEstimator(loaded.network, spec, torch.device("cpu"))
    int8 = keypoint_errors(labels, estimator).summary()
    with without_quantisers(loaded.network):
        floats = keypoint_errors(labels, estimator).summary()
    assert floats.mean_error_box_pct < 1.56 and floats.pa_mpjpe_mm < 5.97
    assert int8 != floats
    assert abs(int8.pa_mpjpe_mm - floats.pa_mpjpe_mm) <= 0.05


def test_the_deviation_of_int8_counts_pixels(spec: ModelSpec) -> None:
    centres = (torch.arange(32) + 0.5) * 4

    def peaked(x: float) -> tuple[torch.Tensor, torch.Tensor]:
        squared = (centres[None, :] - x) ** 2 + (centres[:, None] - 60) ** 2
        return (-squared / 32).expand(1, 21, -1, -1), torch.zeros(1, 21, 32, 32)

    deviation = losses.Int8Deviation(spec)
    assert deviation(peaked(60), peaked(60))["int8_position"] < 0.01
    assert deviation(peaked(63), peaked(60))["int8_position"] == pytest.approx(3 + 9, abs=0.05)


@pytest.mark.slow
def test_int8_training_resumes_and_writes_both_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "COMPARED", 8)  # hands, each of which is rendered
    qat = ["--qat", "--init", CHECKPOINT, "--teacher", CHECKPOINT, "--seed", 2, "--learning-rate", 1e-5]
    cut = run_training(tmp_path / "qat", 4, *qat, "--stop-after", 2)
    assert cut.returncode == 0, cut.stderr
    resumed = run_training(tmp_path / "qat", 4, *qat)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step 2" in resumed.stdout
    log = [json.loads(line) for line in (tmp_path / "qat" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4]
    assert {"int8_heatmap", "int8_depth", "int8_position", "int8_rendered_p95_px"} <= set(log[-1])

    plain = load_model(tmp_path / "qat" / "splite_hand.safetensors", HAND / "model.toml", None)
    trained = load_model(tmp_path / "qat" / "int8" / "splite_hand.safetensors", None, None)
    assert not any("trained for int8" in note for note in plain.notes)
    assert any("trained for int8" in note for note in trained.notes)
    assert set(plain.network.state_dict()) < set(trained.network.state_dict())
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 128, 128), np.float32))
    with torch.inference_mode(), without_quantisers(trained.network):
        for ours, theirs in zip(trained.network(image), plain.network(image), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)

    for wrong in (["--qat"], ["--qat", "--init", CHECKPOINT, "--seed", 1]):
        refused = run_training(tmp_path / "wrong", 2, *wrong)
        assert refused.returncode == 1
        assert "--qat starts from a trained network, --init, and has a --seed of its own" in refused.stderr
