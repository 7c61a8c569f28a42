"""Artifacts that come to a bundle later: the bundle is the old one or the new one, whatever happens on the way."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from splite_deploy.bundle import MANIFEST, Artifact, Bundle
from splite_deploy.bundle.add import Addition, add_artifacts
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BundleError, OutputError
from splite_deploy.files import sha256_of

LAYERS = (Layer("conv", "Conv", "float16", None),)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "tiny.splite"))


def engine(bundle: Bundle, folder: Path, content: bytes, precision: str = "fp16") -> Addition:
    source = folder / "built"
    source.write_bytes(content)
    fp32 = bundle.manifest.artifacts[0]
    artifact: Artifact = replace(
        fp32,
        format="engine",
        backend="trt",
        precision=precision,  # type: ignore[arg-type]
        file=f"model.{precision}.engine",
        sha256=sha256_of(source),
        target={"gpu": "Orin"},
    )
    return Addition(artifact, source, LAYERS)


def files(bundle: Bundle) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.path.iterdir()}


def test_an_artifact_is_added(bundle: Bundle, tmp_path: Path) -> None:
    before = files(bundle)
    made = add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
    assert Bundle.open(bundle.path) == made
    added = made.find("trt", "fp16")
    assert (bundle.path / added.file).read_bytes() == b"plan"  # pristine
    assert made.report().layers == {**bundle.report().layers, "trt fp16": LAYERS}
    assert made.manifest.artifacts[0] == bundle.manifest.artifacts[0]
    assert files(bundle).keys() == {*before, "model.fp16.engine"}


def test_who_could_read_the_bundle_still_can(bundle: Bundle, tmp_path: Path) -> None:
    """An engine is often built by root, and run by somebody else."""
    before = {file.name: file.stat().st_mode for file in bundle.path.iterdir()}
    add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
    after = {file.name: file.stat().st_mode for file in bundle.path.iterdir()}
    assert after == {**before, "model.fp16.engine": before[MANIFEST]}


def test_one_of_the_same_kind_is_replaced_again_and_again(bundle: Bundle, tmp_path: Path) -> None:
    for content in (b"one", b"two", b"two", b"three"):
        bundle = add_artifacts(bundle, [engine(bundle, tmp_path, content)])
        assert Bundle.open(bundle.path) == bundle
        held = [artifact for artifact in bundle.manifest.artifacts if artifact.backend == "trt"]
        assert [(bundle.path / artifact.file).read_bytes() for artifact in held] == [content]
        assert len(list(bundle.path.glob("*.engine"))) == 1


def test_all_or_none(bundle: Bundle, tmp_path: Path) -> None:
    bundle = add_artifacts(bundle, [engine(bundle, tmp_path, b"old")])
    before = files(bundle)
    first, second = engine(bundle, tmp_path, b"new"), engine(bundle, tmp_path, b"new", "int8")
    with pytest.raises(OutputError, match=r"Cannot write .*No such file"):
        add_artifacts(bundle, [first, replace(second, source=tmp_path / "missing")])
    assert files(bundle) == before


def test_a_failure_at_the_very_end(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = add_artifacts(bundle, [engine(bundle, tmp_path, b"old")])
    before, rename = files(bundle), Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target.name == MANIFEST:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        add_artifacts(bundle, [engine(bundle, tmp_path, b"new")])
    assert "Free some space" in caught.value.hint
    assert files(bundle) == before


def test_a_damaged_engine_can_be_replaced(bundle: Bundle, tmp_path: Path) -> None:
    bundle = add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
    (bundle.path / "model.fp16.engine").write_bytes(b"plam")
    with pytest.raises(BundleError, match=r"model\.fp16\.engine is not the file"):
        Bundle.open(bundle.path, rebuilding=["trt fp32"])
    opened = Bundle.open(bundle.path, rebuilding=["trt fp16"])
    add_artifacts(opened, [engine(opened, tmp_path, b"plan")])
    assert (Bundle.open(bundle.path).path / Bundle.open(bundle.path).find("trt").file).read_bytes() == b"plan"
    assert len(list(bundle.path.glob("*.engine"))) == 1
