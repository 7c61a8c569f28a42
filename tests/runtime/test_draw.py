"""Pictures with skeletons, and image files in and out."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.errors import OutputError, UsageError
from splite_deploy.runtime.io.draw import MIN_SIDE_PX, overlay
from splite_deploy.runtime.io.images import IMAGE_SUFFIXES, boxed_images, image_files, read_image, write_image
from splite_deploy.runtime.pose import Pose
from splite_deploy.spec import SkeletonSpec

SKELETON = SkeletonSpec(("wrist", "thumb_tip", "index_tip"), ((0, 1), (0, 2)))
POINTS = [[30.0, 100.0], [60.5, 20.25], [130.0, 60.0]]


def pose(points: object = POINTS, score: float = 0.9) -> Pose:
    keypoints = np.array(points, np.float32)
    scores = np.full(len(keypoints), score, np.float32)
    return Pose(keypoints, scores, np.array([0, 0, 160, 120], np.float32), None, None)


def changed(canvas: NDArray[np.uint8], picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pixels were painted."""
    different: NDArray[np.bool_] = (canvas != picture).any(axis=2)
    return different


def plain(height: int, width: int) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 90, np.uint8)


def test_the_image_is_left_alone(image: NDArray[np.uint8]) -> None:
    before = image.copy()
    canvas = overlay(image, [pose()], SKELETON)
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(canvas, image) and canvas.dtype == np.uint8


@pytest.mark.parametrize("size", [(600, 500), (480, 480)])
def test_a_large_image_keeps_its_size(size: tuple[int, int]) -> None:
    picture = plain(*size)
    before = picture.copy()
    canvas = overlay(picture, [pose()], SKELETON)
    assert canvas.shape == picture.shape and changed(canvas, picture).any()
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("size", [(120, 160), (1, 1), (479, 20), (100, 100), (240, 240)])
def test_a_small_image_is_enlarged_by_a_whole_factor(size: tuple[int, int]) -> None:
    canvas = overlay(plain(*size), [], SKELETON)
    factor = canvas.shape[0] // size[0]
    assert canvas.shape == (size[0] * factor, size[1] * factor, 3)
    longest = max(canvas.shape[:2])
    assert MIN_SIDE_PX <= longest < MIN_SIDE_PX + max(size)
    assert (canvas == 90).all()


@pytest.mark.parametrize("size", [(120, 160), (480, 640)])
def test_keypoints_are_painted_where_they_are(size: tuple[int, int]) -> None:
    picture = plain(*size)
    canvas = overlay(picture, [pose()], SKELETON)
    factor = canvas.shape[0] // size[0]
    painted = changed(canvas, np.full_like(canvas, 90))
    for x, y in POINTS:
        column, row = int(x * factor), int(y * factor)  # the pixel that holds the point
        assert painted[row, column]
    rows, columns = np.nonzero(painted)
    margin = 6
    low, high = np.array(POINTS).min(axis=0) * factor, np.array(POINTS).max(axis=0) * factor
    assert low[0] - margin < columns.min() + 0.5 < low[0] and high[0] < columns.max() + 0.5 < high[0] + margin
    assert low[1] - margin < rows.min() + 0.5 < low[1] and high[1] < rows.max() + 0.5 < high[1] + margin


def test_a_drawn_point_has_its_centre_at_the_keypoint() -> None:
    picture = plain(600, 600)
    canvas = overlay(picture, [pose([[200.0, 300.0]] * 3)], SkeletonSpec(("a", "b", "c"), ()))
    rows, columns = np.nonzero(changed(canvas, picture))
    assert columns.mean() + 0.5 == pytest.approx(200, abs=0.1) and rows.mean() + 0.5 == pytest.approx(300, abs=0.1)


def test_bones_are_drawn_and_chains_differ_in_colour() -> None:
    picture = plain(480, 640)
    canvas = overlay(picture, [pose([[100, 100], [500, 100], [100, 400]])], SKELETON)
    along, down = canvas[100, 300].astype(int), canvas[250, 100].astype(int)
    assert (along != 90).any() and (down != 90).any() and np.abs(along - down).max() > 50
    assert (canvas[300, 400] == 90).all()


def test_a_keypoint_of_low_score_is_hollow() -> None:
    picture, skeleton = plain(480, 640), SkeletonSpec(("a", "b", "c"), ())
    points = [[100, 100], [600, 100], [100, 400]]
    sure, unsure = (changed(overlay(picture, [pose(points, s)], skeleton), picture) for s in (0.9, 0.1))
    assert sure[100, 100] and not unsure[100, 100] and unsure.any() and sure.sum() > unsure.sum()


def test_several_poses_and_none() -> None:
    picture = plain(480, 640)
    one = changed(overlay(picture, [pose()], SKELETON), picture)
    other = pose([[400, 300], [450, 200], [500, 350]])
    both = changed(overlay(picture, [pose(), other], SKELETON), picture)
    assert both[:, :200].sum() == one[:, :200].sum() > 0 and both[:, 300:].any()
    np.testing.assert_array_equal(overlay(picture, [], SKELETON), picture)


@pytest.mark.parametrize("offset", [-5000.0, 1e5, 9e5, 1e8])
def test_keypoints_outside_the_image(offset: float) -> None:
    picture = plain(120, 160)
    canvas = overlay(picture, [pose((np.array(POINTS) + offset).tolist())], SKELETON)
    assert (canvas == 90).all()


def test_a_huge_pose() -> None:
    canvas = overlay(plain(120, 160), [pose((np.array(POINTS) * 1e5).tolist())], SKELETON)
    assert canvas.shape == (360, 480, 3)


# --- image files ---


@pytest.mark.parametrize("suffix", [*IMAGE_SUFFIXES, ".PNG", ".Jpg"])
def test_images_are_written_and_read(tmp_path: Path, suffix: str) -> None:
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8), (0, 0), 3)
    path = tmp_path / f"a{suffix}"
    write_image(path, picture)  # type: ignore[arg-type]
    read = read_image(path)
    assert read.dtype == np.uint8 and read.shape == (40, 60, 3)
    lossless = suffix.lower() in (".png", ".bmp", ".tif", ".tiff")
    assert np.abs(read.astype(int) - picture).max() <= (0 if lossless else 40)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_images_are_read_as_colour(tmp_path: Path, channels: int) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((20, 30, channels), 7, np.uint8))
    picture = read_image(tmp_path / "a.png")
    assert picture.shape == (20, 30, 3) and (picture == 7).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", r"Cannot read .*missing\.png: No such file or directory\."),
        ("folder", r"Cannot read .*folder: Is a directory\."),
        ("empty.png", r"empty\.png is not an image that can be read\."),
        ("text.png", r"text\.png is not an image that can be read\."),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_no_image(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image", encoding="utf-8")
    with pytest.raises(UsageError, match=message) as caught:
        read_image(tmp_path / name)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a", "a.gif", "a.", "a.mp4", "/dev/full"])
def test_a_name_without_a_format(tmp_path: Path, image: NDArray[np.uint8], name: str) -> None:
    with pytest.raises(UsageError, match="has no image suffix") as caught:
        write_image(tmp_path / name, image)
    assert ".png" in caught.value.hint and list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    (tmp_path / "file").touch()
    for name, message in (("missing/a.png", "No such file"), ("file/a.png", "Not a directory")):
        with pytest.raises(OutputError, match=f"Cannot write .*: {message}") as caught:
            write_image(tmp_path / name, image)
        assert caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    (tmp_path / "a.png").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device") as caught:
        write_image(tmp_path / "a.png", image)
    assert "Free some space" in caught.value.hint


def test_the_images_of_a_folder(tmp_path: Path, image: NDArray[np.uint8]) -> None:
    for name in ("b.png", "a.JPG", "c.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in image_files(tmp_path)] == ["a.JPG", "b.png"]
    items, origin = boxed_images(tmp_path)
    assert [box for _, box in items] == [None, None] and origin == f"2 images of {tmp_path.name}"


def test_the_images_of_a_split(tmp_path: Path) -> None:
    samples = [{"image": f"{i}.png", "keypoints": [[1, 1]], "split": "train" if i else "val"} for i in range(3)]
    (tmp_path / "labels.json").write_text(json.dumps({"samples": samples}))
    for sample in samples:
        (tmp_path / str(sample["image"])).touch()
    for split, count, part in ((None, 3, ""), ("train", 2, ", split 'train'"), ("test", 3, "")):
        items, origin = boxed_images(tmp_path, split=split)
        assert len(items) == count and origin == f"{count} labelled images of {tmp_path.name}{part}"


@pytest.mark.parametrize("name", ["missing", "a.txt"])
def test_a_folder_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(UsageError, match=r"Cannot read .*: (No such file|Not a directory)") as caught:
        image_files(tmp_path / name)
    assert caught.value.hint


def test_a_pattern_stands_for_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a1.png", "a2.png", "b.png", "a.txt"):
        write_image(Path(name), np.zeros((4, 4, 3), np.uint8)) if name.endswith("png") else Path(name).touch()
    items, origin = boxed_images(Path("a*"))
    assert [file.name for file, box in items if box is None] == ["a1.png", "a2.png"] and origin == "2 images of a*"
    with pytest.raises(UsageError, match=r"^No image matches \*\.jpg\.") as caught:
        boxed_images(Path("*.jpg"))
    assert caught.value.hint.startswith("Images end in .jpg")
    Path("a[1].png").write_bytes(Path("b.png").read_bytes())
    assert image_files(Path("a[[]1].png")) == [Path("a[1].png")]


def test_a_folder_has_its_name_from_wherever_it_is_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hands").mkdir()
    cv2.imwrite(str(tmp_path / "hands" / "a.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "hands" / "boxes.json").write_text('{"samples": [{"image": "a.png", "box": [0, 0, 4, 4]}]}')
    monkeypatch.chdir(tmp_path / "hands")
    for path in (Path("boxes.json"), Path()):
        assert boxed_images(path)[1].endswith("images of hands")


def test_a_keypoint_that_is_not_finite_is_left_out() -> None:
    """As one is that nobody labelled."""
    image = np.zeros((600, 600, 3), np.uint8)
    keypoints = np.array([[100, 100], [np.nan, 0], [np.inf, 300]], np.float32)
    scores, box = np.ones(3, np.float32), np.array([50, 50, 400, 400], np.float32)
    skeleton = SkeletonSpec(("a", "b", "c"), ((0, 1), (1, 2)))
    drawn = overlay(image, [Pose(keypoints, scores, box)], skeleton)
    rows, columns = np.nonzero(drawn.any(axis=2))
    assert abs(rows - 100).max() < 40 and abs(columns - 100).max() < 40
    nobody = Pose(np.full((3, 2), np.nan, np.float32), scores, box)
    assert not overlay(image, [nobody], skeleton).any()
