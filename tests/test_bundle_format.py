"""docs/bundle-format.md says what is computed: an example reads a bundle by it alone, and its steps give its crops."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bundle import GOLDEN, MANIFEST, Bundle, write_golden
from splite_deploy.bundle.schema import SCHEMAS
from splite_deploy.decoders import SoftArgmaxDepth, decode
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import InputSpec

ALONE = """
import runpy, sys
sys.modules["splite_deploy"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def read(root: Path, bundle: Path) -> subprocess.CompletedProcess[str]:
    """Runs the example where nothing of the package can be imported."""
    arguments = [root / "examples/read_bundle.py", bundle, root / "splite_deploy/bundle/manifest.schema.json"]
    return subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, timeout=60)


def test_the_example_reads_a_bundle(root: Path, tiny_bundle: Path) -> None:
    done = read(root, tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert "model.onnx: " in done.stdout and "golden.bin: " in done.stdout
    assert "tiny: 5 keypoints of the first golden crop, at most " in done.stdout
    assert len((root / "examples/read_bundle.py").read_text(encoding="utf-8").splitlines()) <= 60


@pytest.mark.parametrize("alignment", ["corner", "centre", "udp"])
def test_the_example_decodes_every_alignment(root: Path, tiny_bundle: Path, tmp_path: Path, alignment: str) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "t.splite")
    bundle, golden = Bundle.open(path), Bundle.open(path).golden()
    assert isinstance(bundle.model.decoder, SoftArgmaxDepth)
    decoder = dataclasses.replace(bundle.model.decoder, alignment=alignment)  # type: ignore[arg-type]
    model = dataclasses.replace(bundle.model, decoder=decoder)
    golden = dataclasses.replace(golden, decoded=decode(golden.outputs, model))
    described = write_golden(path / GOLDEN, golden)
    manifest = dataclasses.replace(bundle.manifest, model=model, golden=described)
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    done = read(root, path)
    assert done.returncode == 0, done.stderr
    wrong = {"corner": "udp", "centre": "corner", "udp": "centre"}[alignment]
    decoder = dataclasses.replace(decoder, alignment=wrong)  # type: ignore[arg-type]
    manifest = dataclasses.replace(manifest, model=dataclasses.replace(model, decoder=decoder))
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    done = read(root, path)
    assert done.returncode == 1 and "px off" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (MANIFEST, "the manifest was changed"),
        (GOLDEN, "golden.bin is another file"),
        ("model.onnx", "model.onnx is another"),
    ],
)
def test_the_example_refuses_what_was_changed(
    root: Path, tiny_bundle: Path, tmp_path: Path, name: str, message: str
) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "t.splite")
    content = (path / name).read_bytes()
    (path / name).write_bytes(content.replace(b"tiny", b"tinz", 1) if name == MANIFEST else content[:-1] + b"?")
    done = read(root, path)
    assert done.returncode == 1 and f"AssertionError: {message}" in done.stderr


def test_the_page_names_every_field(root: Path) -> None:
    page = (root / "docs/bundle-format.md").read_text(encoding="utf-8")
    schema = SCHEMAS["manifest.schema.json"]()
    names = {name for table in (schema, *schema["$defs"].values()) for name in table["properties"]}
    assert [name for name in sorted(names) if f"{name}`" not in page and f'"{name}"' not in page] == []
    from splite_deploy.decoders import DECODERS

    assert [name for name in DECODERS if f"### `{name}`" not in page] == []


# --- preprocessing, step by step as the page has it ---


def crop_by_the_page(image: NDArray[np.uint8], box: NDArray[np.float64], spec: InputSpec) -> NDArray[np.float64]:
    """Steps 1 to 3 for an image in the channel order of the input."""
    x0, y0, x1, y1, *angle = box
    a = math.radians(angle[0]) if angle else 0.0
    turn = np.array([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    s = min(spec.width / (x1 - x0), spec.height / (y1 - y0)) / spec.box_padding
    size = np.array([spec.width, spec.height])
    offset = size / 2 - s * turn @ np.array([x0 + x1, y0 + y1]) / 2
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * size
    levels = image.astype(np.float64)
    m = math.floor(math.log2(1 / s)) if s < 1 else 0
    f = 2**m
    if m > 0:
        seen = (corners - offset) @ turn / s
        low = np.maximum(0, np.floor(seen.min(axis=0) - 2 * f)).astype(int)
        high = np.minimum(image.shape[1::-1], np.ceil(seen.max(axis=0) + 2 * f)).astype(int)
        blocks = (high - low) // f
        if blocks.min() > 0:
            high = low + blocks * f
            levels = levels[low[1] : high[1], low[0] : high[0]]
            for _ in range(m):
                rows, columns = levels.shape[0] // 2, levels.shape[1] // 2
                levels = np.floor(levels.reshape(rows, 2, columns, 2, 3).mean(axis=(1, 3)) + 0.5)
            offset, s = offset + s * turn @ low, s * f
    rows, columns = levels.shape[:2]
    grey = np.full((rows + 2, columns + 2, 3), float(spec.pad_value))
    grey[1:-1, 1:-1] = levels
    found = np.empty((spec.height, spec.width, 3))
    for j in range(spec.height):
        for i in range(spec.width):
            x, y = (np.array([i, j]) + 0.5 - offset) @ turn / s - 0.5  # in pixel centres
            p, q = math.floor(x), math.floor(y)
            a, b = x - p, y - q
            at = lambda row, column: grey[np.clip(row + 1, 0, rows + 1), np.clip(column + 1, 0, columns + 1)]  # noqa: E731
            above = (1 - a) * at(q, p) + a * at(q, p + 1)
            found[j, i] = (1 - b) * above + b * ((1 - a) * at(q + 1, p) + a * at(q + 1, p + 1))
    return found


@pytest.mark.parametrize(
    "box",
    [
        (10.0, 20.0, 60.0, 90.0),  # enlarged
        (30.3, 12.8, 130.6, 150.1),  # shrunk by less than two
        (100.7, 50.2, 400.9, 460.4),  # halved once
        (-150.0, -80.0, 700.0, 900.5),  # halved twice, and beyond the image
        (0.0, 0.0, 640.0, 480.0),
        (10.0, 20.0, 60.0, 90.0, 90.0),
        (100.7, 50.2, 400.9, 460.4, 33.0),
        (-150.0, -80.0, 700.0, 900.5, -150.0),
    ],
)
def test_the_steps_give_the_crop(box: tuple[float, ...]) -> None:
    spec = InputSpec(64, 48, "rgb", (127.5,) * 3, (64.0,) * 3, 1.25, 127, rotate_by=(0, 1))
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    expected = crop_by_the_page(image, np.array(box), spec)
    crop, _ = Preprocessor(spec, "rgb").crop(image, np.array(box))
    difference = np.abs(crop - expected)
    # of noise, the hardest image there is: OpenCV 4 interpolates in steps of 1/32 pixel, OpenCV 5 exactly
    assert difference.mean() < 1 and np.percentile(difference, 99) < 4


def test_the_golden_crop_follows_from_the_page(tiny_bundle: Path) -> None:
    bundle, image = Bundle.open(tiny_bundle), Bundle.open(tiny_bundle).golden().image
    assert image.color == bundle.model.input.color
    expected = crop_by_the_page(image.pixels, image.box, bundle.model.input)
    assert json.loads((tiny_bundle / MANIFEST).read_text(encoding="utf-8"))["golden"]["image"]["box"] == list(image.box)
    assert np.abs(expected - image.crop).mean() < 1
