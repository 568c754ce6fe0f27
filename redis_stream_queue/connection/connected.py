"""What a client is connected to: one server, and the streams under one prefix there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from .._log import logger
from .._names import prefixed
from . import registry
from .endpoint import Endpoint
from .link import DedicatedConnection, Link
from .scripts import Script

log = logger(__name__)
_warned: set[Endpoint] = set()  # of those without verification, once in each process


class Connected:
    """Sends commands on streams, over the links of whichever event loop runs.

    endpoint: the server. prefix: of the keys of its streams.
    """

    def __init__(self, endpoint: Endpoint, prefix: str) -> None:
        if endpoint.unverified and endpoint not in _warned:
            _warned.add(endpoint)
            log.warning(
                "TLS to %s does not check who answers, because of %s: whoever is on the way can "
                "read and change everything",
                endpoint,
                endpoint.unverified,
            )
        self.endpoint = endpoint
        self.prefix = prefix
        self._links: list[Link] = []

    def link(self) -> Link:
        """This client's connections in the running event loop (shared with its likes)."""
        loop, pid = asyncio.get_running_loop(), os.getpid()
        for link in list(self._links):
            if link.loop is loop and link.pid == pid and not link.closed:
                return link
            if link.pid != pid or link.closed or link.loop.is_closed():
                self._forget(link)
        link = registry.acquire(self.endpoint)
        self._links.append(link)
        return link

    def key(self, stream: str) -> str:
        """Redis key of a stream."""
        return prefixed(self.prefix, stream)

    async def command(self, name: str, stream: str, *args: Any) -> Any:
        """Run a command on one stream; returns the raw reply (RESP2, bytes).

        name: of the command, as in ``"XINFO GROUPS"``. args: what follows the key.
        """
        key = self.key(stream)
        return await self.link().call(key, *name.split(), key, *args)

    async def script(self, script: Script, stream: str, *args: Any) -> Any:
        """Run a script on one stream. args: its ARGV."""
        return await self.link().script(script, [self.key(stream)], *args)

    def channel(self, stream: str) -> DedicatedConnection:
        """A connection for the caller's blocking reads on a stream alone; the caller closes it."""
        return self.link().dedicated(self.key(stream))

    async def close(self) -> None:
        """Give up the connections of this event loop; they close with their last client."""
        loop, pid = asyncio.get_running_loop(), os.getpid()
        mine = [k for k in self._links if k.loop is loop and k.pid == pid]
        for link in mine:
            self._forget(link)
            await registry.release(link)

    def _forget(self, link: Link) -> None:
        with contextlib.suppress(ValueError):  # another thread's loop may have been faster
            self._links.remove(link)

    @classmethod
    async def close_all(cls) -> None:
        """Close every connection of every client of this event loop."""
        for link in registry.links_of_running_loop():
            await registry.discard(link)
