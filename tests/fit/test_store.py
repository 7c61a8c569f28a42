"""Results by content: found again, and never half of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from splite_deploy.errors import OutputError
from splite_deploy.fit.output import Folder
from splite_deploy.fit.steps import Needs, Step
from splite_deploy.fit.store import Store


def step(**options: object) -> Step:
    return Step("train", "somebody", {"network.safetensors": "0" * 64}, options, Needs())


def test_a_result_is_found_by_the_same_inputs_and_options_alone(tmp_path: Path) -> None:
    kept = Store(tmp_path).keep(step(steps=5), {"a": b"weights"}, {"loss": 0.5}, 2.5, "node")
    found = Store(tmp_path).find(Step("train", "somebody else", step().inputs, {"steps": 5}, Needs(cpus=8)))
    assert found == kept and Store(tmp_path).content(found.files["a"]) == b"weights"
    assert Store(tmp_path).find(step(steps=6)) is None
    others = Step("score", "somebody", step().inputs, {"steps": 5}), Step("train", "", {"b": "0" * 64}, {"steps": 5})
    assert all(Store(tmp_path).find(one) is None for one in others)
    assert [(dict(options), result) for options, result in Store(tmp_path).all_of("train")] == [({"steps": 5}, kept)]


def test_what_is_damaged_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = store.keep(step(), {"a": b"weights"}, {}, 0.0, "")
    (result,) = (tmp_path / "results").iterdir()
    whole = result.read_bytes()
    result.write_bytes(whole[: len(whole) // 2])
    assert store.find(step()) is None
    result.write_bytes(whole)
    assert store.find(step()) == kept
    (tmp_path / "files" / kept.files["a"]).write_bytes(b"other")
    with pytest.raises(OutputError, match="is not what was written there") as caught:
        store.content(kept.files["a"])
    assert "made again" in caught.value.hint
    (tmp_path / "files" / kept.files["a"]).unlink()
    assert store.find(step()) is None


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="is not the folder of a search") as caught:
        Folder(tmp_path)
    assert "--output" in caught.value.hint and [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]
