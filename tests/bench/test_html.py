"""The page: self-contained, well-formed, complete and small; and the pictures in it."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from bench_results import EVALUATION, bench_result, picture, three, timed

from splite_deploy.bench.recommend import Recommendation, candidates_of, recommend
from splite_deploy.bench.report.html import MOST_BYTES, html_page
from splite_deploy.bench.report.overview import columns_of, groups_of
from splite_deploy.bench.report.pictures import (
    OURS_BGR,
    REFERENCE_BGR,
    SIDE_PX,
    Marks,
    beside,
    close_up,
    draw_golden,
    draw_pictures,
)
from splite_deploy.bench.report.sections import MOST_RIDGES, SHOWN_FILES
from splite_deploy.bench.report.tables import markdown_text
from splite_deploy.bench.result import ImageError, KeypointDeviation, Windows
from splite_deploy.bundle import Bundle
from splite_deploy.bundle.report import BoxAccuracy, Layer, Percentiles
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
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def test_the_page_opens_with_what_to_ship() -> None:
    found = Recommendation("ort fp32", 0, "Ship <ort> fp32.", ("INT8 does not pay here.",), (1.0,))
    page = Page(html_page([timed()], recommendation=found))
    assert page.text.split("Results")[0].startswith(
        "Benchmark of hand Benchmark of hand Ship <ort> fp32. p50 2.000 ms p99 "
    )
    assert "INT8 does not pay here." in page.text.split("Results")[0]
    alone = Page(html_page([timed()])).text
    assert "Ship ort fp32 The only one here within its limits, 1.000 ms at the least" in alone and "budget" not in alone
    twice = Page(html_page([timed(), timed(threads=2)])).text
    assert "These results are not ranked They differ in machine, threads or batch, or repeat a file." in twice


def test_the_opening_has_the_budget_what_does_not_pay_and_a_picture() -> None:
    results = three()
    found = recommend(candidates_of(results), budget_ms=1.3)
    assert found.index == 2
    pictures = {0: [picture()], 2: [picture(), picture("median")]}
    page = html_page(results, pictures, found, left_out=["Left out trt fp16: it needs a GPU."])
    text = Page(page).text.split("Results")[0]
    assert "Ship ort int8 The fastest here within its limits" in text
    assert "✓ It keeps the budget of 1.3 ms (769 frames per second): p99 1.200 ms." in text
    assert text.count("budget") == 1
    assert "FP16 does not pay here: ort fp16 takes 1.000 ms" in text
    assert "Left out trt fp16: it needs a GPU." in text
    assert "Keypoints move by, p95 0.400 px" in text
    assert "What ort int8 finds in the median image: 8.50 % of the box, compared with the labels" in text
    assert page.index("<img") < page.index('id="results"')
    missed = Page(html_page(results, recommendation=recommend(candidates_of(results), budget_ms=0.5))).text
    assert "✗ It does not keep the budget of 0.5 ms (2e+03 frames per second): p99 1.200 ms;" in missed


def test_one_table_has_every_figure_and_no_empty_column() -> None:
    page = Page(html_page(three(), recommendation=recommend(candidates_of(three()), budget_ms=1.3)))
    head = page.text.split("Results")[2].split("Times are")[0]
    for title in ("Time, ms", "Keypoints move by, px", "Depth moves by, mm", "Size, MB", "Error, % of box", "PCK"):
        assert title in head
    for title in ("Speed-up", "Ran in", "Steady", "✗ 2.400", "✓ 1.200", "<0.001", "0.02", "0.250", "int8"):
        assert title in head
    assert "AP@0.5" not in head and "AP (OKS)" not in head
    columns = columns_of(three(), None)
    assert "Speed-up" not in [column.head for column in columns]
    assert sum(count for _, count in groups_of(columns)) == len(columns)
    bare = timed(accuracy=None, deviation=None, layers=(), windows=None, model_bytes=None)
    assert [column.label for column in columns_of([bare], None)] == ["Time, ms, p50", "Time, ms, p99", "Frames/s"]


def test_results_over_their_limits_and_those_that_cannot_be_shipped() -> None:
    over = KeypointDeviation(
        "measured", 8, "", *(2 * (Percentiles(0.1, 4.0, 9.0),)), None, "", ("keypoint deviation p95 4 px (limit 1)",)
    )
    text = Page(html_page([timed(deviation=over)])).text
    assert "Ship none of them Ort fp32 is over its limits." in text
    assert "ort fp32 is over its limits: keypoint deviation p95 4 px (limit 1)." in text
    assert "no network ran" in Page(html_page([timed(backend="replay")])).text


def test_the_outcome_of_a_comparison_opens_its_page() -> None:
    text = Page(html_page([timed(), timed()], compared=["hand.splite ort fp32: no difference."])).text
    assert "Benchmark of hand hand.splite ort fp32 No difference." in text and "Ship" not in text


def test_deviation_is_drawn_where_there_are_no_labels() -> None:
    text = Page(html_page(three(accuracy=None))).text
    assert "Deviation over latency Lower left is better." in text
    assert "What is below 0.001 lies at 0.001" in text
    assert "Accuracy over latency" in Page(html_page(three())).text
    assert "over latency" not in Page(html_page(three()[:1])).text


def test_no_chart_has_a_single_bar() -> None:
    one = html_page([timed()])
    assert "Memory and start-up" in one and "A cold start imports in" in one
    assert "Peak memory of a process" not in one
    assert len(re.findall(r'class="(?:preprocess|inference|decode|other)" style="width', one)) == 4
    single = html_page([timed(layers=(Layer("/a", "Conv", "float32", 9.0),))])
    assert 'class="bars"' not in single and 'class="bars"' in html_page(three())
    assert "Peak memory of a process" in html_page(three())


def test_manifests_and_files_have_their_hashes() -> None:
    page = html_page(three(manifest_sha256="12" * 32))
    assert 'href="#hashes"' in page and 'id="hashes"' in page
    for sha256 in ("ab", "cd", "ef", "12"):
        assert sha256 * 32 in page
    assert "hand.splite/manifest.json" in page
    assert "manifest.json" not in html_page(three())


def test_a_detector_is_drawn_by_its_average_precision() -> None:
    boxes = [BoxAccuracy(337, 0.91, ap, 0.4, 0.88, 0.6, 100, 0.04) for ap in (0.62, 0.61, 0.4)]
    results = [
        dataclasses.replace(one, accuracy=dataclasses.replace(EVALUATION, boxes=found))
        for one, found in zip(three(), boxes, strict=True)
    ]
    text = Page(html_page(results)).text
    assert "Accuracy over latency Upper left is better." in text
    assert "average precision of boxes, AP@0.5" in text
    section = html_page(results).split('id="tradeoff"')[1]
    heights = [float(y) for y in re.findall(r'class="point[^"]*" style="left:[\d.]+%;bottom:([\d.]+)%', section)]
    assert heights[0] > heights[1] > heights[2]


def test_pictures_that_would_make_the_page_too_large_are_left_out() -> None:
    many = [picture("median" if not index else "worst", 500) for index in range(12)]
    page = html_page([timed()], {0: many})
    assert len(page.encode()) < MOST_BYTES
    shown = page.count("<figure>")
    assert 2 <= shown < 13
    assert f"{12 - (shown - 1)} more would make the page too large." in page
    assert "What ort fp32 finds in the median image" in page


def test_the_page_is_self_contained_and_holds_every_part() -> None:
    results = [timed(), timed(precision="int8", bundle="other.splite", threads=2)]
    source = html_page(results, {1: [picture()]})
    page = Page(source)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "url(" not in source and "@import" not in source
    assert [address[:23] for address in page.addresses if not address.startswith("#")] == ["data:image/jpeg;base64,"]
    text = page.text
    titles = (
        "Results Artifact",
        "Accuracy over latency Lower",
        "Latency, distributions",
        "Where the time goes",
        "Memory and start-up",
        "Several at once",
        "Under load, over time",
        "Ours against the reference",
        "Machine Test CPU",
        "Files and hashes SHA-256",
        "Layer by layer",
    )
    places = [text.find(title) for title in titles]
    assert places == sorted(places) and places[0] > 0
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
    for title in ("over latency", "Memory and", "Under load", "Layer by layer", "Ours against"):
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


@pytest.mark.parametrize(("count", "most_bytes"), [(36, 500_000), (120, MOST_BYTES)])
def test_a_large_matrix_stays_small(count: int, most_bytes: int) -> None:
    layers = tuple(Layer(f"/layer{index}" * 40, "Conv", "float32", 1.0 + index) for index in range(100))
    results = [timed(2000, layers=layers, artifact_sha256=f"{index:064x}", sustained=None) for index in range(count)]
    page = html_page(results)
    assert len(page.encode()) < most_bytes
    assert f"Those of {count - SHOWN_FILES} more files are in the lines of --json." in page
    assert ("<polygon" in page) == (count <= MOST_RIDGES)


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
    errors, samples = [], []
    points = np.linspace(20, 50, 2 * Bundle.open(tiny_bundle).model.keypoint_count).reshape(-1, 2).tolist()
    for index in range(4):
        image = np.full((80, 90, 3), 50 * index, np.uint8)
        write_image(tmp_path / f"{index}.png", image)  # type: ignore[arg-type]
        errors.append(ImageError(f"{index}.png", (10.0, 10.0, 60.0, 70.0), 9.0 - index))
        samples.append({"image": f"{index}.png", "keypoints": points, "box": [10, 10, 60, 70]})
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"samples": samples}), encoding="utf-8")
    accuracy = dataclasses.replace(EVALUATION, worst=tuple(errors), median=tuple(errors[2:3]))
    result = bench_result(accuracy=accuracy, threads=1)
    found = draw_pictures(result, tiny_bundle, labels)
    assert [(one.kind, one.name) for one in found] == [("worst", "0.png"), ("worst", "1.png"), ("median", "2.png")]
    assert [one.difference for one in found] == ["9.00 % of the box", "8.00 % of the box", "7.00 % of the box"]
    for one in found:
        for jpeg in (one.ours, one.both):
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert max(image.shape) <= SIDE_PX * 1.1
            assert len(jpeg) < 60_000
    assert found[0].ours != found[1].ours
    assert not near(found[0].ours, REFERENCE_BGR) and near(found[0].both, REFERENCE_BGR)


def near(jpeg: bytes, colour: tuple[int, int, int]) -> bool:
    """Whether a picture has something of about a colour."""
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).astype(int)
    return bool((np.abs(image - colour).max(axis=2) < 40).any())


def test_golden_crops_beside_what_the_original_network_found(tiny_bundle: Path) -> None:
    median, worst = draw_golden(bench_result(threads=1), tiny_bundle)
    assert (median.kind, worst.kind) == ("median", "worst")
    assert median.name != worst.name and worst.name.startswith("golden crop ")
    assert worst.reference == "original network" and worst.difference == "less than 0.001 px apart"
    assert near(worst.both, OURS_BGR) and near(worst.both, REFERENCE_BGR)


@pytest.mark.parametrize("keypoints", [2, 0])
def test_ours_and_the_reference_are_apart_by_colour(keypoints: int) -> None:
    points = np.array([[20.0, 20.0], [80.0, 80.0]])[:keypoints]
    ours = Marks(points, np.ones(keypoints, bool), np.array([20.0, 20.0, 80.0, 80.0]))
    reference = dataclasses.replace(ours, points=points + 8, box=ours.box + 8)
    skeleton = SKELETON if keypoints else SkeletonSpec((), ())
    drawn = beside(np.full((100, 100, 3), 128, np.uint8), [ours], [reference], skeleton)
    assert max(drawn.shape) == SIDE_PX
    for place, colour in ((20, OURS_BGR), (28, REFERENCE_BGR)):
        x = round(4.8 * place)
        around = drawn[x - 9 : x + 10, x - 9 : x + 10].astype(int)
        assert (np.abs(around - colour).max(axis=2) < 20).any()


def test_pictures_need_accuracy(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no accuracy") as caught:
        draw_pictures(bench_result(accuracy=None), tiny_bundle, tmp_path)
    assert "--eval" in caught.value.hint


def test_every_colour_of_the_page_is_defined(root: Path) -> None:
    folder = root / "splite_deploy/bench/report/templates"
    source = "".join(file.read_text(encoding="utf-8") for file in sorted(folder.iterdir()))
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
    assert "337 boxes: AP@0.3 0.0000" in page.text and "Ours against" not in page.text
    assert page.text.count("337 boxes") == 2
    assert markdown_text([result]).splitlines()[2].endswith("|  |")
