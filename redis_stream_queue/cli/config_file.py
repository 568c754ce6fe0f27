"""Options out of a TOML file, which flags and environment override; and where each came from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .._options import CONFIG, TARGET, URL_FILE, Option
from .._plain import without_passwords
from .._validate import Table, Texts, check, did_you_mean
from ..connection.endpoint import endpoint_from_url
from ..exceptions import ConfigError
from .files import content
from .options import A_PATH, click_option
from .output import say
from .url import URL_FOUND

OWN = "rsq.toml"
SHARED = "pyproject.toml"
ELSEWHERE = {  # what other programs call our options
    "concurrency": "workers",
    "processes": "workers",
    "queue": "stream",
    "queues": "stream",
    "timeout": "time_limit",
    "max_retries": "max_deliveries",
}
NAME = re.compile(rb"\brsq\b")  # of our table; a pyproject.toml without it is not ours to read


def config_option(options: Iterable[Option], *, anywhere: bool = False) -> Callable[[Any], Any]:
    """A decorator that adds ``--config``: values in that file become defaults of these options.

    The file may have more options: one file serves rsq-pool and rsq. anywhere: the command may be
    called in a directory of another user, so a file that --config does not name has to belong to
    this user or to root.
    """

    def read(context: click.Context, _: click.Parameter, named: str | None) -> None:
        path = _found(named)
        wanted = {option.key: option for option in options}
        try:
            if path is None or (anywhere and named is None and not _is_ours(path)):
                return
            context.default_map = dict(_checked(_read(path, named), wanted))
        except ConfigError as error:
            raise click.UsageError(f"{path}: {error}") from None
        context.meta[CONFIG.name] = str(path)

    # eager, and added above --url: the options of the URL need the values of the file
    return click_option(CONFIG, is_eager=True, expose_value=False, callback=read, **A_PATH)


def _found(named: str | None) -> Path | None:
    """The file that --config names, else one in the current directory, else None."""
    if named is not None:
        return Path(named)
    if os.path.lexists(OWN):  # also a link that leads nowhere: its options would be missed
        return Path(OWN)
    try:
        raw = Path(SHARED).read_bytes() if Path(SHARED).is_file() else b""
    except OSError:
        return None
    return Path(SHARED) if NAME.search(raw) else None


def _is_ours(path: Path) -> bool:
    """Does the file belong to this user or to root? If not, a line says so. Raises ConfigError."""
    try:
        owner = path.stat().st_uid
    except OSError as error:  # a link that leads nowhere
        raise ConfigError(f"cannot be read: {error.strerror}.") from None
    if owner in (0, os.geteuid()):
        return True
    say(f"{path} belongs to another user and is left out; --config {path} uses it", err=True)
    return False


def _read(path: Path, named: str | None) -> dict[str, Any]:
    """The file's options. named: what --config names. Raises ConfigError."""
    import tomllib  # now: most pools have no such file, and start faster without it

    try:
        said = tomllib.loads(content(path) if named else content(path, pipe_s=0))
    except ConfigError:  # (which is a ValueError)
        raise
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond Python's limits
        raise ConfigError(f"is no TOML: {str(error).rstrip('.')}.") from None
    if path.name != SHARED:
        return said
    tools = said.get("tool")
    table = tools.get("rsq", {}) if isinstance(tools, dict) else {}
    check("[tool.rsq]", table, Table())
    return dict(table)


def _checked(said: dict[str, Any], wanted: dict[str, Option]) -> Iterator[tuple[str, Any]]:
    """(name, value) of each option that is wanted.

    Raises ConfigError, which names the key, for a wrong value or a key that no command has.
    """
    from .._pool_config import OPTIONS  # now: rsq starts faster without it

    known = {*wanted, *(option.key for option in (TARGET, URL_FILE, *OPTIONS))}
    for key, value in said.items():
        if key not in known:
            hint = did_you_mean(ELSEWHERE.get(key, key), known)
            hint = hint or " rsq-pool --help names the options."
            if key == "tool":
                hint = " [tool.rsq] is for pyproject.toml; here options stand by themselves."
            raise ConfigError(f"{key!r} is no option of rsq-pool.{hint}")
        if key not in wanted:
            continue
        option = wanted[key]
        if not (option.none and value == option.none):
            check(key, value, option.rule)
        if isinstance(option.rule, Texts) and isinstance(value, str):
            value = value.split()
        yield option.name, value


def lines_of(context: click.Context, options: Iterable[Option]) -> Iterator[str]:
    """Every option as a line of such a file, and where its value came from; no secrets.

    Raises ConfigError for a URL that cannot be read.
    """
    for option in options:
        value, source = context.params[option.name], _source(context, option)
        if option.name == "url":
            value, source = _without_secrets(value), context.meta.get(URL_FOUND) or source
        if isinstance(option.rule, Texts) and len(value) == 1:
            [value] = value
        if value is None and option.none:
            value = option.none
        if value is None:
            yield f"# {option.key}: {option.shown.replace('`', '')}"
        else:
            said = without_passwords(json.dumps(value, ensure_ascii=False))
            yield f"{option.key} = {said}  # {source}"


def _source(context: click.Context, option: Option) -> str:
    source = context.get_parameter_source(option.name)
    if source is ParameterSource.COMMANDLINE:
        return "command line"
    if source is ParameterSource.ENVIRONMENT:
        return next(filter(os.environ.get, option.environment), "environment")
    if source is ParameterSource.DEFAULT_MAP:
        return str(context.meta[CONFIG.name])
    return "default"


def _without_secrets(url: str) -> str:
    return url if url.startswith("embedded://") else str(endpoint_from_url(url))
