"""The view of a network in numpy: for files that stay as they are. `splite_deploy.spec.view` says what a view is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import Artifact, TensorSpec
from splite_deploy.bundle.report import Layer
from splite_deploy.decoders import check_shapes, layouts_of
from splite_deploy.errors import BackendError
from splite_deploy.runtime.backends.base import BaseSession, IoSignature
from splite_deploy.runtime.backends.placement import Placement
from splite_deploy.runtime.layout import PIXELS_FIRST, PLANES_FIRST, to_pixels, to_planes
from splite_deploy.spec import ModelSpec
from splite_deploy.spec.view import DTYPES, IMAGE, Dtype, InputView, Steps, View, choose, no_tensor

if TYPE_CHECKING:
    from splite_deploy.runtime.session import Session, TracedSession

_LIMIT = np.float32(80)
"""Beyond it the exponential of float32 overflows, and a sigmoid is 0 or 1."""

_NO_TENSORS = ("seq(", "map(", "optional(", "sparse_tensor(")
"""How ONNX Runtime's names of other types begin."""


def network_input(view: InputView, image: FloatArray, dtype: str | None = None) -> Feed:
    """The image as the network takes it.

    Args:
        view: How.
        image: (N, C, h, w) float32, normalised.
        dtype: Of the result, where it is another one than the view's: a session may take float32 for float16.
    """
    steps = view.steps(image.shape[1:])
    if steps.axes == PIXELS_FIRST and image.flags.c_contiguous:
        turned: FloatArray = np.empty((len(image), *image.shape[2:], image.shape[1]), np.float32)
        to_pixels(image, turned)
        turned = turned.reshape(len(image), *steps.reshape)
    else:
        turned = image.transpose(steps.axes).reshape(len(image), *steps.reshape)
    return np.ascontiguousarray(_cast(turned, view.dtype).astype(dtype or view.dtype, copy=False))


def _cast(values: FloatArray, dtype: Dtype) -> NDArray[Any]:
    """Rounds to the nearest number of the type, half to even, and clips to its range."""
    if not np.issubdtype(dtype, np.integer):
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)


def canonical_output(steps: Steps, values: NDArray[Any]) -> FloatArray:
    """An output of the network, batch first, as the decoder reads it."""
    given: FloatArray = values.astype(np.float32, copy=False).reshape(len(values), *steps.reshape)
    plain = steps.axes == PLANES_FIRST and given.flags.c_contiguous
    made: FloatArray = to_planes(given) if plain else given.transpose(steps.axes)
    for axis, begin, end in steps.slices:
        made = made[(slice(None),) * axis + (slice(begin, end),)]
    if steps.columns is not None:
        made = made[..., list(steps.columns)]
    if steps.activation == "sigmoid":
        if steps.activated is None:
            made = _sigmoid(made)
        elif steps.activated:
            made = made.copy()
            made[..., list(steps.activated)] = _sigmoid(made[..., list(steps.activated)])
    return np.ascontiguousarray(made)


def _sigmoid(values: FloatArray) -> FloatArray:
    made: FloatArray = 1 / (1 + np.exp(-np.clip(values, -_LIMIT, _LIMIT)))
    return made


class Viewing:
    """What a network gives to what the decoder reads, again and again; steps are planned once for each set of shapes.

    Args:
        view: How.
        model: Its decoder says what is read.
    """

    def __init__(self, view: View, model: ModelSpec) -> None:
        self._view, self._model = view, model
        self._steps: dict[str, tuple[tuple[int, ...], Steps]] = {}

    def __call__(self, outputs: Mapping[str, NDArray[Any]]) -> dict[str, FloatArray]:
        """The decoder's outputs by role.

        Args:
            outputs: Of the network by name, in its order.

        Raises:
            BackendError: An output is missing, or its shape does not fit the view.
        """
        chosen, _ = choose(outputs, self._view, self._model, BackendError)
        return {role: canonical_output(self.steps(role, values.shape[1:]), values) for role, values in chosen.items()}

    def steps(self, role: str, shape: tuple[int, ...]) -> Steps:
        """The steps for an output of this shape, batch left out."""
        known = self._steps.get(role)
        if known is None or known[0] != shape:
            model = self._model
            one = self._view.output(role)
            steps = one.steps(role, model.decoder, model.keypoint_count, model.input, shape, BackendError)
            known = self._steps[role] = shape, steps
        return known[1]


def apply_view(view: View, outputs: Mapping[str, NDArray[Any]], model: ModelSpec) -> dict[str, FloatArray]:
    """What a network gives, by name and in its order, as the decoder reads it, by role; see `Viewing`."""
    return Viewing(view, model)(outputs)


class ViewedSession(BaseSession):
    """A session of a file that takes and gives its tensors in another way than the decoder: applies a view around it.

    It takes ``image`` (N, C, h, w) float32 and gives the decoder's outputs, named by their roles, as any session of an
    exported graph does. A file for several crops alone takes any number here: they are run in groups of its size, of
    which the last is filled up.

    Args:
        session: Of the file, with its tensors as the file has them; closed with this one.
        view: How its tensors lie.
        model: The model.

    Raises:
        BackendError: The file's input is not what the view says, or has not the size of the model's. Outputs whose
            shapes are known are compared as well.
    """

    def __init__(self, session: Session, view: View, model: ModelSpec) -> None:
        self._session, self._view, self._model = session, view, model
        self._viewing = Viewing(view, model)
        self._source = self._find_input()
        batch = self._source.shape[0]
        self._group = batch if batch is not None and batch > 1 else None
        held = self._shapes(batch)
        batch, layouts = None if self._group else batch, layouts_of(model.decoder)
        inputs = (TensorSpec("image", (batch, *model.input.planes), "float32", IMAGE, "image"),)
        outputs = tuple(
            TensorSpec(role, (batch, *shape[1:]), "float32", layouts[role], role) for role, shape in held.items()
        )
        own = session.artifact if isinstance(session, BaseSession) else None
        signature = replace(own, inputs=inputs, outputs=outputs) if isinstance(own, Artifact) else None
        super().__init__(signature or IoSignature(inputs, outputs))

    def _find_input(self) -> TensorSpec:
        """The input that takes the image."""
        inputs, source = self._session.inputs, self._view.input.source
        named = [one for index, one in enumerate(inputs) if source in (None, one.name, index, index - len(inputs))]
        names = ", ".join(one.name for one in inputs)
        if len(inputs) != 1 or len(named) != 1:
            what = "which [inputs.image] does not name" if len(inputs) == 1 else "and not one"
            raise BackendError(
                f"The network takes the input{'s'[: len(inputs) != 1]} {names}, {what}.",
                hint="Correct source in [inputs.image] of model.toml; the image has to be the only input.",
            )
        wanted = self._view.input.shape(self._model.input.planes)
        (found,) = named
        fits = len(found.shape) == 1 + len(wanted) and all(
            size is None or size == want for size, want in zip(found.shape[1:], wanted, strict=True)
        )
        # A session that takes halves as float32 is one for float16. Whole numbers it gives as the file holds them.
        kinds = ("float32", "float16") if self._view.input.dtype == "float16" else (self._view.input.dtype,)
        if not fits or found.dtype not in kinds:
            shown = "x".join("N" if size is None else str(size) for size in found.shape)
            said = "x".join(map(str, wanted))
            hint = "Correct layout and dtype in [inputs.image] of model.toml, or the size in [input]."
            channels, *size = self._model.input.planes
            if found.shape[1:] == (*size, channels) and self._view.input.layout == IMAGE:
                hint = 'Write layout = "NHWC" into [inputs.image] of model.toml.'
            elif fits and found.dtype in DTYPES:
                hint = f'Write dtype = "{found.dtype}" into [inputs.image] of model.toml.'
            raise BackendError(
                f"The network's input '{found.name}' is {found.dtype} {shown}; model.toml says "
                f"{self._view.input.dtype} Nx{said}.",
                hint=hint,
            )
        return found

    def _shapes(self, batch: int | None) -> dict[str, tuple[int | None, ...]]:
        """What the session will give by role, found with a blank image where the file does not tell."""
        known = {one.name: one.shape for one in self._session.outputs}
        if any(None in shape[1:] for shape in known.values()):
            blank = np.zeros((batch or 1, *self._model.input.planes), np.float32)
            known = {name: getattr(values, "shape", ()) for name, values in self._run(blank).items()}
        made = {}
        ones = {name: np.broadcast_to(np.float32(0), (batch or 1, *_whole(shape[1:]))) for name, shape in known.items()}
        kinds = {one.name: one.dtype for one in self._session.outputs}
        for role, values in choose(ones, self._view, self._model, BackendError)[0].items():
            name = next(name for name, one in ones.items() if one is values)
            if kinds[name].startswith(_NO_TENSORS):
                raise no_tensor(name, role, BackendError)
        for role, values in self._viewing(ones).items():
            made[role] = (batch, *values.shape[1:])
        check_shapes(made, self._model)
        return made

    def _run(self, image: FloatArray) -> dict[str, FloatArray]:
        feed = network_input(self._view.input, image, self._source.dtype)
        return self._session.run({self._source.name: feed})

    def _infer(self, feeds: Mapping[str, Feed]) -> dict[str, FloatArray]:
        image = feeds["image"]
        if self._group is None:
            return self._viewing(self._run(image))
        groups = []
        for start in range(0, len(image), self._group):
            part = image[start : start + self._group]
            filled = np.concatenate([part, np.repeat(part[-1:], self._group - len(part), axis=0)])
            found = self._viewing(self._run(filled))
            groups.append({role: values[: len(part)].copy() for role, values in found.items()})
        return {role: np.concatenate([group[role] for group in groups]) for role in groups[0]}

    def placements(self) -> tuple[Placement, ...]:
        """See `splite_deploy.runtime.session.Placed`."""
        return self._session.placements() if isinstance(self._session, BaseSession) else ()

    def _release(self) -> None:
        self._session.close()


class TracedViewedSession(ViewedSession):
    """A viewed session that tells the layers of the file."""

    def __init__(self, session: TracedSession, view: View, model: ModelSpec) -> None:
        super().__init__(session, view, model)
        self._traced = session

    def layers(self) -> tuple[Layer, ...]:
        """See `splite_deploy.runtime.session.TracedSession.layers`."""
        return self._traced.layers()


def _whole(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    return tuple(1 if size is None else size for size in shape)
