"""Gives spoilt inputs to the commands and counts what they do: a right error, accepted, or what must not be.

    python tests/robustness/fuzz.py                      # the long run of `make fuzz`
    python tests/robustness/fuzz.py --count 500 --surface manifest --surface golden
    python tests/robustness/fuzz.py --replay manifest 1 345

Every input is made from its surface, seed and number alone, and is tried in a process of its own that has all imports
done already: it is forked from one that has. What counts as wrong:

* traceback: an exception that is none of our errors, or a traceback on standard error;
* crash: the process ends by a signal;
* hang: it takes longer than 20 s, not counting the time it waited for a CPU;
* wrong: an exit status of 0 where the damage has to be noticed, JSON that is none or holds NaN, an error without a
  message or hint, a failure without a word, an input that was changed, a part of a file that was left.

Linux only: processes are forked, watched through /proc and limited in memory.
"""

from __future__ import annotations

import os
import sys

_SETTINGS = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
if __name__ == "__main__" and any(os.environ.get(name) != value for name, value in _SETTINGS.items()):
    # they are read at the start
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **_SETTINGS})

import faulthandler
import hashlib
import importlib
import json
import multiprocessing
import random
import re
import resource
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

COUNT, SEED = 20_000, 1
HANG_S = 20.0
MEMORY_BYTES = 4 << 30
KINDS = ("right error", "accepted", "wrong", "traceback", "crash", "hang")
FAILURES = KINDS[2:]
Stamp = tuple[int, int, int]
_RANK = {kind: rank for rank, kind in enumerate(("accepted", "right error", *FAILURES))}
_PROGRAM = "splite-deploy"
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Outcome:
    """What came of one input.

    Attributes:
        surface: The surface.
        index: The number of the input.
        kind: One of `KINDS`, the worst of all commands.
        note: How it was spoilt.
        command: The command that it is the outcome of.
        detail: What tells findings of one cause from others: the exception and the line, the signal.
        seconds: How long it took.
    """

    surface: str
    index: int
    kind: str
    note: str
    command: str
    detail: str
    seconds: float


# --- in the process that tries one input ---


def try_input(surface: str, seed: int, index: int, folder: Path, good: Path) -> None:
    """Makes an input in ``folder/in`` and tries it; what comes of each command goes to ``folder/outcomes``."""
    from confine import confine
    from surfaces import SURFACES

    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for stream, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, stream)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    faults = (folder / "faults").open("w")
    faulthandler.enable(faults)
    faulthandler.register(signal.SIGUSR1, faults, all_threads=True)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    work, temporary = folder / "in", folder / "tmp"
    work.mkdir()
    temporary.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    confine([folder, Path(os.environ["SPLITE_CACHE"])], [Path("/dev/null"), Path("/dev/full"), Path("/dev/zero")])
    case = SURFACES[surface].spoil(random.Random(f"{seed}/{surface}/{index}"), work, good)
    os.chdir(work)
    before = {name: _content(Path(name)) for name in case.spoilt}
    with (folder / "outcomes").open("a", encoding="utf-8", errors="backslashreplace") as outcomes:
        outcomes.write(json.dumps({"note": case.note, "commands": [list(one) for one in case.commands]}) + "\n")
        for command in case.commands:
            outcomes.write(json.dumps({"command": list(command)}) + "\n")
            outcomes.flush()
            earlier = {path: _stamp(path) for path in _results(command)}
            kind, detail = _run(command, folder)
            must_fail = case.must_fail
            if kind not in FAILURES and (wrong := _wrong(kind, folder, before, earlier, must_fail=must_fail)):
                kind, detail = "wrong", wrong
            outcomes.write(json.dumps({"kind": kind, "detail": detail}) + "\n")
            outcomes.flush()


def _content(path: Path) -> str | None:
    """The hash of a plain file."""
    with suppress(OSError):
        if path.is_file():
            return hashlib.sha256(path.read_bytes()).hexdigest()
    return None


def _run(command: Sequence[str], folder: Path) -> tuple[str, str]:
    """Runs a command as ``splite-deploy`` would; what it printed is in ``folder/stdout`` and ``folder/stderr``."""
    from splite_deploy.cli import main

    for name in ("stdout", "stderr"):
        os.truncate(folder / name, 0)
    status: Any = 0
    try:
        main(list(command), prog_name=_PROGRAM, standalone_mode=True)
    except SystemExit as end:
        status = 0 if end.code is None else end.code
    except BaseException as err:
        traceback.print_exc()
        return "traceback", _cause(err)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
    printed = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    for mark in ("Traceback (most recent call last)", "Exception ignored in", "Fatal Python error"):
        if mark in printed:
            return "traceback", "printed: " + printed[printed.index(mark) :].strip().splitlines()[-1][:200]
    if status == 0:
        return "accepted", ""
    if status not in (1, 2, 3):
        return "wrong", f"exit status {status}"
    return "right error", next((line for line in printed.splitlines() if "rror: " in line), "")[:300]


def _cause(err: BaseException) -> str:
    """The exception, and the innermost line of ours."""
    frames = traceback.extract_tb(err.__traceback__)
    ours = [frame for frame in frames if "/splite_deploy/" in frame.filename] or list(frames)
    last = ours[-1]
    place = f"{last.filename.partition('/splite_deploy/')[2] or last.filename}:{last.lineno} {last.name}"
    return f"{type(err).__name__} at {place}: {re.sub(r'[0-9]+', 'N', str(err).strip())[:120]!r}"


def _wrong(
    kind: str, folder: Path, before: dict[str, str | None], earlier: dict[Path, Stamp | None], *, must_fail: bool
) -> str:
    """What is wrong with an outcome that looks right; empty if nothing is."""
    if must_fail and kind == "accepted":
        return "the damage was not noticed"
    stdout, stderr = ((folder / name).read_text(encoding="utf-8", errors="replace") for name in ("stdout", "stderr"))
    if kind == "right error":
        lines = stderr.splitlines()
        if not (stdout + stderr).strip():
            return "a failure without a word"
        at = [index for index, line in enumerate(lines) if line.startswith("error: ")]
        if at and (len(lines[at[-1]]) < 20 or not any(line.startswith("hint:  ") for line in lines[at[-1] :])):
            return f"an error without message or hint: {re.sub(r'[0-9]+', 'N', lines[at[-1]])[:150]}"
    if found := _CONTROL.search(stdout + stderr):
        return f"the control character {found[0]!r} in what is printed"
    if changed := [name for name, digest in before.items() if _content(Path(name)) != digest]:
        return f"{changed[0]} was changed"
    for path, stamp in earlier.items():
        if _stamp(path) in (stamp, None):
            continue  # this command wrote nothing there: what an earlier one wrote need not be JSON
        try:
            text = path.read_text(encoding="utf-8")
            for part in text.splitlines() if path.suffix == ".jsonl" or not text else [text]:
                json.loads(part, parse_constant=_no_constant)
        except (ValueError, RecursionError) as err:
            return f"{path} is no JSON: {str(err)[:100]}"
    left = [str(path) for path in Path().rglob(".*") if ".part" in path.name or path.name.startswith(".new.splite")]
    return f"{left[0]} was left" if left else ""


def _results(command: Sequence[str]) -> list[Path]:
    """The JSON files that a command is asked to write."""
    return [Path(command[at + 1]) for at, word in enumerate(command) if word == "--json"]


def _stamp(path: Path) -> Stamp | None:
    """What tells one version of a plain file from the next, which replaces it: number, time and size."""
    with suppress(OSError, ValueError):
        if path.is_file():
            stat = path.stat()
            return stat.st_ino, stat.st_mtime_ns, stat.st_size
    return None


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")


# --- in the processes that fork it ---


def try_apart(surface: str, seed: int, index: int, folder: Path, good: Path) -> Outcome:
    """Tries an input in a process of its own, and says what came of it."""
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            try_input(surface, seed, index, folder, good)
            status = 0
        except BaseException:
            with (folder / "harness").open("w") as stream:
                traceback.print_exc(file=stream)
        finally:
            os._exit(status)
    try:
        hung = not _ended(pid, began)
        if hung:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
                time.sleep(0.3)
    finally:
        _end_group(pid)
    _, status = os.waitpid(pid, 0)
    return _outcome(surface, index, folder, time.monotonic() - began, "hang" if hung else "", status)


def _ended(pid: int, began: float) -> bool:
    """Waits for a process; False if it takes too long."""
    handle = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        while True:
            if poll.poll(1000):
                return True
            elapsed = time.monotonic() - began
            if elapsed > HANG_S and elapsed - _waited(pid) > HANG_S:
                return False
    finally:
        os.close(handle)


def _waited(group: int) -> float:
    """Seconds that the processes of a group stood in the queue for a CPU, which other work on the machine makes."""
    waited = 0.0
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            if os.getpgid(int(process.name)) == group:
                waited += int((process / "schedstat").read_text().split()[1]) / 1e9
    return waited


def _end_group(pid: int) -> None:
    """Ends what the process started and left, and itself where it hangs."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _outcome(surface: str, index: int, folder: Path, seconds: float, kind: str, status: int) -> Outcome:
    lines: list[dict[str, Any]] = []
    with suppress(OSError):
        lines = [json.loads(line) for line in (folder / "outcomes").read_text(encoding="utf-8").splitlines()]
    note = next((line["note"] for line in lines if "note" in line), "")
    command, worst = "", ("accepted", "", "")
    for line in lines:
        if "command" in line and "kind" not in line:
            command = line["command"][0] if line["command"] else ""
        elif "kind" in line and _RANK[line["kind"]] >= _RANK[worst[0]]:
            worst = (line["kind"], command, line["detail"])
    faults = (folder / "faults").read_text(errors="replace") if (folder / "faults").exists() else ""
    if kind == "hang":
        worst = ("hang", command, _faulty_line(faults))
    elif os.WIFSIGNALED(status):
        worst = ("crash", command, f"{signal.Signals(os.WTERMSIG(status)).name} at {_faulty_line(faults)}")
    elif os.WEXITSTATUS(status) != 0:
        text = (folder / "harness").read_text() if (folder / "harness").exists() else f"status {os.WEXITSTATUS(status)}"
        worst = (
            "crash",
            command,
            f"the harness itself: {text.strip().splitlines()[-1]}" if lines == [] else f"exit {text}",
        )
    return Outcome(surface, index, worst[0], note, worst[1], worst[2], round(seconds, 3))


def _faulty_line(faults: str) -> str:
    """The innermost line of ours in what faulthandler wrote."""
    found = re.findall(r'File "(\S+)", line (\d+) in (\S+)', faults)
    ours = [
        f"{file.partition('/splite_deploy/')[2]}:{line} {name}"
        for file, line, name in found
        if "/splite_deploy/" in file
    ]
    return ours[0] if ours else (f"{found[0][0]}:{found[0][1]}" if found else "an unknown line")


# --- in the process that counts ---


def tasks(count: int, surfaces: Sequence[str]) -> list[tuple[str, int]]:
    """Surfaces and numbers of inputs, each surface its share, mixed."""
    from surfaces import SURFACES

    shares = {name: SURFACES[name].share for name in surfaces}
    total = sum(shares.values())
    numbers = {name: max(1, round(count * share / total)) for name, share in shares.items()}
    mixed = [((index + 0.5) / number, name, index) for name, number in numbers.items() for index in range(number)]
    return [(name, index) for _, name, index in sorted(mixed)]


def run_all(todo: Sequence[tuple[str, int]], seed: int, jobs: int, good: Path, kept: Path) -> Iterator[Outcome]:
    """Tries all inputs; those that fail are kept."""
    context = multiprocessing.get_context("fork")
    queue: Any = context.SimpleQueue()
    position = context.Value("l", 0)

    def work() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that counts ends this one
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        with tempfile.TemporaryDirectory(prefix="splite-fuzz-") as name:
            while True:
                with position.get_lock():
                    at = position.value
                    position.value += 1
                if at >= len(todo):
                    break
                folder = Path(name) / str(at)
                folder.mkdir()
                outcome = try_apart(*todo[at][:1], seed, todo[at][1], folder, good)
                if outcome.kind in FAILURES:
                    _keep(folder, kept / f"{outcome.surface}-{seed}-{outcome.index}")
                shutil.rmtree(folder, ignore_errors=True)
                queue.put(asdict(outcome))
        queue.put(None)

    workers = [context.Process(target=work) for _ in range(jobs)]
    for worker in workers:
        worker.start()
    left = jobs
    try:
        while left:
            item = queue.get()
            left -= item is None
            if item is not None:
                yield Outcome(**item)
    finally:
        for worker in workers:
            if left:
                worker.terminate()
            worker.join()


def _keep(folder: Path, place: Path) -> None:
    """Copies an input and what was printed; pipes and sockets are left out."""
    shutil.rmtree(place, ignore_errors=True)

    def special(where: str, names: list[str]) -> list[str]:
        paths = [Path(where, name) for name in names]
        return [path.name for path in paths if not (path.is_symlink() or path.is_file() or path.is_dir())]

    with suppress(shutil.Error, OSError):
        shutil.copytree(folder, place, symlinks=True, ignore=special)


@contextmanager
def good_files(folder: Path | None) -> Iterator[Path]:
    """The good files, made by a process of its own; in a given folder they are made once."""
    with tempfile.TemporaryDirectory(prefix="splite-good-") as name:
        place = folder or Path(name) / "good"
        if not place.exists():
            partial = place.with_name(place.name + ".part")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            with (partial / "log").open("w") as log:
                if _in_child(lambda: _make_good(partial, log.fileno())):
                    raise SystemExit(f"The good files cannot be made:\n{(partial / 'log').read_text()[-3000:]}")
            partial.rename(place)
        yield place.resolve()


def _make_good(folder: Path, log: int) -> None:
    from good import make_good

    os.dup2(log, 1)
    os.dup2(log, 2)
    make_good(folder)


def _in_child(work: Any) -> int:
    """The exit status of a function in a forked process."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def import_all(good: Path) -> None:
    """Imports what the commands import on the way, so that no input pays for it.

    A forked process runs one of each and says what it has loaded; nothing is run here, since threads do not survive a
    fork.
    """
    import surfaces

    from splite_deploy.cli import main

    read, write = os.pipe()

    def warm() -> None:
        os.close(read)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        with tempfile.TemporaryDirectory() as name:
            os.chdir(name)
            onnx_file, tflite = str(good / "tiny.splite" / "model.onnx"), str(surfaces.VECTORS / "tiny.fp32.tflite")
            spec, photographs = str(good / "tiny" / "model.toml"), str(good / "photographs")
            weights = surfaces.checkpoint_commands(str(good / "tiny" / "tiny.pt"), good)
            quantised = (
                "export",
                str(good / "tiny" / "tiny.safetensors"),
                "-o",
                "q.splite",
                "-p",
                "int8",
                "--crops",
                "2",
            )
            for command in (
                *(one for _, one in surfaces.bundle_commands(str(good / "tiny.splite"), good)),
                *(one for _, one in surfaces.bundle_commands(str(good / "lite.splite"), good)),
                *(one for _, one in (*weights, *surfaces.file_commands(onnx_file, good, spec))),
                *(one for _, one in surfaces.file_commands(tflite, good, spec)),
                (*quantised, "--calibration", photographs),
                ("bench", "--compare", str(good / "before.jsonl"), str(good / "after.jsonl"), "--html", "x.html"),
            ):
                with suppress(SystemExit):
                    main(list(command), prog_name=_PROGRAM)
        with os.fdopen(write, "w") as pipe:
            pipe.write("\n".join(sys.modules))

    pid = os.fork()
    if pid == 0:
        try:
            warm()
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        names = pipe.read().splitlines()
    os.waitpid(pid, 0)
    for name in names:
        if not name.startswith(("__", "arch", "samples")):
            with suppress(Exception):
                importlib.import_module(name)


def show(outcomes: Sequence[Outcome], seed: int, seconds: float) -> None:
    """Prints the table, and the findings by their cause."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=150)
    table = Table(title=f"{len(outcomes)} spoilt inputs, seed {seed}, {seconds / 60:.1f} minutes")
    table.add_column("surface")
    for column in ("inputs", *KINDS, "mean ms", "max s"):
        table.add_column(column, justify="right")
    by_surface: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        by_surface[one.surface].append(one)
    for name, some in [*sorted(by_surface.items()), ("all", list(outcomes))]:
        counts = Counter(one.kind for one in some)
        times = [one.seconds for one in some] or [0.0]
        bold = "[bold]" if name == "all" else ""
        cells = (name, str(len(some)), *(str(counts[kind] or "·") for kind in KINDS))
        table.add_row(*(bold + cell for cell in (*cells, f"{1e3 * sum(times) / len(times):.0f}", f"{max(times):.1f}")))
    console.print(table)
    for (kind, surface, command, detail), some in causes(outcomes):
        console.print(
            f"{len(some):5} {kind}: {escape(f'{surface}, {command}: {detail}')}", highlight=False, soft_wrap=True
        )
        console.print(f"      --replay {surface} {seed} {some[0].index}", highlight=False)


def causes(outcomes: Sequence[Outcome]) -> list[tuple[tuple[str, str, str, str], list[Outcome]]]:
    """The findings that must not be, by their cause, the most frequent first."""
    found: dict[tuple[str, str, str, str], list[Outcome]] = defaultdict(list)
    for one in outcomes:
        if one.kind in FAILURES:
            found[one.kind, one.surface, one.command, one.detail].append(one)
    return sorted(found.items(), key=lambda item: -len(item[1]))


def _messages(outcomes: Sequence[Outcome], surface: str) -> list[tuple[str, int]]:
    """The most frequent right errors of a surface, to see whether the damage is what they are about."""
    said = Counter(re.sub("[0-9]+", "N", one.detail)[:100] for one in outcomes if one.surface == surface)
    return said.most_common(40)


def _replay(surface: str, seed: int, index: int, good: Path, place: Path) -> int:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    outcome = try_apart(surface, seed, index, place, good)
    lines = [json.loads(line) for line in (place / "outcomes").read_text(encoding="utf-8").splitlines()]
    print(f"{outcome.kind}: {outcome.note}; {outcome.command}: {outcome.detail}\nThe input is in {place / 'in'}.")
    for line in lines:
        print(json.dumps(line))
    for name in ("stdout", "stderr", "faults", "harness"):
        if (place / name).exists() and (text := (place / name).read_text(errors="replace")):
            print(f"--- {name}\n{text}")
    return int(outcome.kind in FAILURES)


@click.command()
@click.option("--count", default=COUNT, show_default=True, help="Number of inputs, all surfaces together.")
@click.option("--seed", default=SEED, show_default=True, help="What all inputs are made from.")
@click.option("--surface", "chosen", multiple=True, help="Only this surface; may be given several times.")
@click.option("--jobs", default=min(2, os.cpu_count() or 1), show_default=True, help="Processes at once.")
@click.option("--good", type=click.Path(path_type=Path), help="Keep the good files in this folder, and use them again.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=ROOT / "build" / "fuzz", help="For result and findings."
)
@click.option("--replay", nargs=3, type=(str, int, int), metavar="SURFACE SEED INDEX", help="Try one input again.")
def run(**options: Any) -> None:
    """Gives spoilt inputs to the commands; the exit status is 1 if one of them leads to what must not be."""
    import good as _  # noqa: F401  # torch, onnx and all, once for all processes
    from confine import can_confine
    from surfaces import SURFACES

    if os.geteuid() == 0 and not can_confine():
        raise click.UsageError("This kernel has no Landlock, which confines root to a folder. Run it as another user.")
    out: Path = options["out"].resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["SPLITE_CACHE"] = str(out / "cache")
    (out / "cache").mkdir(exist_ok=True)
    unknown = sorted({*options["chosen"]} - {*SURFACES})
    if unknown:
        raise click.UsageError(f"There is no surface {unknown[0]}. Surfaces: {', '.join(SURFACES)}.")
    with good_files(options["good"]) as good:
        if options["replay"] is not None:
            surface, seed, index = options["replay"]
            sys.exit(_replay(surface, seed, index, good, out / "replay" / f"{surface}-{seed}-{index}"))
        import_all(good)
        kept = out / "findings"
        shutil.rmtree(kept, ignore_errors=True)
        todo = tasks(options["count"], options["chosen"] or list(SURFACES))
        began, outcomes, told = time.monotonic(), [], time.monotonic()
        try:
            for outcome in run_all(todo, options["seed"], options["jobs"], good, kept):
                outcomes.append(outcome)
                if time.monotonic() - told > 15:
                    told = time.monotonic()
                    bad = sum(one.kind in FAILURES for one in outcomes)
                    print(f"{len(outcomes)} of {len(todo)}, {bad} findings", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("Interrupted: the table is of what was tried so far.", file=sys.stderr)
        seconds = time.monotonic() - began
    show(outcomes, options["seed"], seconds)
    counts = {name: Counter(one.kind for one in outcomes if one.surface == name) for name in SURFACES}
    result = {
        "seed": options["seed"],
        "inputs": len(outcomes),
        "seconds": round(seconds, 1),
        "counts": {name: dict(count) for name, count in counts.items() if count},
        "findings": [asdict(one) for one in outcomes if one.kind in FAILURES],
        "messages": {name: dict(_messages(outcomes, name)) for name in counts if counts[name]},
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(result["findings"]) or len(outcomes) < len(todo))


if __name__ == "__main__":
    run()
