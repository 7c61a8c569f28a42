"""What every decoder is: parameters under a name, the outputs it reads, the keypoints it makes of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from splite_deploy.arrays import FloatArray
from splite_deploy.decoders.depth import Depth

Sizes = tuple[int | tuple[int, ...] | None, ...]
"""What the axes of an array measure; several numbers where each of them will do, None where any will."""

LEAST_STRIDE = 0.01
"""Input pixels for each cell; no network gives a hundred cells for one, and maps grow without a bound below."""


@dataclass(frozen=True)
class People:
    """Where P people were found in N crops, by crop and in each by falling score.

    Attributes:
        crops: (P,) the number of the crop.
        boxes: (P, 4) float32, x0, y0, x1, y1 in input pixels.
        scores: (P,) float32 in [0, 1].
    """

    crops: NDArray[np.intp]
    boxes: FloatArray
    scores: FloatArray


@dataclass(frozen=True)
class Decoded:
    """Keypoints of N crops, or of the P people in them.

    Attributes:
        keypoints: (N, K, 2) float32, (x, y) in input pixels; (P, K, 2) of people.
        scores: (N, K) float32 in [0, 1]; the rule is the decoder's; (P, K) of people.
        depth: (N, K) float32 relative to the root keypoint, in the unit of `Decoder.depth`, or None.
        people: Whose keypoints they are, where a crop may show any number of people; None where each shows one.
        heads: (N,) float32 in [0, 1] of each head of the network, by role, see `splite_deploy.decoders.heads`; None
            where it has none.
    """

    keypoints: FloatArray
    scores: FloatArray
    depth: FloatArray | None
    people: People | None = None
    heads: Mapping[str, FloatArray] | None = None

    def by_role(self) -> dict[str, FloatArray]:
        """The arrays by role, as a graph that decodes gives them."""
        arrays = {"keypoints": self.keypoints, "scores": self.scores}
        if self.depth is not None:
            arrays["depth"] = self.depth
        return {**arrays, **{role: values[:, None] for role, values in (self.heads or {}).items()}}


class InputSize(Protocol):
    """Height and width of the network's input in pixels."""

    @property
    def height(self) -> int:
        """Height in pixels."""
        ...

    @property
    def width(self) -> int:
        """Width in pixels."""
        ...


@dataclass(frozen=True)
class Decoder(ABC):
    """A way to read keypoints from a network's outputs: the parameters that ``[decoder]`` of ``model.toml`` gives.

    Attributes:
        type: Its name there.
    """

    type: ClassVar[str]

    @property
    @abstractmethod
    def layouts(self) -> Mapping[str, str]:
        """What the network gives, in this order: its role, and its axes as manifests write them (``NCHW``).

        A class attribute will do where parameters do not matter.
        """

    @property
    def joined(self) -> Mapping[str, str]:
        """Axes of `layouts` that are two joined ones, the slower first: ``{"C": "KD"}`` for D bins of each keypoint.

        A network may give these two apart, which its view says by their letters.
        """
        return {}

    @property
    def depth(self) -> Depth | None:
        """How its depths are to be read; None where it gives none."""
        return None

    @property
    def decoded_layouts(self) -> Mapping[str, str]:
        """The same as `layouts`, of a graph that decodes."""
        return {"keypoints": "NKC", "scores": "NK", **({} if self.depth is None else {"depth": "NK"})}

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the network's outputs, in their order."""
        return tuple(self.layouts)

    @property
    def decoded_roles(self) -> tuple[str, ...]:
        """The roles of the outputs of a graph that decodes, in their order."""
        return tuple(self.decoded_layouts)

    @abstractmethod
    def shapes(self, keypoints: int, size: InputSize) -> Mapping[str, Sizes]:
        """What each role's axes measure, without the batch.

        Args:
            keypoints: Their number K.
            size: Of the network's input.
        """

    def decoded_shapes(self, keypoints: int) -> Mapping[str, Sizes]:
        """The same of a graph that decodes."""
        return {role: (keypoints, 2) if role == "keypoints" else (keypoints,) for role in self.decoded_roles}

    def check(self, keypoints: int, size: InputSize) -> None:  # noqa: B027 - where nothing can be wrong
        """Compares the parameters with the rest of the model.

        Raises:
            SpecError: One does not fit so many keypoints or an input of this size.
        """

    def rounding_px(self, size: InputSize) -> float:
        """How far a keypoint jumps, input pixels, where the outputs change by next to nothing; 0 where it does not.

        Args:
            size: Of the network's input.
        """
        return 0.0

    def peaks(self, outputs: Mapping[str, FloatArray]) -> NDArray[np.intp] | None:
        """(N, K, A) indices along A axes, in cells, of what is largest for each keypoint, or None where nothing is.

        Where they jump, a conversion has made a keypoint choose another mode.

        Args:
            outputs: See `decode`.
        """
        return None

    @abstractmethod
    def decode(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints of N crops.

        Args:
            outputs: By role, finite and of shapes that fit.
            size: Of the network's input.
        """

    def best(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Decoded:
        """Keypoints of N crops, of each those of one person alone: N rows; see `decode`."""
        return self.decode(outputs, size)

    def by_role(self, outputs: Mapping[str, FloatArray], size: InputSize) -> Mapping[str, FloatArray]:
        """What a graph that decodes gives, by role; see `decode`."""
        return self.decode(outputs, size).by_role()

    def read(self, decoded: Mapping[str, FloatArray], size: InputSize, *, best: bool = False) -> Decoded:
        """What a graph that decodes has given.

        Args:
            decoded: By role, finite and of shapes that fit.
            size: Of the network's input.
            best: See `best`.
        """
        return Decoded(decoded["keypoints"], decoded["scores"], decoded.get("depth"))

    def decodes(self, roles: Collection[str]) -> bool:
        """Whether outputs of these roles are those of a graph that decodes."""
        return self.decoded_roles[0] in roles


class Model(Protocol):
    """What has to be known around a decoder; `splite_deploy.spec.ModelSpec` is one."""

    @property
    def decoder(self) -> Decoder:
        """How outputs become keypoints."""
        ...

    @property
    def keypoint_count(self) -> int:
        """Number of keypoints K."""
        ...

    @property
    def input(self) -> InputSize:
        """The network's input."""
        ...

    @property
    def heads(self) -> tuple[str, ...]:
        """What the network gives beside what its decoder reads; see `splite_deploy.decoders.heads`."""
        ...
