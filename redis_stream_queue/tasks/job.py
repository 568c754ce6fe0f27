"""Job: one call of a task that was pushed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from ..delivery.answers import VALUE
from ..dlq import DeadLetterQueue
from ..exceptions import ConfigError, ResultGone
from ..later.extras import PushedId
from ..message import id_before, id_key, is_entry_id
from ..pushing.time_limit import limit_s
from ..serializers import Serializer
from .options import not_here
from .results import failed
from .travelling import Conversion

if TYPE_CHECKING:
    from .stream import TaskStream

R = TypeVar("R")
T = TypeVar("T")

LETTERS, PAGES = 100, 20  # among which a dead one is looked for

Status = Literal["scheduled", "waiting", "running", "retrying", "done", "dead", "gone"]


class Kept(NamedTuple):
    """How results of a task are kept: how long, in ms, and how they are packed."""

    ttl_ms: int
    conversion: Conversion | None = None


def kept_for(ttl_s: float, conversion: Conversion | None = None) -> Kept:
    """What ``result_ttl_s`` asks for."""
    return Kept(max(round(ttl_s * 1000), 1), conversion)


class Job(Generic[R]):
    """One call of a task that was pushed.

    id: of its message; of one for later ``@<due ms>-<number>``. task: name of the task.
    duplicate: nothing was pushed, and this is the earlier call with the same ``dedup_id`` or
    ``unique`` key. stream: where it is. pushed: what its push returned. kept: how its result is.
    """

    def __init__(
        self, stream: TaskStream, task: str, pushed: str, kept: Kept | None = None
    ) -> None:
        self.id = str(pushed)
        self.task = task
        self.duplicate = isinstance(pushed, PushedId) and pushed.duplicate
        self._stream = stream
        self._kept = kept
        self._trial = stream.trial

    def __repr__(self) -> str:
        return f"Job({self.task!r}, {self.id!r})"

    if not TYPE_CHECKING:  # for whom every name would be one

        def __getattr__(self, name: str) -> Any:
            raise not_here("job", "a job", name)

    async def status(self) -> Status:
        """``scheduled``, ``waiting``, ``running``, ``retrying``, ``done`` or ``dead``; ``gone``
        once the stream knows nothing of it any more: done long ago, cancelled or purged."""
        if self._trial is not None:
            return self._trial.status(self.id)
        client, stream = self._stream.client, self._stream.stream
        found = await client.find(stream, self.id)
        entry_id = found.id if found else self.id
        if (found is None or found.state == "done") and await self._is_dead(entry_id):
            return "dead"
        if found is None:
            return "gone"
        for group in found.groups:
            if group.group == self._stream.group:
                return group.state  # type: ignore[return-value]
        return found.state  # type: ignore[return-value]

    async def _is_dead(self, entry_id: str) -> bool:
        """Is there a dead letter of this call? Looks at letters from the time of the call on."""
        if not is_entry_id(entry_id):
            return False
        letters = DeadLetterQueue(self._stream.client, self._stream.dlq_stream)
        after = id_before(f"{id_key(entry_id)[0]}-0")
        for _ in range(PAGES):
            page = await letters.list(LETTERS, after, payloads=False)
            if any(letter.headers.get("original_id") == entry_id for letter in page):
                return True
            if len(page) < LETTERS:
                break
            after = page[-1].id
        return False

    async def cancel(self) -> bool:
        """Cancel the call: it does not start any more, or is interrupted if it runs.

        Returns False if it had ended already.
        """
        if self._trial is not None:
            return self._trial.cancel(self.id)
        stream = self._stream
        return await stream.client.cancel(stream.stream, self.id) is not None

    async def result(self, timeout_s: float | None = None) -> R:
        """Wait for the value that the task returns; any number of programs may wait for it.

        timeout_s: seconds to wait; None = without a limit.
        Raises TaskFailed if it has failed for good, ResultGone if it has ended and there is no
        result (any more), TimeoutError, and ConfigError for a task that keeps none, and where a
        task would wait without end for one of its own queue.
        """
        if self._kept is None:
            raise ConfigError(
                f"task {self.task!r} keeps no results: declare it with "
                "@queue.task(result_ttl_s=3600), so many seconds; where it is pushed by its name, "
                "push it with queue.options(result_ttl_s=3600)."
            )
        stream = self._stream
        if timeout_s is None and (waits := stream.running()):
            raise ConfigError(
                f"task {waits!r} waits without a limit for task {self.task!r} of its own queue: "
                "once every worker waits, nobody is left to run it. Give result() a timeout_s, or "
                "push the next step instead."
            )
        if self._trial is not None:
            return self._value(self._trial.answer(self.id), self._trial.serializer)
        within_s = limit_s(timeout_s)
        try:
            answer = await stream.waiting.value(
                stream.client, stream.stream, stream.group, self.id, within_s
            )
        except TimeoutError:
            raise TimeoutError(
                f"job {self.id} of task {self.task!r} has no result after {within_s} s"
            ) from None
        return self._value(answer, stream.serializer)

    def _value(self, answer: bytes | None, serializer: Serializer) -> R:
        assert self._kept is not None
        if answer is None:
            raise ResultGone(
                f"job {self.id} of task {self.task!r} has ended, and its result is not kept (any "
                "more): results are kept for result_ttl_s seconds, for calls that were pushed when "
                "the task had that."
            )
        if not answer.startswith(VALUE):
            raise failed(self.task, self.id, answer)
        value: Any = serializer.decode(answer[len(VALUE) :])
        how = self._kept.conversion
        made: R = value if how is None else how.unpack(value)
        return made

    def result_sync(self, timeout_s: float | None = None) -> R:
        """``result`` for code without an event loop.

        timeout_s: see there.
        """
        return self._blocking(self.result, timeout_s)

    def status_sync(self) -> Status:
        """``status`` for code without an event loop."""
        return self._blocking(self.status)

    def cancel_sync(self) -> bool:
        """``cancel`` for code without an event loop."""
        return self._blocking(self.cancel)

    def _blocking(self, ask: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """The result of a method, run in an event loop of its own."""

        async def asked() -> T:
            try:
                return await ask(*args)
            finally:
                if self._trial is None:
                    await self._stream.waiting.close()
                    await self._stream.client.close()

        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(asked())
        name = ask.__name__
        raise RuntimeError(f"{name}_sync() would hold up the running event loop: await {name}().")
