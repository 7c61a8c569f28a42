"""Options of an export, checked as soon as they are given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splite_deploy.bundle.manifest import MOST_PARTS
from splite_deploy.compile.precision import INT8_RECIPES, Int8Recipe
from splite_deploy.errors import OptionError
from splite_deploy.export.crops import GOLDEN_CROPS
from splite_deploy.export.quant.stored_ranges import is_ranges_file
from splite_deploy.runtime.backends import exportable_backends, find_backend
from splite_deploy.runtime.backends.base import Recipe
from splite_deploy.spec import PRECISIONS, Precision

MOST_BUDGET = 1_000
"""Pixels or millimetres by which int8 may be allowed to move keypoints: as far as limits of a ``model.toml``."""


@dataclass(frozen=True)
class ExportOptions:
    """How to export.

    Attributes:
        backends: What the artifacts run on, of `exportable_backends`: ``ort``, ``tflite``, plug-ins; ``trt`` adds
            the graphs that engines are built from.
        precisions: The precisions of each backend; the bundle's first artifact is that of the first of each.
        images: Folder of images or labels file for parity; None uses the model's own renderer.
        crops: Number of crops compared at each stage.
        golden_crops: How many of them the bundle keeps at most, for ``verify`` on another machine; of a small network
            they are most of its bytes.
        calibration: Folder of images, labels file, ``.npz`` of crops or file of ranges for fp16 and int8; None uses the
            ranges that ``model.toml`` names, or the renderer.
        allow_random_calibration: Calibrates on random noise where there is neither ``calibration`` nor a renderer.
        max_shift_px: What int8 may move the 95th percentile of the keypoints by, input pixels; the largest shift may
            be `splite_deploy.metrics.parity.MAX_FACTOR` times as much. Layers return to float until that holds. None
            takes the limits of `splite_deploy.metrics.parity.limits_of`.
        max_shift_mm: What int8 may move the 95th percentile of the depth by, millimetres.
        reduce_range: int8 weights of 7 bits for ONNX Runtime, whose sums saturate with 8 on x86 CPUs without VNNI or
            AMX; costs accuracy. Where 8 bits break the limits on such a CPU, 7 are taken anyway.
        int8_recipe: How int8 is done in TFLite; see `splite_deploy.compile.tflite.compiler.compile_tflite`.
        evaluation: Labels file, or its folder, for the accuracy of every artifact; its split ``val`` if there is one.
        flip_test: Evaluates on the mean of each crop and its mirror image.
        fuse_input: The graphs take uint8 crops (N, h, w, C) and normalise them.
        fuse_decode: The graphs give keypoints instead of heatmaps.
        dynamic_batch: Leaves the batch size of the graph open.
        opset: ONNX operator set; None is 18, or that of an imported ONNX graph.
        weights: Which weights of the checkpoint; see `splite_deploy.export.source.checkpoint.read_checkpoint`.
        trust: Loads a torch.export program or a TorchScript archive, which can run code.
        overwrite: Replaces an existing bundle.
        all_or_nothing: Writes nothing where one artifact fails, instead of the others.
        parts: Into how many files each graph of the backend ``ort`` is cut, which runs one of them at a time, for
            devices with little memory; 1 to `MOST_PARTS`.

    Raises:
        UsageError: They do not fit together.
    """

    backends: tuple[str, ...] = ("ort",)
    precisions: tuple[Precision, ...] = ("fp32",)
    images: Path | None = None
    crops: int = 64
    golden_crops: int = GOLDEN_CROPS
    calibration: Path | None = None
    allow_random_calibration: bool = False
    max_shift_px: float | None = None
    max_shift_mm: float | None = None
    reduce_range: bool = False
    int8_recipe: Int8Recipe = "full-integer"
    evaluation: Path | None = None
    flip_test: bool = False
    fuse_input: bool = False
    fuse_decode: bool = False
    dynamic_batch: bool = False
    opset: int | None = None
    weights: str | None = None
    trust: bool = False
    overwrite: bool = False
    all_or_nothing: bool = False
    parts: int = 1

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise OptionError("At least one crop is needed to compare conversions.", hint="Give --crops 1 or more.")
        if self.golden_crops < 1:
            raise OptionError("At least one golden crop is needed to verify a bundle.", hint="Keep 1 or more.")
        for what, given, known in (
            ("backends", self.backends, exportable_backends()),
            ("precisions", self.precisions, PRECISIONS),
            ("int8 recipe", (self.int8_recipe,), INT8_RECIPES),
        ):
            if not given or not set(given) <= set(known) or len(set(given)) < len(given):
                raise OptionError(
                    f"The requested {what} are: {', '.join(given) or 'none'}.",
                    hint=f"Choose from {', '.join(known)}, each once.",
                )
        if not 1 <= self.parts <= MOST_PARTS:
            raise OptionError(f"A graph is not cut into {self.parts} parts.", hint=f"Give --parts 1 to {MOST_PARTS}.")
        if self.parts > 1 and "ort" not in self.backends:
            raise OptionError(
                "Only ONNX Runtime runs a graph in parts here, and it was not requested.",
                hint="Add -b ort, or leave out --parts.",
            )
        if self.flip_test and self.evaluation is None:
            raise OptionError("A flip test belongs to the evaluation.", hint="Add --eval LABELS, or leave it out.")
        for budget in (self.max_shift_px, self.max_shift_mm):
            if budget is not None and not 0 < budget <= MOST_BUDGET:
                raise OptionError(
                    f"An error budget is a positive number up to {MOST_BUDGET:,}.",
                    hint="Give pixels, millimetres, or both.",
                )
        if self.has_budget and "int8" not in self.precisions:
            raise OptionError(
                "An error budget is for int8, which was not requested.", hint="Add -p int8, or leave out --max-shift-*."
            )
        if self.reduce_range and not self.makes("ort", "int8"):
            raise OptionError(
                "Weights of 7 bits are for int8 in ONNX Runtime, which was not requested.",
                hint="Add -b ort -p int8, or leave out --reduce-range.",
            )
        if self.int8_recipe != "full-integer" and not self.makes("tflite", "int8"):
            raise OptionError(
                f"The recipe {self.int8_recipe} is one of TFLite's int8, which was not requested.",
                hint="Add -b tflite -p int8, or leave out --int8-recipe.",
            )
        if not self.calibrates and (self.calibration is not None or self.allow_random_calibration):
            raise OptionError(
                "Nothing that was requested needs calibration.",
                hint="Leave out --calibration, or add -p int8; of fp16 only that of ort and trt needs it.",
            )

    @property
    def has_budget(self) -> bool:
        """Whether int8 is to keep other limits than the model's."""
        return self.max_shift_px is not None or self.max_shift_mm is not None

    @property
    def calibrates(self) -> bool:
        """Whether anything reads calibration images: ONNX Runtime and TensorRT below fp32, and full-integer TFLite."""
        full_integer = self.makes("tflite", "int8") and self.int8_recipe == "full-integer"
        return full_integer or any(self.makes(one, "fp16", "int8") for one in ("ort", "trt"))

    @property
    def calibration_images(self) -> Path | None:
        """What is calibrated on where that is images, and no file of ranges."""
        named = self.calibration
        return None if named is None or is_ranges_file(named) else named

    @property
    def fuses(self) -> bool:
        """Whether an end of the network goes into its graphs."""
        return self.fuse_input or self.fuse_decode

    def makes(self, recipe: Recipe, *precisions: Precision) -> bool:
        """Whether something was requested that is made so, in one of these precisions; in any without them."""
        wanted = not precisions or not set(precisions).isdisjoint(self.precisions)
        return wanted and any(find_backend(name).export == recipe for name in self.backends)
