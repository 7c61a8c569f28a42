"""No command writes over what it reads: every option that takes a path is tried with every one that writes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import Result

from splite_deploy.cli import main
from splite_deploy.cli.app import OUTPUTS
from splite_deploy.cli.inputs import read_along
from splite_deploy.errors import UsageError
from splite_deploy.files import check_outputs


def takes_path(parameter: click.Parameter) -> bool:
    return isinstance(parameter.type, click.Path) or parameter.name == "source"


PATHS = {name: [one for one in command.params if takes_path(one)] for name, command in main.commands.items()}
PAIRS = [
    pytest.param(name, read, written, id=f"{name} {read.name} {written.name}")
    for name, parameters in PATHS.items()
    for read, written in itertools.product(parameters, parameters)
    if read.name not in OUTPUTS and written.name in OUTPUTS
]
TWICE = [
    pytest.param(name, *pair, id=f"{name} {pair[0].name} {pair[1].name}")
    for name, parameters in PATHS.items()
    for pair in itertools.combinations([one for one in parameters if one.name in OUTPUTS], 2)
]


def typed(name: str, given: dict[str, Path], other: Path) -> list[str]:
    """A command line on which these parameters have these values, and what else is needed the other."""
    words = []
    for parameter in main.commands[name].params:
        value = given.get(str(parameter.name), other if parameter.required else None)
        if value is None:
            continue
        values = [str(value)] * max(parameter.nargs, 1)
        words += values if isinstance(parameter, click.Argument) else [parameter.opts[0], *values]
    return [name, *words]


def test_every_option_that_takes_a_path_reads_or_writes() -> None:
    """Who adds an option that writes adds it to `OUTPUTS`, or this fails by its help."""
    for name, parameters in PATHS.items():
        for one in parameters:
            says = str(getattr(one, "help", "") or "")
            writes = says.startswith(
                (
                    "Write",
                    "Append",
                    "The file to write",
                    "The bundle to make",
                    "The OUT",
                    "With --device: the folder that gets",
                )
            )
            assert writes == (one.name in OUTPUTS), f"{name} {one.name}: {says}"


@pytest.mark.parametrize("way", ["itself", "symlink", "hard link", "spelling"])
@pytest.mark.parametrize(("name", "read", "written"), PAIRS)
def test_an_output_that_is_an_input(
    name: str, read: click.Parameter, written: click.Parameter, way: str, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    mine, other = tmp_path / "mine.png", tmp_path / "other"
    mine.write_bytes(b"mine")
    output = {
        "itself": mine,
        "symlink": tmp_path / "link.png",
        "hard link": tmp_path / "hard.png",
        "spelling": Path(os.path.relpath(mine)),
    }[way]
    if way == "symlink":
        output.symlink_to(mine)
    elif way == "hard link":
        output.hardlink_to(mine)
    result = splite(*typed(name, {str(read.name): mine, str(written.name): output}, other))
    assert result.exit_code == 1 and "would overwrite the input" in result.stderr, result.output
    assert f"hint:  Name another place with {max(written.opts, key=len)}." in result.stderr
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize(("name", "one", "other"), TWICE)
def test_two_outputs_at_one_place(
    name: str, one: click.Parameter, other: click.Parameter, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    place = {str(one.name): tmp_path / "a.json", str(other.name): tmp_path / "x" / ".." / "a.json"}
    (tmp_path / "x").mkdir()
    result = splite(*typed(name, place, tmp_path / "other"))
    assert result.exit_code == 1 and "are the same file" in result.stderr, result.output
    assert not (tmp_path / "a.json").exists()


def test_what_an_input_brings_along(tmp_path: Path) -> None:
    bundle, folder = tmp_path / "a.splite", tmp_path / "photos"
    for place in (bundle, folder):
        place.mkdir()
    for file in (bundle / "manifest.json", folder / "a.jpg"):
        file.write_bytes(b"mine")
    refused = [
        (bundle, bundle / "new.json", "something in the bundle"),
        (bundle, bundle, "files of the folder"),
        (bundle / "manifest.json", bundle, "the bundle around the input"),
        (folder, folder / "a.jpg", "a picture in the folder"),
    ]
    for read, output, reason in refused:
        with pytest.raises(UsageError, match=reason) as caught:
            check_outputs([("SOURCE", read)], [("--json", output)])
        assert caught.value.hint == "Name another place with --json."
    (tmp_path / "hard.json").hardlink_to(folder / "a.jpg")
    with pytest.raises(UsageError, match="a picture in the folder"):
        check_outputs([("SOURCE", folder)], [("--json", tmp_path / "hard.json")])
    allowed = [folder / "result.json", folder / "drawn", tmp_path / "b.json", Path("/dev/null"), Path("-")]
    for output in allowed:
        check_outputs([("SOURCE", folder), ("B", tmp_path / "none")], [("--json", output)])
    check_outputs([], [("--json", Path("/dev/null")), ("--save", Path("/dev/null"))])


@pytest.mark.parametrize("name", ["model.toml", "arch.py", "net.onnx.data"])
def test_files_beside_an_input_are_read_too(name: str, tmp_path: Path, splite: Callable[..., Result]) -> None:
    network, beside = tmp_path / "net.onnx", tmp_path / name
    for file in (network, beside):
        file.write_bytes(b"mine")
    result = splite("verify", str(network), "--json", str(beside))
    assert result.exit_code == 1 and "the input that BUNDLE (beside it) names" in result.stderr, result.output
    assert beside.read_bytes() == b"mine"
    if name == "model.toml":  # which init is there to write
        result = splite("init", str(network), "-o", str(beside), "--overwrite")
        assert "would overwrite" not in result.stderr


def test_names_that_no_file_can_have(tmp_path: Path, splite: Callable[..., Result]) -> None:
    for words in (["x" * 300, "--json", "y" * 300], ["x" * 300, "--json", "x" * 300]):
        result = splite("verify", *words)
        assert result.exit_code == 1 and result.stderr.startswith("error: "), result.output


# --- what is read along ---

LABELS = {
    "ours": {"samples": [{"image": "images/x.jpg", "keypoints": [[1, 2], [3, 4]]}]},
    "coco": {
        "images": [{"id": 1, "file_name": "images/x.jpg", "width": 40, "height": 40}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [1, 2, 2]}],
        "categories": [{"id": 1, "name": "hand", "keypoints": ["a"]}],
    },
}


@pytest.fixture(params=LABELS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "lab"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "x.jpg").write_bytes(b"mine")
    (folder / "labels.json").write_text(json.dumps(LABELS[request.param]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("way", ["itself", "symlink", "hard link"])
@pytest.mark.parametrize("read", ["labels.json", "."])
@pytest.mark.parametrize(
    "words",
    [
        ("run", "B", "READ", "--json", "OUT"),
        ("bench", "B", "--images", "READ", "--html", "OUT"),
        ("bench", "B", "--eval", "READ", "--csv", "OUT"),
        ("export", "C", "--calibration", "READ", "-o", "N.splite", "--json", "OUT"),
        ("calibrate", "C", "--images", "READ", "-o", "OUT", "--overwrite"),
        ("compile", "B", "--calibration", "READ", "--timing-cache", "OUT"),
    ],
)
def test_pictures_that_labels_name_are_read(
    lab: Path, words: tuple[str, ...], read: str, way: str, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    for mine in (lab / "images" / "x.jpg", lab / "labels.json"):
        before, out = mine.read_bytes(), mine
        if way != "itself":
            out = tmp_path / f"{mine.stem}.out"
            out.symlink_to(mine) if way == "symlink" else out.hardlink_to(mine)
        result = splite(*({"READ": lab / read, "OUT": out}.get(word, word) for word in words))
        assert result.exit_code == 1 and "would overwrite" in result.stderr, result.output
        assert f"hint:  Name another place with --{'output' if words[0] == 'calibrate' else words[-2][2:]}." in (
            result.stderr
        )
        assert mine.read_bytes() == before


MODEL_FILES = {
    'calibration = "deep/r.json"': "deep/r.json",
    'calibration = ["no.json", "deep/r.json"]': "deep/r.json",
    'arch = "net.py:build"': "net.py",
    'samples = "draw.txt:images"': "draw.txt",
}


@pytest.mark.parametrize("where", ["beside", "elsewhere"])
@pytest.mark.parametrize("line", MODEL_FILES)
def test_files_that_model_toml_names_are_read(
    line: str, where: str, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    network, model = tmp_path / "net.pt", tmp_path / ("model.toml" if where == "beside" else "m/spec.txt")
    mine = model.parent / MODEL_FILES[line]
    mine.parent.mkdir(parents=True, exist_ok=True)
    for file in (network, mine):
        file.write_bytes(b"mine")
    model.write_text(line, encoding="utf-8")
    given = () if where == "beside" else ("--model", model)
    result = splite("export", network, *given, "-o", tmp_path / "n.splite", "--json", mine)
    assert result.exit_code == 1 and "would overwrite the input" in result.stderr, result.output
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("place", ["weights", "deep/net.bin", "link"])
def test_weights_of_a_graph_are_read(place: str, tmp_path: Path, splite: Callable[..., Result]) -> None:
    onnx = pytest.importorskip("onnx")
    values = onnx.numpy_helper.from_array(np.zeros(300, np.float32), "w")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [], [values])
    model, mine = onnx.helper.make_model(graph), tmp_path / ("real" if place == "link" else place)
    mine.parent.mkdir(exist_ok=True)
    onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="temporary", size_threshold=0)
    model.graph.initializer[0].external_data[0].value = place
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "temporary").rename(mine)
    if place == "link":
        (tmp_path / "link").symlink_to(mine)
    before = mine.read_bytes()
    for words in (("export", "-o", tmp_path / "n.splite", "--json", mine), ("verify", "--json", mine)):
        result = splite(words[0], tmp_path / "net.onnx", *words[1:])
        assert result.exit_code == 1 and "would overwrite the input" in result.stderr, result.output
    assert mine.read_bytes() == before


def test_nothing_is_read_along_where_nothing_is_replaced(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*given: object) -> None:
        raise AssertionError

    monkeypatch.setattr("splite_deploy.metrics.labels.read_images", read)
    assert read_along([("SOURCE", lab)], [("--json", tmp_path / "new.json"), ("--csv", Path("/dev/null"))]) == []


# --- bundles ---


@pytest.mark.parametrize(
    "words",
    [
        ("run", "B/model.onnx", "pic.png", "--model", "m.toml", "--json", "B/manifest.json"),
        ("run", "other", "pic.png", "--json", "B/manifest.json"),
        ("run", "other", "pic.png", "--json", "link.json"),
        ("run", "other", "pic.png", "--json", "B/sub/new.json"),
        ("run", "other", "pic.png", "--save", "B"),
        ("init", "B/model.onnx", "-o", "B/model.toml"),
        ("init", "B/model.onnx"),
        ("bench", "other", "--html", "B/report.json"),
        ("export", "c.pt", "-o", "n.splite", "--json", "B/report.json"),
        ("export", "c.pt", "-o", "B/n.splite"),
        ("compact", "B/model.onnx"),
        ("calibrate", "c.pt", "--images", "x", "-o", "B/r.json"),
        ("compile", "other", "--timing-cache", "B/model.onnx"),
        ("compile", "B", "--timing-cache", "B/timings"),
        ("doctor", "--json", "B/doctor.json"),
    ],
)
def test_nothing_is_written_into_a_bundle(
    words: tuple[str, ...], tiny_bundle: Path, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "B")
    (bundle / "sub").mkdir()
    (tmp_path / "link.json").symlink_to(bundle / "golden.bin")
    before = {file: file.read_bytes() for file in bundle.rglob("*") if file.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        result = splite(*words)
    told = "would write into the bundle", "something in the bundle", "files of the folder", "would overwrite the input"
    assert result.exit_code == 1 and any(one in result.stderr for one in told), result.output
    assert "hint:  Name another place with --" in result.stderr
    assert {file: file.read_bytes() for file in bundle.rglob("*") if file.is_file()} == before


def test_a_folder_with_a_manifest_of_others_is_written_into(tmp_path: Path, splite: Callable[..., Result]) -> None:
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3}', encoding="utf-8")
    assert splite("doctor", "--json", tmp_path / "doctor.json").exit_code == 0
    assert (tmp_path / "doctor.json").is_file()


def test_pictures_beside_a_manifest_of_others(tmp_path: Path, tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    cv2.imwrite(str(photos / "a.png"), np.zeros((40, 40, 3), np.uint8))
    (photos / "manifest.json").write_text('{"name": "a page", "icons": []}', encoding="utf-8")
    for words in (("--json", photos / "new.json"), ("--json", tmp_path / "a.json", "--save", photos / "drawn")):
        assert splite("run", tiny_bundle, photos, *words).exit_code == 0
    result = splite("run", tiny_bundle, photos / "a.png", "--save", photos)
    assert result.exit_code == 2 and "has no image suffix" in result.stderr, result.output


@pytest.mark.parametrize(
    ("words", "place"),
    [(("init", "net.onnx"), "model.toml"), (("compact", "net.pt"), "net-compacted.safetensors")],
)
def test_a_default_place_is_an_output(
    words: tuple[str, str], place: str, tmp_path: Path, splite: Callable[..., Result]
) -> None:
    (tmp_path / words[1]).write_bytes(b"mine")
    result = splite(words[0], tmp_path / words[1], "--json", tmp_path / place)
    assert result.exit_code == 1 and "--output and --json are the same file" in result.stderr, result.output
    assert not (tmp_path / place).exists()


OF_FILES = [("init", "N"), ("compact", "N"), ("calibrate", "N", "--images", "N")]


@pytest.mark.parametrize("words", OF_FILES, ids=lambda words: words[0])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    words: tuple[str, ...], tmp_path: Path, splite: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "N").write_bytes(b"no network")
    monkeypatch.chdir(tmp_path)
    places = [("missing/a.out", "No such file or directory"), (".", "Is a directory")]
    if os.geteuid() != 0:
        (tmp_path / "shut").mkdir(0o555)
        places.append(("shut/a.out", "Permission denied"))
    for place, reason in places:
        result = splite(*words, "-o", place)
        assert result.exit_code == 1 and f"error: Cannot write {place}: {reason}." in result.stderr, result.output


# --- pictures of a folder ---


def test_a_folder_is_not_drawn_over(tmp_path: Path, tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    image = np.zeros((40, 40, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    before = (tmp_path / "a.png").read_bytes()
    result = splite("run", str(tiny_bundle), str(tmp_path), "--save", str(tmp_path))
    assert result.exit_code == 1 and "would overwrite files of the folder" in result.stderr
    drawn = tmp_path / "drawn"
    drawn.mkdir()
    (drawn / "a.png").hardlink_to(tmp_path / "a.png")
    result = splite("run", str(tiny_bundle), str(tmp_path), "--save", str(drawn))
    assert result.exit_code == 1 and "--save would draw over the image" in result.stderr
    assert (tmp_path / "a.png").read_bytes() == before


def test_no_picture_beside_those_of_labels_is_drawn_over(
    tmp_path: Path, tiny_bundle: Path, splite: Callable[..., Result]
) -> None:
    labels = {"samples": [{"image": "images/a.jpg", "keypoints": [[9, 9], [30, 9], [9, 30], [30, 30], [20, 20]]}]}
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "a.png"):  # the labels leave one out
        cv2.imwrite(str(tmp_path / "images" / name), np.zeros((40, 40, 3), np.uint8))
    (tmp_path / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    before = (tmp_path / "images" / "a.png").read_bytes()
    for place in ("images", "link"):
        result = splite("run", tiny_bundle, tmp_path / "labels.json", "--save", tmp_path / place)
        assert result.exit_code == 1, result.output
        assert f"error: --save would draw into the folder of the images, {tmp_path / place}." in result.stderr
    assert (tmp_path / "images" / "a.png").read_bytes() == before
    assert splite("run", tiny_bundle, tmp_path / "labels.json", "--save", tmp_path / "images" / "drawn").exit_code == 0
    one = tmp_path / "images" / "a.jpg"
    assert splite("run", tiny_bundle, one, "--save", tmp_path / "images" / "overlay.png").exit_code == 0


def test_pictures_of_one_name_are_drawn_apart(tmp_path: Path, tiny_bundle: Path, splite: Callable[..., Result]) -> None:
    folder, image = tmp_path / "in", np.zeros((40, 40, 3), np.uint8)
    folder.mkdir()
    for name in ("hand.jpg", "hand.png", "other.png"):
        cv2.imwrite(str(folder / name), image)
    assert splite("run", str(tiny_bundle), str(folder), "--save", str(tmp_path / "out")).exit_code == 0
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["hand.jpg.png", "hand.png.png", "other.png.png"]
