"""What a decoder rounds is no deviation of a conversion: limits make room for it, and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from splite_deploy.decoders import Argmax, Dark, Decoder, SimCC, SoftArgmaxWindow
from splite_deploy.metrics.parity import compare, limits_of, violations
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

COUNT, WIDTH, HEIGHT, STRIDE = 40, 96, 128, 4
QUARTER = Argmax(STRIDE, "centre", "quarter")
WHOLE = Argmax(STRIDE, "udp", "none")
BINS = SimCC(2.0, "none")


def model(decoder: Decoder) -> ModelSpec:
    grey = (127.5, 127.5, 127.5)
    names = tuple(f"k{i}" for i in range(COUNT))
    return ModelSpec("test", InputSpec(HEIGHT, WIDTH, "rgb", grey, grey, 1.25, 0), decoder, SkeletonSpec(names, ()))


def drawn(decoder: Decoder, places: NDArray[np.float64]) -> dict[str, NDArray[np.float32]]:
    """Gaussians at places (N, K, 2), pixels, of two cells or two pixels."""
    found = {}
    axes = [np.exp(-((np.arange(0, size) - places[..., i, None]) ** 2) / 128) for i, size in enumerate((WIDTH, HEIGHT))]
    if isinstance(decoder, SimCC):
        for role, size, i in (("simcc_x", WIDTH, 0), ("simcc_y", HEIGHT, 1)):
            bins = np.arange(2 * size) / 2
            found[role] = np.exp(-((bins - places[..., i, None]) ** 2) / 8)
    else:
        columns, rows = (axis[..., ::STRIDE] for axis in axes)
        found["heatmap"] = rows[..., :, None] * columns[..., None, :]
    return {role: values.astype(np.float32) for role, values in found.items()}


@pytest.mark.parametrize(
    ("decoder", "expected"),
    [
        (QUARTER, 2 * 2**0.5),
        (WHOLE, float(np.hypot((WIDTH - 1) / (WIDTH / STRIDE - 1), (HEIGHT - 1) / (HEIGHT / STRIDE - 1)))),
        (BINS, 0.5 * 2**0.5),
        (SimCC(2.0, "dark", blur_kernel=7), 0.0),
        (Dark(STRIDE, "centre", 11), 0.0),
        (SoftArgmaxWindow(STRIDE, "centre", 10.0, 9), 0.0),
    ],
    ids=str,
)
def test_what_a_decoder_rounds(decoder: Decoder, expected: float) -> None:
    """The most that a shift of the targets too small to be seen moves a keypoint; some shift moves one as far."""
    spec = model(decoder)
    assert decoder.rounding_px(spec.input) == pytest.approx(expected)
    # Where a shift decides, on both axes at once: between two cells or bins and at their centres
    rng = np.random.default_rng(0)
    at = rng.integers(6, 12, (16, COUNT, 2)) * STRIDE + rng.integers(0, 17, (16, COUNT, 1)) / 4
    before, after = (drawn(decoder, at + shift) for shift in (-1e-3, 1e-3))
    parity = compare("shifted", before, after, spec, "drawn")
    assert parity.deviation_px.max <= expected + 0.02
    assert parity.deviation_px.max >= 0.99 * expected
    assert not violations(parity, limits_of("int8", spec), spec)


def test_limits_of_others_stay() -> None:
    for precision, p95, most in (("fp32", 0.01, 0.05), ("fp16", 0.0512, 0.3072), ("int8", 0.512, 3.072)):
        smooth, rounding = (limits_of(precision, model(one)) for one in (Dark(STRIDE, "centre", 11), QUARTER))  # type: ignore[arg-type]
        assert (smooth.shift_p95_px, smooth.shift_max_px) == pytest.approx((p95, most))
        more = 2 * 2**0.5
        assert rounding.shift_max_px == pytest.approx(most + more)
        assert rounding.shift_p95_px == pytest.approx(p95 + (more if precision == "int8" else 0))
