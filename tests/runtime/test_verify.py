"""The golden crops again, on this machine: what passes, and that something else does not."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from tiny_tflite import VECTORS, tflite_artifact

from splite_deploy.bundle import GOLDEN, MANIFEST, Artifact, Bundle, Percentiles, write_golden
from splite_deploy.bundle.manifest import REEXPORT
from splite_deploy.bundle.packaged import PALM, packaged
from splite_deploy.device.int8 import Int8Instructions
from splite_deploy.errors import BundleError, ParityError, UsageError
from splite_deploy.files import sha256_of
from splite_deploy.metrics.parity import compare, limits_of, violations
from splite_deploy.runtime import verify as verify_module
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import Session, check_content, open_session
from splite_deploy.runtime.verify import Verification, check, run_each, verify
from splite_deploy.spec import Precision
from splite_deploy.spec.plain import structure, to_plain

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_results_need_not_outlive_the_next_run(tiny_bundle: Path) -> None:
    """A session may give the same memory again."""
    bundle = Bundle.open(tiny_bundle)
    crops = Preprocessor(bundle.model.input, bundle.model.input.color).normalise(bundle.golden().crops)

    class Reusing:
        def __init__(self, session: Session) -> None:
            self.inputs, self.outputs, self._session = session.inputs, session.outputs, session
            self._memory = {spec.name: np.empty(spec.shape, np.float32) for spec in session.outputs}

        def run(self, feeds: Any) -> dict[str, Any]:
            for name, values in self._session.run(feeds).items():
                self._memory[name][:] = values
            return self._memory

    with open_session(bundle) as session:
        expected, found = (run_each(one, crops, bundle.model) for one in (session, Reusing(session)))
    assert len(crops) > 1
    for role, values in expected.items():
        np.testing.assert_array_equal(found[role], values)


@pytest.fixture
def forged(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Puts another graph or other golden outputs into a copy of the bundle, and makes every hash fit again."""

    def forge(
        *,
        scale_weights: float = 1.0,
        edit: Callable[[dict[str, Any]], None] | None = None,
        crop: Callable[[NDArray[np.uint8]], NDArray[Any]] | None = None,
        **limits: float,
    ) -> Path:
        path = tmp_path / "forged.splite"
        shutil.copytree(tiny_bundle, path)
        model = onnx.load(str(path / "model.onnx"))
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            if array.ndim == 4:
                tensor.CopyFrom(onnx.numpy_helper.from_array(array * np.float32(scale_weights), tensor.name))
        onnx.checker.check_model(model)
        onnx.save(model, str(path / "model.onnx"))
        bundle = Bundle.open(tiny_bundle)
        golden, described = bundle.golden(), bundle.manifest.golden
        if edit is not None:
            outputs: dict[str, Any] = {role: array.copy() for role, array in golden.outputs.items()}
            edit(outputs)
            described = write_golden(path / GOLDEN, dataclasses.replace(golden, outputs=outputs))
        if crop is not None:
            image = dataclasses.replace(
                golden.image, crop=crop(golden.image.crop.copy()).astype(np.uint8), opencv="5.0.0"
            )
            described = write_golden(path / GOLDEN, dataclasses.replace(golden, image=image))
        artifact = dataclasses.replace(bundle.find(), sha256=sha256_of(path / "model.onnx"))
        artifact = dataclasses.replace(artifact, limits=dataclasses.replace(artifact.limits, **limits))
        manifest = dataclasses.replace(bundle.manifest, artifacts=(artifact,), golden=described)
        (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        Bundle.open(path)
        return path

    return forge


def test_a_good_bundle_passes(tiny_bundle: Path, tiny_dynamic_bundle: Path) -> None:
    for path in (tiny_bundle, tiny_dynamic_bundle):
        steps: list[str] = []
        bundle = Bundle.open(path)
        (result,) = results = verify(bundle, progress=steps.append)
        check(results)
        assert result.artifact == bundle.find() and result.violations == () and steps == ["ort fp32"]
        assert result.parity.label == "torch -> ort fp32"
        assert result.parity.crops == len(bundle.golden().crops)
        assert result.parity.deviation_px.max < 1e-3 and result.parity.depth_unit == "mm"


@pytest.mark.parametrize("arguments", [(), ("-b", "ort"), ("-p", "fp32"), ("-b", "ort", "-p", "fp32", "--threads", 1)])
def test_the_command_passes(splite: Callable[..., Result], tiny_bundle: Path, arguments: tuple[Any, ...]) -> None:
    result = splite("verify", tiny_bundle, *arguments)
    assert result.exit_code == 0, result.stderr
    assert "torch -> ort fp32" in result.stdout and "✓" in result.stdout


def test_the_command_gives_json(splite: Callable[..., Result], tiny_bundle: Path) -> None:
    result = splite("verify", tiny_bundle, "--json", "-")
    assert result.exit_code == 0
    (entry,) = json.loads(result.stdout)
    assert entry["artifact"]["sha256"] == Bundle.open(tiny_bundle).find().sha256
    assert entry["violations"] == [] and entry["parity"]["deviation_px"]["max"] < 1e-3


def test_another_graph_fails(splite: Callable[..., Result], forged: Callable[..., Path]) -> None:
    path = forged(scale_weights=1.05)
    with pytest.raises(ParityError) as caught:
        check(verify(Bundle.open(path)))
    message = caught.value.message
    assert message.startswith("ort fp32 differs on this machine: keypoint deviation p95 ")
    assert "px (limit 0.01); keypoint deviation max" in message and "px (limit 0.05)" in message
    assert "mm (limit 0.09)" in message and caught.value.hint
    shift = float(message.split("keypoint deviation p95 ")[1].split(" px")[0])
    assert 0.01 < shift < 64
    result = splite("verify", path)
    assert result.exit_code == 1 and f"error: {message}\n" in result.stderr and "\nhint:  " in result.stderr
    assert "over the limit" in result.stdout
    result = splite("verify", path, "--json", "-")
    assert result.exit_code == 1 and len(json.loads(result.stdout)[0]["violations"]) == 3


def test_int8_on_a_cpu_where_onnxruntime_is_wrong(forged: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (result,) = verify(Bundle.open(forged(scale_weights=1.05)))
    as_int8 = dataclasses.replace(result, artifact=dataclasses.replace(result.artifact, precision="int8"))

    def hint(cpu: Int8Instructions, version: str) -> str:
        monkeypatch.setattr(verify_module, "read_int8_instructions", lambda: cpu)
        monkeypatch.setattr(verify_module, "installed_versions", lambda packages: {"onnxruntime": version})
        with pytest.raises(ParityError, match="ort int8 differs on this machine") as caught:
            check([as_int8])
        return caught.value.hint

    amx, old = Int8Instructions(True, True, ("amx_int8",)), Int8Instructions(True, True, ())
    assert hint(amx, "1.23.0").startswith(
        "ONNX Runtime 1.23.0 computes some int8 layers wrongly on CPUs with AMX: pip install 'onnxruntime>=1.25' (on "
        "Python 3.10, which has none, take fp32). Do not ship it from here: "
    )
    assert "compare the backend's version" in hint(amx, "1.25.0") and "--reduce-range" not in hint(amx, "1.25.0")
    assert "Or sums of int8 saturate: this CPU has neither VNNI nor AMX." in hint(old, "1.23.0")


def test_the_same_graph_under_new_hashes_passes(forged: Callable[..., Path]) -> None:
    check(verify(Bundle.open(forged())))


@pytest.mark.parametrize("role", ["heatmap", "depth"])
def test_other_golden_outputs_fail(forged: Callable[..., Path], role: str) -> None:
    def edit(outputs: dict[str, Any]) -> None:
        outputs[role][:, 1:] = outputs[role][:, 1:, ::-1]

    (result,) = verify(Bundle.open(forged(edit=edit)))
    assert any(phrase.startswith("depth deviation p95") for phrase in result.violations)
    assert any(phrase.startswith("keypoint deviation") for phrase in result.violations) == (role == "heatmap")


def test_nan_fails(tiny_bundle: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    parity = dataclasses.replace(bundle.report().parity[0], deviation_px=Percentiles(*[float("nan")] * 3))
    assert len(violations(parity, bundle.model.limits, bundle.model)) == 2


@pytest.mark.parametrize(("amount", "expected"), [(0.0, 0), (0.5, 2)])
def test_shifts_are_measured_in_pixels(tiny_bundle: Path, amount: float, expected: int) -> None:
    bundle = Bundle.open(tiny_bundle)
    sharp = np.full((2, 5, 16, 12), -40.0, np.float32)
    sharp[:, :, 8, 5] = 40.0
    moved = sharp.copy()
    moved[0, 0, 8, 6] = 40.0 + np.log(amount / (1 - amount)) if amount else -40.0
    flat = np.zeros_like(sharp)
    parity = compare("a", {"heatmap": sharp, "depth": flat}, {"heatmap": moved, "depth": flat}, bundle.model, "b")
    assert parity.deviation_px.max == pytest.approx(4 * amount, abs=1e-4)  # half a cell of 4 px
    assert parity.deviation_px.p50 == 0 and (parity.stage, parity.crops_from, parity.crops) == ("a", "b", 2)
    assert len(violations(parity, bundle.model.limits, bundle.model)) == expected


def test_several_backends_and_precisions_are_checked(tiny_tflite_bundle: Path, splite: Callable[..., Result]) -> None:
    bundle = Bundle.open(tiny_tflite_bundle)
    labels = [result.artifact.label for result in verify(bundle, ["tflite"], ["int8", "fp32", "int8"])]
    assert labels == ["tflite int8", "tflite fp32"]  # as they were named
    assert [result.artifact.precision for result in verify(bundle, (), "fp16")] == ["fp16"]
    with pytest.raises(UsageError, match=r"holds no ort fp32 artifact") as caught:
        verify(bundle, ["tflite", "ort"], ["fp32", "int8"])
    assert caught.value.hint == "It holds: tflite fp32, tflite fp16, tflite int8."
    result = splite("verify", tiny_tflite_bundle, "-b", "tflite", "-p", "fp32", "-p", "fp16", "--json", "-")
    assert [entry["artifact"]["precision"] for entry in json.loads(result.stdout)] == ["fp32", "fp16"]


@pytest.mark.parametrize(("backend", "precision"), [("trt", None), (None, "int8"), ("ort", "fp16")])
def test_nothing_to_verify(tiny_bundle: Path, backend: Any, precision: Any) -> None:
    with pytest.raises(UsageError, match=r"holds no .* artifact") as caught:
        verify(Bundle.open(tiny_bundle), backend, precision)
    assert caught.value.hint == "It holds: ort fp32."


def test_an_empty_list_is_no_success() -> None:
    results: list[Verification] = []
    with pytest.raises(UsageError, match="Nothing was verified"):
        check(results)


# --- preprocessing ---


def test_preprocessing_is_compared_on_the_golden_image(splite: Callable[..., Result], tiny_bundle: Path) -> None:
    (result,) = verify(Bundle.open(tiny_bundle))
    assert (result.crop.differing, result.crop.mean_levels, result.crop.max_levels) == (0.0, 0.0, 0)
    assert result.crop.opencv_recorded == result.crop.opencv_here == cv2.__version__
    assert result.image.crop_px == Percentiles(0.0, 0.0, 0.0) and result.image.reference_px.max < 1e-3
    assert result.image.within_limits and result.warnings == ()
    shown = splite("verify", tiny_bundle)
    words = " ".join(shown.stdout.split())
    assert f"This machine's crop equals the recorded one (OpenCV {cv2.__version__} here" in words
    assert "warning" not in shown.stderr


def test_a_crop_that_differs_is_named_and_does_not_fail(
    splite: Callable[..., Result], forged: Callable[..., Path]
) -> None:
    def round_otherwise(crop: NDArray[np.uint8]) -> NDArray[Any]:
        return np.where(np.arange(crop.size).reshape(crop.shape) % 30 == 0, crop ^ 1, crop)

    path = forged(crop=round_otherwise)
    (result,) = verify(Bundle.open(path))
    assert result.violations == () and result.parity.deviation_px.max < 1e-3
    assert result.crop.differing == pytest.approx(0.1, abs=0.01) and result.crop.max_levels == 1
    assert result.crop.mean_levels == pytest.approx(1 / 30, abs=0.001)
    assert 0 < result.image.crop_px.p95 < result.image.crop_p95_limit_px
    shown = splite("verify", path)
    assert shown.exit_code == 0
    named = f"(OpenCV {cv2.__version__} here, 5.0.0 where it was recorded)"
    assert "warning: ort fp32: the crop of the golden image differs: 10." in shown.stderr and named in shown.stderr
    assert named in " ".join(shown.stdout.split()) and "the crop differs" in shown.stdout
    assert re.search("[│|┃] crop ", shown.stdout), "what the mark of the second table judges"
    (entry,) = json.loads(splite("verify", path, "--json", "-").stdout)
    assert entry["violations"] == [] and len(entry["warnings"]) == 1 and entry["crop"]["opencv_recorded"] == "5.0.0"


@pytest.mark.parametrize(("bit", "precision"), [(1, "int8"), (2, "fp16")])
def test_rounding_may_move_keypoints_further_than_anything_else(
    forged: Callable[..., Path], tiny_bundle: Path, bit: int, precision: Precision
) -> None:
    """Newcomers have the newest OpenCV, and bundles were made with another."""
    (result,) = verify(Bundle.open(forged(crop=lambda crop: crop ^ bit)))
    assert result.crop.max_levels == bit
    limit = limits_of(precision, Bundle.open(tiny_bundle).model)
    image_px = [
        result.image.crop_p95_limit_px / limit.shift_p95_px,
        result.image.crop_max_limit_px / limit.shift_max_px,
    ]
    assert 2 < image_px[0] < 4 and image_px[0] == pytest.approx(
        image_px[1]
    )  # pixels of the image per pixel of the crop


def edges(crop: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    """The crop with a tenth of its values off by so many levels, as where another OpenCV interpolates along edges."""
    marked = np.arange(crop.size).reshape(crop.shape) % 10 == 0
    return np.where(marked, np.where(crop > 127, crop - levels, crop + levels), crop).astype(np.uint8)


@pytest.mark.parametrize(("levels", "precision"), [(4, "int8"), (5, "fp16")])
def test_versions_of_opencv_differ_by_some_levels(
    forged: Callable[..., Path], tiny_bundle: Path, levels: int, precision: Precision
) -> None:
    (result,) = verify(Bundle.open(forged(crop=lambda crop: edges(crop, levels))))
    assert result.crop.max_levels == levels and result.crop.is_rounding == (precision == "int8")
    limit = limits_of(precision, Bundle.open(tiny_bundle).model)
    ratio = result.image.crop_max_limit_px / result.image.crop_p95_limit_px
    assert ratio == pytest.approx(limit.shift_max_px / limit.shift_p95_px)
    assert 2 < result.image.crop_p95_limit_px / limit.shift_p95_px < 4


def test_rounding_may_do_what_the_artifact_itself_may(forged: Callable[..., Path], tiny_bundle: Path) -> None:
    """int8 with a wider budget answers a changed level with as wide a step."""
    wide = {"shift_p95_px": 5.0, "shift_max_px": 20.0}
    path = forged(crop=lambda crop: edges(crop, 4), **wide)
    (result,) = verify(Bundle.open(path))
    assert result.image.crop_max_limit_px == pytest.approx(4 * result.image.crop_p95_limit_px)
    image_px = result.image.crop_p95_limit_px / 5.0
    assert 2 < image_px < 4
    shutil.rmtree(path)
    (other,) = verify(Bundle.open(forged(crop=lambda crop: edges(crop, 5), **wide)))
    limit = limits_of("fp16", Bundle.open(tiny_bundle).model)
    assert other.image.crop_p95_limit_px == pytest.approx(limit.shift_p95_px * image_px)


def test_two_keypoints_have_no_percentile() -> None:
    """What rounding may do to a detector's wrist and knuckle is bound by the largest deviation alone."""
    result, *_ = verify(Bundle.open(packaged(PALM)))
    assert result.image.crop_p95_limit_px == result.image.crop_max_limit_px


def test_a_crop_that_moves_keypoints_fails_under_its_own_name(
    splite: Callable[..., Result], forged: Callable[..., Path]
) -> None:
    path = forged(crop=lambda crop: np.roll(crop, 4, axis=1))
    (result,) = verify(Bundle.open(path))
    assert result.parity.deviation_px.max < 1e-3, "the artifact itself is as it was"
    assert not result.image.within_limits and result.image.crop_px.max > result.image.crop_max_limit_px
    (violation,) = result.violations
    assert violation.startswith("the crop of the golden image differs: ") and "alone it moves keypoints by" in violation
    shown = splite("verify", path)
    assert shown.exit_code == 1 and "over the limit" in shown.stdout
    assert "error: ort fp32 differs on this machine: the crop of the golden image differs: " in shown.stderr
    assert "hint:  Install OpenCV 5.0.0 here (pip install 'opencv-python-headless==5.0.0.*')." in shown.stderr


# --- what is recorded ---


@pytest.fixture
def recorded(tiny_bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """Changes what the golden data of a copy of the bundle says was found, and makes every hash fit again."""

    def change(**changes: Callable[[NDArray[Any]], NDArray[Any]]) -> Path:
        path = tmp_path / "recorded.splite"
        shutil.copytree(tiny_bundle, path)
        bundle = Bundle.open(path)
        golden = bundle.golden()
        own = {name: edit(getattr(golden.decoded, name).copy()) for name, edit in changes.items() if name != "image"}
        golden = dataclasses.replace(golden, decoded=dataclasses.replace(golden.decoded, **own))
        if "image" in changes:
            moved = changes["image"](golden.image.keypoints.copy())
            golden = dataclasses.replace(golden, image=dataclasses.replace(golden.image, keypoints=moved))
        described = write_golden(path / GOLDEN, golden)
        manifest = dataclasses.replace(bundle.manifest, golden=described)
        (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        return path

    return change


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keypoints", "the recorded keypoints lie 2.828 px from what the recorded outputs decode to"),
        ("scores", "the recorded scores are not what the recorded outputs decode to"),
        ("depth", "the recorded depths lie 2 from what the recorded outputs decode to"),
        ("image", "the recorded keypoints of the golden image lie 2.8"),
    ],
)
def test_golden_data_that_contradicts_itself_fails(
    recorded: Callable[..., Path], splite: Callable[..., Result], name: str, message: str
) -> None:
    path = recorded(**{name: lambda values: values + np.float32(2)})
    (result,) = verify(Bundle.open(path))
    (violation,) = result.violations
    assert violation.startswith(message)
    shown = splite("verify", path)
    assert shown.exit_code == 1 and f"error: ort fp32 differs on this machine: {message}" in shown.stderr
    assert "hint:  The golden data of the bundle contradicts itself: it was changed" in shown.stderr


def test_golden_data_that_says_the_same_passes(recorded: Callable[..., Path]) -> None:
    check(verify(Bundle.open(recorded(keypoints=lambda values: values + np.float32(1e-4)))))


def resigned(bundle: Path, place: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """A copy whose first artifact is described otherwise, under a checksum that fits."""
    shutil.copytree(bundle, place)
    opened = Bundle.open(bundle)
    manifest = to_plain(opened.manifest)
    edit(manifest["artifacts"][0])
    changed = structure(Artifact, manifest["artifacts"][0], "", unknown="ignore")
    written = dataclasses.replace(opened.manifest, artifacts=(changed, *opened.manifest.artifacts[1:]))
    (place / MANIFEST).write_text(written.to_json(), encoding="utf-8")
    return place


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_float_graph_that_is_called_something_else(
    splite: Callable[..., Result], tiny_bundle: Path, tmp_path: Path, precision: str
) -> None:
    path = resigned(tiny_bundle, tmp_path / "a.splite", lambda artifact: artifact.update(precision=precision))
    for words in (("verify",), ("bench", "--frames", "50")):
        result = splite(words[0], path, *words[1:])
        assert result.exit_code == 1 and "✓" not in result.stdout
        said = f"error: model.onnx is fp32 (float32); the manifest says {precision}.\nhint:  {REEXPORT}\n"
        assert result.stderr.endswith(said)


def in_bundle(bundle: Path, file: Path, precision: Precision) -> ModelFile:
    artifact = tflite_artifact(file, precision)
    return ModelFile(file.read_bytes(), artifact.file, "tflite", artifact, Bundle.open(bundle))


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_float_tflite_file_that_is_called_something_else(tiny_bundle: Path, precision: Precision) -> None:
    file = VECTORS / "tiny.fp32.tflite"
    with pytest.raises(BundleError, match=rf"^\S+ is fp32 \(float32\); the manifest says {precision}\.\n"):
        check_content(in_bundle(tiny_bundle, file, precision))


@pytest.mark.parametrize("wrong", ["fp32", "fp16"])
def test_an_int8_tflite_file_that_is_called_finer(tiny_bundle: Path, wrong: Precision) -> None:
    file = VECTORS / "tiny.int8.tflite"
    with pytest.raises(BundleError, match=rf"^\S+ is int8 \(int8 weights, .*\); the manifest says {wrong}\.\n"):
        check_content(in_bundle(tiny_bundle, file, wrong))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (
            lambda artifact: artifact["outputs"][0].update(name="hm2"),
            "model.onnx has the outputs 'heatmap' float32 1x5x16x12, 'depth' float32 1x5x16x12; the manifest says ",
        ),
        (
            lambda artifact: artifact["inputs"][0].update(name="picture"),
            "model.onnx has the inputs 'image' float32 1x3x64x48; the manifest says 'picture' float32 1x3x64x48.",
        ),
        (
            lambda artifact: artifact["inputs"][0].update(shape=[1 << 30, 3, 64, 48]),
            "model.onnx has the input 'image' float32 1x3x64x48; the manifest says 'image' float32 1073741824x3x64x48.",
        ),
        (
            lambda artifact: artifact["inputs"][0].update(shape=[None, 3, 64, 48]),
            "model.onnx has the input 'image' float32 1x3x64x48; the manifest says 'image' float32 Nx3x64x48.",
        ),
        (
            lambda artifact: artifact["inputs"][0].update(dtype="uint8"),
            "model.onnx has the input 'image' float32 1x3x64x48; the manifest says 'image' uint8 1x3x64x48.",
        ),
    ],
)
def test_tensors_that_the_graph_does_not_have(
    splite: Callable[..., Result],
    tiny_bundle: Path,
    tmp_path: Path,
    edit: Callable[[dict[str, Any]], object],
    said: str,
) -> None:
    path = resigned(tiny_bundle, tmp_path / "a.splite", edit)
    with pytest.raises(BundleError) as caught:
        open_session(Bundle.open(path))
    assert caught.value.message.startswith(said) and caught.value.hint == REEXPORT
    result = splite("verify", path)
    assert result.exit_code == 1 and result.stderr.endswith(f"error: {caught.value.message}\nhint:  {REEXPORT}\n")


def test_an_artifact_for_a_backend_that_this_version_lacks(
    splite: Callable[..., Result], tiny_bundle: Path, tmp_path: Path
) -> None:
    path = resigned(tiny_bundle, tmp_path / "a.splite", lambda artifact: artifact.update(backend="npu"))
    result = splite("verify", path)
    assert result.exit_code == 0 and "ort fp32" in result.stdout, result.stderr
    unread = resigned(tiny_bundle, tmp_path / "b.splite", lambda artifact: artifact.update(backend="npu", format="xml"))
    result = splite("verify", unread)
    assert "model.onnx was made for the backend 'npu', which this version of splite-deploy lacks" in result.stderr
    assert "auto" not in result.stderr


def test_a_bundle_without_artifacts(splite: Callable[..., Result], tiny_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.splite"
    shutil.copytree(tiny_bundle, path)
    manifest = dataclasses.replace(Bundle.open(path).manifest, artifacts=())
    (path / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    for command in ("verify", "bench"):
        result = splite(command, path)
        said = f"error: The bundle {path} holds no artifact.\nhint:  It holds none. {REEXPORT}\n"
        assert result.stderr == said


def test_a_checkpoint_is_not_called_a_bundle(splite: Callable[..., Result], tiny_checkpoint: Path) -> None:
    for option in ("--images", "--reference", "--model"):
        result = splite("verify", tiny_checkpoint, option, "x")
        assert result.stderr.startswith(f"error: {tiny_checkpoint} is a file, not a bundle folder."), result.stderr
