"""The page of `bench --html` in a real browser: at three widths, light and dark, on paper, and without a network."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import browser as browsers
import pytest
from bench_results import picture, three, timed
from browser import Browser

from splite_deploy.bench.recommend import candidates_of, recommend
from splite_deploy.bench.report.html import html_page
from splite_deploy.bench.result import BenchResult, Windows
from splite_deploy.bundle.report import BoxAccuracy, Layer

WIDTHS_PX = (360, 800, 1280)
PAPER_PX = 688
"""A4 without its margins."""

BEYOND = """[...document.querySelectorAll("body *")].filter((one) => {
    const place = one.getBoundingClientRect();
    return place.width && !one.closest("thead") && (place.right > innerWidth + 1 || place.left < -1);
}).map((one) => one.outerHTML.slice(0, 200))"""
"""What lies outside of the window, even where nothing can be scrolled to see it."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsers.browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


def whole() -> str:
    results = three(manifest_sha256="12" * 32)
    pictures = {0: [picture()], 2: [picture(), picture("median", 200)]}
    left_out = ["Left out hand.splite trt fp16: The backend 'trt' needs tensorrt. Install it: pip install tensorrt."]
    return html_page(results, pictures, recommend(candidates_of(results), budget_ms=1.3), left_out=left_out)


def dozens() -> str:
    """With names as long as they come, and an unsteady result among them."""
    layers = tuple(Layer("a_layer_with_a_long_name_" * 9, "Conv" * 12, "float32[float16]", 3.0) for _ in range(3))
    results = [
        timed(
            bundle=f"{'a-bundle-with-a-name-that-is-long' * (1 + index % 3)}{index}.splite",
            artifact_sha256=f"{index:064x}",
            layers=layers,
            windows=Windows(100, (1.0, 1.5, 2.0), index % 5 > 0, 0.03),
        )
        for index in range(40)
    ]
    return html_page(results)


def alone() -> str:
    one = timed()
    bare = dataclasses.replace(one, bundle="", precision=None, deviation=None, accuracy=None, sustained=None, layers=())
    stages = {"model_only": one.stages["model_only"]}
    return html_page([dataclasses.replace(bare, stages=stages, samples_ms={})])


def detector() -> str:
    boxes = BoxAccuracy(337, 0.91, 0.62, 0.4, 0.88, 0.6, 100, 0.04)

    def found(one: BenchResult) -> BenchResult:
        assert one.accuracy is not None
        return dataclasses.replace(one, people_per_image=2.5, accuracy=dataclasses.replace(one.accuracy, boxes=boxes))

    return html_page(list(map(found, three())))


@pytest.mark.parametrize("make", [whole, dozens, alone, detector])
def test_it_fits_every_width_and_loads_nothing(make: Callable[[], str], browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(make(), encoding="utf-8")
    browser.resize(WIDTHS_PX[0], 900)
    browser.open(file.as_uri())
    for width in WIDTHS_PX:
        for dark in (False, True):
            browser.resize(width, 900, dark=dark)
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.value(BEYOND) == []
            paper = browser.value("getComputedStyle(document.body).backgroundColor")
            assert paper == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    browser.resize(PAPER_PX, 1000)
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert browser.value("document.documentElement.scrollWidth") <= PAPER_PX
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
    assert base64.b64decode(browser.call("Page.printToPDF")["data"]).startswith(b"%PDF")
    loaded = "performance.getEntriesByType('resource').map((one) => one.name)"
    assert [one for one in browser.value(loaded) if not one.startswith("data:")] == []
    assert browser.complaints == []
