"""Checkpoint to bundle: what is measured and written, and that a failure at any step leaves nothing."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")

from splite_deploy.bundle import GOLDEN, MANIFEST, REPORT, Bundle
from splite_deploy.errors import (
    CheckpointError,
    ExportError,
    OptionError,
    OutputError,
    ParityError,
    SpecError,
    SpliteError,
    UsageError,
)
from splite_deploy.export import ExportOptions, export_bundle, pipeline
from splite_deploy.export.graph.torch_to_onnx import onnx_from_network
from splite_deploy.export.graph.walk import constant
from splite_deploy.export.source.checkpoint import build_network, load_symbol, read_checkpoint
from splite_deploy.files import sha256_of
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.verify import verify
from splite_deploy.spec import load_model_toml

FEW = ExportOptions(crops=3)
DIFFERENT_WHEN_EXPORTED = """
    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        if torch.compiler.is_exporting():
            image = image + 0.5
"""


@pytest.fixture(scope="module")
def raw_graph(tiny_model: Path) -> ir.Model:
    """The tiny network as torch exports it."""
    network = load_symbol("arch.py:build", tiny_model.parent)().eval()
    return onnx_from_network(network, load_model_toml(tiny_model)[0], opset=18, dynamic_batch=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, raw_graph: ir.Model) -> None:
    """Takes the slow step out of an export: the graph is always the one of the tiny network."""
    monkeypatch.setattr(pipeline, "onnx_from_network", lambda network, spec, **options: raw_graph)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may change."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder / tiny_model.name


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a bundle is to appear, in a folder of its own."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "tiny.splite"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of five images, and something that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(5):
        cv2.imwrite(str(folder / f"{index}.png"), rng.integers(0, 256, (40 + index, 50, 3), np.uint8))
    (folder / "notes.txt").write_text("not an image", encoding="utf-8")
    return folder


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def content(folder: Path) -> dict[str, str]:
    return {file.name: sha256_of(file) for file in folder.iterdir()}


# --- what is written ---


def test_a_bundle_holds_what_was_done(tiny_bundle: Path, tiny_checkpoint: Path, tiny_model: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    assert set(content(tiny_bundle)) == {MANIFEST, REPORT, GOLDEN, "model.onnx"}
    assert bundle.model == load_model_toml(tiny_model)[0]
    source, report = bundle.manifest.source, bundle.report()
    assert (source.checkpoint, source.checkpoint_sha256) == (tiny_checkpoint.name, sha256_of(tiny_checkpoint))
    assert report.opset == 18 and report.notes == () and {"torch", "onnx", "onnxruntime"} <= set(report.versions)
    assert report.versions["torch"] == torch.__version__
    artifact = bundle.find()
    assert (artifact.label, artifact.limits, artifact.target) == ("ort fp32", bundle.model.limits, {})


def test_every_step_was_compared(tiny_bundle: Path) -> None:
    stages = Bundle.open(tiny_bundle).report().parity
    assert [parity.label for parity in stages] == ["torch -> onnx", "torch -> simplified"]
    for parity in stages:
        assert (parity.crops, parity.crops_from) == (12, "12 synthetic images of samples.py")
        assert set(parity.tensor_max_abs) == {"heatmap", "depth"}
        assert 0 <= parity.deviation_px.p50 <= parity.deviation_px.p95 <= parity.deviation_px.max < 1e-3
        assert 0 < max(parity.tensor_max_abs.values()) < 1e-4
        assert parity.depth is not None and parity.depth.max < 0.01 and parity.depth_unit == "mm"


def test_golden_outputs_are_those_of_torch(tiny_bundle: Path, tiny_checkpoint: Path, tiny_model: Path) -> None:
    bundle = Bundle.open(tiny_bundle)
    golden, spec = bundle.golden(), bundle.model
    assert golden.crops.shape == (8, 64, 48, 3) and golden.crops.dtype == np.uint8
    assert len({crop.tobytes() for crop in golden.crops}) == 8
    network = build_network(load_model_toml(tiny_model)[1], read_checkpoint(tiny_checkpoint))
    tensors = Preprocessor(spec.input, "rgb").normalise(golden.crops)
    with torch.inference_mode():
        outputs = [network(torch.from_numpy(tensor[None])) for tensor in tensors]
    for index, role in enumerate(("heatmap", "depth")):
        expected = np.concatenate([output[index].numpy() for output in outputs])
        assert golden.outputs[role].shape == (8, 5, 16, 12)
        np.testing.assert_allclose(golden.outputs[role], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("crops", [1, 3, 20])
def test_no_more_golden_crops_than_there_are(tiny_checkpoint: Path, tiny_model: Path, output: Path, crops: int) -> None:
    bundle = export_bundle(tiny_checkpoint, output, model=tiny_model, options=ExportOptions(crops=crops))
    golden = bundle.golden()
    assert len(golden.crops) == min(crops, 8) == len(golden.outputs["heatmap"])
    assert bundle.report().parity[0].crops == crops
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.usefixtures("quick")
def test_a_bundle_that_has_to_be_small_keeps_few_golden_crops(
    tiny_checkpoint: Path, tiny_model: Path, output: Path
) -> None:
    options = ExportOptions(precisions=("fp32", "int8"), crops=20, golden_crops=2)
    bundle = export_bundle(tiny_checkpoint, output, model=tiny_model, options=options)
    assert len(bundle.golden().crops) == 2 == len(bundle.golden().outputs["heatmap"])
    assert {one.crops for one in bundle.report().parity} == {20}
    assert [one.violations for one in verify(bundle)] == [(), ()]
    with pytest.raises(OptionError, match="At least one golden crop is needed") as caught:
        ExportOptions(golden_crops=0)
    assert caught.value.hint == "Keep 1 or more."


@pytest.mark.usefixtures("quick")
def test_the_spec_is_sought_beside_the_checkpoint(tiny_checkpoint: Path, model: Path, output: Path) -> None:
    checkpoint = model.with_name("tiny.safetensors")
    with pytest.raises(SpecError, match=r"No model spec at .*model\.toml"):
        export_bundle(tiny_checkpoint, output, options=FEW)
    shutil.copy(tiny_checkpoint, checkpoint)
    assert export_bundle(checkpoint, output, options=FEW).model.name == "tiny"


@pytest.mark.usefixtures("quick")
def test_notes_on_the_checkpoint_are_kept(tiny_model: Path, tmp_path: Path, output: Path) -> None:
    weights = load_symbol("arch.py:build", tiny_model.parent)().state_dict()
    torch.save(
        {"ema": {f"module.{name}": tensor for name, tensor in weights.items()}, "model": weights}, tmp_path / "c"
    )
    bundle = export_bundle(tmp_path / "c", output, model=tiny_model, options=FEW)
    notes = ("took the weights under 'ema', not model", "took off the prefix 'module.'")
    assert bundle.report().notes == notes


@pytest.mark.usefixtures("quick")
def test_progress_is_told(tiny_checkpoint: Path, tiny_model: Path, output: Path) -> None:
    steps: list[str] = []
    export_bundle(tiny_checkpoint, output, model=tiny_model, options=FEW, progress=steps.append)
    assert steps[0] == "reading the checkpoint" and "torch -> ONNX" in steps and steps[-1] == "writing the bundle"


# --- the gate ---


def test_a_graph_that_differs_is_not_written(
    splite: Callable[..., Result], tiny_checkpoint: Path, model: Path, output: Path
) -> None:
    replace(
        model.with_name("arch.py"),
        "\n    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:\n",
        DIFFERENT_WHEN_EXPORTED,
    )
    result = splite("export", tiny_checkpoint, "--model", model, "-o", output, "--crops", 3)
    assert result.exit_code == 1 and result.stdout == ""
    assert "error: torch -> onnx changed the result on 3 crops: keypoint deviation p95 " in result.stderr
    assert " px (limit 0.01); keypoint deviation max " in result.stderr and "depth deviation p95" in result.stderr
    assert "hint:  Nothing was written." in result.stderr
    assert list(output.parent.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_a_simplification_that_differs_is_not_written(
    tiny_checkpoint: Path, tiny_model: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simplify = pipeline.simplify

    def scaling(source: ir.Model, **options: Any) -> ir.Model:
        model = simplify(source, **options)
        weights = max(model.graph.initializers.values(), key=lambda value: constant(value).size)
        weights.const_value = ir.tensor(constant(weights) * np.float32(1.1), name=weights.name)
        return model

    monkeypatch.setattr(pipeline, "simplify", scaling)
    with pytest.raises(ParityError, match="torch -> simplified changed the result on 3 crops: keypoint deviation p95"):
        export_bundle(tiny_checkpoint, output, model=tiny_model, options=FEW)
    assert list(output.parent.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("limit", "message"),
    [
        ("shift_p95_px", "keypoint deviation p95 "),
        ("shift_max_px", "keypoint deviation max "),
        ("depth_p95", "depth deviation p95 "),
    ],
)
def test_each_limit_of_the_spec_counts(
    tiny_checkpoint: Path, model: Path, output: Path, limit: str, message: str
) -> None:
    with model.open("a", encoding="utf-8") as stream:
        stream.write(f"\n[limits]\n{limit} = 1e-30\n")
    with pytest.raises(ParityError) as caught:
        export_bundle(tiny_checkpoint, output, model=model, options=FEW)
    assert f"torch -> onnx changed the result on 3 crops: {message}" in caught.value.message
    assert f"(limit {'9e-29' if limit == 'depth_p95' else '1e-30'})" in caught.value.message  # a palm is 90 mm
    assert "[limits] in model.toml" in caught.value.hint
    assert list(output.parent.iterdir()) == []


# --- failures ---


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "step", ["onnx_from_network", "simplify", "make_variants", "write_graphs", "measure_graph", "write_golden"]
)
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), RuntimeError("bug"), ExportError("no"), OSError(errno.ENOSPC, "No space left")]
)
@pytest.mark.parametrize("before", [False, True])
def test_a_failure_in_the_middle_changes_nothing(
    tiny_checkpoint: Path,
    tiny_model: Path,
    tiny_bundle: Path,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    error: BaseException,
    before: bool,
) -> None:
    if before:
        shutil.copytree(tiny_bundle, output)
    step_before = getattr(pipeline, step)

    def failing(*arguments: Any, **options: Any) -> Any:
        step_before(*arguments, **options)
        raise error

    monkeypatch.setattr(pipeline, step, failing)
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        export_bundle(tiny_checkpoint, output, model=tiny_model, options=ExportOptions(crops=2, overwrite=before))
    assert list(output.parent.iterdir()) == ([output] if before else [])
    if before:
        assert content(output) == content(tiny_bundle)
        Bundle.open(output)


@pytest.mark.usefixtures("quick")
def test_a_bundle_of_format_1_is_made_anew_by_the_command_that_its_refusal_names(
    splite: Callable[..., Result], tiny_checkpoint: Path, model: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.mkdir()
    old = {"format_version": 1, "source": {"checkpoint": tiny_checkpoint.name}, "model": {}, "artifacts": []}
    (output / MANIFEST).write_text(json.dumps(old), encoding="utf-8")
    done = splite("verify", output)
    assert done.exit_code == 1 and "has format version 1; this version of splite-deploy reads 2." in done.stderr
    command = done.stderr.partition("hint:  Make it anew: ")[2].split()
    assert command[:2] == ["splite-deploy", "export"] and command[-1] == "--overwrite"
    shutil.copy(tiny_checkpoint, model.parent)
    monkeypatch.chdir(model.parent)
    done = splite(*command[1:], "--crops", 2)
    assert done.exit_code == 0, done.stderr
    assert Bundle.open(output).manifest.format_version == 2


@pytest.mark.usefixtures("quick")
def test_overwriting(
    splite: Callable[..., Result], tiny_checkpoint: Path, tiny_model: Path, tiny_bundle: Path, output: Path
) -> None:
    shutil.copytree(tiny_bundle, output)
    arguments = ("export", tiny_checkpoint, "--model", tiny_model, "-o", output, "--crops", 2)
    result = splite(*arguments)
    assert result.exit_code == 1 and f"error: {output} exists already." in result.stderr
    assert "hint:  Add --overwrite" in result.stderr and content(output) == content(tiny_bundle)
    (output / "gone.jpg").symlink_to("nowhere")
    result = splite(*arguments, "--overwrite")
    assert result.exit_code == 0, result.stderr
    own = sum(file.stat().st_size for file in output.iterdir() if not file.is_symlink())
    assert f"{output}: {own / 1e6:.2f} MB." in result.stdout and (output / "gone.jpg").is_symlink()
    assert Bundle.open(output).report().parity[0].crops == 2
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_bundle_is_never_replaced(
    tiny_checkpoint: Path, tiny_model: Path, photos: Path, overwrite: bool
) -> None:
    before = content(photos)
    with pytest.raises(OutputError, match="photos exists"):
        export_bundle(tiny_checkpoint, photos, model=tiny_model, options=ExportOptions(crops=2, overwrite=overwrite))
    assert content(photos) == before


@pytest.mark.parametrize("crops", [0, -1])
def test_too_few_crops(tiny_checkpoint: Path, tiny_model: Path, output: Path, crops: int) -> None:
    with pytest.raises(UsageError, match="At least one crop is needed") as caught:
        export_bundle(tiny_checkpoint, output, model=tiny_model, options=ExportOptions(crops=crops))
    assert "--crops 1" in caught.value.hint


def test_the_wrong_set_of_weights(tiny_checkpoint: Path, tiny_model: Path, output: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights under 'ema'"):
        export_bundle(tiny_checkpoint, output, model=tiny_model, options=ExportOptions(weights="ema"))


# --- where the images come from ---


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("crops", "origin"), [(3, "3 images of photos"), (64, "5 images of photos")])
def test_images_of_a_folder(
    tiny_checkpoint: Path, tiny_model: Path, photos: Path, output: Path, crops: int, origin: str
) -> None:
    options = ExportOptions(images=photos, crops=crops)
    bundle = export_bundle(tiny_checkpoint, output, model=tiny_model, options=options)
    parity = bundle.report().parity[0]
    assert (parity.crops_from, parity.crops) == (origin, min(crops, 5))
    image: NDArray[np.uint8] = cv2.imread(str(photos / "0.png"))  # type: ignore[assignment]
    height, width = image.shape[:2]
    spec = bundle.model.input
    expected, _ = Preprocessor(spec, "bgr").crop(image, np.array([0.0, 0, width, height]))
    np.testing.assert_array_equal(bundle.golden().crops[0], expected)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("by_folder", [False, True])
def test_images_of_a_labels_file(
    tiny_checkpoint: Path, tiny_model: Path, photos: Path, output: Path, by_folder: bool
) -> None:
    box = [5.0, 6.0, 35.0, 30.0]
    samples = [{"image": f"{index}.png", "keypoints": [[5, 6], [35, 30]]} for index in (4, 2)]
    (photos / "labels.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
    options = ExportOptions(images=photos if by_folder else photos / "labels.json")
    bundle = export_bundle(tiny_checkpoint, output, model=tiny_model, options=options)
    assert bundle.report().parity[0].crops_from == "2 labelled images of photos"
    image: NDArray[np.uint8] = cv2.imread(str(photos / "4.png"))  # type: ignore[assignment]
    expected, _ = Preprocessor(bundle.model.input, "bgr").crop(image, np.array(box))
    np.testing.assert_array_equal(bundle.golden().crops[0], expected)


@pytest.mark.usefixtures("quick")
def test_real_photographs(tiny_checkpoint: Path, tiny_model: Path, hand_digits: Path, output: Path) -> None:
    options = ExportOptions(images=hand_digits, crops=6)
    bundle = export_bundle(tiny_checkpoint, output, model=tiny_model, options=options)
    assert bundle.report().parity[-1].crops_from == f"6 labelled images of {hand_digits.name}"
    crops = bundle.golden().crops
    assert len(crops) == 6 and crops.std(axis=(1, 2, 3)).min() > 10


@pytest.mark.parametrize(
    ("images", "message", "hint"),
    [
        ("missing", "missing is neither a folder of images nor a labels.json.", "--images"),
        ("empty", "empty holds no image.", ".png"),
        ("photos/notes.txt", "notes.txt is neither a folder of images nor a labels.json.", "--images"),
        ("photos/labels.json", "labels.json: No such file or directory", "Name a labels.json"),
        ("broken", "a.png is not an image that can be read.", "JPEG"),
        ("x" * 300, "is neither a folder of images nor a labels.json.", "--images"),
        (None, "There are no images on which to compare the conversions.", "--images DIR"),
    ],
)
def test_no_images(
    tiny_checkpoint: Path,
    model: Path,
    photos: Path,
    output: Path,
    images: str | None,
    message: str,
    hint: str,
) -> None:
    for name in ("empty", "broken"):
        (photos.parent / name).mkdir()
    (photos.parent / "broken" / "a.png").write_text("no image", encoding="utf-8")
    replace(model, 'samples = "samples.py:samples"', "")
    options = ExportOptions(images=photos.parent / images if images else None)
    with pytest.raises(UsageError) as caught:
        export_bundle(tiny_checkpoint, output, model=model, options=options)
    assert message in caught.value.message and hint in caught.value.hint
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("def samples(count, seed): return []", UsageError, "There are no images on which to compare the conversions."),
        ("def samples(count): return []", SpecError, "samples.py:samples fails: TypeError: "),
        ("def samples(count, seed):\n    raise ValueError('no light')\n    yield", SpecError, "ValueError: no light"),
        ("def samples(count, seed): yield 3", SpecError, "samples.py:samples fails: TypeError: "),
        ("def samples(count, seed): return None", SpecError, "samples.py:samples fails: TypeError: "),
        ("def samples(count, seed): yield None, None", UsageError, "The image is a NoneType"),
        ("def others(): pass", SpecError, "samples.py defines no 'samples'."),
    ],
)
def test_a_renderer_that_fails(
    tiny_checkpoint: Path, model: Path, output: Path, code: str, error: type[SpliteError], message: str
) -> None:
    model.with_name("samples.py").write_text(code, encoding="utf-8")
    with pytest.raises(error) as caught:
        export_bundle(tiny_checkpoint, output, model=model, options=FEW)
    assert message in caught.value.message and caught.value.hint
    assert list(output.parent.iterdir()) == []


def test_a_checkpoint_of_other_widths_is_exported_without_a_list_of_widths(
    model: Path, tiny_checkpoint: Path, output: Path
) -> None:
    replace(model, "channels = 8", "channels = 12")
    bundle = export_bundle(tiny_checkpoint, output, model=model, options=FEW)
    (note,) = bundle.report().notes
    assert note.startswith("reshaped 5 modules to the checkpoint's widths, first backbone.0: Conv2d")
    assert "12 -> 8 out" in note
    network = build_network(load_model_toml(tiny_model_of(model))[1], read_checkpoint(tiny_checkpoint))
    golden = bundle.golden()
    spec = bundle.model
    with torch.inference_mode():
        tensors = torch.from_numpy(Preprocessor(spec.input, spec.input.color).normalise(golden.crops))
        heatmap, _ = network(tensors)
    np.testing.assert_allclose(golden.outputs["heatmap"], heatmap.numpy(), atol=1e-5)


def tiny_model_of(model: Path) -> Path:
    """The model with the widths of the checkpoint again."""
    replace(model, "channels = 12", "channels = 8")
    return model
