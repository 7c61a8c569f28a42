"""A backend of another package that does what it must not gets an error that names it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError
from splite_deploy.runtime import PoseEstimator, backends
from splite_deploy.runtime.backends.base import ModelFile
from splite_deploy.runtime.session import open_session, open_traced

PACKAGE = """
import numpy as np
from splite_deploy.runtime.backends.base import Backend

FAULT = "{fault}"


class Session:
    def __init__(self, file, options):
        if FAULT == "open":
            raise KeyError("no such device")
        if FAULT == "exit":
            raise SystemExit("over")
        self.inputs = file.artifact.inputs if FAULT != "inputs" else list(file.artifact.inputs)
        self.outputs = file.artifact.outputs if FAULT != "outputs" else None

    def run(self, feeds):
        if FAULT == "run":
            raise RuntimeError("first line\\nsecond line")
        batch = len(next(iter(feeds.values())))
        made = {{one.name: np.ones((batch, *one.shape[1:]), np.float32) for one in self.outputs}}
        name = next(iter(made))
        changes = {{
            "none": lambda x: None, "list": lambda x: x.tolist(), "double": lambda x: x.astype(np.float64),
            "shape": lambda x: x[..., :-1], "rank": lambda x: x[0], "nan": lambda x: x * np.nan,
            "inf": lambda x: x * np.inf,
        }}
        if FAULT in changes:
            made[name] = changes[FAULT](made[name])
        if FAULT == "name":
            made["other"] = made.pop(name)
        return made if FAULT != "tuple" else tuple(made.values())

    def layers(self):
        if FAULT == "layers":
            return [1, 2]
        raise NotImplementedError("layers")

    def close(self):
        if FAULT == "close":
            raise OSError("device lost")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


BACKEND = Backend(name="odd", label="Odd", open=Session, formats=("onnx",), open_traced=Session)
"""


NUMBERS = itertools.count()
"""Modules stay imported: each package has a name of its own."""


@pytest.fixture
def odd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Installs a package whose backend has one fault."""

    def install(fault: str, source: str = PACKAGE) -> None:
        packages, name = tmp_path / "packages", f"odd_{next(NUMBERS)}"
        described = packages / f"{name}-1.0.dist-info"
        described.mkdir(parents=True)
        (packages / f"{name}.py").write_text(source.format(fault=fault) if source is PACKAGE else source)
        (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (described / "entry_points.txt").write_text(f"[splite_deploy.backends]\nodd = {name}:BACKEND\n")
        monkeypatch.syspath_prepend(packages)
        backends.all_backends.cache_clear()

    yield install
    backends.all_backends.cache_clear()


def run(bundle: Bundle) -> dict[str, Any]:
    with open_session(bundle, "odd") as session:
        spec = session.inputs[0]
        feed = np.zeros([size or 1 for size in spec.shape], spec.dtype)
        return dict(session.run({spec.name: feed}))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("open", r"failed to load model\.onnx: KeyError: 'no such device'"),
        ("exit", r"failed to load model\.onnx: SystemExit: over"),
        ("inputs", r"opens something whose inputs are no tuple of TensorSpec, for model\.onnx"),
        ("outputs", "opens something whose outputs are no tuple"),
        ("run", r"failed while it ran model\.onnx: RuntimeError: first line\n"),
        ("none", "gives 'heatmap' as NoneType instead of a float32 array"),
        ("list", "gives 'heatmap' as list instead of a float32 array"),
        ("double", "gives 'heatmap' as float64 instead of a float32 array"),
        ("shape", r"gives 'heatmap' in the shape \(1, 5, 16, 11\) instead of 1x5x16x12"),
        ("rank", r"gives 'heatmap' in the shape \(5, 16, 12\) instead of 1x5x16x12"),
        ("nan", r"gives 'heatmap' with values that are not finite"),
        ("inf", r"gives 'heatmap' with values that are not finite"),
        ("name", r"gives the outputs \['depth', 'other'\] instead of \['depth', 'heatmap'\]"),
        ("tuple", r"gives tuple instead of \['depth', 'heatmap'\]"),
        ("close", r"failed while it closed model\.onnx: OSError: device lost"),
    ],
)
def test_what_it_does_wrong_is_said(odd: Callable[[str], None], tiny_bundle: Path, fault: str, message: str) -> None:
    odd(fault)
    with pytest.raises(BackendError, match=rf"^The backend 'odd' {message}") as caught:
        run(Bundle.open(tiny_bundle))
    assert "a fault of the package that brings it" in caught.value.hint and "\n" not in caught.value.message


def test_an_estimator_says_it_too(odd: Callable[[str], None], tiny_bundle: Path) -> None:
    odd("nan")
    estimator = PoseEstimator.open(tiny_bundle, "odd")
    with pytest.raises(BackendError, match="The backend 'odd' gives 'heatmap' with values that are not finite"):
        estimator(np.zeros((64, 48, 3), np.uint8))


def test_one_without_a_fault_runs(odd: Callable[[str], None], tiny_bundle: Path) -> None:
    odd("")
    assert set(run(Bundle.open(tiny_bundle))) == {"heatmap", "depth"}


@pytest.mark.parametrize(
    ("fault", "message"),
    [("layers", "tells layers that are no tuple of Layer"), ("", "failed to tell its layers: NotImplementedError")],
)
def test_layers(odd: Callable[[str], None], tiny_bundle: Path, fault: str, message: str) -> None:
    odd(fault)
    bundle = Bundle.open(tiny_bundle)
    session = open_traced(backends.find_backend("odd"), ModelFile.of(bundle, bundle.find()))
    with pytest.raises(BackendError, match=f"The backend 'odd' {message}"):
        session.layers()


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("name='odd', label=3, formats=('onnx',)", "its name, label or another text is none"),
        ("name='', label='Odd', formats=('onnx',)", "its name, label or another text is none"),
        ("name='odd', label='Odd', formats='onnx'", "its formats are no tuple of texts"),
        ("name='odd', label='Odd', formats=('onnx',), suffixes=['.x']", "its suffixes or distributions are no mapping"),
        ("name='odd', label='Odd', formats=('onnx',), options=dict", "its options are not derived from BackendOptions"),
        ("name='odd', label='Odd', formats=('onnx',), options=range", "its options have no defaults"),
    ],
)
def test_a_description_that_is_none(odd: Callable[..., None], given: str, problem: str) -> None:
    odd("", f"from splite_deploy.runtime.backends.base import Backend\nBACKEND = Backend({given}, open=print)\n")
    with pytest.raises(BackendError, match=rf"The backend 'odd' cannot be loaded: odd_\d+:BACKEND: {problem}"):
        backends.find_backend("odd")


def test_a_module_of_a_package_that_is_not_there(odd: Callable[..., None]) -> None:
    odd(
        "",
        "from splite_deploy.runtime.backends.base import Backend\n"
        "BACKEND = Backend(name='odd', label='Odd', formats=('onnx',), open=print, modules=('missing.part',))\n",
    )
    assert not backends.find_backend("odd").installed
