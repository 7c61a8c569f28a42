"""Reading labels.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splite_deploy.errors import UsageError
from splite_deploy.metrics.labels import read_boxes, read_images, read_labels, read_scenes, tight_box

POINTS = [[10.5, 40.0], [30.0, 20.25], [20.0, 30.0]]
WORLD = [[0.0, 0, 400], [1, 2, 410], [3, 4, 420]]
SAMPLE = {"image": "images/a.jpg", "keypoints": POINTS}


def write(folder: Path, content: Any) -> Path:
    file = folder / "labels.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_tight_box_holds_the_points() -> None:
    box = tight_box(np.array(POINTS, np.float32))
    assert box.dtype == np.float64
    np.testing.assert_array_equal(box, [10.5, 20.25, 30.0, 40.0])


@pytest.mark.parametrize("by_folder", [True, False])
def test_reads_a_sample(tmp_path: Path, by_folder: bool) -> None:
    file = write(tmp_path, {"samples": [SAMPLE], "license": "anything else"})
    (sample,) = read_labels(tmp_path if by_folder else file)
    assert sample.path == tmp_path / "images" / "a.jpg"
    np.testing.assert_array_equal(sample.keypoints, POINTS)
    np.testing.assert_array_equal(sample.box, [10.5, 20.25, 30.0, 40.0])
    assert sample.world_mm is None


def test_a_given_box_and_world_points_are_taken(tmp_path: Path) -> None:
    write(tmp_path, {"samples": [{**SAMPLE, "box": [1, 2, 3, 4.5], "world_mm": WORLD}]})
    (sample,) = read_labels(tmp_path)
    np.testing.assert_array_equal(sample.box, [1, 2, 3, 4.5])
    np.testing.assert_array_equal(sample.world_mm, WORLD)  # type: ignore[arg-type]
    assert sample.world_mm is not None and sample.world_mm.dtype == np.float64


@pytest.mark.parametrize(("split", "expected"), [(None, "abc"), ("val", "b"), ("train", "a")])
def test_split_keeps_its_samples_in_order(tmp_path: Path, split: str | None, expected: str) -> None:
    splits = {"a": {"split": "train"}, "b": {"split": "val"}, "c": {}}
    write(tmp_path, {"samples": [{"image": name, "keypoints": POINTS, **extra} for name, extra in splits.items()]})
    assert "".join(sample.path.name for sample in read_labels(tmp_path, split=split)) == expected


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("{", "is not a labels file", 'a list "samples"'),
        ([SAMPLE], "is not a labels file: it has no samples.", 'a list "samples"'),
        (5, "is not a labels file: it has no samples.", 'a list "samples"'),
        ({"images": []}, "is not a labels file: it has no samples.", 'a list "samples"'),
        ({"samples": 5}, "is not a labels file: its samples are no list.", 'a list "samples"'),
        ({"samples": {"a": SAMPLE}}, "is not a labels file: its samples are no list.", 'a list "samples"'),
        ({"samples": []}, "holds no sample.", "A sample looks like"),
    ],
    ids=["no json", "a list", "a number alone", "no samples", "a number", "an object", "empty"],
)
def test_refuses_a_file_that_holds_no_samples(tmp_path: Path, content: Any, message: str, hint: str) -> None:
    file = write(tmp_path, content)
    with pytest.raises(UsageError) as caught:
        read_labels(file)
    assert f"{file} {message}" in caught.value.message
    assert hint in caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read_labels(tmp_path)
    assert str(tmp_path / "labels.json") in caught.value.message
    assert "labels.json or its folder" in caught.value.hint


def test_a_split_without_samples_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"samples": [{**SAMPLE, "split": "train"}]})
    with pytest.raises(UsageError, match="holds no sample in split 'test'"):
        read_labels(tmp_path, split="test")


@pytest.mark.parametrize("split", [None, "train"])
@pytest.mark.parametrize(
    "sample",
    [
        "a.jpg",
        [1, 2],
        {"keypoints": POINTS, "split": "train"},
        {"image": "a.jpg", "split": "train"},
        {**SAMPLE, "split": "train", "image": 3},
        {**SAMPLE, "split": "train", "keypoints": []},
        {**SAMPLE, "split": "train", "keypoints": [1, 2, 3]},
        {**SAMPLE, "split": "train", "keypoints": [[1, 2, 3, 4]]},
        {**SAMPLE, "split": "train", "keypoints": [[1, 2], [3]]},
        {**SAMPLE, "split": "train", "keypoints": [["x", "y"]]},
        {**SAMPLE, "split": "train", "keypoints": [[1, None]]},
        {**SAMPLE, "split": "train", "keypoints": [[1, float("nan")]]},
        {**SAMPLE, "split": "train", "box": [1, 2, 3]},
        {**SAMPLE, "split": "train", "box": None},
        {**SAMPLE, "split": "train", "world_mm": WORLD[:2]},
        {**SAMPLE, "split": "train", "world_mm": POINTS},
    ],
    ids=repr,
)
def test_a_malformed_sample_is_counted(tmp_path: Path, sample: Any, split: str | None) -> None:
    write(tmp_path, {"samples": [{**SAMPLE, "split": "train"}, sample]})
    with pytest.raises(UsageError) as caught:
        read_labels(tmp_path, split=split)
    assert "sample 1 is malformed" in caught.value.message
    assert '"keypoints": [[x, y], ...]' in caught.value.hint


def test_the_example_of_the_page_is_read(root: Path, tmp_path: Path) -> None:
    example = (root / "docs" / "labels.md").read_text(encoding="utf-8").split("```json\n")[1].split("```")[0]
    write(tmp_path, example)
    (one,), boxes = read_labels(tmp_path), read_boxes(tmp_path)
    assert one.path == tmp_path / "images/a.jpg" and len(one.keypoints) == 2
    assert [box.box.tolist() for box in boxes] == [[790.25, 401.5, 812.5, 430.0], [100, 80, 420, 400]]


def test_keypoints_without_a_label_are_marked(tmp_path: Path) -> None:
    write(tmp_path, {"samples": [{"image": "a.jpg", "keypoints": [[1, 2, 1], [0, 0, 0], [5, 9, 2]]}]})
    (one,) = read_labels(tmp_path)
    np.testing.assert_array_equal(one.mask, [True, False, True])
    np.testing.assert_array_equal(one.box, [1, 2, 5, 9])
    assert one.side_px == 7


def test_a_byte_order_mark_is_none_of_the_content(tmp_path: Path) -> None:
    write(tmp_path, "\ufeff" + json.dumps({"samples": [SAMPLE]}))
    assert len(read_labels(tmp_path)) == 1


def test_json_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "[" * 100_000)
    with pytest.raises(UsageError, match="is not a labels file"):
        read_labels(tmp_path)


def test_boxes_alone_measure_no_accuracy(tmp_path: Path) -> None:
    write(tmp_path, {"samples": [{"image": "a.jpg", "box": [1, 2, 5, 9]}]})
    assert read_boxes(tmp_path)[0].box.tolist() == [1, 2, 5, 9]
    with pytest.raises(UsageError, match="holds boxes without keypoints"):
        read_labels(tmp_path)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"width": -1}, "width is no number of pixels"),
        ({"height": 1e308}, "height is no number of pixels"),
        ({"subject": {}}, "subject is neither a text nor a number"),
        ({"image": "n" * 5000}, "image is a text of 5,000 letters"),
    ],
)
def test_facts_beside_the_points_that_are_none(tmp_path: Path, extra: dict[str, Any], said: str) -> None:
    write(tmp_path, {"samples": [{**SAMPLE, "width": 64, "height": 48, "subject": "a"}]})
    assert len(read_labels(tmp_path)) == 1
    write(tmp_path, {"samples": [{**SAMPLE, **extra}]})
    with pytest.raises(UsageError) as caught:
        read_labels(tmp_path)
    assert caught.value.message.endswith(f"sample 0 is malformed: {said}.") and len(caught.value.message) < 300


def test_a_picture_has_several_boxes_or_none(tmp_path: Path) -> None:
    several = [SAMPLE, {"image": "images/a.jpg", "box": [1, 2, 30, 40]}, {"image": "images/a.jpg", "box": [5, 5, 9, 9]}]
    several[2]["ignore"] = True
    empty = {"image": "images/b.jpg", "empty": True, "split": "val"}
    file = write(tmp_path, {"samples": [*several, empty, {**SAMPLE, "ignore": True, "image": "c.jpg"}]})
    scenes = read_scenes(file)
    a, b, c = (tmp_path / name for name in ("images/a.jpg", "images/b.jpg", "c.jpg"))
    assert list(scenes) == [a, b, c] and read_images(file) == {a: None, b: None, c: None}
    np.testing.assert_array_equal(scenes[a].labelled, [[10.5, 20.25, 30, 40], [1, 2, 30, 40]])
    np.testing.assert_array_equal(scenes[a].ignored, [[5, 5, 9, 9]])
    assert scenes[b].labelled.shape == scenes[b].ignored.shape == scenes[c].labelled.shape == (0, 4)
    assert scenes[c].ignored.shape == (1, 4) and scenes[a].crowds.shape == (0, 4)
    assert list(read_scenes(file, split="val")) == [b]
    assert [one.path for one in read_labels(file)] == [a]
    assert [one.path for one in read_boxes(file)] == [a, a]


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({**SAMPLE, "empty": True}, "it says empty, and has keypoints"),
        ({"image": "a.jpg", "empty": 1}, "empty is neither true nor false"),
        ({**SAMPLE, "ignore": "yes"}, "ignore is neither true nor false"),
        ({"image": "a.jpg", "empty": False}, "it has no 'keypoints'"),
    ],
)
def test_what_is_empty_or_ignored_is_said_plainly(tmp_path: Path, sample: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"sample 0 is malformed: {said}"):
        read_scenes(write(tmp_path, {"samples": [sample]}))
