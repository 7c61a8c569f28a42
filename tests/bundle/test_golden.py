"""Golden data whose hash is right and whose content is not."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splite_deploy.bundle import GOLDEN, MANIFEST, Bundle
from splite_deploy.bundle.manifest import GoldenTensor
from splite_deploy.errors import BundleError

pytest.importorskip("torch")

TENSORS = (
    "crops",
    "output.heatmap",
    "output.depth",
    "keypoints",
    "scores",
    "depth",
    "image",
    "image.crop",
    "image.keypoints",
    "image.scores",
)
Change = Callable[[GoldenTensor], GoldenTensor]


@pytest.fixture
def sealed(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Bundle]:
    """A copy of the bundle with other golden data, all hashes right."""

    def seal(tensors: dict[str, GoldenTensor] | None = None, content: bytes | None = None, **image: Any) -> Bundle:
        path = tmp_path / "sealed.splite"
        shutil.copytree(tiny_bundle, path)
        manifest = Bundle.open(path).manifest
        golden = manifest.golden
        if content is not None:
            (path / GOLDEN).write_bytes(content)
            golden = dataclasses.replace(golden, sha256=hashlib.sha256(content).hexdigest())
        golden = dataclasses.replace(
            golden, tensors=tensors or golden.tensors, image=dataclasses.replace(golden.image, **image)
        )
        (path / MANIFEST).write_text(dataclasses.replace(manifest, golden=golden).to_json(), encoding="utf-8")
        return Bundle.open(path)

    return seal


CHANGES: dict[str, Change] = {
    "flat": lambda at: dataclasses.replace(at, shape=(int(np.prod(at.shape)), 1, 1)),
    "one axis more": lambda at: dataclasses.replace(at, shape=(1, *at.shape)),
    "without numbers": lambda at: dataclasses.replace(at, shape=(*at.shape[:-1], 0)),
    "no axis": lambda at: dataclasses.replace(at, shape=()),
    "shorter": lambda at: dataclasses.replace(at, shape=(*at.shape[:-1], at.shape[-1] - 1)),
    "of the other type": lambda at: dataclasses.replace(at, dtype="uint8" if at.dtype == "float32" else "float32"),
    "beyond the end": lambda at: dataclasses.replace(at, offset=1 << 62),
    "immense": lambda at: dataclasses.replace(at, shape=(1 << 62, 1 << 62)),
    "immense and empty": lambda at: dataclasses.replace(at, shape=(1 << 62, 0)),
    "negative": lambda at: dataclasses.replace(at, shape=(-1, *at.shape[1:])),
    "of seventy axes": lambda at: dataclasses.replace(at, shape=(1,) * 70),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_tensor_that_is_not_what_the_model_has(name: str, change: str, sealed: Callable[..., Bundle]) -> None:
    bundle = sealed()
    shutil.rmtree(bundle.path)
    held = dict(bundle.manifest.golden.tensors)
    held[name] = CHANGES[change](held[name])
    with pytest.raises(BundleError) as caught:
        sealed(held).golden()
    assert "golden" in caught.value.message
    assert caught.value.hint == "Copy the bundle again, or export it again."


@pytest.mark.parametrize("name", [name for name in TENSORS if name not in ("crops", "image", "image.crop")])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite(
    name: str, number: float, tiny_bundle: Path, sealed: Callable[..., Bundle]
) -> None:
    bundle = Bundle.open(tiny_bundle)
    content = bytearray((tiny_bundle / GOLDEN).read_bytes())
    offset = bundle.manifest.golden.tensors[name].offset + 4
    content[offset : offset + 4] = np.float32(number).tobytes()
    with pytest.raises(BundleError, match=f"golden tensor '{name}' is not finite") as caught:
        sealed(content=bytes(content)).golden()
    assert caught.value.hint


@pytest.mark.parametrize("length", [0, 1, 1000])
def test_a_file_that_is_too_short(length: int, tiny_bundle: Path, sealed: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match="lies outside its file"):
        sealed(content=(tiny_bundle / GOLDEN).read_bytes()[:length]).golden()


@pytest.mark.parametrize(
    "box",
    [(0.0, 0.0, 0.0, 0.0), (5.0, 5.0, 1.0, 9.0), (1e5, 0.0, 2e5, 9.0), (-9.0, -9.0, -1.0, -1.0), (-1e7, 0.0, 1e7, 9.0)],
)
def test_a_box_beside_the_image(box: tuple[float, ...], sealed: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match="The box of the golden image lies outside its ") as caught:
        sealed(box=box).golden()
    assert caught.value.hint


@pytest.mark.parametrize("role", ["output.heatmap", "output.depth", "depth"])
def test_a_tensor_that_is_missing(role: str, sealed: Callable[..., Bundle]) -> None:
    bundle = sealed()
    shutil.rmtree(bundle.path)
    held = {name: at for name, at in bundle.manifest.golden.tensors.items() if name != role}
    with pytest.raises(BundleError, match="golden file does not fit"):
        sealed(held).golden()


# --- the manifest ---


def manifest_with(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the manifest, with a checksum that fits by the rule of docs/bundle-format.md."""
    data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    edit(data)
    data = {**{key: value for key, value in data.items() if key != "checksum"}, "checksum": ""}
    text = json.dumps(data).encode()
    begin = text[: text.rindex(b'"checksum"')]
    (path / MANIFEST).write_bytes(begin + b'"checksum": "' + hashlib.sha256(begin).hexdigest().encode() + b'"}')


def first(data: dict[str, Any]) -> Any:
    return data["artifacts"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: first(d).update(inputs=[]), "has no inputs"),
        (lambda d: first(d).update(outputs=[]), "has no outputs"),
        (lambda d: first(d)["inputs"].append(first(d)["inputs"][0]), "have no names of their own"),
        (lambda d: first(d)["inputs"][0].update(shape=[1, 3, 64]), "has 3 axes and the layout 'NCHW'"),
        (lambda d: first(d)["inputs"][0].update(shape=[1, 3, 64, 50]), "the image of model.onnx is (3, 64, 50)"),
        (lambda d: first(d)["inputs"][0].update(shape=[1, 3, -64, 48]), "has the shape [1, 3, -64, 48]"),
        (lambda d: first(d)["inputs"][0].update(shape=[1, 3, 64, 1 << 40]), "has the shape [1, 3, 64, 1099511627776]"),
        (lambda d: first(d)["inputs"][0].update(shape=[1, None, 64, 48]), "leaves open more than its batch"),
        (lambda d: first(d)["inputs"][0].update(role="depth"), "takes another input than one image"),
        (lambda d: first(d)["inputs"][0].update(dtype="float31"), "has the type 'float31'"),
        (lambda d: first(d)["inputs"][0].update(layout="NNNN"), "the layout 'NNNN'"),
        (
            lambda d: first(d)["outputs"][0].update(shape=[1, 7, 16, 12]),
            "The output 'heatmap' has shape (1, 7, 16, 12)",
        ),
        (lambda d: first(d)["outputs"][0].update(role="nothing"), "There is no output 'heatmap'"),
        (lambda d: d["model"]["skeleton"]["keypoint_names"].append("more"), "the spec says (1, 6, 16, 12)"),
        (lambda d: d["artifacts"].append(first(d)), "it has the artifact 'ort fp32' twice"),
        (lambda d: first(d).update(sha256="0"), "the sha256 of model.onnx is none"),
        (lambda d: first(d).update(file=MANIFEST), "manifest.json is no artifact"),
        (lambda d: first(d).update(file="n" * 201), "is no name of a file in a bundle"),
        (lambda d: first(d).update(file="aux.onnx"), "is no name of a file in a bundle"),
        (lambda d: first(d).update(file="C:model.onnx"), "is no name of a file in a bundle"),
        (lambda d: d["golden"].update(file="../golden.bin"), "is no name of a file in a bundle"),
        (lambda d: d["model"]["decoder"].update(type="none"), "decoder.type is 'none'"),
        (lambda d: d["model"]["decoder"].update(stride=0), "decoder.stride must be positive"),
        (lambda d: d["model"]["input"].update(height=1 << 62), "must lie between 1 and 4096"),
        (lambda d: d["model"]["input"].update(height=10**30), "which is too large"),
    ],
)
def test_a_manifest_that_contradicts_itself(
    edit: Callable[[dict[str, Any]], Any], message: str, tiny_bundle: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.splite"
    shutil.copytree(tiny_bundle, path)
    manifest_with(path, edit)
    with pytest.raises(BundleError) as caught:
        Bundle.open(path)
    assert "manifest.json is malformed: " in caught.value.message and message in caught.value.message
    assert "make it anew with 'splite-deploy export'" in caught.value.hint


def test_a_link_out_of_the_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.splite"
    shutil.copytree(tiny_bundle, path)
    shutil.move(path / GOLDEN, tmp_path / "elsewhere")
    (path / GOLDEN).symlink_to("../elsewhere")
    with pytest.raises(BundleError, match="is a link that leads out of the bundle") as caught:
        Bundle.open(path)
    assert "cp -rL" in caught.value.hint
    shutil.move(tmp_path / "elsewhere", path / "here")
    (path / GOLDEN).unlink()
    (path / GOLDEN).symlink_to("here")
    Bundle.open(path).golden()
