"""What a network gives, by name. The command line names them without the code that recognises them."""

from typing import Literal

Kind = Literal[
    "heatmap",
    "combined",
    "depth",
    "offset",
    "simcc",
    "volume",
    "coordinates",
    "yolo-pose",
    "anchors",
    "centernet",
    "boxes",
]
"""What a network gives: ``depth`` is a heatmap with a map of depths, ``combined`` three maps for each keypoint, as the
combined target of UDP has them."""
