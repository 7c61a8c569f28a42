"""LiteRT's delegates: one is compiled here and runs operators; the CPU does not silently run the rest."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from splite_deploy.bench.result import BenchResult
from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.litert import CPU, TfliteOptions
from splite_deploy.runtime.backends.placement import Placement
from splite_deploy.runtime.session import Placed, open_file

pytest.importorskip("ai_edge_litert")

from tflite_networks import TfliteNetwork, run_tflite

Run = Callable[..., Result]
SOURCE = Path(__file__).with_name("unary_delegate.c")
SHAPE = (1, 4, 4, 3)
VALUES = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Compiles the delegate, with definitions; returns the path of the library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("delegates")

    def compile(name: str, *definitions: str) -> str:
        library = folder / name
        command = [compiler, "-shared", "-fPIC", *definitions]
        subprocess.run([*command, "-o", library, SOURCE, "-lm"], check=True)
        return str(library)

    return compile


@pytest.fixture(scope="module")
def delegate(compiled: Callable[..., str]) -> str:
    """A delegate that takes ABS and NEG."""
    return compiled("libunary.so")


def network(folder: Path, *kinds: str) -> Path:
    """A file of operators one after the other."""
    made = TfliteNetwork(*SHAPE)
    last = made.image
    for kind in kinds:
        last = made.add(kind, [last], SHAPE)
    path = folder / "net.tflite"
    path.write_bytes(made.content(last))
    return path


def test_it_runs_every_operator(tmp_path: Path, delegate: str) -> None:
    path = network(tmp_path, "ABS", "NEG", "ABS", "NEG")
    with open_file(path, "tflite", options=TfliteOptions(delegate=delegate)) as session:
        (found,) = session.run({"image": VALUES}).values()
        assert isinstance(session, Placed)
        assert session.placements() == (Placement("libunary.so", 4, None),)
    np.testing.assert_array_equal(found, -np.abs(VALUES))


def test_a_library_in_the_working_folder_needs_no_more_than_its_name(
    tmp_path: Path, delegate: str, monkeypatch: pytest.MonkeyPatch, splite: Run
) -> None:
    """The system looks for such a name among its own libraries alone."""
    path = network(tmp_path, "ABS")
    monkeypatch.chdir(tmp_path)
    shutil.copy(delegate, "libmine.so")
    with open_file(path, "tflite", options=TfliteOptions(delegate="libmine.so")) as session:
        assert isinstance(session, Placed) and session.placements() == (Placement("libmine.so", 1, None),)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BackendError, match="The delegate 'folder' is a folder"):
        open_file(path, "tflite", options=TfliteOptions(delegate="folder"))
    empty = splite("bench", path, "-b", "litert", "--delegate", "")  # the system takes that for this very program
    assert empty.exit_code == 2 and "It is empty: name a file or a folder" in empty.stderr


def test_the_cpu_runs_the_rest_where_that_is_allowed(tmp_path: Path, delegate: str) -> None:
    path = network(tmp_path, "ABS", "LOGISTIC", "NEG", "ABS", "TANH")
    with pytest.raises(BackendError) as caught:
        open_file(path, "tflite", options=TfliteOptions(delegate=delegate))
    assert caught.value.message == (
        "The delegate libunary.so runs 3 of the 5 nodes of net.tflite, and the CPU runs the others (1 LOGISTIC, 1 "
        "TANH)."
    )
    assert caught.value.hint.startswith("Allow that with --allow-cpu")
    with open_file(path, "tflite", options=TfliteOptions(delegate=delegate, allow_cpu=True)) as session:
        (found,) = session.run({"image": VALUES}).values()
        assert isinstance(session, Placed)
        assert session.placements() == (Placement("libunary.so", 3, None), Placement(CPU, 2, None))
    np.testing.assert_allclose(found, run_tflite(path.read_bytes(), VALUES)[0], atol=1e-7)


@pytest.mark.parametrize("allow_cpu", [False, True])
def test_one_that_takes_nothing(tmp_path: Path, delegate: str, allow_cpu: bool) -> None:
    path = network(tmp_path, "LOGISTIC", "TANH")
    with pytest.raises(BackendError) as caught:
        open_file(path, "tflite", options=TfliteOptions(delegate=delegate, allow_cpu=allow_cpu))
    assert caught.value.message == (
        "The delegate libunary.so runs nothing of net.tflite: the CPU runs all of its 2 nodes."
    )
    assert caught.value.hint == "Leave --delegate out to run it on the CPU."


def test_one_without_its_device(tmp_path: Path, compiled: Callable[..., str]) -> None:
    options = TfliteOptions(delegate=compiled("libnone.so", "-DNO_DEVICE"))
    with pytest.raises(BackendError) as caught:
        open_file(network(tmp_path, "ABS"), "tflite", options=options)
    assert caught.value.message == "The delegate libnone.so does not start here: there is no such device"
    assert "Without --delegate the file runs on the CPU." in caught.value.hint


def test_one_that_refuses_the_file(tmp_path: Path, compiled: Callable[..., str]) -> None:
    options = TfliteOptions(delegate=compiled("librefusing.so", "-DREFUSES"))
    with pytest.raises(BackendError, match=r"cannot load net.tflite by librefusing.so: ") as caught:
        open_file(network(tmp_path, "ABS"), "tflite", options=options)
    assert caught.value.hint.startswith("Try it without --delegate")


def test_files_that_are_no_delegates(tmp_path: Path, compiled: Callable[..., str]) -> None:
    path = network(tmp_path, "ABS")
    with pytest.raises(BackendError, match=r"^The delegate absent.so cannot be loaded: .*absent.so") as caught:
        open_file(path, "tflite", options=TfliteOptions(delegate=str(tmp_path / "absent.so")))
    assert caught.value.hint.startswith("Name the shared library that the maker of the device offers")
    other = compiled("libother.so", "-Dtflite_plugin_create_delegate=create")
    with pytest.raises(BackendError) as caught:
        open_file(path, "tflite", options=TfliteOptions(delegate=other))
    assert caught.value.message == (
        "libother.so is no delegate of TensorFlow Lite: it lacks tflite_plugin_create_delegate."
    )


def test_bench_tells_who_ran_what(splite: Run, tmp_path: Path, delegate: str) -> None:
    path = network(tmp_path, "ABS", "LOGISTIC", "NEG")
    command = ("bench", path, "--frames", "10", "--warmup", "0", "--delegate", delegate, "--json", "-")
    done = splite(*command)
    assert done.exit_code == 2 and "--delegate is for tflite, and no backend is named." in done.stderr
    done = splite(*command, "-b", "litert")
    assert done.exit_code == 1 and "libunary.so runs 2 of the 3 nodes of net.tflite" in done.stderr
    done = splite(*command, "-b", "litert", "--allow-cpu")
    assert done.exit_code == 0, done.stderr
    result = BenchResult.from_dict(json.loads(done.stdout))
    assert result.label == "tflite/libunary.so" and result.provider == "libunary.so"
    assert result.placements == (Placement("libunary.so", 2, None), Placement(CPU, 1, None))
    assert [(layer.kind, layer.provider) for layer in result.layers] == [
        ("ABS", "libunary.so"),
        ("LOGISTIC", CPU),
        ("NEG", "libunary.so"),
    ]
