"""Detectors without keypoints, as YOLO and RTMDet are exported: from init over every stage to bench."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch  # noqa: TID253
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.torch import save_file

from splite_deploy.bundle import Bundle
from splite_deploy.cli import main
from splite_deploy.decoders import Boxes
from splite_deploy.errors import CalibrationError, UsageError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.quant.calibration_lint import check_channel_order
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.io.draw import overlay
from splite_deploy.runtime.verify import check, verify
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

SHARED = Path(__file__).parents[1] / "shared"
NETWORKS = ("yolo", "rtmdet")


def invoked(*arguments: Any) -> str:
    result = CliRunner().invoke(main, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="session")
def detectors(made_once: Callable[..., Path]) -> Path:
    """Pictures, weights, and a model.toml of each network that init has written; then a bundle of each."""

    def fill(folder: Path) -> None:
        sys.path.insert(0, str(SHARED))
        import box_nets

        rng, inputs = np.random.default_rng(0), []
        (folder / "pictures").mkdir()
        for number in range(12):
            noise = cv2.GaussianBlur(rng.integers(0, 255, (80, 96, 3)).astype(np.uint8), (0, 0), 1 + number % 4)
            picture = cv2.convertScaleAbs(noise, alpha=2.5, beta=-190)
            cv2.imwrite(str(folder / "pictures" / f"{number}.png"), picture)
            inputs.append(cv2.resize(picture, (64, 64)).transpose(2, 0, 1).astype(np.float32) / 255)
        for name in NETWORKS:
            its = folder / name
            its.mkdir()
            shutil.copy(SHARED / "box_nets.py", its)
            network = getattr(box_nets, name)()
            save_file(network.state_dict(), its / "net.safetensors")
            arch = ("--arch", f"{its / 'box_nets.py'}:{name}", "--input", "64x64", "--like", "yolo-pose")
            shown = ("--images", folder / "pictures", "-o", its / "model.toml")
            told = invoked("init", its / "net.safetensors", *arch, *shown)
            assert "boxes, 0 keypoints" in told and "?" not in (its / "model.toml").read_text()
            with torch.no_grad():
                found = network(torch.from_numpy(np.stack(inputs)))
            scores = found["scores"] if name == "rtmdet" else found[:, 4:].transpose(1, 2)
            least = float(scores.amax(dim=2).quantile(0.95))
            text = (its / "model.toml").read_text().replace("min_score = 0.25", f"min_score = {least:.2f}")
            (its / "model.toml").write_text(text)
            options = ExportOptions(
                precisions=("fp32", "int8"), images=folder / "pictures", calibration=folder / "pictures"
            )
            export_bundle(its / "net.safetensors", its / "net.splite", options=options)

    return made_once("detectors", fill)


def threshold(bundle: Path) -> float:
    decoder = Bundle.open(bundle).model.decoder
    assert isinstance(decoder, Boxes)
    return decoder.min_score


@pytest.mark.parametrize("name", NETWORKS)
def test_boxes_are_compared_and_verified(detectors: Path, name: str) -> None:
    bundle = Bundle.open(detectors / name / "net.splite")
    assert isinstance(bundle.model.decoder, Boxes) and bundle.model.keypoint_count == 0
    by_stage = {one.stage: one for one in bundle.report().parity}
    assert by_stage["simplified"].deviation_px.max < 1e-3 < by_stage["ort int8"].deviation_px.max
    for one in by_stage.values():
        people = one.people
        assert people is not None and people.found > 5 and people.boxes is not None
        assert people.boxes.iou_p05 > 0.8 and people.boxes.centre_box_pct.p95 < 5
    golden = bundle.golden()
    assert golden.image.keypoints.shape == (2, 2) and golden.decoded.people is not None
    results = verify(bundle)
    check(results)
    assert {one.label for one in results} == {"ort fp32", "ort int8"}
    assert results[0].image.reference_px.max < 1e-2
    assert "IoU" in invoked("verify", bundle.path)


@pytest.mark.parametrize("name", NETWORKS)
def test_run_gives_and_draws_boxes(detectors: Path, tmp_path: Path, name: str) -> None:
    bundle = detectors / name / "net.splite"
    with PoseEstimator.open(bundle) as estimator:
        pictures = sorted((detectors / "pictures").iterdir())
        picture = next(one for one in pictures if estimator.detect(cv2.imread(str(one))))
    invoked("run", bundle, picture, "--json", tmp_path / "o.json", "--save", tmp_path / "o.png")
    poses, least = json.loads((tmp_path / "o.json").read_text())["poses"], threshold(bundle)
    assert poses and all(pose["keypoints"] == pose["scores"] == [] for pose in poses)
    assert all(len(pose["box"]) == 4 and pose["box_score"] >= least - 1e-3 for pose in poses)
    with PoseEstimator.open(bundle) as estimator:
        image = cv2.imread(str(picture))
        found = estimator.detect(image)
        np.testing.assert_allclose([pose.box for pose in found], [pose["box"] for pose in poses], atol=1e-3)
        assert estimator(image).box_score == found[0].box_score
        drawn = overlay(image, found, estimator.spec.skeleton)
    saved = cv2.imread(str(tmp_path / "o.png"))
    np.testing.assert_array_equal(saved, drawn)
    x, y = np.clip(found[0].box[:2] * (len(drawn) / len(image)), 1, np.array(drawn.shape[1::-1]) - 2).astype(int)
    assert (drawn[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4] > 240).all(axis=2).any() or found[0].box[:2].min() < 0


@pytest.mark.parametrize("name", NETWORKS)
def test_bench_evaluates_boxes(detectors: Path, tmp_path: Path, name: str) -> None:
    bundle, samples = detectors / name / "net.splite", []
    with PoseEstimator.open(bundle) as estimator:
        for number in range(4):
            shutil.copy(detectors / "pictures" / f"{number}.png", tmp_path)
            found = estimator.detect(cv2.imread(str(tmp_path / f"{number}.png")))
            samples += [{"image": f"{number}.png", "box": pose.box.astype(float).tolist()} for pose in found]
            if not found:
                samples.append({"image": f"{number}.png", "empty": True})
    (tmp_path / "labels.json").write_text(json.dumps({"samples": samples}))
    said = invoked("bench", bundle, "-p", "fp32", "--eval", tmp_path, "--frames", "20", "--json", tmp_path / "r.jsonl")
    assert "AP@0.3 1.0000, AP@0.5 1.0000" in " ".join(said.split())
    boxes = json.loads((tmp_path / "r.jsonl").read_text())["accuracy"]["boxes"]
    assert (boxes["ap_50"], boxes["recall_50"], boxes["min_score"]) == (1.0, 1.0, threshold(bundle))


def test_export_evaluates_boxes_as_bench_does(detectors: Path, tmp_path: Path) -> None:
    net, samples = detectors / "yolo", []
    with PoseEstimator.open(net / "net.splite", precision="fp32") as estimator:
        for number in range(4):
            shutil.copy(detectors / "pictures" / f"{number}.png", tmp_path)
            found = estimator.detect(cv2.imread(str(tmp_path / f"{number}.png")))
            samples += [{"image": f"{number}.png", "box": pose.box.astype(float).tolist()} for pose in found[1:]]
            samples += [] if found[1:] else [{"image": f"{number}.png", "empty": True}]
    (tmp_path / "labels.json").write_text(json.dumps({"samples": samples}))
    made, shown = tmp_path / "net.splite", ("--images", detectors / "pictures", "--crops", "4")
    said = invoked("export", net / "net.safetensors", *shown, "--eval", tmp_path, "-o", made)
    assert "AP@0.5" in said and "recall at 0.5" in said and "false alarms" in said
    recommendation = Bundle.open(made).report().recommendation
    assert recommendation is not None
    (row,) = recommendation.rows
    invoked("bench", made, "--eval", tmp_path, "--frames", "10", "--json", tmp_path / "r.jsonl")
    accuracy = json.loads((tmp_path / "r.jsonl").read_text())["accuracy"]
    assert row.accuracy is not None and asdict(row.accuracy.boxes) == accuracy["boxes"]  # type: ignore[arg-type]
    assert row.accuracy.boxes is not None and 0 < row.accuracy.boxes.ap_50 < 1
    assert (row.accuracy.images, row.accuracy.mean_error_box_pct) == (accuracy["images"], accuracy["epe_box_pct"])
    flipped = ExportOptions(evaluation=tmp_path, flip_test=True)
    with pytest.raises(UsageError, match="this one finds people itself") as caught:
        export_bundle(net / "net.safetensors", tmp_path / "flipped.splite", options=flipped)
    assert caught.value.hint == "Leave out --flip-test."


def test_a_graph_that_decodes_gives_the_same_boxes(detectors: Path, tmp_path: Path) -> None:
    net = detectors / "yolo"
    options = ExportOptions(images=detectors / "pictures", fuse_decode=True, dynamic_batch=True)
    export_bundle(net / "net.safetensors", tmp_path / "net.splite", options=options)
    assert Bundle.open(tmp_path / "net.splite").model.decoder.decoded_roles == ("candidates",)
    image = cv2.imread(str(detectors / "pictures" / "3.png"))
    with PoseEstimator.open(tmp_path / "net.splite") as fused, PoseEstimator.open(net / "net.splite") as plain:
        here, there = fused.detect(image), plain.detect(image)
        np.testing.assert_allclose([one.box for one in here], [one.box for one in there], atol=0.01)
        halves = fused.batch(image, [(0, 0, 48, 80), (48, 0, 96, 80)])
        assert [len(one.keypoints) for one in halves] == [0, 0]


def test_a_wrong_channel_order_is_told_by_the_scores_of_boxes() -> None:
    decoder = Boxes(0.5, 0.5, 9, "xyxy", "pixel", "probabilities", "greedy")
    image = InputSpec(8, 8, "rgb", (0.0,) * 3, (255.0,) * 3, 1.0, 0, "centre")
    spec = ModelSpec("boxes", image, decoder, SkeletonSpec((), ()))
    pixels = np.random.default_rng(0).integers(0, 90, (64, 8, 8, 3)).astype(np.uint8)
    pixels[..., 2] += 120  # blue

    def likes_red(tensors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        red = tensors[:, :1].mean(axis=(2, 3))[..., None]
        return {"boxes": np.zeros((len(tensors), 1, 4), np.float32), "scores": red}

    with pytest.raises(CalibrationError, match="order bgr, not rgb"):
        check_channel_order(pixels, spec, likes_red)
    check_channel_order(pixels[..., ::-1], spec, likes_red)
