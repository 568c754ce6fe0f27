"""The URL of a command: where it is found, and how a password in it is kept out of ``ps``.

A command that gets ``--url`` with a password starts itself again without it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
from click.core import ParameterSource

from .._options import CREDENTIAL, DEFAULT_URL, URL, URL_FILE
from ..exceptions import ConfigError
from .files import content
from .options import A_PATH, click_option

URL_FOUND = "url found in"  # key in click's context.meta: the file that the URL was read from
SOURCES = (
    ParameterSource.DEFAULT,
    ParameterSource.DEFAULT_MAP,
    ParameterSource.ENVIRONMENT,
    ParameterSource.COMMANDLINE,
)
IN_FILE = SOURCES.index(ParameterSource.DEFAULT_MAP)
ENVIRONMENT = "RSQ_URL"  # where the restarted command finds its URL; above REDIS_URL


def url_options(found: Callable[[str], None]) -> Callable[[Any], Any]:
    """A decorator that adds ``--url`` and ``--url-file``; the command gets ``url``.

    found: called with the URL at once, before other options are read.
    """

    def note_file(context: click.Context, _: click.Parameter, value: str | None) -> None:
        context.meta[URL_FILE.name] = value, _rank(context, "url_file")

    def choose(context: click.Context, _: click.Parameter, url: str | None) -> str:
        url_file, file_rank = context.meta.get(URL_FILE.name, (None, 0))
        rank = _rank(context, "url")
        try:
            if url is None or file_rank > rank or (rank == IN_FILE and not url_file):
                url, context.meta[URL_FOUND] = find_url(url, url_file)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        found(url)
        return url

    def add(command: Any) -> Any:
        # eager: the command may start itself again, and must do so before --file opens a pipe
        command = click_option(URL, is_eager=True, default=None, callback=choose)(command)
        return click_option(
            URL_FILE, is_eager=True, expose_value=False, callback=note_file, **A_PATH
        )(command)

    return add


def _rank(context: click.Context, name: str) -> int:
    """Rank of the place where an option was set: command line, then environment, then file."""
    source = context.get_parameter_source(name)
    return SOURCES.index(source) if source in SOURCES else 0


def find_url(url: str | None, url_file: str | None) -> tuple[str, str]:
    """The URL, and the file that it was found in ("" = none).

    It is read from ``url_file`` or from systemd's credential; else ``url`` itself counts, or the
    URL of a Redis on this machine if that is None. Raises ConfigError for a file that cannot be
    read or is empty.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if url_file is None and directory and (credential := Path(directory, CREDENTIAL)).exists():
        url_file = str(credential)
    if url_file is None:
        return DEFAULT_URL if url is None else url, ""
    try:
        found = content(Path(url_file)).strip()
    except ConfigError as error:
        raise ConfigError(f"the file with the URL ({url_file}) {error}") from None
    if not found:
        raise ConfigError(f"the file with the URL ({url_file}) is empty.")
    return found, url_file


def forget() -> None:
    """Remove the URL from the environment once it is read, so that no child inherits it."""
    os.environ.pop(ENVIRONMENT, None)


def hide_password(url: str, module: str) -> None:
    """Start this command again with its URL in the environment, if ``--url`` holds a password.

    The process is replaced (execv): its pid and all open files stay. Else this does nothing.
    url: the URL that this command uses. module: run with ``-m`` if it is not known how this process
    was started.
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
    """The arguments without --url, and the values of each --url."""
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
    """What is between the interpreter and the command's arguments: Python's options, the script."""
    count = len(sys.argv) - 1
    head, tail = sys.orig_argv[1:], []
    if count:
        head, tail = head[:-count], head[-count:]
    return head if head and tail == sys.argv[1:] else ["-m", module]
