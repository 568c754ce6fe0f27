"""The bell of a stream: a short stream beside it that wakes processes that wait for a change.

A ring is an entry. All processes read it, and nobody removes it: each one reads on behind the last
ring that it has read, also after a reconnect. With each wait a process also looks at the state
itself, so a ring that was lost is made up for after one wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..client import StreamClient
from ..connection.exchange import first_error
from ..connection.link import DedicatedConnection
from ..connection.packing import Command
from ..connection.reading import read_entries
from ..connection.refusals import of_key
from ..connection.replies import mapping, text

WAIT_MS = 5000  # the longest wait for a ring
MARGIN_S = 2.0  # a read that takes so much longer than WAIT_MS has a dead connection


class Bell:
    """Waits on the bell ``key`` of ``stream``, on a connection of its own."""

    def __init__(self, client: StreamClient, stream: str, key: str) -> None:
        self._client = client
        self._stream = stream
        self._key = key
        self._last = ""
        self._dedicated: DedicatedConnection | None = None

    @property
    def newest(self) -> Command:
        """The command that asks for the newest ring; its reply is for begin_behind()."""
        return ("XREVRANGE", self._key, "+", "-", "COUNT", 1)

    def begin_behind(self, found: Any) -> None:
        """Wait for rings behind the one in this reply to ``newest``; only the first call counts."""
        self._last = self._last or (text(found[0][0]) if found else "0-0")

    def begin_anew(self) -> None:
        """A ring was missed: ids may have gone back (FLUSHALL, a clock that was set)."""
        self._last = ""

    async def wait(
        self, looks: Sequence[Command], on_look: Callable[[int, Any], None]
    ) -> list[dict[str, Any]]:
        """Wait for rings; returns their fields, or [] after WAIT_MS, and the first time at once.

        looks: commands that are run first. on_look: called with number and reply of each of them,
        as soon as the reply is there, also where the key of the bell holds something else.
        Raises what Redis raises.
        """
        dedicated = self._own()
        if not self._last:
            found, *replies = await dedicated.run(
                [self.newest, *looks], self._client.endpoint.socket_timeout
            )
            for index, reply in enumerate(replies):
                on_look(index, reply)
            self.begin_behind(first_error([of_key(found, self._key)])[0])
            return []
        read = ("XREAD", "COUNT", 100, "BLOCK", WAIT_MS, "STREAMS", self._key, self._last)

        *_, rings = await dedicated.run(
            [*looks, read],
            self._client.endpoint.socket_timeout,
            on_look,
            last_s=WAIT_MS / 1000 + MARGIN_S,
        )
        entries = read_entries(first_error([of_key(rings, self._key)])[0])
        if entries:
            self._last = text(entries[-1][0])
        return [mapping(fields) for _, fields in entries if fields]

    def _own(self) -> DedicatedConnection:
        link = self._client.link()
        if self._dedicated is None or self._dedicated.link is not link:
            self._dedicated = link.dedicated(self._client.key(self._stream))
        return self._dedicated

    async def close(self) -> None:
        """Close the connection."""
        dedicated, self._dedicated = self._dedicated, None
        if dedicated is not None and dedicated.link is self._client.link():
            await dedicated.link.drop(dedicated)
