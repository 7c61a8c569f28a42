"""A network that was trained to find figures: exported, verified, run and timed."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from converters import use_any_converter
from numpy.typing import NDArray

from splite_deploy.bench import BenchResult
from splite_deploy.bench.report.sentences import sentences
from splite_deploy.bundle import Bundle
from splite_deploy.cli import main
from splite_deploy.errors import UsageError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.runtime import Pose, PoseEstimator
from splite_deploy.runtime.verify import check, verify

FOLDER = Path(__file__).parents[1] / "people"
sys.path.insert(0, str(FOLDER))

from figures import Picture, picture

_RAW = """type = "yolo-pose"
form = "anchor-free"
strides = [8, 16]
bins = 8
visibility = true
min_score = 0.4
overlap = 0.6
max_people = 10
heads = """
_FINAL = """type = "yolo-pose"
form = "final"
boxes = "xyxy"
scale = "pixel"
visibility = true
min_score = 0.4
overlap = 0.6
max_people = 10
"""


def copied(folder: Path, form: str = "decoded") -> Path:
    """The checkpoint, beside a model.toml of another form."""
    folder.mkdir()
    for name in ("figures.py", "figures.safetensors"):
        shutil.copy(FOLDER / name, folder)
    networks = FOLDER.parents[1] / "benchmarks" / "networks"
    text = (FOLDER / "model.toml").read_text(encoding="utf-8").replace("../../benchmarks/networks", str(networks))
    if form != "decoded":
        before, _, rest = text.replace('form = "decoded"', f'form = "{form}"', 1).partition("[decoder]")
        decoder = _FINAL if form == "final" else f'{_RAW}"{form}"\n'
        text = f"{before}[decoder]\n{decoder}\n[skeleton]{rest.partition('[skeleton]')[2]}"
    (folder / "model.toml").write_text(text, encoding="utf-8")
    return folder / "figures.safetensors"


@pytest.fixture(scope="session")
def figures(made_once: Callable[..., Path]) -> Path:
    """The bundle of the network, in float32 and int8."""

    def fill(folder: Path) -> None:
        options = ExportOptions(precisions=("fp32", "int8"), crops=24)
        export_bundle(FOLDER / "figures.safetensors", folder / "figures.splite", options=options)

    return made_once("figures", fill) / "figures.splite"


def found_again(poses: list[Pose], shown: Picture) -> NDArray[np.float64]:
    """Mean distance of every figure from the nearest pose, as a share of its size."""
    sizes = np.ptp(shown.keypoints, axis=1).max(axis=1)
    poses_px = np.stack([pose.keypoints for pose in poses])
    away = np.linalg.norm(poses_px[None] - shown.keypoints[:, None], axis=3).mean(axis=2).min(axis=1)
    return np.asarray(away / sizes)


def test_what_was_measured_tells_of_people(figures: Path) -> None:
    report, golden = Bundle.open(figures).report(), Bundle.open(figures).golden()
    by_stage = {one.stage: one for one in report.parity}
    assert set(by_stage) == {"onnx", "simplified", "ort int8"}
    for one in by_stage.values():
        assert one.people is not None and one.people.found > 20
        assert one.people.missed + one.people.new == 0 or one.people.beyond < 0.1
        assert one.people.compared >= one.people.found and one.people.deviation_px is not None
    fp32, int8 = by_stage["simplified"], by_stage["ort int8"]
    assert fp32.deviation_px.max < 1e-3 and 0.01 < int8.deviation_px.p95 < 0.48
    people = golden.decoded.people
    assert people is not None and set(people.crops.tolist()) == set(range(len(golden.crops)))
    assert golden.decoded.keypoints.shape == (len(people.crops), 5, 2) and people.boxes.shape == (len(people.crops), 4)


def test_it_verifies(figures: Path) -> None:
    results = verify(Bundle.open(figures))
    check(results)
    assert {one.label for one in results} == {"ort fp32", "ort int8"}
    assert all(one.parity.people is not None and one.parity.people.found for one in results)
    assert all(one.image.reference_px.max < 3 for one in results)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_figures_are_found(figures: Path, precision: Any) -> None:
    with PoseEstimator.open(figures, precision=precision, color="rgb") as estimator:
        shown, missed = 0, 0
        for seed in range(5000, 5024):
            one = picture(seed)
            poses = estimator.detect(one.image)
            assert [pose.box_score for pose in poses] == sorted((pose.box_score for pose in poses), reverse=True)  # type: ignore[type-var]
            shown += len(one.keypoints)
            if not len(one.keypoints):
                continue
            if not poses:
                missed += len(one.keypoints)
                continue
            away = found_again(poses, one)
            missed += int((away > 0.25).sum())
            assert np.median(away) < 0.12  # a tenth of a figure is what so small a network can do
        assert shown > 30 and missed <= 0.1 * shown


def test_a_box_is_looked_into(figures: Path) -> None:
    one = next(one for one in (picture(seed) for seed in range(7000, 7100)) if len(one.keypoints) == 3)
    with PoseEstimator.open(figures, color="rgb") as estimator:
        for keypoints, (x0, y0, x1, y1) in zip(one.keypoints, one.boxes, strict=True):
            box = (x0 - 20, y0 - 20, x1 + 20, y1 + 20)
            pose, (first, *_) = estimator(one.image, box), estimator.detect(one.image, box)
            assert pose == first and pose.box_score is not None and pose.box_score > 0.4
            assert (pose.box[:2] > [x0 - 20, y0 - 20]).all() and (pose.box[2:] < [x1 + 20, y1 + 20]).all()
            if not any(((other > box[:2]) & (other < box[2:])).all() for other in one.keypoints.mean(axis=1)):
                assert np.linalg.norm(pose.keypoints - keypoints, axis=1).mean() < 4
        empty = np.full((64, 64, 3), 128, np.uint8)
        assert estimator.detect(empty) == []
        nobody = estimator(empty)
        assert nobody.box_score is not None and nobody.box_score < 0.4 and nobody.keypoints.shape == (5, 2)


def test_a_model_of_boxes_detects_nobody(tiny_bundle: Path) -> None:
    with PoseEstimator.open(tiny_bundle) as estimator:
        assert not estimator.finds_people
        with pytest.raises(UsageError) as caught:
            estimator.detect(np.zeros((8, 8, 3), np.uint8))
    assert "finds one hand or person in each box" in caught.value.message and "Call the estimator" in caught.value.hint


def test_run_writes_everybody(figures: Path, tmp_path: Path) -> None:
    several = (one for one in (picture(seed, 120, 160) for seed in range(5000, 5100)) if len(one.keypoints) == 3)
    pictures, folder = [next(several), next(several)], tmp_path / "in"
    folder.mkdir()
    for index, one in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index}.png"), one.image[..., ::-1])
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (160, 120))
    for one in pictures:
        video.write(one.image[..., ::-1])
    video.release()
    runner = CliRunner()
    done = runner.invoke(
        main, ["run", str(figures), str(folder), "--save", str(tmp_path / "out")], catch_exceptions=False
    )
    results = json.loads(done.stdout)
    done = runner.invoke(main, ["run", str(figures), str(tmp_path / "v.avi")], catch_exceptions=False)
    frames = [json.loads(line) for line in done.stdout.splitlines()]
    for one, result, frame in zip(pictures, results, frames, strict=True):
        assert len(result["poses"]) == 3
        assert abs(len(frame["poses"]) - len(one.keypoints)) <= 1 and frame["found"]
        assert all(0.4 <= pose["box_score"] <= 1 and len(pose["box"]) == 4 for pose in result["poses"])
        drawn = cv2.imread(str(tmp_path / "out" / result["image"]))
        plain = cv2.resize(one.image[..., ::-1], drawn.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        for x0, y0, x1, y1 in one.boxes * drawn.shape[1] / 160:
            inside = np.s_[int(y0) : int(y1), int(x0) : int(x1)]
            assert (np.abs(drawn[inside].astype(int) - plain[inside]).max(axis=2) > 60).mean() > 0.02
    depth = ["--intrinsics", "1,1,1,1", "--bone-length-mm", "9"]
    refused = runner.invoke(main, ["run", str(figures), str(folder), *depth])
    assert refused.exit_code == 1 and "gives no depth" in refused.output


def test_bench_times_all_of_it_and_counts_people(figures: Path, tmp_path: Path) -> None:
    runner, page = CliRunner(), tmp_path / "page.html"
    command = ["bench", str(figures), "--frames", "10", "--warmup", "1", "--min-seconds", "0", "--html", str(page)]
    done = runner.invoke(main, [*command, "--json", "-"], catch_exceptions=False)
    people = Bundle.open(figures).golden().decoded.people
    assert people is not None
    each = len(people.crops) / len(set(people.crops.tolist()))
    assert f"finds {each:.3g} per image" in page.read_text(encoding="utf-8")
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(results) == len(Bundle.open(figures).manifest.artifacts) > 1
    for result in results:
        assert set(result["stages"]) >= {"preprocess", "inference", "decode", "end_to_end"}
        assert result["people_per_image"] == pytest.approx(each)
        assert any(f"It finds {each:.3g} per image" in one for one in sentences(BenchResult.from_dict(result)))


def test_tflite_finds_the_same_people(figures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_any_converter(monkeypatch)
    options = ExportOptions(backends=("tflite",), precisions=("fp32", "int8"), crops=16, fuse_input=True)
    bundle = export_bundle(FOLDER / "figures.safetensors", tmp_path / "t.splite", options=options)
    check(verify(bundle))
    (output,) = next(one for one in bundle.manifest.artifacts if one.label == "tflite int8").outputs
    assert (output.role, output.layout, output.dtype) == ("people", "NCA", "float32")
    shown = [picture(seed).image for seed in range(5000, 5012)]
    with PoseEstimator.open(figures, precision="fp32", color="rgb") as estimator:
        expected = [estimator.detect(image) for image in shown]
    for precision, tolerance_px in (("fp32", 0.01), ("int8", 2.5)):
        with PoseEstimator.open(bundle.path, "tflite", precision, color="rgb") as estimator:  # type: ignore[arg-type]
            found = [estimator.detect(image) for image in shown]
        pairs = [(a, b) for ours, theirs in zip(found, expected, strict=True) for a in ours for b in theirs]
        close = [one for one in pairs if np.abs(one[0].box - one[1].box).max() < 8]
        assert sum(map(len, expected)) - 1 <= len(close) <= sum(map(len, expected)) + 1
        assert max(np.abs(a.keypoints - b.keypoints).max() for a, b in close) < tolerance_px


@pytest.mark.slow
def test_every_form_finds_the_same(figures: Path, tmp_path: Path) -> None:
    shown = [picture(seed, 96, 128).image for seed in range(5000, 5006)]
    with PoseEstimator.open(figures, color="rgb", precision="fp32") as estimator:
        expected = [estimator.detect(image) for image in shown]
    assert sum(map(len, expected)) > 5
    for form in ("one", "levels", "parts", "final"):
        checkpoint = copied(tmp_path / form, form)
        fused = form in ("levels", "parts")
        options = ExportOptions(precisions=("fp32",), crops=8, fuse_decode=fused, fuse_input=fused)
        bundle = export_bundle(checkpoint, tmp_path / f"{form}.splite", options=options)
        check(verify(bundle))
        outputs = [(one.role, one.layout) for one in bundle.manifest.artifacts[0].outputs]
        assert not fused or outputs == [("candidates", "NAC")]
        with PoseEstimator.open(bundle.path, color="rgb") as estimator:
            for image, wanted in zip(shown, expected, strict=True):
                poses = estimator.detect(image)
                if form == "final":  # it has no suppression of its own
                    poses = [min(poses, key=lambda pose, w=w: np.abs(pose.box - w.box).max()) for w in wanted]  # type: ignore[misc]
                assert len(poses) == len(wanted)
                for pose, other in zip(poses, wanted, strict=True):
                    np.testing.assert_allclose(pose.keypoints, other.keypoints, atol=0.01)
                    assert pose.box_score == pytest.approx(other.box_score, abs=1e-3)
