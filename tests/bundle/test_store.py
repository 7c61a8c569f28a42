"""The bundle: what is written is read back, and nothing that was changed is."""

from __future__ import annotations

import copy
import dataclasses
import errno
import gc
import hashlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from splite_deploy.bundle import (
    FORMAT_VERSION,
    GOLDEN,
    MANIFEST,
    REPORT,
    REPORT_VERSION,
    Artifact,
    Bundle,
    Golden,
    GoldenFile,
    GoldenImage,
    Manifest,
    Parity,
    Percentiles,
    Report,
    Source,
    TensorSpec,
    new_bundle,
    write_golden,
)
from splite_deploy.decoders import Decoded, SoftArgmax, SoftArgmaxDepth
from splite_deploy.errors import BundleError, OutputError, UsageError
from splite_deploy.files import sha256_of, writing
from splite_deploy.spec import InputSpec, LimitSpec, ModelSpec, SkeletonSpec

GRAPH = "model.onnx"
SPEC = ModelSpec(
    name="hand",
    input=InputSpec(8, 4, "rgb", (120.0, 115.0, 105.0), (58.0, 57.0, 57.0), 1.25, 127),
    decoder=SoftArgmaxDepth(4.0, "corner", 1.0, 3, root_keypoint=0, unit="palm", scale_bones=((0, 1),)),
    skeleton=SkeletonSpec(("wrist", "tip"), ((0, 1),)),
    palm_mm=90.0,
)
MAPS = (None, 2, 2, 1)
CROPS = np.arange(2 * 8 * 4 * 3, dtype=np.uint8).reshape(2, 8, 4, 3)
OUTPUTS = {role: np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1) for role in ("heatmap", "depth")}
POINTS = np.arange(8, dtype=np.float32).reshape(2, 2, 2) / 3
GOLDEN_IMAGE = GoldenImage(
    pixels=np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3),
    color="bgr",
    box=np.array([0.5, 1.0, 6.0, 1 / 3 + 3]),
    crop=CROPS[1],
    keypoints=POINTS[0],
    scores=POINTS[0, 0],
    opencv="4.11.0",
)
GOLDENS = Golden(CROPS, OUTPUTS, Decoded(POINTS, POINTS[..., 0], POINTS[..., 1]), GOLDEN_IMAGE, "onnx")
SHIFT = Percentiles(1e-7, 2e-6, 1 / 3)
REPORTED = Report(
    report_version=REPORT_VERSION,
    opset=18,
    versions={"torch": "2.6"},
    notes=("took the weights under 'ema'",),
    parity=(Parity("torch", "onnx", 2, "2 images", {"heatmap": 1e-6, "depth": 0.0}, SHIFT, SHIFT, "mm"),),
)


def manifest_of(folder: Path, golden: GoldenFile) -> Manifest:
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
    return Manifest(
        format_version=FORMAT_VERSION,
        model=SPEC,
        source=Source("c.pt", "ab" * 32, "1.2"),
        artifacts=(artifact,),
        golden=golden,
    )


def with_checksum(data: dict[str, Any], **layout: Any) -> bytes:
    """The bytes of a manifest by the rule of docs/bundle-format.md, not by the code under test."""
    text = json.dumps({**data, "checksum": ""}, **layout).encode()
    hashed = text[: text.rindex(b'"checksum"')]
    return hashed + text[len(hashed) :].replace(b'""', f'"{hashlib.sha256(hashed).hexdigest()}"'.encode())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose graph is no graph: opening a bundle does not look inside."""
    path = tmp_path / "hand.splite"
    with new_bundle(path) as folder:
        (folder / GRAPH).write_bytes(random.Random(0).randbytes(500))
        manifest = manifest_of(folder, write_golden(folder / GOLDEN, GOLDENS))
        (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        (folder / REPORT).write_text(REPORTED.to_json(), encoding="utf-8")
    return path


@pytest.fixture
def forge(bundle: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Changes the manifest and makes its checksum fit again."""

    def change(edit: Callable[[dict[str, Any]], None]) -> Path:
        data = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
        del data["checksum"]
        edit(data)
        (bundle / MANIFEST).write_bytes(with_checksum(data))
        return bundle

    return change


# --- reading ---


def same_array(one: NDArray[Any], other: NDArray[Any]) -> None:
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    np.testing.assert_array_equal(one, other)


def same(one: Any, other: Any) -> None:
    """Asserts that two goldens are equal, types included."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(a):
            same(a, b)
        elif isinstance(a, dict):
            assert list(a) == list(b)
            for key in a:
                same_array(a[key], b[key])
        elif isinstance(a, np.ndarray):
            same_array(a, b)
        else:
            assert a == b


def test_round_trip(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.path == bundle and opened.model == SPEC
    assert opened.manifest == manifest_of(bundle, write_golden(tmp_path / GOLDEN, GOLDENS))
    assert opened.manifest.to_json() == (bundle / MANIFEST).read_text(encoding="utf-8")
    assert opened.report() == REPORTED
    same(opened.golden(), GOLDENS)


def test_a_golden_without_depth(bundle: Path) -> None:
    plain = dataclasses.replace(GOLDENS, decoded=dataclasses.replace(GOLDENS.decoded, depth=None), reference="torch")
    flat = dataclasses.replace(SPEC, decoder=SoftArgmax(4.0, "corner", 1.0, 3))
    (artifact,) = Bundle.open(bundle).manifest.artifacts
    manifest = dataclasses.replace(
        Bundle.open(bundle).manifest,
        model=flat,
        artifacts=(dataclasses.replace(artifact, outputs=artifact.outputs[:1]),),
        golden=write_golden(bundle / GOLDEN, plain),
    )
    (bundle / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    same(Bundle.open(bundle).golden(), plain)


def test_golden_tensors_lie_where_the_manifest_says(bundle: Path) -> None:
    """Read as another language would: bytes, offsets, little-endian."""
    data = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))["golden"]
    content = (bundle / data["file"]).read_bytes()
    assert all(tensor["offset"] % 16 == 0 for tensor in data["tensors"].values())
    at = data["tensors"]["output.depth"]
    assert (at["dtype"], at["shape"]) == ("float32", [2, 2, 2, 1])
    assert struct.unpack_from("<8f", content, at["offset"]) == tuple(range(8))
    at = data["tensors"]["image"]
    assert content[at["offset"] : at["offset"] + 105] == bytes(range(105))
    assert data["image"] == {"color": "bgr", "box": [0.5, 1.0, 6.0, 1 / 3 + 3], "opencv": "4.11.0"}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.pop("scores"), "has no tensor 'scores'"),
        (lambda tensors: tensors["crops"].update(offset=1 << 40), "tensor 'crops' lies outside"),
        (lambda tensors: tensors["crops"].update(shape=[2, 8, 4, 3000]), "tensor 'crops' lies outside"),
        (lambda tensors: tensors["keypoints"].update(shape=[2, -2, 2]), "tensor 'keypoints' lies outside"),
    ],
)
def test_a_golden_tensor_that_is_not_there(
    forge: Callable[..., Path], edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    opened = Bundle.open(forge(lambda data: edit(data["golden"]["tensors"])))
    with pytest.raises(BundleError, match=message) as caught:
        opened.golden()
    assert caught.value.hint


def test_a_file_is_read_once_and_checked(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.read(opened.find()) == (bundle / GRAPH).read_bytes()
    (bundle / GRAPH).write_bytes(b"another")
    with pytest.raises(BundleError, match=r"model\.onnx is not the file that the manifest describes") as caught:
        opened.read(opened.find())
    assert "Copy the bundle again" in caught.value.hint
    never_opened = Bundle(bundle, opened.manifest)
    (bundle / GRAPH).unlink()
    with pytest.raises(BundleError, match=r"model\.onnx cannot be read: No such file") as caught:
        never_opened.read(never_opened.find())
    assert "Copy the bundle again" in caught.value.hint


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"separators": (",", ":")}])
def test_the_checksum_is_of_the_bytes_before_its_key(bundle: Path, layout: dict[str, Any]) -> None:
    manifest = Bundle.open(bundle).manifest
    data = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    del data["checksum"]
    (bundle / MANIFEST).write_bytes(with_checksum(data, **layout))
    assert Bundle.open(bundle).manifest == manifest
    content = (bundle / MANIFEST).read_bytes()
    start = content.rindex(b'"checksum"')
    for changed in (content[: start - 1] + b" " + content[start - 1 :], content.rstrip(b"}\n") + b',"model":{}}'):
        (bundle / MANIFEST).write_bytes(changed)
        with pytest.raises(BundleError, match=r"manifest\.json was changed after it was written"):
            Bundle.open(bundle)


def test_keys_of_a_later_version_are_ignored(forge: Callable[..., Path], bundle: Path) -> None:
    before = Bundle.open(bundle).manifest

    def edit(data: dict[str, Any]) -> None:
        model, artifact = data["model"], data["artifacts"][0]
        tables = (model["input"], model["decoder"], model["skeleton"], artifact, artifact["inputs"][0], data["source"])
        for table in (
            data,
            model,
            *tables,
            data["golden"],
            data["golden"]["image"],
            data["golden"]["tensors"]["crops"],
        ):
            table["later"] = {"a": [1]}

    assert Bundle.open(forge(edit)).manifest == before


# --- the report ---


def test_keys_that_a_report_has_not_yet_are_ignored(bundle: Path) -> None:
    data = json.loads((bundle / REPORT).read_text(encoding="utf-8"))
    data["later"] = data["parity"][0]["later"] = 1
    (bundle / REPORT).write_text(json.dumps(data), encoding="utf-8")
    assert Bundle.open(bundle).report() == REPORTED


def test_a_recommendation_of_version_0_2_is_read(bundle: Path) -> None:
    none = {"p50": 0.0, "p95": 0.0, "max": 0.0}
    row = {"backend": "ort", "precision": "int8", "size_bytes": 1, "p50_ms": 2.0, "speed_up": None, "depth": None}
    row |= {"deviation_px": none, "depth_unit": "", "peak_switches": 0, "within_limits": True, "accuracy": None}
    data = json.loads((bundle / REPORT).read_text(encoding="utf-8"))
    data |= {"search": None, "recommendation": {"rows": [row], "measured": "", "ship": "ort int8", "reason": ""}}
    (bundle / REPORT).write_text(json.dumps(data), encoding="utf-8")
    recommendation = Bundle.open(bundle).report().recommendation
    assert recommendation is not None
    (read,) = recommendation.rows
    assert (read.min_ms, read.steady, read.shortest_ms) == (None, None, 2.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no report.json, which says what was measured."),
        ("{", "report.json cannot be read: "),
        ("[]", "report.json has report version None; this version of splite-deploy reads 1."),
        ('{"report_version": 1}', "report.json is malformed: The field opset is missing."),
        ('{"report_version": 1, "opset": "x"}', "report.json is malformed: opset is 'x'"),
    ],
)
def test_a_damaged_report_stops_only_those_who_read_it(bundle: Path, content: str | None, message: str) -> None:
    (bundle / REPORT).unlink()
    if content is not None:
        (bundle / REPORT).write_text(content, encoding="utf-8")
    opened = Bundle.open(bundle)
    same(opened.golden(), GOLDENS)
    with pytest.raises(BundleError) as caught:
        opened.report()
    assert message in caught.value.message
    assert caught.value.hint.startswith("The bundle runs without it.") and "splite-deploy export" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["parity"][0].update(tensor_max_abs={}), "parity[0].tensor_max_abs is empty."),
        (
            lambda data: data.update(recommendation={"rows": [], "measured": "", "ship": None, "reason": ""}),
            "recommendation.rows is empty.",
        ),
    ],
)
def test_a_report_that_lacks_what_is_compared_is_malformed(
    bundle: Path, change: Callable[[Any], None], said: str
) -> None:
    data = json.loads((bundle / REPORT).read_text(encoding="utf-8"))
    change(data)
    (bundle / REPORT).write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(BundleError, match=re.escape(f"report.json is malformed: {said}")) as caught:
        Bundle.open(bundle).report()
    assert caught.value.hint.startswith("The bundle runs without it.")


def test_a_report_without_comparisons_is_shown(
    splite: Callable[..., Result], tiny_bundle: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "t.splite")
    data = json.loads((path / REPORT).read_text(encoding="utf-8"))
    (path / REPORT).write_text(json.dumps({**data, "parity": []}), encoding="utf-8")
    result = splite("inspect", path)
    assert result.exit_code == 0 and "difference to" not in result.stdout, result.output


def test_a_command_that_reads_no_report_needs_none(
    splite: Callable[..., Result], tiny_bundle: Path, tmp_path: Path
) -> None:
    path = shutil.copytree(tiny_bundle, tmp_path / "t.splite")
    (path / REPORT).unlink()
    for arguments in (("verify", path), ("inspect", path, "--json", "-")):
        done = splite(*arguments)
        assert done.exit_code == 0, done.stderr
    done = splite("inspect", path)
    assert done.exit_code == 1 and done.stdout == ""
    assert f"error: The bundle {path} has no report.json, which says what was measured." in done.stderr
    assert "hint:  The bundle runs without it." in done.stderr


def test_a_report_of_a_later_version(bundle: Path) -> None:
    (bundle / REPORT).write_text(json.dumps({"report_version": 2}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"has report version 2; this version of splite-deploy reads 1\.") as caught:
        Bundle.open(bundle).report()
    assert caught.value.hint == "Upgrade splite-deploy on this machine."


# --- damage ---


def test_a_bundle_may_be_named_by_text_and_moved(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "elsewhere")
    assert Bundle.open(str(tmp_path / "elsewhere")).manifest == Bundle.open(bundle).manifest


@pytest.mark.parametrize("name", [GRAPH, GOLDEN, MANIFEST])
def test_every_changed_byte_is_found(bundle: Path, name: str) -> None:
    before = Bundle.open(bundle).manifest
    file = bundle / name
    whole = file.read_bytes()
    positions = {0, 1, len(whole) // 2, len(whole) - 2, *random.Random(0).sample(range(len(whole) - 1), 80)}
    for position in positions:
        for bit in (1, 128) if name == GRAPH else (1,):
            changed = bytearray(whole)
            changed[position] ^= bit
            file.write_bytes(changed)
            if name == MANIFEST and position > whole.rindex(b'"checksum"') and chr(whole[position]).isspace():
                continue  # what follows the hashed bytes may be laid out otherwise
            with pytest.raises(BundleError) as caught:
                Bundle.open(bundle)
            assert name in caught.value.message and caught.value.hint, position
    file.write_bytes(whole)
    assert Bundle.open(bundle).manifest == before


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
        (MANIFEST, f"holds no {MANIFEST}, so it is not a bundle."),
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
        (1, "Make it anew: splite-deploy export c.pt -o "),
        (None, "make it anew"),
        ("2", "make it anew"),
        (True, "make it anew"),
        (2.0, "make it anew"),
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
    assert caught.value.message == f"{folder / MANIFEST} is malformed: {name!r} is no name of a file in a bundle."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.splite", "missing.splite does not exist."),
        ("file.splite", "file.splite is a file, not a bundle folder."),
        ("file.splite/deeper", "file.splite/deeper does not exist."),
        ("empty.splite", f"empty.splite holds no {MANIFEST}, so it is not a bundle."),
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


def ours(text: str) -> str:
    """A manifest that is damaged, and known as ours by how it begins."""
    return f'{{"format_version": {FORMAT_VERSION}, {text}'


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
    path = tmp_path / "a.splite"
    with (
        pytest.raises(OutputError, match=r"Cannot write .*a\.splite: No space left") as caught,
        new_bundle(path),
        writing(path),
    ):
        raise error
    assert "Free some space" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [1, 2])
def test_the_old_bundle_survives_a_failure_at_the_very_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int
) -> None:
    path, calls, rename = tmp_path / "a.splite", [0], Path.rename
    monkeypatch.setattr("splite_deploy.files._rename_at_once", lambda one, other, way: False)  # as on older systems
    write(path, ours("old"))

    def failing(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == step:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write(path, "new", overwrite=True)
    assert (path / MANIFEST).read_text(encoding="utf-8") == ours("old")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["bundle", "folder", "empty", "file", "link"])
@pytest.mark.parametrize("at_once", [True, False])
def test_what_came_to_lie_there_in_the_meantime_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool, kind: str, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr("splite_deploy.files._rename_at_once", lambda one, other, way: False)
    path, kept = tmp_path / "a.splite", tmp_path / "a-3.splite"
    (tmp_path / "a-2.splite").touch()
    lay: dict[str, Callable[[], object]] = {
        "bundle": lambda: shutil.copytree(tmp_path / "bundle", path),
        "folder": lambda: shutil.copytree(tmp_path / "photos", path),
        "empty": path.mkdir,
        "file": lambda: path.write_text("mine", encoding="utf-8"),
        "link": lambda: path.symlink_to(tmp_path / "nowhere"),
    }
    for name, file in (("bundle", MANIFEST), ("photos", "a.jpg")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(ours("first"), encoding="utf-8")

    def late() -> None:
        with new_bundle(path, overwrite=overwrite) as folder:
            (folder / MANIFEST).write_text("late", encoding="utf-8")
            lay[kind]()

    if overwrite and kind == "bundle":
        late()
        assert (path / MANIFEST).read_text(encoding="utf-8") == "late" and not kept.exists()
        return
    with pytest.raises(OutputError, match=r"a\.splite appeared while the bundle was made, and was left as") as caught:
        late()
    assert f"The bundle is {kept}." in caught.value.message and f"mv {kept} {path}" in caught.value.hint
    assert (kept / MANIFEST).read_text(encoding="utf-8") == "late" and kept.stat().st_mode & 0o777 == 0o755
    left = {file.name: file.read_text(encoding="utf-8") for file in path.iterdir()} if path.is_dir() else {}
    assert left == {"bundle": {MANIFEST: ours("first")}, "folder": {"a.jpg": ours("first")}}.get(kind, {})
    assert path.is_dir() or path.is_symlink() or path.read_text(encoding="utf-8") == "mine"
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_a_place_is_claimed_from_the_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.splite"
    (tmp_path / "link").symlink_to(path)
    with new_bundle(path) as folder:
        (folder / MANIFEST).write_text(ours("mine"), encoding="utf-8")
        for place in (path, tmp_path / "b" / ".." / "a.splite", tmp_path / "link"):
            for overwrite in (False, True):
                with pytest.raises(
                    OutputError, match=f"{place} is being written by process {os.getpid()} on"
                ) as caught:
                    write(place, "other", overwrite=overwrite)
                assert caught.value.hint == "Wait until it is done, or name another place."
        with new_bundle(tmp_path / "b.splite"):
            pass
    assert (path / MANIFEST).read_text(encoding="utf-8") == ours("mine")
    write(path, "other", overwrite=True)


CLAIM = """
import os, pathlib, signal, sys
from splite_deploy.bundle import new_bundle
with new_bundle(pathlib.Path(sys.argv[1])):
    print("claimed", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_claims_nothing(tmp_path: Path) -> None:
    path, command = tmp_path / "a.splite", [sys.executable, "-c", CLAIM, str(tmp_path / "a.splite")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdin is not None and writer.stdout.readline()
        with pytest.raises(OutputError, match=f"is being written by process {writer.pid} on"):
            write(path, "mine")
        assert len([file for file in tmp_path.iterdir() if file.name.startswith(".a.splite-")]) == 2
        writer.stdin.close()
        assert writer.wait(20) == -signal.SIGKILL
    write(path, "mine")
    assert list(tmp_path.iterdir()) == [path]


def test_files_of_others_in_the_bundles_folder_move_into_the_new_one(tmp_path: Path, bundle: Path) -> None:
    (bundle / "notes.md").write_text("mine", encoding="utf-8")
    (bundle / "photos" / "deep").mkdir(parents=True)
    (bundle / "photos" / "deep" / "a.jpg").write_text("mine", encoding="utf-8")
    (bundle / "link").symlink_to("nowhere")
    with new_bundle(bundle, overwrite=True) as folder:
        (folder / MANIFEST).write_text("{}", encoding="utf-8")
        (folder / "model.tflite").write_text("new", encoding="utf-8")
        (bundle / "late.md").write_text("late", encoding="utf-8")
    names = {str(file.relative_to(bundle)) for file in bundle.rglob("*")}
    own = {MANIFEST, "model.tflite"}
    assert names == {*own, "notes.md", "link", "late.md", "photos", "photos/deep", "photos/deep/a.jpg"}
    assert (bundle / "link").is_symlink() and (bundle / "photos" / "deep" / "a.jpg").read_text() == "mine"
    assert not [file for file in bundle.parent.iterdir() if file.name.startswith(".")]


def test_a_file_of_others_with_a_name_that_the_new_bundle_needs(tmp_path: Path, bundle: Path) -> None:
    (bundle / "model.tflite").write_text("mine", encoding="utf-8")
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}

    def replace() -> None:
        with new_bundle(bundle, overwrite=True) as folder:
            (folder / MANIFEST).write_text("{}", encoding="utf-8")
            (folder / "model.tflite").write_text("new", encoding="utf-8")

    with pytest.raises(OutputError, match=r"hand\.splite holds model\.tflite, which the bundle there") as caught:
        replace()
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
    kept = tmp_path / "hand-2.splite"
    assert f"The new bundle is {kept}." in caught.value.message and "Move those files" in caught.value.hint
    assert (kept / "model.tflite").read_text(encoding="utf-8") == "new"
    assert sorted(tmp_path.iterdir()) == [kept, bundle]


def test_a_damaged_bundle_is_replaced_and_keeps_what_the_new_one_lacks(tmp_path: Path, bundle: Path) -> None:
    (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes()[:100])
    (bundle / "notes.md").write_text("mine", encoding="utf-8")
    with new_bundle(bundle, overwrite=True) as folder:
        (folder / MANIFEST).write_text("{}", encoding="utf-8")
        (folder / GRAPH).write_text("new", encoding="utf-8")
    assert (bundle / GRAPH).read_text(encoding="utf-8") == "new"
    assert (bundle / "notes.md").read_text(encoding="utf-8") == "mine"


FOREIGN_MANIFESTS = {
    "extension": '{"manifest_version": 3, "name": "x", "icons": {"128": "icon.png"}, "version": "1"}',
    "other export": '{"artifacts": [{"file": "model.onnx"}, {"file": "notes.txt"}], "version": 1}',
    "their version": '{"format_version": 2, "files": [{"file": "model.onnx"}, {"file": "notes.txt"}]}',
    "no JSON": "version 1",
    "nothing": "",
}


@pytest.mark.parametrize("kind", FOREIGN_MANIFESTS)
def test_a_manifest_of_another_program_makes_no_bundle(tmp_path: Path, bundle: Path, kind: str) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    for name in (GRAPH, REPORT, "notes.txt"):
        (folder / name).write_text("mine", encoding="utf-8")
    (folder / MANIFEST).write_text(FOREIGN_MANIFESTS[kind], encoding="utf-8")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    begun = False
    with pytest.raises(OutputError, match="web exists and is not a bundle") as caught:  # noqa: SIM117
        with new_bundle(folder, overwrite=True):
            begun = True
    assert caught.value.hint == "Name another place with --output." and not begun
    shutil.rmtree(folder)

    def late() -> None:
        with new_bundle(folder, overwrite=True) as made:
            (made / MANIFEST).write_text(ours("new"), encoding="utf-8")
            folder.mkdir()
            for name, content in before.items():
                (folder / name).write_bytes(content)

    with pytest.raises(OutputError, match="web appeared while the bundle was made, and was left as it is"):
        late()
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("said", ["of another hash", "without a hash", "a folder"])
def test_files_that_a_manifest_only_names_are_not_lost(forge: Callable[..., Path], said: str) -> None:
    named = {"file": "notes.md"} if said == "without a hash" else {"file": "notes.md", "sha256": "0" * 64}
    folder = forge(lambda data: data.update(extra=[named, {"file": "../outside", "sha256": "0" * 64}]))
    mine = folder / "notes.md"
    if said == "a folder":
        mine.mkdir()
        mine /= "a.md"
    mine.write_text("mine", encoding="utf-8")
    with new_bundle(folder, overwrite=True) as made:
        (made / MANIFEST).write_text(ours("new"), encoding="utf-8")
    assert mine.read_text(encoding="utf-8") == "mine"
    assert (folder / MANIFEST).read_text(encoding="utf-8") == ours("new") and not (folder / GRAPH).exists()


@pytest.mark.parametrize("manifest", ["whole", "cut off"])
@pytest.mark.parametrize("name", [GRAPH, REPORT])
def test_what_lies_in_the_place_of_a_bundles_file_moves_aside(bundle: Path, name: str, manifest: str) -> None:
    """It may be the bundle's, damaged, or a file that somebody put there: nobody can tell."""
    (bundle / name).write_text("mine", encoding="utf-8")
    if manifest == "cut off":
        (bundle / MANIFEST).write_bytes((bundle / MANIFEST).read_bytes()[:100])
    with new_bundle(bundle, overwrite=True) as made:
        for one in (MANIFEST, GRAPH, REPORT):
            (made / one).write_text(ours("new"), encoding="utf-8")
    aside = bundle / f"{Path(name).stem}-2{Path(name).suffix}"
    assert aside.read_text(encoding="utf-8") == "mine"
    assert (bundle / name).read_text(encoding="utf-8") == ours("new")


def test_a_replaced_bundle_keeps_who_may_enter_it(bundle: Path) -> None:
    bundle.chmod(0o700)
    write(bundle, "new", overwrite=True)
    assert bundle.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", [MANIFEST, REPORT, GRAPH, GOLDEN])
@pytest.mark.parametrize("there", [True, False])
def test_no_link_out_of_the_bundle_is_followed(tmp_path: Path, bundle: Path, name: str, there: bool) -> None:
    outside = tmp_path / "outside"
    if there:
        (bundle / name).rename(outside)
    else:
        (bundle / name).unlink()
    (bundle / name).symlink_to(outside)
    with pytest.raises(BundleError, match=f"{name} is a link that leads out of the bundle") as caught:
        Bundle.open(bundle)
    assert caught.value.hint == "Copy the bundle with its files in the place of links: cp -rL."


def test_a_link_inside_of_the_bundle_is_followed(tmp_path: Path, bundle: Path) -> None:
    for name in (MANIFEST, REPORT, GRAPH):
        (bundle / name).rename(bundle / f"other.{name}")
        (bundle / name).symlink_to(f"other.{name}")
    (tmp_path / "link").symlink_to(bundle)
    for path in (bundle, tmp_path / "link"):
        assert Bundle.open(path).report() == REPORTED


def test_copies_of_a_bundle_close_nothing_of_others(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    artifact = opened.manifest.artifacts[0]
    content = opened.read(artifact)
    copies = [copy.copy(opened), copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))]
    assert all(one == opened and one.read(artifact) == content for one in copies)
    assert all(one.report() == opened.report() for one in copies)
    del copies
    gc.collect()
    assert opened.read(artifact) == content
    kept = copy.deepcopy(opened)
    del opened
    gc.collect()
    with (tmp_path / "mine").open("wb") as mine:  # takes the first free number
        del kept
        gc.collect()
        mine.write(b"mine")
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_bundle_whose_descriptors_somebody_closed_ends_quietly(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened._files is not None
    for stream in opened._files._streams.values():
        os.close(stream.fileno())
    del opened
    gc.collect()


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    link = tmp_path / "latest.splite"
    link.symlink_to("deep/a.splite")
    with new_bundle(link) as folder:  # what it leads to is not there yet
        (folder / MANIFEST).write_text(ours("old"), encoding="utf-8")
    with pytest.raises(OutputError, match=r"latest\.splite exists already"):
        write(link, "new")
    with new_bundle(link, overwrite=True) as folder:
        (folder / MANIFEST).write_text("new", encoding="utf-8")
    assert link.is_symlink() and (tmp_path / "deep" / "a.splite" / MANIFEST).read_text(encoding="utf-8") == "new"
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["a.splite"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=r"loop exists already"):
        write(tmp_path / "loop", "new")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("closed", ["parent", "bundle"])
def test_a_place_without_permission_is_refused_at_once(tmp_path: Path, closed: str) -> None:
    path = tmp_path / "in" / "a.splite"
    with new_bundle(path) as folder:
        (folder / MANIFEST).write_text(ours("old"), encoding="utf-8")
    shut = path.parent if closed == "parent" else path
    shut.chmod(0o555)
    begun = False
    try:
        with pytest.raises(OutputError, match="Permission denied"), new_bundle(path, overwrite=True):
            begun = True
    finally:
        shut.chmod(0o755)
    assert not begun


def test_overwriting_has_to_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.splite"
    write(path, ours("old"))
    with pytest.raises(OutputError, match=r"a\.splite exists already\.") as caught:
        write(path, "new")
    assert caught.value.hint == "Add --overwrite, or name another place."
    assert (path / MANIFEST).read_text(encoding="utf-8") == ours("old")
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
    with pytest.raises(OutputError, match="photos exists and is not a bundle") as caught:
        write(path, "new", overwrite=True)
    assert caught.value.hint == "Name another place with --output."
    assert path.is_file() or (path / "a.jpg").is_file()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("file/a.splite", "Cannot write .*: (File exists|Not a directory)", "is a file, not a folder"),
        ("x" * 300, "Cannot write .*: File name too long", "Check that the folder exists"),
        ("a\0b", "Cannot write .*: embedded null", "Check that the folder exists"),
        ("file", "exists already", "Add --overwrite"),
    ],
)
def test_a_place_that_cannot_be_written(tmp_path: Path, name: str, message: str, hint: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=message) as caught:
        write(tmp_path / name, "new")
    assert hint in caught.value.hint
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_checksum_covers_the_whole_manifest(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    others = [
        dataclasses.replace(opened.manifest, golden=dataclasses.replace(opened.manifest.golden, sha256="0" * 64)),
        dataclasses.replace(opened.manifest, artifacts=()),
        dataclasses.replace(opened.manifest, model=dataclasses.replace(SPEC, palm_mm=91.0)),
    ]
    texts = [manifest.to_json() for manifest in (opened.manifest, *others)]
    assert len({json.loads(text)["checksum"] for text in texts}) == len(texts)


def test_a_failure_takes_the_folders_it_made_away(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="half way"), new_bundle(tmp_path / "a" / "b" / "x.splite"):
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []


# --- while others write ---

WRITER = """
import pathlib, shutil, sys, time
from splite_deploy.bundle import new_bundle
from splite_deploy.errors import OutputError
path, source, end = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), time.monotonic() + 3
made = refused = 0
while time.monotonic() < end:
    try:
        with new_bundle(path, overwrite=True) as folder:
            for file in source.iterdir():
                shutil.copyfile(file, folder / file.name)
        made += 1
    except OutputError as err:
        assert "is being written by" in err.message, err
        refused += 1
print(made, refused)
"""


def test_two_writers_and_a_reader(tmp_path: Path, bundle: Path) -> None:
    """What is read is of one bundle: its graph's bytes, its golden tensors and its report agree with its manifest."""
    reports = {}
    for number in range(2):
        source = tmp_path / f"source-{number}"
        shutil.copytree(bundle, source)
        (source / GRAPH).write_bytes(random.Random(number).randbytes(100_000))
        manifest = manifest_of(source, write_golden(source / GOLDEN, GOLDENS))
        (source / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        report = dataclasses.replace(REPORTED, notes=(str(number),))
        (source / REPORT).write_text(report.to_json(), encoding="utf-8")
        reports[manifest.artifacts[0].sha256] = report.notes
    (bundle / "notes.md").write_text("mine", encoding="utf-8")
    commands = [[sys.executable, "-c", WRITER, str(bundle), str(tmp_path / f"source-{number}")] for number in range(2)]
    writers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    seen: set[str] = set()
    descriptors = len(list(Path("/dev/fd").iterdir())) if Path("/dev/fd").is_dir() else 0
    while any(writer.poll() is None for writer in writers):
        opened = Bundle.open(bundle)
        artifact = opened.find()
        time.sleep(0.005)  # here others take its place
        assert hashlib.sha256(opened.read(artifact)).hexdigest() == artifact.sha256
        opened.golden()
        if artifact.sha256 in reports:
            assert opened.report().notes == reports[artifact.sha256]
        seen.add(artifact.sha256)
        assert (bundle / "notes.md").read_text(encoding="utf-8") == "mine"
    del opened
    if descriptors:
        assert len(list(Path("/dev/fd").iterdir())) <= descriptors
    counts = [writer.communicate()[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sum(int(made) for made, _ in counts) >= 10 and set(reports) <= seen
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
