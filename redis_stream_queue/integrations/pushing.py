"""A producer with a scope around each push, from which the integrations make spans."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Unpack

from ..later.extras import ManyExtras, OneExtras
from ..producer import StreamProducer
from ..pushing.headers import OURS, OwnHeaders, header_parts

Headers = Mapping[str, str]
TASK = f"{OURS}task"  # header with the task's name, of a call of a Queue
Pushed = Callable[[Sequence[str]], None]  # to be called with the ids of the messages


class ScopedProducer(StreamProducer, ABC):
    """A StreamProducer; a subclass says what is around each push."""

    @abstractmethod
    def around_push(
        self, headers: Headers | None, count: int
    ) -> AbstractContextManager[tuple[Headers, Pushed]]:
        """Return a context manager; it is entered before ``count`` messages are pushed in one call.

        It gives further headers for them, and a function that is called with their ids.
        """

    async def push(
        self,
        data: Any,
        *,
        headers: Headers | None = None,
        timeout_s: float | None = None,
        **extras: Unpack[OneExtras],
    ) -> str:
        """As of StreamProducer."""
        with self.around_push(headers, 1) as (more, pushed):
            both = _both(headers, more)
            message_id = await super().push(data, headers=both, timeout_s=timeout_s, **extras)
            pushed([message_id])
        return message_id

    async def push_many(
        self,
        data: Sequence[Any],
        *,
        headers: Headers | None = None,
        timeout_s: float | None = None,
        **extras: Unpack[ManyExtras],
    ) -> list[str]:
        """As of StreamProducer; all of them get the same headers."""
        with self.around_push(headers, len(data)) as (more, pushed):
            both = _both(headers, more)
            ids = await super().push_many(data, headers=both, timeout_s=timeout_s, **extras)
            pushed(ids)
        return ids

    def _push_sync(
        self,
        data: Sequence[Any],
        headers: Headers | None,
        timeout_s: float | None,
        extras: OneExtras | ManyExtras,
        one: bool = False,
    ) -> list[str]:
        with self.around_push(headers, len(data)) as (more, pushed):
            ids = super()._push_sync(data, _both(headers, more), timeout_s, extras, one)
            pushed(ids)
        return ids


def _both(headers: Headers | None, more: Headers) -> Headers:
    """Both together; where both have a name, the caller's header stays."""
    if isinstance(headers, OwnHeaders):
        return OwnHeaders((*header_parts(more), *headers.parts))
    return {**more, **(headers or {})}
