"""The view of a network in numpy, and the session that applies it around a file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.bundle import TensorSpec
from splite_deploy.decoders import HEADS
from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.base import BaseSession, IoSignature
from splite_deploy.runtime.verify import batch_violations
from splite_deploy.runtime.view import ViewedSession, apply_view, network_input
from splite_deploy.spec import InputView, LimitSpec, ModelSpec, OutputView, View
from splite_deploy.spec.view import Dtype, choose, heads_in
from tests.shared.view_vectors import INPUTS, OUTPUTS, expected, given, input_view_of, model_of, view_of

POINTS = next(case for case in OUTPUTS if case["name"] == "flat pairs")


@pytest.mark.parametrize("case", OUTPUTS, ids=lambda case: case["name"])
def test_outputs(case: dict[str, Any]) -> None:
    role, model, outputs = case["role"], model_of(case), {"any": given(case)}
    if role in HEADS:
        model, outputs = model.with_heads([role]), {"coordinates": np.zeros((1, 1, 2), np.float32), role: given(case)}
    found = apply_view(view_of(case), outputs, model)[role]
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected(case), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", INPUTS, ids=lambda case: case["name"])
def test_inputs(case: dict[str, Any]) -> None:
    view = input_view_of(case)
    found = network_input(view, given(case))
    assert found.dtype == view.dtype
    assert found.flags.c_contiguous
    wanted = expected(case)
    np.testing.assert_allclose(found, wanted.astype(view.dtype), rtol=0, atol=1e-6 if view.dtype == "float32" else 0)


@pytest.mark.parametrize("dtype", ["float16", "int32", "uint8"])
def test_outputs_of_any_type_become_float32(dtype: str) -> None:
    values = np.arange(12).reshape(2, 6).astype(dtype)
    found = apply_view(view_of(POINTS), {"any": values}, model_of(POINTS))["coordinates"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.reshape(2, 6), values)


class Named:
    """An object with attributes, as frameworks return."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Element:
    """As mmengine's data elements: fields behind underscores, given as properties."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update({f"_{name}": value for name, value in fields.items()})

    def keys(self) -> list[str]:
        return [name.removeprefix("_") for name in self.__dict__]

    def __getattr__(self, name: str) -> Any:
        if f"_{name}" not in self.__dict__:
            raise AttributeError(name)
        return self.__dict__[f"_{name}"]


A, B = np.zeros((1, 3, 2)), np.ones((1, 3, 2))


@pytest.mark.parametrize(
    ("outputs", "source"),
    [
        (B, None),
        ([B], None),
        ({"coordinates": B, "extra": A}, None),
        ({"other": B}, None),
        ([A, B], -1),
        ([A, B], 1),
        ((A, [A, B]), (1, -1)),
        ({"a": A, "preds": [A, B]}, ("preds", -1)),
        ({"a": A, "preds": B}, 1),
        (Named(loss=A, points=B), "points"),
        (Named(stages=[A, B]), ("stages", 1)),
        (Element(heatmaps=A, points=B), "points"),
        ([Element(points=B)], (0, "points")),
    ],
)
def test_sources_lead_through_dictionaries_lists_and_objects(outputs: Any, source: Any) -> None:
    view = View(outputs={} if source is None else {"coordinates": OutputView(source)})
    assert choose(outputs, view, model_of(POINTS), BackendError)[0]["coordinates"] is B


@pytest.mark.parametrize(
    ("outputs", "source", "message", "hint"),
    [
        ([A, B], None, "The network gives 2 outputs; the decoder 'coordinates' reads 1", "with source = -1."),
        ({"p": [A, B]}, None, "The network gives 1 output: p; the decoder", 'with source = ["p", -1].'),
        ({"x": A, "y": B}, None, "The network gives 2 outputs: x, y; the decoder", 'with source = "y".'),
        ([A], 3, "The network gives 1 output; there is no output 3, which [outputs.coordinates]", "Correct source"),
        ({"a": A}, "b", "The network gives 1 output: a; there is no 'b', which", "Correct source"),
        ({"a": [A]}, ("a", 1), "'a' of the network gives 1 output; there is no output 1", "Correct source"),
        ({"a": [A, B]}, "a", "The source of [outputs.coordinates], 'a', is no tensor", 'as in source = ["a", -1]'),
        ([], None, "The network gives a list without outputs", "so that the graph names its outputs"),
        ({"x": A, "n": np.float32(1), "m": A[:, 0, 0]}, None, "The network gives 3 outputs", 'with source = "x".'),
    ],
)
def test_a_source_that_leads_nowhere_is_told(outputs: Any, source: Any, message: str, hint: str) -> None:
    view = View(outputs={} if source is None else {"coordinates": OutputView(source)})
    with pytest.raises(BackendError) as caught:
        choose(outputs, view, model_of(POINTS), BackendError)
    assert message in caught.value.message
    assert hint in caught.value.hint


class Network(BaseSession):
    """A network of uint8 pixels, channels last, with an output of twice the keypoints' first pixel and an extra one."""

    def __init__(self, dtype: str = "uint8", shape: tuple[int | None, ...] = (None, 4, 5, 3)) -> None:
        inputs = (TensorSpec("pixels", shape, dtype, "abcd", ""),)
        outputs = (TensorSpec("extra", (None, 1), "float32", "ab", ""), TensorSpec("p", (None, 6), "float32", "ab", ""))
        super().__init__(IoSignature(inputs, outputs))
        self.given: list[NDArray[Any]] = []
        self.mixing: Callable[[NDArray[Any]], NDArray[Any]] = lambda image: image

    def _infer(self, feeds: Any) -> dict[str, NDArray[np.float32]]:
        image = self.mixing(feeds["pixels"])
        self.given.append(image)
        flat = image.reshape(len(image), -1)[:, :6].astype(np.float32)
        return {"extra": flat[:, :1], "p": flat}

    def _release(self) -> None:
        pass


VIEW = View(InputView(layout="NHWC", dtype="uint8"), {"coordinates": OutputView("p", "N(KC)")})


def small_model() -> ModelSpec:
    return model_of({**POINTS, "height": 4, "width": 5})


@pytest.mark.parametrize(("dtype", "said"), [("uint8", "uint8"), ("float32", "float16")])
def test_a_session_takes_and_gives_canonical_tensors(dtype: str, said: Dtype) -> None:
    network, view = Network(dtype), View(InputView(layout="NHWC", dtype=said), VIEW.outputs)
    image = np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3)).astype(np.float32)
    with ViewedSession(network, view, small_model()) as session:
        assert session.inputs == (TensorSpec("image", (None, 3, 4, 5), "float32", "NCHW", "image"),)
        assert session.outputs == (TensorSpec("coordinates", (None, 3, 2), "float32", "NKC", "coordinates"),)
        found = session.run({"image": np.ascontiguousarray(image.transpose(0, 3, 1, 2))})
    assert network.given[0].dtype == dtype
    np.testing.assert_array_equal(network.given[0], image)
    np.testing.assert_array_equal(found["coordinates"], image.reshape(2, -1)[:, :6].reshape(2, 3, 2))
    with pytest.raises(BackendError, match="is closed"):
        network.run({})


def test_an_input_of_another_size_or_type_is_told() -> None:
    with pytest.raises(BackendError) as caught:
        ViewedSession(Network(shape=(1, 3, 4, 5)), VIEW, small_model())
    assert "'pixels' is uint8 1x3x4x5; model.toml says uint8 Nx4x5x3" in caught.value.message
    assert "layout and dtype in [inputs.image]" in caught.value.hint
    with pytest.raises(BackendError, match=r"'pixels' is int32 Nx4x5x3; model.toml says uint8 Nx4x5x3"):
        ViewedSession(Network(dtype="int32"), VIEW, small_model())


@pytest.mark.parametrize("said", ["uint8", "int8", "int32"])
def test_a_float_input_takes_no_whole_numbers(said: Dtype) -> None:
    view = View(InputView(layout="NHWC", dtype=said), VIEW.outputs)
    with pytest.raises(BackendError, match=f"'pixels' is float32 Nx4x5x3; model.toml says {said} Nx4x5x3") as caught:
        ViewedSession(Network(dtype="float32"), view, small_model())
    assert caught.value.hint == 'Write dtype = "float32" into [inputs.image] of model.toml.'


def test_an_output_that_does_not_fit_is_told_when_the_session_opens() -> None:
    view = View(VIEW.input, {"coordinates": OutputView("extra", "N(KC)")})
    with pytest.raises(BackendError, match=r"shape \(N, 1\), which is not N\(KC\) with K = 3"):
        ViewedSession(Network(), view, small_model())


def test_a_file_for_several_crops_takes_any_number() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3)).astype(np.float32)
    planes = np.ascontiguousarray(image.transpose(0, 3, 1, 2))
    network = Network(shape=(4, 4, 5, 3))
    with ViewedSession(network, VIEW, small_model()) as session:
        assert session.inputs[0].shape == (None, 3, 4, 5)
        for count in (1, 4, 6):
            network.given.clear()
            found = session.run({"image": planes[:count]})["coordinates"]
            np.testing.assert_array_equal(found, image[:count].reshape(count, -1)[:, :6].reshape(count, 3, 2))
            assert [len(given) for given in network.given] == [4] * -(-count // 4)


def test_a_file_that_mixes_its_crops_is_found_out() -> None:
    network, model = Network(shape=(4, 4, 5, 3)), small_model()
    crops = np.random.default_rng(1).integers(0, 256, (4, 4, 5, 3), np.uint8)
    with ViewedSession(network, View(VIEW.input, {"coordinates": OutputView("p", "N(KC)")}), model) as session:
        assert batch_violations(session, crops, model, LimitSpec()) == []
        network.mixing = lambda image: np.broadcast_to(image.mean(axis=0, keepdims=True), image.shape)
        (said, *_) = batch_violations(session, crops, model, LimitSpec())
    assert said.startswith("keypoint deviation p95 ")


@pytest.mark.parametrize(
    ("outputs", "heads"),
    [
        ({"coordinates": B, "handedness": np.zeros((1, 1)), "presence": np.zeros(1)}, ("presence", "handedness")),
        ({"coordinates": B, "presence": np.zeros((1, 1, 1))}, ("presence",)),
        ({"coordinates": B, "presence": np.zeros((1, 3))}, ()),  # of every keypoint: something else
        ({"coordinates": B, "presence": Named(shape=None)}, ()),
        ({"points": B, "presence": np.zeros((1, 1))}, ()),
        ([B, np.zeros((1, 1))], ()),
    ],
)
def test_heads_that_a_network_names_itself(outputs: Any, heads: tuple[str, ...]) -> None:
    model = model_of(POINTS)
    assert heads_in(outputs, View(), model) == heads
    assert heads_in(outputs, View(), model.with_heads(["presence"])) == tuple(
        head for head in HEADS if head in heads or head == "presence"
    )
    named = View(outputs={"coordinates": OutputView(source=0)})
    assert heads_in(outputs, named, model) == ()  # which names all that is read
