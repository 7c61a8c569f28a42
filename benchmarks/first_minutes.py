r"""From nothing to a picture with hands drawn: what a newcomer types, downloads and waits for, here and elsewhere.

    python -m build --wheel --outdir dist
    python benchmarks/first_minutes.py --wheel dist/splite_deploy-*.whl --out benchmarks/results/first-minutes.jsonl

Each package gets a fresh environment, and its shortest documented way to the hands of one picture, that of
`splite-deploy demo`. Packages come from the index that pip is set up with. Python 3.10 to 3.12, which MediaPipe 0.10.21
has wheels for. Appends one JSON line; `--only NAME` measures one package anew. Then `python benchmarks/make_tables.py`
writes the table of the newest figures of each.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from splite_deploy.bench import append_record, read_environment
from splite_deploy.bundle.packaged import PICTURE, packaged
from splite_deploy.errors import SpliteError
from splite_deploy.spec.plain import to_plain

KIND = "first-minutes"
SCRIPT, OVERLAY = "hands.py", "overlay.jpg"
MOST_S = 1200.0
CLEAN = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
"""What a newcomer's shell holds: no package from elsewhere is seen."""
_MEDIAPIPE = f"""\
import cv2
import mediapipe as mp

image = cv2.imread("{PICTURE}")
hands = mp.solutions.hands.Hands(static_image_mode=True)
found = hands.process(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).multi_hand_landmarks or []
for hand in found:
    mp.solutions.drawing_utils.draw_landmarks(image, hand, mp.solutions.hands.HAND_CONNECTIONS)
cv2.imwrite("{OVERLAY}", image)
print(len(found), "hands")
"""
_RTMLIB = f"""\
import cv2
from rtmlib import Hand, draw_skeleton

image = cv2.imread("{PICTURE}")
keypoints, scores = Hand()(image)
cv2.imwrite("{OVERLAY}", draw_skeleton(image, keypoints, scores, kpt_thr=0.43))
print(len(keypoints), "hands")
"""


@dataclass(frozen=True)
class Road:
    """The shortest documented way of a package.

    Attributes:
        package: What pip is told to install.
        script: What has to be written first, as `SCRIPT`; empty where nothing has to.
        command: What is typed then.
        overlay: Where the picture with the hands is.
        source: Where the way is documented.
    """

    package: str
    script: str
    command: str
    overlay: str
    source: str

    @property
    def typed(self) -> int:
        """Characters that are typed, ends of lines included."""
        install = f"pip install {self.package!r}" if "[" in self.package else f"pip install {self.package}"
        return len(f"{install}\n{self.script}{self.command}\n")


ROADS = {
    "splite-deploy": Road(
        "splite-deploy[ort]",
        "",
        f"splite-deploy demo {PICTURE}",
        f"splite-demo/{Path(PICTURE).stem}-overlay.jpg",
        "splite-deploy demo --help",
    ),
    "MediaPipe": Road(
        "mediapipe==0.10.21",
        _MEDIAPIPE,
        f"python {SCRIPT}",
        OVERLAY,
        "the guide to its Hands solution, static images (mediapipe.readthedocs.io/en/latest/solutions/hands.html)",
    ),
    "rtmlib": Road(
        "rtmlib",
        _RTMLIB,
        f"python {SCRIPT}",
        OVERLAY,
        "its README and the head of rtmlib/tools/solution/hand.py (github.com/Tau-J/rtmlib)",
    ),
}


@contextmanager
def _timed(stage: str, seconds: dict[str, float], cpu_seconds: dict[str, float]) -> Iterator[None]:
    """Notes how long a stage takes, and how much CPU time its children use."""
    began, before = time.perf_counter(), os.times()
    try:
        yield
    finally:
        after = os.times()
        seconds[stage] = time.perf_counter() - began
        cpu_seconds[stage] = after.children_user + after.children_system - before.children_user - before.children_system


def _bytes_on_disk(folder: Path) -> int:
    return sum(file.lstat().st_blocks * 512 for file in folder.rglob("*"))


def walk(road: Road, wheel: Path | None, folder: Path) -> dict[str, Any]:
    """Goes a road in an empty folder; what it took, and what came of it.

    Args:
        road: The road.
        wheel: Of this package, instead of the index's.
        folder: Empty.
    """
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}
    environment, downloads, work = (folder / name for name in ("environment", "downloads", "work"))
    python = environment / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    wanted = road.package if wheel is None else f"{wheel}[ort]"
    with _timed("environment", seconds, cpu_seconds):
        subprocess.run([sys.executable, "-m", "venv", environment], check=True, env=CLEAN)
    bare = _bytes_on_disk(environment)
    with _timed("download", seconds, cpu_seconds):
        subprocess.run([*pip, "download", "--dest", downloads, wanted], check=True, env=CLEAN)
    with _timed("install", seconds, cpu_seconds):
        subprocess.run([*pip, "install", "--no-index", "--find-links", downloads, road.package], check=True, env=CLEAN)
    work.mkdir()
    shutil.copy(packaged(PICTURE), work)
    if road.script:
        (work / SCRIPT).write_text(road.script, encoding="utf-8")
    own = {"PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}
    with _timed("run", seconds, cpu_seconds):
        done = subprocess.run(
            road.command.split(), cwd=work, env={**CLEAN, **own}, capture_output=True, text=True, timeout=MOST_S
        )
    hands = re.search(r"(\d+) hands?\b", done.stdout)
    files = list(downloads.iterdir())
    return {
        "package": road.package,
        "version": _version(files, road.package),
        "documented": road.source,
        "script": road.script,
        "command": road.command,
        "typed": road.typed,
        "packages": len(files),
        "download_bytes": sum(file.stat().st_size for file in files),
        "disk_bytes": _bytes_on_disk(environment) - bare,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "hands": int(hands[1]) if hands and done.returncode == 0 else None,
        "drawn": (work / road.overlay).is_file(),
        "error": "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no message"])[-1][:200],
    }


def _version(files: list[Path], package: str) -> str:
    """That of the wheel of a package."""
    stem = re.split(r"[\[=]", package)[0].replace("-", "_")
    return next(file.name.split("-")[1] for file in files if file.name.lower().startswith(f"{stem}-"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True, help="of this package")
    parser.add_argument("--only", choices=tuple(ROADS), help="measure this package alone; all of them by default")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines file to append to")
    options = parser.parse_args()
    if not (3, 10) <= sys.version_info < (3, 13):
        sys.exit(f"error: MediaPipe 0.10.21 has no wheel for Python {sys.version_info.major}.{sys.version_info.minor}")
    roads: dict[str, Any] = {}
    try:
        for name, road in ROADS.items() if options.only is None else [(options.only, ROADS[options.only])]:
            print(name, file=sys.stderr)
            with tempfile.TemporaryDirectory() as folder:
                roads[name] = walk(road, options.wheel.resolve() if name == "splite-deploy" else None, Path(folder))
        record = {
            "kind": KIND,
            "record_version": 1,
            "date_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "roads": roads,
            "load": os.getloadavg()[0],
            "environment": to_plain(read_environment()),
        }
        append_record(options.out, record)
    except SpliteError as err:
        sys.exit(f"error: {err}")
    for name, one in roads.items():
        print(f"{name}: {sum(one['seconds'].values()):.0f} s, {one['hands']} hands {one['error']}")


if __name__ == "__main__":
    main()
