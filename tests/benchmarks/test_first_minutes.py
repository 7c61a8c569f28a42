"""What is counted of the roads to a first picture."""

from __future__ import annotations

import compileall
from pathlib import Path

import first_minutes
import pytest


def test_what_is_typed_is_what_the_record_shows() -> None:
    ours, media = first_minutes.ROADS["splite-deploy"], first_minutes.ROADS["MediaPipe"]
    assert ours.typed == len("pip install 'splite-deploy[ort]'\nsplite-deploy demo hands.jpg\n")
    assert media.typed == len(f"pip install mediapipe==0.10.21\n{media.script}python hands.py\n")


@pytest.mark.parametrize("name", [name for name, road in first_minutes.ROADS.items() if road.script])
def test_the_scripts_are_python(name: str, tmp_path: Path) -> None:
    file = tmp_path / first_minutes.SCRIPT
    file.write_text(first_minutes.ROADS[name].script, encoding="utf-8")
    assert compileall.compile_file(file, quiet=2)


def test_the_version_is_that_of_the_package_itself() -> None:
    files = [Path(name) for name in ("numpy-1.2-x.whl", "splite_deploy-0.2.0-py3-none-any.whl", "rtmlib-0.0.16-a.whl")]
    assert first_minutes._version(files, "splite-deploy[ort]") == "0.2.0"
    assert first_minutes._version(files, "rtmlib==0.0.16") == "0.0.16"
