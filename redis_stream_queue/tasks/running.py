"""Runs the tasks that messages call, in a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .._burial_mark import UNKNOWN_TASK
from .._validate import did_you_mean
from ..delivery.answers import RESULT, VALUE, answer_to
from ..delivery.batch import Batch
from ..delivery.current import handled
from ..delivery.invocation import must_be_awaited, to_its_end
from ..delivery.per_message import PerMessage
from ..delivery.rules import Rules
from ..exceptions import Reject, TaskUnknown
from ..message import StreamMessage
from .arguments import Kwargs
from .current import begin
from .task import Task
from .wire import call_in

AnyTask = Task[Any, Any, Any]
NO_ARGS: list[Any] = []
NO_KWARGS: dict[str, Any] = {}


class TaskRunner(PerMessage):
    """Runs the tasks of a queue: plain ones alone, async ones side by side, each in its turn.

    Where all are async and as many of each may run, nothing has to be asked about any of them.
    """

    def __init__(self, tasks: Tasks) -> None:
        super().__init__(tasks.call, tasks.concurrency, is_async=tasks.alike)
        self.mixed = not tasks.alike and any(task.is_async for task in tasks.values())
        self.rules_of = tasks.rules_of
        self.rules = [task.rules for task in tasks.values()]
        self._tasks = tasks

    def lanes(self, batch: Batch) -> int:
        """How many calls may run now. A plain task waits until nothing runs, and the next message
        waits for its end; a message also waits behind an async task that has no free lane."""
        if not self.mixed:
            return self.concurrency
        if batch.handed is not None or batch.blocks:
            return 1
        task = self._tasks.of(batch.head)
        if task is None or not task.is_async:
            return 1
        return self.concurrency if task.running < task.concurrency else 0

    def awaits(self, batch: Batch) -> bool:
        """Is the next message one of an async task that may start?"""
        if not self.mixed:
            return self.is_async
        if batch.handed is not None:
            return False
        task = self._tasks.of(batch.head)
        return task is not None and task.is_async and task.running < task.concurrency


class Tasks(Mapping[str, AnyTask]):
    """The tasks of a queue, by name. encode: makes bytes of the values that they return.

    alike: are all tasks async, with the same concurrency?
    """

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._tasks: dict[str, AnyTask] = {}
        self._rules: dict[str, Rules] = {}
        self._kinds: set[tuple[bool, int]] = set()
        self._encode = encode
        self.alike = False

    def __getitem__(self, name: str) -> AnyTask:
        return self._tasks[name]

    def __iter__(self) -> Any:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: AnyTask) -> None:
        """Add a task, whose name must be new."""
        self._tasks[task.name] = task
        self._rules[task.name] = task.rules
        self._kinds.add((task.is_async, task.concurrency))
        self.alike = self._kinds == {(True, task.concurrency)}

    @property
    def concurrency(self) -> int:
        """How many calls of all tasks may run side by side."""
        return max((task.concurrency for task in self._tasks.values()), default=1)

    def of(self, message: StreamMessage | None) -> AnyTask | None:
        """The task that a message calls, None = unknown."""
        try:
            return self._tasks[message.data["task"]] if message is not None else None
        except (LookupError, TypeError):
            return None

    def rules_of(self, message: StreamMessage) -> Rules:
        """The settings that hold for this message."""
        try:
            return self._rules[message.data["task"]]
        except (LookupError, TypeError):
            return _unknown(message.data)

    def call(self, message: StreamMessage) -> Any:
        """Run the task that a message calls; returns an awaitable if the task is async.

        Raises TaskUnknown, and what the task raises.
        """
        data = message.data
        try:
            task = self._tasks[data["task"]]
            args, kwargs = data.get("args", NO_ARGS), data.get("kwargs", NO_KWARGS)
            usual = type(args) is list and type(kwargs) is dict
        except (LookupError, TypeError, AttributeError):
            usual = False
        if not usual:
            task, args, kwargs = self._found(data)
        if not task.bound.plain:
            args, kwargs = task.bound.unpacked(args, kwargs)
        noted = handled.get()
        if noted is None or noted[0] is not message:
            begin(message, task.rules)
        if RESULT in message.headers:
            return self._with_result(task, message, args, kwargs)
        if task.is_async and not self.alike:
            return task.counted(args, kwargs)
        return task.func(*args, **kwargs) if kwargs else task.func(*args)

    def _found(self, data: Any) -> tuple[AnyTask, Sequence[Any], Kwargs]:
        """The call in a payload, which others may have written. Raises TaskUnknown."""
        call = call_in(data)
        if isinstance(call, str):
            raise TaskUnknown(call)
        task = self._tasks.get(call.task)
        if task is None:
            raise TaskUnknown(_not_here(call.task, self._tasks))
        return task, call.args, call.kwargs

    def _with_result(
        self, task: AnyTask, message: StreamMessage, args: Sequence[Any], kwargs: Kwargs
    ) -> Any:
        if task.is_async:
            return self._async(task, message, args, kwargs)
        return self._keep_when_there(task, message, task.func(*args, **kwargs))

    async def _async(
        self, task: AnyTask, message: StreamMessage, args: Sequence[Any], kwargs: Kwargs
    ) -> None:
        self._keep(task, message, await task.counted(args, kwargs))

    def _keep_when_there(self, task: AnyTask, message: StreamMessage, result: Any) -> Any:
        """Keep the result of a plain function; if that is an awaitable, returns one to await."""
        if not must_be_awaited(result):
            self._keep(task, message, result)
            return None

        async def keep() -> None:
            self._keep(task, message, await to_its_end(result))

        return keep()

    def _keep(self, task: AnyTask, message: StreamMessage, result: Any) -> None:
        """Keep a result, to be written with the acknowledgement. One that cannot be packed is
        logged and left out: the work is done."""
        how = task.kept.conversion if task.kept else None
        try:
            encoded = self._encode(result if how is None else how.pack(result))
        except Exception as error:  # a serializer may raise anything
            raise Reject(
                f"task {task.name!r} is done, but what it returned ({type(result).__name__}) "
                f"cannot travel: {error}"
            ) from None
        vars(message)["answer"] = answer_to(message, VALUE + encoded)


def _unknown(data: Any) -> Rules:
    name = data.get("task") if isinstance(data, dict) else None
    return Rules(name if isinstance(name, str) else "", dead_for=UNKNOWN_TASK)


def _not_here(name: str, known: Iterable[str]) -> str:
    return (
        f"there is no task {name!r:.200} in this code.{did_you_mean(name, known)} Its module must "
        "be imported by the one that the pool loads, and use the same Queue. If it was renamed, "
        "@queue.task(name=...) keeps the old name alive until its last call is done."
    )
