"""Import what the command line names: ``module:attribute``."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .delivery.invocation import check_runs
from .delivery.per_message import PerMessage
from .exceptions import ConfigError, RedisStreamError
from .handlers import HandlerSource
from .serializers import JsonSerializer, MsgpackSerializer, PickleSerializer, Serializer

LAST_LINES = 12
MOST_NAMES = 5  # of what a module has instead
IMPORTING = (__file__, importlib.__file__, "<frozen importlib")
OURS = (os.path.dirname(__file__) + os.sep, "<string>")  # that is a dataclass' __init__
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")
SIZED = re.compile(r"(.*)=(\d{1,9})\Z")

SERIALIZERS: dict[str, Callable[[], Serializer]] = {
    "json": JsonSerializer,
    "msgpack": MsgpackSerializer,
    "pickle": PickleSerializer,
}


class LoadError(RedisStreamError):
    """A target could not be imported; the text says why and what to do."""


def split_target(text: str) -> tuple[str, int | None]:
    """``module:function`` and how many workers (``=N``) are to run it, None = it does not say.

    Raises ConfigError.
    """
    sized = SIZED.match(text)
    target, workers = (sized[1], int(sized[2])) if sized else (text, None)
    if not TARGET.match(target):
        raise ConfigError(
            f"the target must be module:function, as in app:handler, got {text!r}. How many "
            "workers run it may follow, as in app:handler=2."
        )
    return target, workers


def load(target: str) -> Any:
    """The object that ``module:attribute`` names; the current directory is importable.

    Raises LoadError with the import error's own last lines.
    """
    module_name, _, path = target.partition(":")
    if not path:
        raise LoadError("it names a module alone: what in it? As in app:queue.")
    try:
        here = os.getcwd()
    except FileNotFoundError:
        raise LoadError(
            "the directory that the pool was started in has been removed. Put one in its place, or "
            "start the pool in another one."
        ) from None
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name + ".").startswith(error.name + "."):
            raise LoadError(
                f"there is no module {error.name!r} in {here} or on PYTHONPATH. Start the pool in "
                "the directory that holds it, or install it."
            ) from None
        raise LoadError(last_lines(f"importing {module_name!r} failed:", error)) from None
    except (Exception, SystemExit) as error:  # an import runs the app's own code
        raise LoadError(last_lines(f"importing {module_name!r} failed:", error)) from None
    for name in path.split("."):
        if not hasattr(found, name):
            raise LoadError(f"module {module_name!r} has no {path!r}. {_did_you_mean(found, name)}")
        found = getattr(found, name)
    return found


def load_handler(target: str) -> Any:
    """The handler that ``module:function`` or ``module:queue`` names.

    Raises LoadError, or ConfigError.
    """
    handler = load(target)
    if isinstance(handler, HandlerSource) and not isinstance(handler, type):
        return handler.stream_handler()
    if not callable(handler):
        raise LoadError(
            f"it is of type {type(handler).__name__}, not a function: a handler is called with "
            "a list of messages (or decorated with @per_message)."
        )
    if isinstance(handler, type):
        raise LoadError("it is a class, not a function: name an instance or a function.")
    check_runs(handler)
    _check_signature(handler)
    return handler


def _check_signature(handler: Callable[..., Any]) -> None:
    """Can it be called with one argument? Found out now, not by every message."""
    called = handler.func if isinstance(handler, PerMessage) else handler
    if not inspect.isroutine(called) or hasattr(called, "__wrapped__"):
        return  # a decorator may add arguments of its own
    try:
        signature = inspect.signature(called)
    except ValueError:  # it does not tell
        return
    try:
        signature.bind(object())
    except TypeError:
        what = "the message" if isinstance(handler, PerMessage) else "the list of messages"
        raise LoadError(
            f"its arguments are {signature}, but it is called with one, {what}."
        ) from None


def load_serializer(name: str) -> Serializer:
    """A serializer by its short name or as ``module:object``. Raises LoadError."""
    if name in SERIALIZERS:
        return SERIALIZERS[name]()
    found = load(name)
    if isinstance(found, type):
        found = found()
    if not isinstance(found, Serializer):
        raise LoadError(
            f"serializer {name!r} has no encode() and decode(): it must have both, or be one of "
            f"{', '.join(SERIALIZERS)}."
        )
    return found


def last_lines(what: str, error: BaseException) -> str:
    """What failed, and the end of the traceback: as far as the app's own code, where we refused."""
    shown = traceback.TracebackException.from_exception(error)
    frames = shown.stack
    while frames and frames[0].filename.startswith(IMPORTING):
        del frames[0]
    if isinstance(error, RedisStreamError):
        while frames and frames[-1].filename.startswith(OURS):
            del frames[-1]
    lines = "".join(shown.format()).rstrip().splitlines()
    return f"{what}\n" + "\n".join(lines[-LAST_LINES:])


def _did_you_mean(found: Any, name: str) -> str:
    import difflib

    own = getattr(found, "__name__", None)
    names = [
        n
        for n, value in vars(found).items()
        if not n.startswith("_")
        and (
            (callable(value) and getattr(value, "__module__", None) == own)
            or (isinstance(value, HandlerSource) and not isinstance(value, type))
        )
    ]
    if close := difflib.get_close_matches(name, names, 3):
        return f"Did you mean {', '.join(close)}?"
    return (
        f"It has {', '.join(names[:MOST_NAMES])}." if names else "Check the name after the colon."
    )
