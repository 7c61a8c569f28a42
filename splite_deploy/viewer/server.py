"""Serves the page of a `Board`: Starlette and uvicorn in a thread of their own, on this machine alone unless told.

A browser asks for the next picture when it has shown the last one, and is given the newest: on a slow line it skips
frames and never falls behind, as a stream would by all that lies in the buffers on its way.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import ipaddress
import logging
import re
import socket
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from splite_deploy.errors import MissingDependencyError, SpliteError, UsageError, first_line
from splite_deploy.spec.plain import json_text
from splite_deploy.viewer.board import Board, Found

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_FPS = 30
"""No more pictures per second are drawn, for all browsers together."""
ANSWERS_WITHIN_S = 2.0
"""So long a browser waits for a new picture before it is told that there is none."""
LINGERS_S = 1.0
"""So long browsers that watched have time to ask once more, and learn that and why it has ended."""
MOST_CONNECTIONS = 64
"""At most so many browsers are connected; see `_newest_first`."""
FIGURES_EVERY_S = 0.25

_LOOKS_EVERY_S = 0.005
_BOUNDARY = "splite-deploy-part-of-an-answer"  # it begins a line: JSON of one line cannot hold it


def check_available() -> None:
    """Whether a page can be served here.

    Raises:
        MissingDependencyError: Starlette or uvicorn is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as err:
        raise MissingDependencyError(
            "The page of --view needs Starlette and uvicorn, which are not both installed here.",
            hint="Install them: pip install 'splite-deploy[view]' (where the system brings OpenCV, as on a Jetson: pip "
            "install starlette uvicorn).",
        ) from err


@dataclass(frozen=True)
class Served:
    """Where the page is.

    Attributes:
        host: What a browser on this machine calls it; with brackets where it is an IPv6 address.
        port: Of the page.
        public: Whether other machines can reach it.
    """

    host: str
    port: int
    public: bool

    @property
    def address(self) -> str:
        """For a browser."""
        return f"http://{self.host}:{self.port}/"


@contextmanager
def serve(board: Board, host: str, port: int) -> Iterator[Served]:
    """Serves the page until the block ends, and tells browsers how it ended.

    Args:
        board: What is shown.
        host: Address of this machine to listen at.
        port: The port; 0 for one that is free.

    Raises:
        MissingDependencyError: Starlette or uvicorn is not installed.
        UsageError: The address or the port cannot be used.
    """
    check_available()
    import uvicorn

    listener = _listen(host, port)
    bound, port = listener.getsockname()[:2]
    address = ipaddress.ip_address(bound.partition("%")[0])
    names = {"localhost"} if address.is_loopback else {"localhost", host, *_own_names()}
    called = socket.gethostname() if address.is_unspecified else f"[{address}]" if address.version == 6 else bound
    page = _Page(board, names)
    server = uvicorn.Server(
        uvicorn.Config(
            page.app(),
            loop="asyncio",
            http=_newest_first(),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="critical",  # what browsers send is no news; `_Page` reports what goes wrong on our side
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=2 * MOST_CONNECTIONS,  # those that are being closed count, too
        )
    )
    thread = threading.Thread(target=server.run, args=([listener],), name="view", daemon=True)
    thread.start()
    try:
        yield Served(called, port, public=not address.is_loopback)
    except SpliteError as err:
        board.end(err.message)
        raise
    except KeyboardInterrupt:
        board.end("The command was stopped.")
        raise
    except BaseException:
        board.end("The command failed.")
        raise
    finally:
        board.end("The video has ended.")
        if page.is_watched():
            time.sleep(LINGERS_S)
        server.should_exit = True
        thread.join(1.0)
        server.force_exit = True  # a browser that does not read its answer is not waited for
        thread.join(1.0)
        listener.close()  # uvicorn does so unless it was stopped while it began


def _newest_first() -> type[asyncio.Protocol]:
    """The protocol of uvicorn, with at most `MOST_CONNECTIONS`: a new one takes the place of who was silent longest.

    Connections that say nothing, of spare ones that browsers open or of who means harm, would keep all others out.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    heard: dict[asyncio.Protocol, asyncio.Transport] = {}  # who said something last comes last

    class NewestFirst(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            heard[self] = transport
            if len(heard) > MOST_CONNECTIONS:
                heard.pop(next(iter(heard))).abort()

        def data_received(self, data: bytes) -> None:
            if self in heard:
                heard[self] = heard.pop(self)
            super().data_received(data)

        def connection_lost(self, exc: Exception | None) -> None:
            heard.pop(self, None)
            super().connection_lost(exc)

    return NewestFirst


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except (socket.gaierror, UnicodeError) as err:
        message = f"'{host}' is no address of this machine: {first_line(err)}."
    except OSError as err:
        if err.errno == errno.EADDRINUSE:
            hint = f"Name another one, for example --port {port % 65535 + 1}, or --port 0 for one that is free."
            raise UsageError(f"Port {port} of {host} is in use.", hint=hint) from err
        if err.errno == errno.EACCES:
            raise UsageError(
                f"Port {port} of {host} may not be used: {err.strerror}.",
                hint="Name one from 1024 on, for example --port 8090: those below belong to the system.",
            ) from err
        message = f"The page cannot be served at {host}, port {port}: {err.strerror or err}."
    raise UsageError(message, hint="Leave out --host for this machine alone, or name one of its addresses.")


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, f"{name}.local"}


class _Page:
    """Answers browsers, all in one thread.

    Args:
        board: What is shown.
        names: What the machine may be called by a browser, beside its addresses; lower case.
    """

    def __init__(self, board: Board, names: Collection[str]) -> None:
        self._board, self._names = board, frozenset(name.lower() for name in names)
        self._html = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
        self._headers = _headers(self._html)
        self._drawing = asyncio.Lock()
        self._drawn: Found | None = None
        self._picture = b""  # of what was drawn last
        self._next_s = 0.0  # when another picture may be drawn
        self._figures: dict[str, Any] = {}
        self._figured_s = -FIGURES_EVERY_S
        self._asked_s = -ANSWERS_WITHIN_S

    def app(self) -> ASGIApp:
        """What uvicorn runs."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return self._guarded(Starlette(routes=[Route("/", self._start), Route("/next", self._next)]))

    def is_watched(self) -> bool:
        """Whether a browser asked lately, and will do so again."""
        return time.monotonic() - self._asked_s < 2 * ANSWERS_WITHIN_S

    def _guarded(self, app: ASGIApp) -> ASGIApp:
        """Refuses requests that a page of somebody else makes, and adds the headers that keep such pages out."""
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import PlainTextResponse

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_guarded(message: Message) -> None:
                if message["type"] == "http.response.start":
                    MutableHeaders(scope=message).update(self._headers)
                await send(message)

            if scope["type"] != "http":
                return
            headers = Headers(scope=scope)
            answer: ASGIApp = app
            if not is_called(headers.get("host", ""), self._names):
                answer = PlainTextResponse("This page has another name: open the address that was printed.", 421)
            elif scope["path"] != "/" and headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                answer = PlainTextResponse("This is shown to its own page alone.", 403)
            try:
                await answer(scope, receive, send_guarded)
            except Exception:  # a mistake of ours; the browser has its status 500 already
                logging.getLogger(__name__).exception("The page of --view failed.")

        return guarded

    async def _start(self, request: Request) -> Response:
        from starlette.responses import HTMLResponse

        return HTMLResponse(self._html)

    async def _next(self, request: Request) -> Response:
        """The state and, where there is one that the browser has not seen, the newest picture, as multipart data.

        ``run`` and ``after`` of the query tell the last picture that it has.
        """
        from starlette.responses import Response

        board, asked = self._board, request.query_params
        after = int(asked["after"]) if re.fullmatch(r"[0-9]{1,18}", asked.get("after", "")) else -1
        if asked.get("run") != board.run:
            after = -1
        self._asked_s = time.monotonic()
        while board.newest <= after and board.ended is None and time.monotonic() < self._asked_s + ANSWERS_WITHIN_S:
            await asyncio.sleep(_LOOKS_EVERY_S)
        state, picture = await self._newest(after)
        parts = [_part('name="state"', "application/json", json_text(state)[0].encode("ascii"))]
        if picture:
            parts.append(_part('name="picture"; filename="picture.jpg"', "image/jpeg", picture))
        body = b"".join([*parts, f"--{_BOUNDARY}--\r\n".encode("ascii")])
        return Response(body, media_type=f"multipart/form-data; boundary={_BOUNDARY}")

    async def _newest(self, after: int) -> tuple[dict[str, Any], bytes]:
        """The state and, where it is newer than ``after``, the picture: drawn once for all who ask at a time."""
        async with self._drawing:
            newest, drawn = self._board.last(), -1 if self._drawn is None else self._drawn.index
            if newest is not None:
                awaited = drawn <= after < newest.index
                if awaited:
                    await asyncio.sleep(max(0.0, self._next_s - time.monotonic()))
                    newest = self._board.last() or newest
                if awaited or (drawn < newest.index and time.monotonic() >= self._next_s):
                    self._next_s = time.monotonic() + 1 / MOST_FPS
                    self._drawn, self._picture = newest, self._board.picture(newest)
            is_new = self._drawn is not None and self._drawn.index > after
            return {**self._board.state(self._drawn), **self._times()}, self._picture if is_new else b""

    def _times(self) -> dict[str, Any]:
        """The figures: computed so seldom that they can be read."""
        now_s = time.monotonic()
        if now_s >= self._figured_s + FIGURES_EVERY_S:
            self._figures, self._figured_s = self._board.figures(), now_s
        return self._figures


def is_called(host: str, names: Collection[str]) -> bool:
    """Whether a browser that sends this header ``Host`` was told to open a page of this machine.

    A hostile page may give its own name the address of this machine while it is open (DNS rebinding), and the browser
    takes both for one place. The header then has that name; it is an address only where somebody asked for the address.

    Args:
        host: The header.
        names: What the machine may be called beside its addresses; lower case.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name in names
    return True


def _part(disposition: str, kind: str, content: bytes) -> bytes:
    head = f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\nContent-Type: {kind}\r\n\r\n"
    return head.encode("ascii") + content + b"\r\n"


def _headers(html: str) -> dict[str, str]:
    """Of every answer: the page runs its own script alone and loads nothing; no other page can show or read it."""
    own = {}
    for kind in ("script", "style"):
        _, _, begun = html.partition(f"<{kind}>")
        digest = hashlib.sha256(begun.partition(f"</{kind}>")[0].encode()).digest()
        own[kind] = f"{kind}-src 'sha256-{base64.b64encode(digest).decode('ascii')}'"
    policy = ["default-src 'none'", *own.values(), "img-src blob: data:", "connect-src 'self'"]
    return {
        "Content-Security-Policy": "; ".join(
            [*policy, "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"]
        ),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cross-Origin-Opener-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
