"""One contract for every backend, plug-ins included: whatever is registered is held to it."""

from __future__ import annotations

import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bundle import Artifact, Bundle
from splite_deploy.errors import BackendError, BundleError, MissingDependencyError, SpliteError, UsageError
from splite_deploy.runtime import Session, open_bytes, open_session
from splite_deploy.runtime.backends import all_backends, base, find_backend
from splite_deploy.runtime.backends.base import BackendOptions
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import MOST_THREADS, Placed, pick_artifact

Array = NDArray[np.float32]
BACKENDS = all_backends()
COMPUTING = [name for name, backend in BACKENDS.items() if backend.computes]


def skip_unless_installed(backend: str) -> None:
    """Skips the test where this machine lacks the backend's packages."""
    if not BACKENDS[backend].installed:
        pytest.skip(f"{BACKENDS[backend].modules} is not installed")


def artifact_of(bundle: Bundle, backend: str) -> Artifact:
    """What this backend loads; skips where the machine or the bundle lacks it."""
    skip_unless_installed(backend)
    try:
        return pick_artifact(bundle, backend, None)[1]
    except UsageError as err:
        pytest.skip(err.message)


def tensors_of(bundle: Bundle) -> Array:
    """The golden crops as inputs, (N, 3, h, w)."""
    spec = bundle.model.input
    return Preprocessor(spec, spec.color).normalise(bundle.golden().crops)


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    """The name of every backend in turn."""
    name: str = request.param
    return name


@pytest.fixture
def static(request: pytest.FixtureRequest) -> Bundle:
    """The tiny bundle with what the test's backend runs."""
    backend = request.getfixturevalue("backend") if "backend" in request.fixturenames else "ort"
    name = {"tflite": "tiny_tflite_bundle", "trt": "tiny_trt_bundle", "ncnn": "tiny_ncnn_bundle"}.get(
        backend, "tiny_bundle"
    )
    return Bundle.open(request.getfixturevalue(name))


@pytest.fixture
def dynamic(tiny_dynamic_bundle: Path) -> Bundle:
    return Bundle.open(tiny_dynamic_bundle)


@pytest.fixture
def opened(static: Bundle, backend: str) -> Iterator[Session]:
    """The static bundle in every backend in turn."""
    artifact_of(static, backend)
    loaded = open_session(static, backend)
    yield loaded
    loaded.close()


@pytest.fixture
def tensor(static: Bundle) -> Array:
    """One golden input, (1, 3, h, w)."""
    return tensors_of(static)[:1]


# --- the contract ---


def test_it_describes_what_the_manifest_describes(opened: Session, static: Bundle, backend: str) -> None:
    artifact = artifact_of(static, backend)
    for here, there in zip(opened.inputs + opened.outputs, artifact.inputs + artifact.outputs, strict=True):
        assert (here.name, here.role) == (there.name, there.role)
        assert here.dtype == "float32" and here.layout == "NCHW"
        assert sorted(map(str, here.shape)) == sorted(map(str, there.shape))


def test_results_are_named_float32_arrays_of_the_stated_shapes(opened: Session, tensor: Array) -> None:
    outputs = opened.run({opened.inputs[0].name: tensor})
    assert list(outputs) == [spec.name for spec in opened.outputs]
    for spec in opened.outputs:
        assert isinstance(outputs[spec.name], np.ndarray)
        assert outputs[spec.name].dtype == np.float32 and outputs[spec.name].shape == spec.shape
        assert np.isfinite(outputs[spec.name]).all()


def test_nothing_is_told_of_other_devices_where_none_was_asked_for(
    opened: Session, tensor: Array, backend: str
) -> None:
    assert BACKENDS[backend].options().runs_on == ""
    opened.run({opened.inputs[0].name: tensor})
    assert isinstance(opened, Placed) and opened.placements() == ()


def test_the_same_feeds_give_the_same_results(opened: Session, static: Bundle) -> None:
    name = opened.inputs[0].name
    tensors = tensors_of(static)
    first = opened.run({name: tensors[:1]})
    first = {key: array.copy() for key, array in first.items()}
    other = opened.run({name: tensors[1:2]})
    assert any(not np.array_equal(first[key], array) for key, array in other.items())
    again = opened.run({name: tensors[:1].copy()})
    for key, array in first.items():
        np.testing.assert_array_equal(again[key], array)


def test_results_stay_valid_until_the_next_run_and_feeds_are_left_alone(opened: Session, tensor: Array) -> None:
    feed = tensor.copy()
    outputs = opened.run({opened.inputs[0].name: feed})
    before = {key: array.copy() for key, array in outputs.items()}
    np.testing.assert_array_equal(feed, tensor)
    feed[:] = 0
    for key, array in before.items():
        np.testing.assert_array_equal(outputs[key], array)


def test_results_may_be_written_to(opened: Session, tensor: Array) -> None:
    feeds = {opened.inputs[0].name: tensor}
    outputs = opened.run(feeds)
    before = {key: array.copy() for key, array in outputs.items()}
    for array in outputs.values():
        array[:] = -1
    for key, array in opened.run(feeds).items():
        np.testing.assert_array_equal(array, before[key])


def test_feeds_that_do_not_lie_in_one_piece(opened: Session, tensor: Array) -> None:
    name = opened.inputs[0].name
    strided = np.repeat(tensor, 2, axis=3)[..., ::2]
    assert not strided.flags.c_contiguous
    expected = {key: array.copy() for key, array in opened.run({name: tensor}).items()}
    for key, array in opened.run({name: strided}).items():
        np.testing.assert_array_equal(array, expected[key])


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        (lambda x: {}, r"The inputs given are \[\]; the network takes \['image'\]", "Session.inputs"),
        (lambda x: {"images": x}, r"given are \['images'\]; the network takes \['image'\]", "Session.inputs"),
        (lambda x: {"image": x, "mask": x}, r"given are \['image', 'mask'\]; the network takes", "Session.inputs"),
        (lambda x: {"image": x.astype(np.float64)}, r"'image' is float64 of shape \(1, 3, 64, 48\)", "Preprocessor"),
        (lambda x: {"image": x.astype(np.uint8)}, r"'image' is uint8 .* takes float32 1x3x64x48", "Preprocessor"),
        (lambda x: {"image": x[0]}, r"float32 of shape \(3, 64, 48\); the network takes float32 1x3", "Preprocessor"),
        (lambda x: {"image": x.transpose(0, 2, 3, 1)}, r"of shape \(1, 64, 48, 3\); the network", "Preprocessor"),
        (lambda x: {"image": x[..., :-1]}, r"float32 of shape \(1, 3, 64, 47\)", "Preprocessor"),
        (lambda x: {"image": np.float32(3)[None]}, r"float32 of shape \(1,\)", "Preprocessor"),
        (lambda x: {"image": x.tolist()}, "'image' is a list, not a numpy array", "Preprocessor"),
        (lambda x: {"image": None}, "'image' is a NoneType, not a numpy array", "Preprocessor"),
        (lambda x: {"image": np.concatenate([x, x])}, r"of shape \(2, 3, 64, 48\); .* 1x3x64x48", "--dynamic-batch"),
    ],
)
def test_wrong_feeds(opened: Session, tensor: Array, change: Callable[[Array], Any], message: str, hint: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        opened.run(change(tensor))
    assert hint in caught.value.hint
    assert opened.run({"image": tensor}), "a wrong feed spoils nothing"


def test_closing_twice_is_fine_and_running_afterwards_is_not(static: Bundle, backend: str, tensor: Array) -> None:
    artifact_of(static, backend)
    loaded = open_session(static, backend)
    inputs = loaded.inputs
    loaded.close()
    loaded.close()
    assert loaded.inputs == inputs
    with pytest.raises(BackendError, match="The session is closed") as caught:
        loaded.run({"image": tensor})
    assert caught.value.hint == "Open a new one."


def test_a_block_closes_it_also_where_it_fails(static: Bundle, backend: str, tensor: Array) -> None:
    artifact_of(static, backend)
    with open_session(static, backend) as loaded:
        assert loaded.run({"image": tensor})
    with pytest.raises(BackendError, match="The session is closed"):
        loaded.run({"image": tensor})
    with pytest.raises(ZeroDivisionError), open_session(static, backend) as failing:
        1 / 0  # noqa: B018
    with pytest.raises(BackendError, match="The session is closed"):
        failing.run({"image": tensor})


def test_an_artifact_is_loaded_from_memory(static: Bundle, backend: str, tensor: Array) -> None:
    artifact = artifact_of(static, backend)
    data = (static.path / artifact.file).read_bytes()
    unnamed = dataclasses.replace(artifact, file="in no folder", sha256="")
    if backend == "replay":
        with pytest.raises(UsageError, match="in no folder is in no bundle whose recorded outputs could be replayed"):
            open_bytes(data, unnamed, backend=backend)
        return
    with open_bytes(data, unnamed, backend=backend) as loaded, open_session(static, backend) as bundled:
        outputs = bundled.run({"image": tensor})
        for name, array in loaded.run({"image": tensor}).items():
            np.testing.assert_array_equal(array, outputs[name])
    with pytest.raises(UsageError, match="There is no backend 'npu'"):
        open_bytes(data, unnamed, backend="npu")


def test_sessions_are_apart(static: Bundle, backend: str, tensor: Array) -> None:
    artifact_of(static, backend)
    one, two = open_session(static, backend), open_session(static, backend)
    one.close()
    assert two.run({"image": tensor})
    two.close()


def test_a_batch_equals_its_members(dynamic: Bundle, backend: str) -> None:
    artifact_of(dynamic, backend)
    tensors = tensors_of(dynamic)[:3]
    loaded = open_session(dynamic, backend)
    together = {key: array.copy() for key, array in loaded.run({"image": tensors}).items()}
    for index in range(3):
        alone = loaded.run({"image": tensors[index : index + 1]})
        for key, array in together.items():
            assert array.shape[0] == 3
            np.testing.assert_allclose(array[index], alone[key][0], rtol=1e-5, atol=1e-5)
    loaded.close()


@pytest.mark.parametrize("threads", [1, 2, None])
def test_threads(static: Bundle, backend: str, tensor: Array, threads: int | None) -> None:
    artifact_of(static, backend)
    loaded = open_session(static, backend, threads=threads)
    outputs = loaded.run({"image": tensor})
    loaded.close()
    golden = static.golden()
    for spec in loaded.outputs:
        np.testing.assert_allclose(outputs[spec.name], golden.outputs[spec.role][:1], rtol=1e-3, atol=1e-3)


def test_threads_that_share_a_session_get_an_error_or_the_right_result(opened: Session, static: Bundle) -> None:
    name, tensors = opened.inputs[0].name, tensors_of(static)[:2]
    feeds = [{name: tensors[index : index + 1].copy()} for index in range(2)]
    expected = [{key: array.copy() for key, array in opened.run(feed).items()} for feed in feeds]
    wrong: list[str] = []
    refused: list[str] = []
    began, ends = threading.Barrier(2), time.monotonic() + 1.0

    def work(index: int) -> None:
        began.wait()
        while time.monotonic() < ends and not refused and not wrong:
            try:
                found = opened.run(feeds[index])
            except BackendError as err:
                refused.append(err.message)
                continue
            wrong.extend(key for key, array in found.items() if not np.array_equal(array, expected[index][key]))

    workers = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong and set(refused) <= {"The session is in use, in another thread or further up in this one."}
    for index in range(2):
        for key, array in opened.run(feeds[index]).items():
            np.testing.assert_array_equal(array, expected[index][key])


class SlowSession(base.BaseSession):
    """Runs until it is told to end."""

    def __init__(self, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.began, self.may_end, self.released = threading.Event(), threading.Event(), False

    def _infer(self, feeds: Any) -> dict[str, Any]:
        self.began.set()
        assert self.may_end.wait(30) and not self.released
        return {}

    def _release(self) -> None:
        self.released = True


def test_a_second_thread_and_close_during_a_run_are_errors(static: Bundle, tensor: Array) -> None:
    session = SlowSession(static.find())
    worker = threading.Thread(target=session.run, args=({"image": tensor},))
    worker.start()
    assert session.began.wait(30)
    for call in (lambda: session.run({"image": tensor}), session.close):
        with pytest.raises(BackendError, match=r"The session is in use, in another thread") as caught:
            call()
        assert "close it when its thread has ended" in caught.value.hint
    assert not session.released
    session.may_end.set()
    worker.join()
    assert session.run({"image": tensor}) == {}
    session.close()
    assert session.released
    with pytest.raises(BackendError, match="The session is closed"):
        session.run({"image": tensor})


def test_a_run_that_fails_lets_go(static: Bundle, tensor: Array) -> None:
    session = SlowSession(static.find())
    session.may_end.set()
    session.released = True
    with pytest.raises(AssertionError):
        session.run({"image": tensor})
    session.released = False
    assert session.run({"image": tensor}) == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_is_an_error_and_not_a_hang(static: Bundle, backend: str, tensor: Array) -> None:
    artifact_of(static, backend)
    loaded = open_session(static, backend, threads=2)
    loaded.run({"image": tensor})
    child = os.fork()
    if child == 0:  # no assertion may leave this block: it would run the tests twice
        said = ""
        try:
            loaded.run({"image": tensor})
        except BackendError as err:
            said = err.message
        loaded.close()
        os._exit(7 if said == "The session was opened before this process was forked." else 8)
    ends = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > ends:
            os.kill(child, 9)
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(done[1]) == 7
    assert loaded.run({"image": tensor})
    loaded.close()


@pytest.mark.parametrize("threads", [10**9, 10**30, 2.0, True])
def test_what_is_no_number_of_threads(static: Bundle, threads: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{threads} is not a number of threads") as caught:
        open_session(static, threads=threads)
    assert caught.value.hint == f"Give 1 to {MOST_THREADS}, or leave it out."
    options = dataclasses.replace(BACKENDS["ort"].options(), threads=threads)
    with pytest.raises(UsageError, match=rf"^{threads} is not a number of threads"):
        open_session(static, "ort", options=options)


@pytest.mark.parametrize("threads", [0, -1])
def test_too_few_threads(static: Bundle, backend: str, threads: int) -> None:
    skip_unless_installed(backend)
    with pytest.raises(UsageError, match=f"{threads} is not a number of threads") as caught:
        open_session(static, backend, threads=threads)
    assert caught.value.hint


# --- the choice of the backend ---


def test_an_unknown_backend(static: Bundle) -> None:
    with pytest.raises(UsageError, match="There is no backend 'npu'") as caught:
        open_session(static, "npu")
    assert caught.value.hint == f"Choose one of: {', '.join(BACKENDS)}."


@pytest.mark.parametrize("name", ["auto", *BACKENDS])
def test_a_precision_that_the_bundle_lacks(static: Bundle, name: str) -> None:
    with pytest.raises(UsageError, match=r"holds no .*int8 artifact") as caught:
        open_session(static, name, "int8")
    assert caught.value.hint == "It holds: ort fp32."


def test_a_bundle_that_nothing_here_runs(static: Bundle) -> None:
    artifacts = [dataclasses.replace(a, backend="npu", format="npu") for a in static.manifest.artifacts]
    manifest = dataclasses.replace(static.manifest, artifacts=tuple(artifacts))
    with pytest.raises(UsageError, match="holds no artifact that this version of splite-deploy runs") as caught:
        open_session(dataclasses.replace(static, manifest=manifest))
    assert "It holds: npu (npu)." in caught.value.hint


def test_a_bundle_without_artifacts(static: Bundle) -> None:
    empty = dataclasses.replace(static, manifest=dataclasses.replace(static.manifest, artifacts=()))
    with pytest.raises(UsageError, match="holds no artifact") as caught:
        open_session(empty)
    assert "make it anew with 'splite-deploy export'" in caught.value.hint


@pytest.mark.parametrize("backend", COMPUTING)
def test_a_backend_that_is_not_installed(static: Bundle, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    name = backend
    if not any(artifact.backend == name for artifact in static.manifest.artifacts):
        pytest.skip(f"the tiny bundle holds nothing for {name}")
    monkeypatch.setattr(base, "find_spec", lambda module: None)
    assert not BACKENDS[name].installed and BACKENDS["replay"].installed
    for choice in (name, "auto"):
        with pytest.raises(MissingDependencyError) as caught:
            open_session(static, choice)
        assert (
            caught.value.message == f"The backend '{name}' needs {BACKENDS[name].modules[0]}, which is not installed."
        )
        assert caught.value.hint == f"Install it: {BACKENDS[name].install}." and "pip install" in caught.value.hint
        assert isinstance(caught.value, SpliteError) and isinstance(caught.value, ImportError)
    open_session(static, "replay").close()


@pytest.mark.parametrize("backend", COMPUTING)
def test_auto_never_takes_the_recording(static: Bundle, backend: str) -> None:
    artifact_of(static, backend)
    assert pick_artifact(static, "auto", None)[0].name in COMPUTING


@pytest.mark.parametrize("name", list(BACKENDS))
def test_a_backend_is_described_whole(name: str) -> None:
    backend = BACKENDS[name]
    assert backend.name == name and backend.label and backend.formats and not backend.problem
    assert bool(backend.modules) == backend.install.startswith("pip install")
    assert issubclass(backend.options, BackendOptions) and backend.options() == backend.options()
    assert backend.open_traced is None or backend.layers_from.endswith(".")
    assert all(suffix.startswith(".") and backend.reads(held) for suffix, held in backend.suffixes.items())
    assert find_backend(name) is backend and all(find_backend(alias) is backend for alias in backend.aliases)


# --- replay ---


def test_replay_gives_golden_outputs_for_golden_inputs(static: Bundle) -> None:
    golden, tensors = static.golden(), tensors_of(static)
    loaded = open_session(static, "replay")
    for index in range(len(tensors)):
        outputs = loaded.run({"image": tensors[index : index + 1]})
        for role, array in golden.outputs.items():
            np.testing.assert_array_equal(outputs[role][0], array[index])


def test_replay_gives_one_of_its_records_for_any_other_input(dynamic: Bundle) -> None:
    golden = dynamic.golden()
    loaded = open_session(dynamic, "replay")
    others = np.random.default_rng(0).normal(size=(6, *tensors_of(dynamic).shape[1:])).astype(np.float32)
    outputs = loaded.run({"image": others})
    for row in range(6):
        matches = [np.array_equal(outputs["heatmap"][row], array) for array in golden.outputs["heatmap"]]
        assert sum(matches) == 1
        np.testing.assert_array_equal(outputs["depth"][row], golden.outputs["depth"][matches.index(True)])
    np.testing.assert_array_equal(loaded.run({"image": others[2:3]})["heatmap"][0], outputs["heatmap"][2])


# --- files that a backend cannot load ---


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x0a" * 50])
def test_ort_says_that_it_cannot_load_a_file(static: Bundle, content: bytes) -> None:
    pytest.importorskip("onnxruntime")
    artifact = dataclasses.replace(static.find(), file="a.onnx")
    with pytest.raises(
        BackendError, match=r"a\.onnx is no ONNX graph, or a damaged one|cannot load a\.onnx: "
    ) as caught:
        open_bytes(content, artifact)
    assert "xport it again" in caught.value.hint and "\n" not in caught.value.message


def test_what_is_loaded_is_what_was_checked(static: Bundle, backend: str, tmp_path: Path) -> None:
    """A file that changes after the bundle was opened is refused, not loaded."""
    artifact = artifact_of(static, backend)
    path = tmp_path / "changed.splite"
    shutil.copytree(static.path, path)
    changed = Bundle.open(path)
    file = path / artifact.file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=r"is not the file that the manifest describes \(its SHA-256 differs\)"):
        open_session(changed, backend)
    file.unlink()  # the bundle keeps its files open: what it has checked stays what is loaded
    with pytest.raises(BundleError, match=r"is not the file that the manifest describes \(its SHA-256 differs\)"):
        open_session(changed, backend)
