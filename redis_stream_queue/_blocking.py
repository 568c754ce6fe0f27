"""Pushing without an event loop: redis-py's blocking client, which is safe in threads and forks."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import InvalidResponse, NoScriptError, RedisClusterException, ResponseError
from redis.retry import Retry

from .connection.endpoint import Endpoint
from .connection.exchange import OUTAGES
from .connection.scripts import BACKLOG, PUSH, TRIM, Script
from .connection.sentinel import FAILED, Search, ask_sync, check_role
from .connection.shapes import WrongReplyError, checked, no_reply, of_length
from .delivery.pending import TRIM_AT_ONCE
from .exceptions import ConfigError
from .later.extras import Asked
from .later.keys import Companions
from .later.push import calls, goes_on, result_of
from .pushing.bulk import LIMIT, forbids_scripts, own_copy, refusal
from .pushing.durability import Durability
from .pushing.portions import Pushes, portions

PIECE_BYTES = 1 << 18  # sent within one timeout


class _Deadline(threading.local):
    """When the call that runs in this thread must have ended, in s of time.monotonic()."""

    at_s: float | None = None

    def left_s(self) -> float | None:
        """Seconds, None = no limit. Raises TimeoutError when there are none."""
        if self.at_s is None:
            return None
        left_s = self.at_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s

    @contextlib.contextmanager
    def at_most(self, limit_s: float) -> Iterator[None]:
        """Meanwhile so many seconds, if there are not fewer."""
        before_s, within_s = self.at_s, time.monotonic() + limit_s
        self.at_s = within_s if before_s is None else min(before_s, within_s)
        try:
            yield
        finally:
            self.at_s = before_s


_deadline = _Deadline()


@contextlib.contextmanager
def bounded(timeout_s: float | None) -> Iterator[None]:
    """Everything that this thread asks of Redis meanwhile takes so many seconds at most, in all.

    Raises TimeoutError. (But for a look-up of the host's name, and on a cluster each step counts.)
    """
    _deadline.at_s = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        yield
    except (redis.TimeoutError, redis.ConnectionError, RedisClusterException) as error:
        at_s = _deadline.at_s
        late = isinstance(error, redis.TimeoutError) or (at_s and time.monotonic() >= at_s)
        if at_s is None or not late:  # clusters and Sentinels say in words of their own who is late
            raise
        raise TimeoutError(str(error)) from None
    finally:
        _deadline.at_s = None


class _Bounded(AbstractConnection):
    """Each step has what is left of the time that its call has."""

    def _connect(self) -> Any:
        configured_s = self.socket_connect_timeout
        self.socket_connect_timeout = _shorter(configured_s, _deadline.left_s())
        try:
            return super()._connect()  # type: ignore[no-untyped-call, safe-super]
        finally:
            self.socket_connect_timeout = configured_s

    def send_packed_command(self, command: Any, check_health: bool = True) -> Any:
        """In pieces: sendall() takes its timeout for all of what it is given."""
        send: Any = super().send_packed_command
        self._bound()
        pieces = _pieces([command] if isinstance(command, bytes | str) else command)
        send(pieces[:1], check_health=check_health)
        for piece in pieces[1:]:
            self._bound()
            send([piece], check_health=False)

    def read_response(self, *args: Any, **options: Any) -> Any:
        self._bound()
        return super().read_response(*args, **options)

    def _bound(self) -> None:
        if self._sock is not None:
            try:
                self._sock.settimeout(_shorter(self.socket_timeout, _deadline.left_s()))
            except TimeoutError:  # in between: what comes in now would answer the next command
                self.disconnect()
                raise


def _pieces(packed: Iterable[Any]) -> list[Any]:
    return [
        item[start : start + PIECE_BYTES]
        for item in packed
        for start in range(0, max(len(item), 1), PIECE_BYTES)
    ]


class _ToMaster(_Bounded):
    """Leads to the master that there is when it connects."""

    def __init__(self, *, watched: Endpoint, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._watched = watched

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        if self._sock is not None:
            return
        configured_s = self._watched.socket_connect_timeout
        search = Search(self._watched, _shorter(configured_s, _deadline.left_s()))
        while True:
            for node in self._watched.nodes:
                if self._connected_by(node, search, *args, **options):
                    return
            time.sleep(search.pause_s())

    def _connected_by(
        self, node: tuple[str, int], search: Search, *args: Any, **options: Any
    ) -> bool:
        """Has this Sentinel led to a master?"""
        try:
            self.host, self.port = found = ask_sync(self._watched, node, search.answer_s)
        except FAILED as error:
            search.note(node, error)
            return False
        try:
            with _deadline.at_most(search.candidate_s()):
                super().connect_check_health(*args, **options)
                self._check_role()
        except FAILED as error:
            self.disconnect()  # type: ignore[no-untyped-call]
            search.refused(found, error)
            return False
        return True

    def _check_role(self) -> None:
        self.send_command("ROLE")  # type: ignore[no-untyped-call]
        try:
            role = self.read_response(disable_decoding=True)
        except ResponseError:  # an ACL may forbid it
            return
        check_role(role)


class _BoundedTcp(_Bounded, Connection):
    pass


class _MasterTcp(_ToMaster, Connection):
    pass


class _MasterSSL(_ToMaster, SSLConnection):
    pass


class _BoundedSSL(_Bounded, SSLConnection):
    pass


class _BoundedUnix(_Bounded, UnixDomainSocketConnection):
    pass


def _shorter(one_s: float | None, other_s: float | None) -> float | None:
    return min((s for s in (one_s, other_s) if s is not None), default=None)


class SyncLink:
    """Blocking connections to one endpoint. Nothing is retried: a push must not happen twice."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._of_timeout: tuple[float, SyncLink] | None = None

    @cached_property
    def _redis(self) -> Any:
        """A cluster is looked for at once, so it is made within the call that needs it."""
        endpoint = self._endpoint
        kwargs = endpoint.connection_kwargs()
        kwargs["socket_timeout"] = endpoint.socket_timeout
        kwargs["retry"] = Retry(NoBackoff(), 0)
        if endpoint.cluster:
            kwargs.pop("db")
            nodes = [redis.cluster.ClusterNode(host, port) for host, port in endpoint.nodes]
            return redis.RedisCluster(startup_nodes=nodes, ssl=endpoint.ssl, **kwargs)
        kind: Any = _BoundedSSL if endpoint.ssl else _BoundedTcp
        if endpoint.path:
            kind = _BoundedUnix
        elif endpoint.service is not None:
            kind = _MasterSSL if endpoint.ssl else _MasterTcp
            kwargs["watched"] = endpoint
        pool = redis.ConnectionPool(
            connection_class=kind, max_connections=endpoint.max_connections, **kwargs
        )
        return redis.Redis.from_pool(pool)

    def with_timeout(self, timeout_s: float | None) -> SyncLink:
        """The link for a call that ``bounded`` limits: on a cluster one of its own."""
        if timeout_s is None or not self._endpoint.cluster:
            return self
        _deadline.left_s()  # no socket takes a time of 0 or less
        if self._of_timeout is None or self._of_timeout[0] != timeout_s:
            short = replace(
                self._endpoint, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
            )
            self._of_timeout = timeout_s, SyncLink(short)
        return self._of_timeout[1]

    def push(self, key: str, pushes: Pushes) -> list[Any]:
        """Add messages; an id or an exception for each. After an outage the rest is not tried."""
        results: list[Any] = []
        for portion in portions(pushes):
            try:
                results += self._push_portion(key, portion)
            except OUTAGES as error:
                left = len(pushes.payloads) - len(results)
                return results + [own_copy(error) for _ in range(left)]
        return results

    def push_asked(
        self, asked: Sequence[Asked], beside: Companions, most: int, group: str | None
    ) -> list[Any]:
        """Add messages under terms of their own; see later.push."""
        results: list[Any] = []
        for count, script, keys, args in calls(asked, beside, most, group, results):
            try:
                results += map(result_of, of_length(count, self._script(script, keys, *args)))
            except OUTAGES as error:
                if not goes_on(error, count, asked, results):
                    break
        return results

    def and_wait(
        self, push: Callable[[SyncLink], list[Any]], durability: Durability
    ) -> tuple[list[Any], int]:
        """What a push gives, and how many replicas have it: asked on the same connection."""
        if self._endpoint.cluster:
            raise ConfigError("push_sync with min_replicas works with one server, not a cluster.")
        same = copy.copy(self)
        same._redis = self._redis.client()
        try:
            return push(same), int(same._run(*durability.wait))
        finally:
            same._redis.close()

    def _push_portion(self, key: str, portion: Pushes) -> list[Any]:
        args = portion.script_args() if len(portion.payloads) > 1 else None
        if args is not None:
            try:
                return of_length(len(portion.payloads), self._script(PUSH, [key], *args))
            except ResponseError as error:
                if not forbids_scripts(error):
                    return [own_copy(error) for _ in portion.payloads]
        results: list[Any] = []
        for command in portion.adds(key):
            try:
                results.append(self._run(*command))
            except ResponseError as error:
                results.append(self._refused(portion, error))
            except OUTAGES as error:
                if not portion.is_large:
                    raise
                results.append(self._refused(portion, error))
        return results

    def _refused(self, portion: Pushes, error: Exception) -> Exception:
        if not portion.is_large:
            return error
        limit = None
        with contextlib.suppress(*OUTAGES, LookupError, ValueError):
            limit = int(self._run("CONFIG", "GET", LIMIT)[1])
        return refusal(len(portion.payloads[0]), error, limit)

    def trim(self, key: str, max_len: int) -> None:
        """Remove finished entries beyond ``max_len``."""
        try:
            self._script(TRIM, [key], "", max_len, TRIM_AT_ONCE)
        except ResponseError as error:
            if not forbids_scripts(error):
                raise

    def cut(self, key: str, max_len: int) -> None:
        """Remove the oldest entries beyond ``max_len``, finished or not."""
        self._run("XTRIM", key, "MAXLEN", "~", max_len)

    def backlog(self, key: str, most: int) -> int:
        """How many entries are unfinished."""
        done, state = 0, ()
        while not done:  # a step at a time, where the server has to count
            done, unfinished, state = self._script(BACKLOG, [key], most, *state)
        return int(unfinished)

    def _script(self, script: Script, keys: Sequence[str], *args: Any) -> Any:
        try:
            return self._run("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return self._run("EVAL", script.source, len(keys), *keys, *args)

    def _run(self, *command: Any) -> Any:
        try:
            return checked(command, self._redis.execute_command(*command))
        except InvalidResponse as error:  # what comes then would not be to the next command either
            self._cut()
            if isinstance(error, WrongReplyError):
                raise
            raise no_reply(command, error) from error

    def _cut(self) -> None:
        """Close the connection of the command before, or all that nobody uses."""
        clients = [self._redis]
        if self._endpoint.cluster:
            clients = [n.redis_connection for n in self._redis.get_nodes() if n.redis_connection]
        for client in clients:
            if client.connection is not None:
                client.connection.disconnect()
            client.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        if "_redis" in vars(self):
            self._redis.close()
        if self._of_timeout is not None:
            self._of_timeout[1].close()
