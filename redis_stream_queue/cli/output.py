"""How our commands print: visible characters only, also where others wrote the text."""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator
from typing import Any

import click

from .._plain import plain, without_passwords

INDENT = "    "

# At its end Python would search all objects for garbage, which takes as long as a whole command.
atexit.register(gc.freeze)


def say(*lines: str, err: bool = False) -> None:
    """Print lines; a line break inside one is made visible. err: on standard error."""
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "\n".join(map(plain, lines))
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), file=stream)


def complain(program: str, text: str) -> None:
    """Print on standard error what is wrong; all lines but the first are indented."""
    first, *others = f"{program}: {without_passwords(text)}".split("\n")
    say(first, *(INDENT + line for line in others), err=True)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:  # its text quotes arguments of the command line
        error.message = plain(without_passwords(error.message))  # type: ignore[misc]
        raise


class Command(click.Command):
    """A command whose usage errors have visible characters only, too."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _plain_errors():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _plain_errors():
            return super().invoke(ctx)


class Group(Command, click.Group):
    """Such a command with subcommands."""
