"""Which links there are: shared by all clients of an endpoint, event loop and process.

The one place that opens and closes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from redis.asyncio.connection import AbstractConnection

from .cluster import ClusterLink
from .endpoint import Endpoint
from .link import Link
from .single import SingleLink

_links: dict[tuple[Endpoint, int], Link] = {}
_inherited: list[Any] = []  # links of the parent in a forked child: kept, never used or closed


def acquire(endpoint: Endpoint) -> Link:
    """The link of this endpoint in the running loop, with one more user."""
    loop = asyncio.get_running_loop()
    link = _links.get((endpoint, id(loop)))
    if link is None or link.loop is not loop:
        _forget_closed_loops()
        link = ClusterLink(endpoint) if endpoint.cluster else SingleLink(endpoint)
        _links[endpoint, id(loop)] = link
    link.users += 1
    return link


async def release(link: Link) -> None:
    """Give a link back; the last user closes it."""
    link.users -= 1
    if link.users <= 0:
        await discard(link)


async def discard(link: Link) -> None:
    """Close a link, even if it has users."""
    if _links.get((link.endpoint, id(link.loop))) is link:
        del _links[link.endpoint, id(link.loop)]
    link.closed = True
    writers = [connection._writer for connection in link.connections()]
    for dedicated in list(link.dedicated_connections):
        await dedicated.close()
    await link.close()
    if link.endpoint.ssl:  # the end of TLS takes a round trip, and the loop may end now
        for writer in writers:
            if writer is not None:
                writer.transport.abort()


def links_of_running_loop() -> list[Link]:
    loop = asyncio.get_running_loop()
    return [link for link in list(_links.values()) if link.loop is loop]


def _forget_closed_loops() -> None:
    """Drop links whose loop was closed before the client; their sockets close with them."""
    for name, link in list(_links.items()):
        if link.loop.is_closed() and _links.pop(name, None) is link:  # or another thread was faster
            for connection in link.connections():
                _close_without_loop(connection)


def _close_without_loop(connection: AbstractConnection) -> None:
    """Close the socket of a connection whose loop is closed: nothing can be awaited any more."""
    writer, connection._writer, connection._reader = connection._writer, None, None
    if writer is None:
        return
    transport: Any = getattr(writer, "transport", None)
    with contextlib.suppress(RuntimeError, AttributeError):  # the loop is closed
        transport.abort()
    sock = getattr(transport, "_sock", None)
    if sock is not None:
        sock.close()
        transport._sock = None  # or its __del__ warns


def _after_fork_in_child() -> None:
    _inherited.append(dict(_links))
    _links.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
