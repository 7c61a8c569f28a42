"""Artifacts that come to a bundle later: the bundle is the old one or the new one, whatever happens on the way."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from splite_deploy.bundle import MANIFEST, REPORT, Artifact, Bundle
from splite_deploy.bundle.add import Addition, add_artifacts
from splite_deploy.bundle.report import Layer
from splite_deploy.errors import BundleError, OutputError
from splite_deploy.files import sha256_of

LAYERS = (Layer("conv", "Conv", "float16", None),)


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Bundle:
    return Bundle.open(shutil.copytree(tiny_bundle, tmp_path / "tiny.splite"))


def engine(bundle: Bundle, folder: Path, content: bytes, precision: str = "fp16") -> Addition:
    source = folder / "built"
    source.write_bytes(content)
    fp32 = bundle.manifest.artifacts[0]
    artifact: Artifact = replace(
        fp32,
        format="engine",
        backend="trt",
        precision=precision,  # type: ignore[arg-type]
        file=f"model.{precision}.engine",
        sha256=sha256_of(source),
        target={"gpu": "Orin"},
    )
    return Addition(artifact, source, LAYERS)


def files(bundle: Bundle) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bundle.path.iterdir()}


def test_an_artifact_is_added(bundle: Bundle, tmp_path: Path) -> None:
    before = files(bundle)
    made = add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
    assert Bundle.open(bundle.path) == made
    added = made.find("trt", "fp16")
    assert (bundle.path / added.file).read_bytes() == b"plan"  # pristine
    assert made.report().layers == {**bundle.report().layers, "trt fp16": LAYERS}
    assert made.manifest.artifacts[0] == bundle.manifest.artifacts[0]
    assert files(bundle).keys() == {*before, "model.fp16.engine"}


def test_who_could_read_the_bundle_still_can(bundle: Bundle, tmp_path: Path) -> None:
    """An engine is often built by root, and run by somebody else."""
    before = {file.name: file.stat().st_mode for file in bundle.path.iterdir()}
    add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
    after = {file.name: file.stat().st_mode for file in bundle.path.iterdir()}
    assert after == {**before, "model.fp16.engine": before[MANIFEST]}


def test_one_of_the_same_kind_is_replaced_again_and_again(bundle: Bundle, tmp_path: Path) -> None:
    for content in (b"one", b"two", b"two", b"three"):
        bundle = add_artifacts(bundle, [engine(bundle, tmp_path, content)])
        assert Bundle.open(bundle.path) == bundle
        held = [artifact for artifact in bundle.manifest.artifacts if artifact.backend == "trt"]
        assert [(bundle.path / artifact.file).read_bytes() for artifact in held] == [content]
        assert len(list(bundle.path.glob("*.engine"))) == 1


def test_all_or_none(bundle: Bundle, tmp_path: Path) -> None:
    bundle = add_artifacts(bundle, [engine(bundle, tmp_path, b"old")])
    before = files(bundle)
    first, second = engine(bundle, tmp_path, b"new"), engine(bundle, tmp_path, b"new", "int8")
    with pytest.raises(OutputError, match=r"Cannot write .*No such file"):
        add_artifacts(bundle, [first, replace(second, source=tmp_path / "missing")])
    assert files(bundle) == before


def test_a_failure_at_the_very_end(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = add_artifacts(bundle, [engine(bundle, tmp_path, b"old")])
    before, rename = files(bundle), Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target.name == MANIFEST:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OutputError, match="No space left on device") as caught:
        add_artifacts(bundle, [engine(bundle, tmp_path, b"new")])
    assert "Free some space" in caught.value.hint
    assert files(bundle) == before


def test_a_damaged_engine_can_be_replaced(bundle: Bundle, tmp_path: Path) -> None:
    bundle = add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
    (bundle.path / "model.fp16.engine").write_bytes(b"plam")
    with pytest.raises(BundleError, match=r"model\.fp16\.engine is not the file"):
        Bundle.open(bundle.path, rebuilding=["trt fp32"])
    opened = Bundle.open(bundle.path, rebuilding=["trt fp16"])
    add_artifacts(opened, [engine(opened, tmp_path, b"plan")])
    assert (Bundle.open(bundle.path).path / Bundle.open(bundle.path).find("trt").file).read_bytes() == b"plan"
    assert len(list(bundle.path.glob("*.engine"))) == 1


# --- several at once, and interrupted ---

ADDS = """
import sys
from dataclasses import replace
from pathlib import Path
from splite_deploy.bundle import Bundle
from splite_deploy.bundle.add import Addition, add_artifacts
from splite_deploy.bundle.report import Layer
from splite_deploy.files import sha256_of

def addition(bundle, folder, label, content):
    source = folder / f"{label}.built"
    source.write_bytes(content)
    changed = {"format": "engine", "backend": label, "file": f"{label}.engine", "sha256": sha256_of(source)}
    return Addition(replace(bundle.manifest.artifacts[0], **changed), source, (Layer("conv", "Conv", "int8", None),))
"""
WORKER = (
    ADDS
    + """
path, folder, name, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
bundle = Bundle.open(path)  # once, as a compiler does that builds for minutes
print("ready", flush=True)
sys.stdin.readline()
for number in range(count):
    add_artifacts(bundle, [addition(bundle, folder, f"{name}{number}", f"{name} {number}".encode())])
"""
)
KILLED = (
    ADDS
    + """
import os, shutil
pristine, path, folder = map(Path, sys.argv[1:])
EVENTS = ("open", "os.rename", "os.remove", "os.truncate", "os.chmod", "shutil.copyfile")
killed, found = 0, set()
while True:
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(pristine, path)
    bundle = Bundle.open(path)
    bundle = add_artifacts(bundle, [addition(bundle, folder, "trt", b"old")])
    new = addition(bundle, folder, "trt", b"new")
    child = os.fork()
    if child == 0:
        left = killed
        def hook(event, arguments):
            global left
            if event in EVENTS:
                left -= 1
                if left < 0:
                    os._exit(9)
        sys.addaudithook(hook)
        add_artifacts(bundle, [new])
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    opened = Bundle.open(path)
    found.add(opened.read(opened.find("trt")))
    assert len(opened.report().layers) == 2
    again = add_artifacts(opened, [addition(opened, folder, "later", b"later")])  # the lock is free again
    assert Bundle.open(path) == again
    if status == 0:
        break
    killed += 1
print(killed, sorted(found))
"""
)


def test_two_processes_lose_nothing(bundle: Bundle, tmp_path: Path) -> None:
    count = 40
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, bundle.path, tmp_path, name, str(count)], **pipes)  # type: ignore[call-overload]
        for name in ("a", "b")
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n", worker.stderr.read()
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        _, stderr = worker.communicate(timeout=120)
        assert worker.returncode == 0, stderr
    made = Bundle.open(bundle.path)
    labels = [f"{name}{number}" for name in ("a", "b") for number in range(count)]
    assert {artifact.backend for artifact in made.manifest.artifacts} == {"ort", *labels}
    assert all(made.read(made.find(label)) == f"{label[0]} {label[1:]}".encode() for label in labels)
    assert set(made.report().layers) == {"ort fp32", *(f"{label} fp32" for label in labels)}


def test_killed_at_any_moment_it_is_the_old_bundle_or_the_new_one(bundle: Bundle, tmp_path: Path) -> None:
    arguments = [bundle.path, tmp_path / "killed.splite", tmp_path]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    killed, found = done.stdout.split(maxsplit=1)
    assert int(killed) > 10 and found.strip() == str([b"new", b"old"])


def test_a_bundle_that_another_export_has_replaced_is_not_added_to(bundle: Bundle, tmp_path: Path) -> None:
    other = replace(bundle.manifest, source=replace(bundle.manifest.source, checkpoint_sha256="0" * 64))
    (bundle.path / MANIFEST).write_text(other.to_json(), encoding="utf-8")
    before = files(bundle)
    with pytest.raises(BundleError, match=r"Another bundle took the place of .*tiny\.splite") as caught:
        add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
    assert caught.value.hint == "Nothing was added. Run the command again, on the bundle that is there now."
    assert files(bundle) == before


def test_a_bundle_without_a_report_can_be_added_to(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / REPORT).unlink()
    made = add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
    assert Bundle.open(bundle.path) == made and not (bundle.path / REPORT).exists()


@pytest.mark.parametrize("name", [REPORT, MANIFEST, "model.fp16.engine"])
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_written_through_a_link(bundle: Bundle, tmp_path: Path, name: str, there: bool) -> None:
    outside, file = tmp_path / "outside", bundle.path / name
    content = file.read_bytes() if file.exists() else b"plan"
    if there:
        outside.write_bytes(content)
    file.unlink(missing_ok=True)
    file.symlink_to(outside)
    if name in (REPORT, MANIFEST):
        with pytest.raises(BundleError, match=f"{name} is a link that leads out of the bundle"):
            add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
        assert file.is_symlink()
    else:
        made = add_artifacts(bundle, [engine(bundle, tmp_path, b"plan")])
        assert Bundle.open(bundle.path) == made and made.find("trt", "fp16").file != name
    assert outside.read_bytes() == content if there else not outside.exists()
