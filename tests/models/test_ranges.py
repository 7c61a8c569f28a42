"""The ranges for int8 that lie beside checkpoints in models/."""

from __future__ import annotations

from pathlib import Path

import pytest

from splite_deploy.export.quant.stored_ranges import read_ranges
from splite_deploy.export.source.load import load_model

MODELS = Path(__file__).parents[2] / "models"
FILES = sorted(MODELS.glob("*/*.ranges.json"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_they_are_of_the_checkpoint_of_their_name_behind_its_preprocessing(file: Path) -> None:
    source = load_model(file.with_name(file.name.replace(".ranges.json", ".safetensors")), None, None)
    found = read_ranges(file, "")
    assert found.weights == source.weights_sha256
    found.check_input(source.spec.input, file, "")
    assert file.name in source.host.calibration
