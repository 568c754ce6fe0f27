"""Handlers: what the user writes, and the two decorators around it.

A handler is called with a batch and returns the ids to acknowledge; ``per_message`` makes one of a
function for a single message; ``stream_handler`` notes which stream a pool feeds it from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    NamedTuple,
    Protocol,
    TypeVar,
    Unpack,
    cast,
    overload,
    runtime_checkable,
)

from ._validate import Function, Maybe, Whole, check, did_you_mean
from .config import ConsumerConfig, Settings
from .delivery.invocation import check_runs, looks_async, looks_async_inside
from .delivery.per_batch import PerBatch
from .delivery.per_message import PerMessage
from .delivery.rules import RulesOf, as_configured
from .exceptions import ConfigError
from .message import StreamMessage
from .middleware import Middleware, Source, chained, check_fits
from .middleware import checked as checked_middleware
from .serializers import Serializer, checked_serializer

if TYPE_CHECKING:
    from .later.periodic import Periodic

Handler = Callable[[list[StreamMessage]], Any]
DLQHandler = Callable[[StreamMessage, str], Any]
ErrorHook = Callable[[BaseException, list[StreamMessage]], Any]
WorkerHook = Callable[[], Any]
F = TypeVar("F", bound=Callable[..., Any])
H = TypeVar("H", bound=Callable[..., Any] | None)

DECLARATION = "__stream_handler__"


@runtime_checkable
class HandlerSource(Protocol):
    """What a pool can be given instead of a handler: it makes one."""

    def stream_handler(self) -> PerMessage:
        """The handler, decorated. Raises ConfigError if there is none."""


def runner_of(handler: Handler) -> PerMessage | PerBatch:
    """The object that runs a handler for a session."""
    return handler if isinstance(handler, PerMessage | PerBatch) else PerBatch(handler)


def with_middleware(handler: Handler, middleware: Sequence[Middleware], source: Source) -> Handler:
    """The same handler with middleware around each call; without any, the handler itself.

    Raises ConfigError for async middleware around a plain handler.
    """
    if not middleware:
        return handler
    runner = runner_of(handler)
    check_fits(middleware, runner.func)
    call = chained(runner.func, middleware, source)
    is_async = runner.is_async or any(map(looks_async, middleware))
    if isinstance(runner, PerBatch):
        return cast(Handler, PerBatch(call, is_async=is_async))  # a session takes it as well
    return runner.calling(call, is_async=is_async)


def rules_of(handler: Handler) -> RulesOf:
    """The function that returns the rules of each message."""
    known = handler.rules_of if isinstance(handler, PerMessage) else None
    return known or as_configured


@overload
def per_message(func: Callable[[StreamMessage], Any], /) -> PerMessage: ...
@overload
def per_message(
    *, concurrency: int = 1
) -> Callable[[Callable[[StreamMessage], Any]], PerMessage]: ...


def per_message(
    func: Callable[[StreamMessage], Any] | None = None, /, *, concurrency: int = 1
) -> PerMessage | Callable[[Callable[[StreamMessage], Any]], PerMessage]:
    """Make a handler of a function for one message, sync or async.

    >>> @per_message
    ... def handle(message):
    ...     print(message.data)

    Each message is acknowledged when its call returns; one that raises fails alone.
    func: called with one StreamMessage; what it returns is ignored.
    concurrency: how many calls of an async function run side by side.
    Raises ConfigError for a concurrency below 1, or above 1 with a plain function.
    """

    def decorate(target: Callable[[StreamMessage], Any]) -> PerMessage:
        check("the function of @per_message", target, Function())
        check_runs(target)
        check("concurrency", concurrency, Whole(1))
        is_async = looks_async(target) or (concurrency > 1 and looks_async_inside(target))
        if concurrency > 1 and not is_async:
            raise ConfigError(
                f"concurrency={concurrency} needs an 'async def' function, but "
                f"{getattr(target, '__name__', target)!r} is a plain one. "
                "Leave concurrency out and run more workers."
            )
        return PerMessage(target, concurrency, is_async=is_async)

    return decorate if func is None else decorate(func)


class Declaration(NamedTuple):
    """What ``stream_handler`` notes on a handler: its stream ("" = none is noted) and the settings
    that were given."""

    stream: str = ""
    settings: Mapping[str, Any] = MappingProxyType({})
    serializer: Serializer | None = None
    dlq_handler: DLQHandler | None = None
    error_hook: ErrorHook | None = None
    periodic: tuple[Periodic, ...] = ()
    middleware: tuple[Middleware, ...] = ()
    on_worker_start: WorkerHook | None = None
    on_worker_stop: WorkerHook | None = None
    workers: int | None = None
    nice: int = 0


BESIDE_SETTINGS = Declaration._fields[2:]


def stream_handler(
    stream: str,
    *,
    serializer: Serializer | None = None,
    dlq_handler: DLQHandler | None = None,
    error_hook: ErrorHook | None = None,
    periodic: Iterable[Periodic] = (),
    middleware: Iterable[Middleware] = (),
    on_worker_start: WorkerHook | None = None,
    on_worker_stop: WorkerHook | None = None,
    workers: int | None = None,
    nice: int = 0,
    **settings: Unpack[Settings],
) -> Callable[[F], F]:
    """Say which stream a pool feeds this handler from; the function stays callable as it is.

    >>> @stream_handler("orders", group="order_workers", max_deliveries=5)
    ... def handle(messages):
    ...     return [m.id for m in messages]

    stream: its name, without a prefix.
    settings: any ConsumerConfig field; ``group`` defaults to the stream's name + ``_workers``.
    serializer: the one that the producer uses; JSON by default.
    dlq_handler: called with each dead message and the reason; in the worker's event loop, but not
        always in the same thread. ``message.headers["rsq:last_error"]`` says what it died of.
    error_hook: ``f(exception, messages)``, plain or async, called there when the handler raised.
    periodic: Cron and Every that the pools of this handler push, each tick once over all hosts.
    middleware: functions around each call of the handler, the first one outermost; see
        redis_stream_queue.middleware.
    on_worker_start: called in each worker process before its first message; if it raises, the app
        could not be loaded. on_worker_stop: after its last one. Both plain or async, in the loop.
    workers: how many processes of a pool run it, if neither target nor ``--workers`` says so.
    nice: added to the niceness of these processes: with 10 they give way to other processes.
    Raises ConfigError naming a wrong setting.
    """
    if not isinstance(stream, str) or not stream:
        raise ConfigError(
            f"@stream_handler wants the stream's name first, as in @stream_handler('orders'), "
            f"got {stream!r}."
        )
    given: dict[str, Any] = {**settings}
    _check_known(given)
    check("workers", workers, Maybe(Whole(1)))
    check("nice", nice, Whole(-20, 19))
    ConsumerConfig(**{"group": f"{stream}_workers", **given})
    declaration = Declaration(
        stream,
        given,
        checked_serializer(serializer),
        _checked_call("dlq_handler", dlq_handler),
        _checked_call("error_hook", error_hook),
        _checked_periodic(tuple(periodic)),
        checked_middleware(middleware),
        _checked_hook("on_worker_start", on_worker_start),
        _checked_hook("on_worker_stop", on_worker_stop),
        workers,
        nice,
    )

    return lambda func: _declared(func, declaration)


def _declared(func: F, declaration: Declaration) -> F:
    check("the function of @stream_handler", func, Function())
    check_runs(func)
    check_fits(declaration.middleware, func.func if isinstance(func, PerMessage) else func)
    try:
        setattr(func, DECLARATION, declaration)
    except (AttributeError, TypeError):  # a bound method, say: it takes no attributes
        func = cast(F, functools.partial(func))
        setattr(func, DECLARATION, declaration)
    return func


def _check_known(settings: dict[str, Any]) -> None:
    known = {f.name for f in fields(ConsumerConfig)}
    if unknown := sorted(set(settings) - known):
        near = did_you_mean(unknown[0], known)
        raise ConfigError(
            f"a handler or a Queue does not know {', '.join(unknown)}.{near} "
            f"Known: {', '.join(sorted(known))}, {', '.join(BESIDE_SETTINGS)}."
        )


def _checked_periodic(periodic: tuple[Any, ...]) -> tuple[Periodic, ...]:
    if not periodic:
        return ()
    from .later.periodic import checked  # now: most handlers have none

    return checked(periodic)


def _checked_call(name: str, hook: H) -> H:
    check(name, hook, Maybe(Function()))
    return hook


def _checked_hook(name: str, hook: WorkerHook | None) -> WorkerHook | None:
    if hook is None:
        return None
    check(name, hook, Function("a function without arguments"))
    check_runs(hook)
    return hook


def declaration_of(handler: Any) -> Declaration:
    """What ``stream_handler`` has noted on a handler; an empty Declaration without it."""
    declared = getattr(handler, DECLARATION, None)
    return declared if isinstance(declared, Declaration) else Declaration()
