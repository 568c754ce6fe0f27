"""Options of a command line, made from their descriptions in ``_options``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .._options import Option
from .._validate import Choice, Maybe, Number, Rule, Switch, Whole

# For click_option(): a shell completes it. (The type itself would look at the file.)
A_PATH: dict[str, Any] = {"shell_complete": click.Path().shell_complete}


class _WordOr(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A whole number, or the word that stands for None."""

    name = "text"

    def __init__(self, word: str, least: int) -> None:
        self.word, self.least = word, least

    def convert(self, value: Any, param: Any, ctx: Any) -> int | None:
        text = str(value)
        if text == self.word:
            return None
        if text.isdecimal() and int(text) >= self.least:
            return int(text)
        wanted = f"a whole number of {self.least} or more, or {self.word!r}"
        return self.fail(f"expected {wanted}, got {text!r}.", param, ctx)


def click_type(rule: Rule) -> click.ParamType[Any]:
    """The type of click for this rule; PoolConfig checks what click cannot."""
    if isinstance(rule, Maybe):
        return click_type(rule.rule)
    if isinstance(rule, Whole):
        return click.IntRange(min=rule.least)
    if isinstance(rule, Number):
        return click.FloatRange(min=rule.least, min_open=rule.above)
    if isinstance(rule, Choice):
        return click.Choice(rule.names, case_sensitive=not rule.any_case)
    return click.STRING


def click_option(option: Option, **others: Any) -> Callable[[Any], Any]:
    """click's decorator for this option. others: further arguments of click.option()."""
    inner = option.rule.rule if isinstance(option.rule, Maybe) else option.rule
    arguments: dict[str, Any] = {
        "envvar": option.environment,
        "default": option.default,
        "help": option.help.replace("`", ""),
    }
    if isinstance(inner, Switch):
        arguments["is_flag"] = True
    elif option.none and isinstance(inner, Whole):
        arguments |= {"type": _WordOr(option.none, inner.least), "default": option.none}
    else:
        arguments["type"] = click_type(option.rule)
    shown = option.shown.replace("`", "")
    if option.default is None and shown and not option.none:
        arguments["help"] += f"  [default: {shown}]"
    elif shown:
        arguments["show_default"] = shown
    flag = option.flag
    if option.default is True:
        flag += f"/--no-{flag.removeprefix('--')}"
    return click.option(flag, option.name, **(arguments | others))
