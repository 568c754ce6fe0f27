"""A TCP proxy that does to connections what bad networks do.

``FaultProxy`` lives in an event loop; ``ThreadedFaultProxy`` runs one in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from functools import partial
from typing import Self, TypeVar

CHUNK = 65536

T = TypeVar("T")


class FaultProxy:
    """Between clients and one server; set the attributes at any time.

    target: (host, port), or the path of a unix socket; of new connections.
    latency_s: delay of everything that passes, in each direction.
    bytes_per_s: how fast the line is, which all connections share; each direction has one.
    refuse: new connections are reset at once.
    cut_after: bytes of replies that still pass, over all connections; the reply that would pass
    them is cut there and its connection reset. None = no limit.
    """

    def __init__(self, target: tuple[str, int] | str) -> None:
        self.target = target
        self.latency_s = 0.0
        self.bytes_per_s: float | None = None
        self.refuse = False
        self.cut_after: int | None = None
        self.port = 0
        self._lines = (asyncio.Lock(), asyncio.Lock())
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._reachable = asyncio.Event()  # cleared for good where strand_all() found a connection
        self._reachable.set()
        self._links: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Close the port and all connections; safe twice."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._links)
        self.reset_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        return len(self._links)

    def stall(self) -> None:
        """Let nothing pass, and keep all connections open."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def strand_all(self) -> None:
        """Nothing passes on the connections there are, not even their end; new ones work."""
        self._reachable.clear()
        self._reachable = asyncio.Event()
        self._reachable.set()

    def reset_all(self) -> None:
        """Reset (RST) every connection there is."""
        for task, client in list(self._links.items()):
            _reset(client)
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            _reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = writer
        try:
            await self._relay(reader, writer)
        except (OSError, asyncio.CancelledError):  # one side broke, or reset_all()
            _reset(writer)
        finally:
            del self._links[task]
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on both directions until either side closes."""
        if isinstance(self.target, str):
            replies, server = await asyncio.open_unix_connection(self.target)
        else:
            replies, server = await asyncio.open_connection(*self.target)
        pumps = [
            asyncio.create_task(self._pump(reader, server)),
            asyncio.create_task(self._pump(replies, writer, is_reply=True)),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in done:
                pump.result()
        finally:
            server.close()  # first: another reset may cut the wait short
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_reply: bool = False
    ) -> None:
        reachable = self._reachable
        while data := await source.read(CHUNK):
            await reachable.wait()
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            await self._flowing.wait()
            if self.bytes_per_s is not None:
                async with self._lines[is_reply]:
                    if speed := self.bytes_per_s:  # it may have been healed while we waited
                        await asyncio.sleep(len(data) / speed)
            is_cut = False
            if is_reply and self.cut_after is not None:
                is_cut = len(data) > self.cut_after
                data = data[: self.cut_after]
                self.cut_after -= len(data)
            sink.write(data)
            await sink.drain()
            if is_cut:
                raise ConnectionResetError("cut on purpose")
        await reachable.wait()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class ThreadedFaultProxy:
    """A FaultProxy in a thread of its own, for tests without an event loop."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faultproxy")
        self._thread.start()
        self._proxy = self._call(lambda: FaultProxy(target))
        asyncio.run_coroutine_threadsafe(self._proxy.start(), self._loop).result(timeout=5)
        self.port = self._proxy.port
        self.url = self._proxy.url

    @property
    def connections(self) -> int:
        return self._proxy.connections

    def set(
        self,
        *,
        target: tuple[str, int] | str | None = None,
        latency_s: float | None = None,
        bytes_per_s: float | None = None,
        refuse: bool | None = None,
        cut_after: int | None = None,
    ) -> None:
        """Change what the FaultProxy attributes of these names say; None leaves one as it is."""
        given = {
            "target": target,
            "latency_s": latency_s,
            "bytes_per_s": bytes_per_s,
            "refuse": refuse,
            "cut_after": cut_after,
        }
        for name, value in given.items():
            if value is not None:
                self._call(partial(setattr, self._proxy, name, value))

    def heal(self) -> None:
        """No faults any more."""

        def reset() -> None:
            self._proxy.latency_s, self._proxy.refuse, self._proxy.cut_after = 0.0, False, None
            self._proxy.bytes_per_s = None
            self._proxy.resume()

        self._call(reset)

    def stall(self) -> None:
        self._call(self._proxy.stall)

    def resume(self) -> None:
        self._call(self._proxy.resume)

    def strand_all(self) -> None:
        self._call(self._proxy.strand_all)

    def reset_all(self) -> None:
        self._call(self._proxy.reset_all)

    def stop(self) -> None:
        """Close everything and end the thread; safe twice."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._proxy.stop(), self._loop).result(timeout=5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> ThreadedFaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(timeout=5)
