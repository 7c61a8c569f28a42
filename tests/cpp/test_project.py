"""The command cpp: what it writes is built by CMake, and finds what Python finds."""

from __future__ import annotations

import json
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
from cpp_driver import Answers, onnxruntime_library, sign

from splite_deploy.bundle import Bundle
from splite_deploy.bundle.packaged import HAND, PALM, PICTURE, packaged
from splite_deploy.runtime.estimator import PoseEstimator

Splite = Callable[..., Result]


def test_a_project_has_all_that_it_needs(tmp_path: Path, splite: Splite) -> None:
    folder = tmp_path / "a" / "project"
    done = splite("cpp", folder, "--bundle", packaged(PALM), "--json", tmp_path / "made.json")
    assert done.exit_code == 0, done.output
    assert "cmake -B" in done.output and "SPLITE_ONNXRUNTIME=" in done.output
    names = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))["files"]
    assert names == sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if one.is_file())
    assert {"CMakeLists.txt", "main.cpp", "model.splite/manifest.json", "splite/include/splite/splite.hpp"} <= set(
        names
    )
    manifest = (folder / "model.splite/manifest.json").read_bytes()
    assert manifest == (packaged(PALM) / "manifest.json").read_bytes()


def test_nothing_is_replaced(tmp_path: Path, splite: Splite) -> None:
    (tmp_path / "mine").mkdir()
    done = splite("cpp", tmp_path / "mine")
    assert done.exit_code == 1 and "mine exists already." in done.stderr and "Name another folder." in done.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"] and not any((tmp_path / "mine").iterdir())


@pytest.mark.parametrize(
    "name", ["a;b", 'a"b', "a\nb", pytest.param("a\\b", marks=pytest.mark.skipif(os.name == "nt", reason="separates"))]
)
def test_a_folder_in_which_cmake_builds_nothing_is_refused(name: str, tmp_path: Path, splite: Splite) -> None:
    done = splite("cpp", tmp_path / name / "project")
    assert done.exit_code == 1 and "CMake builds nothing in " in done.stderr and not any(tmp_path.iterdir())
    assert "Name a folder whose path has no quote, semicolon, backslash or line break." in done.stderr


def test_a_bundle_in_parts_is_refused(tiny_parts_bundle: Path, tmp_path: Path, splite: Splite) -> None:
    done = splite("cpp", tmp_path / "project", "--bundle", tiny_parts_bundle)
    assert done.exit_code == 1 and "holds its graph in parts, which the C++ runtime does not load." in done.stderr
    assert "Export it without --parts." in done.stderr and not (tmp_path / "project").exists()


def test_a_bundle_that_it_could_not_run_is_refused(tmp_path: Path, splite: Splite) -> None:
    folder = tmp_path / "engines.splite"
    shutil.copytree(packaged(HAND), folder)
    sign(folder, lambda data: data.update(artifacts=[]))
    done = splite("cpp", tmp_path / "project", "--bundle", folder)
    assert done.exit_code == 1 and "holds no artifact of the format 'onnx'" in done.stderr
    assert "Export it with -b ort." in done.stderr and not (tmp_path / "project").exists()


def test_a_bundle_without_a_graph_that_fits_says_what_to_export(tiny_parts_bundle: Path, answers: Answers) -> None:
    crops = Bundle.open(packaged(HAND)).golden().crops[:1]
    asks = [
        {"do": "crops", "bundle": str(tiny_parts_bundle), "precision": "int8", "crops": crops},
        {"do": "crops", "bundle": str(packaged(HAND)), "precision": "fp16", "crops": crops},
    ]
    in_parts, other = answers(asks)
    assert in_parts["error"].endswith("holds its graph in parts, which the C++ runtime does not load.")
    assert in_parts["hint"] == "Export it without --parts."
    assert other["error"].endswith("holds no artifact of the format 'onnx' in fp16.")
    assert other["hint"].startswith("It holds: ort fp32 (onnx), ort int8 (onnx).")
    assert other["hint"].endswith("or name another precision.")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake") is None or sys.platform == "win32", reason="needs CMake and a compiler")
def test_its_program_finds_what_python_finds(tmp_path: Path, splite: Splite) -> None:
    folder, picture = tmp_path / "C# of $HOME, ü" / "project", str(packaged(PICTURE))
    assert splite("cpp", folder).exit_code == 0
    for step in (["-B", "build", "-DCMAKE_CXX_FLAGS=-Werror"], ["--build", "build"]):
        done = subprocess.run(["cmake", *step], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    environment = {**os.environ, "SPLITE_ONNXRUNTIME": onnxruntime_library()}

    def pose(*options: str, data: bytes = b"") -> tuple[int, list[Any], str]:
        program = [str(folder / "build/pose"), "--threads", "1", *options]
        done = subprocess.run(program, input=data, capture_output=True, env=environment, check=False)
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()

    image = cv2.imread(picture)
    assert image is not None
    with PoseEstimator.open(packaged(HAND), "ort", "fp32", threads=1) as estimate:
        wanted = estimate.at_any_angle(image, [80, 110, 370, 500]).keypoints
    _, (of_picture,), _ = pose("--box", "80,110,370,500", picture)
    assert of_picture["image"] == picture
    np.testing.assert_allclose(of_picture["poses"][0]["keypoints"], wanted, rtol=0, atol=1.0)  # JPEG decoders differ
    frames = np.ascontiguousarray(np.stack([image, image, np.zeros_like(image)])[..., ::-1]).tobytes()
    size = f"{image.shape[1]}x{image.shape[0]}"
    _, followed, _ = pose("--frames", size, "--box", "80,110,370,500", data=frames)
    assert [one["frame"] for one in followed] == [0, 1, 2]
    np.testing.assert_allclose(
        followed[0]["poses"][0]["keypoints"], wanted, rtol=0, atol=0.2
    )  # the second look follows the first
    _, (detected,), _ = pose("--bundle", str(packaged(PALM)), picture)
    assert len(detected["poses"]) == 2
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(Path(picture).read_bytes()[:5000])
    for data, said in (
        (b"", "error: Standard input gave no frame."),
        (bytes(1000), "error: The frames end within one, after 1000 of 921600 bytes."),
    ):
        status, lines, complaint = pose("--frames", "640x480", data=data)
        assert status == 1 and lines == [] and complaint.startswith(said) and "\nhint:  A frame has" in complaint
    for options, said in (
        (("none.png",), "error: The picture none.png cannot be read"),
        (("--box", "1,2", picture), "error: The option --box 1,2 is unknown or wrong."),
        ((str(cut),), f"error: The picture {cut} is cut: its end is missing."),
        (("--frames", "99999x99999"), "error: The option --frames 99999x99999 is unknown or wrong."),
        (("--box", "1,2,3,4", "--box", "1,2,3,4", picture), "error: The option --box is given twice."),
        (("-x",), "error: The option -x is unknown, or needs a value."),
        (
            ("--library", "libm.so.6", picture),
            "error: The library of ONNX Runtime cannot be opened: libm.so.6 is another",
        ),
        ((), "error: There is nothing to look at."),
        (("--bundle", "none.splite", picture), "error: The bundle none.splite lacks its file manifest.json."),
        (("--library", "none.so", picture), "error: The library of ONNX Runtime cannot be opened"),
    ):
        status, lines, complaint = pose(*options)
        assert status == 1 and lines == [] and complaint.startswith(said) and "\nhint:  " in complaint
