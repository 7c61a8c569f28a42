"""MediaPipe's published files, where the environment variable ``SPLITE_MEDIAPIPE`` names its wheel or a folder.

``pip download mediapipe==0.10.21 --no-deps`` fetches the wheel. The files are under the Apache license 2.0.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from splite_deploy.bench.evaluation import evaluate, evaluation_labels
from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError
from splite_deploy.export.adopt import AdoptOptions, adopt_file
from splite_deploy.runtime import PoseEstimator
from splite_deploy.runtime.file_facts import describe_file
from splite_deploy.runtime.network_file import NetworkFile
from splite_deploy.runtime.verify import check, verify
from splite_deploy.runtime.verify_file import check_file, verify_file

VARIED = os.environ.get("SPLITE_HANDS_VARIED", "")
MODEL = """
name = "mediapipe"
[input]
height = {size}
width = {size}
color = "rgb"
mean = [0.0, 0.0, 0.0]
std = [255.0, 255.0, 255.0]
box_padding = {padding}
pad_value = 0
[inputs.image]
layout = "NHWC"
{rest}
"""
POINTS = """[decoder]
type = "coordinates"
scale = "pixel"
[outputs.coordinates]
source = "{source}"
layout = "{layout}"
columns = {columns}
[skeleton]
{skeleton}
"""
PALM = """[decoder]
type = "anchors"
strides = [8, 16, 16, 16]
aspect_ratios = [1.0]
interpolated_scale_aspect_ratio = 1.0
anchor_offset = 0.5
fixed_anchor_size = true
scale = 192.0
score_clipping = 100.0
nms = "weighted"
min_score = 0.5
overlap = 0.3
max_people = 4
[outputs.boxes]
source = "Identity"
[outputs.logits]
source = "Identity_1"
[skeleton]
keypoint_names = ["wrist", "index", "middle", "ring", "little", "thumb_base", "thumb_root"]
edges = [[0, 1]]
"""
"""Of MediaPipe's palm_detection_cpu.pbtxt."""


def names(count: int) -> str:
    return "keypoint_names = [" + ", ".join(f'"k{i}"' for i in range(count)) + "]\nedges = [[0, 1]]"


HAND = POINTS.format(source="Identity", layout="N(KC)", columns='["x", "y", "_"]', skeleton='preset = "hand21"')
POSE = POINTS.format(
    source="Identity", layout="N(KC)", columns='["x", "y", "_", "score", "_"]', skeleton=names(39)
).replace("[skeleton]", 'activation = "sigmoid"\n[skeleton]')
FACE = POINTS.format(source="conv2d_21", layout="N11(KC)", columns='["x", "y", "_"]', skeleton=names(468))


@pytest.fixture(scope="module")
def mediapipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files by their stem."""
    source = Path(os.environ.get("SPLITE_MEDIAPIPE") or os.devnull)
    if source.suffix == ".whl":
        folder = tmp_path_factory.mktemp("mediapipe")
        with zipfile.ZipFile(source) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if name.endswith(".tflite")])
        source = folder
    found = {file.stem: file for file in source.rglob("*.tflite")}
    if not found:
        pytest.skip("MediaPipe's files are not here; name its wheel or their folder in SPLITE_MEDIAPIPE")
    return found


def model(folder: Path, rest: str, size: int, padding: float = 1.5) -> Path:
    toml = folder / "model.toml"
    toml.write_text(MODEL.format(size=size, padding=padding, rest=rest), encoding="utf-8")
    return toml


@pytest.mark.parametrize(
    ("stem", "rest", "size"),
    [
        ("hand_landmark_lite", HAND, 224),
        ("hand_landmark_full", HAND, 224),
        ("pose_landmark_full", POSE, 256),
        ("face_landmark", FACE, 192),
    ],
)
def test_landmarks_are_verified_and_run(
    mediapipe: dict[str, Path], tmp_path: Path, stem: str, rest: str, size: int
) -> None:
    file = NetworkFile.read(mediapipe[stem], model(tmp_path, rest, size))
    assert (file.facts.precision, file.facts.numbers) == ("fp16", "float16 weights, float32 activations")
    assert (file.facts.custom, [one.name for one in file.facts.inputs]) == ((), ["input_1"])
    (result,) = verify_file(file)
    check_file([result])
    assert 0 < result.parity.deviation_px.max < 0.05
    with PoseEstimator.open_file(file.path, tmp_path / "model.toml", threads=1) as estimator:
        pose = estimator(np.full((200, 200, 3), 90, np.uint8), (50, 50, 150, 150))
    assert pose.keypoints.shape == (file.spec.keypoint_count, 2)
    assert ((pose.scores >= 0) & (pose.scores <= 1)).all()


@pytest.mark.parametrize(("stem", "most_pct"), [("hand_landmark_lite", 3.0), ("hand_landmark_full", 2.0)])
def test_hands_are_found_where_the_labels_are(
    mediapipe: dict[str, Path], hand_digits: Path, tmp_path: Path, stem: str, most_pct: float
) -> None:
    labels = evaluation_labels(hand_digits, 21)[::12]
    with PoseEstimator.open_file(mediapipe[stem], model(tmp_path, HAND, 224), color="rgb", threads=1) as estimator:
        found = evaluate(estimator, labels, stem, hand_digits)
    assert found.epe_box_pct < most_pct


@pytest.mark.skipif(not VARIED, reason="SPLITE_HANDS_VARIED names no folder")
def test_upright_crops_find_more_and_hands_are_told_apart(mediapipe: dict[str, Path], tmp_path: Path) -> None:
    labels, found = evaluation_labels(Path(VARIED), 21)[::6], {}
    heads = HAND + '[outputs.presence]\nsource = "Identity_1"\n[outputs.handedness]\nsource = "Identity_2"\n'
    toml = model(tmp_path, heads, 224, 1.65)
    for name, field in (("straight", ""), ("turned", 'rotate_by = ["wrist", "middle_mcp"]')):
        toml.write_text(toml.read_text("utf-8").replace("pad_value = 0", f"pad_value = 0\n{field}"), encoding="utf-8")
        with PoseEstimator.open_file(mediapipe["hand_landmark_lite"], toml, color="rgb", threads=1) as estimator:
            found[name] = evaluate(estimator, labels, name, Path(VARIED), hands="mirrored")
            if field:
                given = evaluate(estimator, labels, name, Path(VARIED), hands="mirrored", angles="labels")
                empty = estimator(np.full((300, 300, 3), 60, np.uint8), (50, 50, 250, 250))
    assert given.epe_box_pct < found["turned"].epe_box_pct < found["straight"].epe_box_pct
    assert (found["turned"].handedness or 0) > 0.9
    assert empty.presence is not None and empty.presence < 0.1


def test_a_bundle_of_a_hand_network(mediapipe: dict[str, Path], hand_digits: Path, tmp_path: Path) -> None:
    options = AdoptOptions(images=hand_digits, crops=8)
    toml = model(tmp_path, HAND, 224)
    bundle = adopt_file(mediapipe["hand_landmark_lite"], tmp_path / "hand.splite", model=toml, options=options)
    check(verify(Bundle.open(bundle.path), threads=1))
    assert bundle.report().parity[0].deviation_px.max < 0.01


def test_a_bundle_of_a_detector(mediapipe: dict[str, Path], hand_digits: Path, tmp_path: Path) -> None:
    toml = model(tmp_path, PALM, 192, padding=1.0)
    toml.write_text(toml.read_text().replace("pad_value = 0", 'pad_value = 0\nletterbox = "centre"'), encoding="utf-8")
    options = AdoptOptions(images=hand_digits, crops=6)
    bundle = adopt_file(mediapipe["palm_detection_full"], tmp_path / "palm.splite", model=toml, options=options)
    check(verify(Bundle.open(bundle.path), threads=1))
    (parity,) = bundle.report().parity
    assert parity.people is not None and parity.people.found >= 4 and not parity.people.missed


def test_what_only_mediapipe_can_run_is_named(mediapipe: dict[str, Path], tmp_path: Path) -> None:
    file = mediapipe["face_landmark_with_attention"]
    assert "TransformLandmarks" in describe_file(file).custom
    toml = model(tmp_path, FACE.replace("conv2d_21", "output_mesh_identity"), 192)
    with pytest.raises(BackendError, match=r"has operators of its maker's own, which LiteRT .* lacks: ") as caught:
        PoseEstimator.open_file(file, toml)
    assert "TFLITE_BUILTINS" in caught.value.hint
