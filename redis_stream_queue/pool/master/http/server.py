"""``--http``: probes and metrics, in the master's own loop (aiohttp, extra ``http``)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from .... import _exits
from ...._exits import Failure
from .prometheus import Exposition

MOST_CONNECTIONS = 128  # and a BACKLOG more, where all of them come in one moment
BACKLOG = 32  # accepted at once, before they are counted
CONNECTION_S = 5.0  # so long one lives, whether it asks for something or is silent

Handle = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Refusal(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.abort()


class HttpServer:
    """Answers GET and HEAD of ``/livez``, ``/readyz`` and ``/metrics``.

    is_ready: may work be expected of this pool?
    """

    def __init__(self, address: str, exposition: Exposition, is_ready: Callable[[], bool]) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._is_loopback = is_loopback(self._host)
        self._exposition = exposition
        self._is_ready = is_ready
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        silent = logging.getLogger("redis_stream_queue.http")
        silent.addHandler(logging.NullHandler())
        silent.propagate = False  # what strangers send is no news
        self._runner = web.AppRunner(
            app, handle_signals=False, access_log=None, logger=silent, shutdown_timeout=1.0
        )
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises Failure where that cannot be."""
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
        """A page in a browser here cannot ask us under a name of its own (DNS rebinding)."""
        if self._is_loopback and not is_loopback(_without_port(request.host)):
            raise web.HTTPForbidden(text="ask for localhost or 127.0.0.1\n")
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


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def is_loopback(host: str) -> bool:
    """Does this name or address mean this machine alone?"""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
