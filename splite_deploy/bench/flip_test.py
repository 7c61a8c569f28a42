"""The flip test: a crop and its mirror image are run, and the mean of both results is taken.

Published accuracies of top-down networks are often such (Newell et al. 2016, arXiv 1603.06937), at twice the time. In
them heatmaps are averaged; here keypoints are, after decoding, as for networks that regress them (Li et al. 2021, arXiv
2107.11291). That is the same for every decoder, for a graph that decodes too, and needs no shift of mirrored heatmaps,
whose cells do not fall on each other where targets are drawn at joint / stride.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from splite_deploy.arrays import Feed, FloatArray
from splite_deploy.bundle import TensorSpec
from splite_deploy.decoders import Decoded, PeopleDecoder, mean_heads
from splite_deploy.errors import UsageError
from splite_deploy.runtime.estimator import PoseEstimator
from splite_deploy.runtime.pose import Pose
from splite_deploy.runtime.preprocess import AnyImage
from splite_deploy.spec import ModelSpec


def check_flip_test(spec: ModelSpec) -> None:
    """Refuses a flip test of a network that finds hands or people itself: who is found in both cannot be told.

    Raises:
        UsageError: It is one.
    """
    if isinstance(spec.decoder, PeopleDecoder):
        raise UsageError(
            "A flip test is for networks that look into a box, and this one finds people itself.",
            hint="Leave out --flip-test.",
        )


def flip_tested(estimator: PoseEstimator) -> Callable[[AnyImage, ArrayLike | None], Pose]:
    """An estimator that runs every crop twice.

    Args:
        estimator: Runs one crop at a time.
    """
    image = estimator.session.inputs[0]

    def estimate(source: AnyImage, box: ArrayLike | None) -> Pose:
        tensor, frames = estimator.prepare(source, [box])
        decoded = _copy(estimator.decode(estimator.session.run({image.name: tensor})))
        of_mirrored = estimator.decode(estimator.session.run({image.name: mirrored(tensor, image)}))
        return estimator.finish(mean_of_mirrored(decoded, of_mirrored, estimator.spec), frames)[0]

    return estimate


def _copy(decoded: Decoded) -> Decoded:
    """Outputs of a session last until its next run, and a graph that decodes gives them as they are."""
    depth = None if decoded.depth is None else decoded.depth.copy()
    return Decoded(decoded.keypoints.copy(), decoded.scores.copy(), depth, heads=decoded.heads)


def mirrored(tensor: Feed, image: TensorSpec) -> Feed:
    """The input of the mirrored crops, left for right."""
    flipped: Feed = np.ascontiguousarray(np.flip(tensor, image.layout.index("W")))
    return flipped


def mean_of_mirrored(decoded: Decoded, of_mirrored: Decoded, spec: ModelSpec) -> Decoded:
    """The mean of what was found in crops and, mirrored back, in their mirror images.

    Args:
        decoded: N crops.
        of_mirrored: Their mirror images.
        spec: Its skeleton says which keypoints trade places.
    """
    places = np.arange(spec.keypoint_count)
    for left, right in spec.skeleton.flip_pairs:
        places[[left, right]] = right, left
    back: FloatArray = of_mirrored.keypoints[:, places].copy()
    back[..., 0] = spec.input.width - back[..., 0]
    depth = None
    if decoded.depth is not None and of_mirrored.depth is not None:
        depth = (decoded.depth + of_mirrored.depth[:, places]) / 2
    scores = (decoded.scores + of_mirrored.scores[:, places]) / 2
    heads = mean_heads(decoded.heads, of_mirrored.heads)
    return Decoded((decoded.keypoints + back) / 2, scores, depth, heads=heads)
