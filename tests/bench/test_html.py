"""The page: self-contained, well-formed, complete and small; and the pictures in it."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from bench_results import EVALUATION, IMAGE, bench_result

from splite_deploy.bench.recommend import Recommendation
from splite_deploy.bench.report.html import html_page
from splite_deploy.bench.report.pictures import SIDE_PX, Picture, close_up, draw_pictures
from splite_deploy.bench.report.tables import markdown_text
from splite_deploy.bench.result import BenchResult, ImageError, Windows
from splite_deploy.bundle.report import BoxAccuracy
from splite_deploy.errors import MissingDependencyError, UsageError
from splite_deploy.runtime.io.images import write_image
from splite_deploy.runtime.pose import Pose
from splite_deploy.spec import SkeletonSpec

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks that every element is closed by its own tag; collects texts and addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def timed(count: int = 500, **changes: object) -> BenchResult:
    times = np.random.default_rng(0).gamma(9, 0.2, count)
    return bench_result(samples_ms={"end_to_end": tuple(times.tolist())}, **changes)


def jpeg() -> bytes:
    return bytes(cv2.imencode(".jpg", np.zeros((32, 32, 3), np.uint8))[1].tobytes())


def test_what_to_ship_is_said_at_the_top() -> None:
    found = Recommendation("ort fp32", 0, "Ship <ort> fp32.", ("INT8 does not pay here.",), (1.0,))
    page = Page(html_page([timed()], recommendation=found))
    assert "Ship <ort> fp32. INT8 does not pay here." in page.text
    assert "Ship" not in Page(html_page([timed()])).text


def test_the_page_is_self_contained_and_holds_every_part() -> None:
    results = [timed(), timed(precision="int8", bundle="other.splite", threads=2)]
    page = Page(html_page(results, {1: [Picture("worst", IMAGE, jpeg())]}))
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.addresses)
    text = page.text
    for title in (
        "At a glance",
        "Latency, distributions",
        "Where the time goes",
        "Accuracy against latency",
        "Size, memory, start-up",
        "Under load, over time",
        "Layer by layer",
        "What it looks like",
        "Environment",
        "What was measured, and how",
    ):
        assert title in text
    assert "other.splite · ort int8, 2 threads" in text
    assert "ab" * 32 in text
    assert "images/0.jpg" in text
    assert "8.50 % of the box" in text
    assert "10.25 mJ per frame on VDD_IN" in text
    assert "Not available: clock of the memory" in text
    assert "Test CPU" in text
    assert page.tags.count("polygon") == 2


def test_what_was_not_measured_has_no_section() -> None:
    bare = bench_result(
        samples_ms={}, accuracy=None, memory=None, startup=None, sustained=None, layers=(), model_bytes=None
    )
    page = Page(html_page([bare]))
    for title in ("Accuracy against", "Size, memory", "Under load", "Layer by layer", "What it looks like"):
        assert title not in page.text
    assert "polygon" not in page.tags
    assert "Do not quote" not in page.text


def test_a_file_without_a_bundle_has_a_page() -> None:
    whole = timed()
    alone = dataclasses.replace(
        whole,
        bundle="",
        precision=None,
        stages={"model_only": whole.stages["model_only"]},
        samples_ms={"model_only": whole.samples_ms["end_to_end"]},
        image_width_px=0,
    )
    text = Page(html_page([alone])).text
    assert "model.onnx · ort" in text
    assert "Where the time goes" not in text
    assert "no manifest" not in text
    engine = dataclasses.replace(alone, backend="trt", artifact_file="model.engine")
    assert "no manifest" in Page(html_page([engine])).text


def test_unsteady_results_are_marked() -> None:
    text = Page(html_page([timed(windows=Windows(100, (1.0, 1.5, 2.0), False, 0.03))])).text
    assert "unsteady" in text
    assert "Do not quote these figures" in text


def test_names_are_no_markup() -> None:
    text = html_page([timed(bundle="<b>&.splite")])
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;.splite" in text


def test_machines_are_apart() -> None:
    one = timed()
    other = timed(environment=dataclasses.replace(one.environment, board="Some Board"))
    busy = timed(environment=dataclasses.replace(one.environment, load_average_1min=9.0))
    text = Page(html_page([one, other, busy])).text
    assert "results 1, 3" in text
    assert "Some Board results 2" in text


def test_layers_of_a_file_are_shown_once() -> None:
    results = [timed(), timed(threads=2), timed(artifact_sha256="cd" * 32)]
    assert html_page(results).count("The slowest 1 of 2 layers") == 2


def test_a_large_matrix_stays_small() -> None:
    results = [timed(2000, precision=precision) for precision in ("fp32", "fp16", "int8") for _ in range(12)]
    assert len(html_page(results).encode()) < 500_000


def test_nothing_to_show() -> None:
    with pytest.raises(UsageError, match="no result"):
        html_page([])


def test_without_jinja2_the_command_to_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingDependencyError, match="needs Jinja2") as caught:
        html_page([timed()])
    assert "pip install 'splite-deploy[report]'" in caught.value.hint


SKELETON = SkeletonSpec(("a", "b"), ((0, 1),))


@pytest.mark.parametrize("size", [(100, 100), (3000, 4000)])
def test_a_close_up_shows_the_box_and_where_the_keypoints_are(size: tuple[int, int]) -> None:
    height, width = size
    box = (0.5 * width, 0.4 * height, 0.75 * width, 0.65 * height)
    inside = np.array([[box[0], box[1]], [box[2], box[3]]], np.float32)
    pose = Pose(inside, np.ones(2, np.float32), np.array(box, np.float32), None, None)
    shown = close_up(np.zeros((height, width, 3), np.uint8), pose, box, SKELETON)
    side = max(shown.shape[:2])
    assert SIDE_PX * 0.9 < side < SIDE_PX * 1.1
    ys, xs = np.nonzero(shown.max(axis=2) > 60)
    # the box is 1 / 1.6 of what is shown, in its middle
    assert xs.min() / shown.shape[1] == pytest.approx(0.3 / 1.6, abs=0.04)
    assert ys.max() / shown.shape[0] == pytest.approx(1.3 / 1.6, abs=0.04)


def test_pictures_of_the_images_that_the_accuracy_names(tiny_bundle: Path, tmp_path: Path) -> None:
    errors = []
    for index in range(4):
        image = np.full((80, 90, 3), 50 * index, np.uint8)
        write_image(tmp_path / f"{index}.png", image)  # type: ignore[arg-type]
        errors.append(ImageError(f"{index}.png", (10.0, 10.0, 60.0, 70.0), 9.0 - index))
    accuracy = dataclasses.replace(EVALUATION, worst=tuple(errors), median=tuple(errors[2:3]))
    result = bench_result(accuracy=accuracy, threads=1)
    found = draw_pictures(result, tiny_bundle, tmp_path / "labels.json")
    assert [(picture.kind, picture.error.image) for picture in found] == [
        ("worst", "0.png"),
        ("worst", "1.png"),
        ("median", "2.png"),
    ]
    for picture in found:
        image = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert max(image.shape) <= SIDE_PX * 1.1
        assert len(picture.jpeg) < 60_000
    assert found[0].jpeg != found[1].jpeg


def test_pictures_need_accuracy(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no accuracy") as caught:
        draw_pictures(bench_result(accuracy=None), tiny_bundle, tmp_path)
    assert "--eval" in caught.value.hint


def test_every_colour_of_the_page_is_defined(root: Path) -> None:
    source = (root / "splite_deploy/bench/report/templates/report.html.j2").read_text(encoding="utf-8")
    used = set(re.findall(r"var\(--([a-z]+\d?)\)", source))
    assert used <= set(re.findall(r"--([a-z]+\d?):", source))


def test_the_page_says_how_well_boxes_are_found() -> None:
    boxes = BoxAccuracy(337, 0.91, 0.62, 0.4, 0.88, 0.6, 100, 0.04)
    page = Page(html_page([timed(accuracy=dataclasses.replace(EVALUATION, boxes=boxes))]))
    assert "337 boxes: AP@0.3 0.9100, AP@0.5 0.6200" in page.text
    assert "recall at 0.4: 0.8800 (overlap 0.3), 0.6000 (0.5)" in page.text
    assert "0.040 false alarms in each of 100 pictures that show nothing" in page.text
    assert "AP@0.5" not in Page(html_page([timed(accuracy=EVALUATION)])).text


def test_a_detector_that_finds_nobody_has_no_error_on_the_page() -> None:
    boxes = BoxAccuracy(337, 0.0, 0.0, 0.4, 0.0, 0.0, 100, 0.0)
    nobody = {"images": 0, **dict.fromkeys(("epe_px", "epe_box_pct", "pck_05", "pck_auc"))}
    result = timed(accuracy=dataclasses.replace(EVALUATION, boxes=boxes, worst=(), median=(), **nobody))
    page = Page(html_page([result, result], {0: ()}))
    assert "337 boxes: AP@0.3 0.0000" in page.text and "What it looks like" not in page.text
    assert page.text.count("337 boxes") == 2
    assert markdown_text([result]).splitlines()[2].endswith("|  |")
