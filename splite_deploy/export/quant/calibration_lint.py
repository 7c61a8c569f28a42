"""What is wrong with a calibration set, found before it silently ruins an INT8 network.

Each rule returns warnings where the set is weak and raises `CalibrationError` where the network would be wrong. Crops
are (N, h, w, C) uint8 in the channel order of the input spec; grey levels are 0-255. The figures beside the thresholds
were measured on crops of the hand-digits photographs (1732) and on hands that ``models/splite_hand`` renders (128).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from splite_deploy.decoders import Decoded, Decoding
from splite_deploy.errors import CalibrationError
from splite_deploy.export.crops import evenly
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.spec import ModelSpec

Pixels = NDArray[np.uint8]
Part = tuple[slice, slice]
Scorer = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]

# Whatever the network: a new crop of the same kind passes the largest value that N crops showed of an activation with
# probability 1 / (N + 1), since each of the N + 1 is the largest equally often. That is 11% at 8 crops, 3% at 32.
MIN_CROPS = 8
FEW_CROPS = 32
# Sensor noise and JPEG leave 1-3 levels on a plain wall; the plainest of the real crops has 31, of the rendered 22.
FLAT_LEVELS = 4.0
# Of the contrast, see `alike`. Recompression (JPEG, quality 30) moves a photograph by at most 0.04 and 99% of the
# rendered hands by less than 0.1, halving the size either by 0.04; the nearest two of different photographs are 0.25
# apart, of rendered hands 0.80. No two of them are taken for one.
ALIKE = 0.1
ALIKE_LEVELS = 1.0
# Photographs and rendered hands, both good for this network, differ by 0.5 in the mean and 0.74 in the spread.
MEAN_SHIFT = 1.0
SPREAD_RATIO = 2.0
SCORED = 64
# A network that does not care for the order is accused of it once in ten thousand sets; see `check_channel_order`.
CHANCE = 1e-4
MIN_SCORED = 14  # fewer cannot be that unanimous
GAIN = 0.005

_SIGNATURE = 16
_GREY = np.array([0.25, 0.5, 0.25])  # near to what JPEG keeps best, and the same for rgb and bgr


def check_count(pixels: Pixels, option: str = "--calibration") -> list[str]:
    """Too few crops do not show the range of the activations.

    Args:
        pixels: The crops.
        option: What the command line calls their source.

    Raises:
        CalibrationError: There are fewer than `MIN_CROPS`.
    """
    count = len(pixels)
    if count < MIN_CROPS:
        raise CalibrationError(
            f"The calibration set holds {count} image{'s'[: count != 1]}; at least {MIN_CROPS} are needed.",
            hint=_more(option),
        )
    if count < FEW_CROPS:
        return [
            f"only {count} calibration images: about one new image in {count + 1} will leave the range they show of an "
            f"activation; give {FEW_CROPS} or more"
        ]
    return []


def _more(option: str) -> str:
    return f"Give more with {option}: {FEW_CROPS} or more, better some hundred, of what the network will see."


def check_flat(pixels: Pixels, parts: Sequence[Part] = ()) -> list[str]:
    """Crops of one colour excite next to nothing of the network.

    Args:
        pixels: The crops.
        parts: Of each the rows and columns that show its picture, of `splite_deploy.runtime.crops.seen_part`: padding
            makes a flat picture look like one with an edge. Without them the whole crop is judged.

    Raises:
        CalibrationError: More than half of them are flat.
    """
    seen = [crop[part] for crop, part in zip(pixels, parts, strict=True)] if parts else pixels
    spread = [float(crop.reshape(-1, pixels.shape[3]).std(axis=0).max()) for crop in seen]
    flat = sum(one < FLAT_LEVELS for one in spread)
    said = f"{flat} of {len(pixels)} calibration images are flat (a spread below {FLAT_LEVELS:g} of 255 grey levels)"
    if 2 * flat > len(pixels):
        raise CalibrationError(f"{said}.", hint="Give photographs of what the network will see; look at some of these.")
    return [f"{said}; leave them out"] if flat else []


def signatures(pixels: Pixels) -> NDArray[np.float64]:
    """(N, 256): each crop as 16 x 16 grey levels, which recompression, resizing and the channel order leave alone."""
    small = [cv2.resize(crop, (_SIGNATURE, _SIGNATURE), interpolation=cv2.INTER_AREA) for crop in pixels]
    levels = np.array(small, np.float64).reshape(len(pixels), _SIGNATURE**2, -1)
    grey: NDArray[np.float64] = levels[..., 0] if levels.shape[2] == 1 else levels @ _GREY
    return grey


def alike(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N, M): which `signatures` show the same picture, by their distance (RMS) relative to the lower contrast."""
    square = (a**2).mean(axis=1)[:, None] + (b**2).mean(axis=1) - 2 * (a @ b.T) / a.shape[1]
    contrast = np.minimum(a.std(axis=1)[:, None], b.std(axis=1))
    same: NDArray[np.bool_] = square < np.maximum(ALIKE * contrast, ALIKE_LEVELS) ** 2
    return same


def check_repeats(pixels: Pixels, option: str = "--calibration") -> list[str]:
    """A picture counts once, however often it is there: frames of a video at rest, copies, other compression.

    Args:
        pixels: The crops.
        option: See `check_count`.

    Raises:
        CalibrationError: Fewer than `MIN_CROPS` are distinct.
    """
    marks = signatures(pixels)
    distinct = int((~np.tril(alike(marks, marks), -1).any(axis=1)).sum())
    exact = len(pixels) - len({crop.tobytes() for crop in pixels})
    said = f"only {distinct} of {len(pixels)} calibration images are distinct ({exact} are exact copies)"
    if distinct < MIN_CROPS:
        raise CalibrationError(f"{said[0].upper()}{said[1:]}; at least {MIN_CROPS} are needed.", hint=_more(option))
    return [f"{said}; replace the others by other pictures"] if distinct < len(pixels) else []


def check_channel_order(pixels: Pixels, spec: ModelSpec, scorer: Scorer) -> None:
    """Asks the fp32 network which channel order it knows: a trained one is surer of itself on the right one.

    Its scores (see the decoder) are averaged over the keypoints of each crop, as given and with red and blue exchanged.
    The exchange is found better where so many crops say so that a coin would with a probability below `CHANCE` (sign
    test), and by more than `GAIN` on average. The first spares networks that do not care; the second those that care
    too little for it to move an activation's range.

    With ``models/splite_hand`` exchanged crops were found in all of 4000 random draws of 32 and of 64, from 289 of
    hand-digits (validation split) and from 128 rendered hands, and right ones were accused in none. At 16 crops 84%
    and 66% are found, below `MIN_SCORED` none can be. Single crops vote rightly in 99% and 98%, by 0.02 and 0.25 on
    average.

    Raises:
        CalibrationError: The network prefers the exchanged crops.
    """
    sample = pixels[evenly(len(pixels), SCORED)]
    normalise = Preprocessor(spec.input, spec.input.color).normalise
    best = Decoding(spec).best
    given, exchanged = (
        _mean_scores(best(scorer(normalise(np.ascontiguousarray(crops))))) for crops in (sample, sample[..., ::-1])
    )
    better, different = int((exchanged > given).sum()), int((exchanged != given).sum())
    chance = sum(math.comb(different, k) for k in range(better, different + 1)) / 2**different
    if chance < CHANCE and exchanged.mean() - given.mean() > GAIN:
        color = spec.input.color
        other = color[::-1]
        scores = f"{exchanged.mean():.3f} against {given.mean():.3f}"
        raise CalibrationError(
            f"The calibration crops seem to be in the order {other}, not {color}: with red and blue exchanged the "
            f"network scores higher on {better} of {len(sample)} crops, {scores} on average.",
            hint=f"Save color='{other}' beside the crops, and they are converted; if they are {color}, input.color of "
            "model.toml is wrong.",
        )


def check_statistics(pixels: Pixels, reference: Pixels) -> list[str]:
    """Compares brightness and spread with those of the model's own renderer; a hint, since good sets can differ."""
    found, expected = (crops.reshape(-1, crops.shape[3]).astype(np.float32) for crops in (pixels, reference))
    mean, spread, mean_0, spread_0 = found.mean(0), found.std(0), expected.mean(0), expected.std(0)
    shift = np.abs(mean - mean_0) / np.maximum(spread_0, 1.0)
    ratio = np.maximum(spread, 1.0) / np.maximum(spread_0, 1.0)
    if shift.max() <= MEAN_SHIFT and ratio.min() >= 1 / SPREAD_RATIO and ratio.max() <= SPREAD_RATIO:
        return []
    return [
        f"the calibration images are unlike those that the model renders: mean {_levels(mean)} and spread "
        f"{_levels(spread)} grey levels against {_levels(mean_0)} and {_levels(spread_0)}; look at some of them"
    ]


def _mean_scores(decoded: Decoded) -> NDArray[np.float64]:
    """(N,) means of the scores of keypoints, or of a network without those of its boxes."""
    if decoded.people is not None and decoded.scores.shape[1] == 0:
        return decoded.people.scores.astype(np.float64)
    mean: NDArray[np.float64] = decoded.scores.mean(axis=1, dtype=np.float64)
    return mean


def check_overlap(seen: NDArray[np.bool_], *, compared: bool = False) -> list[str]:
    """Calibrating on the images of the evaluation makes its figures better than the network is.

    Args:
        seen: (N,) which calibration crops are among the evaluation images.
        compared: Whether conversions are compared on those images, and no accuracy is measured: that may be all that
            somebody has.

    Raises:
        CalibrationError: All of them are, and accuracy is measured on them.
    """
    count, all_seen = int(seen.sum()), bool(seen.all())
    if compared:
        which = f"all {count}" if all_seen else f"{count} of {len(seen)}"
        what = f"{which} calibration images are among those that conversions are compared on"
        said = f"{what}: what is measured there flatters int8, which was made for them; name others with --images"
        return [said] if count else []
    if all_seen:
        raise CalibrationError(
            f"All {count} calibration images are among the evaluation images.",
            hint="Calibrate on other images, or evaluate on others.",
        )
    what = f"{count} of {len(seen)} calibration images are among the evaluation images, which flatters its figures"
    return [f"{what}; keep the two apart"] if count else []


def _levels(values: NDArray[np.float32]) -> str:
    return f"({', '.join(f'{value:.0f}' for value in values)})"
