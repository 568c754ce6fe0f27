"""Queue: named functions on one stream."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, Protocol, TypeVar, Unpack, overload

from .._validate import Maybe, Settled, Switch, Text, check
from ..client import StreamClient
from ..config import ConsumerConfig, SettingsOfTasks
from ..delivery.per_message import PerMessage
from ..exceptions import ConfigError
from ..handlers import DLQHandler, ErrorHook, WorkerHook, stream_handler
from ..later.periodic import CatchUp, Cron, Periodic
from ..middleware import Middleware
from ..producer import LENGTH, MAX_LEN, StreamProducer
from ..serializers import JsonSerializer, Serializer, for_stream
from .job import Job, Kept, kept_for
from .options import CHECKED, NAME, NamedPushOptions, TaskOptions, checked
from .pushing import Pushing
from .running import TaskRunner, Tasks
from .stream import TaskStream
from .task import Task
from .trial import PushedCall, Trial, taking
from .wire import payload_of

P = ParamSpec("P")
R = TypeVar("R")


DEFAULT_TTL_MS = 3_600_000  # where a task's own is not known
ELSEWHERE = {
    "periodic": "@queue.cron makes a task of a function that is pushed at certain times",
    "payload_field": "the calls of tasks are in a field of their own",
    **dict.fromkeys(
        TaskOptions.__annotations__.keys() - ConsumerConfig.__annotations__.keys(),
        "it is an option of @queue.task(...)",
    ),
}


class TaskMaker(Protocol):
    """What ``@queue.task(...)`` puts around a function."""

    @overload
    def __call__(
        self, func: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, R], /) -> Task[P, R, R]: ...


class QueueSettings(SettingsOfTasks, total=False):
    """What a Queue takes beside its own parameters; see ConsumerConfig and stream_handler."""

    middleware: Iterable[Middleware]
    on_worker_start: WorkerHook | None
    on_worker_stop: WorkerHook | None
    workers: int | None
    nice: int


class Queue:
    """Named functions on one stream, run by ``rsq-pool app:queue``.

    >>> queue = Queue("work")
    >>> @queue.task
    ... def resize(photo: int, width: int = 800) -> None: ...
    >>> job = await resize.push(42, width=640)

    stream: name of the stream. group: None = ``<stream>_workers``.
    client, url: the server; without both, the server of the pool in a worker, else ``REDIS_URL``.
    serializer: None = JSON. max_len: see StreamProducer. dlq_handler, error_hook: see
    stream_handler.
    producer: class of the producer, such as TracedProducer.
    settings: any field of ConsumerConfig but payload_field, for tasks without own ones; and
        middleware, on_worker_start, on_worker_stop, workers, nice: see stream_handler.

    Raises ConfigError naming a wrong setting.
    """

    stream = Settled[str]()
    group = Settled[str]()

    def __init__(
        self,
        stream: str,
        *,
        client: StreamClient | None = None,
        url: str | None = None,
        group: str | None = None,
        serializer: Serializer | None = None,
        max_len: int | None = MAX_LEN,
        dlq_handler: DLQHandler | None = None,
        error_hook: ErrorHook | None = None,
        producer: type[StreamProducer] = StreamProducer,
        **settings: Unpack[QueueSettings],
    ) -> None:
        check("stream", stream, Text())
        check("url", url, Maybe(Text(secret=True)))
        check("max_len", max_len, LENGTH)
        _check_not_elsewhere(settings)
        self.stream = stream
        self.group = f"{stream}_workers" if group is None else group
        self.tasks = Tasks(lambda result: self._stream.serializer.encode(result))
        self._declared: dict[str, Any] = {
            "group": self.group,
            "serializer": serializer,
            "dlq_handler": dlq_handler,
            "error_hook": error_hook,
            **settings,
        }
        self._periodic: list[Periodic] = []
        stream_handler(stream, **self._declared)  # raises what is wrong
        self._stream = TaskStream(
            stream,
            self.group,
            settings.get("dlq_stream"),
            client=client,
            url=url,
            serializer=serializer,
            max_len=max_len,
            kind=producer,
        )

    def __repr__(self) -> str:
        return f"Queue({self.stream!r})"

    @overload
    def task(
        self, func: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Task[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def task(self, func: Callable[P, R], /) -> Task[P, R, R]: ...
    @overload
    def task(self, /, **options: Unpack[TaskOptions]) -> TaskMaker: ...
    def task(self, func: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
        """Make a task of a function, plain or async.

        func: a function of a module; its name is that of the task. options: see TaskOptions and
        docs/tasks.md. Raises ConfigError for another kind of function, for a name that is taken,
        and for parameters whose type cannot be sent.
        """
        made = checked(options)

        def decorate(target: Any) -> Any:
            task: Task[Any, Any, Any] = Task(self._stream, target, made, len(self.tasks) + 1)
            if task.name in self.tasks:
                there = self.tasks[task.name].func
                raise ConfigError(
                    f"queue {self.stream!r} has a task {task.name!r} already, {_place(there)}: "
                    f"give {_place(target)} a name= of its own."
                )
            self.tasks.add(task)
            return task

        return decorate if func is None else decorate(func)

    def options(self, **options: Unpack[NamedPushOptions]) -> _ByName:
        """Push under these options where the code is not at hand; see ``push``.

        options: those of a task's ``options()``, and result_ttl_s: seconds that its result is kept.
        """
        return _ByName(self._stream, self.tasks, options)

    async def push(self, task: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Push a call of a task whose code is not at hand: nothing is checked here.

        task: its name. args, kwargs: of its function, as the serializer takes them. Where its
        result is wanted: ``queue.options(result_ttl_s=3600).push(...)``.
        """
        return await self.options().push(task, *args, **kwargs)

    def push_sync(self, task: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """``push`` for code without an event loop."""
        return self.options().push_sync(task, *args, **kwargs)

    def job(self, task: str, job_id: str) -> Job[Any]:
        """A call that was pushed by another program.

        task: name of the task. job_id: the id that the push returned.
        """
        known = self.tasks.get(task)
        return Job(self._stream, task, job_id, known.kept if known else Kept(DEFAULT_TTL_MS))

    def cron(
        self,
        expression: str,
        /,
        *,
        tz: str = "UTC",
        catch_up: CatchUp = "once",
        late_s: float | None = None,
        overlap: bool = True,
        **options: Unpack[TaskOptions],
    ) -> TaskMaker:
        """Make a task of a function without arguments, pushed at the times of a cron expression:
        each time once over all hosts.

        expression: five fields, as in ``"0 3 * * *"``. tz, catch_up, late_s, overlap: see Cron.
        options: as for ``task``. Needs the extra ``cron``. Raises ConfigError for what cannot be.
        """
        if callable(expression):
            raise ConfigError('@queue.cron wants an expression, as in @queue.cron("0 3 * * *").')
        make: Any = self.task(**options)

        def decorate(func: Any) -> Any:
            made = make(func)
            try:
                made.bound.check()
            except TypeError as error:
                raise ConfigError(
                    f"@queue.cron calls its task without arguments: {error}."
                ) from None
            payload = payload_of(made.name)
            self._periodic.append(
                Cron(made.name, expression, payload, tz, catch_up, late_s, overlap)
            )
            return made

        return decorate

    def testing(self, *, run: bool = True) -> AbstractContextManager[list[PushedCall]]:
        """A context within which nothing goes to Redis: calls are recorded, and run at their push.

        >>> with queue.testing() as pushed:
        ...     upload("cat.jpg")
        >>> assert [call.task for call in pushed] == ["resize"]

        run: False = calls are only recorded, as calls with a ``delay_ms`` or an ``at`` always are.
        A push raises the error that its task raises.
        """
        check("run", run, Switch())
        serializer = for_stream(self._declared["serializer"] or JsonSerializer(), self.stream)
        return taking(self._stream, Trial(run=run, serializer=serializer, call=self.tasks.call))

    def send_to(self, client: StreamClient) -> None:
        """Send all further pushes to another server.

        client: of that server.
        """
        self._stream.send_to(client)

    async def close(self) -> None:
        """Wait for pushes under way, and close the connections."""
        await self._stream.close()

    def stream_handler(self) -> PerMessage:
        """The handler that a pool runs. Raises ConfigError if there is no task."""
        if not self.tasks:
            raise ConfigError(
                f"queue {self.stream!r} has no tasks: decorate functions with @queue.task, in this "
                "module or in one that it imports."
            )
        handler = TaskRunner(self.tasks)
        handler.attach = self._stream.attach
        return stream_handler(self.stream, periodic=self._periodic, **self._declared)(handler)


class _ByName:
    """Pushes calls by the names of their tasks."""

    def __init__(self, stream: TaskStream, tasks: Tasks, options: NamedPushOptions) -> None:
        self._stream = stream
        self._tasks = tasks
        self._options: Any = dict(options)
        ttl_s = self._options.pop("result_ttl_s", None)
        check("result_ttl_s", ttl_s, CHECKED["result_ttl_s"])
        self._kept = None if ttl_s is None else kept_for(ttl_s)

    def _pushing(self, task: str) -> Pushing[..., Any]:
        if not NAME.fits(task):
            raise ConfigError(
                f"queue.push() wants the name of a task, {NAME}, got {task!r:.80}. (A task that is "
                "at hand has a push() of its own.)"
            )
        known = self._tasks.get(task)
        kept = self._kept or (known.kept if known else None)
        return Pushing(self._stream, task, None, kept, self._options)

    async def push(self, task: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        return await self._pushing(task).push(*args, **kwargs)

    def push_sync(self, task: str, /, *args: Any, **kwargs: Any) -> Job[Any]:
        return self._pushing(task).push_sync(*args, **kwargs)


def _check_not_elsewhere(settings: Mapping[str, Any]) -> None:
    if found := sorted(settings.keys() & ELSEWHERE):
        raise ConfigError(f"a Queue has no setting {found[0]!r}: {ELSEWHERE[found[0]]}.")


def _place(func: Any) -> str:
    return f"{getattr(func, '__module__', '?')}.{getattr(func, '__qualname__', func)}"
