"""MediaPipe's region of interest, derived anew, and its networks where their files are."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import cv2
import landmark_net
import numpy as np
import pytest
from landmark_net import FOLDER, LandmarkNet, crop, read_tflite, roi_of_box, roi_of_landmarks, rotation

from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.metrics.labels import read_labels, tight_box
from splite_deploy.runtime.preprocess import transform_points


def upright() -> np.ndarray:
    """Wrist at (100, 200), knuckles straight above it; fingers from x = 80 to 110, stable keypoints up to y = 80."""
    keypoints = np.empty((21, 2))
    keypoints[0] = 100, 200
    keypoints[1:5] = [[80, 180], [75, 160], [70, 150], [60, 140]]
    for finger, x in enumerate((90, 100, 110, 120)):
        keypoints[5 + 4 * finger : 9 + 4 * finger] = [[x, 100], [x, 80], [x, 60], [x, 40]]
    return keypoints


def turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Clockwise on the screen, about (100, 120)."""
    return (points - (100, 120)) @ rotation(np.deg2rad(degrees)).T + (100, 120)


def test_an_upright_hand() -> None:
    roi = roi_of_landmarks(upright())
    assert roi.angle == pytest.approx(0)
    # stable keypoints: x from 70 (thumb) to 120 (little finger), y from 80 to 200
    assert roi.side_px == pytest.approx(2 * 120)
    np.testing.assert_allclose(roi.centre, [95, 140 - 0.1 * 120])


@pytest.mark.parametrize("degrees", [-170, -90, -30, 45, 90, 135])
def test_the_region_turns_with_the_hand(degrees: float) -> None:
    straight, found = roi_of_landmarks(upright()), roi_of_landmarks(turned(upright(), degrees))
    assert np.rad2deg(found.angle) == pytest.approx(degrees)
    assert found.side_px == pytest.approx(straight.side_px)
    np.testing.assert_allclose(found.centre, turned(straight.centre, degrees))
    # so the network takes the same hand, upright
    seen = transform_points(turned(upright(), degrees), found.matrix())
    np.testing.assert_allclose(seen, transform_points(upright(), straight.matrix()))


def test_fingertips_do_not_move_the_region() -> None:
    bent = upright()
    bent[[4, 7, 8, 11, 12, 15, 16, 19, 20]] += 500
    assert roi_of_landmarks(bent).side_px == roi_of_landmarks(upright()).side_px


def test_the_matrix_maps_the_corners_of_the_region() -> None:
    roi = roi_of_box(np.array([10.0, 20, 110, 80]), 1.5)
    assert roi.side_px == 150
    corners = np.array([[60 - 75, 50 - 75], [60 + 75, 50 + 75]])
    np.testing.assert_allclose(transform_points(corners, roi.matrix()), [[0, 0], [224, 224]], atol=1e-9)


def test_a_crop_puts_pixels_where_the_matrix_says() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(image, (140, 90), 6, (255, 128, 0), -1)  # centred at (140.5, 90.5) in continuous pixels
    roi = roi_of_landmarks(turned(upright(), 30) + np.array([40, -20]))
    tensor = crop(image, roi)
    assert tensor.shape == (1, 224, 224, 3)
    assert tensor.dtype == np.float32
    assert tensor.max() == 1.0
    ys, xs = np.nonzero(tensor[0, ..., 0] > 0.5)
    expected = transform_points(np.array([140.5, 90.5]), roi.matrix())
    np.testing.assert_allclose([xs.mean() + 0.5, ys.mean() + 0.5], expected, atol=0.1)
    assert tensor[0, ..., 1].max() == pytest.approx(128 / 255)


def test_where_the_files_may_lie(tmp_path: Path) -> None:
    wheel = tmp_path / "some.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{FOLDER}/a.tflite", b"weights")
    inside = tmp_path / "site-packages" / FOLDER
    inside.mkdir(parents=True)
    (inside / "a.tflite").write_bytes(b"weights")
    for source in (wheel, tmp_path / "site-packages", inside):
        assert read_tflite(source, "a.tflite") == b"weights"
        with pytest.raises(UsageError, match=r"b\.tflite") as caught:
            read_tflite(source, "b.tflite")
        assert "pip download --no-deps mediapipe" in caught.value.hint
    for bad in (inside / "a.tflite", tmp_path / "nowhere"):
        with pytest.raises(UsageError):
            read_tflite(bad, "a.tflite")


def test_a_file_that_is_no_network() -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    with pytest.raises(SpliteError) as caught:
        LandmarkNet(b"TFL3 but nothing else")
    assert caught.value.hint


@pytest.fixture(scope="module")
def lite() -> LandmarkNet:
    """The lite network, where its file and LiteRT are at hand."""
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed")
    source = os.environ.get("SPLITE_MEDIAPIPE")
    if source is None:
        pytest.skip("mediapipe's .tflite files are not here; name its wheel or their folder in SPLITE_MEDIAPIPE")
    return LandmarkNet(read_tflite(Path(source), "hand_landmark_lite.tflite"))


def test_the_lite_network_finds_hands_however_they_are_turned(lite: LandmarkNet, hand_digits: Path) -> None:
    """From the box alone, and, lying, from the region that their landmarks give."""
    errors: dict[str, list[float]] = {"upright": [], "lying": [], "lying, by its box": []}
    for labelled in read_labels(hand_digits, split="val")[::20]:
        image = cv2.cvtColor(cv2.imread(str(labelled.path)), cv2.COLOR_BGR2RGB)
        x, y = labelled.keypoints.T
        lying = np.column_stack([image.shape[0] - y, x])  # a quarter turn clockwise
        turned = np.rot90(image, -1).copy()
        looks = {
            "upright": (lite.find(image, labelled.box, 1.25), labelled.keypoints),  # type: ignore[arg-type]
            "lying": (lite.look(turned, roi_of_landmarks(lying)), lying),
            "lying, by its box": (lite.find(turned, tight_box(lying), 1.25), lying),
        }
        for name, (found, truth) in looks.items():
            assert found.presence > 0.5, (name, labelled.path)
            assert found.world_mm.shape == (landmark_net.KEYPOINTS, 3)
            assert 40 < np.ptp(found.world_mm, axis=0).max() < 250
            side = np.ptp(labelled.keypoints, axis=0).max()
            errors[name].append(float(np.linalg.norm(found.keypoints - truth, axis=1).mean() / side))
    assert all(np.median(of_hands) < 0.025 for of_hands in errors.values()), errors
