"""How families of published networks are trained: normalisation, box, padding, alignment and decoder, with sources.

``splite-deploy init --like NAME`` writes a recipe into ``model.toml``. What the file of a network tells by itself (its
size, layout, stride, split ratio) is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from splite_deploy.spec.model import Color
from splite_deploy.spec.view import Column

Reads = Literal["heatmap", "simcc", "coordinates", "yolo-pose"]
"""What a network of a family gives."""


@dataclass(frozen=True)
class Recipe:
    """How a family is trained.

    Attributes:
        about: What the family is, and where these values were read.
        reads: What its networks give.
        height: Of the input, where the file leaves it open.
        width: The same.
        color: Channel order.
        mean: On the 0-255 scale, in the order of ``color``.
        std: The same.
        box_padding: Factor on the box.
        pad_value: Grey value outside the image.
        decoder: Fields of the decoder, its type among them, but for what the file tells.
        logits: The same for networks of the family whose heatmaps are logits, which get a sigmoid; None where there are
            none.
        columns: What the columns of coordinates are, in the network's order; empty where the file tells.
        presence: Whether the first output of one number is the score of all keypoints.
        heads: What its outputs of one number are, in their order; see `splite_deploy.decoders.heads`.
        rotate_by: Names of the keypoints by which its crops are turned; None where they are not.
        letterbox: Where a whole image lies in the input; None for networks that are given boxes.
        said: What to know of a field, by its name, as comments in model.toml.
    """

    about: str
    reads: Reads
    height: int
    width: int
    color: Color
    mean: tuple[float, ...]
    std: tuple[float, ...]
    box_padding: float
    pad_value: int
    decoder: Mapping[str, Any]
    logits: Mapping[str, Any] | None = None
    columns: tuple[Column, ...] = ()
    presence: bool = False
    heads: tuple[str, ...] = ()
    rotate_by: tuple[str, str] | None = None
    letterbox: Literal["centre", "corner"] | None = None
    said: Mapping[str, str] = field(default_factory=dict)


_IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Mean and deviation of ImageNet's red, green and blue."""
_RAW = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
_SHARES = (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)

RECIPES: Mapping[str, Recipe] = {
    "rtmpose": Recipe(
        # configs/body_2d_keypoint/rtmpose/coco/rtmpose-s_8xb256-420e_coco-256x192.py; GetBBoxCenterScale pads by 1.25,
        # cv2.warpAffine leaves black outside; SimCCLabel.decode divides the highest bin by the split ratio
        about="RTMPose (Jiang et al. 2023, arXiv 2303.07399), by its configs in mmpose",
        reads="simcc",
        height=256,
        width=192,
        color="rgb",
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        box_padding=1.25,
        pad_value=0,
        decoder={"type": "simcc", "refine": "none"},
    ),
    "vitpose": Recipe(
        # configs/body_2d_keypoint/topdown_heatmap/coco/td-hm_ViTPose-small_8xb64-210e_coco-256x192.py: UDPHeatmap of
        # sigma 2, whose decode refines by DARK with a blur of 11 cells
        about="ViTPose (Xu et al. 2022, arXiv 2204.12484), by its configs in mmpose",
        reads="heatmap",
        height=256,
        width=192,
        color="rgb",
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        box_padding=1.25,
        pad_value=0,
        decoder={"type": "udp", "target": "gaussian", "blur_kernel": 11, "alignment": "udp"},
    ),
    "hrnet": Recipe(
        # experiments/coco/hrnet/w32_256x192_adam_lr1e-3.yaml (COLOR_RGB: true, SIGMA: 2), lib/dataset/coco.py (scale
        # * 1.25), lib/core/inference.py get_final_preds (a quarter of a cell towards the higher neighbour)
        about="HRNet (Sun et al. 2019, arXiv 1902.09212), by github.com/leoxiaobin/deep-high-resolution-net.pytorch",
        reads="heatmap",
        height=256,
        width=192,
        color="rgb",
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        box_padding=1.25,
        pad_value=0,
        decoder={"type": "argmax", "offset": "quarter", "alignment": "centre"},
    ),
    "simplebaseline": Recipe(
        # lib/dataset/JointsDataset.py reads by cv2.imread and does not change the order; pose_estimation/train.py
        # normalises with ImageNet's values in the order red, green, blue all the same
        about="Simple Baselines (Xiao et al. 2018, arXiv 1804.06208), by github.com/microsoft/human-pose-estimation"
        ".pytorch",
        reads="heatmap",
        height=256,
        width=192,
        color="bgr",
        mean=_IMAGENET[0],
        std=_IMAGENET[1],
        box_padding=1.25,
        pad_value=0,
        decoder={"type": "argmax", "offset": "quarter", "alignment": "centre"},
        said={"color": 'as the authors trained, with the mean of red on blue; mmpose\'s td-hm_res* are "rgb"'},
    ),
    "alphapose": Recipe(
        # alphapose/utils/presets/simple_transform.py: pixels / 255 minus 0.406, 0.457, 0.480 on red, green and blue, no
        # deviation; alphapose/utils/bbox.py: scale_mult 1.25; alphapose/utils/transforms.py: heatmap_to_coord_simple of
        # networks of MSELoss, and heatmap_to_coord_simple_regress with a sigmoid of those of L1JointRegression
        about="AlphaPose (Fang et al. 2022, arXiv 2211.03375), by github.com/MVIG-SJTU/AlphaPose",
        reads="heatmap",
        height=256,
        width=192,
        color="rgb",
        mean=(103.53, 116.535, 122.4),
        std=_SHARES[1],
        box_padding=1.25,
        pad_value=0,
        decoder={"type": "argmax", "offset": "quarter", "alignment": "centre"},
        logits={"type": "expectation", "alignment": "centre"},
    ),
    "movenet": Recipe(
        # www.tensorflow.org/hub/tutorials/movenet: the whole image, tf.image.resize_with_pad to a square, RGB of 0 to
        # 255; (1, 1, 17, 3) of y, x and score as shares of the input
        about="MoveNet SinglePose (tfhub.dev/google/movenet)",
        reads="coordinates",
        height=192,
        width=192,
        color="rgb",
        mean=_RAW[0],
        std=_RAW[1],
        box_padding=1.0,
        pad_value=0,
        decoder={"type": "coordinates", "scale": "unit"},
        columns=("y", "x", "score"),
    ),
    "mediapipe-hand": Recipe(
        # mediapipe/modules/hand_landmark/hand_landmark_cpu.pbtxt: 224 x 224, values of 0 to 1; 63 numbers are x, y and
        # z in input pixels. The box: HAND_BOX_ENLARGE_FACTOR of opencv_zoo's handpose_estimation_mediapipe
        about="MediaPipe Hands' landmark network (Zhang et al. 2020, arXiv 2006.10214)",
        reads="coordinates",
        height=224,
        width=224,
        color="rgb",
        mean=_SHARES[0],
        std=_SHARES[1],
        box_padding=1.65,
        pad_value=0,
        decoder={
            "type": "coordinates",
            "scale": "pixel",
            "columns": ("x", "y", "z"),
            "root_keypoint": 0,
            "unit": "pixel",
            "scale_bones": ((0, 5), (0, 9), (0, 13), (0, 17)),
        },
        columns=("x", "y", "z"),
        presence=True,
        # hand_landmark_cpu.pbtxt: the second output is the presence, the third how likely the label "Left" is, which in
        # a picture that is not mirrored is a right hand. Turned as by hand_landmark_landmarks_to_roi.pbtxt, which takes
        # the mean of three knuckles and their middle joints for the middle one
        heads=("presence", "handedness"),
        rotate_by=("wrist", "middle_mcp"),
        said={"box_padding": "on a box around the keypoints"},
    ),
    "yolo-pose": Recipe(
        # ultralytics/data/augment.py LetterBox (114, centred), engine/predictor.py (/ 255, RGB), cfg/default.yaml (iou
        # 0.7, max_det 300) and engine/model.py (conf 0.25 to predict)
        about="YOLO pose networks (Maji et al. 2022, arXiv 2204.06806), by github.com/ultralytics/ultralytics",
        reads="yolo-pose",
        height=640,
        width=640,
        color="rgb",
        mean=_SHARES[0],
        std=_SHARES[1],
        box_padding=1.0,
        pad_value=114,
        letterbox="centre",
        decoder={"type": "yolo-pose", "min_score": 0.25, "overlap": 0.7, "max_people": 300},
    ),
}
"""Recipes by the name that ``--like`` takes."""
