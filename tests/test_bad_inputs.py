"""Bad inputs through the command line: two lines that say what to do, exit status 1, and nothing left behind."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from pickle_bomb import Bomb

from splite_deploy.bundle import FORMAT_VERSION, Bundle

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Path, tiny_model: Path, tiny_bundle: Path) -> Path:
    """A folder with a good checkpoint, spec, bundle and image, which each test spoils in its way."""
    folder = tmp_path / "place"
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(tiny_checkpoint, folder / "tiny.safetensors")
    shutil.copytree(tiny_bundle, folder / "tiny.splite")
    cv2.imwrite(str(folder / "hand.png"), np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    (folder / "out").mkdir()
    return folder


def two_lines(stderr: str, message: str, hint: str) -> None:
    """Asserts that standard error is an error and a hint, at most after steps that were done, or what was timed."""
    lines = [line for line in stderr.splitlines() if not line.startswith(("  ✓ ", "timing "))]
    assert len(lines) == 2, stderr
    assert lines[0].startswith("error: ") and message in lines[0], stderr
    assert lines[1].startswith("hint:  ") and hint in lines[1], stderr
    assert len(lines[1]) > 20 and "Traceback" not in stderr and len(stderr.splitlines()) <= 8


def files(folder: Path) -> dict[str, int]:
    return {
        str(file.relative_to(folder)): file.stat().st_size for file in folder.rglob("*") if "__pyc" not in str(file)
    }


# --- ways to spoil things; each returns nothing and changes the folder ---


def spoil_weights(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = safetensors_torch.load_file(folder / "tiny.safetensors")
        change(weights)
        safetensors_torch.save_file(weights, folder / "tiny.safetensors")

    return spoil


def truncate(folder: Path) -> None:
    file = folder / "tiny.safetensors"
    file.write_bytes(file.read_bytes()[:-10])


def pickle_a_module(folder: Path) -> None:
    torch.save({"state_dict": Bomb(folder / "proof")}, folder / "tiny.safetensors")


def drop_symbol(folder: Path) -> None:
    file = folder / "arch.py"
    file.write_text(file.read_text(encoding="utf-8").replace("def build(", "def construct("), encoding="utf-8")


def change_byte(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = bytearray((folder / "tiny.splite" / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / "tiny.splite" / name).write_bytes(data)

    return spoil


def remove(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()

    return spoil


def make_newer(folder: Path) -> None:
    file = folder / "tiny.splite" / "manifest.json"
    manifest = Bundle.open(file.parent).manifest
    newer = dataclasses.replace(manifest, format_version=FORMAT_VERSION + 1)
    file.write_text(newer.to_json(), encoding="utf-8")


def write_text(name: str, text: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text(text, encoding="utf-8")

    return spoil


def nothing(folder: Path) -> None:
    """Leaves all as it is: the arguments are what is wrong."""


def to(output: str) -> tuple[str, ...]:
    """An export to this place."""
    return ("export", "tiny.safetensors", "-o", output, "--crops", "2")


EXPORT = to("out/new.splite")
OF_GRAPH = ("export", "tiny.splite/model.onnx", "--model", "model.toml", *EXPORT[2:])
RUN = ("run", "tiny.splite", "hand.png", "--save", "out/a.png", "--json", "out/a.json")
BENCH = ("bench", "tiny.splite", "--frames", "10", "--warmup", "0", "--json", "out/b.jsonl")
LONG = "x" * 300


def case(name: str, spoil: Callable[[Path], None], arguments: tuple[str, ...], message: str, hint: str) -> Any:
    return pytest.param(spoil, arguments, message, hint, id=name)


CASES = [
    case("no checkpoint", remove("tiny.safetensors"), EXPORT, "No such file or directory.", ".safetensors or .pt"),
    case("truncated", truncate, EXPORT, "tiny.safetensors is not a whole safetensors file: ", "Copy it again"),
    case("empty", write_text("tiny.safetensors", ""), EXPORT, "is not a whole safetensors file", "Copy it again"),
    case("pickled module", pickle_a_module, EXPORT, "holds pickled Python objects", "torch.save(model.state_dict()"),
    case(
        "wrong keys",
        spoil_weights(lambda w: w.update(extra=w.pop("heatmap.bias"))),
        EXPORT,
        "1 missing: 'heatmap.bias'; 1 unknown: 'extra'",
        "[arch_args]",
    ),
    case(
        "wrong shapes",
        spoil_weights(lambda w: w.update({"heatmap.weight": w["heatmap.weight"][:, :4].contiguous()})),
        EXPORT,
        "'heatmap' (Conv2d) receives 8 channels from 'backbone.3' (Conv2d), but its weight was made for 4.",
        "[arch_args]",
    ),
    case("no symbol", drop_symbol, EXPORT, "arch.py defines no 'build'.", "It defines: Tiny, construct."),
    case("no arch", remove("arch.py"), EXPORT, "'arch.py:build' in model.toml names no Python file", "file.py:symbol"),
    case("no spec", remove("model.toml"), EXPORT, "No model spec at ", "--model"),
    case("spec is no TOML", write_text("model.toml", "a = "), EXPORT, "model.toml: it is not valid TOML", "that line"),
    case(
        "NaN",
        spoil_weights(lambda w: w["depth.bias"].fill_(float("nan"))),
        EXPORT,
        "the tensor 'depth.bias' holds NaN or infinity.",
        "earlier checkpoint",
    ),
    case("unknown weights", nothing, (*EXPORT, "--weights", "ema"), "no weights under 'ema'", "leave out --weights"),
    case("opset", nothing, (*EXPORT, "--opset", "9"), "Opset 9 is not supported.", "Choose 18 to 23."),
    case("no images", nothing, (*EXPORT, "--images", "out"), "out holds no image.", ".jpg"),
    case("image of none", write_text("out.txt", ""), (*EXPORT, "--images", "out.txt"), "neither a folder", "--images"),
    case("output exists", nothing, to("out"), "out exists already.", "--overwrite"),
    case("output is no bundle", nothing, (*to("out"), "--overwrite"), "exists and is not a bundle.", "--output"),
    case("output under a file", nothing, to("hand.png/a.splite"), "Cannot write hand.png/a", "is a file"),
    case("output too long", nothing, to(f"out/{LONG}"), "File name too long.", "Check that the folder"),
    *(
        case(f"{name} {command[0]}", spoil, command, message, hint)
        for command in (RUN, BENCH, ("verify", "tiny.splite"), ("inspect", "tiny.splite"))
        for name, spoil, message, hint in (
            ("changed graph", change_byte("model.onnx"), "model.onnx is not the file that the manifest", "Copy the"),
            ("changed golden", change_byte("golden.bin"), "golden.bin is not the file that the manifest", "Copy the"),
            ("changed manifest", change_byte("manifest.json"), "manifest.json ", "Copy the bundle again"),
            ("no graph", remove("tiny.splite/model.onnx"), "tiny.splite lacks its file model.onnx.", "Copy the bundle"),
            ("no manifest", remove("tiny.splite/manifest.json"), "tiny.splite holds no manifest.json", "Copy the"),
            ("newer", make_newer, f"has format version {FORMAT_VERSION + 1}; this version", "Upgrade splite-deploy"),
        )
    ),
    case("no bundle", nothing, ("run", "none.splite", "hand.png"), "none.splite does not exist.", "splite-deploy exp"),
    case("bundle too long", nothing, ("run", LONG, "hand.png"), "File name too long", "splite-deploy export"),
    case("checkpoint too long to inspect", nothing, ("inspect", LONG), "File name too long", "name a checkpoint"),
    case("labels too long", nothing, ("run", "tiny.splite", f"{LONG}.json"), "File name too long", "Name "),
    case(
        "network too long", nothing, ("init", f"{LONG}.onnx", "-o", "new.toml"), "There is no file", "Name a checkpoint"
    ),
    case("bundle is a file", nothing, ("inspect", "hand.png"), "hand.png is a file, not a bundle", "splite-deploy exp"),
    case("no image", nothing, ("run", "tiny.splite", "none.png"), "Cannot read none.png: No such file", "image file"),
    case("image too long", nothing, ("run", "tiny.splite", LONG), "File name too long.", "Name an image file."),
    case("image is none", write_text("hand.png", "text"), RUN, "hand.png is not an image that can be read.", "JPEG"),
    case("image is empty", write_text("hand.png", ""), RUN, "hand.png is not an image that can be read.", "JPEG"),
    case("folder without image", nothing, ("run", "tiny.splite", "out"), "out holds no image.", ".jpg"),
    *(
        case(f"box {box}", nothing, (*RUN, f"--box={box}"), message, hint)
        for box, message, hint in (
            ("200,10,240,60", "The box (200, 10, 240, 60) lies outside the 160 x 120 image.", "pixels of this image"),
            ("-20,-20,0,0", "The box (-20, -20, 0, 0) lies outside the 160 x 120 image.", "pixels of this image"),
            ("10,10,10,50", "The box (10, 10, 10, 50) is empty.", "x1 > x0"),
            ("50,50,20,20", "The box (50, 50, 20, 20) is empty.", "not width and height"),
            ("1,2,3", "The box '1,2,3' is not four numbers.", "--box x0,y0,x1,y1"),
            (
                "1,2,3,4,5",
                "The box has an angle of 5 degrees, and crops of this model are not turned.",
                "x0, y0, x1, y1",
            ),
            ("1,2,3,4,5,6", "The box '1,2,3,4,5,6' is not four numbers, nor five", "--box x0,y0,x1,y1"),
            ("a,b,c,d", "The box 'a,b,c,d' is not four numbers.", "--box x0,y0,x1,y1"),
            ("", "The box '' is not four numbers.", "--box x0,y0,x1,y1"),
            ("nan,0,5,5", "is not four finite numbers.", "x0, y0, x1, y1"),
            ("0,0,inf,5", "is not four finite numbers.", "x0, y0, x1, y1"),
            ("0,0,1e9,1e9", "has an impossible size", "x0, y0, x1, y1"),
        )
    ),
    case("save without format", nothing, (*RUN[:4], "out/a"), "out/a has no image suffix.", ".png"),
    case("save under a file", nothing, (*RUN[:4], "hand.png/a.png"), "Cannot write hand.png/a.png", "is a file"),
    case("json under a file", nothing, (*RUN[:3], "--json", "hand.png/a"), "Cannot write hand.png/a: Not", "is a file"),
    case(
        "json without folder", nothing, (*RUN[:3], "--json", "no/a"), "Cannot write no/a: No such file", "folder exists"
    ),
    case("precision", nothing, (*RUN, "-p", "int8"), "tiny.splite holds no int8 artifact.", "It holds: ort fp32."),
    case("images of bench", nothing, (*BENCH, "--images", "none"), "none is neither a folder", "--images"),
    case("batch of bench", nothing, (*BENCH, "--batch", "2"), "", "--dynamic-batch"),
]


@pytest.mark.parametrize(("spoil", "arguments", "message", "hint"), CASES)
def test_a_bad_input(
    splite: Callable[..., Result],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    spoil: Callable[[Path], None],
    arguments: tuple[str, ...],
    message: str,
    hint: str,
) -> None:
    monkeypatch.chdir(place)
    spoil(place)
    spec = place / "model.toml"
    if spec.is_file() and spec.read_text(encoding="utf-8") == "later":
        text = tiny_model.read_text(encoding="utf-8").replace("channels = 8", "channels = 6")
        spec.write_text(text, encoding="utf-8")
    before = files(place)
    result = splite(*arguments)
    assert isinstance(result.exception, SystemExit)
    options = "is not four numbers", "has no image suffix"
    assert result.exit_code == (2 if any(text in message for text in options) else 1)
    assert result.stdout == ""
    two_lines(result.stderr, message, hint)
    assert files(place) == before


@full
@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (("run", "tiny.splite", "hand.png", "--save", "full.png"), "full.png"),
        (("run", "tiny.splite", "hand.png", "--json", "/dev/full"), "/dev/full"),
        ((*BENCH[:-1], "/dev/full"), "/dev/full"),
    ],
)
def test_a_full_disk(
    splite: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch, arguments: Any, file: str
) -> None:
    monkeypatch.chdir(place)
    (place / "full.png").symlink_to("/dev/full")
    result = splite(*arguments)
    assert result.exit_code == 1
    two_lines(result.stderr, f"Cannot write {file}: No space left on device.", "Free some space")


# --- as a user runs it ---


def command(
    place: Path, root: Path, *arguments: str, before: str = "", after: str = "ls -A out >&2"
) -> subprocess.CompletedProcess[str]:
    """Runs the tool in a process of its own; ``before`` is a shell command that prepares a file system for it alone."""
    line = [sys.executable, "-m", "splite_deploy", *arguments]
    if before:
        line = ["unshare", "-rm", "sh", "-c", f'{before} && "$@"; status=$?; {after}; exit $status', "sh", *line]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("spoil", "arguments", "message", "hint"),
    [
        case("pickled module", pickle_a_module, EXPORT, "holds pickled Python objects", "state_dict"),
        case("truncated", truncate, EXPORT, "is not a whole safetensors file", "Copy it again"),
        case("proc", nothing, to("/proc/a.splite"), "Cannot write /proc/a.splite", "folder"),
        case("no graph", remove("tiny.splite/model.onnx"), RUN, "lacks its file model.onnx.", "Copy the bundle"),
        case("changed", change_byte("model.onnx"), RUN, "is not the file that the manifest describes", "Copy the"),
        case("newer", make_newer, ("inspect", "tiny.splite"), "has format version", "Upgrade splite-deploy"),
        case("box", nothing, (*RUN, "--box", "200,10,240,60"), "lies outside the 160 x 120 image", "of this image"),
        case("image", write_text("hand.png", "text"), RUN, "is not an image that can be read", "JPEG"),
    ],
)
def test_a_bad_input_in_a_process(
    place: Path, root: Path, spoil: Callable[[Path], None], arguments: tuple[str, ...], message: str, hint: str
) -> None:
    spoil(place)
    before = files(place)
    done = command(place, root, *arguments)
    assert done.returncode == 1 and done.stdout == ""
    two_lines(done.stderr, message, hint)
    assert files(place) == before and not (place / "proof").exists()


@full
@pytest.mark.parametrize("option", [("--json", "/dev/full"), ("--save", "full.png")])
def test_a_full_disk_in_a_process(place: Path, root: Path, option: tuple[str, str]) -> None:
    (place / "full.png").symlink_to("/dev/full")
    done = command(place, root, "run", "tiny.splite", "hand.png", *option)
    assert done.returncode == 1 and done.stdout == ""
    two_lines(done.stderr, f"Cannot write {option[1]}: No space left on device.", "Free some space")


@pytest.fixture(scope="module")
def own_mounts() -> None:
    """Skips where a process may not mount a file system for itself alone."""
    line = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=8k tmpfs /tmp"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=20, check=False)
    except OSError as err:
        pytest.skip(f"there is no unshare: {err}")
    if done.returncode:
        pytest.skip(f"no mounts in a user namespace here: {done.stderr.strip()}")


@pytest.mark.usefixtures("own_mounts")
@pytest.mark.parametrize(
    ("options", "arguments", "message", "hint"),
    [
        ("size=4k", OF_GRAPH, "Cannot write out/new.splite: No space left on device.", "Free some space"),
        ("size=40k", OF_GRAPH, "Cannot write out/new.splite: No space left on device.", "Free some space"),
        ("ro", EXPORT, "Cannot write out/new.splite: Read-only file system.", "name another place"),
        ("size=4k", RUN[:5], "Cannot write out/a.png: No space left on device.", "Free some space"),
        ("ro", (*RUN[:3], *RUN[5:]), "Cannot write out/a.json: Read-only file system.", "name another place"),
    ],
)
def test_a_file_system_that_refuses(
    place: Path, root: Path, options: str, arguments: tuple[str, ...], message: str, hint: str
) -> None:
    done = command(place, root, *arguments, before=f"mount -t tmpfs -o {options} tmpfs out")
    assert done.returncode == 1 and done.stdout == ""
    two_lines(done.stderr, message, hint)  # the names of files that were left would follow


@pytest.mark.usefixtures("own_mounts")
def test_a_disk_that_fills_up_in_the_middle_of_a_line(place: Path, root: Path) -> None:
    before = "mount -t tmpfs -o size=4k tmpfs out && yes '' | head -c 3500 > out/b.jsonl"
    done = command(place, root, *BENCH, before=before, after="wc -c < out/b.jsonl")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "3500"), done.stderr  # after the table
    two_lines(done.stderr, "Cannot write out/b.jsonl: No space left on device.", "Free some space")


def test_the_same_commands_succeed_where_nothing_is_wrong(
    splite: Callable[..., Result], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for arguments in (EXPORT, RUN, BENCH, ("verify", "tiny.splite"), ("inspect", "tiny.splite")):
        result = splite(*arguments)
        assert result.exit_code == 0, (arguments, result.stderr)
    assert {"new.splite", "a.png", "a.json", "b.jsonl"} == {file.name for file in (place / "out").iterdir()}


def test_a_python_file_beside_the_renderer_that_never_ends_is_passed_over(
    place: Path, splite: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    (place / "endless.py").symlink_to("/dev/zero")
    os.mkfifo(place / "pipe.py")
    result = splite(*to("out/new.splite"))
    assert result.exit_code == 0, result.output
