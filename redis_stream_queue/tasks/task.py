"""Task: a function of a module that can also be pushed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from ..delivery.invocation import check_runs, looks_async
from ..delivery.rules import Rules
from ..exceptions import ConfigError
from .arguments import Arguments
from .job import kept_for
from .options import NAME, Options
from .pushing import Pushing
from .stream import TaskStream

P = ParamSpec("P")
R = TypeVar("R")  # what a call gives in the end
V = TypeVar("V")  # what calling it gives: of an async function a coroutine


class Task(Pushing[P, R], Generic[P, R, V]):
    """A function made by ``@queue.task``; called, it is the function itself.

    >>> job = await resize.push(42, width=640)

    func: the function. name: of the task. is_async: does it run in the event loop? stream: where
    its calls go. options: those of @queue.task. number: its number in the queue, from 1 on. bound:
    packs its arguments. kept: how results are kept. concurrency, running, rules: for its calls in
    a worker.
    """

    def __init__(
        self, stream: TaskStream, func: Callable[P, V], options: Options, number: int
    ) -> None:
        name = _name(func, options)
        self.bound = Arguments(name, func)
        ttl_s = options.result_ttl_s
        self.kept = None if ttl_s is None else kept_for(ttl_s, self.bound.result())
        super().__init__(stream, name, self.bound, self.kept)
        functools.update_wrapper(self, func)
        self.func = func
        self.is_async = looks_async(func)
        if options.concurrency > 1 and not self.is_async:
            raise ConfigError(
                f"concurrency={options.concurrency} needs an 'async def' function, but task "
                f"{name!r} is a plain one. Leave concurrency out and run more workers."
            )
        self.concurrency = options.concurrency
        self.running = 0  # of an async one, in this process
        self.rules = Rules(
            name,
            number,
            options.max_deliveries,
            options.retry_delay_ms,
            options.retry_max_delay_ms,
            options.retry_on,
            options.no_retry_on,
            options.time_limit_s,
            options.soft_time_limit_s,
            alone=not self.is_async,
        )
        stream.note(self.rules)

    async def counted(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call the async function and await it, as one of those that run."""
        self.running += 1
        try:
            made: Any = self.func(*args, **kwargs)
            return await made
        finally:
            self.running -= 1

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> V:
        """Call the function itself; nothing is pushed."""
        return self.func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name!r}>"

    def stream_handler(self) -> Any:
        """Always raises ConfigError: a pool runs the queue of a task, not the task."""
        raise ConfigError(
            f"{self.name!r} is a task, which runs with the others of its queue: name the queue, as "
            "in rsq-pool app:queue."
        )


def _name(func: Any, options: Options) -> str:
    """The name of the task. Raises ConfigError for anything but a function of a module."""
    if not callable(func) or isinstance(func, type | staticmethod | classmethod):
        raise ConfigError(f"@queue.task wants a function of a module, got {func!r:.80}.")
    shown = getattr(func, "__qualname__", type(func).__qualname__)
    if options.name is None:
        if "<lambda>" in shown:
            raise ConfigError(
                "a lambda has no name to travel under: use def, or @queue.task(name=...)."
            )
        if "<locals>" in shown:
            raise ConfigError(
                f"task {shown!r} is a function within another one, which a worker has only once "
                "that has run: define it in the module itself, or give it a name=."
            )
        if "." in shown:
            raise ConfigError(
                f"task {shown!r} is a method, and its object does not travel: use a function of "
                "the module, and look the object up in it."
            )
    check_runs(func)
    name = options.name or getattr(func, "__name__", "")
    if not NAME.fits(name):
        raise ConfigError(f"{func!r:.80} has no name to travel under: @queue.task(name=...).")
    return str(name)
