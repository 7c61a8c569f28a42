"""Some kills of each command, two writers with a reader, and a verdict that can fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kills as killing

from splite_deploy.bundle import Bundle
from splite_deploy.files import sha256_of

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="reads Linux's /proc")

WRITER = """
import shutil, sys, time
from pathlib import Path
from splite_deploy.bundle.new import new_bundle
from splite_deploy.errors import OutputError

source, place, note, end = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], time.monotonic() + 4
written = refused = 0
while time.monotonic() < end or not written:
    try:
        with new_bundle(place, overwrite=True) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
        written += 1
    except OutputError as err:
        assert "is being written by" in err.message, err.message
        refused += 1
    time.sleep(0.005)
print(written, refused)
"""


@pytest.mark.slow
def test_kills_leave_old_or_new_results_and_nothing_else(tmp_path: Path) -> None:
    lines = tmp_path / "kills.jsonl"
    command = [sys.executable, killing.__file__, "--kills", "6", "--seed", "7", "--json", str(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [one["number"] for one in found] == list(range(6))
    assert {one["work"].split()[0] for one in found} >= {"export", "compact", "run", "bench", "install"}
    assert "| all | 6 |" in done.stdout


def test_two_writers_and_a_reader(tiny_bundle: Path, tmp_path: Path) -> None:
    place = tmp_path / "shared.splite"
    command = [sys.executable, "-c", WRITER, str(tiny_bundle), str(place)]
    writers = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True) for name in ("one", "other")]
    while not place.exists():
        assert writers[0].poll() is None or writers[1].poll() is None
        time.sleep(0.01)
    reads = 0
    while any(writer.poll() is None for writer in writers):
        bundle = Bundle.open(place)
        bundle.golden()
        for one in bundle.manifest.artifacts:
            assert sha256_of(place / one.file) == one.sha256
        reads += 1
    counts = [tuple(map(int, (writer.communicate()[0]).split())) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert all(written for written, _ in counts) and reads > 10
    assert [one.name for one in tmp_path.iterdir()] == [place.name]


def test_the_verdict_sees_what_a_command_leaves(tmp_path: Path) -> None:
    good = tmp_path / "good"
    (good / "out").mkdir(parents=True)
    (good / "out" / "result.json").write_text("[1]")
    leaves = killing.Work(
        "leaves", ("--help",), lambda out: killing._json(out / "result.json", 1), ("result.json", "gone.json")
    )
    kill = killing.Kill(0, "leaves", "SIGKILL", "all", 0.0)
    folder, never = killing._copy(good, tmp_path), killing.random.Random(0)
    (folder / "out" / "gone.json").write_text("")
    (folder / "stderr").touch()
    killing._kill(folder, leaves, (1e-3, 1), kill, never)
    assert (kill.status, kill.wrong) == (-9, [])
    (folder / "out" / "result.json").write_text("[1")
    killing._kill(folder, leaves, (1e-3, 1), kill, never)
    assert [one.partition(":")[0] for one in kill.wrong] == ["result", "result of the next run"]


def test_the_table_counts_what_stays_apart() -> None:
    kills = [
        killing.Kill(0, "export", "SIGKILL", "all", 0.5, result="old"),
        killing.Kill(1, "run", "SIGTERM", "last", 0.9, result="new", left=["out/x"], wrong=["stays: ['out/x']"]),
        killing.Kill(2, "run", "SIGTERM", "file", 0.9, result="none", wrong=["result: x is cut"]),
    ]
    table = killing.table(kills)
    assert "| run | 2 | 0 | 1 | 1 | 0 | 1 | 1 | 1 | 1 | 1 |" in table
    assert "| all | 3 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 | 1 |" in table
    assert "SIGKILL 1, SIGTERM 2. Moments: " in table and "1 at 0.5" in table
