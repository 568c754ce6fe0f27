"""``--http``: probes, metrics and the live page, in the master's own loop (aiohttp, extra
``http``)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web

from .... import _exits
from ...._exits import Failure
from .access import Access
from .prometheus import Exposition
from .status import Status

MOST_CONNECTIONS = 128  # and a BACKLOG more, where all of them come in one moment
BACKLOG = 32  # accepted at once, before they are counted
CONNECTION_S = 5.0  # so long one lives, whether it asks for something or is silent
PAGE = Path(__file__).with_name("page")
PAGES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.abort()


class HttpServer:
    """Answers GET and HEAD of probes, metrics, status and page.

    token: see Access. is_ready: may work be expected of this pool?
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        exposition: Exposition,
        status: Status,
        is_ready: Callable[[], bool],
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._access = Access(self._host, token)
        self._exposition = exposition
        self._status = status
        self._is_ready = is_ready
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/status", self._status_json)
        for path, (name, kind) in PAGES.items():
            app.router.add_get(path, _file(PAGE / name, kind))
        silent = logging.getLogger("redis_stream_queue.http")
        silent.addHandler(logging.NullHandler())
        silent.propagate = False  # what strangers send is no news
        self._runner = web.AppRunner(
            app, handle_signals=False, access_log=None, logger=silent, shutdown_timeout=1.0
        )
        self._server: asyncio.Server | None = None

    async def serve(self) -> NoReturn:
        """Listen, and keep what the page shows. Raises Failure where that cannot be."""
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._connection, self._host, self._port, backlog=BACKLOG
            )
        except OSError as error:
            why = error.strerror or str(error)
            raise Failure(
                _exits.FAILURE, f"--http: cannot listen on {self._host}:{self._port}: {why}."
            ) from None
        await self._status.watch()

    def _connection(self) -> asyncio.Protocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= MOST_CONNECTIONS:
            return _Refusal()
        protocol = server()
        asyncio.get_running_loop().call_later(CONNECTION_S, protocol.force_close)
        return protocol

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handle) -> web.StreamResponse:
        refusal = self._access.refusal(request.path, request.host, request.headers)
        if refusal is not None:
            status, why, headers = refusal
            return web.Response(status=status, text=f"{why}\n", headers={**HEADERS, **headers})
        return await handler(request)

    async def _livez(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="the master's loop runs\n")

    async def _readyz(self, _: web.Request) -> web.StreamResponse:
        if self._is_ready():
            return web.Response(text="ready\n")
        return web.Response(status=503, text="not ready\n")

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        body, kind = self._exposition.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind, "Cache-Control": "no-store"})

    async def _status_json(self, _: web.Request) -> web.StreamResponse:
        return web.Response(
            text=self._status.json(), content_type="application/json", headers=HEADERS
        )


def _file(path: Path, kind: str) -> Handle:
    body = path.read_text()

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(text=body, content_type=kind, headers=HEADERS)

    return answer
