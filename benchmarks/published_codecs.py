"""What the publications of codecs draw as targets, read back by our decoders: how far from the truth, in input pixels.

    python benchmarks/published_codecs.py            # prints the table
    python benchmarks/published_codecs.py --write    # writes it into docs/codecs.md

A decoder that is written from the same formula as its vectors may have the same error; a target that is drawn by the
encoder of the publication cannot. Encoders are written anew from the papers, in plain numpy. Keypoints lie anywhere
within a pixel, in crops of several sizes; those near the border are counted apart, since Gaussians are cut there.

`CODECS` is the list of them: one that is added there is measured, tested and in the table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splite_deploy.decoders import (
    Anchors,
    Argmax,
    CenterNet,
    Dark,
    Decoder,
    Decoding,
    Expectation,
    Offset,
    SimCC,
    SoftArgmax,
    SoftArgmaxWindow,
    Udp,
    Volume,
    YoloPose,
)
from splite_deploy.spec import InputSpec, ModelSpec, SkeletonSpec

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "codecs.md"
BEGIN, END = "<!-- codecs: written by benchmarks/published_codecs.py -->", "<!-- end of codecs -->"
CROPS, KEYPOINTS = 40, 17
MARGIN = 6
"""Cells: so near to the border a Gaussian of the usual two cells is cut within three standard deviations."""
SIGMA = 2.0
BLUR = 11

Points = NDArray[np.float64]
Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Crop:
    """A network's input and its heatmaps.

    Attributes:
        width: Of the input, pixels.
        height: The same.
        stride: Pixels for a cell.
    """

    width: int
    height: int
    stride: float

    @property
    def cells(self) -> tuple[int, int]:
        """Columns and rows of a heatmap."""
        return -int(-self.width // self.stride), -int(-self.height // self.stride)

    def __str__(self) -> str:
        return f"{self.width} x {self.height} / {self.stride:.4g}"


Encode = Callable[[Points, Crop], Mapping[str, Maps]]
"""Labels (N, K, 2), indices of pixels with 0 at the centre of the first, to a network's outputs by role."""


@dataclass(frozen=True)
class Errors:
    """Distances to the truth, input pixels.

    Attributes:
        inside: Of keypoints `MARGIN` cells and more from the border.
        border: Of the others.
    """

    inside: Points
    border: Points


@dataclass(frozen=True)
class Codec:
    """Targets of a publication and the decoder that reads them.

    Attributes:
        name: What it is called in the table.
        encode: Draws the targets.
        decoder: What reads them, for a crop.
        bound: The largest distance that is right inside, as a share of the stride; 0 for a twentieth of a pixel.
        border: The same near the border.
        why: Why one of them is not 0, for the page.
        crops: What is measured.
    """

    name: str
    encode: Encode
    decoder: Callable[[Crop], Decoder]
    bound: float
    border: float
    why: str = ""
    crops: tuple[Crop, ...] = (Crop(192, 256, 4.0), Crop(256, 256, 8.0), Crop(288, 384, 4.0))

    def measure(self, crop: Crop) -> Errors:
        """Distances of all keypoints of `CROPS` crops."""
        rng = np.random.default_rng(crop.width + crop.height)
        labels = rng.uniform(0, np.array([crop.width, crop.height]) - 1, (CROPS, KEYPOINTS, 2))
        found = Decoding(model(self.decoder(crop), crop)).best(self.encode(labels, crop))
        distances = np.linalg.norm(found.keypoints - (labels + 0.5), axis=-1)
        cells = labels / crop.stride
        inside = ((cells >= MARGIN) & (cells <= np.array(crop.cells) - 1 - MARGIN)).all(axis=-1)
        return Errors(distances[inside], distances[~inside])


def model(decoder: Decoder, crop: Crop) -> ModelSpec:
    """A model of `KEYPOINTS` keypoints."""
    grey = (127.5, 127.5, 127.5)
    names = tuple(f"k{index}" for index in range(KEYPOINTS))
    image = InputSpec(crop.height, crop.width, "rgb", grey, grey, 1.25, 127, "centre")
    return ModelSpec("codec", image, decoder, SkeletonSpec(names, ()))


# --- where labels lie among the cells ---


def by_stride(labels: Points, crop: Crop) -> Points:
    """Simple Baseline, HRNet, mmpose's MSRAHeatmap: the index of a pixel by the stride."""
    return labels / crop.stride


def by_corners(labels: Points, crop: Crop) -> Points:
    """UDP: the first and the last pixel lie at the first and the last cell."""
    size = np.array([crop.width, crop.height])
    return labels / ((size - 1) / (np.array(crop.cells) - 1))


# --- what is drawn there ---


def offsets(mu: Points, crop: Crop) -> tuple[Points, Points]:
    """How far cells lie to the left of places (..., 2) among them and above: (..., 1, W) and (..., H, 1)."""
    columns, rows = crop.cells
    return mu[..., :1, None] - np.arange(columns), mu[..., 1:, None] - np.arange(rows)[:, None]


def gaussians(mu: Points, crop: Crop, *, patch: bool = False) -> Maps:
    """Unit peaks at mu (N, K, 2); with ``patch`` only 3 sigma to each side of the nearest cell."""
    x, y = offsets(mu, crop)
    maps = np.exp(-(x**2 + y**2) / (2 * SIGMA**2))
    if patch:
        far = [np.abs(axis) > 3 * SIGMA for axis in offsets(np.floor(mu + 0.5), crop)]
        maps = np.where(far[0] | far[1], 0, maps)
    return maps.astype(np.float32)


def msra(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """Simple Baseline's and HRNet's ``generate_target``: a patch around the nearest cell, whose peak is that cell."""
    return {"heatmap": gaussians(np.floor(by_stride(labels, crop) + 0.5), crop, patch=True)}


def unbiased(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """DARK: over the whole map, around the place itself."""
    return {"heatmap": gaussians(by_stride(labels, crop), crop)}


def udp(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """UDP: a patch around the nearest cell, whose peak is the place itself."""
    return {"heatmap": gaussians(by_corners(labels, crop), crop, patch=True)}


RADIUS_FACTOR = 0.0546875


def combined(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """UDP's other target: a disk, and offsets by its radius, which mmpose draws over the whole map."""
    radius = RADIUS_FACTOR * max(crop.cells)
    x, y = (axis / radius for axis in offsets(by_corners(labels, crop), crop))
    maps = np.broadcast_arrays(x**2 + y**2 <= 1, x, y)
    return {"combined": np.stack(maps, 2).reshape(len(labels), -1, *maps[0].shape[2:]).astype(np.float32)}


def combined_in_disks(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """The same with offsets inside the disk alone, as the authors' own code draws them."""
    maps = combined(labels, crop)["combined"].copy()
    disks = maps[:, ::3] > 0
    maps[:, 1::3] *= disks
    maps[:, 2::3] *= disks
    return {"combined": maps}


def splats(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """An integral loss knows no target: the least map with the right mean, shares of one in the four cells around."""
    x, y = offsets(by_stride(labels, crop), crop)
    return {"heatmap": (np.maximum(1 - np.abs(x), 0) * np.maximum(1 - np.abs(y), 0)).astype(np.float32)}


def logits(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """Logarithms of the same, of which a softmax makes it."""
    return {"heatmap": np.log(np.maximum(splats(labels, crop)["heatmap"], np.float32(1e-30)))}


BINS = 16


def along_z(labels: Points, crop: Crop) -> Points:
    """How far bins lie before depths: (N, K, bins). Depths are in the middle third, and follow from the labels."""
    share = labels.sum(-1) / (crop.width + crop.height)
    depths: Points = BINS * (1 + share)[..., None] / 3 - np.arange(BINS)
    return depths


def channels(volumes: Points) -> Mapping[str, Maps]:
    """Volumes (N, K, bins, H, W) in the form in which the decoder reads them."""
    n, k, bins, *plane = volumes.shape
    return {"volume": volumes.reshape(n, k * bins, *plane).astype(np.float32)}


def gaussian_volumes(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """Logarithms of the Gaussians that Pavlakos et al. 2017 (arXiv 1611.07828) train volumes with."""
    (x, y), z = offsets(by_stride(labels, crop), crop), along_z(labels, crop)
    return channels(-(((x**2 + y**2)[:, :, None] + z[..., None, None] ** 2) / (2 * SIGMA**2)))


def volume_logits(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """Logarithms of shares of one in the eight cells around: the least volume with the right mean, as `logits`."""
    weights = np.maximum(1 - np.abs(along_z(labels, crop)), 0)[..., None, None]
    shares = splats(labels, crop)["heatmap"][:, :, None] * weights
    return channels(np.log(np.maximum(shares, 1e-30)))


DISK_PX = 25.0


def disks_and_offsets(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """PoseNet (Papandreou et al. 2017): 1 within 25 pixels, and the vectors to the keypoint in pixels, y before x."""
    x, y = (axis * crop.stride for axis in offsets(by_stride(labels, crop), crop))
    disk, x, y = np.broadcast_arrays(x**2 + y**2 <= DISK_PX**2, x, y)
    vectors = np.where(np.concatenate([disk, disk], 1), np.concatenate([y, x], 1), 0)
    return {"heatmap": disk.astype(np.float32), "offset": vectors.astype(np.float32)}


SIMCC_SIGMA = 5.0
"""Bins; mmpose has 4.9 and 5.66 for an input of 192 x 256 pixels."""


def bins_unrounded(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """SimCC (Li et al. 2022): one Gaussian for each axis, around the place itself."""
    return _bins(by_stride(labels, crop), crop)


def bins(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """As mmpose's ``SimCCLabel`` draws them: around the nearest bin."""
    return _bins(np.around(by_stride(labels, crop)), crop)


def _bins(mu: Points, crop: Crop) -> Mapping[str, Maps]:
    x, y = (np.exp(-np.square(axis) / (2 * SIMCC_SIGMA**2)).astype(np.float32) for axis in offsets(mu, crop))
    return {"simcc_x": x[..., 0, :], "simcc_y": y[..., 0]}


def bin_logits(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """As `logits` of each axis by itself."""
    x, y = (np.maximum(1 - np.abs(axis), 1e-30) for axis in offsets(by_stride(labels, crop), crop))
    return {"simcc_x": np.log(x[..., 0, :]).astype(np.float32), "simcc_y": np.log(y[..., 0]).astype(np.float32)}


# --- what single-stage networks are trained with: labels are places in pixels, counted from the corner ---

LEVELS = (8, 16, 32)
YOLO_BINS = 16
YOLO_ANCHORS = ((19.0, 27.0, 44.0, 40.0, 38.0, 94.0), (96.0, 68.0, 86.0, 152.0, 180.0, 137.0), (436.0, 615.0))
SSD_STRIDES = (8, 16, 16, 16)
_SURE, _NOBODY = 4.0, -9.0


def boxes_of(points: Points) -> Points:
    """Tight boxes (N, 4) around keypoints (N, K, 2)."""
    return np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1)


def cells_of(crop: Crop, stride: int) -> Points:
    """(rows, columns, 2) column and row of each cell of a level."""
    places = np.meshgrid(np.arange(crop.width // stride), np.arange(crop.height // stride))
    return np.stack(places, axis=-1).astype(float)


def anchor_free(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """YOLOv8-pose: in cells inside the box its sides in strides, shared by two bins, and (keypoint - cell) / 2."""
    points, found = labels + 0.5, {}
    boxes, visible = boxes_of(points), np.full((*labels.shape[:2], 1), _SURE)
    for level, stride in enumerate(LEVELS):
        cells = cells_of(crop, stride)[None]
        low, high = (boxes[:, None, None, part] / stride for part in (slice(0, 2), slice(2, 4)))
        sides = np.concatenate([cells + 0.5 - low, high - cells - 0.5], axis=-1)
        inside = (sides.min(axis=-1) > 0) & (sides.max(axis=-1) < YOLO_BINS - 1)
        shares = np.maximum(1 - np.abs(sides[..., None] - np.arange(YOLO_BINS)), 1e-9)
        far = np.abs(sides[..., :2] - sides[..., 2:]).sum(axis=-1) / 99
        score = np.where(inside, _SURE - far - level / 9, _NOBODY)[..., None]
        placed = (points[:, None, None] / stride - cells[..., None, :]) / 2
        seen = np.broadcast_to(visible[:, None, None], (*placed.shape[:-1], 1))
        parts = np.log(shares), score, np.concatenate([placed, seen], axis=-1)
        channels = np.concatenate([part.reshape(*score.shape[:3], -1) for part in parts], axis=-1)
        found[f"level_{level}"] = channels.transpose(0, 3, 1, 2).astype(np.float32)
    return found


def anchor_based(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """YOLO-Pose (YOLOv5, YOLOv7): in the cell of the centre and its neighbours, for anchors of a like size."""
    points, found = labels + 0.5, {}
    boxes = boxes_of(points)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    for level, stride in enumerate(LEVELS):
        cells, anchors = cells_of(crop, stride)[None, None], np.reshape(YOLO_ANCHORS[level], (-1, 2))
        ratio = (size[:, None] / anchors)[:, :, None, None]
        away = (centre / stride)[:, None, None, None] - cells
        share = np.clip((away + 0.5) / 2, 1e-4, 1 - 1e-4) + 0 * ratio
        extent = np.clip(np.sqrt(ratio) / 2, 1e-4, 1 - 1e-4) + 0 * away
        near = (np.abs(away - 0.5).max(axis=-1) < 1) & (np.maximum(ratio, 1 / ratio).max(axis=-1) < 4)
        score = np.where(near, _SURE - np.abs(away - 0.5).sum(axis=-1), _NOBODY)[..., None]
        placed = (points[:, None, None, None] / stride - cells[..., None, :] + 0.5) / 2
        shape = (*score.shape[:4], -1)
        placed = np.broadcast_to(placed, (*score.shape[:4], *placed.shape[-2:]))
        seen = np.full((*placed.shape[:-1], 1), _SURE)
        logits = [np.log(part / (1 - part)) for part in (share, extent)]
        channels = np.concatenate(
            [*logits, score, score, np.concatenate([placed, seen], axis=-1).reshape(shape)], axis=-1
        )
        maps = channels.transpose(0, 1, 4, 2, 3).reshape(len(labels), -1, *cells.shape[2:4])
        found[f"level_{level}"] = maps.astype(np.float32)
    return found


def anchor_offsets(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """BlazeFace and palm detection: from each anchor, in pixels of the input."""
    points = labels + 0.5
    boxes = boxes_of(points)
    pairs = np.stack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    centres = []
    for stride, count in ((8, 2), (16, 6)):
        centres.append(np.repeat((cells_of(crop, stride).reshape(-1, 2) + 0.5) * stride, count, axis=0))
    anchors = np.concatenate(centres)
    numbers = np.concatenate([pairs, points], axis=1)[:, None] - np.zeros((len(anchors), 1, 1))
    numbers[:, :, 0] -= anchors
    numbers[:, :, 2:] -= anchors[:, None]
    numbers *= crop.width / np.array([crop.width, crop.height])  # shares of the input on the scale of its width
    far = np.linalg.norm(anchors - pairs[:, :1], axis=-1)[..., None]
    flat = numbers.reshape(len(labels), len(anchors), -1)
    return {"boxes": flat.astype(np.float32), "logits": (_SURE - far / 9).astype(np.float32)}


def middles(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """CenterNet: a Gaussian of a peak of 1 in the cell of the middle; size, offset and vectors from that cell.

    Regressions are drawn in every cell, as a trained network gives them around the peak; the published loss takes that
    one alone (arXiv 1904.07850, sections 3, 4 and 4.2; src/lib/datasets/sample/multi_pose.py).
    """
    points, boxes = (labels + 0.5) / crop.stride, boxes_of(labels + 0.5) / crop.stride
    middle, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    cells = cells_of(crop, round(crop.stride))[None]
    away = cells - np.floor(middle)[:, None, None]
    radius = np.maximum(1.0, 0.15 * size.min(axis=1))[:, None, None]
    maps = {
        "heatmap": np.exp(-np.square(away).sum(axis=-1) / (2 * radius**2))[..., None],
        "boxes": np.broadcast_to(size[:, None, None], away.shape),
        "offsets": middle[:, None, None] - cells,
        "keypoints": (points[:, None, None] - cells[..., None, :]).reshape(*away.shape[:3], -1),
    }
    return {role: values.transpose(0, 3, 1, 2).astype(np.float32) for role, values in maps.items()}


def distances_to_sides(labels: Points, crop: Crop) -> Mapping[str, Maps]:
    """TTFNet and SPLite Palm: logits of the same peaks, and from the centre of each cell the distances to the sides."""
    points, boxes = (labels + 0.5) / crop.stride, boxes_of(labels + 0.5)[:, None, None] / crop.stride
    centres = cells_of(crop, round(crop.stride))[None] + 0.5
    peaks = middles(labels, crop)["heatmap"].clip(1e-6, 1 - 1e-6)
    maps = {
        "boxes": np.concatenate([centres - boxes[..., :2], boxes[..., 2:] - centres], axis=-1),
        "keypoints": (points[:, None, None] - centres[..., None, :]).reshape(len(labels), *centres.shape[1:3], -1),
    }
    found = {role: values.transpose(0, 3, 1, 2).astype(np.float32) for role, values in maps.items()}
    return {"heatmap": np.log(peaks / (1 - peaks)), **found}


_PEOPLE = {"min_score": 0.4, "overlap": 0.6, "max_people": 9}


def yolo(form: str, **more: object) -> Decoder:
    """What reads a head of the YOLO family."""
    levels = {"strides": tuple(map(float, LEVELS)), "heads": "levels", "visibility": True}
    return YoloPose(form=form, **levels, **_PEOPLE, **more)  # type: ignore[arg-type]


def ssd(crop: Crop) -> Decoder:
    """What reads MediaPipe's detectors."""
    return Anchors(
        **_PEOPLE,  # type: ignore[arg-type]
        strides=SSD_STRIDES,
        aspect_ratios=(1.0,),
        interpolated_scale_aspect_ratio=1.0,
        anchor_offset=0.5,
        fixed_anchor_size=True,
        scale=float(crop.width),
        score_clipping=100.0,
        nms="greedy",
    )


def centernet(crop: Crop, form: str) -> Decoder:
    """What reads maps of middles, as published (``sizes``) or with distances to the sides."""
    published = form == "sizes"
    return CenterNet(
        **_PEOPLE,  # type: ignore[arg-type]
        stride=crop.stride,
        heatmap="probabilities" if published else "logits",
        boxes="sizes" if published else "distances",
        offsets=published,
        origin="corner" if published else "centre",
        unit="cell",
        keypoints=True,
    )


# --- the list ---

PEOPLE = (Crop(192, 256, 8.0), Crop(256, 256, 8.0), Crop(288, 384, 8.0))
"""The stride is that of the finest level."""

SIMCC = (Crop(192, 256, 0.5), Crop(256, 256, 1.0), Crop(96, 128, 0.5))
"""With two bins for a pixel, or one."""

POSENET = (Crop(257, 257, 16.0), Crop(257, 353, 16.0), Crop(193, 257, 8.0))
"""As PoseNet has them: the first and the last cell lie at the first and the last pixel."""
VOLUMES = (Crop(128, 128, 4.0), Crop(96, 128, 4.0), Crop(128, 160, 8.0))
"""Small ones, since a volume has as many cells as `BINS` maps."""
_ROUNDED = "the encoder rounds to whole cells, which no decoder undoes: up to half a cell on each axis"
_QUARTER = "a quarter of a cell stands for all places between two: up to a quarter off on each axis"
_LAST = "labels on the last pixels lie up to a cell beyond the centre of the last cell"
_CUT = f"near the border: only what has two cells on each side of the largest is refined; {_LAST}"
_HALF = "near the border: at an outermost cell, which stands for its neighbours, the step is half a cell outwards"
_MEAN = f"near the border: {_LAST}, and no mean of cells does"


def volume_decoder(crop: Crop) -> Decoder:
    """What reads volumes; depths are in bins."""
    return Volume(
        crop.stride,
        "centre",
        1.0,
        score_window=5,
        bins=BINS,
        depth_extent=BINS,
        root_keypoint=0,
        unit="pixel",
        scale_bones=((0, 1),),
    )


CODECS = (
    Codec(
        "MSRA, read by `argmax`",
        msra,
        lambda crop: Argmax(crop.stride, "centre", "quarter"),
        bound=0.71,
        border=1.25,
        why=f"{_ROUNDED}; {_LAST}",
    ),
    Codec(
        "MSRA unrounded, read by `argmax`",
        unbiased,
        lambda crop: Argmax(crop.stride, "centre", "quarter"),
        bound=0.36,
        border=1.25,
        why=f"{_QUARTER}; {_LAST}",
    ),
    Codec(
        "DARK (MSRA unrounded), read by `dark`",
        unbiased,
        lambda crop: Dark(crop.stride, "centre", BLUR),
        bound=0.0,
        border=1.25,
        why=_CUT,
    ),
    Codec(
        "DARK (MSRA unrounded), read by `dark` without smoothing",
        unbiased,
        lambda crop: Dark(crop.stride, "centre", 1),
        bound=0.0,
        border=1.25,
        why=_CUT,
    ),
    Codec(
        "MSRA unrounded, read by `softargmax-window`",
        unbiased,
        lambda crop: SoftArgmaxWindow(crop.stride, "centre", 10.0, 13),
        bound=0.0,
        border=1.25,
        why="near the border: the window is cut on one side",
    ),
    Codec(
        "UDP Gaussian, read by `udp`",
        udp,
        lambda crop: Udp(crop.stride, "udp", "gaussian", BLUR),
        bound=0.0,
        border=1.0,
        why=_HALF,
    ),
    Codec(
        "UDP combined, offsets everywhere, read by `udp`",
        combined,
        lambda crop: Udp(crop.stride, "udp", "combined", BLUR, RADIUS_FACTOR),
        bound=0.0,
        border=2.5,
        why="near the border: offsets are smoothed with their mirror images; a `blur_kernel` of 1 leaves them",
    ),
    Codec(
        "UDP combined, offsets in the disk alone, read by `udp`",
        combined_in_disks,
        lambda crop: Udp(crop.stride, "udp", "combined", BLUR, RADIUS_FACTOR),
        bound=0.8,
        border=5.2,
        why="offsets are smoothed with those beyond the disk, which training leaves open and this encoder sets to 0; a "
        "`blur_kernel` of 1 leaves them",
    ),
    Codec(
        "UDP combined, offsets in the disk alone, not smoothed",
        combined_in_disks,
        lambda crop: Udp(crop.stride, "udp", "combined", 1, RADIUS_FACTOR),
        bound=0.0,
        border=0.0,
    ),
    Codec(
        "mean of a map (AlphaPose), read by `expectation`",
        splats,
        lambda crop: Expectation(crop.stride, "centre"),
        bound=0.0,
        border=1.25,
        why=_MEAN,
    ),
    Codec(
        "mean of a softmax (integral), read by `softargmax`",
        logits,
        lambda crop: SoftArgmax(crop.stride, "centre", 1.0, 5),
        bound=0.0,
        border=1.25,
        why=_MEAN,
    ),
    Codec(
        "3D Gaussians (volume), read by `volume`",
        gaussian_volumes,
        volume_decoder,
        bound=0.0,
        border=2.6,
        why=f"near the border: Gaussians are cut on one side, so that their mean lies inwards; {_LAST}",
        crops=VOLUMES[:2],
    ),
    Codec(
        "mean of a softmax in three dimensions (integral), read by `volume`",
        volume_logits,
        volume_decoder,
        bound=0.0,
        border=1.25,
        why=_MEAN,
        crops=VOLUMES,
    ),
    Codec(
        "heatmap and offsets (PoseNet), read by `offset`",
        disks_and_offsets,
        lambda crop: Offset(crop.stride, "centre", "yyxx", "pixel"),
        bound=0.0,
        border=0.0,
        crops=POSENET,
    ),
    Codec(
        "SimCC, read by `simcc`",
        bins,
        lambda crop: SimCC(1 / crop.stride, "none"),
        bound=0.71,
        border=0.75,
        why="the encoder rounds to whole bins, as no decoder undoes: up to half a bin on each axis",
        crops=SIMCC,
    ),
    Codec(
        "SimCC unrounded, read by `simcc` with DARK's step",
        bins_unrounded,
        lambda crop: SimCC(1 / crop.stride, "dark", blur_kernel=BLUR),
        bound=0.0,
        border=2.0,
        why="near the border: an outermost bin stands for its neighbours, and nothing lies beyond it",
        crops=SIMCC,
    ),
    Codec(
        "mean of a softmax of bins, read by `simcc` with `softargmax`",
        bin_logits,
        lambda crop: SimCC(1 / crop.stride, "softargmax", beta=1.0),
        bound=0.0,
        border=1.25,
        why=_MEAN,
        crops=SIMCC,
    ),
    Codec(
        "YOLOv8-pose, read by `yolo-pose`, anchor-free",
        anchor_free,
        lambda _: yolo("anchor-free", bins=YOLO_BINS),
        bound=0.0,
        border=0.0,
        crops=PEOPLE,
    ),
    Codec(
        "YOLOv5-pose and YOLOv7-pose, read by `yolo-pose`, anchor-based",
        anchor_based,
        lambda _: yolo("anchor-based", anchors=YOLO_ANCHORS),
        bound=0.0,
        border=0.0,
        crops=PEOPLE,
    ),
    Codec(
        "BlazeFace and palm detection, read by `anchors`",
        anchor_offsets,
        ssd,
        bound=0.0,
        border=0.0,
        crops=PEOPLE,
    ),
    Codec(
        "CenterNet, read by `centernet`",
        middles,
        lambda crop: centernet(crop, "sizes"),
        bound=0.0,
        border=0.0,
        crops=PEOPLE,
    ),
    Codec(
        "TTFNet's distances and SPLite Palm, read by `centernet`",
        distances_to_sides,
        lambda crop: centernet(crop, "distances"),
        bound=0.0,
        border=0.0,
        crops=PEOPLE,
    ),
)


def rows() -> list[str]:
    """Lines of the table, in Markdown."""
    found = [
        "| targets and decoder | input / stride | inside: p95, px | max | near the border: p95, px | max |",
        "|---|---|---|---|---|---|",
    ]
    for codec in CODECS:
        for crop in codec.crops:
            errors = codec.measure(crop)
            figures = (f"{np.percentile(part, 95):.3f} | {part.max():.3f}" for part in (errors.inside, errors.border))
            found.append(f"| {codec.name} | {crop} | {' | '.join(figures)} |")
    return found


def reasons() -> list[str]:
    """Why some are not precise, a line for each."""
    return [f"* {codec.name}: {codec.why}." for codec in CODECS if codec.why]


def text() -> str:
    """What the page holds between its marks."""
    return "\n".join([BEGIN, *rows(), "", *reasons(), END])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.relative_to(ROOT)}")
    if not parser.parse_args().write:
        print("\n".join([*rows(), "", *reasons()]))
        return
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(before + text() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
