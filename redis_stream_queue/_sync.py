"""Pushing without an event loop: redis-py's blocking client, which is safe in threads and forks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError
from redis.retry import Retry

from ._endpoint import Endpoint
from ._replies import text
from ._scripts import BACKLOG, PUSH, TRIM, Script
from .client import chunks, forbids_scripts
from .pending import TRIM_AT_ONCE


class SyncLink:
    """Blocking connections to one endpoint. Nothing is retried: a push must not happen twice."""

    def __init__(self, endpoint: Endpoint) -> None:
        kwargs = endpoint.connection_kwargs()
        kwargs["socket_timeout"] = endpoint.socket_timeout
        kwargs["retry"] = Retry(NoBackoff(), 0)
        self._redis: Any
        if endpoint.cluster:
            kwargs.pop("db")
            nodes = [redis.cluster.ClusterNode(host, port) for host, port in endpoint.nodes]
            self._redis = redis.RedisCluster(startup_nodes=nodes, ssl=endpoint.ssl, **kwargs)
        else:
            if path := kwargs.pop("path", None):
                kwargs["unix_socket_path"] = path
            self._redis = redis.Redis(
                ssl=endpoint.ssl, max_connections=endpoint.max_connections, **kwargs
            )

    def push(self, key: str, payloads: Sequence[bytes]) -> list[str]:
        """XADD payloads; returns their ids. Raises the first error among them."""
        ids: list[str] = []
        for chunk in chunks(payloads):
            if len(chunk) == 1:
                ids.append(text(self._redis.xadd(key, {"data": chunk[0]})))
                continue
            try:
                replies = self._script(PUSH, key, "data", *chunk)
            except ResponseError as error:
                if not forbids_scripts(error):
                    raise
                replies = [self._redis.xadd(key, {"data": payload}) for payload in chunk]
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
                ids.append(text(reply))
        return ids

    def trim(self, key: str, max_len: int) -> None:
        """Remove finished entries beyond ``max_len``."""
        try:
            self._script(TRIM, key, "", max_len, TRIM_AT_ONCE)
        except ResponseError as error:
            if not forbids_scripts(error):
                raise

    def cut(self, key: str, max_len: int) -> None:
        """Remove the oldest entries beyond ``max_len``, finished or not."""
        self._redis.xtrim(key, maxlen=max_len, approximate=True)

    def backlog(self, key: str, most: int) -> int:
        """How many entries are unfinished."""
        return int(self._script(BACKLOG, key, most))

    def _script(self, script: Script, key: str, *args: Any) -> Any:
        try:
            return self._redis.evalsha(script.sha, 1, key, *args)
        except NoScriptError:
            return self._redis.eval(script.source, 1, key, *args)

    def close(self) -> None:
        self._redis.close()
