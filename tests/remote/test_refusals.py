"""What is said where a machine cannot be used, and of answers that cannot be right: nothing is written elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from ssh_server import Devices, Server, free_port, write_client

from splite_deploy.remote.gather import plain_parts

Run = Callable[..., Result]


def test_a_host_key_that_nobody_knows(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    write_client(ssh.folder, "-o UserKnownHostsFile=/dev/null")
    devices("board")
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 1
    assert "error: board: its host key is not known here, or is another than it was" in done.stderr
    assert f"compare the key that it shows: ssh -p {ssh.port} -l " in done.stderr


def test_a_key_that_is_refused(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    write_client(ssh.folder, f"-o IdentityFile={ssh.folder}/stranger -o IdentityFile=none")
    (ssh.folder / "ssh_config").write_text(
        (ssh.folder / "ssh_config").read_text(encoding="utf-8").replace("/user\n", "/stranger\n"), encoding="utf-8"
    )
    devices("board")
    try:
        done = splite("verify", bundle, "--device", "board")
    finally:
        text = (ssh.folder / "ssh_config").read_text(encoding="utf-8").replace("/stranger\n", "/user\n")
        (ssh.folder / "ssh_config").write_text(text, encoding="utf-8")
    assert done.exit_code == 1
    assert "error: board: it refused your key (ssh: " in done.stderr and "ssh-copy-id" in done.stderr


def test_a_port_without_a_server(ssh: Server, bundle: Path, splite: Run) -> None:
    done = splite("verify", bundle, "--device", f"ssh://127.0.0.1:{free_port()}")
    assert done.exit_code == 1
    assert re.search(r"error: 127\.0\.0\.1-\d+: nothing answers at that port", done.stderr)


def test_a_name_that_nobody_has(ssh: Server, bundle: Path, splite: Run) -> None:
    done = splite("verify", bundle, "--device", "ssh://no-such-host.invalid")
    assert done.exit_code == 1
    assert "error: no-such-host.invalid: no machine of that name is known" in done.stderr


def test_no_python(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("board", python="~/no such/python")
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 1
    assert "error: board: there is no Python 3 called ~/no such/python" in done.stderr
    assert "name the one to use in devices.toml: [board] python = ..." in done.stderr


def script(place: Path, text: str) -> Path:
    place.write_text(text, encoding="utf-8")
    place.chmod(0o755)
    return place


def test_an_old_python(ssh: Server, devices: Devices, bundle: Path, splite: Run, tmp_path: Path) -> None:
    mark = "import re, sys; print(re.search('[0-9a-f]{16}', sys.argv[3])[0], 3, 8)"
    old = script(tmp_path / "python3.8", f'#!/bin/sh\nexec {sys.executable} -c "{mark}" "$@"\n')
    devices("board", python=old)
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 1
    assert f"error: board: {old} is Python 3.8 there; 3.10 is the oldest that serves." in done.stderr


def test_a_python_without_packages(ssh: Server, devices: Devices, bundle: Path, splite: Run, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    python = tmp_path / "empty" / "bin" / "python"
    devices("board", python=python)
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 1
    assert f"error: board: click, rich, numpy, opencv-python-headless are not installed for {python}" in done.stderr
    assert f"{python} -m pip install click rich numpy opencv-python-headless" in done.stderr


def test_a_backend_that_is_not_there(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    if shutil.which("nvidia-smi") is not None:
        pytest.skip("there is a GPU of NVIDIA here")
    devices("board")
    done = splite("verify", bundle, "--device", "board", "-b", "trt")
    assert done.exit_code == 1
    assert "error: board: what 'run with trt' needs is not installed there." in done.stderr


def test_another_power_mode(ssh: Server, devices: Devices, bundle: Path, splite: Run) -> None:
    devices("board", more='power_mode = "MAXN of a test"')
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 1
    assert re.search(
        r"error: board: it is in the power mode .*, and devices\.toml requires MAXN of a test\.", done.stderr
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(
    ssh: Server, devices: Devices, bundle: Path, splite: Run, small_disk: Path, tmp_path: Path
) -> None:
    python = script(tmp_path / "python", f'#!/bin/sh\nSPLITE_CACHE={small_disk} exec {sys.executable} "$@"\n')
    devices("board", python=python)
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 1
    assert "error: board: its disk is full (No space left on device: " in done.stderr
    assert "hint:  Free some space over there." in done.stderr
    assert [one for one in small_disk.rglob("*") if one.is_file()] == []


# --- answers that cannot be right ---

HOSTILE = """#!{python}
import re, sys
code = sys.argv[-1]
print(re.search("[0-9a-f]{{16}}", code)[0], 3, 11, flush=True)
source = sys.stdin.buffer.read(int(re.search("read.([0-9]+)", code)[1])).decode()
{change}
exec(compile(source, "agent", "exec"))
"""
"""A machine that does not play by the rules: the agent with something else in it."""
SENDS = """
import hashlib
def evil(self, request):
    self._send(ended=0)
    import io
    for name, content, more in {files!r}:
        header = dict(file=name, size=len(content), sha256=hashlib.sha256(content).hexdigest(), known=False)
        header.update(more)
        self._send(io.BytesIO(content), **header)
    self._send(done=True)
"""


def sends(*files: tuple[object, bytes, dict[str, object]]) -> str:
    """Gives these files in the place of what the command wrote."""
    evil = SENDS.format(files=files)
    return f"source = source.replace('main()\\n', {evil!r} + 'Agent._job = evil\\nmain()\\n')"


FACTS = b'{"a": 1}'
ELSEWHERE = "sends a file of a name that leads elsewhere or is none"


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "../a", "a/..", "a/../b", "/a", "a//b", "a/", "./a", ".a", "a/.b", "a\\..\\b", "a ", "a."),
        *(" ", "a\n", "a\0", "a\x7f", "a\u202eb", "a\ud800", "x" * 256, "é" * 128, "/".join("x" * 17)),
        *(None, 1, ["a"], b"a"),
    ],
    ids=ascii,
)
def test_names_that_lead_elsewhere(name: object) -> None:
    assert plain_parts(name) == []


def test_names_that_people_give_files() -> None:
    for name in ("a.png", "out/b/c.json", "Hände 1.jpg", "手.png", "a..b", "-a", "x" * 255):
        assert "/".join(plain_parts(name)) == name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *(
            pytest.param(sends((name, b"evil", {})), ELSEWHERE, id=f"name {name!r}"[:40])
            for name in (
                "../evil",
                "/tmp/evil-of-splite",
                ".bashrc",
                "evil\x1b[2J",
                ["evil"],
            )
        ),
        pytest.param(sends(("evil", b"x", {"size": 1 << 50})), "it sends more than is taken", id="too large"),
        pytest.param(sends(("evil", b"x", {"size": -1})), "without a size and a hash", id="negative"),
        pytest.param(sends(("evil", b"x", {"size": "1"})), "without a size and a hash", id="no number"),
        pytest.param(sends(("evil", b"x", {"sha256": "0" * 64})), "with another content than it announced", id="hash"),
        pytest.param(sends(("evil", b"", {"known": True})), "refers to a content of", id="known"),
        pytest.param(sends(("evil", b"x", {}), ("evil", b"y", {})), "File exists", id="twice"),
        pytest.param(sends(("evil", b"x", {}), ("evil/a", b"y", {})), "a file, not a folder", id="below a file"),
        pytest.param(
            sends(("out/facts.json", FACTS, {})), "results cannot be used: Unknown field a.", id="other facts"
        ),
        pytest.param(
            sends(("out/facts.json", b"[" * 100_000, {})), "its results cannot be used: Cannot read", id="deep facts"
        ),
        pytest.param(sends(), "its results cannot be used: Cannot read", id="nothing"),
        pytest.param(
            "source = source.replace('self._send(ready=True)', 'self._sink.write(b\"[\" * 100000 + b\"\\\\n\")')",
            "answers what is no message: it is nested too deeply",
            id="deep message",
        ),
        pytest.param(
            "source = source.replace('self._send(ready=True)', 'self._sink.write(b\"x\" * (1 << 22))')",
            "answers a line without an end",
            id="endless line",
        ),
        pytest.param(
            "source = source.replace('self._send(ready=True)', 'self._send(whatever=1)')",
            "answers what nobody asked",
            id="another message",
        ),
        pytest.param(
            "source = source.replace('self._send(ready=True)', 'self._send(failed=\"\\x1b[2Jgone\")')",
            "it failed while it was connected: \\x1b[2Jgone.",
            id="control characters",
        ),
        pytest.param(
            "source = source.replace('lacking=[sha256', 'lacking=[\"../../etc/passwd\", *[sha256').replace("
            "'if not self._has(sha256)]', 'if not self._has(sha256)]]')",
            "asks for files that nobody offered",
            id="files that were not offered",
        ),
        pytest.param(
            "source = source.replace('self._send(ended=status)', 'self._send(ended=\"fine\")')",
            "tells no status of the command",
            id="status",
        ),
    ],
)
def test_answers_that_cannot_be_right(
    change: str, said: str, ssh: Server, devices: Devices, bundle: Path, splite: Run, tmp_path: Path
) -> None:
    python = script(tmp_path / "hostile", HOSTILE.format(python=sys.executable, change=change))
    devices("board", python=python)
    before = {*tmp_path.rglob("*")}
    done = splite("verify", bundle, "--device", "board", "--json", "a.json")
    assert done.exit_code == 1, done.output
    assert "error: board: " in done.stderr or "Cannot write" in done.stderr
    assert said in done.stderr
    assert "\x1b" not in done.output and "Traceback" not in done.output
    assert {*tmp_path.rglob("*")} == before
    assert not Path("/tmp/evil-of-splite").exists() and not Path("../evil").exists()


def test_a_machine_that_never_stops_talking(
    ssh: Server, devices: Devices, bundle: Path, splite: Run, tmp_path: Path
) -> None:
    endless = script(tmp_path / "endless", "#!/bin/sh\nexec yes\n")
    devices("board", python=endless)
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 1
    assert "error: board: it prints without an end before anything is asked." in done.stderr


def test_a_python_that_starts_slowly_behind_what_start_files_print(
    ssh: Server, devices: Devices, bundle: Path, splite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splite_deploy.remote.connection._TELL_EVERY_S", 0.2)
    devices(
        "board", python=script(tmp_path / "slow", f'#!/bin/sh\necho "Welcome!"\nsleep 1\nexec {sys.executable} "$@"\n')
    )
    done = splite("verify", bundle, "--device", "board")
    assert done.exit_code == 0, done.output


# --- what is refused before anything is contacted ---


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--device", "board"), "No machine is called 'board' since there is no devices.toml here."),
        (("--device", "ssh://"), "'ssh://' is no address of a machine."),
        (("--device", "ssh://-oProxyCommand=x"), "is no address of a machine."),
        (("--device", "ssh://a b"), "is no address of a machine."),
        (("--device", "ssh://a:70000"), "is no address of a machine."),
        (("--device", "ssh://a", "--device", "ssh://b@a"), "is the second machine called a."),
        (("--device", "ssh://a", "--devices", "none.toml"), "Cannot read none.toml"),
        (("--devices", "none.toml"), "--devices is for --device, which is not given."),
        (("--device", "ssh://a", "--model", "x.toml"), "--model is for a file without a bundle"),
        (("--device", "ssh://a", "-b", "tflite", "--threads", "0"), "0 is not in the range"),
    ],
)
def test_wrong_options_are_told_before(
    typed: tuple[str, ...], said: str, bundle: Path, splite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "ssh", f"#!/bin/sh\ntouch {tmp_path}/contacted\n")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    done = splite("verify", bundle, *typed)
    assert done.exit_code in (1, 2) and said in done.stderr
    assert not (tmp_path / "contacted").exists()


def test_a_damaged_bundle_is_told_before(bundle: Path, splite: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    (graph,) = bundle.glob("*.onnx")
    graph.write_bytes(b"damaged")
    done = splite("verify", bundle, "--device", "ssh://a")
    assert done.exit_code == 1 and "model.onnx" in done.stderr


def test_no_ssh(bundle: Path, splite: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done = splite("verify", bundle, "--device", "ssh://a")
    assert done.exit_code == 1 and "error: There is no ssh here, the client of OpenSSH." in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]", "The field a.address is missing."),
        ("a = 1", "'a' is not a table."),
        ('[a]\naddress = "ssh://b"\npyhton = "x"', "Unknown field a.pyhton."),
        ('[a]\naddress = "b"', "a.address: 'b' is no address of a machine."),
        ('["a/b"]\naddress = "ssh://b"', "'a/b' is no name for a machine."),
        ('["../a"]\naddress = "ssh://b"', "'../a' is no name for a machine."),
        ('[a]\naddress = "ssh://b"\npython = ""', "a.python is ''."),
        ("[a", "it is not valid TOML"),
        ('[b]\naddress = "ssh://b"', "No machine is called 'a' in devices.toml."),
    ],
)
def test_files_of_machines_that_are_wrong(
    text: str, said: str, bundle: Path, splite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("devices.toml").write_text(text, encoding="utf-8")
    done = splite("verify", bundle, "--device", "a")
    assert done.exit_code in (1, 2) and said in done.stderr
