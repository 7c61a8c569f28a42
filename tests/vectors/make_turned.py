"""Writes turned.json: test vectors of turned crops, by plain arithmetic from their definition alone.

    python tests/vectors/make_turned.py        # after a change of the cases; review the difference

It shares no code with splite_deploy, so that an error there cannot hide in the expected values.
"""

from __future__ import annotations

import cmath
import json
import math
import random
import re
from pathlib import Path
from typing import Any

ABOUT = [
    "Test vectors of crops that are turned (rotate_by), for any implementation in any language.",
    "Pixels are continuous: x to the right, y down, the origin at the CORNER of the top-left pixel of the image, or of "
    "the crop. Angles are degrees, clockwise as one sees them: 0 points up, 90 to the right.",
    "crops[]: box is x0, y0, x1, y1 and angle; the rectangle is turned about its centre by angle. width, height and "
    "box_padding are those of model.input. points are places in the image, and expected the same places in the crop.",
    "boxes[]: keypoints of an image in pixels; the line from the first of rotate_by to the second tells the angle, "
    "over -180 and up to 180. expected is the turned box that just holds all keypoints.",
    "tolerance: largest absolute difference, in pixels and in degrees.",
]
INPUTS = [(224, 224, 1.0), (96, 128, 1.25), (48, 64, 1.6)]
ANGLES = [0.0, 90.0, -90.0, 180.0, 37.5, -128.25, 179.9, 12.0]


def turned(x: float, y: float, angle: float) -> complex:
    """A step from the origin turned clockwise: in complex numbers x + y j, y down, that is multiplying by e^(j a)."""
    return complex(x, y) * cmath.exp(1j * math.radians(angle))


def crop_case(angle: float, number: int, source: random.Random) -> dict[str, Any]:
    """Places in an image, and where a crop shows them: laid out from the crop's middle along its own axes."""
    width, height, padding = INPUTS[number % len(INPUTS)]
    x0, y0 = source.uniform(-20, 200), source.uniform(-20, 200)
    box_width, box_height = source.uniform(20, 180), source.uniform(20, 180)
    centre = complex(x0 + box_width / 2, y0 + box_height / 2)
    image_px = max(box_width / width, box_height / height) * padding  # per pixel of the crop
    places = [[source.uniform(-5, width + 5), source.uniform(-5, height + 5)] for _ in range(3)]
    places += [[0.0, 0.0], [width / 2, height / 2], [float(width), float(height)]]
    points = [centre + turned((u - width / 2) * image_px, (v - height / 2) * image_px, angle) for u, v in places]
    return {
        "width": width,
        "height": height,
        "box_padding": padding,
        "box": [x0, y0, x0 + box_width, y0 + box_height, angle],
        "points": [[point.real, point.imag] for point in points],
        "expected": places,
    }


def box_case(angle: float, source: random.Random) -> dict[str, Any]:
    """Keypoints laid out in an upright frame with a known tight box, then turned."""
    middle = complex(source.uniform(50, 300), source.uniform(50, 300))
    half_width, half_height = source.uniform(5, 60), source.uniform(5, 60)
    x = source.uniform(-half_width, half_width)
    upright = [(x, half_height), (x, -half_height), (-half_width, 0.1 * half_height), (half_width, -0.2 * half_height)]
    points = [middle + turned(*place, angle) for place in upright]
    low, high = middle - complex(half_width, half_height), middle + complex(half_width, half_height)
    return {
        "rotate_by": [0, 1],
        "keypoints": [[point.real, point.imag] for point in points],
        "expected": [low.real, low.imag, high.real, high.imag, angle],
    }


def rounded(value: Any) -> Any:
    """With nine digits behind the point."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return round(value, 9) if isinstance(value, float) else value


def main() -> None:
    """Writes the file."""
    source = random.Random(11)
    document = {
        "about": ABOUT,
        "tolerance": 1e-6,
        "crops": [crop_case(angle, number, source) for number, angle in enumerate(ANGLES)],
        "boxes": [box_case(angle, source) for angle in ANGLES if angle != -180.0],
    }
    text = json.dumps(rounded(document), indent=1)
    text = re.sub(r"\[\s+([^\[\]{}\"]*?)\s+\]", lambda found: "[" + " ".join(found[1].split()) + "]", text)
    Path(__file__).with_name("turned.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
