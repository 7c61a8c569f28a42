"""Calibration images: each source gives what the runtime would see, and each fault is an error that says what to do."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

from splite_deploy.errors import CalibrationError, SpecError, SpliteError, UsageError
from splite_deploy.export.crops import crops_from_renderer
from splite_deploy.export.quant.calibration import content_key, load_calibration, read_crops
from splite_deploy.export.source.checkpoint import build_architecture, load_symbol, load_weights, read_checkpoint
from splite_deploy.metrics.labels import read_labels
from splite_deploy.runtime.crops import crops_from_images
from splite_deploy.runtime.io.images import boxed_images
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import HostSpec, InputSpec, ModelSpec, load_model_toml

Pixels = NDArray[np.uint8]
Scorer = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> ModelSpec:
    return load_model_toml(tiny_model)[0]


@pytest.fixture
def host(tiny_model: Path, tmp_path: Path) -> HostSpec:
    """The tiny model in a folder of its own, whose renderer may be changed."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return load_model_toml(folder / "model.toml")[1]


@pytest.fixture
def bare(host: HostSpec) -> HostSpec:
    """The same without a renderer."""
    return replace(host, samples="")


@pytest.fixture(scope="module")
def pictures(tiny_model: Path) -> list[Pixels]:
    """64 RGB images of the tiny renderer, of another seed than those of the calibration."""
    return [image for image, _ in load_symbol("samples.py:samples", tiny_model.parent)(64, 7)]


@pytest.fixture(scope="module")
def crops(tiny_model: Path, pictures: list[Pixels]) -> Pixels:
    """(64, 64, 48, 3) RGB crops of them."""
    return np.stack([picture[:64, :48] for picture in pictures])


def photos(folder: Path, pictures: list[Pixels]) -> Path:
    folder.mkdir()
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{index:03}.png"), picture[..., ::-1])
    return folder


def labelled(folder: Path, splits: list[str | None]) -> Path:
    """Adds a labels.json that boxes the first images of a folder."""
    samples = [
        {"image": f"{index:03}.png", "keypoints": [[20, 10], [70, 74]], **({"split": split} if split else {})}
        for index, split in enumerate(splits)
    ]
    (folder / "labels.json").write_text(json.dumps({"samples": samples}))
    return folder


def archive(folder: Path, **arrays: Any) -> Path:
    path = folder / "crops.npz"
    np.savez(path, **arrays)
    return path


def fails(kind: type[SpliteError], message: str, hint: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(kind) as caught:
        load_calibration(*arguments, **options)
    assert message in caught.value.message, caught.value.message
    assert hint in caught.value.hint, caught.value.hint


# --- sources ---


def test_the_renderer_is_taken_where_nothing_is_given_and_that_is_said(tiny: ModelSpec, host: HostSpec) -> None:
    told: list[str] = []
    made = load_calibration(None, tiny, host, count=40, progress=told.append)
    assert made.origin == "rendered by samples.py (40)"
    assert made.warnings == ("calibrated on rendered images; give real ones with --calibration",)
    assert made.pixels.shape == (40, 64, 48, 3) and made.pixels.dtype == np.uint8
    assert told == ["rendering 40 images for the calibration"]
    parity = crops_from_renderer(host, 40, tiny.input).pixels
    assert not {crop.tobytes() for crop in parity} & {crop.tobytes() for crop in made.pixels}
    np.testing.assert_array_equal(made.tensors(tiny.input), Preprocessor(tiny.input, "rgb").normalise(made.pixels))


def test_a_folder_gives_the_crops_that_the_runtime_makes(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels]
) -> None:
    folder = photos(tmp_path / "kitchen", pictures)
    made = load_calibration(folder, tiny, bare, count=40)
    assert made.origin == "photos of kitchen (40 images)"
    assert made.warnings == (
        "40 calibration images have no box and were taken whole; a labels.json beside them gives boxes",
    )
    np.testing.assert_array_equal(made.pixels, crops_from_images(folder, 40, tiny.input).pixels)


def test_labels_give_boxes_and_their_training_split_is_preferred(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels]
) -> None:
    folder = labelled(photos(tmp_path / "set", pictures), ["train"] * 40 + ["val"] * 24)
    made = load_calibration(folder, tiny, bare)
    assert (made.origin, made.warnings) == ("photos of set, split 'train' (40 images)", ())
    whole = crops_from_images(folder, 64, tiny.input).pixels
    np.testing.assert_array_equal(made.pixels, whole[:40])

    made = load_calibration(labelled(folder, [None] * 64) / "labels.json", tiny, bare, count=32)
    assert (made.origin, made.warnings) == ("photos of set, no split 'train' there (32 images)", ())
    assert (made.pixels[-1] == whole[-1]).all()


def test_without_images_both_ways_to_give_some_are_named(tiny: ModelSpec, bare: HostSpec) -> None:
    for hint in ("--calibration", "samples in model.toml"):
        fails(UsageError, "no images for the calibration", hint, None, tiny, bare)


def test_random_noise_is_taken_only_where_it_is_allowed_and_nothing_better_is_there(
    tiny: ModelSpec, host: HostSpec, bare: HostSpec
) -> None:
    made = load_calibration(None, tiny, bare, count=32, allow_random=True)
    assert made.origin == "random noise (32)" and "random noise" in made.warnings[0]
    assert load_calibration(None, tiny, host, count=32, allow_random=True).origin == "rendered by samples.py (32)"


@pytest.mark.parametrize("name", ["missing", "list.txt", "labels.json", "crops.npz"])
def test_a_missing_source_is_named(tiny: ModelSpec, bare: HostSpec, tmp_path: Path, name: str) -> None:
    fails(UsageError, name, " ", tmp_path / name, tiny, bare)


def test_a_renderer_that_fails_is_named_and_matters_only_where_it_is_the_source(
    tiny: ModelSpec, host: HostSpec, tmp_path: Path, crops: Pixels
) -> None:
    (host.folder / "samples.py").write_text("def samples(count, seed):\n    yield 1 / 0\n")
    fails(SpecError, "samples.py:samples fails: ZeroDivisionError", "(count, seed)", None, tiny, host)
    made = load_calibration(archive(tmp_path, crops=crops, color="rgb"), tiny, host)
    assert len(made.warnings) == 1 and "were not compared with rendered ones" in made.warnings[0]


# --- archives ---


@pytest.mark.parametrize("layout", [(0, 1, 2, 3), (0, 3, 1, 2)], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("name", ["crops", "images", "anything"])
def test_an_archive_of_pixels(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, crops: Pixels, layout: tuple[int, ...], name: str
) -> None:
    made = load_calibration(archive(tmp_path, **{name: crops.transpose(layout), "color": "RGB"}), tiny, bare)
    assert (made.origin, made.warnings) == ("crops of crops.npz (64)", ())
    np.testing.assert_array_equal(made.pixels, crops)


def test_a_declared_order_is_converted_and_said(tiny: ModelSpec, bare: HostSpec, tmp_path: Path, crops: Pixels) -> None:
    made = load_calibration(archive(tmp_path, crops=crops[..., ::-1], color=b"bgr"), tiny, bare)
    assert made.origin == "crops of crops.npz (64, converted from bgr to rgb)"
    np.testing.assert_array_equal(made.pixels, crops)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_networks_own_input_is_taken_back_to_pixels(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, crops: Pixels, kind: type[np.floating[Any]]
) -> None:
    tensors = Preprocessor(tiny.input, "rgb").normalise(crops)
    made = load_calibration(archive(tmp_path, crops=tensors.astype(kind), color="rgb"), tiny, bare)
    np.testing.assert_array_equal(made.pixels, crops)


@settings(max_examples=40, deadline=None)
@given(
    mean=st.tuples(*[st.floats(0, 255)] * 3), std=st.tuples(*[st.floats(1.5, 300)] * 3), seed=st.integers(0, 2**32 - 1)
)
def test_normalised_pixels_come_back_whatever_the_normalisation(
    tmp_path_factory: pytest.TempPathFactory, mean: tuple[float, ...], std: tuple[float, ...], seed: int
) -> None:
    spec = InputSpec(4, 6, "bgr", mean, std, 1.0, 0)  # type: ignore[arg-type]
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 4, 6, 3), np.uint8)
    path = tmp_path_factory.getbasetemp() / "back.npz"
    np.savez(path, Preprocessor(spec, "bgr").normalise(pixels))
    np.testing.assert_array_equal(read_crops(path, 2, spec).pixels, pixels)


@pytest.mark.parametrize(
    ("change", "kind", "message", "hint"),
    [
        (lambda c: {"crops": c / np.float32(255)}, CalibrationError, "float32 from 0 to 1, which", "crops * 255"),
        (lambda c: {"crops": c.astype(np.float32)}, CalibrationError, "from 0 to 255, which is not", "0-255 scale"),
        (lambda c: {"crops": (c - 127.5) / 127.5}, CalibrationError, "-2.069 to 2.632 in steps of 0.0172", "uint8"),
        (lambda c: {"crops": np.full(c.shape, np.nan)}, CalibrationError, "from nan to nan", "uint8"),
        (lambda c: {"crops": (c > 127).astype(np.uint8)}, CalibrationError, "uint8 from 0 to 1, not", "by 255"),
        (lambda c: {"crops": c.astype(np.int64)}, UsageError, "of type int64", "uint8"),
        (lambda c: {"crops": c[:, :32]}, UsageError, "(64, 32, 48, 3); the network takes (N, 64, 48, 3)", "folder"),
        (lambda c: {"crops": c[0]}, UsageError, "(64, 48, 3); the network takes", "folder"),
        (lambda c: {"a": c, "b": c}, UsageError, "holds a (64, 64, 48, 3), b (64, 64, 48, 3)", "'crops'"),
        (lambda c: {"crops": c, "images": c}, UsageError, "does not tell which", "'crops'"),
        (lambda c: {"color": "rgb"}, UsageError, "it holds nothing", "'crops'"),
        (lambda c: {"crops": c, "color": "yuv"}, UsageError, "color of crops.npz is 'yuv'", "'bgr'"),
        (lambda c: {"crops": c / 255, "color": "bgr"}, UsageError, "normalised, but in the order bgr", "uint8"),
    ],
)
def test_an_archive_that_cannot_be_meant(
    tiny: ModelSpec,
    bare: HostSpec,
    tmp_path: Path,
    crops: Pixels,
    change: Callable[[Pixels], dict[str, Any]],
    kind: type[SpliteError],
    message: str,
    hint: str,
) -> None:
    fails(kind, message, hint, archive(tmp_path, **change(crops)), tiny, bare)


def test_archives_are_never_unpickled_and_damage_is_found(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, crops: Pixels
) -> None:
    path = archive(tmp_path, crops=np.array([{"a": 1}], object))
    fails(UsageError, "allow_pickle=False", "numpy.savez", path, tiny, bare)
    path.write_bytes(pickle.dumps({"crops": 1}))
    fails(UsageError, "not an .npz archive", "numpy.savez", path, tiny, bare)
    data = bytearray(archive(tmp_path, crops=crops).read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    fails(UsageError, "Bad CRC-32", "numpy.savez", path, tiny, bare)
    with path.open("wb") as stream:
        np.save(stream, crops)
    fails(UsageError, "a single array", "numpy.savez", path, tiny, bare)


# --- rules ---


def test_too_few_images(tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels]) -> None:
    few = photos(tmp_path / "few", pictures[:3])
    fails(CalibrationError, "holds 3 images; at least 8 are needed", "32 or more", few, tiny, bare)
    fails(CalibrationError, "holds 1 image;", "--calibration", few, tiny, bare, count=1)
    weak = labelled(photos(tmp_path / "weak", pictures[:20]), [None] * 20)
    (warning,) = load_calibration(weak, tiny, bare).warnings
    assert warning.startswith("only 20 calibration images: about one new image in 21 will leave the range")


def test_a_picture_counts_once(tiny: ModelSpec, bare: HostSpec, tmp_path: Path, crops: Pixels) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 75]
    again = np.stack([cv2.imdecode(cv2.imencode(".jpg", crop, quality)[1], cv2.IMREAD_COLOR) for crop in crops[:6]])
    repeated = np.concatenate([crops[:40], crops[:4], again])
    (warning,) = load_calibration(archive(tmp_path, crops=repeated, color="rgb"), tiny, bare).warnings
    assert warning.startswith("only 40 of 50 calibration images are distinct (4 are exact copies)")
    video = archive(tmp_path, crops=np.tile(crops[:5], (12, 1, 1, 1)), color="rgb")
    fails(CalibrationError, "Only 5 of 60 calibration images are distinct (55 are", "--calibration", video, tiny, bare)


def test_flat_images(tiny: ModelSpec, bare: HostSpec, tmp_path: Path, crops: Pixels) -> None:
    mixed = crops.copy()
    mixed[10:12] = (200, 30, 90)  # one colour is as flat as one grey
    mixed[12] = np.random.default_rng(0).normal(20, 2, mixed[12].shape).clip(0, 255)
    warnings = load_calibration(archive(tmp_path, crops=mixed, color="rgb"), tiny, bare).warnings
    assert warnings[0].startswith("3 of 64 calibration images are flat (a spread below 4 of 255 grey levels)")
    mixed[:40] = 0
    fails(CalibrationError, "40 of 64", "photographs", archive(tmp_path, crops=mixed, color="rgb"), tiny, bare)


def test_images_unlike_the_rendered_ones_are_a_warning(
    tiny: ModelSpec, host: HostSpec, tmp_path: Path, crops: Pixels
) -> None:
    assert load_calibration(archive(tmp_path, crops=crops, color="rgb"), tiny, host).warnings == ()
    (warning,) = load_calibration(archive(tmp_path, crops=crops // 4, color="rgb"), tiny, host).warnings
    assert warning.startswith("the calibration images are unlike those that the model renders: mean (")


def test_images_of_the_evaluation(tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels]) -> None:
    folder = labelled(photos(tmp_path / "set", pictures), ["train"] * 40 + ["val"] * 24)
    assert load_calibration(folder, tiny, bare, evaluation=folder).warnings == ()

    boxed = photos(tmp_path / "whole", pictures[30:50])  # the same files as ten of the split, without their boxes
    (warning,) = load_calibration(folder, tiny, bare, evaluation=boxed).warnings
    assert warning.startswith("10 of 40 calibration images are among the evaluation images")

    made = load_calibration(folder, tiny, bare)
    path = archive(tmp_path, crops=made.pixels, color="rgb")  # the same crops without their files
    labelled(folder, ["val"] * 20 + ["test"] * 44)
    (warning,) = load_calibration(path, tiny, bare, evaluation=folder).warnings
    assert warning.startswith("20 of 40 ")
    labelled(folder, [None] * 64)
    message, hint = "All 40 calibration images are among the evaluation images", "on other images"
    fails(CalibrationError, message, hint, path, tiny, bare, evaluation=folder)


def test_the_images_of_the_comparison_are_a_note(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels]
) -> None:
    """Somebody may have no others; the figures of the comparison are told to be flattered."""
    folder = photos(tmp_path / "set", pictures)
    (_, warning) = load_calibration(folder, tiny, bare, comparison=folder).warnings
    assert warning == (
        "all 64 calibration images are among those that conversions are compared on: what is measured there flatters "
        "int8, which was made for them; name others with --images"
    )
    some = photos(tmp_path / "some", pictures[:10])
    (_, warning) = load_calibration(folder, tiny, bare, comparison=some).warnings
    assert warning.startswith("10 of 64 calibration images are among those")


# --- unreadable and flat pictures ---


def test_a_picture_that_cannot_be_read_is_left_out_and_counted(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels]
) -> None:
    folder = photos(tmp_path / "set", pictures[:40])
    (folder / "20b.png").write_bytes(b"no picture")
    made = load_calibration(folder, tiny, bare)
    assert len(made.pixels) == 40
    assert made.warnings[0] == (
        f"1 of 41 calibration images were left out: {folder / '20b.png'} is not an image that can be read"
    )
    for index in range(5):
        (folder / f"bad{index}.png").write_bytes(b"no picture")
    message = r"More than 4 of 46 calibration images cannot be read\. .*20b\.png is not an image that can be read\."
    with pytest.raises(CalibrationError, match=message) as caught:
        load_calibration(folder, tiny, bare)
    assert caught.value.hint == "Use a JPEG, PNG, BMP, WebP or TIFF file."


def test_flat_pictures_are_judged_without_their_padding(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels]
) -> None:
    """Narrow pictures are padded to the shape of the input, and the edge of the padding is no content."""
    levels = np.linspace(60, 250, 40).astype(np.uint8)
    flat = [np.full((90, 20 + 10 * (index % 3), 3), level, np.uint8) for index, level in enumerate(levels)]
    with pytest.raises(CalibrationError, match="40 of 40 calibration images are flat"):
        load_calibration(photos(tmp_path / "flat", flat), tiny, bare)
    narrow = [cv2.resize(picture, (12, 100)) for picture in pictures[:40]]
    warnings = load_calibration(photos(tmp_path / "narrow", narrow), tiny, bare).warnings  # type: ignore[arg-type]
    assert not any("flat" in warning for warning in warnings)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "b/../../a.png"])
def test_labels_that_name_images_of_other_folders(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels], name: str
) -> None:
    folder = labelled(photos(tmp_path / "set", pictures), ["train"] * 64)
    data = json.loads((folder / "labels.json").read_text())
    data["samples"][5]["image"] = name
    (folder / "labels.json").write_text(json.dumps(data))
    fails(
        UsageError, f"names 1 image outside of its folder: {name}", "below the folder of the labels", folder, tiny, bare
    )


def test_labels_whose_images_are_missing(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, pictures: list[Pixels]
) -> None:
    folder = labelled(photos(tmp_path / "set", pictures), ["train"] * 64)
    files = sorted(folder.glob("*.png"))
    for file in files[10:13]:
        file.unlink()
    said = rf"3 of the 64 images that .*set names are not there: the first, .*{files[10].name}, is missing\."
    for call in (lambda: load_calibration(folder, tiny, bare), lambda: boxed_images(folder, 8)):
        with pytest.raises(UsageError, match=said) as caught:
            call()
        assert caught.value.hint.startswith("Copy them to where the labels say")
    files[10].mkdir()
    with pytest.raises(UsageError, match=r"is no file\."):
        boxed_images(folder / "labels.json")


# --- channel order ---


@pytest.fixture(scope="module")
def hand(root: Path) -> tuple[ModelSpec, HostSpec, Scorer]:
    """The trained hand network: its spec, its host without a renderer, and how to run it."""
    folder = root / "models" / "splite_hand"
    spec, host = load_model_toml(folder / "model.toml")
    network = build_architecture(host)
    load_weights(network, read_checkpoint(folder / "splite_hand.safetensors"), torch.zeros(1, 3, 128, 128))
    network.eval()

    def scorer(tensors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(tensors))
        return {role: output.numpy() for role, output in zip(spec.decoder.roles, outputs, strict=True)}

    return spec, replace(host, samples=""), scorer


@pytest.fixture(scope="module")
def rendered_hands(root: Path) -> Pixels:
    spec, host = load_model_toml(root / "models" / "splite_hand" / "model.toml")
    return crops_from_renderer(host, 32, spec.input).pixels


@pytest.fixture(scope="module")
def real_hands(root: Path, hand_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    spec, _ = load_model_toml(root / "models" / "splite_hand" / "model.toml")
    samples = [
        {"image": f"set/{one.path.relative_to(hand_digits)}", "keypoints": one.keypoints.tolist()}
        for one in read_labels(hand_digits, split="val")
    ]
    file = tmp_path_factory.mktemp("val") / "labels.json"
    (file.parent / "set").symlink_to(hand_digits.resolve())
    file.write_text(json.dumps({"samples": samples}))
    return crops_from_images(file, 32, spec.input).pixels


@pytest.mark.parametrize("source", ["rendered_hands", "real_hands"])
def test_a_trained_network_finds_an_undeclared_order_that_is_wrong(
    hand: tuple[ModelSpec, HostSpec, Scorer], tmp_path: Path, source: str, request: pytest.FixtureRequest
) -> None:
    spec, bare, scorer = hand
    crops = request.getfixturevalue(source)
    told: list[str] = []
    made = load_calibration(archive(tmp_path, crops=crops), spec, bare, scorer=scorer, progress=told.append)
    assert made.warnings == () and told[-1] == "testing the channel order of the calibration images"
    swapped = archive(tmp_path, crops=crops[..., ::-1])
    with pytest.raises(CalibrationError, match=r"in the order bgr, not rgb: .* higher on (2[7-9]|3\d) of 32") as caught:
        load_calibration(swapped, spec, bare, scorer=scorer)
    assert "color='bgr'" in caught.value.hint and "input.color" in caught.value.hint


def test_a_network_that_sees_no_colour_accuses_nobody(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, crops: Pixels
) -> None:
    def grey(tensors: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        plane = tensors.mean(axis=1, keepdims=True)[:, :, ::4, ::4].repeat(5, axis=1)
        return {"heatmap": plane, "depth": plane}

    spec = replace(tiny, input=replace(tiny.input, mean=(120.0,) * 3, std=(58.0,) * 3))
    for given_crops in (crops, crops[..., ::-1]):
        assert load_calibration(archive(tmp_path, crops=given_crops), spec, bare, scorer=grey).warnings == ()


def test_an_order_that_could_not_be_tested_is_a_warning(
    tiny: ModelSpec, bare: HostSpec, tmp_path: Path, crops: Pixels
) -> None:
    (warning,) = load_calibration(archive(tmp_path, crops=crops), tiny, bare).warnings
    assert warning == "the channel order of the crops was not tested; save color='rgb' or 'bgr' beside them"


# --- key and cache ---


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_key_changes_with_what_the_network_sees_and_with_nothing_else(data: st.DataObject) -> None:
    spec = InputSpec(4, 6, "rgb", (1.0, 2.0, 3.0), (4.0, 5.0, 6.0), 1.0, 0)
    pixels = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, (3, 4, 6, 3), np.uint8)
    key = content_key(pixels, spec)
    changed = pixels.copy()
    changed.flat[data.draw(st.integers(0, pixels.size - 1))] ^= data.draw(st.integers(1, 255))
    field, value = data.draw(
        st.sampled_from([("color", "bgr"), ("mean", (1.0, 2.0, 3.5)), ("std", (4.0, 5.0, 6.5))]), label="field"
    )
    assert content_key(np.asfortranarray(pixels), replace(spec, box_padding=1.5, pad_value=9)) == key
    assert content_key(changed, spec) != key
    assert content_key(pixels, replace(spec, **{field: value})) != key
    assert content_key(pixels.reshape(3, 6, 4, 3), spec) != key


def test_rendered_images_are_kept_and_neither_stale_nor_damaged_ones_are_used(
    tiny: ModelSpec, host: HostSpec, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    told: list[str] = []

    def made(count: int = 32, spec: ModelSpec = tiny) -> Pixels:
        told.clear()
        return load_calibration(None, spec, host, count=count, cache=cache, progress=told.append).pixels

    first = made()
    assert told and len(list(cache.iterdir())) == 1
    np.testing.assert_array_equal(made(), first)
    assert not told

    (file,) = cache.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damage in (b"", whole[:1000], bytes(flipped), b"not an archive"):
        file.write_bytes(damage)
        np.testing.assert_array_equal(made(), first)
        assert told and file.read_bytes() == whole
    for wrong in (first[:8], first.astype(np.int16)):
        with file.open("wb") as stream:
            np.savez(stream, pixels=wrong)
        np.testing.assert_array_equal(made(), first)
        assert told

    assert len(made(33)) == 33 and told
    assert made(32, replace(tiny, input=replace(tiny.input, pad_value=9))).shape == first.shape and told
    (host.folder / "beside.py").write_text("# imported by the renderer, perhaps\n")
    assert made().shape == first.shape and told
    assert len(list(cache.iterdir())) == 4 and not list(cache.glob(".*"))


def test_a_cache_that_cannot_be_written_fails_nothing(tiny: ModelSpec, host: HostSpec, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(load_calibration(None, tiny, host, count=32, cache=tmp_path / "file" / "cache").pixels) == 32
