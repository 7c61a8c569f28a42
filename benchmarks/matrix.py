"""Measures bundles x backends x precisions x threads, in turn, and writes JSON lines and the HTML page.

    python benchmarks/matrix.py hand.splite dense.splite --threads 1 2 --eval HAND_DIGITS \
        --out benchmarks/results/MACHINE-matrix.jsonl --html matrix.html

Every round measures each combination once, in an order that changes at random, so that clocks, heat and neighbours hit
all alike; every run is appended as it ends. The page shows of each combination the run with the median p50. What the
machine cannot run is named and left out. Accuracy does not depend on threads or rounds and is measured once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from splite_deploy.bench import BenchResult, Extras, append_result, run_bench
from splite_deploy.bench.loop import Input
from splite_deploy.bench.report.html import check_available, html_page
from splite_deploy.bench.report.pictures import Picture, draw_pictures
from splite_deploy.bench.report.tables import markdown_text
from splite_deploy.bench.result import Evaluation
from splite_deploy.bundle import Bundle
from splite_deploy.errors import BackendError, MissingDependencyError, SpliteError, UsageError
from splite_deploy.files import write_file
from splite_deploy.runtime.io.images import boxed_images, read_image
from splite_deploy.spec import Precision

INPUTS = 64


@dataclass(frozen=True)
class Case:
    """One combination."""

    bundle: Path
    backend: str
    precision: Precision
    threads: int

    def __str__(self) -> str:
        return f"{self.bundle.name} {self.backend} {self.precision}, threads: {self.threads}"


def cases(
    bundles: Sequence[Path], backends: Sequence[str], precisions: Sequence[str], threads: Sequence[int]
) -> list[Case]:
    """All combinations that the bundles hold; empty ``backends`` and ``precisions`` leave nothing out.

    Raises:
        BundleError: A bundle cannot be read.
        UsageError: Nothing is left.
    """
    found = [
        Case(path, artifact.backend, artifact.precision, count)
        for path in bundles
        for artifact in Bundle.open(path).manifest.artifacts
        if artifact.backend in (backends or [artifact.backend])
        and artifact.precision in (precisions or [artifact.precision])
        for count in threads
    ]
    if not found:
        raise UsageError("No bundle holds what was requested.", hint="See 'splite-deploy inspect BUNDLE'.")
    return found


def rounds(found: list[Case], count: int, skipped: set[Case]) -> Iterator[Case]:
    """Each case once per round, in an order that changes; without those that were skipped meanwhile."""
    order = np.random.default_rng(0)
    for _ in range(count):
        for index in order.permutation(len(found)):
            if found[index] not in skipped:
                yield found[index]


def measure(
    found: list[Case], count: int, frames: int, inputs: list[Input], origin: str, labels: Path | None, out: Path
) -> dict[Case, list[BenchResult]]:
    """All runs by case; each is appended to ``out`` as it ends."""
    runs: dict[Case, list[BenchResult]] = {case: [] for case in found}
    evaluations: dict[tuple[Path, str, str], Evaluation | None] = {}
    skipped: set[Case] = set()
    for case in rounds(found, count, skipped):
        artifact = (case.bundle, case.backend, case.precision)
        wanted = None if artifact in evaluations else labels
        print(f"{case} ...", end=" ", flush=True, file=sys.stderr)
        try:
            result = run_bench(
                case.bundle,
                backend=case.backend,
                precision=case.precision,
                threads=case.threads,
                frames=frames,
                inputs=inputs or None,
                inputs_from=origin,
                extras=Extras(labels=wanted),
            )
        except (MissingDependencyError, BackendError) as err:
            skipped.add(case)
            print(f"left out: {err.message}", file=sys.stderr)
            continue
        evaluations.setdefault(artifact, result.accuracy)
        result = replace(result, accuracy=evaluations[artifact])
        append_result(out, result)
        runs[case].append(result)
        print(f"p50 {result.stages['end_to_end'].p50_ms:.3f} ms", file=sys.stderr)
    return {case: results for case, results in runs.items() if results}


def median_run(results: list[BenchResult]) -> BenchResult:
    """The run with the median p50; of an even number the faster of the two in the middle."""
    return sorted(results, key=lambda result: result.stages["end_to_end"].p50_ms)[(len(results) - 1) // 2]


def pictures_of(shown: dict[Case, BenchResult], labels: Path) -> dict[int, list[Picture]]:
    """Of each artifact once: threads make no difference to what it finds."""
    drawn: dict[int, list[Picture]] = {}
    seen: set[str] = set()
    for index, (case, result) in enumerate(shown.items()):
        if result.artifact_sha256 not in seen:
            seen.add(result.artifact_sha256)
            drawn[index] = draw_pictures(result, case.bundle, labels)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--backend", nargs="+", default=[], help="only these (default: all that the bundles hold)")
    parser.add_argument("--precision", nargs="+", default=[], help="only these (default: all that the bundles hold)")
    parser.add_argument("--threads", nargs="+", type=int, default=[1], help="(default: 1)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--frames", type=int, default=600, help="timed frames of each run (default: 600)")
    parser.add_argument("--images", type=Path, help="time these: a folder or a labels.json (default: golden crops)")
    parser.add_argument("--eval", type=Path, help="measure accuracy on this labels.json or its folder")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    parser.add_argument("--html", type=Path, help="write the page here")
    options = parser.parse_args()
    try:
        if options.html is not None:
            check_available()
        inputs: list[Input] = []
        origin = ""
        if options.images is not None:
            boxed, origin = boxed_images(options.images, INPUTS)
            inputs = [(read_image(file), box) for file, box in boxed]
        found = cases(options.bundles, options.backend, options.precision, options.threads)
        runs = measure(found, options.rounds, options.frames, inputs, origin, options.eval, options.out)
        if not runs:
            raise UsageError("Nothing here can run these bundles.", hint="See 'splite-deploy doctor'.")
        shown = {case: median_run(results) for case, results in runs.items()}
        if options.html is not None:
            pictures = pictures_of(shown, options.eval) if options.eval is not None else {}
            write_file(options.html, html_page(list(shown.values()), pictures).encode())
    except SpliteError as err:
        sys.exit(f"error: {err}")
    print(markdown_text(list(shown.values())))


if __name__ == "__main__":
    main()
