"""The C++ runtime under the sanitizers of addresses and of undefined behaviour, and on spoilt bundles."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_driver import TESTS, Case, ask, sign
from decode_vectors import CASES, PEOPLE_CASES, outputs_of, people_outputs, people_spec, spec_of

from splite_deploy.bundle import Bundle
from splite_deploy.bundle.packaged import HAND, PALM, PICTURE, packaged
from splite_deploy.errors import BundleError

pytestmark = pytest.mark.slow
SEED = 18
BUNDLES = int(os.environ.get("SPLITE_TESTS_CPP_BUNDLES", "80"))
"""How many spoilt bundles each test has; `make test-cpp` has more."""


@pytest.fixture(scope="module")
def robustness() -> Iterator[Callable[[str], Any]]:
    """Imports a module of ``tests/robustness``."""
    sys.path.insert(0, str(TESTS / "robustness"))
    try:
        yield import_module
    finally:
        sys.path.remove(str(TESTS / "robustness"))


def refused(folder: Path, *, golden: bool) -> str:
    """What the Python runtime says against a bundle, or against its golden data, too; nothing where it takes them."""
    try:
        bundle = Bundle.open(folder)
        if golden:
            bundle.golden()
    except BundleError as err:
        return err.message
    return ""


def test_spoilt_bundles_are_refused_where_python_refuses_them(
    sanitized: Path, robustness: Callable[[str], Any], tmp_path: Path
) -> None:
    spoil_json = robustness("mutate").spoil_json
    rng = random.Random(SEED)
    asks: list[Case] = []
    said = []
    for number in range(BUNDLES):
        folder = tmp_path / f"{number}.splite"
        source = packaged(rng.choice((HAND, PALM)))
        folder.mkdir()
        for file in source.iterdir():
            if file.name not in ("manifest.json", "report.json"):
                shutil.copyfile(file, folder / file.name)
        shutil.copyfile(source / "manifest.json", folder / "manifest.json")
        part = rng.choice(("model", "model", "artifacts", "golden", None))

        def change(data: dict[str, Any], part: str | None = part) -> None:
            text = spoil_json(rng, json.dumps(data if part is None else data[part]), first=1)
            try:
                new = json.loads(text)
            except (ValueError, RecursionError):
                new = text
            if part is None:
                data.clear()
                data.update(new if isinstance(new, dict) else {"format_version": 2})
            else:
                data[part] = new

        try:
            sign(folder, change)
        except (ValueError, RecursionError):  # of half a character, or nested too deep for Python's writer
            continue
        asks.append({"do": "open", "bundle": str(folder)})
        said.append((refused(folder, golden=False), refused(folder, golden=True)))
    found = ask(sanitized, tmp_path, asks)
    assert sum(not any(both) for both in said) > 10 and sum("error" in one for one in found) > BUNDLES / 3
    differ = [
        f"{one['bundle']}: Python: {both}; C++: {answer.get('error', 'accepted')}"
        for one, answer, both in zip(asks, found, said, strict=True)
        if ("error" not in answer and both[0]) or ("error" in answer and not both[1])  # it reads golden outputs alone
    ]
    assert not differ, "\n".join(differ)


def test_the_corpus_of_spoilt_bundles_never_ends_it(
    sanitized: Path, robustness: Callable[[str], Any], tmp_path: Path
) -> None:
    """What ``make fuzz`` makes of bundles: text, bytes and golden values, most of it with hashes that are right."""
    pytest.importorskip("torch")
    surfaces = robustness("surfaces")
    good = tmp_path / "good"
    for name in surfaces.BUNDLES:
        shutil.copytree(packaged(HAND if name == "tiny" else PALM), good / f"{name}.splite")
    rng = random.Random(SEED)
    asks: list[Case] = []
    must_fail = []
    for number in range(BUNDLES):
        folder = tmp_path / str(number)
        folder.mkdir()
        spoil = rng.choices((surfaces.manifest, surfaces.golden), (2, 1))[0]
        case = spoil(rng, folder, good)
        (bundle,) = folder.glob("*.splite")
        asks.append({"do": "open", "bundle": str(bundle)})
        must_fail.append(case.must_fail)
    found = ask(sanitized, tmp_path, asks)
    assert len(found) == BUNDLES and 0 < sum(must_fail) < BUNDLES / 2
    assert all(one["hint"] for one in found if "error" in one)
    taken = [one["bundle"] for one, answer in zip(asks, found, strict=True) if "error" not in answer]
    assert BUNDLES / 20 < len(taken) < BUNDLES / 2  # values that are not finite, and hashes made right
    assert not [one["bundle"] for one, fails in zip(asks, must_fail, strict=True) if fails and one["bundle"] in taken]
    assert not [one for one in taken if refused(Path(one), golden=False)]


def test_decoders_crops_and_poses_have_no_finding(sanitized: Path, tmp_path: Path) -> None:
    import cv2

    rng = np.random.default_rng(SEED)
    asks: list[Case] = []
    for spec, outputs in [
        *((spec_of(case), outputs_of(case)) for case in CASES),
        *((people_spec(case), people_outputs(case)) for case in PEOPLE_CASES),
    ]:
        for scale in (1.0, 1e30, 0.0):
            noisy = {role: (rng.normal(size=one.shape) * scale).astype(np.float32) for role, one in outputs.items()}
            asks.append({"do": "decode", "model": spec.to_dict(), "outputs": noisy, "best": scale == 0.0})
    image = cv2.imread(str(packaged(PICTURE)))
    assert image is not None
    facts = {"do": "estimate", "precision": "fp32", "color": "bgr", "image": image}
    for _ in range(40):
        x, y, width, height = (float(one) for one in np.exp(rng.uniform(-3, 12, 4)))
        sign_x, sign_y = rng.choice([-1, 1], 2)
        box = [sign_x * x, sign_y * y, sign_x * x + width, sign_y * y + height]
        asks.append({**facts, "bundle": str(packaged(HAND)), "box": box})
    asks.append({**facts, "bundle": str(packaged(PALM)), "how": "detect"})
    frames = [image, np.ascontiguousarray(image[:200, :300]), np.zeros_like(image)]
    asks.append({"do": "track", "bundle": str(packaged(HAND)), "precision": "int8", "color": "bgr", "frames": frames})
    found = ask(sanitized, tmp_path, asks)
    assert len(found) == len(asks)
    errors = sum("error" in one for one in found)
    assert 10 < errors < len(asks) / 2
