"""The decoders' torch modules: the shared vectors, a decoder for each module, and gradients."""

from __future__ import annotations

from typing import Any

import pytest
from decode_vectors import CASES, assert_expected, outputs_of, spec_of

torch = pytest.importorskip("torch")

from splite_deploy.decoders import DECODERS, Coordinates, SoftArgmaxDepth, decode
from splite_deploy.decoders.torch import MODULES, make_module
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec


def test_every_decoder_has_a_module() -> None:
    assert set(MODULES) == set(DECODERS.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_vector(case: dict[str, Any]) -> None:
    spec = spec_of(case)
    tensors = [torch.from_numpy(array) for array in outputs_of(case).values()]
    values = make_module(spec.decoder, spec.keypoint_count, spec.input)(*tensors)
    assert_expected(dict(zip(spec.decoder.decoded_roles, values, strict=True)), case)


def test_losses_can_follow_the_gradient() -> None:
    """Ascending along the gradient of a coordinate and of a depth moves both, and as far as it says."""
    decoder = SoftArgmaxDepth(4.0, "udp", 1.5, 3, root_keypoint=0, unit="palm", scale_bones=((0, 1),))
    grey = (127.5, 127.5, 127.5)
    spec = ModelSpec(
        "test", InputSpec(24, 32, "rgb", grey, grey, 1.25, 127), decoder, SkeletonSpec(("a", "b"), ()), palm_mm=88.0
    )
    module = make_module(decoder, 2, spec.input)
    torch.manual_seed(0)
    maps = {role: torch.randn(1, 2, 6, 8, requires_grad=True) for role in decoder.roles}
    keypoints, _, depth = module(*maps.values())
    (keypoints[0, 1, 0] + depth[0, 1]).backward()
    slopes = {role: value.grad for role, value in maps.items()}
    moved = {role: (value + 1e-2 * slopes[role]).detach().numpy() for role, value in maps.items()}
    before = decode({role: value.detach().numpy() for role, value in maps.items()}, spec)
    after = decode(moved, spec)
    assert before.depth is not None and after.depth is not None
    gained = (after.keypoints - before.keypoints)[0, 1, 0] + (after.depth - before.depth)[0, 1]
    assert gained == pytest.approx(1e-2 * sum(float((slope**2).sum()) for slope in slopes.values()), rel=0.05)


def test_constants_stay_out_of_checkpoints_and_follow_the_device() -> None:
    size = InputSpec(24, 32, "rgb", (0, 0, 0), (64, 64, 64), 1, 0)
    for decoder in (
        SoftArgmaxDepth(4.0, "centre", 1.0, 3, root_keypoint=0, unit="palm", scale_bones=((0, 1),)),
        Coordinates("unit"),
    ):
        module = make_module(decoder, 2, size)
        assert not module.state_dict() and not list(module.parameters())
        assert {buffer.device.type for buffer in module.to("meta").buffers()} == {"meta"}
