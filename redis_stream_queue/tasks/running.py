"""What a worker runs: the task that a message calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .._validate import did_you_mean
from ..delivery.burial_mark import UNKNOWN_TASK
from ..delivery.rules import Rules
from ..exceptions import TaskUnknown
from ..message import StreamMessage
from .task import Task
from .wire import call_in

AnyTask = Task[Any, Any, Any]


class Tasks(Mapping[str, AnyTask]):
    """The tasks of a queue, by name; how messages find them."""

    def __init__(self) -> None:
        self._tasks: dict[str, AnyTask] = {}

    def __getitem__(self, name: str) -> AnyTask:
        return self._tasks[name]

    def __iter__(self) -> Any:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: AnyTask) -> None:
        """The name must be new."""
        self._tasks[task.name] = task

    def rules_of(self, message: StreamMessage) -> Rules:
        """What holds for this message."""
        try:
            return self._tasks[message.data["task"]].rules
        except (LookupError, TypeError):
            return _unknown(message.data)

    def call(self, message: StreamMessage) -> Any:
        """Run it; what is async gives what is to be awaited.

        Raises TaskUnknown, and what the task raises.
        """
        call = call_in(message.data)
        if isinstance(call, str):
            raise TaskUnknown(call)
        task = self._tasks.get(call.task)
        if task is None:
            raise TaskUnknown(_not_here(call.task, self._tasks))
        args, kwargs = task.bound.unpacked(call.args, call.kwargs)
        return task.func(*args, **kwargs)


def _unknown(data: Any) -> Rules:
    name = data.get("task") if isinstance(data, dict) else None
    return Rules(name if isinstance(name, str) else "", dead_for=UNKNOWN_TASK)


def _not_here(name: str, known: Iterable[str]) -> str:
    return (
        f"there is no task {name!r:.200} in this code.{did_you_mean(name, known)} If it was "
        "renamed, @queue.task(name=...) keeps the old name alive until its last call is done."
    )
