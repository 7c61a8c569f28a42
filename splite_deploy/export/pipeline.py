"""Checkpoint to verified bundle in one pass, readable from top to bottom: build, write, compare, time, each once."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splite_deploy import __version__
from splite_deploy.arrays import FloatArray
from splite_deploy.bench.evaluation import evaluation_labels, evaluation_scenes
from splite_deploy.bench.flip_test import check_flip_test
from splite_deploy.bundle import (
    FORMAT_VERSION,
    GOLDEN,
    MANIFEST,
    REPORT,
    REPORT_VERSION,
    Artifact,
    Bundle,
    Graph,
    Manifest,
    Report,
    Source,
    new_bundle,
    write_golden,
)
from splite_deploy.bundle.report import Calibration, Parity
from splite_deploy.decoders import PeopleDecoder
from splite_deploy.device.int8 import read_int8_instructions
from splite_deploy.errors import CalibrationError, ExportError, SpecError, SpliteError
from splite_deploy.export.artifacts import (
    FP32_LABEL,
    GraphFile,
    GraphFiles,
    Measured,
    TracedRun,
    begin_tflite,
    compare_graph,
    deviation_hint,
    export_limits,
    likely_cause,
    measure_graph,
    measure_ncnn,
    measure_tflite,
    tflite_compiler,
    write_graphs,
)
from splite_deploy.export.calibrate import Calibrated, Given, find_ranges, read_given
from splite_deploy.export.crops import make_crops
from splite_deploy.export.failures import Failures, PartialExportError
from splite_deploy.export.first_difference import (
    explained,
    from_graph,
    from_torch,
    of_graph,
    of_torch,
)
from splite_deploy.export.golden import make_golden, prepare_image, with_room_on_golden
from splite_deploy.export.graph.torch_to_onnx import MIN_OPSET, check_output_names, onnx_from_network, simplify
from splite_deploy.export.graph.view import keep_pixels_float
from splite_deploy.export.graph.walk import run_graph
from splite_deploy.export.options import ExportOptions as ExportOptions
from splite_deploy.export.parts import in_parts
from splite_deploy.export.quant.engine_graphs import rounding_to_nearest
from splite_deploy.export.quant.qdq import has_qdq
from splite_deploy.export.quant.ranges import Ranges
from splite_deploy.export.quant.search import Goal, keep_limits
from splite_deploy.export.quant.trained import has_quantisers, without_quantisers
from splite_deploy.export.quant.trained_graph import TrainedGraph, split_quantisation
from splite_deploy.export.recommend import device_notes, recommend
from splite_deploy.export.reference import Explain, Reference, unexplained
from splite_deploy.export.source.formats import ImportedOnnx
from splite_deploy.export.source.load import LoadedModel, load_source
from splite_deploy.export.variants import (
    FP32,
    TYPINGS,
    Variants,
    artifact_file,
    check_trained,
    engine_file,
    graph_label,
    make_variants,
)
from splite_deploy.files import writing
from splite_deploy.metrics.labels import SceneBoxes
from splite_deploy.metrics.parity import Outputs, limits_of
from splite_deploy.runtime.backends import find_backend
from splite_deploy.runtime.nobody import nobody_by
from splite_deploy.runtime.preprocess import Preprocessor
from splite_deploy.runtime.scores import COMPARED, check_candidates, check_scores
from splite_deploy.runtime.verify import run_each
from splite_deploy.spec import LimitSpec, Precision

if TYPE_CHECKING:
    from splite_deploy.compile.tflite.compiler import TfliteCompiler
    from splite_deploy.compile.tflite.converter import Converted
    from splite_deploy.compile.tflite.quantise import QuantisationReport

_LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxruntime", "onnxsim", "onnxscript", "numpy", "opencv-python-headless")
_TFLITE_LIBRARIES = ("ai-edge-litert", "ai-edge-quantizer")
_STAGE_HINT = (
    "Look for layers in training mode or randomness in the network, and for one that ONNX writes in another form than "
    "torch, such as logsigmoid(x), which stays finite as -softplus(-x); if the deviation is acceptable, raise [limits] "
    "in model.toml."
)
_OVERFLOW_HINT = "Check its weights, and mean and std in model.toml: the comparison has nothing to go by."
Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Converted:
    """The fp32 graph that everything else is made from.

    Attributes:
        file: Simplified, without fused pre- and postprocessing.
        opset: Its ONNX operator set.
        run: It on the reference's crops.
        stages: How far each stage of the conversion moved the keypoints.
    """

    file: GraphFile
    opset: int
    run: TracedRun
    stages: tuple[Parity, ...]


@dataclass(frozen=True)
class _Basis:
    """What every artifact is made from, and what it is compared with.

    Attributes:
        fp32: The graph.
        reference: What is compared with.
        golden: Outputs of the golden image, by role.
        trained: The graph with its quantisation, of a network that was trained for int8; None for others.
        calibration: What the ranges were measured on; None where nothing was calibrated.
        ranges: Ranges of the activations; None where nothing needs them.
        pixels: Crops that the ranges are of; None without them.
    """

    fp32: _Converted
    reference: Reference
    golden: Outputs
    trained: TrainedGraph | None = None
    calibration: Calibrated | None = None
    ranges: Ranges | None = None
    pixels: NDArray[np.uint8] | None = None


def export_bundle(
    checkpoint: Path,
    output: Path,
    *,
    model: Path | None = None,
    options: ExportOptions | None = None,
    progress: Progress = lambda message: None,
) -> Bundle:
    """Exports a checkpoint to a bundle whose every conversion was compared with the original network.

    Args:
        checkpoint: Weights, a torch.export program, a TorchScript archive, or an ONNX graph, which is then itself what
            is compared with.
        output: Folder to make, by custom ``NAME.splite``.
        model: ``model.toml``; None is the one beside the checkpoint.
        options: How to export.
        progress: Called with each step as it begins.

    Returns:
        The new bundle, opened and checked.

    Raises:
        SpliteError: Everything that can be wrong with the inputs, and what is wrong with the artifacts if none passed;
            nothing is left behind then.
        PartialExportError: Some of the artifacts failed; the bundle is written and holds the others.
    """
    options = options or ExportOptions()
    failures = Failures(options.all_or_nothing)
    with (
        new_bundle(output, overwrite=options.overwrite) as folder,
        tflite_compiler(options, failures) as compiler,  # it loads while torch exports
        ExitStack() as stack,
    ):
        progress("reading the checkpoint")
        source = load_source(checkpoint, model, options)
        spec = source.spec
        limits = {precision: export_limits(precision, spec, options) for precision in ("fp32", *options.precisions)}
        labels = evaluation_labels(options.evaluation, spec.keypoint_count) if options.evaluation else []
        scenes: Mapping[Path, SceneBoxes] = {}
        if options.evaluation and isinstance(spec.decoder, PeopleDecoder):
            scenes = evaluation_scenes(options.evaluation)
        if options.flip_test:
            check_flip_test(spec)

        photographs, given = options.calibration_images, None
        try:
            given = read_given(checkpoint, model, source, options, progress)
        except (CalibrationError, SpecError) as err:
            options = _without_calibrated(options, err, failures)

        progress("cropping images for the comparison")
        crops = make_crops(
            options.images,
            options.crops,
            spec.input,
            source.host,
            calibration=photographs,
            progress=progress,
        )
        image = prepare_image(crops.example, spec.input)
        normalise = Preprocessor(spec.input, spec.input.color).normalise
        tensors = normalise(np.concatenate([crops.pixels, image.crop[None]]))
        outputs: Outputs = source.run(tensors)
        check_scores(outputs, spec, COMPARED, ExportError)
        check_candidates(_without_last(outputs), spec, ExportError)
        nobody = nobody_by(lambda pixels: source.run(normalise(pixels)), spec)
        reference = Reference(source.name, spec, crops.pixels, _without_last(outputs), crops.origin, nobody)

        with writing(output):
            basis = _Basis(_convert(source, reference, options, stack, progress), reference, _last(outputs))
            if has_qdq(basis.fp32.file.model):
                basis = _of_trained(basis, source, tensors, options, stack)
            elif options.calibrates:
                try:
                    basis = _calibrated(basis, checkpoint, model, source, options, progress, given)
                except (CalibrationError, SpecError) as err:
                    options = _without_calibrated(options, err, failures)
            fp32, reference, calibration = basis.fp32, basis.reference, basis.calibration
            if compiler is not None:  # works on its own while the other files are made here
                begin_tflite(compiler, fp32.file, spec, basis.pixels, options)
            likely = likely_cause(calibration)
            cpu = read_int8_instructions()
            int8_limits = export_limits("int8", spec, options)
            goal = Goal(reference, int8_limits, deviation_hint("ort", "int8", likely), progress)
            made = make_variants(fp32.file.model, basis.ranges, goal, options, cpu, basis.trained)
            progress("writing the graphs")
            files = write_graphs(folder, made, spec, options)

            requested = _artifacts(options, basis.trained is not None)
            tflite: dict[Precision, Artifact] = {}
            if compiler is not None:
                tflite = _make_tflite(compiler, requested, folder, basis, goal, made, options, failures, progress)
            measured: list[Measured] = []
            for backend, precision in sorted(requested, key=lambda one: one[1] != "fp32"):  # others are made from it
                hint = deviation_hint(backend, precision, likely)
                with failures.kept(f"{backend} {precision}"):
                    if find_backend(backend).export == "ncnn":
                        progress(f"making {backend} {precision}")
                        limit, compared = limits[precision], (reference, options, hint, stack)
                        measured.append(measure_ncnn(fp32.file, folder, backend, precision, limit, *compared))
                    elif find_backend(backend).export != "tflite":
                        file = files[artifact_file(precision)]
                        progress(f"comparing {backend} {precision}")
                        artifact = file.artifact(precision, limits[precision], backend)
                        variant = file, artifact, made.graphs[file.name]
                        explain = from_graph(fp32.file.model, made.graphs[file.name], precision)
                        one = measure_graph(*variant, fp32.run, reference, options, hint, stack, explain)
                        if options.parts > 1 and backend == "ort":
                            progress(f"cutting {backend} {precision} into {options.parts} parts")
                            one = in_parts(one, file, folder, options.parts, reference, stack, progress)
                        measured.append(one)
                    elif compiler is not None and precision in tflite:  # its conversion did not fail
                        failures.check(f"{backend} fp32")
                        progress(f"comparing {backend} {precision}")
                        artifact = replace(tflite[precision], backend=backend, limits=limits[precision])
                        tflite_variant = folder / artifact.file, artifact, fp32.file.model, compiler
                        measured.append(measure_tflite(*tflite_variant, reference, options, hint, stack))
            measured.sort(key=lambda one: requested.index((one.artifact.backend, one.artifact.precision)))
            graphs, graph_parity = _engine_graphs(
                files, measured, limits, reference, options, likely, failures, progress
            )
            if not measured and not graphs:
                failures.raise_first()

            recommendation = None
            if len(measured) > 1 or (measured and labels):
                layers = {one.artifact.label: one.layers for one in measured}
                notes = device_notes(layers, cpu, trained=basis.trained is not None, reduced=made.reduced)
                recommendation = recommend(
                    measured,
                    reference,
                    labels,
                    scenes,
                    progress,
                    output.name,
                    notes,
                    flip_test=options.flip_test,
                    searches=made.searches,
                )
            progress("writing the bundle")
            most = options.golden_crops
            golden = write_golden(folder / GOLDEN, make_golden(reference, image, basis.golden, most))
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                model=spec,
                source=Source(checkpoint.name, source.checkpoint_sha256, __version__),
                artifacts=tuple(with_room_on_golden(one.artifact, one.session, reference, most) for one in measured),
                golden=golden,
                graphs=graphs,
            )
            report = Report(
                report_version=REPORT_VERSION,
                opset=fp32.opset,
                versions={**_versions(options), **({} if compiler is None else compiler.versions)},
                notes=(*source.notes, *(() if calibration is None else calibration.notes), *made.notes),
                parity=(
                    *fp32.stages,
                    *(one.deviation.parity for one in measured if one.artifact.label != FP32_LABEL or options.fuses),
                    *graph_parity,
                ),
                calibration=_calibration_record(calibration, made),
                searches=tuple(made.searches),
                recommendation=recommendation,
                layers={one.artifact.label: one.layers for one in measured if one.layers},
                failures=tuple(failures.found),
            )
            for path in {folder / name for name in files} | {folder / one.file for one in tflite.values()}:
                if path.name not in {held.file for held in manifest.files}:  # it failed
                    path.unlink()
            with writing(output):
                (folder / REPORT).write_text(report.to_json(), encoding="utf-8")
                (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    bundle = Bundle(output, manifest)
    if failures.found:
        raise PartialExportError(bundle, failures.found)
    return bundle


def _convert(
    source: LoadedModel | ImportedOnnx,
    reference: Reference,
    options: ExportOptions,
    stack: ExitStack,
    progress: Progress,
) -> _Converted:
    """The simplified fp32 graph of a network, compared after every stage.

    Raises:
        ExportError: A graph cannot be made.
        ParityError: A stage moves the keypoints by more than the limits of the model spec.
    """
    spec, stages, limits = source.spec, [], limits_of("fp32", source.spec)
    own = of_graph(source.model) if isinstance(source, ImportedOnnx) else of_torch(source.network)
    reference.check_finite("The network itself", reference.outputs, _OVERFLOW_HINT, own)
    if isinstance(source, ImportedOnnx):
        raw, opset = source.model, source.opset
    else:
        opset = MIN_OPSET if options.opset is None else options.opset
        progress("torch -> ONNX")
        raw = onnx_from_network(source.network, spec, opset=opset, dynamic_batch=options.dynamic_batch)
        if not source.host.view.is_canonical:
            raw = keep_pixels_float(raw)
        explain = from_torch(source.network, raw)
        if has_qdq(raw):
            # Sums in another order round to another step now and then, and that one moves all that follow: two runs of
            # an int8 network differ by about what int8 differs from float. The float form is compared strictly.
            limits, explain = export_limits("int8", spec, options), unexplained
        stages.append(compare_graph("onnx", raw, reference, limits, _STAGE_HINT, explain))
    progress("ONNX -> simplified ONNX")
    metadata = {"splite_model": json.dumps(spec.to_dict()), "splite_version": __version__}
    simplified = simplify(raw, metadata=metadata)
    check_output_names(simplified, spec)
    explain = from_graph(raw, simplified, "fp32")
    file = GraphFile.of(FP32, simplified, spec.decoder)
    return _checked(file, "simplified", opset, stages, reference, limits, explain, stack)


def _of_trained(
    basis: _Basis, source: LoadedModel | ImportedOnnx, tensors: FloatArray, options: ExportOptions, stack: ExitStack
) -> _Basis:
    """The basis of a network that was trained for int8, and brings its quantisation along.

    int8 alone is compared with what was trained. With other precisions beside it the network without its quantisers is
    what everything is compared with.

    Args:
        basis: With the graph that holds the quantisation.
        source: The network.
        tensors: Crops of the comparison and, last, that of the golden image; normalised.
        options: How to export.
        stack: Closes the session.

    Raises:
        UsageError: The options do not fit such a network.
        ExportError: The quantisation cannot be parted from the graph.
        ParityError: Without it the graph computes something else than the network without its quantisers.
    """
    check_trained(options)
    quantised, reference = basis.fp32, basis.reference
    trained = split_quantisation(quantised.file.model)
    floats = _float_outputs(source, trained.floating, tensors)
    normalise = Preprocessor(source.spec.input, source.spec.input.color).normalise
    nobody = nobody_by(lambda pixels: _float_outputs(source, trained.floating, normalise(pixels)), source.spec)
    of_floats = replace(reference, outputs=_without_last(floats), nobody=nobody)
    file = GraphFile.of(FP32, trained.floating, source.spec.decoder)
    limits = limits_of("fp32", source.spec)
    stages = quantised.stages
    form = _checked(file, "float form", quantised.opset, stages, of_floats, limits, unexplained, stack)
    found = trained.ranges(reference.tensors)
    basis = replace(basis, trained=trained, ranges=found, pixels=reference.pixels)
    if options.precisions == ("int8",):
        return replace(basis, fp32=replace(form, run=quantised.run))
    return replace(basis, fp32=form, reference=of_floats, golden=_last(floats))


def _without_calibrated(options: ExportOptions, err: SpliteError, failures: Failures) -> ExportOptions:
    """The options without the precisions that need ranges, which failed with ``err``; fp32 needs none.

    Raises:
        SpliteError: ``err``, where fp32 was not requested or is not to be kept alone.
    """
    if "fp32" not in options.precisions:
        raise err
    lost = [f"{backend} {one}" for one in options.precisions if one != "fp32" for backend in options.backends]
    failures.keep(err, *lost)
    return replace(
        options,
        precisions=("fp32",),
        calibration=None,
        allow_random_calibration=False,
        max_shift_px=None,
        max_shift_mm=None,
        reduce_range=False,
        int8_recipe="full-integer",
    )


def _calibrated(
    basis: _Basis,
    checkpoint: Path,
    model: Path | None,
    source: LoadedModel | ImportedOnnx,
    options: ExportOptions,
    progress: Progress,
    given: Given | None,
) -> _Basis:
    """The basis with ranges of the activations; see `splite_deploy.export.calibrate.find_ranges`."""
    graph, session = basis.fp32.file.model, basis.fp32.run.session
    found = find_ranges(
        graph,
        checkpoint,
        model,
        source,
        basis.reference,
        options,
        lambda tensors: run_each(session, tensors, source.spec),
        progress,
        given,
    )
    return replace(basis, calibration=found, ranges=found.ranges, pixels=found.pixels)


def _float_outputs(source: LoadedModel | ImportedOnnx, floating: ir.Model, tensors: FloatArray) -> Outputs:
    """What a network that was trained for int8 gives without its quantisers, by role, N first."""
    if isinstance(source, LoadedModel) and has_quantisers(source.network):
        with without_quantisers(source.network):
            return source.run(tensors)
    return run_graph(floating, tensors)


def _checked(
    file: GraphFile,
    stage: str,
    opset: int,
    stages: Sequence[Parity],
    reference: Reference,
    limits: LimitSpec,
    explain: Explain,
    stack: ExitStack,
) -> _Converted:
    """A float32 graph, compared with the reference as the last stage of its conversion."""
    run = TracedRun(file.content, file.artifact("fp32", limits), reference, stack)
    parity = reference.compare(stage, run.outputs, limits, _STAGE_HINT, explain).parity
    reference.check_session(stage, run.session, limits)
    return _Converted(file, opset, run, (*stages, parity))


def _without_last(outputs: Outputs) -> dict[str, FloatArray]:
    """Outputs by role of all crops but the last, which is that of the golden image."""
    return {role: values[:-1] for role, values in outputs.items()}


def _last(outputs: Outputs) -> dict[str, FloatArray]:
    """Outputs by role of the last crop."""
    return {role: values[-1:] for role, values in outputs.items()}


def _artifacts(options: ExportOptions, trained: bool) -> list[tuple[str, Precision]]:
    """Backend and precision of every artifact, in the order requested; the fp32 graph is last where it was not."""
    requested = [(backend, precision) for backend in options.backends for precision in options.precisions]
    fp32: list[tuple[str, Precision]] = [] if trained else [("ort", "fp32")]
    return [one for one in dict.fromkeys([*requested, *fp32]) if find_backend(one[0]).export != "trt"]


def _engine_graphs(
    files: GraphFiles,
    measured: Sequence[Measured],
    limits: Mapping[Precision, LimitSpec],
    reference: Reference,
    options: ExportOptions,
    likely: str,
    failures: Failures,
    progress: Progress,
) -> tuple[tuple[Graph, ...], list[Parity]]:
    """What TensorRT's engines are built from, and how far those files deviate that are no artifacts; each file once."""
    if not options.makes("trt"):
        return (), []
    graphs, parity = [], []
    compared = {one.artifact.file for one in measured}
    for precision in options.precisions:
        for typing in TYPINGS:
            label = graph_label(precision, typing)
            with failures.kept(label):
                file = files[engine_file(precision, typing)]
                graph = file.engine_graph(precision, typing, limits[precision])
                if file.name not in compared:
                    progress(f"comparing {label}")
                    hint = deviation_hint("trt", precision, likely)
                    model = rounding_to_nearest(file.model)
                    parity.append(compare_graph(label, model, reference, graph.limits, hint))
                    compared.add(file.name)
                graphs.append(graph)
    return tuple(graphs), parity


def _make_tflite(
    compiler: TfliteCompiler,
    requested: Sequence[tuple[str, Precision]],
    folder: Path,
    basis: _Basis,
    goal: Goal,
    made: Variants,
    options: ExportOptions,
    failures: Failures,
    progress: Progress,
) -> dict[Precision, Artifact]:
    """Waits for the conversion and writes the TFLite files that were requested; those that fail are missing."""
    wanted: dict[Precision, list[str]] = {}
    for backend, precision in requested:
        if find_backend(backend).export == "tflite":
            wanted.setdefault(precision, []).append(f"{backend} {precision}")
    graph, make_int8 = basis.fp32.file.model, None
    if basis.ranges is not None and basis.pixels is not None and options.int8_recipe == "full-integer":
        make_int8 = partial(_tflite_int8, graph, basis.ranges, basis.pixels, goal, made, basis.trained is None)
    found: dict[Precision, Artifact] = {}
    with failures.kept(*chain(*wanted.values())), explained(graph, basis.reference.tensors[:1]):
        compiler.wait(progress=progress)
        for precision, labels in wanted.items():
            with failures.kept(*labels):
                found[precision] = compiler.make(folder, precision, make_int8=make_int8, progress=progress)
    return found


def _tflite_int8(
    fp32: ir.Model,
    ranges: Ranges,
    pixels: NDArray[np.uint8],
    goal: Goal,
    made: Variants,
    searches: bool,
    converted: Converted,
) -> tuple[bytes, QuantisationReport]:
    """The int8 file of a TFLite file, and what it computes in, which becomes a note.

    Raises:
        ParityError: Layers return to float, and it breaks its limits still.
    """
    from splite_deploy.export.quant.tflite_candidates import TfliteCandidates, int8_note

    image = goal.reference.spec.input
    candidates = TfliteCandidates(converted, fp32, ranges, Preprocessor(image, image.color).normalise(pixels))
    content, report = candidates.make(made.keep(keep_limits(candidates, goal, "tflite int8")) if searches else ())
    made.methods["tflite int8"] = ranges.method
    made.notes.append(int8_note("model.int8.tflite", report))
    return content, report


def _calibration_record(calibration: Calibrated | None, made: Variants) -> Calibration | None:
    """What the report says of the calibration."""
    if calibration is None:
        return None
    return Calibration(calibration.origin, calibration.crops, calibration.sha256, dict(made.methods))


def _versions(options: ExportOptions) -> dict[str, str]:
    found = {}
    for name in (*_LIBRARIES, *(_TFLITE_LIBRARIES if options.makes("tflite") else ())):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for example another build of OpenCV
    return found
