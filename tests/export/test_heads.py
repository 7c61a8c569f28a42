"""Presence and handedness on their whole way: from every kind of source through every stage to `Pose`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
from click.testing import Result
from converters import DIRECT, use_converter
from torch import Tensor, nn  # noqa: TID253

from splite_deploy.bench.evaluation import evaluate, evaluation_labels
from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.decoders import mean_heads
from splite_deploy.errors import BundleError, ExportError, UsageError
from splite_deploy.export import ExportOptions, export_bundle
from splite_deploy.export.failures import PartialExportError
from splite_deploy.export.log_output import quiet
from splite_deploy.metrics.labels import read_labels
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.verify import recorded_violations, verify

MODEL = """
name = "heads"
samples = "{samples}:samples"
[input]
height = 64
width = 48
color = "rgb"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
box_padding = 1.25
pad_value = 0
[decoder]
type = "coordinates"
scale = "unit"
{tables}
[skeleton]
keypoint_names = ["a", "b", "c", "d", "e"]
edges = [[0, 1]]
"""
SAMPLES = Path(__file__).parents[1] / "tiny" / "samples.py"
LOGITS = """
[outputs.presence]
activation = "sigmoid"
[outputs.handedness]
activation = "sigmoid"
"""
NAMED = """
[outputs.coordinates]
source = 0
[outputs.presence]
source = ["facts", "presence"]
layout = "N"
activation = "sigmoid"
[outputs.handedness]
source = ["facts", "both"]
slice = {C = [1, 2]}
activation = "sigmoid"
"""
BY_ORDER = """
[outputs.handedness]
activation = "sigmoid"
[outputs.presence]
activation = "sigmoid"
"""
BOX = (20, 10, 70, 74)


class Hand(nn.Module):
    """Five keypoints, whether a hand is there, which one it is."""

    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.points, self.facts = nn.Linear(192, 10), nn.Linear(192, 2)

    def forward(self, image: Tensor) -> Any:
        features = nn.functional.avg_pool2d(self.body(image), 4).flatten(1)
        points = self.points(features).sigmoid().reshape(-1, 5, 2)
        facts = 20 * self.facts(features)
        presence, side = facts.chunk(2, dim=1)
        if self.gives == "chances by name":
            return {"presence": presence.sigmoid(), "coordinates": points, "handedness": side.sigmoid(), "more": side}
        if self.gives == "logits by name":
            return {"coordinates": points, "handedness": side, "presence": presence}
        if self.gives == "nested":
            return {"points": points, "facts": {"presence": presence[:, 0], "both": facts}}
        return points, presence, side


FORMS = [("chances by name", ""), ("logits by name", LOGITS), ("nested", NAMED), ("in a row", BY_ORDER)]


def exported(folder: Path, gives: str, tables: str, *, onnx: bool = False, **options: Any) -> tuple[Bundle, Hand]:
    torch.manual_seed(3)
    network = Hand(gives).eval()
    text = MODEL.format(samples=SAMPLES.as_posix(), tables=tables)
    (folder / "model.toml").write_text(text, encoding="utf-8")
    blank, file = torch.zeros(1, 3, 64, 48), folder / ("net.onnx" if onnx else "net.pt2")
    with quiet():
        if onnx:
            names = ["coordinates", "presence", "handedness"]
            named = {"input_names": ["image"], "output_names": names}
            torch.onnx.export(network, (blank,), file, **named, dynamo=True, external_data=False)
        else:
            torch.export.save(torch.export.export(network, (blank,)), file)
    return export_bundle(file, folder / "net.splite", options=ExportOptions(trust=True, crops=8, **options)), network


def expected(estimator: PoseEstimator, image: NDArray[np.uint8]) -> tuple[float, float]:
    """What the network itself gives for the crop of `BOX`, of any seed the same."""
    torch.manual_seed(3)
    crop, _ = estimator.preprocessor.crop(image, np.array(BOX, float))
    with torch.inference_mode():
        _, presence, side = Hand("in a row").eval()(torch.from_numpy(estimator.preprocessor.normalise([crop])))
    return float(presence.sigmoid()), float(side.sigmoid())


@pytest.mark.parametrize("fused", [False, True], ids=["network", "decoded"])
@pytest.mark.parametrize(("gives", "tables"), FORMS, ids=[gives for gives, _ in FORMS])
def test_a_torch_network(tmp_path: Path, image: NDArray[np.uint8], gives: str, tables: str, fused: bool) -> None:
    bundle, _ = exported(tmp_path, gives, tables, fuse_decode=fused)
    (result,) = verify(bundle)
    assert result.violations == () and set(result.parity.heads) == {"presence", "handedness"}
    roles = ["keypoints", "scores"] if fused else ["coordinates"]
    held = {one.role: (one.shape, one.layout) for one in bundle.manifest.artifacts[0].outputs}
    assert set(held) == {*roles, "presence", "handedness"}
    assert held["presence"] == held["handedness"] == ((1, 1), "NC")
    assert bundle.model.heads == ("presence", "handedness")
    with PoseEstimator.open(bundle.path) as estimator:
        pose = estimator(image, BOX)
        assert (pose.presence, pose.handedness) == pytest.approx(expected(estimator, image), abs=1e-4)
    said = json.loads(json.dumps(pose.to_dict()))
    assert (said["presence"], said["handedness"]) == (round(pose.presence or 0, 4), round(pose.handedness or 0, 4))


def test_an_imported_graph(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    bundle, _ = exported(tmp_path, "in a row", LOGITS, onnx=True)
    assert verify(bundle)[0].violations == ()
    with PoseEstimator.open(bundle.path) as estimator:
        pose = estimator(image, BOX)
        assert (pose.presence, pose.handedness) == pytest.approx(expected(estimator, image), abs=1e-4)


def test_the_file_alone(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    exported(tmp_path, "in a row", LOGITS, onnx=True)
    with PoseEstimator.open_file(tmp_path / "net.onnx") as estimator:
        pose = estimator(image, BOX)
        assert (pose.presence, pose.handedness) == pytest.approx(expected(estimator, image), abs=1e-4)


def test_golden_data_and_the_replay_of_it(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    bundle, _ = exported(tmp_path, *FORMS[0])
    golden = bundle.golden()
    assert golden.outputs["presence"].shape == (len(golden.crops), 1)
    heads = golden.decoded.heads or {}
    np.testing.assert_array_equal(heads["handedness"], golden.outputs["handedness"][:, 0])
    with PoseEstimator.open(bundle.path, "replay") as estimator:
        assert estimator(image, BOX).presence in heads["presence"]


def test_golden_data_that_was_changed_is_told(tmp_path: Path) -> None:
    bundle, _ = exported(tmp_path, *FORMS[0])
    golden = bundle.golden()
    heads = {role: 1 - values for role, values in (golden.decoded.heads or {}).items()}
    wrong = replace(golden, decoded=replace(golden.decoded, heads=heads))
    assert recorded_violations(golden, bundle.model) == []
    told = recorded_violations(wrong, bundle.model)
    assert told == [f"the recorded {head} is not what the recorded outputs decode to" for head in heads]


def test_a_bundle_without_a_head_of_its_model_is_refused(tmp_path: Path) -> None:
    bundle, _ = exported(tmp_path, *FORMS[0])
    (artifact,) = bundle.manifest.artifacts
    outputs = tuple(one for one in artifact.outputs if one.role != "presence")
    manifest = replace(bundle.manifest, artifacts=(replace(artifact, outputs=outputs),))
    (bundle.path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    with pytest.raises(BundleError, match="There is no output 'presence', which the model has"):
        Bundle.open(bundle.path)


def test_a_head_of_a_later_version_is_passed_over(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    bundle, _ = exported(tmp_path, *FORMS[0])
    file = bundle.path / MANIFEST
    text = file.read_text(encoding="utf-8").replace('"presence"', '"pointing"')
    text = text.replace('"heads": ["pointing", "handedness"]', '"heads": ["handedness", "pointing"]')
    content = text[: text.rindex('"checksum"')]
    digest = hashlib.sha256(content.encode()).hexdigest()
    file.write_text(f'{content}"checksum": "{digest}"\n}}\n', encoding="utf-8")
    assert Bundle.open(bundle.path).model.heads == ("handedness",)


def test_inspect_names_them(tmp_path: Path, splite: Callable[..., Result]) -> None:
    bundle, _ = exported(tmp_path, *FORMS[0])
    said = " ".join(splite("inspect", bundle.path).output.split())
    assert "gives besides presence, handedness" in said


@pytest.mark.slow
def test_int8_and_tflite(tmp_path: Path, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert")
    use_converter(DIRECT, monkeypatch)
    options = {"backends": ("ort", "tflite"), "precisions": ("fp32", "int8"), "fuse_decode": True}
    bundle, _ = exported(tmp_path, *FORMS[1], **options)
    for result in verify(bundle):
        assert result.violations == ()
        assert (result.artifact.limits.head_p95 or 0) >= 0.05 or result.artifact.precision != "int8"
        with PoseEstimator.open(bundle.path, result.backend, result.artifact.precision) as estimator:
            pose = estimator(image, BOX)
            wanted = pytest.approx(expected(estimator, image), abs=0.15 if "int8" in result.label else 1e-3)
            assert (pose.presence, pose.handedness) == wanted


def test_logits_without_their_sigmoid_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"The output 'handedness' lies between .*, not in 0 to 1\.") as caught:
        exported(tmp_path, "logits by name", "")
    assert 'activation = "sigmoid" in [outputs.handedness]' in caught.value.hint


def test_a_conversion_may_move_them_by_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from splite_deploy.metrics import parity

    monkeypatch.setattr(parity, "_HEAD_P95", 1e-6)
    monkeypatch.setattr(parity, "_HEAD_INT8_P95", 1e-6)
    with pytest.raises(PartialExportError) as caught:
        exported(tmp_path, *FORMS[0], backends=("ort",), precisions=("int8",))
    assert "ort int8 breaks its limits" in caught.value.message
    assert "handedness deviation p95" in caught.value.message and "(limit 1e-06)" in caught.value.message


@pytest.fixture
def hands(tmp_path: Path) -> Path:
    """Pictures whose labels call every second hand a right one."""
    folder, samples = tmp_path / "hands", []
    folder.mkdir()
    for index in range(6):
        noise = np.random.default_rng(index).integers(0, 256, (80, 100, 3), np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), noise)
        points = np.random.default_rng(index).uniform(10, 70, (5, 2)).tolist()
        samples.append({"image": f"{index}.png", "keypoints": points, "handedness": ("Left", "right")[index % 2]})
    samples.append({"image": "0.png", "keypoints": samples[0]["keypoints"]})
    (folder / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    return folder


def test_an_evaluation_counts_whose_handedness_is_right(tmp_path: Path, hands: Path) -> None:
    bundle, _ = exported(tmp_path, *FORMS[0])
    labels = evaluation_labels(hands, 5)
    with PoseEstimator.open(bundle.path, color="rgb") as estimator:
        told = [estimator(cv2.imread(str(one.path))[..., ::-1].copy(), one.box) for one in labels[:6]]  # type: ignore[index]
        right = [((pose.handedness or 0) >= 0.5) == bool(index % 2) for index, pose in enumerate(told)]
        as_seen = evaluate(estimator, labels, "hands", hands)
        mirrored = evaluate(estimator, labels, "hands", hands, hands="mirrored")
    assert (as_seen.handedness, as_seen.handedness_hands) == (sum(right) / 6, 6)  # the seventh does not say
    assert as_seen.handedness_labels == "as-seen" and mirrored.handedness_labels == "mirrored"
    assert mirrored.handedness == pytest.approx(1 - sum(right) / 6)


def test_a_label_names_a_hand_or_none(hands: Path) -> None:
    file = hands / "labels.json"
    assert [one.right for one in read_labels(file)] == [False, True, False, True, False, True, None]
    file.write_text(file.read_text(encoding="utf-8").replace("Left", "both"), encoding="utf-8")
    with pytest.raises(UsageError, match="sample 0 is malformed: handedness is neither 'left' nor 'right'"):
        read_labels(file)


def test_a_mirror_turns_a_right_hand_into_a_left_one() -> None:
    one = {"presence": np.array([0.8], np.float32), "handedness": np.array([0.9], np.float32)}
    other = {"presence": np.array([0.6], np.float32), "handedness": np.array([0.3], np.float32)}
    found = mean_heads(one, other) or {}
    assert {role: float(values[0]) for role, values in found.items()} == pytest.approx(
        {"presence": 0.7, "handedness": 0.8}
    )
    assert mean_heads(None, None) is None
