"""The stream of one queue: its server, group, serializer and producer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from .._names import default_dlq
from .._options import DEFAULT_URL, STREAM_PREFIX, URL, URL_FILE
from ..client import StreamClient, check_client
from ..delivery.rules import Rules
from ..exceptions import ConfigError
from ..producer import MAX_LEN, StreamProducer
from ..serializers import Serializer
from .current import running
from .results import Waiting
from .trial import Trial

T = TypeVar("T")


class TaskStream:
    """One stream of calls. Nothing is connected before the first push.

    url, client: the server; without both, that of the pool in a worker, else ``REDIS_URL``.
    waiting: connections for results. kind: class of the producer. trial: takes the pushes while
    the queue is under test, else None.
    stream, group, dlq_stream: names. serializer: None = JSON.
    """

    def __init__(
        self,
        stream: str,
        group: str,
        dlq_stream: str | None,
        *,
        client: StreamClient | None,
        url: str | None,
        serializer: Serializer | None,
        max_len: int | None = MAX_LEN,
        kind: type[StreamProducer] = StreamProducer,
    ) -> None:
        if client is not None:
            check_client(client)
        if client is not None and url is not None:
            raise ConfigError("Queue takes client= or url=, not both: a client has its URL.")
        if not isinstance(kind, type) or not issubclass(kind, StreamProducer):
            raise ConfigError(
                f"producer must be a class, as in producer=TracedProducer, got {kind!r:.80}."
            )
        self.stream = stream
        self.group = group
        self._dlq_stream = dlq_stream
        self._client = client
        self._url = url
        self._prefix: str | None = None
        self._serializer = serializer
        self._max_len = max_len
        self._kind = kind
        self._producer: StreamProducer | None = None
        self.waiting = Waiting()
        self._rules: list[Rules] = []
        self.trial: Trial | None = None
        self._making = threading.Lock()

    def note(self, rules: Rules) -> None:
        """Note a task of this queue, by its rules."""
        self._rules.append(rules)

    def running(self) -> str:
        """Name of the task that calls this function, if it belongs to this queue; else ""."""
        found = running()
        rules = found and found[1]
        return next((known.name for known in self._rules if known is rules), "")

    @property
    def client(self) -> StreamClient:
        """Made when it is first needed."""
        return self.producer.client

    @property
    def dlq_stream(self) -> str:
        """The dead-letter stream of its pools, unless an option names another one."""
        client = self.client
        cluster = client.endpoint.cluster
        return self._dlq_stream or default_dlq(self.stream, client.prefix, cluster=cluster)

    @property
    def serializer(self) -> Serializer:
        """Of calls and of results."""
        return self.producer.serializer if self.trial is None else self.trial.serializer

    @property
    def producer(self) -> StreamProducer:
        """Made when it is first needed."""
        if self._producer is None:
            with self._making:
                if self._producer is None:
                    self._producer = self._made()
        return self._producer

    def _made(self) -> StreamProducer:
        client = self._client
        if client is None:
            prefix = self._prefix
            if prefix is None:
                prefix = _variable(STREAM_PREFIX.environment) or ""
            client = StreamClient.from_url(self._url or _url(), prefix=prefix)
        return self._kind(
            client, self.stream, self.group, self._max_len, serializer=self._serializer
        )

    def attach(self, url: str, prefix: str, stream: str, group: str) -> None:
        """Use the server of the pool that runs the tasks, unless the queue names one."""
        if self._client is None and self._url is None:
            self._url, self._prefix = url, prefix
        self.stream, self.group, self._producer = stream, group, None

    def send_to(self, client: StreamClient) -> None:
        """Send all further pushes to the server of this client."""
        check_client(client)
        self._client, self._producer = client, None

    async def close(self) -> None:
        """Wait for pushes under way, and close the connections."""
        await self.waiting.close()
        if self._producer is not None:
            await self._producer.close()


def _url() -> str:
    """As the command lines find it."""
    url = _variable(URL.environment)
    path = None if url else _variable(URL_FILE.environment)
    if path:
        try:
            url = Path(path).read_text().strip()
        except OSError as error:
            raise ConfigError(f"REDIS_URL_FILE cannot be read: {error}.") from None
    return url or DEFAULT_URL


def _variable(names: Sequence[str]) -> str | None:
    return next((found for name in names if (found := os.environ.get(name))), None)


Push = Callable[[StreamProducer], T]
