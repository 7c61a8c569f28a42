"""What opening a bundle takes: the bundle that is opened, and the record."""

from __future__ import annotations

import shutil
from pathlib import Path

from bundle_open import doubled, measure

from splite_deploy.bundle import Bundle


def test_every_artifact_is_there_twice(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = doubled(Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "t.splite")), tmp_path)
    assert Bundle.open(bundle.path) == bundle
    assert [artifact.label for artifact in bundle.manifest.artifacts] == ["ort fp32", "tflite fp32"]
    assert set(bundle.report().layers) == {"ort fp32", "tflite fp32"}
    found = measure(bundle, 5)
    assert found["artifacts"] == 2 and found["manifest_bytes"] == (bundle.path / "manifest.json").stat().st_size
    assert found["hashed_bytes"] == sum(f.stat().st_size for f in bundle.path.iterdir() if f.suffix != ".json")
    for part in ("open", "manifest", "hashes"):
        assert 0 < found[part]["min_ms"] <= found[part]["median_ms"]
    per_artifact = found["manifest_bytes"] - (tiny_bundle / "manifest.json").stat().st_size
    assert found["manifest_bytes"] + 4 * per_artifact < 12_000, "six artifacts take a small manifest"
