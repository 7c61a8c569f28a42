"""A stranger's network, from its file to figures: init, at most three edited lines, export, verify, run, bench.

    python benchmarks/any_network.py --out benchmarks/results/any-network.jsonl

Twelve topologies of the literature (networks/zoo.py) with seeded weights, and four networks of models/lite_pose.
Nothing is taken from a model.toml of theirs: `splite-deploy init` looks at the weights and at what builds the network,
and what it cannot know is given as options or edited afterwards. Each artifact then has to keep its limits, pass
`verify`, find keypoints in `run` and be timed by `bench`; a cell that lacks any of it says why. Calibration and
comparison are on rendered people, of whom the boxes alone are known. What a network costs its user is told, too: fields
looked up, lines edited, and the processor's time of each command, which other work hardly changes, of `run` and `bench`
for all artifacts together. `--backend ort` makes the artifacts of ONNX Runtime alone. The exit status is 1
where a network needs more than three edited lines, or a cell is empty without a reason.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from side_by_side import network_table
from topologies import Run, splite

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.spec import load_model_toml
from splite_deploy.spec.plain import to_plain

sys.path.insert(0, str(Path(__file__).parent / "networks"))
from zoo import FOLDER as ZOO
from zoo import TOPOLOGIES, write

LITE = Path(__file__).parents[1] / "models" / "lite_pose"
MOST_EDITS = 3
ARTIFACTS = (("ort", "fp32"), ("ort", "fp16"), ("ort", "int8"), ("tflite", "fp32"), ("tflite", "int8"))
BACKENDS = ("ort", "tflite")
PICTURES, CROPS, FRAMES = 48, 16, 60
IMAGENET = ("--color", "rgb", "--mean", "123.675,116.28,103.53", "--std", "58.395,57.12,57.375")
TRAINED = (*IMAGENET, "--box-padding", "1.25", "--pad-value", "0")
"""What none of these files tells: how the network was trained. `--like` says it for published families."""


@dataclass(frozen=True)
class Network:
    """One network as its user knows it.

    Attributes:
        options: Of ``init``, beside the weights and what builds it.
        edits: Lines of the written file, as a regular expression, and what the user makes of each.
    """

    options: tuple[str, ...] = (*TRAINED, "--alignment", "centre")
    edits: Mapping[str, str] = field(default_factory=dict)


LITE_NETWORKS = tuple(f"lite_pose/{name}" for name in ("mobilenetv3", "shufflenetv2", "litehrnet", "seresnet"))
NETWORKS: Mapping[str, Network] = {
    **{name: Network() for name in (*TOPOLOGIES, *LITE_NETWORKS)},
    # These give coordinates, or bins of two axes
    **dict.fromkeys(("rtmpose", "integral3d", "blaze", "lite_pose/mobilenetv3"), Network(TRAINED)),
    "lite_pose/litehrnet": Network((*TRAINED, "--alignment", "udp")),
    "lite_pose/seresnet": Network((*TRAINED, "--alignment", "corner")),
    # Two outputs of one shape are taken for stages of which the last counts; here the first are heatmaps
    "splite-hand": Network((*TRAINED, "--alignment", "corner"), {r"^source = -1.*$": "source = 0"}),
}


@dataclass(frozen=True)
class Cell:
    """One artifact.

    Attributes:
        backend: What runs it.
        precision: In what.
        p95_px: How far it moves keypoints, pixels of the input.
        floats: How many layers of int8 went back to float.
        layers: Of so many.
        size_bytes: Of its file.
        min_ms: Shortest end to end, one box.
        p50_ms: Median.
        reason: What is missing, as the user reads it; empty where nothing is.
    """

    backend: str
    precision: str
    p95_px: float | None = None
    floats: int = 0
    layers: int | None = None
    size_bytes: int | None = None
    min_ms: float | None = None
    p50_ms: float | None = None
    reason: str = ""

    @property
    def complete(self) -> bool:
        """Whether every step gave something."""
        return None not in (self.p95_px, self.size_bytes, self.p50_ms)


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes:
        name: Its name.
        options: What ``init`` was told.
        decoder: What it chose, or the user after it.
        edits: Lines that were edited by hand, as they are now.
        cells: Its artifacts.
        reason: Why there are none; empty else.
        seconds: Of the processor, by command.
    """

    name: str
    options: tuple[str, ...]
    decoder: str = ""
    edits: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def effort(self) -> str:
        """What it cost its user; each option of ``init`` is a field that somebody looked up."""
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds.items())
        work = f"{len(self.options) // 2} fields looked up, {len(self.edits)} lines edited"
        return f"{self.name}: {work}; processor's time: {times}"

    @property
    def right(self) -> bool:
        """Whether few lines were edited and no cell is empty without a reason."""
        said = all(cell.complete or cell.reason for cell in self.cells)
        return len(self.edits) <= MOST_EDITS and said and bool(self.cells or self.reason)


@dataclass(frozen=True)
class Given:
    """What the user of a network has.

    Attributes:
        weights: Alone in a folder.
        arch: What builds it.
        keywords: Of that.
        size: Of the input, height x width.
    """

    weights: Path
    arch: str
    keywords: Mapping[str, Any]
    size: str


def of_zoo(name: str, folder: Path) -> Given:
    """A topology of networks/zoo.py."""
    topology, mine = TOPOLOGIES[name], folder / "mine"
    file, _, symbol = topology.arch.rpartition(":")
    mine.mkdir()
    weights = write(name, folder / "zoo").rename(mine / "net.pt")
    return Given(weights, f"{ZOO / file}:{symbol}", topology.keywords, f"{topology.height}x{topology.width}")


def of_lite(name: str, folder: Path) -> Given:
    """A network of models/lite_pose."""
    model, weights = LITE.parent / name / "model.toml", folder / "mine" / "net.safetensors"
    weights.parent.mkdir()
    seed = [sys.executable, str(LITE / "seeded.py"), str(model), "-o", str(weights)]
    subprocess.run(seed, check=True, capture_output=True)
    spec, host = load_model_toml(model)
    return Given(weights, f"{LITE / 'lite_arch.py'}:build", host.arch_args, f"{spec.input.height}x{spec.input.width}")


class Clock:
    """Runs commands and adds up the seconds of each.

    Attributes:
        seconds: Of the processor, by command.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def __call__(self, command: str, *arguments: object) -> Run:
        """Runs a command."""
        done = splite(command, *arguments)
        self.seconds[command] += done.seconds  # type: ignore[assignment]
        return done


def take(name: str, folder: Path, pictures: Path, backends: Sequence[str]) -> Row:
    """Takes one network all the way.

    Args:
        name: Of `NETWORKS`.
        folder: To work in.
        pictures: COCO data set of boxes.
        backends: What it is exported for.
    """
    clock = Clock()
    return replace(_taken(name, folder, pictures, backends, clock), seconds=dict(clock.seconds))


def _taken(name: str, folder: Path, pictures: Path, backends: Sequence[str], clock: Clock) -> Row:
    network = NETWORKS[name]
    given = of_zoo(name, folder) if name in TOPOLOGIES else of_lite(name, folder)
    weights, model = given.weights, given.weights.parent / "model.toml"
    arguments = [part for key, value in given.keywords.items() for part in ("--arch-arg", f"{key}={json.dumps(value)}")]
    row = Row(name, tuple(network.options))
    made = clock("init", weights, "--arch", given.arch, *arguments, "--input", given.size, *network.options)
    if made.status:
        return replace(row, reason=made.reason)
    edited = edit(model, network.edits)
    row = replace(row, edits=edited, decoder=decoder_of(model))
    bundle, asked = folder / "net.splite", [part for one in ("fp32", "fp16", "int8") for part in ("-p", one)]
    asked += [part for one in backends for part in ("-b", one)]
    common = ("--calibration", pictures, "--crops", CROPS)
    made = clock("export", weights, "-o", bundle, *asked, *common)
    if not bundle.exists():
        return replace(row, reason=made.reason)
    checks = folder / "checks.json"
    checked = clock("verify", bundle, "--json", checks)
    broken = (
        {}
        if not checks.exists()
        else {
            f"{one['backend']} {one['artifact']['precision']}": "; ".join(one["violations"])
            for one in json.loads(checks.read_text(encoding="utf-8"))
        }
    )
    cells = (cell(bundle, *one, pictures, clock) for one in ARTIFACTS if one[0] in backends)
    return replace(row, cells=tuple(checked_cell(one, broken, checked.reason) for one in cells))


def checked_cell(one: Cell, broken: Mapping[str, str], reason: str) -> Cell:
    """A cell, with what `verify` says of it."""
    if one.reason:
        return one
    return replace(one, reason=broken.get(f"{one.backend} {one.precision}", reason or "verify did not name it"))


def edit(model: Path, edits: Mapping[str, str]) -> tuple[str, ...]:
    """Puts lines in the place of others, as a user does in an editor.

    Raises:
        ValueError: A line is not there.
    """
    text = model.read_text(encoding="utf-8")
    for pattern, line in edits.items():
        text, count = re.subn(pattern, line, text, count=1, flags=re.MULTILINE)
        if not count:
            raise ValueError(f"{model} has no line {pattern!r}")
    model.write_text(text, encoding="utf-8")
    return tuple(edits.values())


def decoder_of(model: Path) -> str:
    """The decoder of a model spec."""
    found = re.search(r'^\[decoder\][^\[]*?^type = "([^"]+)"', model.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "?"


def cell(folder: Path, backend: str, precision: str, pictures: Path, clock: Clock) -> Cell:
    """What became of one artifact."""
    bundle, label, made = Bundle.open(folder), f"{backend} {precision}", Cell(backend, precision)
    report = bundle.report()
    for failure in report.failures:
        if failure.artifact.startswith(label):
            return replace(made, reason=f"{failure.message} {failure.hint}")
    artifact = next((one for one in bundle.manifest.artifacts if one.label == label), None)
    if artifact is None:
        return replace(made, reason="it is not in the bundle")
    measured = {one.stage: one.deviation_px.p95 for one in report.parity}
    made = replace(
        made,
        p95_px=measured.get(label, measured.get("simplified")),
        size_bytes=(folder / artifact.file).stat().st_size,
    )
    for search in report.searches:
        if search.artifact.startswith(label):
            made = replace(made, floats=len(search.excluded), layers=search.layers)
    chosen = ("-b", backend, "-p", precision)
    ran = clock("run", folder, pictures, *chosen, "--json", folder.parent / "poses.json")
    poses = [] if ran.status else json.loads((folder.parent / "poses.json").read_text(encoding="utf-8"))
    if not ran.status and not all(picture["poses"] for picture in poses):
        return replace(made, reason="run found nobody in one of the pictures")
    record = folder.parent / f"{backend}-{precision}.jsonl"
    timed = clock("bench", folder, *chosen, "--frames", FRAMES, "--json", record)
    for step in (ran, timed):
        if step.status:
            return replace(made, reason=step.reason)
    stage = json.loads(record.read_text(encoding="utf-8"))["stages"]["end_to_end"]
    return replace(made, min_ms=stage["min_ms"], p50_ms=stage["p50_ms"])


def record(rows: Sequence[Row]) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "kind": "any_network",
        "record_version": 1,
        "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "rows": [asdict(row) for row in rows],
        "environment": to_plain(read_environment()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="of these alone")
    parser.add_argument("--out", type=Path, help="JSON lines file to append a record to")
    options = parser.parse_args()
    for name in options.names:
        if name not in NETWORKS:
            parser.error(f"no network is called {name}.")
    rows: list[Row] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            pictures = rendered_boxes(Path(folder) / "people")
            for name in options.names or NETWORKS:
                with tempfile.TemporaryDirectory() as work:
                    rows.append(take(name, Path(work), pictures, options.backend or BACKENDS))
                print(rows[-1].effort, file=sys.stderr)
                print("\n".join(network_table([asdict(rows[-1])])[2:]), file=sys.stderr, flush=True)
        if options.out is not None:
            append_record(options.out, record(rows))
    except (SpliteError, OSError) as err:
        sys.exit(f"error: {err}")
    print("\n".join(network_table([asdict(row) for row in rows])))
    sys.exit(0 if all(row.right for row in rows) else 1)


def rendered_boxes(folder: Path) -> Path:
    """A COCO data set of rendered people without their keypoints."""
    script, count = str(LITE / "rendered_bodies.py"), str(PICTURES)
    subprocess.run(
        [sys.executable, script, "--coco", str(folder), "--count", count, "--seed", "1"],
        check=True,
        capture_output=True,
    )
    data = folder / "annotations.json"
    content = json.loads(data.read_text(encoding="utf-8"))
    for one in content["annotations"]:
        del one["keypoints"]
    file = data.with_name("boxes.json")
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


if __name__ == "__main__":
    main()
