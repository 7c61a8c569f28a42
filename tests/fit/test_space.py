"""What a search tries: fields of fit.toml, options, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from splite_deploy.errors import OptionError, UsageError
from splite_deploy.fit.sized import sized_model
from splite_deploy.fit.space import Candidate, Space, Variant, read_space
from splite_deploy.spec import load_model_toml

OWN = Candidate(1.0, 1, 64, 48)


def test_networks_are_all_of_one_by_all_of_another_and_the_dense_one_once_for_each_size() -> None:
    space = Space(speed_up=(1, 2), round_to=(2, 4), size=("64x48", "32x24"), precision=("fp32",))
    assert [one.name for one in space.candidates_for(OWN)] == [
        "dense-64x48",
        "x2-r2-64x48",
        "x2-r4-64x48",
        "dense-32x24",
        "x2-r2-32x24",
        "x2-r4-32x24",
    ]
    assert OWN in space.candidates_for(OWN) and space.variants == [Variant("ort", "fp32")]
    assert [one.name for one in Space(speed_up=(3,)).candidates_for(OWN)] == ["x3-r8-64x48"]


def test_options_replace_what_a_file_says(tmp_path: Path) -> None:
    file = tmp_path / "fit.toml"
    file.write_text('speed_up = [2.0, 3.0]\nsteps = [10]\nprecision = ["fp32"]\n')
    space = read_space(file, {"steps": (5, 20), "keep": None, "size": ()})
    assert (space.speed_up, space.steps, space.precision, space.keep) == ((2, 3), (5, 20), ("fp32",), 1 / 3)


@pytest.mark.parametrize(
    ("given", "said", "hint"),
    [
        ({"speed_up": (0.5,)}, "speed_up has a value below 1", "1 for the dense"),
        ({"speed_up": (2.0, 2.0)}, "speed_up has a value twice", "that differ"),
        ({"steps": (20, 5)}, "steps are 20, 5", "ascending"),
        ({"keep": 1.5}, "keep is 1.5", "up to 1"),
        ({"size": ("64",)}, "size is '64'", "128x96"),
        ({"round_to": (0,)}, "no width", "such as 8"),
        ({"backend": ("trt",)}, "backend is trt", "on the device"),
    ],
)
def test_what_cannot_be_tried_is_refused(given: dict[str, object], said: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=said) as caught:
        read_space(None, given)
    assert hint in caught.value.hint


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "fit.toml"
    file.write_text("speedup = [2.0]\n")
    with pytest.raises(UsageError, match=r"fit\.toml: .*speedup") as caught:
        read_space(file, {})
    assert "speed_up, round_to" in caught.value.hint


def test_a_model_of_another_size_is_the_same_in_all_else(tiny_model: Path, tmp_path: Path) -> None:
    spelled, code = tmp_path / "model.toml", tiny_model.parent
    text = tiny_model.read_text().replace('arch = "', f'arch = "{code}/').replace('samples = "', f'samples = "{code}/')
    spelled.write_text(f'calibration = [\n "a.json",\n]\n{text}')
    (other := tmp_path / "other").mkdir()
    sized_model(spelled, 32, 24, other / "model.toml")
    before, _ = load_model_toml(spelled)
    spec, host = load_model_toml(other / "model.toml")
    assert (spec.input.height, spec.input.width) == (32, 24) and spec.decoder == before.decoder
    assert not host.calibration and (host.folder / host.arch.partition(":")[0]).is_file()
