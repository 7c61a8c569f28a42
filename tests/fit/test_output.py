"""What a search leaves: the command that makes a bundle again is one that `export` takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

pytest.importorskip("torch")

from splite_deploy.fit.choice import Choice
from splite_deploy.fit.output import Folder
from splite_deploy.fit.search import Network, Outcome, Point
from splite_deploy.fit.space import Candidate, Variant
from splite_deploy.spec import Precision

DEMO = Path(__file__).parents[2] / "splite_deploy" / "demo" / "hand.splite"


@pytest.mark.parametrize(
    ("backend", "precision", "calibrated"),
    [
        ("ort", "fp32", False),
        ("ort", "fp16", True),
        ("tflite", "fp16", False),
        ("tflite", "int8", True),
        ("ncnn", "fp16", False),
    ],
)
def test_only_what_reads_calibration_images_is_given_some(
    backend: str,
    precision: Precision,
    calibrated: bool,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    splite: Callable[..., Result],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Folder(Path("search"))
    files = {f"bundle/{one.name}": folder.store.add(one.read_bytes()) for one in DEMO.iterdir()}
    network = Network(Candidate(1.0, 1, 64, 48), checkpoint=folder.store.add(b"weights"))
    point = Point(network.candidate.name, Variant(backend, precision), "here", 0.0, files, {})
    outcome = Outcome("parent", 0.0, {point.network: network}, [point], {}, [])
    photos = Path("photos")
    (shipped,) = folder.put(outcome, [Choice("here", point, "", ())], tiny_model, photos, photos)
    assert "--images photos" in shipped.again and ("--calibration photos" in shipped.again) == calibrated
    done = splite(*shlex.split(shipped.again)[1:])  # which fails for these weights, and not for its options
    assert done.exit_code == 1 and "calibration" not in done.stderr, done.output
