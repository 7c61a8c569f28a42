"""Runs a network on a few pictures and says what it takes and gives: what `init` writes down and `inspect` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.errors import SpliteError, UsageError
from splite_deploy.init.network import Network
from splite_deploy.init.recognise import NO_HINTS, Given, Hints, Reading, recognise
from splite_deploy.runtime.file_facts import TensorFacts
from splite_deploy.runtime.io.images import boxed_images, read_image
from splite_deploy.runtime.preprocess import Preprocessor, check_box
from splite_deploy.runtime.view import network_input
from splite_deploy.spec.model import InputColor, InputSpec
from splite_deploy.spec.plain import to_plain
from splite_deploy.spec.view import DTYPES, Dtype, InputView, Source

SIZES = (
    *((256, 192), (256, 256), (192, 192), (224, 224), (128, 128), (384, 288), (128, 96)),
    *((640, 640), (320, 320), (416, 416), (368, 368), (512, 512)),
)
"""Height and width that published networks take, tried where neither file nor user tells."""
_PICTURES = 3
_IMAGES = 8
_SIDE = 320

Scale = Literal["raw", "unit", "signed", "imagenet"]
_SCALES: dict[Scale, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "raw": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "signed": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}


@dataclass(frozen=True)
class Normalised:
    """How pixels become numbers.

    Attributes:
        color: Channel order.
        mean: On the 0-255 scale.
        std: The same.
        because: What says so; empty where it was assumed, so that the network could be run.
    """

    color: InputColor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    because: str


@dataclass(frozen=True)
class Looked:
    """What was learnt of a network by running it.

    Attributes:
        form: What holds it, as text.
        image: Its input, in the network's own layout and type.
        view: How it takes the image.
        channels: Of the image.
        size: (H, W) that it was run with.
        size_from: What says so; empty where it was assumed, so that the network could be run.
        normalised: How pixels became numbers.
        reading: What its outputs are; None where they are like nothing known.
        given: Its outputs, each as text.
        outputs: Its outputs themselves.
        notes: What was done while loading.
    """

    form: str
    image: TensorFacts
    view: InputView
    channels: int
    size: tuple[int, int]
    size_from: str
    normalised: Normalised
    reading: Reading | None
    given: tuple[str, ...]
    outputs: tuple[Given, ...]
    notes: tuple[str, ...]

    @property
    def sources(self) -> tuple[Source, ...]:
        """What calls the outputs, in their order."""
        return tuple(one.source for one in self.outputs)

    def to_plain(self) -> dict[str, Any]:
        """As JSON, without the outputs' numbers."""
        shown = (one.name for one in fields(self) if one.name != "outputs")
        return {name: to_plain(getattr(self, name)) for name in shown}


def look(
    network: Network,
    *,
    size: tuple[int, int] | None = None,
    usual: tuple[int, int] | None = None,
    normalised: Normalised | None = None,
    images: Path | None = None,
    hints: Hints = NO_HINTS,
    progress: Callable[[str], None] = lambda message: None,
) -> Looked:
    """Runs a network and reads its outputs.

    Args:
        network: The network.
        size: (H, W) of its input, as the user says; None where the file tells, or nobody.
        usual: (H, W) that the family has, taken where the file leaves it open.
        normalised: How the family takes pixels; None where it is not known.
        images: A folder or labels file of images to run it on, beside pictures made here.
        hints: What the user has said of the outputs.
        progress: Called with each step as it begins.

    Raises:
        UsageError: The input is no image, or has another size than the user says; no size is known that it takes.
        SpliteError: The network cannot be run.
    """
    image = network.image
    view, channels, held = _image_of(image)
    if size is not None and any(known not in (None, asked) for known, asked in zip(held, size, strict=True)):
        raise UsageError(
            f"The network takes {_shown(held)}, not {_shown(size)}.", hint="Leave out --input: the file tells it."
        )
    wanted = size or (held if None not in held else usual)
    told = _assumed(network, view, channels)
    if normalised is not None and channels == 1:
        normalised = Normalised("gray", normalised.mean[:1], normalised.std[:1], "")
    if normalised is not None:  # integers tell how they are made, and a family is trained before they are
        told = replace(told, color=normalised.color) if told.because else normalised

    def run(tried: tuple[int, int], pictures: Iterable[tuple[NDArray[np.uint8], Any]]) -> tuple[Given, ...]:
        spec = InputSpec(tried[0], tried[1], told.color, told.mean, told.std, 1.25, 0)
        prepare = Preprocessor(spec, "bgr")
        rows: list[list[tuple[Any, FloatArray]]] = []
        for picture, box in pictures:
            crop, _ = prepare.crop(picture, check_box(box, *picture.shape[:2]))
            rows.append(network.run(network_input(view, prepare.normalise([crop]), image.dtype)))
        return _stacked(rows)

    pictures: list[tuple[NDArray[np.uint8], Any]] = [(picture, None) for picture in made_pictures(_PICTURES)]
    if images is not None:
        files, _ = boxed_images(images, _IMAGES)
        pictures += [(read_image(file), box) for file, box in files]
    progress("running the network")
    size_from = "--input" if size else "the file" if None not in held else "the family"
    if wanted is None or None in wanted:
        found, size_from = _try_sizes(run, held, pictures[:1])
        wanted = found
    chosen = (int(wanted[0] or 0), int(wanted[1] or 0))
    given = run(chosen, pictures)
    reading = recognise([replace(one, values=_finite(one.values)) for one in given], chosen, hints)
    _refuse_no_numbers(given, reading)
    return Looked(
        form=network.form,
        image=image,
        view=view,
        channels=channels,
        size=chosen,
        size_from=size_from,
        normalised=told,
        reading=reading,
        given=tuple(map(str, given)),
        outputs=given,
        notes=network.notes,
    )


def _image_of(image: TensorFacts) -> tuple[InputView, int, tuple[int | None, int | None]]:
    """How the network takes an image: the view, the channels, height and width as far as they are known."""
    shape = image.shape
    if image.dtype not in DTYPES:
        raise UsageError(
            f"The network's input is {image.dtype} ({image}).", hint=f"Give one that takes {', '.join(DTYPES)}."
        )
    dtype: Dtype = next(one for one in DTYPES if one == image.dtype)
    if len(shape) == 4:
        first, last = shape[1], shape[3]
        if last in (1, 3) and first not in (1, 3):
            return InputView(None, "NHWC", dtype), int(last), (shape[1], shape[2])
        if first in (None, 1, 3):
            return InputView(None, "NCHW", dtype), 3 if first is None else int(first), (shape[2], shape[3])
    elif len(shape) == 3 and shape[1] not in (1, 2, 3) and shape[2] not in (1, 2, 3):
        return InputView(None, "NHW", dtype), 1, (shape[1], shape[2])
    raise UsageError(
        f"The network's input is no image: {image}.",
        hint="An image has four axes, one of them of 3 or 1 channels; give the network that reads the picture.",
    )


def _assumed(network: Network, view: InputView, channels: int) -> Normalised:
    """How pixels become numbers, from what an integer input stands for; assumed elsewhere."""
    scale: Scale = "unit" if view.layout == "NHWC" else "imagenet"
    because = ""
    if view.dtype in ("uint8", "int32"):
        scale, because = "raw", f"the input is {view.dtype}"
    elif network.stands_for is not None:
        low, high = network.stands_for
        near: dict[Scale, tuple[int, int]] = {"raw": (0, 255), "unit": (0, 1), "signed": (-1, 1)}
        for name, (begin, end) in near.items():
            if abs(low - begin) < 0.02 * (end - begin) and abs(high - end) < 0.02 * (end - begin):
                scale = name
                because = f"the input's integers stand for {low:.3g} to {high:.3g}"
    mean, std = _SCALES[scale]
    return Normalised("gray" if channels == 1 else "rgb", mean[:channels], std[:channels], because)


def _try_sizes(
    run: Callable[..., tuple[Given, ...]],
    held: tuple[int | None, int | None],
    pictures: Sequence[tuple[NDArray[np.uint8], Any]],
) -> tuple[tuple[int, int], str]:
    """A size that the network takes, and what says that it is the size: that it takes no other."""
    taken: list[tuple[int, int]] = []
    refused: SpliteError | None = None
    for tried in SIZES:
        if any(known not in (None, size) for known, size in zip(held, tried, strict=True)):
            continue
        try:
            run(tried, pictures)
        except SpliteError as err:
            refused = err
            continue
        taken.append(tried)
        if len(taken) > 1:
            return taken[0], ""
    if taken:
        return taken[0], f"it takes none of {len(SIZES) - 1} other usual sizes"
    raise UsageError(
        f"The network takes none of {len(SIZES)} usual sizes" + (f": {refused.message}" if refused else "."),
        hint="Give the size that it was built for with --input HxW.",
    )


def made_pictures(count: int) -> list[NDArray[np.uint8]]:
    """Pictures of ellipses before a gradient, the last of them noise alone: (H, W, 3)."""
    made = []
    for index in range(count):
        rng = np.random.default_rng([7, index])
        picture = rng.integers(0, 256, (_SIDE, _SIDE, 3)).astype(np.uint8)
        if index + 1 < count:
            top, bottom = rng.integers(0, 256, (2, 3))
            gradient = np.linspace(top, bottom, _SIDE)[:, None]
            picture = np.repeat(gradient, _SIDE, axis=1).astype(np.uint8)
            for _ in range(8):
                centre, axes = rng.integers(0, _SIDE, 2).tolist(), rng.integers(10, 90, 2).tolist()
                shade = rng.integers(0, 256, 3).tolist()
                cv2.ellipse(picture, (centre, axes, float(rng.uniform(0, 180))), shade, -1, cv2.LINE_AA)
        made.append(picture)
    return made


def _stacked(rows: Sequence[Sequence[tuple[Any, FloatArray]]]) -> tuple[Given, ...]:
    """The outputs of all runs, joined along the batch.

    Raises:
        UsageError: An output has another shape for another picture.
    """
    joined = []
    for outputs in zip(*rows, strict=True):
        source, shapes = outputs[0][0], {values.shape for _, values in outputs}
        if len(shapes) > 1:
            raise UsageError(
                f"The network's output {source} has the shapes {', '.join(map(str, sorted(shapes)))} for pictures of "
                "one size.",
                hint="Give the network without what sorts out results behind it.",
            )
        batched = outputs[0][1].shape[:1] == (1,)
        arrays = [values if batched else values[None] for _, values in outputs]
        joined.append(Given(source, np.concatenate(arrays), batched))
    return tuple(joined)


def _finite(values: FloatArray) -> FloatArray:
    """With zeros for what is no number, so that shapes can be told."""
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _refuse_no_numbers(given: Sequence[Given], reading: Reading | None) -> None:
    """Raises where an output that is read holds what is no number; any, where nothing is read.

    Raises:
        UsageError: It does.
    """
    used = None if reading is None else [view.source for view in reading.outputs.values()]
    broken = [one for one in given if not np.isfinite(one.values).all()]
    for one in broken:
        if used is None or one.source in used:
            count = sum(not np.isfinite(values).all() for values in one.values)
            raise UsageError(
                f"The network's output {one.name} holds NaN or infinite numbers for {count} of {len(one.values)} "
                "pictures.",
                hint="Nothing can be learnt from them. Check the weights and export it again; in float16 a layer may "
                "overflow.",
            )


def _shown(size: tuple[int | None, int | None]) -> str:
    return " x ".join("?" if one is None else str(one) for one in size)
