"""Kills commands at random moments, and judges what they leave: ``python tests/robustness/kills.py --kills 300``.

A kill is one command in a folder with the results of an earlier run, a signal, and a moment. A third of the moments is
drawn from the whole time that the command takes, a third from its last fifth, and a third hangs on the output folder: a
change of its names, where results take their place, and some milliseconds. Then the verdict:

* the program ends within `ENDS_WITHIN_S`, with the status of its signal (or done, if it was faster) and no traceback;
* what was there is there, whole, or what should come is: a bundle opens and its hashes are right, JSON can be read;
* no process of the command lives after `GONE_WITHIN_S`;
* the same command then succeeds, and nothing is left in the output folder, the folder for temporary files and the cache
  that a run without a kill does not leave.

Commands run in forks of one process that has imported everything, so that moments lie in the work and not in imports.
Every kill is a line of JSON in the output as soon as it is judged: a run that is cut short goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from splite_deploy import interruption
from splite_deploy.bundle import Bundle
from splite_deploy.errors import SpliteError
from splite_deploy.files import sha256_of

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "tiny"
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")
TAKEN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STATUS = {"SIGKILL": -9, "SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}
ENDS_WITHIN_S = 20.0
GONE_WITHIN_S = 5.0
TOKEN = "SPLITE_KILLS"
"""Environment variable by which the processes of a command are found, however they are called."""
_LAST_PART = 0.8
_DONE_WITHIN_S = 180.0


@dataclass(frozen=True)
class Work:
    """A command.

    Attributes:
        name: What it is called in the table; its first word is the command.
        arguments: Of the command line.
        check: Says what is wrong with the results in a folder; nothing if they are whole.
        results: Their names in that folder, ``out``.
        before: Brings that folder to where the command begins, if it does not begin where a run has ended.
    """

    name: str
    arguments: Sequence[str]
    check: Callable[[Path], str]
    results: tuple[str, ...]
    before: Callable[[Path], None] = lambda out: None


@dataclass
class Kill:
    """A kill and its verdict.

    Attributes:
        number: Of the kill.
        work: The command's name.
        signal: The signal's name.
        how: "all", "last" or "file", what the moment was drawn from.
        at: When, as a fraction of a whole run.
        status: Exit status, as `subprocess` has it.
        ended_s: Seconds from the signal to the end.
        result: "old" or "new" by their content, "none" where one is missing.
        left: Names that the kill left.
        wrong: What is wrong; nothing in a good one.
    """

    number: int
    work: str
    signal: str
    how: str
    at: float
    status: int = 0
    ended_s: float = 0.0
    result: str = ""
    left: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="a line for each kill; where the file has some, the rest is run")
    parser.add_argument("--only", help="commands whose name begins so")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills = run(Path(folder), given.kills, given.seed, given.json, given.only or "")
    print(table(kills))
    sys.exit(1 if any(kill.wrong for kill in kills) else 0)


def run(folder: Path, count: int, seed: int, lines: Path | None = None, only: str = "") -> list[Kill]:
    """Kills so many times.

    Args:
        folder: An empty folder.
        count: How many.
        seed: Of the moments.
        lines: Where kills are recorded, if they are; what is there already is not run again.
        only: Commands whose name begins so.
    """
    _import_all()
    done = [] if lines is None or not lines.exists() else [Kill(**json.loads(one)) for one in lines.open()]
    good = folder / "good"
    works, paces = make_good(good, only, count)
    for number in range(len(done), count):
        work, name = works[number % len(works)], SIGNALS[(number // len(works)) % len(SIGNALS)]
        rng = random.Random(f"{seed} {number}")
        for _ in range(TRIES):
            kill = Kill(number, work.name, name, rng.choice(("all", "last", "file")), 0.0)
            paces[work.name] = _kill(_copy(good, folder), work, paces[work.name], kill, rng)
            if kill.status != 0 or kill.wrong:
                break  # else it had ended before, which is no kill
        done.append(kill)
        if lines is not None:
            with lines.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(asdict(kill)) + "\n")
        if kill.wrong:
            told = "; ".join(kill.wrong)
            print(f"{number}: {work.name}, {name} at {kill.at:.2f} ({kill.how}): {told}", flush=True)
    return done


def table(kills: Sequence[Kill]) -> str:
    """What came of them, as Markdown."""
    rows = [
        "| command | kills | in all of it | in its last fifth | at a new name | old result | new result | no result | "
        "left something | not removed by the next run | wrong otherwise |",
        f"|---|{10 * '---:|'}",
    ]
    for name in [*dict.fromkeys(kill.work for kill in kills), ""]:
        own = [kill for kill in kills if not name or kill.work == name]
        how, results = Counter(kill.how for kill in own), Counter(kill.result for kill in own)
        stays = sum(any(one.startswith(_STAYS) for one in kill.wrong) for kill in own)
        figures = (
            len(own),
            *(how[one] for one in ("all", "last", "file")),
            *(results[one] for one in ("old", "new", "none")),
            sum(bool(kill.left) for kill in own),
            stays,
            sum(any(not one.startswith(_STAYS) for one in kill.wrong) for kill in own),
        )
        rows.append(f"| {name or 'all'} | {' | '.join(map(str, figures))} |")
    counts = Counter(kill.signal for kill in kills)
    tenths = Counter(min(int(10 * kill.at), 10) for kill in kills)
    spread = ", ".join(f"{tenths[one]} at {one / 10:.1f}" for one in range(11))
    return "\n".join([*rows, "", f"{', '.join(f'{one} {counts[one]}' for one in counts)}. Moments: {spread}."])


def make_good(folder: Path, only: str, most: int) -> tuple[list[Work], dict[str, Pace]]:
    """Fills a folder with what the commands read and what an earlier run of each has left; of so many at most.

    Returns:
        The commands, and their paces by name.
    """
    (folder / "out").mkdir(parents=True)
    _must(_in_fork(folder, lambda: _make_inputs(folder)))
    for target, options in (("tiny.splite", ()), ("trt.splite", ("-b", "trt", "-p", "fp16"))):
        export = ("export", "tiny/tiny.safetensors", "-o", target, "--crops", "2", *options)
        _must(_in_fork(folder, lambda arguments=export: _command(arguments)))  # type: ignore[misc]
    shutil.copytree(folder / "trt.splite", folder / "out" / "built.splite")
    _must(_in_fork(folder, lambda: _make_stores(folder)))
    works, paces = [work for work in all_works() if work.name.startswith(only)][:most], {}
    for work in works:
        work.before(folder / "out")
        paces[work.name] = _pace(folder, work)
        if work.name == "export":
            (folder / "out" / "new.splite" / "notes.txt").write_text("mine")
        if problem := work.check(folder / "out"):
            raise AssertionError(f"{work.name}: {problem}")
    return works, paces


def all_works() -> list[Work]:
    """The commands that this machine has."""
    weights, small = "tiny/tiny.safetensors", ("--crops", "2")
    box = ("--box", "20,10,70,74")
    works = [
        Work(
            "export",
            ("export", weights, "-o", "out/new.splite", "--overwrite", *small),
            lambda out: _bundle(out / "new.splite") or _text(out / "new.splite" / "notes.txt", "mine"),
            ("new.splite",),
        ),
        Work(
            "run pictures",
            ("run", "tiny.splite", "pictures", *box, "--json", "out/poses.json", "--save", "out/drawn"),
            lambda out: _json(out / "poses.json", 4) or _pictures(out / "drawn", 4),
            ("poses.json", "drawn"),
        ),
        Work(
            "compact",
            (
                "compact",
                weights,
                "-o",
                "out/small.safetensors",
                "--overwrite",
                "--ratio",
                "0.2",
                "--round-to",
                "1",
                *small,
            ),
            lambda out: _tensors(out / "small.safetensors"),
            ("small.safetensors",),
        ),
        Work(
            "run video",
            ("run", "tiny.splite", "video.avi", *box, "--json", "out/video.jsonl", "--save", "out/video.avi"),
            lambda out: _lines(out / "video.jsonl", FRAMES) or _video(out / "video.avi", FRAMES),
            ("video.jsonl", "video.avi"),
        ),
        Work(
            "bench",
            ("bench", "tiny.splite", "--frames", "20", "--json", "out/bench.jsonl", "--html", "out/bench.html"),
            lambda out: _lines(out / "bench.jsonl") or _text(out / "bench.html", "</html>"),
            ("bench.jsonl", "bench.html"),
        ),
    ]
    works += [
        Work(
            "install",
            ("install", "out/store", "new.splite"),
            lambda out: _store(out / "store"),
            ("store/store.json",),
            lambda out: _begin_store(out / "store"),
        ),
        Work(
            "install update",
            ("install", "out/updated", "update"),
            lambda out: _store(out / "updated"),
            ("updated/store.json",),
            lambda out: _begin_store(out / "updated"),
        ),
    ]
    if importlib.util.find_spec("tensorrt_rtx_bindings"):
        build = ("compile", "out/built.splite", "-p", "fp16", "--json", "out/built.json")
        works.append(
            Work(
                "compile",
                build,
                lambda out: _bundle(out / "built.splite") or _json(out / "built.json"),
                ("built.splite", "built.json"),
            )
        )
    if os.environ.get("SPLITE_TFLITE_PYTHON"):
        lite = ("export", weights, "-o", "out/lite.splite", "--overwrite", "-b", "tflite", *small)
        works.append(Work("export -b tflite", lite, lambda out: _bundle(out / "lite.splite"), ("lite.splite",)))
    return works


FRAMES = 40
_STAYS = "stays: "
_HEAVY = (
    *("cv2", "onnx", "onnx_ir", "onnxscript", "onnxsim", "onnxruntime", "rich.progress", "rich.table"),
    *(
        "torch._dynamo",
        "torch.export._trace",
        "torch.onnx._internal.exporter._core",
        "onnxscript.function_libs.torch_lib.ops",
    ),
    *("safetensors.torch", "torch.onnx", "splite_deploy.cli", "splite_deploy.export", "splite_deploy.compact"),
    *("splite_deploy.bench.run", "splite_deploy.runtime", "splite_deploy.runtime.install"),
)
TRIES = 5
"""How often a command is started for one kill, where it ends before its signal."""
Pace = tuple[float, int]
"""Seconds that a whole run takes, and how often names in its output folder change."""


def _import_all() -> None:
    for name in _HEAVY:
        importlib.import_module(name)


def _make_inputs(folder: Path) -> None:
    import cv2
    import safetensors.torch

    modules = {}
    shutil.copytree(TINY, folder / "tiny", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("arch", "samples"):
        spec = importlib.util.spec_from_file_location(name, TINY / f"{name}.py")
        assert spec is not None and spec.loader is not None
        modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    safetensors.torch.save_file(modules["arch"].build().state_dict(), folder / "tiny" / "tiny.safetensors")
    (folder / "pictures").mkdir()
    for index, (image, _) in enumerate(modules["samples"].samples(4)):
        cv2.imwrite(str(folder / "pictures" / f"{index}.png"), image[..., ::-1])
    writer = cv2.VideoWriter(str(folder / "video.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (100, 80))
    for image, _ in modules["samples"].samples(FRAMES, seed=1):
        writer.write(image[..., ::-1])
    writer.release()


def _make_stores(folder: Path) -> None:
    """Writes the bundle and the update that are installed, and a store as it is before that, with two older bundles."""
    from splite_deploy.updates import Store, make_update

    for name in ("old", "older", "new"):
        shutil.copytree(folder / "tiny.splite", folder / f"{name}.splite")
        manifest = Bundle.open(folder / "tiny.splite").manifest
        named = replace(manifest, source=replace(manifest.source, checkpoint=name))
        (folder / f"{name}.splite" / "manifest.json").write_text(named.to_json(), encoding="utf-8")
    make_update(folder / "update", Bundle.open(folder / "new.splite"), Bundle.open(folder / "old.splite"))
    store = Store(folder / "store")
    for name in ("older", "old"):
        with store.adding() as place:
            shutil.copytree(folder / f"{name}.splite", place, dirs_exist_ok=True)
            store.switch(place)


def _begin_store(store: Path) -> None:
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(store.parents[1] / "store", store)


def _store(path: Path) -> str:
    """What is wrong with a store: the current bundle and the other one have to be whole, and those that they were."""
    from splite_deploy.updates import Store

    store = Store(path)
    try:
        state = store.read()
    except SpliteError as err:
        return err.message
    if state.other is None:
        return "one bundle is lost"
    found = {}
    for slot in (state.other, state.current):
        if problem := _bundle(store.folder(slot)):
            return f"{slot.number}.splite: {problem}"
        found[slot.number] = Bundle.open(store.folder(slot)).manifest.source.checkpoint
    return "" if found in ({1: "older", 2: "old"}, {2: "old", 3: "new"}) else f"it holds {found}"


def _command(arguments: Sequence[str]) -> None:
    from splite_deploy.cli import main as command_line

    interruption.current.take()
    try:  # as the program does
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TAKEN)
        command_line(list(arguments), prog_name="splite-deploy")
    except KeyboardInterrupt:
        interruption.current.end()


def _start(folder: Path, work: Callable[[], None]) -> int:
    """A fork that works in a folder, with its own places for temporary files and caches; returns its number."""
    for name in ("tmp", "cache"):
        (folder / name).mkdir(exist_ok=True)
    sys.stdout.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)  # until the fork has taken them: before that it is no command
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TAKEN)
        return process
    status = 70
    try:
        os.setsid()
        for number in TAKEN:
            signal.signal(number, signal.SIG_DFL)
        os.chdir(folder)
        os.environ.update({"TMPDIR": str(folder / "tmp"), "SPLITE_CACHE": str(folder / "cache"), TOKEN: str(folder)})
        tempfile.tempdir = None
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _in_fork(folder: Path, work: Callable[[], None]) -> str:
    """What went wrong; nothing if nothing did."""
    status, _ = _wait(_start(folder, work), _DONE_WITHIN_S)
    return "" if status == 0 else f"status {status}: {(folder / 'stderr').read_text(errors='replace')[-600:]}"


def _must(problem: str) -> None:
    if problem:
        raise AssertionError(problem)


def _wait(process: int, within_s: float) -> tuple[int | None, float]:
    """Its status, as `subprocess` has it, and seconds until then; None where it had to be killed."""
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        number, status = os.waitpid(process, os.WNOHANG)
        if number:
            return os.waitstatus_to_exitcode(status), time.monotonic() - began
        time.sleep(0.005)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None, within_s


def _copy(good: Path, folder: Path) -> Path:
    target = folder / "work"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(good, target, symlinks=True)
    return target


def _names(folder: Path) -> frozenset[str]:
    found = set()
    for parent, folders, files in os.walk(folder):
        found.update(os.path.relpath(os.path.join(parent, name), folder) for name in (*folders, *files))  # noqa: PTH118
    return frozenset(found)


def _pace(folder: Path, work: Work) -> Pace:
    """Runs a command to its end."""
    began, process, before, changes = time.monotonic(), _start(folder, lambda: _command(work.arguments)), None, -1
    while (ended := os.waitpid(process, os.WNOHANG))[0] == 0:
        if (now := _names(folder / "out")) != before:
            before, changes = now, changes + 1
        time.sleep(0.002)
    if ended[1]:
        raise AssertionError(f"{work.name}: {(folder / 'stderr').read_text(errors='replace')[-600:]}")
    return time.monotonic() - began, max(changes, 1)


def _kill(folder: Path, work: Work, pace: Pace, kill: Kill, rng: random.Random) -> Pace:
    """Runs a command, kills it, judges, runs it again, judges that, and returns the pace of that."""
    out, (whole_s, changes) = folder / "out", pace
    usual = {place: _names(folder / place) for place in PLACES}
    work.before(out)
    contents = {name: _digest(out / name) for name in work.results}
    begun = {place: _names(folder / place) for place in PLACES}
    wait_s = whole_s * (rng.uniform(_LAST_PART, 1.0) if kill.how == "last" else rng.random())
    wanted, later_s = rng.randint(1, changes), rng.choice((0.0, rng.uniform(0, 0.02)))
    began = time.monotonic()
    process = _start(folder, lambda: _command(work.arguments))
    if kill.how == "file":
        before, seen = begun["out"], 0
        while seen < wanted and time.monotonic() - began < 2 * whole_s and os.path.exists(f"/proc/{process}/environ"):  # noqa: PTH110
            if (now := _names(out)) != before:
                before, seen = now, seen + 1
            time.sleep(0.001)
        time.sleep(later_s)
    else:
        time.sleep(wait_s)
    kill.at = round((time.monotonic() - began) / whole_s, 3)
    os.kill(process, getattr(signal, kill.signal))
    status, kill.ended_s = _wait(process, ENDS_WITHIN_S)
    kill.ended_s = round(kill.ended_s, 3)
    kill.status = -99 if status is None else status
    told = (folder / "stderr").read_text(errors="replace")
    if status not in (STATUS[kill.signal], 0):
        kill.wrong.append(f"status {status}, {told.strip()[-200:]}")
    if "Traceback" in told:
        kill.wrong.append(f"traceback: {told.strip()[-300:]}")
    if living := _living(str(folder), GONE_WITHIN_S):
        kill.wrong.append(f"lives on: {living}")
    kill.left = sorted(f"{place}/{name}" for place in PLACES for name in _names(folder / place) - begun[place])
    missing = [name for name in work.results if not (out / name).exists()]
    same = {name: _digest(out / name) == contents[name] for name in work.results}
    kill.result = "none" if missing else "old" if all(same.values()) else "new"
    if problem := work.check(out):
        kill.wrong.append(f"result: {problem}")
    if kill.signal != "SIGKILL" and status == STATUS[kill.signal] and any(_HIDDEN_PART in one for one in kill.left):
        kill.wrong.append(f"left by {kill.signal}: {kill.left}")
    if status == 0:
        return 0.8 * kill.at * pace[0], changes  # it took less than that
    try:
        pace = _pace(folder, work)
    except AssertionError as err:
        kill.wrong.append(f"next run: {err}")
    if problem := work.check(out):
        kill.wrong.append(f"result of the next run: {problem}")
    stays = [
        f"{place}/{name}"
        for place in PLACES
        for name in _names(folder / place)
        if name not in usual[place] and (place != "cache" or _HIDDEN_PART in name)
    ]
    if stays:
        kill.wrong.append(f"{_STAYS}{sorted(stays)}")
    return pace


PLACES = ("out", "tmp", "cache")
_HIDDEN_PART = ".splite-"


def _living(token: str, within_s: float) -> list[str]:
    """Processes that the command has started, after some time."""
    end = time.monotonic() + within_s
    while True:
        found = []
        for one in Path("/proc").iterdir():
            if not one.name.isdigit() or int(one.name) == os.getpid():
                continue
            with suppress(OSError):
                if f"{TOKEN}={token}".encode() in (one / "environ").read_bytes().split(b"\0"):
                    state = (one / "stat").read_text().rpartition(")")[2].split()[0]
                    if state != "Z":
                        found.append((one / "cmdline").read_text().replace("\0", " ")[:100])
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(f"{file.relative_to(path.parent)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def _bundle(path: Path) -> str:
    try:
        bundle = Bundle.open(path)
        bundle.golden()
    except SpliteError as err:
        return err.message
    wrong = [one.file for one in bundle.manifest.artifacts if sha256_of(path / one.file) != one.sha256]
    return f"hash of {wrong}" if wrong else ""


def _text(path: Path, end: str) -> str:
    return "" if path.is_file() and path.read_text(encoding="utf-8").rstrip().endswith(end) else f"{path.name} is cut"


def _json(path: Path, count: int | None = None) -> str:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as err:
        return f"{path.name}: {err}"
    return "" if count is None or len(found) == count else f"{path.name} has {len(found)}"


def _lines(path: Path, count: int | None = None) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [json.loads(one) for one in lines]
    except (OSError, ValueError) as err:
        return f"{path.name}: {err}"
    if not lines or not lines[-1].endswith("\n"):
        return f"{path.name} is cut"
    return "" if count in (None, len(found)) else f"{path.name} has {len(found)}"


def _pictures(path: Path, count: int) -> str:
    import cv2

    pictures = [one for one in path.iterdir() if not one.name.startswith(".")] if path.is_dir() else []
    whole = [one for one in pictures if cv2.imread(str(one)) is not None and _ended(one)]
    return "" if len(whole) == len(pictures) == count else f"{len(whole)} of {len(pictures)} pictures are whole"


def _ended(path: Path) -> bool:
    """Whether a PNG has its last chunk."""
    return path.suffix != ".png" or path.read_bytes()[-8:-4] == b"IEND"


def _video(path: Path, count: int) -> str:
    import cv2

    capture, found = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        found += 1
    capture.release()
    return "" if found == count else f"{path.name} has {found} frames"


def _tensors(path: Path) -> str:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            return "" if [file.get_tensor(name) for name in file.keys()] else f"{path.name} is empty"  # noqa: SIM118
    except (OSError, SafetensorError) as err:
        return f"{path.name}: {err}"


if __name__ == "__main__":
    main()
