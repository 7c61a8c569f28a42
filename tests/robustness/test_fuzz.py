"""A short run over all surfaces, and whether the harness tells a bug when it sees one; `make fuzz` is the long run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

for package in ("torch", "onnx", "onnxruntime", "safetensors", "ai_edge_litert", "jinja2"):
    pytest.importorskip(package)
HERE = Path(__file__).parent
SEED, COUNT = 15, 120

sys.path.insert(0, str(HERE))
try:
    from confine import can_confine
finally:
    sys.path.remove(str(HERE))

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or (os.geteuid() == 0 and not can_confine()),
    reason="the harness forks, and as root it needs Landlock",
)


@pytest.mark.slow
def test_no_spoilt_input_leads_to_what_must_not_be(tmp_path: Path) -> None:
    command = [sys.executable, HERE / "fuzz.py", "--count", str(COUNT), "--seed", str(SEED), "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    result = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))
    assert result["findings"] == [] and result["inputs"] >= COUNT * 0.95
    assert all(sum(counts.values()) >= 1 for counts in result["counts"].values())
    total = {
        kind: sum(counts.get(kind, 0) for counts in result["counts"].values()) for kind in ("right error", "accepted")
    }
    assert total["right error"] > COUNT / 2 and total["accepted"] > COUNT / 20, total


PLANTED = """
import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, HERE)
import fuzz, surfaces
from splite_deploy import cli

def main(arguments, **_):
    name = arguments[0]
    if name == "traceback":
        raise KeyError("x")
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(60)
    if name == "child":
        print("Traceback (most recent call last)\\\\nKeyError: 1", file=sys.stderr)
    if name == "nan":
        Path("a.json").write_text('{"a": NaN}')
    if name == "escape":
        print("a\\x1b[31mb")
    if name == "changed":
        Path("spoilt").write_text("other")
    if name == "outside":
        Path(OUTSIDE).write_text("x")
    if name == "part":
        Path(".a.1.part.png").touch()
    if name == "good error":
        print("error: It cannot be done.\\nhint:  Do this.", file=sys.stderr)
    if name == "no hint":
        print("error: It cannot be done.", file=sys.stderr)
    sys.exit(1 if name in ("good error", "no hint", "silent", "child") else 0)

cli.main = main
fuzz.HANG_S = 1.0
work = Path(WORK)
for name in NAMES:
    def spoil(rng, folder, good):
        (folder / "spoilt").write_text("x")
        return surfaces.Case("planted", [(name, "--json", "a.json")], ("spoilt",), name == "unnoticed")
    surfaces.SURFACES["planted"] = surfaces.Surface(1, spoil)
    (work / name).mkdir()
    outcome = fuzz.try_apart("planted", 1, 0, work / name, work)
    print(f"{name}|{outcome.kind}|{outcome.detail}")
"""
EXPECTED = {
    "fine": ("accepted", ""),
    "good error": ("right error", "error: It cannot be done."),
    "traceback": ("traceback", "KeyError at "),
    "child": ("traceback", "printed: "),
    "crash": ("crash", "SIGSEGV at "),
    "hang": ("hang", ""),
    "nan": ("wrong", "a.json is no JSON: it holds NaN"),
    "escape": ("wrong", "the control character '\\x1b'"),
    "changed": ("wrong", "spoilt was changed"),
    "outside": ("traceback", "PermissionError at "),
    "part": ("wrong", ".a.1.part.png was left"),
    "no hint": ("wrong", "an error without message or hint"),
    "silent": ("wrong", "a failure without a word"),
    "unnoticed": ("wrong", "the damage was not noticed"),
}


def test_it_tells_what_must_not_be(tmp_path: Path) -> None:
    names = [name for name in EXPECTED if name != "outside" or can_confine()]
    (tmp_path / "work").mkdir()
    (tmp_path / "cache").mkdir()
    script = PLANTED.replace("HERE", repr(str(HERE))).replace("WORK", repr(str(tmp_path / "work")))
    script = script.replace("OUTSIDE", repr(str(tmp_path / "victim"))).replace("NAMES", repr(names))
    environment = {**os.environ, "SPLITE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = {line.split("|")[0]: tuple(line.split("|", 2)[1:]) for line in done.stdout.splitlines()}
    for name in names:
        kind, detail = found[name]
        assert (kind, detail.startswith(EXPECTED[name][1])) == (EXPECTED[name][0], True), (name, kind, detail)
    assert not (tmp_path / "victim").exists()
