"""Rendered images for the comparison: made once, then read from the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from splite_deploy.errors import UsageError
from splite_deploy.export.crops import check_source, crops_from_renderer, divide
from splite_deploy.spec import load_model_toml


def test_rendered_crops_are_made_once_and_again_where_the_cache_is_damaged(tiny_model: Path, tmp_path: Path) -> None:
    spec, host = load_model_toml(tiny_model)
    cache, told = tmp_path / "cache", list[str]()
    first, second = (crops_from_renderer(host, 5, spec.input, cache=cache, progress=told.append) for _ in range(2))
    np.testing.assert_array_equal(first.pixels, second.pixels)
    np.testing.assert_array_equal(first.example.image, second.example.image)
    assert told == ["rendering 5 images for the comparison"]
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    third = crops_from_renderer(host, 5, spec.input, cache=cache, progress=told.append)
    np.testing.assert_array_equal(first.pixels, third.pixels)
    assert len(told) == 2


def test_a_changed_renderer_renders_again(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    spec, host = load_model_toml(folder / tiny_model.name)
    told = list[str]()
    crops_from_renderer(host, 3, spec.input, cache=tmp_path / "cache", progress=told.append)
    source = folder / host.samples.partition(":")[0]
    source.write_text(source.read_text(encoding="utf-8") + "\n# another version\n", encoding="utf-8")
    crops_from_renderer(host, 3, spec.input, cache=tmp_path / "cache", progress=told.append)
    assert len(told) == 2


def test_images_to_calibrate_on_may_be_a_pattern(tmp_path: Path) -> None:
    for index in range(8):
        (tmp_path / f"{index}.png").touch()
    (tmp_path / "other.jpg").touch()
    check_source(tmp_path / "*.png")
    files, spare, kind = divide(tmp_path / "*.png")
    assert [file.name for file, _ in files] == ["0.png", "1.png", "2.png", "4.png", "5.png", "6.png"]
    assert [file.name for file, _ in spare] == ["3.png", "7.png"] and kind == "held out"
    with pytest.raises(UsageError, match=r"No image matches .*\*\.webp\.") as caught:
        divide(tmp_path / "*.webp")
    assert caught.value.hint.startswith("Images end in .jpg")
