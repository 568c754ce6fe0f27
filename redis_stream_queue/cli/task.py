"""rsq task: look at the tasks of a queue, push one."""

from __future__ import annotations

from typing import Any

import click

from .. import _exits
from .._exits import Failure
from .._loading import LoadError, load
from .._plain import json_line
from .._validate import did_you_mean
from ..tasks.queue import Queue
from .common import Redis, complaints, json_option, on_redis
from .output import say
from .tables import show_table

HEADING = ("task", "kind", "deliveries", "limit", "arguments")


@click.group()
def task() -> None:
    """Look at the tasks of a queue, push one.

    \b
      rsq task list app:queue
      rsq task push app:queue resize 42 width=640
    """


@task.command("list")
@click.argument("target")
@json_option
def list_(target: str, as_json: bool) -> None:
    """List the tasks of the queue TARGET (module:queue)."""
    with complaints():
        tasks = [_described(one) for one in _queue(target).tasks.values()]
    if as_json:
        say(json_line({"tasks": tasks}))
        return
    show_table(HEADING, [[one[name] or "" for name in HEADING] for one in tasks])


def _described(one: Any) -> dict[str, Any]:
    limit_s = one.rules.time_limit_s
    return {
        "task": one.name,
        "kind": "async" if one.is_async else "plain",
        "deliveries": one.rules.max_deliveries,
        "limit": None if limit_s is None else f"{limit_s:g} s",
        "arguments": one.bound.shown,
    }


@task.command("push")
@click.argument("target")
@click.argument("name")
@click.argument("arguments", nargs=-1)
@on_redis
def push(redis: Redis, target: str, name: str, arguments: tuple[str, ...]) -> None:
    """Push a call of the task NAME of the queue TARGET, and print its id.

    Each of ARGUMENTS is a JSON value, or else a text; KEY=VALUE is one by name.
    """
    queue = _queue(target)
    found = queue.tasks.get(name)
    if found is None:
        known = ", ".join(queue.tasks)
        raise Failure(
            _exits.USAGE,
            f"{target} has no task {name!r}.{did_you_mean(name, queue.tasks)} It has {known}.",
        )
    named = {
        key: value
        for key, _, value in (text.partition("=") for text in arguments if _is_named(text))
    }
    queue.send_to(redis.client)
    try:
        args, kwargs = found.bound.of_texts([a for a in arguments if not _is_named(a)], named)
        job = redis.run(lambda: found.push_packed(args, kwargs))
    except TypeError as error:
        raise Failure(_exits.USAGE, f"{error}.") from None
    say(job.id)


def _is_named(text: str) -> bool:
    name, found, _ = text.partition("=")
    return bool(found) and name.isidentifier()


def _queue(target: str) -> Queue:
    try:
        found = load(target)
    except LoadError as error:
        raise Failure(_exits.LOAD_FAILED, f"cannot load {target!r}: {error}") from None
    if not isinstance(found, Queue):
        raise Failure(
            _exits.LOAD_FAILED, f"{target} is of type {type(found).__name__}, not a Queue."
        )
    return found
