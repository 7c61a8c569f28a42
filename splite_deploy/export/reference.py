"""What every step of a conversion is compared with: the original network's outputs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from splite_deploy.errors import ParityError
from splite_deploy.export.graph.walk import Array
from splite_deploy.export.quant.search import Shift, measure_shift
from splite_deploy.metrics.parity import Outputs, violations
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.session import Feed, Session
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import LimitSpec, ModelSpec


@dataclass(frozen=True)
class Reference:
    """The original network on a few inputs.

    Attributes:
        name: ``torch``, or ``onnx`` for a given graph.
        spec: The model.
        pixels: (N, h, w, 3) uint8 crops.
        tensors: (N, 3, h, w) the same, normalised.
        outputs: Outputs of the original network on them, by role.
        crops_from: Where the inputs come from, in words.
    """

    name: str
    spec: ModelSpec
    pixels: NDArray[np.uint8]
    tensors: Array
    outputs: Outputs
    crops_from: str

    def feed(self, session: Session) -> Feed:
        """The inputs as a session takes them, N first."""
        image = session.inputs[0]
        if image.dtype == "float32":
            return self.tensors
        return Preprocessor(self.spec.input, self.spec.input.color).feed(self.pixels, image)

    def compare(self, step: str, session: Session, limits: LimitSpec, hint: str) -> Shift:
        """Runs a session on the inputs; closes it.

        Raises:
            ParityError: It lies over the limits.
        """
        try:
            measured = measure_shift(self.outputs, run_each(session, self.feed(session)), self.spec)
        finally:
            session.close()
        hop = f"{self.name} -> {step}"
        shift = replace(measured, parity=replace(measured.parity, stage=hop, crops_from=self.crops_from))
        broken = violations(shift.parity, limits, self.spec)
        if shift.peak_switches and broken:
            broken.append(f"{shift.peak_switches} heatmap peaks lie elsewhere")
        if broken:
            raise ParityError(
                f"{hop} changed the result on {shift.parity.crops} crops: {'; '.join(broken)}.",
                hint=f"Nothing was written. {hint}",
            )
        return shift
