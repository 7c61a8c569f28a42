"""The bundle: what is written is read back, and nothing that was changed is."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splite_deploy.bundle import (
    FORMAT_VERSION,
    GOLDEN,
    MANIFEST,
    Artifact,
    Bundle,
    Golden,
    Manifest,
    Parity,
    Percentiles,
    Source,
    TensorSpec,
    new_bundle,
    write_golden,
)
from splite_deploy.decoders import SoftArgmaxDepth
from splite_deploy.errors import BundleError, OutputError, UsageError
from splite_deploy.files import sha256_of
from splite_deploy.spec import InputSpec, LimitSpec, ModelSpec, SkeletonSpec

GRAPH = "model.onnx"
SPEC = ModelSpec(
    name="hand",
    input=InputSpec(8, 4, "rgb", (120.0, 115.0, 105.0), (58.0, 57.0, 57.0), 1.25, 127),
    decoder=SoftArgmaxDepth(4.0, 1.0, "corner", 3, root_keypoint=0, unit="palm", scale_bones=((0, 1),)),
    skeleton=SkeletonSpec(("wrist", "tip"), ((0, 1),)),
    palm_mm=90.0,
)
MAPS = (None, 2, 2, 1)
CROPS = np.arange(2 * 8 * 4 * 3, dtype=np.uint8).reshape(2, 8, 4, 3)
OUTPUTS = {role: np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1) for role in ("heatmap", "depth")}


def manifest_of(folder: Path) -> Manifest:
    artifact = Artifact(
        format="onnx",
        backend="ort",
        precision="fp32",
        file=GRAPH,
        sha256=sha256_of(folder / GRAPH),
        inputs=(TensorSpec("image", (None, 3, 8, 4), "float32", "NCHW", "image"),),
        outputs=tuple(TensorSpec(role, MAPS, "float32", "NCHW", role) for role in OUTPUTS),
        limits=LimitSpec(0.1, 0.2, 0.3),
        target={"gpu": "none"},
    )
    shift = Percentiles(1e-7, 2e-6, 1 / 3)
    return Manifest(
        format_version=FORMAT_VERSION,
        model=SPEC,
        source=Source("c.pt", "ab" * 32, ("took the weights under 'ema'",), "1.2", {"torch": "2.6"}, 18),
        artifacts=(artifact,),
        parity=(Parity("torch -> onnx", 2, "2 images", {"heatmap": 1e-6, "depth": 0.0}, shift, shift, "mm"),),
        golden_sha256=sha256_of(folder / GOLDEN),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose graph is no graph: opening a bundle does not look inside."""
    path = tmp_path / "hand.splite"
    with new_bundle(path) as folder:
        (folder / GRAPH).write_bytes(random.Random(0).randbytes(500))
        write_golden(folder / GOLDEN, Golden(CROPS, OUTPUTS))
        (folder / MANIFEST).write_text(manifest_of(folder).to_json(), encoding="utf-8")
    return path


@pytest.fixture
def forge(bundle: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Changes the manifest and makes its checksum fit again."""

    def change(edit: Callable[[dict[str, Any]], None]) -> Path:
        data = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        del data["checksum"]
        edit(data)
        data["checksum"] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
        (bundle / MANIFEST).write_text(json.dumps(data), encoding="utf-8")
        return bundle

    return change


# --- reading ---


def test_round_trip(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.path == bundle and opened.model == SPEC
    assert opened.manifest == manifest_of(bundle)
    assert opened.manifest.to_json() == (bundle / MANIFEST).read_text(encoding="utf-8")
    golden = opened.golden()
    np.testing.assert_array_equal(golden.crops, CROPS)
    assert golden.crops.dtype == np.uint8 and set(golden.outputs) == set(OUTPUTS)
    for role, array in OUTPUTS.items():
        np.testing.assert_array_equal(golden.outputs[role], array)
        assert golden.outputs[role].dtype == np.float32


def test_the_manifest_does_not_depend_on_how_it_is_laid_out(bundle: Path) -> None:
    data = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    (bundle / MANIFEST).write_text(json.dumps(data, sort_keys=True), encoding="utf-8")
    assert Bundle.open(bundle).manifest == manifest_of(bundle)


def test_a_bundle_may_be_named_by_text_and_moved(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "elsewhere")
    assert Bundle.open(str(tmp_path / "elsewhere")).manifest == Bundle.open(bundle).manifest


@pytest.mark.parametrize("name", [GRAPH, GOLDEN, MANIFEST])
def test_every_changed_byte_is_found(bundle: Path, name: str) -> None:
    file = bundle / name
    whole = file.read_bytes()
    positions = {0, 1, len(whole) // 2, len(whole) - 2, *random.Random(0).sample(range(len(whole) - 1), 80)}
    for position in positions:
        for bit in (1, 128) if name == GRAPH else (1,):
            changed = bytearray(whole)
            changed[position] ^= bit
            file.write_bytes(changed)
            if name == MANIFEST and bytes((whole[position], changed[position])).isspace():
                continue
            with pytest.raises(BundleError) as caught:
                Bundle.open(bundle)
            assert name in caught.value.message and caught.value.hint, position
    file.write_bytes(whole)
    assert Bundle.open(bundle).manifest == manifest_of(bundle)


@pytest.mark.parametrize("name", [GRAPH, GOLDEN, MANIFEST])
@pytest.mark.parametrize("keep", [0, 100])
def test_a_truncated_file_is_found(bundle: Path, name: str, keep: int) -> None:
    (bundle / name).write_bytes((bundle / name).read_bytes()[:keep])
    with pytest.raises(BundleError, match=name) as caught:
        Bundle.open(bundle)
    assert "Copy the bundle again" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (GRAPH, f"lacks its file {GRAPH}."),
        (GOLDEN, f"lacks its file {GOLDEN}."),
        (MANIFEST, f"holds no {MANIFEST}, so it is no bundle."),
    ],
)
def test_a_missing_file_is_named(bundle: Path, name: str, message: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError) as caught:
        Bundle.open(bundle)
    assert message in caught.value.message and "Copy the bundle again" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "hint"),
    [
        (FORMAT_VERSION + 1, "Upgrade splite-deploy on this machine."),
        (99, "Upgrade splite-deploy on this machine."),
        (0, "make it anew"),
        (None, "make it anew"),
        ("1", "make it anew"),
    ],
)
def test_another_format_version(forge: Callable[..., Path], version: Any, hint: str) -> None:
    folder = forge(lambda data: data.update(format_version=version))
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert f"has format version {version}; this version of splite-deploy reads {FORMAT_VERSION}" in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "nonsense", "\ufeff{}", "[" * 100_000, b"\xff\xfe\x00", '{"a": 1}}'])
def test_a_manifest_that_is_no_json(bundle: Path, content: str | bytes) -> None:
    (bundle / MANIFEST).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BundleError, match=r"manifest\.json cannot be read: ") as caught:
        Bundle.open(bundle)
    assert "Copy the bundle again" in caught.value.hint


@pytest.mark.parametrize("content", ["{}", "[]", "null", "3", '"text"'])
def test_a_manifest_that_is_something_else(bundle: Path, content: str) -> None:
    (bundle / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match="has format version None"):
        Bundle.open(bundle)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.pop("model"), "malformed: The field name is missing"),
        (lambda data: data["model"].pop("input"), "malformed: The field input is missing."),
        (lambda data: data["model"]["decoder"].update(type="magic"), "malformed: Model spec: decoder.type is 'magic'"),
        (lambda data: data.update(extra=1), "malformed: Unknown field extra."),
        (lambda data: data["artifacts"][0].pop("sha256"), "malformed: The field artifacts[0].sha256 is missing."),
        (lambda data: data["artifacts"][0].update(precision="fp8"), "malformed: artifacts[0].precision is 'fp8'"),
        (lambda data: data.update(artifacts={}), "malformed: artifacts is {}"),
        (lambda data: data.update(model=3), "malformed: "),
    ],
)
def test_a_manifest_with_a_wrong_field(forge: Callable[..., Path], edit: Callable[..., Any], message: str) -> None:
    folder = forge(edit)
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert message in caught.value.message and "Copy the bundle again" in caught.value.hint


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "sub/inside", "..", ".", "", "./model.onnx"])
def test_no_file_outside_the_bundle_is_read(forge: Callable[..., Path], bundle: Path, name: str) -> None:
    (bundle / "sub").mkdir()
    for file in (bundle.parent / "outside", bundle / "sub" / "inside"):
        shutil.copy(bundle / GRAPH, file)
    digest = sha256_of(Path(name)) if name == "/etc/hostname" and Path(name).is_file() else sha256_of(bundle / GRAPH)
    folder = forge(lambda data: data["artifacts"][0].update(file=name, sha256=digest))
    with pytest.raises(BundleError) as caught:
        Bundle.open(folder)
    assert caught.value.message == f"The bundle {folder} lacks its file {name}."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.splite", "missing.splite does not exist."),
        ("file.splite", "file.splite is a file, not a bundle folder."),
        ("file.splite/deeper", "file.splite/deeper does not exist."),
        ("empty.splite", f"empty.splite holds no {MANIFEST}, so it is no bundle."),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_no_bundle(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file.splite").touch()
    (tmp_path / "empty.splite").mkdir()
    with pytest.raises(BundleError) as caught:
        Bundle.open(tmp_path / name)
    assert message in caught.value.message and "splite-deploy export" in caught.value.hint


@pytest.mark.parametrize("backend", [None, "ort"])
@pytest.mark.parametrize("precision", [None, "fp32"])
def test_find(bundle: Path, backend: Any, precision: Any) -> None:
    assert Bundle.open(bundle).find(backend, precision).label == "ort fp32"


@pytest.mark.parametrize(
    ("backend", "precision", "wanted"), [("trt", None, "trt"), (None, "int8", "int8"), ("ort", "fp16", "ort fp16")]
)
def test_find_says_what_there_is(bundle: Path, backend: Any, precision: Any, wanted: str) -> None:
    with pytest.raises(UsageError, match=f"holds no {wanted} artifact") as caught:
        Bundle.open(bundle).find(backend, precision)
    assert caught.value.hint == "It holds: ort fp32."


# --- writing ---


def write(path: Path, text: str, *, error: BaseException | None = None, **options: Any) -> None:
    with new_bundle(path, **options) as folder:
        assert folder.parent == path.parent and not list(folder.iterdir())
        (folder / MANIFEST).write_text(text, encoding="utf-8")
        if error is not None:
            raise error


def test_a_new_bundle_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.splite"
    with new_bundle(path) as folder:
        (folder / "file").write_text("x", encoding="utf-8")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["file"]
    assert path.stat().st_mode & 0o777 == 0o755
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1), BundleError("no")])
def test_a_bundle_that_fails_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write(tmp_path / "a.splite", "x", error=error)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match=r"Cannot write .*a\.splite: No space left") as caught:
        write(tmp_path / "a.splite", "x", error=error)
    assert "Free some space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [1, 2])
def test_the_old_bundle_survives_a_failure_at_the_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int
) -> None:
    path, calls, rename = tmp_path / "a.splite", [0], Path.rename
    write(path, "old")

    def failing(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == step:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write(path, "new", overwrite=True)
    assert (path / MANIFEST).read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_overwriting_has_to_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.splite"
    write(path, "old")
    with pytest.raises(OutputError, match=r"a\.splite exists already\.") as caught:
        write(path, "new")
    assert caught.value.hint == "Add --overwrite, or name another place."
    assert (path / MANIFEST).read_text(encoding="utf-8") == "old"
    write(path, "new", overwrite=True)
    assert (path / MANIFEST).read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_only_a_bundle_is_ever_overwritten(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photos"
    if kind == "folder":
        path.mkdir()
        (path / "a.jpg").touch()
    else:
        path.write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match="photos exists and is no bundle") as caught:
        write(path, "new", overwrite=True)
    assert caught.value.hint == "Name another place with --output."
    assert path.is_file() or (path / "a.jpg").is_file()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("file/a.splite", "File exists|Not a directory", "is a file, not a folder"),
        ("x" * 300, "File name too long", "Check that the folder exists"),
    ],
)
def test_a_place_that_cannot_be_written(tmp_path: Path, name: str, message: str, hint: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"Cannot write .*: ({message})") as caught:
        write(tmp_path / name, "new")
    assert hint in caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_checksum_covers_the_whole_manifest(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    others = [
        dataclasses.replace(opened.manifest, golden_sha256="0" * 64),
        dataclasses.replace(opened.manifest, parity=()),
        dataclasses.replace(opened.manifest, model=dataclasses.replace(SPEC, palm_mm=91.0)),
    ]
    texts = [manifest.to_json() for manifest in (opened.manifest, *others)]
    assert len({json.loads(text)["checksum"] for text in texts}) == len(texts)


def test_a_failure_takes_the_folders_it_made_away(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), new_bundle(tmp_path / "a" / "b" / "x.splite"):
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []
