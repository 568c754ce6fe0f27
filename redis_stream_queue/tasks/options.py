"""Options of one task, checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from .._validate import Form, Maybe, Number, Rule, Whole, check, did_you_mean
from ..delivery.rules import Errors
from ..exceptions import ConfigError
from ..later.extras import OneExtras
from .wire import MOST_NAME

MOST_RESULT_S = 366 * 86_400  # what delivery/answers.py takes
NAME = Form(rf"[^\s:]{{1,{MOST_NAME}}}", f"a text of 1 to {MOST_NAME} characters without spaces")


class TaskOptions(TypedDict, total=False):
    """Options of ``@queue.task``; what is not given is as the pool has it.

    name: of the task; None = the name of its function.
    max_deliveries: deliveries before a call is dead, crashes included. retry_delay_ms,
        retry_max_delay_ms: before the first retry, and the longest; it doubles in between.
    retry_on: a call is tried again only after these errors; after others it is dead at once.
    no_retry_on: after these errors it is dead at once.
    time_limit_s: seconds after which its worker is killed. soft_time_limit_s: seconds after which
        SoftTimeLimitExceeded is raised in it.
    result_ttl_s: how long the value that it returns is kept for ``job.result()``; None = not.
    concurrency: how many calls of an async task run side by side in a worker.
    """

    name: str | None
    max_deliveries: int | None
    retry_delay_ms: int | None
    retry_max_delay_ms: int | None
    retry_on: type[BaseException] | tuple[type[BaseException], ...]
    no_retry_on: type[BaseException] | tuple[type[BaseException], ...]
    time_limit_s: float | None
    soft_time_limit_s: float | None
    result_ttl_s: float | None
    concurrency: int


class PushOptions(OneExtras, total=False):
    """Options of one push, see ``StreamProducer.push``."""

    headers: Mapping[str, str]
    timeout_s: float


class NamedPushOptions(PushOptions, total=False):
    """Options of one push by the name of a task.

    result_ttl_s: see TaskOptions; None = as the task says, where its code is at hand.
    """

    result_ttl_s: float | None


CHECKED: Mapping[str, Rule] = {
    "name": Maybe(NAME),
    "max_deliveries": Maybe(Whole(1)),
    "retry_delay_ms": Maybe(Whole(0)),
    "retry_max_delay_ms": Maybe(Whole(0)),
    "time_limit_s": Maybe(Number(0, above=True)),
    "soft_time_limit_s": Maybe(Number(0, above=True)),
    "result_ttl_s": Maybe(Number(0, above=True, most=MOST_RESULT_S)),
    "concurrency": Whole(1),
}


@dataclass(frozen=True)
class Options:
    """The same, checked."""

    name: str | None = None
    max_deliveries: int | None = None
    retry_delay_ms: int | None = None
    retry_max_delay_ms: int | None = None
    retry_on: Errors = (BaseException,)
    no_retry_on: Errors = ()
    time_limit_s: float | None = None
    soft_time_limit_s: float | None = None
    result_ttl_s: float | None = None
    concurrency: int = 1


def checked(given: Mapping[str, Any]) -> Options:
    """Raises ConfigError naming what is wrong."""
    if unknown := sorted(given.keys() - TaskOptions.__annotations__.keys()):
        raise no_option("@queue.task", unknown[0], TaskOptions, PushOptions)
    values = dict(given)
    for name, value in given.items():
        if name in CHECKED:
            check(name, value, CHECKED[name])
        else:
            values[name] = _errors(name, value)
    made = Options(**values)
    soft, hard = made.soft_time_limit_s, made.time_limit_s
    if soft is not None and hard is not None and soft >= hard:
        raise ConfigError(
            f"soft_time_limit_s ({soft:g}) must be below time_limit_s ({hard:g}), or the task "
            "would be killed before it is asked."
        )
    first, longest = made.retry_delay_ms, made.retry_max_delay_ms
    if first is not None and longest is not None and longest < first:
        raise ConfigError(
            f"retry_max_delay_ms ({longest}) must not be below retry_delay_ms ({first})."
        )
    return made


# How other libraries call what is here, by the kind of thing that is asked for it.
ELSEWHERE = {
    "task": {
        **dict.fromkeys(("delay", "send", "enqueue"), "push_sync(...), or await push(...)"),
        **dict.fromkeys(
            ("apply_async", "send_with_options", "enqueue_in", "enqueue_at"),
            "options(delay_ms=60_000).push_sync(...)",
        ),
        **dict.fromkeys(
            ("s", "si", "signature", "chunks", "map", "starmap", "message"),
            "push_many_sync([(1,), (2,)]), or a push of the next step at the end of a task",
        ),
        **dict.fromkeys(("retry", "request"), "raise Retry(...), and current() in the task"),
    },
    "job": {
        **dict.fromkeys(("get", "wait", "get_result", "return_value"), "result_sync(timeout_s=5)"),
        **dict.fromkeys(("state", "get_status", "ready", "successful", "failed"), "status_sync()"),
        **dict.fromkeys(("revoke", "delete"), "cancel_sync()"),
    },
}


def not_here(kind: str, shown: str, name: str) -> AttributeError:
    """A text that says what to use instead of an attribute that a task or a job does not have."""
    instead = ELSEWHERE[kind].get(name)
    hint = f": here it is {instead}" if instead else ""
    return AttributeError(f"{shown} has no attribute {name!r}{hint}")


def no_option(place: str, name: str, own: type, others: type) -> ConfigError:
    """place: has no option of this name, but its own; others are had elsewhere."""
    known = own.__annotations__
    if name in others.__annotations__:
        where = "@queue.task(...)" if others is TaskOptions else "one push: task.options(...)"
        hint = f" It is an option of {where}."
    else:
        hint = did_you_mean(name, known) or f" Known: {', '.join(sorted(known))}."
    return ConfigError(f"{place} has no option {name!r}.{hint}")


def _errors(name: str, value: Any) -> Errors:
    errors = value if isinstance(value, tuple | list) else (value,)
    for one in errors:
        if not isinstance(one, type) or not issubclass(one, BaseException):
            raise ConfigError(
                f"{name} must be exception classes, as in {name}=(OSError,), got {one!r:.80}."
            )
    return tuple(errors)
