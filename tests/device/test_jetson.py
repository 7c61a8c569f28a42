"""Releases of Jetson Linux and the JetPack that they are part of."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from splite_deploy.device.jetson import JETPACKS, jetpack_of, read_board, read_l4t


@pytest.mark.parametrize(
    ("l4t", "name"),
    [
        ("35.2.1", "5.1"),
        ("35.4.1", "5.1"),
        ("35.6.2", "5.1"),
        ("36.2.0", "6.0"),
        ("36.3.0", "6.0"),
        ("36.4.0", "6.1, 6.2"),
        ("36.4.3", "6.1, 6.2"),
        ("36.4", "6.1, 6.2"),
        ("38.2.1", "7.0, 7.1"),
        ("38.4.0", "7.0, 7.1"),
        ("39.2.0", "7.2"),
    ],
)
def test_known_releases(l4t: str, name: str) -> None:
    found = jetpack_of(l4t)
    assert found is not None and found.name == name


@pytest.mark.parametrize("l4t", ["32.7.1", "34.1.1", "35.1.0", "36.0.0", "37.1.0", "39.1.0", "40.2.0", "", "R36"])
def test_releases_that_are_older_newer_or_between(l4t: str) -> None:
    assert jetpack_of(l4t) is None


def test_what_a_row_says() -> None:
    xavier, orin = jetpack_of("35.4.1"), jetpack_of("36.4.3")
    assert xavier is not None and orin is not None
    assert not xavier.brings_module and xavier.typing == "weakly typed"
    assert xavier.dockerfile == "docker/jetson/Dockerfile.jp5"
    assert orin.brings_module and orin.typing == "weakly or strongly typed"
    assert orin.cuda_python == "pip install 'cuda-python==12.*'"
    assert str(orin) == "6.1, 6.2 for Orin: TensorRT 10.3, CUDA 12.6, Python 3.10"


def test_the_rows_ascend() -> None:
    for older, newer in pairwise(JETPACKS):
        assert older.l4t < newer.l4t
        assert older.tensorrt < newer.tensorrt
        assert older.cuda < newer.cuda
        assert older.python <= newer.python


def test_no_jetson(tmp_path: Path) -> None:
    assert read_l4t(tmp_path) is None
    assert read_board(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("R? unknown\n")
    assert read_l4t(tmp_path) is None
