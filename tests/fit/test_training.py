"""Fine-tuning by a command: what it may name, what it has to leave, and what is said where it does not."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest

from splite_deploy.errors import CheckpointError, OptionError, SpliteError, UsageError
from splite_deploy.fit.steps import Step
from splite_deploy.fit.training import TrainingCommand
from splite_deploy.fit.work import CHECKPOINT, Project, perform


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
        ("sh -c 'cp $1 ${OUT}' {checkpoint} {steps} {out}", "names {OUT}, which is nothing"),
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
        ("mkdir -p {out}/a.safetensors {checkpoint}.d {steps}", "left no checkpoint", "one .safetensors file"),
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


def test_a_training_that_writes_much_and_no_text_is_told_by_its_end_and_a_command_that_can_be_typed(
    tmp_path: Path,
) -> None:
    text = r"""sh -c 'yes xxxx | head -c 3000000; printf "\377\033[2J\nlast"; exit 1' {checkpoint} {steps} {out}"""
    with pytest.raises(UsageError) as caught:
        run(text, tmp_path)
    assert "xxxx | \ufffd\\x1b[2J | last" in caught.value.message and len(caught.value.message) < 500
    assert "with files of your own in place of the braces: sh -c" in caught.value.hint
    assert "{checkpoint}" in caught.value.hint and str(tmp_path) not in caught.value.hint  # which is removed by then


def test_weights_that_are_cut_off_fail_the_training_and_are_not_what_came_of_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    training = TrainingCommand.parse("sh -c 'head -c 20 {checkpoint} >{out} | true {steps}'")
    candidate = {"speed_up": 1.0, "round_to": 1, "height": 64, "width": 48}
    step = Step("train", "dense", {}, {"candidate": candidate, "steps": 1})
    model = Path(__file__).parents[1] / "tiny" / "model.toml"
    with pytest.raises(CheckpointError, match="is not a whole safetensors file"):
        perform(step, Project(model, training), {CHECKPOINT: b"\x40" + bytes(7) + b"{" * 100})


def test_what_the_disk_cannot_do_fails_a_step_alone(tmp_path: Path) -> None:
    with pytest.raises(SpliteError) as caught:
        perform(Step("compact", "dense", {}, {}), Project(tmp_path, None), {"x" * 300: b""})
    assert "File name too long" in caught.value.message and f"on {platform.node()}" in caught.value.message
    assert "TMPDIR=FOLDER" in caught.value.hint


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


def test_the_digest_is_of_what_the_code_imports_from_its_own_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "nets/hand/train.py": "import json, numpy\nfrom losses import mean, worst\n",
        "nets/common/losses.py": "def mean(): ...\nfrom lib.depth import scaled",
        "nets/common/unused.py": "",
        "lib/__init__.py": "",
        "lib/depth.py": "def scaled():\n    from . import tables\n",
        "lib/tables.py": "",
        "lib/other.py": "",
        "work/mine.py": "from parts.one import tune",
        "work/parts/__init__.py": "",
        "work/parts/one.py": "from .two import three",
        "work/parts/two.py": "this is no Python",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def counted(text: str) -> set[str]:
        digest = TrainingCommand.parse(text).digest()
        changed = set()
        for name, content in files.items():
            (tmp_path / name).write_text(f"{content}\n# changed")
            changed |= {name} if TrainingCommand.parse(text).digest() != digest else set()
            (tmp_path / name).write_text(content)
        return changed

    places = "{checkpoint} {steps} {out}"
    monkeypatch.chdir(tmp_path)
    script = {"nets/hand/train.py", "nets/common/losses.py", "lib/__init__.py", "lib/depth.py", "lib/tables.py"}
    assert counted(f"python nets/hand/train.py {places}") == script
    monkeypatch.chdir(tmp_path / "work")
    package = {"work/mine.py", "work/parts/__init__.py", "work/parts/one.py", "work/parts/two.py"}
    assert counted("mine:tune") == counted(f"python -m mine {places}") == package
    assert counted("parts.one:tune") == package - {"work/mine.py"}
    assert counted("not.there:tune") == set()


def test_a_function_that_is_not_there_says_where_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("import nowhere_at_all")
    for name, said in (("mine:tune", "No module named 'nowhere_at_all'"), ("json:tune", "has no attribute 'tune'")):
        with pytest.raises(UsageError) as caught:
            run(name, tmp_path)
        assert f"{name} cannot be imported on {platform.node()} by {sys.executable}: " in caught.value.message
        assert said in caught.value.message and "has to lie below the working folder" in caught.value.message
        shutil.rmtree(tmp_path / "work")
