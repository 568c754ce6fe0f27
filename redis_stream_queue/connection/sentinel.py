"""Connections to the master that a set of Sentinels watches: looked for anew by each.

What a Sentinel says may be a moment old, or wrong where the network is cut in two. So an address
is a master only when the server there says so; if it does not, or cannot be reached, the next
Sentinel is asked, and all of them again until the time to connect is over.
Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import Any

import redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from .backoff import Backoff
from .endpoint import Endpoint
from .refusals import passes
from .replies import text
from .shapes import checked

ANSWER_S = 1.0  # a Sentinel that takes longer is passed over
CANDIDATE_S = 2.0  # a server that a Sentinel names, and that takes longer, is passed over
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 0.25  # before all are asked again
OWN_SHARE = 0.9  # of the time to connect; the rest is left to raise what was found
LEAST_S = 0.001  # less time than this is no time left
FAILED = (RedisError, OSError)


class Search:
    """How a search for the master goes on after each failure. No I/O.

    limit_s: seconds for all of it, None = no limit.
    """

    def __init__(self, endpoint: Endpoint, limit_s: float | None) -> None:
        self._endpoint = endpoint
        self._end_s = None if limit_s is None else time.monotonic() + limit_s
        # How long a Sentinel may take: if one is silent, time for the others is left.
        share_s = None if limit_s is None else limit_s / len(endpoint.nodes)
        self.answer_s = ANSWER_S if share_s is None else min(ANSWER_S, share_s)
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._named = False
        self._last: str | None = None

    def _left_s(self) -> float | None:
        return None if self._end_s is None else max(self._end_s - time.monotonic(), LEAST_S)

    def candidate_s(self) -> float:
        """Seconds that the server may take which a Sentinel has named."""
        left_s = self._left_s()
        return CANDIDATE_S if left_s is None else min(CANDIDATE_S, left_s)

    def refused(self, address: tuple[str, int], error: Exception) -> None:
        """Note that the server which a Sentinel has named is no master, or not yet.

        Raises the error where waiting would not help: of TLS, or a refusal.
        """
        of_tls = isinstance(error.__context__, ssl.SSLError)
        refuses = isinstance(error, ResponseError | AuthenticationError) and not passes(error)
        if of_tls or refuses:
            raise error
        self._named = True
        self.note(address, error)

    def note(self, node: tuple[str, int], why: Exception) -> None:
        """Remember what was wrong with this node, for the error at the end.

        What a node said counts more than that one did not answer, perhaps for want of time.
        """
        is_silence = isinstance(why, TimeoutError | redis.TimeoutError)
        if self._last is None or not is_silence:
            words = "does not answer" if is_silence else str(why).rstrip(".")
            self._last = f"{node[0]}:{node[1]}: {words}"

    def pause_s(self) -> float:
        """Seconds to wait, after all were asked, before they are asked again.

        Raises ConnectionError when the time is over, or where no Sentinel knows anything.
        """
        pause_s, left_s = self._backoff.next_s(), self._left_s()
        if self._named and (left_s is None or left_s > LEAST_S):
            return pause_s if left_s is None else min(pause_s, left_s)
        raise RedisConnectionError(
            f"no Sentinel of {self._endpoint} "
            + ("leads to a master" if self._named else "answers and knows a master")
            + f" {self._endpoint.service!r} ({self._last})"
        )


def _settings(endpoint: Endpoint, node: tuple[str, int], answer_s: float) -> dict[str, Any]:
    """How to connect to a Sentinel itself."""
    return {
        **endpoint.connection_kwargs(),
        "host": node[0],
        "port": node[1],
        "db": 0,
        "username": endpoint.sentinel_username,
        "password": endpoint.sentinel_password,
        "socket_timeout": answer_s,
        "socket_connect_timeout": answer_s,
    }


def _question(endpoint: Endpoint) -> tuple[Any, ...]:
    return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", endpoint.service)


def _named(endpoint: Endpoint, reply: Any) -> tuple[str, int]:
    if checked(_question(endpoint), reply) is None:
        raise ResponseError("does not know it")
    return text(reply[0]), int(reply[1])


def check_role(role: Any) -> None:
    """Raise ReadOnlyError for the reply to ROLE of a server that is no master."""
    if checked(("ROLE",), role)[0] != b"master":
        raise ReadOnlyError("it is a replica (now)")


async def ask(endpoint: Endpoint, node: tuple[str, int], answer_s: float) -> tuple[str, int]:
    """Ask this Sentinel for the master; returns (host, port). Raises one of FAILED."""
    kind = SSLConnection if endpoint.ssl else Connection
    settings = _settings(endpoint, node, answer_s)
    connection = kind(retry=AsyncRetry(NoBackoff(), 0), **settings)
    try:
        async with asyncio.timeout(answer_s):
            await connection.connect()
            await connection.send_command(*_question(endpoint))
            return _named(endpoint, await connection.read_response(disable_decoding=True))
    finally:
        await connection.disconnect(nowait=True)


def ask_sync(endpoint: Endpoint, node: tuple[str, int], answer_s: float) -> tuple[str, int]:
    """As ask(), without an event loop."""
    kind: Any = redis.connection.SSLConnection if endpoint.ssl else redis.connection.Connection
    settings = _settings(endpoint, node, answer_s)
    connection = kind(retry=Retry(NoBackoff(), 0), **settings)
    try:
        connection.connect()
        connection.send_command(*_question(endpoint))
        return _named(endpoint, connection.read_response(disable_decoding=True))
    finally:
        connection.disconnect()


class _ToMaster(Connection):
    def __init__(self, *, watched: Endpoint, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._watched = watched

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        if self.is_connected:
            return
        limit_s = self._watched.socket_connect_timeout
        search = Search(self._watched, limit_s and limit_s * OWN_SHARE)
        while True:
            for node in self._watched.nodes:
                if await self._connected_by(node, search, *args, **options):
                    return
            await asyncio.sleep(search.pause_s())

    async def _connected_by(
        self, node: tuple[str, int], search: Search, *args: Any, **options: Any
    ) -> bool:
        """Connect to the master that this Sentinel names; returns whether that worked."""
        try:
            self.host, self.port = found = await ask(self._watched, node, search.answer_s)
        except FAILED as error:
            search.note(node, error)
            return False
        try:
            async with asyncio.timeout(search.candidate_s()):
                await super().connect_check_health(*args, **options)
                await self._check_role()
        except FAILED as error:
            await self.disconnect(nowait=True)
            search.refused(found, error)
            return False
        return True

    async def _check_role(self) -> None:
        await self.send_command("ROLE")
        try:
            role = await self.read_response(disable_decoding=True)
        except ResponseError:  # an ACL may forbid it
            return
        check_role(role)


class MasterConnection(_ToMaster):
    """A connection to the server that is the master when it connects."""


class MasterSSLConnection(_ToMaster, SSLConnection):
    """As MasterConnection, with TLS."""
