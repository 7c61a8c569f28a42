"""A result in plain sentences, each of which can stand alone."""

from __future__ import annotations

from collections.abc import Iterator

from splite_deploy.bench.loop import END_TO_END, MODEL_ONLY
from splite_deploy.bench.result import BenchResult, Evaluation, KeypointDeviation, Sustained
from splite_deploy.bundle.report import BoxAccuracy


def sentences(result: BenchResult) -> list[str]:
    """What the table of latencies does not hold: conditions, steadiness, and everything else that was measured."""
    moved = [] if result.deviation is None else [_moved(result.deviation)]
    return [_latency(result), *_conditions(result), *cold_start(result), *moved, *measured_besides(result)]


def cold_start(result: BenchResult) -> list[str]:
    """What a process of its own pays before its first result, and the memory that it takes."""
    said = []
    if result.startup is not None:
        start = result.startup
        said.append(
            f"A cold start imports in {start.import_ms:.0f} ms, loads in {start.load_ms:.0f} ms and has its first "
            f"inference after {start.first_inference_ms:.1f} ms more."
        )
    if result.memory is not None:
        memory = result.memory
        said.append(
            f"Its process has {memory.rss_before_mib:.0f} MiB before loading, {memory.rss_steady_mib:.0f} MiB while it "
            f"runs, {memory.rss_peak_mib:.0f} MiB at most."
        )
    return said


def under_streams(result: BenchResult) -> str:
    """The run of ``--streams``; empty where there was none."""
    streams = result.streams
    if streams is None:
        return ""
    return (
        f"{streams.count} streams at once: {streams.frames_per_second:.1f} frames per second together, "
        f"{streams.speed_up:.2f} times one alone; p50 {streams.latency.p50_ms:.3f} ms, "
        f"p99 {streams.latency.p99_ms:.3f} ms."
    )


def _moved(found: KeypointDeviation) -> str:
    pixels, parts = found.deviation_px, found.deviation_pct
    depth = "" if found.depth is None else f"; depth by {found.depth.p95:.2g} {found.depth_unit} (p95)"
    return (
        f"Keypoints lie {pixels.p95:.2g} px (p95) and at most {pixels.max:.2g} px from the original network's, "
        f"{parts.p95:.2g} % and {parts.max:.2g} % of the input's longer side{depth}: {compared_on(found)}."
    )


def compared_on(found: KeypointDeviation) -> str:
    """What a deviation is of, as a part of a sentence."""
    if found.origin == "recorded":
        return f"recorded when the bundle was made, on {found.crops} crops"
    return f"measured here, on {found.crops} golden crops"


def measured_besides(result: BenchResult) -> Iterator[str]:
    """The runs of ``--duration``, ``--streams`` and ``--eval``."""
    if result.sustained is not None:
        yield from _sustained(result.sustained)
    if said := under_streams(result):
        yield said
    if result.accuracy is not None:
        yield _accuracy(result.accuracy)


def _latency(result: BenchResult) -> str:
    model_only = result.stages[MODEL_ONLY].p50_ms
    crops = f" of {result.batch} crops" if result.batch > 1 else ""
    parts = f"model only p50 {model_only:.3f} ms; "
    if END_TO_END in result.stages:
        end_to_end = result.stages[END_TO_END].p50_ms
        parts = (
            f"end to end p50 {end_to_end:.3f} ms minus model only p50 {model_only:.3f} ms = "
            f"{result.overhead_ms:.3f} ms overhead; "
        )
    return f"{result.label}: {parts}{result.frames_per_second:.1f} frames{crops} per second at p50."


def ran_by(result: BenchResult) -> str:
    """What ran the network's nodes, read back, as a sentence without its stop; empty where nobody asked."""
    return f"Ran by {' and '.join(map(str, result.placements))}" if result.placements else ""


def _conditions(result: BenchResult) -> list[str]:
    threads = f"threads: {'default of the backend' if result.threads is None else result.threads}"
    cores = "" if result.affinity is None else f" on cores {', '.join(map(str, result.affinity))}"
    images = f" of at most {result.image_width_px} x {result.image_height_px} px" if result.image_width_px else ""
    said = [
        f"{result.frames} frames after {result.warmup_frames} of warm-up, {threads}{cores}, "
        f"{result.inputs_from} ({result.inputs_count}{images})."
    ]
    if result.people_per_image is not None:
        said.append(f"It finds {result.people_per_image:.3g} per image, on average.")
    if result.windows is not None:
        windows = result.windows
        p50 = ", ".join(f"{value:.3f}" for value in windows.p50_ms)
        if windows.stable:
            said.append(
                f"Steady: the last three windows of {windows.frames} frames agree within {100 * windows.tolerance:g} %."
            )
        else:
            said.append(
                f"UNSTABLE: no three windows of {windows.frames} frames in a row agree within "
                f"{100 * windows.tolerance:g} % (p50 {p50} ms). Do not quote these figures; see what else runs here."
            )
    if result.placements:
        said.append(f"{ran_by(result)}.")
    if result.backend == "replay":
        said.append("These are recorded outputs: no network ran.")
    if result.undescribed:
        said.append("No manifest describes this engine: its precision is unknown and its results are unchecked.")
    return said


def _sustained(run: Sustained) -> list[str]:
    said = [
        f"Over {run.seconds:.0f} s without a pause: {run.frames_per_second:.1f} frames per second, {run.state} "
        f"({run.reason})."
    ]
    sensors = run.sensors
    if sensors is None:
        return [*said, "Power, temperatures and clocks could not be read here."]
    if sensors.mean_power_mw:
        rails = ", ".join(f"{rail} {power:.0f} mW" for rail, power in sensors.mean_power_mw.items())
        said.append(f"Mean power ({sensors.source}): {rails}.")
    if sensors.energy_mj_per_frame is not None:
        said.append(f"{sensors.energy_mj_per_frame:.2f} mJ per frame of {sensors.energy_rail}, idle power contained.")
    if sensors.absent:
        said.append(f"Could not be read: {', '.join(sensors.absent)}.")
    return said


def boxes_found(found: BoxAccuracy | None) -> Iterator[str]:
    """How well boxes are found, in parts of a sentence; nothing where that was not measured."""
    if found is None:
        return
    yield f"{found.boxes} boxes: AP@0.3 {found.ap_30:.4f}, AP@0.5 {found.ap_50:.4f}"
    yield f"recall at {found.min_score:g}: {found.recall_30:.4f} (overlap 0.3), {found.recall_50:.4f} (0.5)"
    if found.false_alarms is not None:
        yield f"{found.false_alarms:.3f} false alarms in each of {found.empty_images} pictures that show nothing"


def labels_of(found: Evaluation) -> str:
    """Which labels it was evaluated on, and where the angles of boxes came from."""
    turned = {
        None: "",
        "labels": ", turned by the angles of the labels",
        "found": ", turned as the network finds them",
        "two-passes": ", turned in two passes",
    }
    return f"{found.labels_from}{turned[found.angles]}"


def _accuracy(found: Evaluation) -> str:
    parts = [
        *(() if found.epe_px is None else (f"mean error {found.epe_px:.2f} px, {found.epe_box_pct:.2f} % of box",)),
        *(() if found.pck_05 is None else (f"PCK@0.05 {found.pck_05:.4f}",)),
        *(() if found.pck_auc is None else (f"AUC {found.pck_auc:.4f}",)),
        *(() if found.mpjpe_mm is None else (f"MPJPE {found.mpjpe_mm:.2f} mm",)),
        *(() if found.pa_mpjpe_mm is None else (f"PA-MPJPE {found.pa_mpjpe_mm:.2f} mm",)),
        *(() if found.oks_ap is None else (f"AP (OKS) {found.oks_ap:.4f}",)),
        *boxes_found(found.boxes),
        *(() if found.handedness is None else (f"handedness {found.handedness:.4f} ({found.handedness_hands})",)),
    ]
    nobody = "" if found.images else " Lower min_score of [decoder] in model.toml, or check its [input]."
    return f"This file on {labels_of(found)}: {', '.join(parts)}.{nobody}"
