"""The page's server, over real connections: what it gives, to whom, how it ends, and that nobody holds up a loop."""

from __future__ import annotations

import base64
import email
import hashlib
import http.client
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from splite_deploy.errors import CameraError, MissingDependencyError, UsageError
from splite_deploy.runtime import PoseEstimator
from splite_deploy.viewer import server as server_module
from splite_deploy.viewer.board import Board
from splite_deploy.viewer.server import Served, check_available, is_called, serve

pytest.importorskip("starlette", reason="the extra 'view' is not installed")
pytest.importorskip("uvicorn", reason="the extra 'view' is not installed")


@dataclass
class Answer:
    status: int
    headers: Message
    body: bytes

    @property
    def parts(self) -> dict[str, bytes]:
        """The parts of multipart data by name."""
        whole = email.message_from_bytes(f"Content-Type: {self.headers['content-type']}\r\n\r\n".encode() + self.body)
        return {
            str(part.get_param("name", header="content-disposition")): part.get_payload(decode=True)  # type: ignore[misc]
            for part in whole.get_payload()
        }

    @property
    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.parts["state"]))

    @property
    def level(self) -> int:
        """The grey level of the picture."""
        picture = cv2.imdecode(np.frombuffer(self.parts["picture"], np.uint8), cv2.IMREAD_COLOR)
        return round(float(np.median(picture)))


def get(served: Served, path: str, method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection(served.host, served.port, timeout=20)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def show(board: Board, level: int, side_px: int = 480) -> None:
    board.show(np.full((side_px, side_px, 3), level, np.uint8), [], False, time.perf_counter())


@pytest.fixture
def board(tiny_bundle: Path) -> Board:
    with PoseEstimator.open(tiny_bundle, "replay") as estimator:
        return Board("a hand", "clip.mp4", estimator.spec.skeleton, {})


@pytest.fixture(autouse=True)
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LINGERS_S", 0.2)


@pytest.fixture
def served(board: Board) -> Iterator[Served]:
    with serve(board, "127.0.0.1", 0) as at:
        yield at


# --- what it gives ---


def test_the_page_is_one_file_that_runs_its_own_script_alone(served: Served) -> None:
    assert served.address == f"http://127.0.0.1:{served.port}/" and not served.public
    answer = get(served, "/")
    page = answer.body.decode()
    assert answer.status == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?!data:,)|https?://|@import|url\(""", page)
    policy = answer.headers["content-security-policy"]
    for kind in ("script", "style"):
        ((text),) = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';") and "frame-ancestors 'none'" in policy
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store" and "server" not in answer.headers


def test_a_picture_comes_with_what_is_known_of_it(served: Served, board: Board) -> None:
    show(board, 50)
    first = get(served, "/next")
    assert (first.status, first.state["frame"], first.level) == (200, 0, 50)
    assert (first.state["model"], first.state["source"], first.state["fps"]) == ("a hand", "clip.mp4", None)
    assert first.headers["content-security-policy"]


def test_the_newest_picture_is_given_however_many_were_missed(served: Served, board: Board) -> None:
    run = board.run
    for level in range(100):
        show(board, level)
    seen = get(served, "/next")
    for level in range(100, 200):
        show(board, level)
    time.sleep(1 / server_module.MOST_FPS)
    again = get(served, f"/next?run={run}&after={seen.state['frame']}")
    assert [(one.state["frame"], one.level) for one in (seen, again)] == [(99, 99), (199, 199)]
    late = get(served, f"/next?run={run}&after=5")
    assert (late.state["frame"], late.level) == (199, 199)


def test_who_has_the_newest_picture_waits_for_the_next(served: Served, board: Board) -> None:
    show(board, 10)
    answers: list[Answer] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(get(served, f"/next?run={board.run}&after=0"))) for _ in range(3)
    ]
    for one in waiting:
        one.start()
    time.sleep(0.2)
    assert answers == []
    show(board, 20)
    for one in waiting:
        one.join(10)
    assert [(one.state["frame"], one.level) for one in answers] == [(1, 20)] * 3


def test_where_no_picture_comes_the_state_is_told(
    served: Served, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "ANSWERS_WITHIN_S", 0.2)
    none = get(served, "/next")
    assert none.state["frame"] == -1 and list(none.parts) == ["state"]
    show(board, 10)
    assert get(served, "/next").state["frame"] == 0
    old = get(served, f"/next?run={board.run}&after=0")
    assert old.state["age_s"] >= 0.2 and list(old.parts) == ["state"]


@pytest.mark.parametrize("query", ["after=0", "run=of-before&after=900", "run={run}&after=-1", "run={run}&after=x"])
def test_pictures_of_another_run_are_not_the_newest(served: Served, board: Board, query: str) -> None:
    """A page that stays open over the end of a run goes on with the next one."""
    show(board, 10)
    assert get(served, f"/next?{query.format(run=board.run)}").level == 10


def test_no_more_pictures_are_drawn_than_can_be_seen(
    served: Served, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    draw = Board.picture
    monkeypatch.setattr(Board, "picture", lambda *arguments: drawn.append(0) or draw(*arguments))
    end_s = time.monotonic() + 0.5

    def watch() -> None:
        after = -1
        while time.monotonic() < end_s:
            after = get(served, f"/next?run={board.run}&after={after}").state["frame"]

    show(board, 1)
    watching = [threading.Thread(target=watch) for _ in range(4)]
    for one in watching:
        one.start()
    while time.monotonic() < end_s + 0.1:
        show(board, 1, side_px=8)
        time.sleep(0.001)
    for one in watching:
        one.join(10)
    assert 2 <= len(drawn) <= 1.2 * 0.6 * server_module.MOST_FPS + 2


# --- to whom ---


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8090", 200),
        ("localhost:9000", 200),  # through ssh -L 9000:...
        ("LOCALHOST", 200),
        ("[::1]:8090", 200),
        ("192.168.0.7:8090", 200),
        ("evil.example", 421),
        ("evil.example:8090", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example", 421),
        ("evil.example@127.0.0.1.evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_page_that_calls_this_machine_by_its_own_name_is_refused(
    served: Served, board: Board, host: str, status: int
) -> None:
    """What DNS rebinding does."""
    show(board, 10)
    for path in ("/", "/next", "/none"):
        answer = get(served, path, Host=host)
        assert answer.status == (404 if path == "/none" and status == 200 else status)
        assert status == 200 or answer.body == b"This page has another name: open the address that was printed."


def test_a_name_of_the_machine_is_taken_where_others_may_look() -> None:
    assert is_called("robot.local:8090", {"localhost", "robot.local"}) and is_called("Robot.Local", {"robot.local"})
    assert not is_called("robot.local:8090", {"localhost"})
    assert server_module._own_names() >= {socket.gethostname().lower()}


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pictures_are_shown_in_no_page_of_others(served: Served, board: Board, site: str) -> None:
    show(board, 10)
    answer = get(served, "/next", Sec_Fetch_Site=site)
    assert (answer.status, answer.body) == (403, b"This is shown to its own page alone.")
    assert get(served, "/", Sec_Fetch_Site=site).status == 200  # a link to the page is no harm
    assert get(served, "/next", Sec_Fetch_Site="same-origin").status == 200


@pytest.mark.parametrize(
    "path", ["/page.html", "/server.py", "//etc/passwd", "/../../../../etc/passwd", "/%2e%2e/x", "/next/"]
)
def test_no_file_is_served(served: Served, path: str) -> None:
    answer = get(served, path)
    assert answer.status in (307, 404) and b"root:" not in answer.body and answer.headers["x-frame-options"] == "DENY"
    assert answer.status == 404 or path == "/next/"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_can_be_sent(served: Served, method: str) -> None:
    assert get(served, "/next", method).status == 405


def test_what_is_no_request_disturbs_nobody(served: Served, board: Board, capfd: pytest.CaptureFixture[str]) -> None:
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100_000, b""):
        with socket.create_connection((served.host, served.port)) as connection:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            while connection.recv(1 << 16):
                pass
    show(board, 10)
    assert get(served, "/next").level == 10
    assert capfd.readouterr() == ("", "")


def test_connections_that_say_nothing_keep_nobody_out(served: Served, board: Board) -> None:
    show(board, 10)
    watching = http.client.HTTPConnection(served.host, served.port, timeout=20)
    with ExitStack() as stack:
        stack.callback(watching.close)
        silent = []
        for index in range(3 * server_module.MOST_CONNECTIONS):
            silent.append(stack.enter_context(socket.create_connection((served.host, served.port), 20)))
            if index % 2:
                silent[-1].sendall(b"GET /next HTTP/1.1\r\n")  # and nothing more
            if index % 20 == 0:  # who watches is heard of
                watching.request("GET", "/next")
                answer = watching.getresponse()
                assert (answer.status, len(answer.read()) > 100) == (200, True)
        assert get(served, "/next").level == 10 and get(served, "/").status == 200
        with suppress(ConnectionError):
            assert silent[0].recv(1) == b"", "the oldest was closed"


def test_names_are_data(tiny_bundle: Path) -> None:
    name = "</script><script>alert('ä')</script>\ud800\x1b"
    with PoseEstimator.open(tiny_bundle, "replay") as estimator:
        board = Board(name, name, estimator.spec.skeleton, {})
    show(board, 10)
    with serve(board, "127.0.0.1", 0) as at:
        page, answer = get(at, "/"), get(at, "/next")
    assert b"alert(" not in page.body
    assert answer.state["model"] == "</script><script>alert('ä')</script>\\ud800\\x1b"
    assert answer.headers["content-type"].startswith("multipart/form-data")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_mistake_of_ours_is_told(
    served: Served, board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Board, "figures", lambda board: 1 // 0)
    show(board, 10)
    assert (get(served, "/next").status, get(served, "/").status) == (500, 200)
    assert "ZeroDivisionError" in caplog.text


# --- where ---


def test_a_port_that_is_in_use(served: Served, board: Board) -> None:
    with pytest.raises(UsageError) as caught, serve(board, "127.0.0.1", served.port):
        pass
    assert caught.value.message == f"Port {served.port} of 127.0.0.1 is in use."
    assert (
        caught.value.hint
        == f"Name another one, for example --port {served.port + 1}, or --port 0 for one that is free."
    )


def test_a_port_of_the_system(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> socket.socket:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refused)
    with pytest.raises(UsageError) as caught, serve(board, "127.0.0.1", 80):
        pass
    assert caught.value.message == "Port 80 of 127.0.0.1 may not be used: Permission denied."
    assert "for example --port 8090" in caught.value.hint


@pytest.mark.parametrize("host", ["203.0.113.7", "no.such.host.invalid", "a b", "\ud800"])
def test_what_is_no_address_of_this_machine(board: Board, host: str) -> None:
    with pytest.raises(UsageError) as caught, serve(board, host, 0):
        pass
    assert caught.value.hint == "Leave out --host for this machine alone, or name one of its addresses."


def test_the_address_can_be_opened_to_others(board: Board) -> None:
    show(board, 10)
    with serve(board, "0.0.0.0", 0) as at:
        assert at.public and at.address == f"http://{socket.gethostname()}:{at.port}/"
        here = Served("127.0.0.1", at.port, public=False)
        assert get(here, "/next", Host=f"{socket.gethostname()}:{at.port}").status == 200
        assert get(here, "/next", Host="evil.example").status == 421


def test_over_ipv6(board: Board) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    show(board, 10)
    with serve(board, "::1", 0) as at:
        assert at.address == f"http://[::1]:{at.port}/" and not at.public
        assert get(Served("::1", at.port, public=False), "/next").level == 10


def test_without_the_packages_the_command_to_type_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingDependencyError, match="needs Starlette and uvicorn") as caught:
        check_available()
    assert caught.value.hint == (
        "Install them: pip install 'splite-deploy[view]' (where the system brings OpenCV, as on a Jetson: pip install "
        "starlette uvicorn)."
    )


# --- the end ---


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "The video has ended."),
        (CameraError("Camera 0 gave no more frames."), "Camera 0 gave no more frames."),
        (KeyboardInterrupt(), "The command was stopped."),
        (ValueError("of ours"), "The command failed."),
    ],
)
def test_who_watches_is_told_how_it_ended(board: Board, error: BaseException | None, said: str) -> None:
    answers: list[Answer] = []
    before = threading.active_count()
    with suppress(CameraError, KeyboardInterrupt, ValueError), serve(board, "127.0.0.1", 0) as at:
        show(board, 10)
        get(at, "/next")
        waiting = threading.Thread(target=lambda: answers.append(get(at, f"/next?run={board.run}&after=0")))
        waiting.start()
        time.sleep(0.1)
        if error is not None:
            raise error
    waiting.join(10)
    assert answers[0].state["ended"] == said
    with pytest.raises(ConnectionRefusedError):
        get(at, "/next")
    assert threading.active_count() == before


def test_nobody_is_waited_for_where_nobody_watches(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "LINGERS_S", 60.0)
    began_s = time.monotonic()
    with serve(board, "127.0.0.1", 0) as at:
        get(at, "/")
        show(board, 10)
    assert time.monotonic() - began_s < 10


def test_a_browser_that_does_not_read_holds_nothing_up(board: Board, capfd: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), np.uint8)
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with stuck:
        with serve(board, "127.0.0.1", 0) as at:
            board.show(noise, [], False, time.perf_counter())
            stuck.connect((at.host, at.port))
            stuck.sendall(30 * b"GET /next HTTP/1.1\r\nHost: localhost\r\n\r\n")  # far more than buffers hold
            assert get(at, "/next").state["frame"] == 0
            for _ in range(200):
                board.show(noise, [], False, time.perf_counter())
            time.sleep(1 / server_module.MOST_FPS)
            assert get(at, "/next").state["frame"] == 200
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 6
    assert "Traceback" not in capfd.readouterr().err
