"""Fine-tuning by a command: what it may name, what it has to leave, and what is said where it does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from splite_deploy.errors import OptionError, UsageError
from splite_deploy.fit.training import TrainingCommand


def run(text: str, folder: Path) -> Path:
    (folder / "given.safetensors").write_bytes(b"weights")
    (work := folder / "work").mkdir()
    command = TrainingCommand.parse(text)
    return command.run(folder / "given.safetensors", 7, work / "out", folder / "model.toml", (64, 48))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("python train.py --init {checkpoint} --steps {steps}", "does not name {out}"),
        ("python train.py {checkpoint} {steps} {out} {lr}", "names {lr}, which is nothing"),
        ("python 'train.py {checkpoint}", "cannot be read: No closing quotation"),
        ("python {checkpoint} {steps} {out} {", "cannot be read: Single"),
    ],
)
def test_a_command_that_cannot_be_one_is_refused(text: str, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        TrainingCommand.parse(text)
    assert said in caught.value.message and "{" in caught.value.hint


def test_a_command_leaves_a_file_or_a_folder_with_one(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    made = run("sh -c 'cat {checkpoint} >{out}; echo {steps} {height}x{width} >>{out}'", tmp_path / "file")
    assert made.read_bytes() == b"weights7 64x48\n"
    (tmp_path / "folder").mkdir()
    made = run(
        "sh -c 'mkdir {out}; touch {out}/state.pt; cp {checkpoint} {out}/a.safetensors; : {steps}'", tmp_path / "folder"
    )
    assert made.name == "a.safetensors"


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (
            "sh -c 'echo the disk is full; exit 3' {checkpoint} {steps} {out}",
            "status 3. It said last: the disk is full",
            "by hand",
        ),
        ("sh -c 'kill -9 $$' {checkpoint} {steps} {out}", "SIGKILL", "by hand"),
        ("true {checkpoint} {steps} {out}", "left no checkpoint", "one .safetensors file"),
        (
            "sh -c 'mkdir $2; touch $2/a.safetensors $2/b.safetensors' {checkpoint} {steps} {out}",
            "left 2 checkpoints",
            "one",
        ),
    ],
)
def test_a_training_that_fails_says_why(text: str, said: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run(text, tmp_path)
    assert said in caught.value.message and hint in caught.value.hint


def test_a_function_is_called_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "def tune(checkpoint, steps, out, model):\n"
        "    out.write_bytes(checkpoint.read_bytes() + f' {steps + 1} {model.name}'.encode())\n"
    )
    assert run("mine:tune", tmp_path).read_bytes() == b"weights 8 model.toml"
    assert "mine" not in sys.modules


def test_the_digest_is_of_the_words_and_the_files_that_they_name(tmp_path: Path) -> None:
    script, data = tmp_path / "train.py", tmp_path / "data"
    data.mkdir()
    (data / "a.jpg").write_bytes(b"a")
    script.write_text("import other")
    (tmp_path / "other.py").write_text("1")
    text = f"python {script} --data={data} {{checkpoint}} {{steps}} {{out}}"
    digests = [TrainingCommand.parse(text).digest()]
    assert TrainingCommand.parse(text).digest() == digests[0]
    for change in (
        lambda: (tmp_path / "other.py").write_text("2"),
        lambda: (data / "b.jpg").write_bytes(b"b"),
        lambda: script.write_text("import another"),
    ):
        change()
        digests.append(TrainingCommand.parse(text).digest())
    digests.append(TrainingCommand.parse(f"{text} --lr 1").digest())
    assert len(set(digests)) == 5


def test_what_trainings_share_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITE_CACHE", str(tmp_path / "cache"))
    text = "sh -c 'mkdir -p $0; echo $1 >>$0/log; cp $2 $3' {cache} {steps} {checkpoint} {out}"
    before = TrainingCommand.parse(text).digest()
    run(text, tmp_path)
    assert (tmp_path / "cache" / "fit" / "log").read_text() == "7\n"
    assert TrainingCommand.parse(text).digest() == before
