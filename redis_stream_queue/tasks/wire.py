"""The form of a call in the stream: its payload and its headers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TASK = "rsq:task"  # header: the name once more, for programs that cannot decode the payload
MOST_NAME = 200
EMPTY: Mapping[str, Any] = {}


class Call(NamedTuple):
    """A call in its packed form: the name of the task, and its packed arguments."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


Payload = dict[str, Any]  # of a call, as the serializer gets it


def payload_of(task: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = EMPTY) -> Payload:
    """The payload of a call, its arguments packed; what is empty is left out."""
    payload: Payload = {"task": task}
    if args:
        payload["args"] = args
    if kwargs:
        payload["kwargs"] = kwargs
    return payload


def call_in(data: Any) -> Call | str:
    """The call in a decoded payload, or a text that says why it is none."""
    if not isinstance(data, dict) or not isinstance(data.get("task"), str):
        return (
            "the payload names no task: expected {'task': name, 'args': [...], 'kwargs': {...}}, "
            f"got {data!r:.200}"
        )
    args, kwargs = data.get("args", []), data.get("kwargs", {})
    if not isinstance(args, list | tuple) or not isinstance(kwargs, dict):
        return f"the arguments of {data['task']!r:.200} are no list and no object"
    return Call(data["task"], list(args), kwargs)
