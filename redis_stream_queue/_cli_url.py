"""Keep a password out of ``ps``: a command given ``--url`` with one starts again without it."""

from __future__ import annotations

import os
import sys
from urllib.parse import unquote

ENVIRONMENT = "RSQ_URL"  # where the restarted command finds its URL; above REDIS_URL


def forget() -> None:
    """It is read: what this process starts need not inherit it."""
    os.environ.pop(ENVIRONMENT, None)


def hide_password(url: str, module: str) -> None:
    """Where this URL holds a password and stands on the command line, replace this process by the
    same one with the URL in the environment. The pid and all open files stay.

    url: what the command line was understood as. module: to run with ``-m``, should the way this
    process was started not be known.
    """
    arguments, found = _without_url(sys.argv[1:])
    if url not in found or not any(map(_may_hold_password, found)):
        return
    os.environ[ENVIRONMENT] = url
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *_how_it_was_started(module), *arguments])


def _may_hold_password(url: str) -> bool:
    return "@" in url or "password" in unquote(url).lower()


def _without_url(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(the other arguments, the values of every --url)."""
    others: list[str] = []
    urls: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--":
            others += [argument, *rest]
        elif name == "--url":
            urls.append(value if equals else next(rest, ""))
        else:
            others.append(argument)
    return others, urls


def _how_it_was_started(module: str) -> list[str]:
    """What stood between the interpreter and the arguments: its own options and the script."""
    count = len(sys.argv) - 1
    head, tail = sys.orig_argv[1:], []
    if count:
        head, tail = head[:-count], head[-count:]
    return head if head and tail == sys.argv[1:] else ["-m", module]
