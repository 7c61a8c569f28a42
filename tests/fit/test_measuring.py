"""What a search measures on this machine, in processes of their own."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.fit.measuring import Place
from splite_deploy.fit.space import Variant


@pytest.mark.slow
def test_one_artifact_of_several_is_measured(tiny_bundle: Path, tmp_path: Path) -> None:
    """An export of int8 for ONNX Runtime has float32 beside it."""
    shutil.copytree(tiny_bundle, two := tmp_path / "two.splite")
    manifest = Bundle.open(two).manifest
    (only,) = manifest.artifacts
    both = dataclasses.replace(only, precision="fp16"), only
    (two / MANIFEST).write_text(dataclasses.replace(manifest, artifacts=both).to_json(), encoding="utf-8")
    place = Place(threads=1, frames=10)
    found = place.measure(two, Variant("ort", "fp32"), tmp_path / "measured")
    assert 0 < found["model_ms"] < found["p50_ms"] <= found["p99_ms"] and found["against"] == []
    with pytest.raises(SpliteError, match=r"verify: .*int8") as caught:
        place.measure(two, Variant("ort", "int8"), tmp_path / "none")
    assert "fp16" in caught.value.message + caught.value.hint
