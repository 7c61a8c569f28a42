"""Inputs of TensorRT's own calibrators: a float graph of the bundle, and images as the runtime prepares them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from splite_deploy.bundle import Bundle, Graph
from splite_deploy.compile.tensorrt.job import CalibrationInputs, Calibrator
from splite_deploy.errors import CalibrationError, SpliteError, UsageError
from splite_deploy.files import writing
from splite_deploy.metrics.parity import limits_of
from splite_deploy.runtime.crops import Unreadable
from splite_deploy.runtime.io.images import boxed_images, read_image
from splite_deploy.runtime.preprocess import Preprocessor, check_box

LEAST, MOST = 8, 500
"""Number of images: fewer do not show the ranges (export has the same limit), more take long and add little."""
_SEED = 1


def float_graph(bundle: Bundle) -> Graph:
    """The float graph for weakly typed builders, described as one for an int8 engine.

    Its limits are those of the bundle's own int8 graph, or else those that export would set.

    Raises:
        UsageError: The bundle has none.
    """
    graphs = {graph.precision: graph for graph in bundle.manifest.graphs if graph.typing == "weak"}
    found = graphs.get("fp16") or graphs.get("fp32")
    if found is None:
        raise UsageError(
            f"The bundle {bundle.path} holds no float graph for a calibrator.",
            hint="Export it with: -b trt -p fp16. Or leave --calibrator and --calibration out: the graph that "
            "'export -b trt -p int8' makes has its own scales.",
        )
    limits = graphs["int8"].limits if "int8" in graphs else limits_of("int8", bundle.model)
    return replace(found, precision="int8", limits=limits)


def write_inputs(
    bundle: Bundle,
    graph: Graph,
    source: Path,
    calibrator: Calibrator,
    folder: Path,
    progress: Callable[[str, float], None],
) -> CalibrationInputs:
    """Turns images into inputs of the graph, by the code of the runtime, and writes them to one file.

    Args:
        bundle: Names the preprocessing.
        graph: Of `float_graph`.
        source: A folder of images (each one whole), a ``labels.json`` (by its boxes, of the split ``train`` if there is
            one), or a folder that holds one.
        calibrator: The calibrator that will read them.
        folder: Where the file goes.
        progress: Called with the step and the share that is done.

    Raises:
        UsageError: There are no images, or one cannot be used.
        CalibrationError: There are too few.
        OutputError: The file cannot be written.
    """
    whole = bundle.model.input.letterbox is not None
    turn = bundle.model.input.turn
    items, origin = boxed_images(source, MOST, split="train", option="--calibration", whole=whole, turn=turn)
    if len(items) < LEAST:
        raise CalibrationError(
            f"There are {origin} to calibrate on; at least {LEAST} are needed.",
            hint="Name more with --calibration: some hundred pictures like those the network will see.",
        )
    spec = bundle.model.input
    preprocessor = Preprocessor(spec, "bgr")
    like = preprocessor.feed(np.zeros((1, spec.height, spec.width, spec.channels), np.uint8), graph.inputs[0])
    file = folder / "calibration.npy"
    unreadable, written = Unreadable(len(items)), 0
    with writing(file), file.open("wb") as stream:  # one by one: together they may not fit into a Jetson's memory
        stream.write(_npy_header(like.dtype, (len(items), *like.shape[1:])))
        # Sets are often sorted, and the entropy calibrator's histograms depend on the order.
        for done, index in enumerate(np.random.default_rng(_SEED).permutation(len(items))):
            progress("int8: reading images to calibrate on", done / len(items))
            path, box = items[index]
            try:
                image = read_image(path)
            except UsageError as err:
                unreadable.add(err)
                continue
            try:
                crop, _ = preprocessor.crop(image, check_box(box, image.shape[0], image.shape[1]))
            except SpliteError as err:
                raise UsageError(f"{path}: {err.message}", hint=err.hint) from err
            stream.write(preprocessor.feed([crop], graph.inputs[0]).tobytes())
            written += 1
        if written < LEAST:
            raise CalibrationError(
                f"Only {written} of {origin} can be read; at least {LEAST} are needed.",
                hint="Name more with --calibration: some hundred pictures like those the network will see.",
            )
        stream.seek(0)
        stream.write(_npy_header(like.dtype, (written, *like.shape[1:])))
    return CalibrationInputs(calibrator, str(file), "; ".join([origin, *unreadable.warnings()]))


def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header of an .npy file, version 1.0, of the same length for any number of items: it is written again."""
    text = repr({"descr": dtype.str, "fortran_order": False, "shape": shape})
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 502) + text.ljust(501).encode() + b"\n"
