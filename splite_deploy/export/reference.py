"""What every stage of a conversion is compared with: the original network's outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import Nobody
from splite_deploy.errors import BackendError, ParityError
from splite_deploy.metrics.parity import Deviation, Outputs, measure_deviation, violations
from splite_deploy.runtime.nobody import finite_crops
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import Session
from splite_deploy.runtime.verify import batch_violations, presence_violations, run_each
from splite_deploy.spec import LimitSpec, ModelSpec

Explain = Callable[[FloatArray], str]
"""From a crop (1, 3, h, w) on which a conversion is wrong to a sentence on where, or nothing."""


def unexplained(crop: FloatArray) -> str:
    """Explains nothing."""
    return ""


_NOT_FINITE = (
    "No limit lets that pass. Look for a layer that ONNX writes in another form than torch, such as logsigmoid(x), "
    "which stays finite as -softplus(-x); in fp16 and int8 for one whose numbers are too large, or leave that "
    "precision out."
)


@dataclass(frozen=True)
class Reference:
    """The original network on a few inputs.

    Attributes:
        name: ``torch``, or ``onnx`` for an imported graph.
        spec: The model.
        pixels: (N, h, w, C) uint8 crops.
        outputs: Outputs of the original network on them, by role.
        crops_from: Where the inputs come from, as text.
        nobody: What it makes of crops that show nobody; only of models with ``presence``.
    """

    name: str
    spec: ModelSpec
    pixels: NDArray[np.uint8]
    outputs: Outputs
    crops_from: str
    nobody: Nobody | None = None

    @cached_property
    def tensors(self) -> FloatArray:
        """(N, C, h, w) the crops, normalised."""
        return Preprocessor(self.spec.input, self.spec.input.color).normalise(self.pixels)

    def feed(self, session: Session) -> Feed:
        """The inputs as a session takes them, N first."""
        image = session.inputs[0]
        if image.dtype == "float32":
            return self.tensors
        return Preprocessor(self.spec.input, self.spec.input.color).feed(self.pixels, image)

    def run(self, session: Session) -> dict[str, FloatArray]:
        """Outputs of a session on the inputs, by role, N first."""
        return run_each(session, self.feed(session), self.spec)

    def measure(self, stage: str, outputs: Outputs) -> Deviation:
        """How far outputs lie from those of the original network; see `compare`."""
        return measure_deviation(
            self.outputs, outputs, self.spec, stage=stage, reference_name=self.name, crops_from=self.crops_from
        )

    def check_finite(self, stage: str, outputs: Outputs, hint: str, explain: Explain = unexplained) -> None:
        """Refuses outputs that hold NaN or infinity; see `compare`.

        Raises:
            ParityError: They do.
        """
        for role, values in outputs.items():
            finite = finite_crops(values)
            if not finite.all():
                raise ParityError(
                    f"{stage} gives NaN or infinity in '{role}' on {int((~finite).sum())} of {len(finite)} crops."
                    + self._explained(explain, int(np.argmin(finite))),
                    hint=hint,
                )

    def compare(
        self, stage: str, outputs: Outputs, limits: LimitSpec, hint: str, explain: Explain = unexplained
    ) -> Deviation:
        """How far outputs lie from those of the original network.

        Args:
            stage: What gave them, for the report.
            outputs: By role, N first; of a graph that decodes, its keypoints.
            limits: How far the keypoints may lie.
            hint: What to do about outputs beyond them.
            explain: Says for a crop on which they are wrong where that begins.

        Raises:
            ParityError: They lie beyond the limits, or are not finite.
        """
        self.check_finite(f"{self.name} -> {stage}", outputs, _NOT_FINITE, explain)
        deviation = self.measure(stage, outputs)
        broken = violations(deviation.parity, limits, self.spec)
        if deviation.peak_switches and broken:
            broken.append(f"{deviation.peak_switches} heatmap peaks lie elsewhere")
        if broken:
            raise ParityError(
                f"{deviation.parity.label} changed the result on {deviation.parity.crops} crops: {'; '.join(broken)}."
                + self._explained(explain, self._worst(outputs)),
                hint=hint,
            )
        return deviation

    def _worst(self, outputs: Outputs) -> int:
        """The crop on which outputs lie farthest from those of the original network; decoded ones are not compared."""
        far = np.zeros(len(self.pixels))
        for role, values in self.outputs.items():
            if role in outputs and outputs[role].shape == values.shape:
                far = np.maximum(far, np.abs(outputs[role] - values).reshape(len(far), -1).max(axis=1))
        return int(far.argmax())

    def _explained(self, explain: Explain, crop: int) -> str:
        said = explain(self.tensors[crop : crop + 1])
        return f" {said}" if said else ""

    def check_session(self, stage: str, session: Session, limits: LimitSpec) -> None:
        """Checks what the crops one by one do not show: several at once, and those that show nobody.

        Args:
            stage: What the session runs, for the message.
            session: It.
            limits: How far the keypoints may lie.

        Raises:
            ParityError: They lie beyond the limits: the crops of a batch mix; or ``presence`` does where nobody is.
            BackendError: Several crops at once cannot be run.
        """
        if broken := presence_violations(session, self.nobody, self.spec, limits):
            raise ParityError(
                f"{self.name} -> {stage} is right where somebody is and wrong elsewhere: {'; '.join(broken)}.",
                hint="In int8 calibrate on pictures without anybody, too: a layer before 'presence' cannot give what "
                "none of them showed. If the deviation is acceptable, raise head_p95 in [limits] of model.toml; "
                "otherwise leave that precision out.",
            )
        try:
            broken = batch_violations(session, self.pixels, self.spec, limits)
        except BackendError as err:
            raise BackendError(
                f"{self.name} -> {stage} runs one crop and fails on several at once: {err.message}",
                hint="Look in forward() for a number that stands for the batch, such as the 1 of reshape(1, ...); or "
                "leave out --dynamic-batch.",
            ) from err
        if broken:
            raise ParityError(
                f"{self.name} -> {stage} is right for one crop and wrong for several at once: {'; '.join(broken)}.",
                hint="Look in forward() for a number that stands for the batch, such as the 1 of reshape(1, ...), and "
                "for means over the batch; or leave out --dynamic-batch.",
            )
