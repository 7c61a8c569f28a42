"""`bench` and `verify` on a machine: this one, in a process of its own, or one of ``devices.toml``."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splite_deploy.bench import read_results
from splite_deploy.bench.loop import END_TO_END, MODEL_ONLY
from splite_deploy.bench.report.tables import machine
from splite_deploy.bench.result import BenchResult
from splite_deploy.children import python_command, run
from splite_deploy.errors import SpliteError, UsageError, how_it_ended, told_failure
from splite_deploy.fit.space import Variant
from splite_deploy.fit.steps import HERE
from splite_deploy.remote.devices import Device
from splite_deploy.remote.push import read_there
from splite_deploy.remote.work import Job, work_on
from splite_deploy.spec.reading import read_json
from splite_deploy.text import shown

_LONGEST_S = 3600.0
_FEW = ("--frames", "10", "--warmup", "5", "--min-seconds", "0")
"""For a graph of layers, whose profile is all that is wanted."""


@dataclass(frozen=True)
class Place:
    """A machine to measure on.

    Attributes:
        name: What it is called; `HERE` for the one that does the step.
        identity: What tells it from others of that name, such as its processor: results are kept by it.
        device: Where it is; None for the one that does the step.
        threads: CPU threads of the backends there; None is their default.
        frames: Timed frames; None is what `bench` takes.
    """

    name: str = HERE
    identity: str = ""
    device: Device | None = None
    threads: int | None = None
    frames: int | None = None

    def measure(self, bundle: Path, variant: Variant, folder: Path) -> dict[str, Any]:
        """Verifies and times an artifact of a bundle.

        Args:
            bundle: With the artifact, and perhaps others: one of int8 for ONNX Runtime has float32 beside it.
            variant: Which one, and what runs it.
            folder: Empty; for intermediate files.

        Returns:
            ``p50_ms``, ``p99_ms``, ``shortest_ms`` end to end; ``model_ms``, the median of the network alone;
            ``stable``; ``against``: the limits that it breaks there; ``machine``.

        Raises:
            SpliteError: It cannot be reached, or does not run it.
        """
        by = ("-b", variant.backend, "-p", variant.precision)
        verified = self._run("verify", bundle, folder / "verify", by, lambda file: _broken(read_json(file)))
        more = by if self.frames is None else (*by, "--frames", str(self.frames))
        (result,) = self._run("bench", bundle, folder / "bench", more, read_results)
        end_to_end = result.stages[END_TO_END]
        return {
            "p50_ms": end_to_end.p50_ms,
            "p99_ms": end_to_end.p99_ms,
            "shortest_ms": end_to_end.min_ms,
            "model_ms": result.stages[MODEL_ONLY].p50_ms,
            "stable": result.windows is None or result.windows.stable,
            "against": verified,
            "machine": machine(result.environment),
        }

    def layers(self, graph: Path, folder: Path) -> BenchResult:
        """The profile of a graph of layers, by ONNX Runtime.

        Raises:
            SpliteError: See `measure`.
        """
        results: list[BenchResult] = self._run("bench", graph, folder / "bench", ("-b", "ort", *_FEW), read_results)
        return results[0]

    def _run(self, command: str, target: Path, folder: Path, more: Sequence[str], read: Callable[[Path], Any]) -> Any:
        """Runs a command of ours there; gives what it wrote as JSON."""
        options = [*more, *(() if self.threads is None else ("--threads", str(self.threads)))]
        if self.device is None:
            folder.mkdir(parents=True)
            return _run_here([command, str(target), *options, "--quiet", "--json"], folder / "result.json", read)
        name, files = read_there(target, "in/0")
        job = Job((command, name, *options, "--json", "out/result.json"), tuple(files))
        (outcome,) = work_on([self.device], job, folder, lambda name, text: None)
        if outcome.error is not None:
            raise outcome.error
        found = outcome.folder / "out" / "result.json"
        if not found.is_file():
            raise outcome.failure()
        return read(found)


def _run_here(arguments: Sequence[str], file: Path, read: Callable[[Path], Any]) -> Any:
    command = [*python_command("-m", "splite_deploy"), *arguments, str(file)]
    ended = run(command, timeout_s=_LONGEST_S, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if file.is_file():
        return read(file)
    said = [shown(line) for line in ended.stderr.decode(errors="replace").splitlines() if line.strip()]
    message, hint = told_failure(said)
    raise SpliteError(f"{arguments[0]}: {message or how_it_ended(ended.returncode)}", hint=hint)


def _broken(data: Any) -> list[str]:
    """The limits that an artifact breaks, of what `verify` wrote."""
    if not isinstance(data, list) or not all(isinstance(one, Mapping) for one in data):
        raise UsageError("verify wrote something else than results.", hint="Update splite-deploy there.")
    return [str(phrase) for one in data for phrase in one.get("violations", ())]
