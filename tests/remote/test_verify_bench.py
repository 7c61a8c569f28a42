"""verify and bench on machines that a real sshd leads to."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from ssh_server import Devices, Server

from splite_deploy.bench import read_results
from splite_deploy.bundle import MANIFEST, Bundle
from splite_deploy.remote.push import runtime_wheel

Run = Callable[..., Result]
QUICK = ("--frames", "20", "--warmup", "2")
SENT = re.compile(r"sending ([\w ]+): 0\.0 of")


def test_verify_gives_what_it_gives_here(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("board")
    done = splite("verify", bundle, "--device", "board", "--json", "there.json")
    assert done.exit_code == 0, done.output
    row = next(line for line in done.stdout.splitlines() if "ort fp32" in line)
    assert "board" in row and "✓" in row
    (there,) = json.loads(Path("there.json").read_text(encoding="utf-8"))
    assert there["results"] == json.loads(splite("verify", bundle, "--json", "-").stdout)
    assert there["device"] == "board" and there["environment"]["versions"].keys() >= {"numpy", "onnxruntime"}
    for step in ("connecting", "doctor", "verify", "✓ ort fp32", "done"):
        assert f"board: {step}" in done.stderr


def test_a_bundle_in_parts_runs_there(ssh: Server, devices: Devices, tiny_parts_bundle: Path, splite: Run) -> None:
    devices("board")
    done = splite("verify", tiny_parts_bundle, "-p", "fp16", "--device", "board", "--json", "there.json")
    assert done.exit_code == 0, done.output
    (there,) = json.loads(Path("there.json").read_text(encoding="utf-8"))
    assert there["results"] == json.loads(splite("verify", tiny_parts_bundle, "-p", "fp16", "--json", "-").stdout)
    done = splite("bench", tiny_parts_bundle, "-p", "fp32", *QUICK, "--device", "board", "--json", "bench.jsonl")
    assert done.exit_code == 0, done.output
    (result,) = read_results(Path("bench.jsonl"))
    assert result.artifact_sha256 == Bundle.open(tiny_parts_bundle).find("ort", "fp32").content_sha256


def test_only_what_differs_or_is_damaged_is_sent(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("board")
    first = splite("verify", bundle, "--device", ssh.address)
    assert first.exit_code == 0, first.output + (ssh.folder / "log").read_text()
    assert "board: doctor" in first.stderr  # the file knows the address
    again = splite("verify", bundle, "--device", "board")
    assert again.exit_code == 0 and SENT.findall(again.stderr) == []
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    (bundle / "report.json").write_text(json.dumps(report, indent=3), encoding="utf-8")
    changed = splite("verify", bundle, "--device", "board")
    assert changed.exit_code == 0 and SENT.findall(changed.stderr) == ["what the command reads"]
    # what is damaged over there is sent again, and the runtime is unpacked anew
    model = max((one for one in bundle.iterdir()), key=lambda one: one.stat().st_size)
    (runtime,) = (ssh.cache / "runtimes").glob(f"{runtime_wheel().sha256}")
    (runtime / "splite_deploy" / "cli" / "app.py").write_text("raise SystemExit(99)", encoding="utf-8")
    for stored in (ssh.cache / "files").iterdir():
        if stored.stat().st_size == model.stat().st_size:
            stored.chmod(0o644)
            stored.write_bytes(bytes(model.stat().st_size))
    mended = splite("verify", bundle, "--device", "board")
    assert mended.exit_code == 0, mended.output
    assert SENT.findall(mended.stderr) == ["what the command reads"]


def test_many_begin_in_an_empty_cache_at_once(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    names = [f"m{number}" for number in range(3)]
    devices(*names)
    shutil.rmtree(ssh.cache, ignore_errors=True)
    done = splite("verify", bundle, *(part for name in names for part in ("--device", name)), "--json", "-")
    assert done.exit_code == 0, done.output
    assert [one["device"] for one in json.loads(done.stdout)] == names


def test_bench_on_two_at_once(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    pytest.importorskip("jinja2")
    devices("left", "right")
    there = ("--device", "left", "--device", "right")
    files = ("--json", "a.jsonl", "--html", "a.html", "--csv", "a.csv", "--markdown", "a.md")
    done = splite("bench", bundle, *there, *QUICK, *files, "--budget", "10s")
    assert done.exit_code == 0, done.output
    results = read_results("a.jsonl")
    assert [(one.device, one.bundle, one.label) for one in results] == [
        ("left", "own.splite", "ort fp32"),
        ("right", "own.splite", "ort fp32"),
    ]
    assert all(one.environment.cpu_model and one.environment.versions["onnxruntime"] for one in results)
    table = done.stdout.partition("Side by side")[2]
    assert "left own.splite" in table and "right own.splite" in table
    assert re.search(r"Python program +│ .*python", done.stdout)
    for name in ("left", "right"):
        assert f"{name}: Ship" in done.stdout and f"{name} own.splite" in Path("a.html").read_text(encoding="utf-8")
        assert f"{name} own.splite ort fp32" in Path("a.md").read_text(encoding="utf-8")
    assert "These results are not ranked" in Path("a.html").read_text(encoding="utf-8")
    assert "left: loading own.splite" in done.stderr and "right: timing" in done.stderr
    compared = splite("bench", "--compare", "a.jsonl:1", "a.jsonl:2")
    assert "left own.splite ort fp32 -> right own.splite ort fp32" in compared.stdout


def test_limits_are_checked_here(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("board")
    done = splite("bench", bundle, "--device", "board", *QUICK, "--fail-if", "p50_ms>0", "--json", "-")
    assert done.exit_code == 1 and "p50_ms" in done.stderr
    assert json.loads(done.stdout)["device"] == "board"


def test_one_that_fails_takes_nothing_from_the_others(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("good")
    wrong = f'[bad]\naddress = "{ssh.address}"\npython = "no-such-python"\n'
    Path("devices.toml").write_text(Path("devices.toml").read_text(encoding="utf-8") + wrong, encoding="utf-8")
    done = splite("verify", bundle, "--device", "bad", "--device", "good", "--json", "a.json")
    assert done.exit_code == 1
    assert "error: bad: there is no Python 3 called no-such-python" in done.stderr
    assert "error: 1 of 2 machines failed: bad." in done.stderr
    assert [one["device"] for one in json.loads(Path("a.json").read_text(encoding="utf-8"))] == ["good"]


def test_a_file_without_a_bundle_and_what_it_is_compared_with(
    ssh: Server, devices: Devices, bundle: Path, splite: Run
) -> None:
    devices("board")
    (graph,) = bundle.glob("*.onnx")
    shutil.copy(graph, "net.onnx")
    shutil.copy(graph, "other.onnx")
    shutil.copy(Path(__file__).parents[1] / "tiny" / "model.toml", "model.toml")
    done = splite("verify", "net.onnx", "--reference", "other.onnx", "--device", "board", "--json", "-")
    assert done.exit_code == 0, done.output
    (there,) = json.loads(done.stdout)
    assert there["results"] == json.loads(
        splite("verify", "net.onnx", "--reference", "other.onnx", "--json", "-").stdout
    )


def test_what_breaks_a_limit_there_is_told_with_the_machine(
    ssh: Server, devices: Devices, bundle: Path, splite: Run
) -> None:
    devices("board")
    manifest = Bundle.open(bundle).manifest
    limits = dataclasses.replace(manifest.artifacts[0].limits, shift_p95_px=1e-12, shift_max_px=1e-12)
    artifacts = tuple(dataclasses.replace(one, limits=limits) for one in manifest.artifacts)
    (bundle / MANIFEST).write_text(dataclasses.replace(manifest, artifacts=artifacts).to_json(), encoding="utf-8")
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 1 and "over the limit" in done.stdout
    assert "error: board: ort fp32 differs on this machine: keypoint deviation p95" in done.stderr


# --- what ends in the middle ---


def running_bench(bundle: Path) -> subprocess.Popen[str]:
    """A benchmark of minutes, which runs over there by now."""
    command = [sys.executable, "-m", "splite_deploy", "bench", bundle, "--device", "board", "--min-seconds", "300"]
    program = subprocess.Popen([*map(str, command), "--json", "a.jsonl"], stderr=subprocess.PIPE, text=True)
    assert program.stderr is not None
    for line in program.stderr:
        if "board: timing" in line:
            return program
    raise AssertionError(f"it ended with {program.wait()}")


def processes_of(server: Server) -> list[int]:
    """Processes that work in the server's cache."""
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        try:
            if str(server.cache) in str((one / "cwd").readlink()):
                found.append(int(one.name))
        except OSError:
            continue
    return found


def gone_within(server: Server, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not processes_of(server) and not list((server.cache / "sessions").iterdir()):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
def test_a_connection_that_is_lost(ssh: Server, devices: Devices, bundle: Path) -> None:
    devices("board")
    program = running_bench(bundle)
    assert processes_of(ssh)
    sessions = subprocess.run(["pgrep", "-P", str(ssh.pid)], capture_output=True, text=True, check=True).stdout.split()
    for session in sessions:
        os.kill(int(session), signal.SIGKILL)
    _, said = program.communicate(timeout=30)
    assert program.returncode == 1
    assert "error: board: the connection was lost while bench ran there" in said
    assert "hint:  What ran there ends by itself; run the command again." in said
    assert gone_within(ssh, 15)
    assert not Path("a.jsonl").exists()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks into /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_who_asked_ends(ssh: Server, devices: Devices, bundle: Path, number: int) -> None:
    devices("board")
    program = running_bench(bundle)
    program.send_signal(number)
    program.communicate(timeout=30)
    assert program.returncode in (128 + signal.SIGINT, -signal.SIGKILL)
    assert gone_within(ssh, 15)
    assert sorted(one.name for one in Path.cwd().iterdir()) == ["devices.toml"]
