"""What a network may give beside what its decoder reads: one probability for each crop. The only code that knows which.

Whatever passes outputs on asks the functions here for roles, layouts and shapes, so that another such output is a line
of `HEADS` and a field of `splite_deploy.runtime.pose.Pose`. N crops.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.base import Decoder, InputSize, Model, Sizes

Heads = Mapping[str, FloatArray] | None
"""(N,) of each head in 0 to 1, by role; None of a network without."""
HEADS: Mapping[str, str] = {
    "presence": "how likely the crop shows a hand or a person",
    "handedness": "how likely it is a right hand, seen as it is: in a picture that is not mirrored",
}
"""The roles of such outputs, in their order, and what 1 means; 0 means the opposite."""
HEAD_LAYOUT = "NC"
_TURNED_ROUND = frozenset({"handedness"})
"""What a mirror makes the opposite."""
_SIZES: Sizes = (1,)


def layouts_of(decoder: Decoder, *, decoded: bool = False) -> dict[str, str]:
    """The axes of all roles that a network with this decoder can have; see `Decoder.layouts`.

    Args:
        decoder: Of the model.
        decoded: Whether of a graph that decodes; heads are the same there.
    """
    return {**(decoder.decoded_layouts if decoded else decoder.layouts), **dict.fromkeys(HEADS, HEAD_LAYOUT)}


def roles_of(model: Model, *, decoded: bool = False) -> tuple[str, ...]:
    """The roles of the outputs of a network, in their order: those of its decoder, then its heads."""
    return (*(model.decoder.decoded_roles if decoded else model.decoder.roles), *model.heads)


def sizes_of(decoder: Decoder, role: str, keypoints: int, size: InputSize) -> Sizes:
    """What the axes of a role measure, without the batch; see `Decoder.shapes`."""
    return _SIZES if role in HEADS else decoder.shapes(keypoints, size)[role]


def shapes_of(model: Model, *, decoded: bool = False) -> dict[str, Sizes]:
    """The same of all roles of a network, in their order."""
    decoder, count = model.decoder, model.keypoint_count
    shapes = decoder.decoded_shapes(count) if decoded else decoder.shapes(count, model.input)
    return {**shapes, **dict.fromkeys(model.heads, _SIZES)}


def decoded_by_role(outputs: Mapping[str, FloatArray], model: Model) -> dict[str, FloatArray]:
    """What a graph that decodes gives for what a network gives, by role; see `Decoder.by_role`."""
    made = dict(model.decoder.by_role(outputs, model.input))
    return {**made, **{role: outputs[role] for role in model.heads}}


def mean_heads(heads: Mapping[str, FloatArray] | None, of_mirrored: Mapping[str, FloatArray] | None) -> Heads:
    """The mean of heads in crops and in their mirror images, where a right hand is a left one."""
    if heads is None or of_mirrored is None:
        return None
    back = {role: 1 - values if role in _TURNED_ROUND else values for role, values in of_mirrored.items()}
    return {role: (values + back[role]) / 2 for role, values in heads.items()}


def read_heads(outputs: Mapping[str, FloatArray], heads: Collection[str]) -> Heads:
    """(N,) of each head, clipped to 0 to 1; None where a network has none.

    Args:
        outputs: By role, finite, heads (N, 1).
        heads: Those of the model.
    """
    return {role: np.clip(outputs[role][:, 0], 0.0, 1.0) for role in heads} if heads else None
