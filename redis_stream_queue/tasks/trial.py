"""Pushes that stay in this process, for tests: recorded, and run in place."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ..delivery.answers import Answer, failure
from ..delivery.invocation import must_be_awaited, to_its_end
from ..later.extras import PushedId
from ..message import StreamMessage
from ..serializers import Serializer
from .current import apart
from .wire import Call, Payload, call_in


@dataclass
class PushedCall:
    """A call that was pushed while a queue was being tested.

    task: name of the task. args, kwargs: the packed arguments. options: of its push. headers: of
    its message. id: of its job. ran: was it run at its push? cancelled: was it cancelled?
    """

    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    headers: dict[str, str]
    id: str
    ran: bool = False
    cancelled: bool = False
    answer: Answer | None = field(default=None, repr=False)


class Trial:
    """Takes the pushes of a queue while it is being tested.

    pushed: the calls so far. run: are they run? serializer: that of the queue. call: runs a
    message.
    """

    def __init__(
        self, *, run: bool, serializer: Serializer, call: Callable[[StreamMessage], Any]
    ) -> None:
        self.pushed: list[PushedCall] = []
        self._run = run
        self.serializer = serializer
        self._call = call
        self._numbers = itertools.count(1)

    def _recorded(
        self, call: Payload, headers: dict[str, str], options: dict[str, Any]
    ) -> tuple[PushedCall, StreamMessage]:
        data = self.serializer.decode(self.serializer.encode(call))
        sent = call_in(data)
        assert isinstance(sent, Call)
        made = PushedCall(
            sent.task,
            list(sent.args),
            dict(sent.kwargs),
            dict(options),
            dict(headers),
            f"0-{next(self._numbers)}",
        )
        self.pushed.append(made)
        return made, StreamMessage(made.id, data, 1, dict(headers))

    def _runs(self, call: PushedCall) -> bool:
        """Is a call run at its push? One for later is not: it might push itself without end."""
        call.ran = self._run and not _is_later(call)
        return call.ran

    async def push(
        self, call: Payload, headers: dict[str, str], options: dict[str, Any]
    ) -> PushedId:
        """Record it, and run it. Raises what the task raises."""
        made, message = self._recorded(call, headers, options)
        if self._runs(made):
            with apart():
                await to_its_end(self._call(message))
            made.answer = vars(message).get("answer")
        return PushedId(made.id)

    def push_sync(
        self, call: Payload, headers: dict[str, str], options: dict[str, Any]
    ) -> PushedId:
        """push() for code without an event loop."""
        made, message = self._recorded(call, headers, options)
        if self._runs(made):
            with apart():
                given = self._call(message)
                if must_be_awaited(given):
                    _run_apart(to_its_end(given))
            made.answer = vars(message).get("answer")
        return PushedId(made.id)

    def answer(self, job_id: str) -> bytes | None:
        """The answer of a call. Raises TimeoutError for one that was only recorded."""
        call = self._find(job_id)
        if call is not None and call.cancelled:
            return failure("cancelled", "it was cancelled")
        if call is not None and not call.ran:
            raise TimeoutError(
                f"job {job_id} of task {call.task!r} has no result: queue.testing() has only "
                "recorded it, as it does with run=False and with what is for later."
            )
        return call.answer.value if call is not None and call.answer is not None else None

    def status(self, job_id: str) -> Literal["scheduled", "waiting", "done", "gone"]:
        """The state of a call, as Job.status() tells it."""
        call = self._find(job_id)
        if call is None or call.cancelled:
            return "gone"
        if call.ran:
            return "done"
        return "scheduled" if _is_later(call) else "waiting"

    def cancel(self, job_id: str) -> bool:
        """Cancel a call that was only recorded; returns False if there is no such call."""
        call = self._find(job_id)
        if call is None or call.ran or call.cancelled:
            return False
        call.cancelled = True
        return True

    def _find(self, job_id: str) -> PushedCall | None:
        return next((call for call in self.pushed if call.id == job_id), None)


def _is_later(call: PushedCall) -> bool:
    return bool(call.options.get("delay_ms") or call.options.get("at"))


def _run_apart(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run it to its end in a loop of its own; in a thread, if this one's is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(coroutine)
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:  # raised again by whoever waits
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


@contextlib.contextmanager
def taking(holder: Any, trial: Trial) -> Iterator[list[PushedCall]]:
    """Within this context ``holder.trial`` is this one."""
    before, holder.trial = holder.trial, trial
    try:
        yield trial.pushed
    finally:
        holder.trial = before
