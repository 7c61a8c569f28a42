"""Results as a benchmark writes them, with every part filled."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np

from splite_deploy.bench.loop import STAGES
from splite_deploy.bench.report.pictures import Kind, Picture
from splite_deploy.bench.result import (
    SCHEMA_VERSION,
    BenchResult,
    CurvePoint,
    Evaluation,
    ImageError,
    KeypointDeviation,
    Memory,
    Sensors,
    Startup,
    Streams,
    Sustained,
    Windows,
)
from splite_deploy.bench.stats import LatencyStats
from splite_deploy.bundle.report import Layer, Percentiles
from splite_deploy.device.environment import Environment

ENVIRONMENT = Environment(
    cpu_model="Test CPU",
    logical_cores=4,
    usable_cores=2,
    cpu_quota_cores=None,
    governor=None,
    max_clock_mhz=1510.4,
    allowed_clock_mhz=None,
    memory_total_mib=7620,
    os="Test OS 1",
    kernel="Linux 6.1",
    architecture="aarch64",
    python="CPython 3.11.9",
    versions={"splite-deploy": "0.1.0", "numpy": "1.26.4"},
    board=None,
    l4t=None,
    thread_variables={"OMP_NUM_THREADS": "2"},
    load_average_1min=0.25,
    current_clock_mhz=1190.4,
    gpus=("NVIDIA RTX 2000",),
    gpu_driver="560.35",
    jetpack="6.1",
    nvpmodel="MAXN",
    jetson_clocks=True,
    temperatures_c={"cpu-thermal": 48.5},
)


SENSORS = Sensors(
    source="tegrastats",
    seconds=(0.0, 1.0),
    power_mw={"VDD_IN": (5000.0, 5200.0), "VDD_SOC": (None, 900.0)},
    temperatures_c={"cpu": (48.0, 49.5)},
    clocks_mhz={"gpu": (918.0, 918.0)},
    mean_power_mw={"VDD_IN": 5100.0, "VDD_SOC": 900.0},
    energy_rail="VDD_IN",
    energy_mj_per_frame=10.25,
    absent=("clock of the memory",),
)
CURVE = (CurvePoint(0, 480, 2.0, 3.0), CurvePoint(1, 490, 2.01, 2.5))
SUSTAINED = Sustained(2.0, 970, 485.0, CURVE, "steady", "p50 2.00 ms at first, 2.01 ms at last", SENSORS)
IMAGE = ImageError("images/0.jpg", (10.0, 12.5, 80.0, 90.0), 8.5)
EVALUATION = Evaluation("289 labels of hands", 289, 1.25, 1.6, 0.97, 0.92, 8.5, 6.0, None, (IMAGE,), (IMAGE,))

DEVIATION = KeypointDeviation(
    origin="recorded",
    crops=64,
    crops_from="64 images of hands",
    deviation_px=Percentiles(0.01, 0.25, 1.5),
    deviation_pct=Percentiles(0.01, 0.2, 1.2),
    depth=Percentiles(0.05, 0.4, 0.9),
    depth_unit="mm",
    violations=(),
)


def stats_of(p50_ms: float) -> LatencyStats:
    return LatencyStats(300, p50_ms, 0.01, p50_ms / 2, p50_ms, p50_ms * 1.1, p50_ms * 1.2, p50_ms * 2)


def bench_result(**changes: Any) -> BenchResult:
    result = BenchResult(
        schema_version=SCHEMA_VERSION,
        date_utc="2025-11-20T11:35:27+00:00",
        bundle="hand.splite",
        model="hand",
        artifact_file="model.onnx",
        artifact_sha256="ab" * 32,
        backend="ort",
        precision="fp32",
        batch=1,
        threads=None,
        opencv_threads=2,
        frames=300,
        warmup_frames=73,
        warmup_s=0.5,
        inputs_from="golden crops of the bundle",
        inputs_count=8,
        image_width_px=128,
        image_height_px=96,
        timer_overhead_us=0.05,
        stages=dict(zip(STAGES, map(stats_of, (0.125, 1.25, 0.625, 2.0, 1.1875)), strict=True)),
        environment=ENVIRONMENT,
        windows=Windows(100, (2.1, 2.0, 2.0, 2.01), stable=True, tolerance=0.03),
        samples_ms={"end_to_end": (2.0, 2.01, 1.99)},
        samples_every=100,
        affinity=(0, 1),
        model_bytes=2_464_136,
        startup=Startup(310.5, 25.25, 3.5),
        memory=Memory(60.0, 84.5, 90.25),
        sustained=SUSTAINED,
        streams=Streams(2, 600, 900.0, 1.8, stats_of(2.2)),
        accuracy=EVALUATION,
        layers=(Layer("/conv1", "Conv", "float32", 12.5), Layer("/head", "Conv", "float32", None)),
        run="0a1b2c3d",
        deviation=DEVIATION,
    )
    return dataclasses.replace(result, **changes)


_TYPES = ("float32", "float16", "int8")
_QUANTILES = ((0.001, 0.0002, 0.02), (0.05, 0.4, 2.5))
_LAYERS = {types: (Layer("/a", "Conv", types, 9.0), Layer("/b", "Add", types, 3.0)) for types in _TYPES}


def timed(count: int = 500, **changes: Any) -> BenchResult:
    """With single times, end to end."""
    times = np.random.default_rng(0).gamma(9, 0.2, count)
    return bench_result(samples_ms={"end_to_end": tuple(times.tolist())}, **changes)


def picture(kind: Kind = "worst", side: int = 32) -> Picture:
    """Noise of this height and width, which takes many bytes."""
    noise = np.random.default_rng(0).integers(0, 255, (side, side, 3)).astype(np.uint8)
    jpeg = bytes(cv2.imencode(".jpg", noise)[1].tobytes())
    return Picture(kind, IMAGE.image, "8.50 % of the box", "labels", jpeg, jpeg)


def three(**changes: Any) -> list[BenchResult]:
    """Three artifacts of one bundle; the fp16 is no faster than the fp32, and the int8 is."""
    half, whole = (KeypointDeviation("recorded", 64, "", *(2 * (Percentiles(*q),)), None, "", ()) for q in _QUANTILES)
    return [
        timed(layers=_LAYERS["float32"], **changes),
        timed(precision="fp16", artifact_sha256="cd" * 32, layers=_LAYERS["float16"], deviation=half, **changes),
        timed(
            precision="int8",
            artifact_sha256="ef" * 32,
            layers=_LAYERS["int8"],
            deviation=whole,
            stages={name: stats_of(one.p50_ms / 2) for name, one in bench_result().stages.items()},
            **changes,
        ),
    ]
