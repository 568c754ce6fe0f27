"""Confirmed by replicas: so many have what was pushed (WAIT, on the connection that pushed)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._validate import Whole, check
from ..connection.exchange import first_error
from ..connection.link import Link, run_script
from ..connection.packing import Command
from ..connection.replies import text
from ..connection.scripts import Script
from ..exceptions import NotDurable


class Durability:
    """How many replicas must confirm, and how long they may take; min_replicas 0 = not asked."""

    def __init__(self, min_replicas: int, replica_timeout_ms: int) -> None:
        check("min_replicas", min_replicas, Whole(0))
        check("replica_timeout_ms", replica_timeout_ms, Whole(1))
        self.min_replicas = min_replicas
        self.replica_timeout_ms = replica_timeout_ms

    @property
    def wait(self) -> Command:
        return ("WAIT", self.min_replicas, self.replica_timeout_ms)

    def judged(self, results: Sequence[Any], confirmed: int) -> list[Any]:
        """Ids that too few replicas have confirmed as errors that name them."""
        if confirmed >= self.min_replicas:
            return list(results)
        return [
            result
            if isinstance(result, Exception)
            else NotDurable([text(result)], confirmed, self.min_replicas)
            for result in results
        ]


class ConfirmingLink:
    """A link whose exchanges wait for the replicas; confirmed: the fewest that have."""

    def __init__(self, link: Link, durability: Durability) -> None:
        self.endpoint = link.endpoint
        self.confirmed = durability.min_replicas
        self._link = link
        self._durability = durability

    async def run(
        self, key: str, commands: Sequence[Command], timeout_s: float | None
    ) -> list[Any]:
        longer_s = timeout_s and timeout_s + self._durability.replica_timeout_ms / 1000
        *replies, confirmed = await self._link.run(
            key, [*commands, self._durability.wait], longer_s
        )
        [count] = first_error([confirmed])
        self.confirmed = min(self.confirmed, int(count))
        return replies

    async def call(self, key: str, *command: Any) -> Any:
        """One command; what fails needs no confirmation."""
        [reply] = first_error(await self.run(key, [command], self.endpoint.socket_timeout))
        return reply

    async def script(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        """The same of a script."""
        return await run_script(self.call, script, keys, *args)
