"""Job: one call of a task that was pushed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from ..later.extras import PushedId

if TYPE_CHECKING:
    from .stream import TaskStream

R = TypeVar("R")

Status = Literal["scheduled", "waiting", "running", "retrying", "done", "dead", "gone"]


class Job(Generic[R]):
    """One call of a task that was pushed.

    id: of its message, ``@<due ms>-<number>`` of one for later. task: its name.
    stream: where it is. pushed: what its push returned.
    duplicate: it was not pushed again (``dedup_id``, ``unique``): this is the earlier one.
    """

    def __init__(self, stream: TaskStream, task: str, pushed: str) -> None:
        self.id = str(pushed)
        self.task = task
        self.duplicate = isinstance(pushed, PushedId) and pushed.duplicate
        self._stream = stream

    def __repr__(self) -> str:
        return f"Job({self.task!r}, {self.id!r})"

    async def status(self) -> Status:
        """``scheduled``, ``waiting``, ``running``, ``retrying``, ``done`` or ``dead``; ``gone``
        once the stream knows nothing of it any more: done long ago, cancelled or purged."""
        client, stream = self._stream.client, self._stream.stream
        found = await client.find(stream, self.id)
        if found is None:
            return "gone"
        for group in found.groups:
            if group.group == self._stream.group:
                return group.state  # type: ignore[return-value]
        return found.state  # type: ignore[return-value]

    async def cancel(self) -> bool:
        """Take it back: it does not start any more, and is interrupted where it runs.

        Returns False if it had ended already.
        """
        return await self._stream.client.cancel(self._stream.stream, self.id) is not None
