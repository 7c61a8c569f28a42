"""Results by content: found again, and never half of one."""

from __future__ import annotations

import subprocess
import sys
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
    assert Store(tmp_path).find(step()) is None
    assert Store(tmp_path).keep(step(), {"a": b"weights"}, {}, 0.0, "") == kept == store.find(step())
    assert store.content(kept.files["a"]) == b"weights"
    (tmp_path / "files" / kept.files["a"]).unlink()
    assert store.find(step()) is None


@pytest.mark.parametrize("kilobytes", [0.5, 5])
def test_a_disk_that_is_full_leaves_no_half_of_a_result(tmp_path: Path, kilobytes: float) -> None:
    """Files of more than that fail, as on a disk that is full: both, or the second one."""
    code = (
        "import resource, sys; from pathlib import Path; from splite_deploy.fit.store import Store\n"
        "from splite_deploy.fit.steps import Step\n"
        "store = Store(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(1024 * float(sys.argv[2])), resource.RLIM_INFINITY))\n"
        "store.keep(Step('train', 'somebody', {}, {}), {'a': bytes(1000), 'b': bytes(10000)}, {}, 0.0, '')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, tmp_path, str(kilobytes)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1 and "OutputError: Cannot write" in ended.stderr and "File too large" in ended.stderr
    assert [one.name for one in (tmp_path / "results").iterdir()] == []
    whole = [one.stat().st_size for one in (tmp_path / "files").iterdir()]
    assert whole == ([] if kilobytes < 1 else [1000])
    assert Store(tmp_path).find(Step("train", "somebody", {}, {})) is None


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="is not the folder of a search") as caught:
        Folder(tmp_path)
    assert "--output" in caught.value.hint and [one.name for one in tmp_path.iterdir()] == ["thesis.tex"]
