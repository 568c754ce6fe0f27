"""One wording for wrong settings: a rule knows which values fit, and says what a value must be.

>>> check("batch_size", 0, Whole(1))
ConfigError: batch_size must be a whole number of 1 or more, got 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from math import inf
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar, overload

from ._plain import is_url, without_passwords
from .exceptions import ConfigError

T = TypeVar("T")

_HALF = re.compile("[\ud800-\udfff]")


class Rule(Protocol):
    """What a value must be; ``str(rule)`` says it."""

    def fits(self, value: object) -> bool:
        """Is it so?"""


class Whole(NamedTuple):
    """A whole number from ``least`` to ``most`` (None = however great)."""

    least: int
    most: int | None = None

    def fits(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return self.least <= value and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        if self.most is None:
            return f"a whole number of {self.least} or more"
        return f"a whole number from {self.least} to {self.most:,}"


class Number(NamedTuple):
    """A number of ``least`` (-inf = any) to ``most``. above: not ``least`` itself. unit: of what,
    where the name does not say it."""

    least: float = 0
    above: bool = False
    most: float = inf
    unit: str = ""

    def fits(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        enough = value > self.least if self.above else value >= self.least
        return enough and value <= self.most  # (nan is neither)

    def __str__(self) -> str:
        what = f"a number{self.unit and f' of {self.unit}'}"
        most = "" if self.most == inf else f", {self.most:,.0f} at most"
        if self.least == -inf:
            return f"{what}{most}"
        least = f"above {self.least:g}" if self.above else f"of {self.least:g} or more"
        return f"{what} {least}{most}"


class Text(NamedTuple):
    """Text that is not the URL of a Redis. empty: it may be. secret: it may be such a URL, and what
    came instead is not shown."""

    empty: bool = False
    secret: bool = False

    def fits(self, value: object) -> bool:
        if not isinstance(value, str) or not (value or self.empty):
            return False
        return self.secret or not is_url(value)

    def __str__(self) -> str:
        return "text" if self.empty else "a non-empty text"


class Texts:
    """One non-empty text or several."""

    def fits(self, value: object) -> bool:
        several = list(value) if isinstance(value, list | tuple) else [value]
        return bool(several) and all(isinstance(text, str) and text for text in several)

    def __str__(self) -> str:
        return "a non-empty text or a list of them"


class Name(NamedTuple):
    """Text of 1 to ``most`` characters, which UTF-8 can carry. printable: without control
    characters and line ends."""

    most: int
    printable: bool = False

    def fits(self, value: object) -> bool:
        if not isinstance(value, str) or not 0 < len(value) <= self.most:
            return False
        return value.isprintable() if self.printable else not _HALF.search(value)

    def __str__(self) -> str:
        if self.printable:
            return f"a printable text of 1 to {self.most} characters"
        return f"a text of 1 to {self.most} characters, none of them half of a surrogate pair"


class Moment:
    """A datetime that says which moment it is on every machine."""

    def fits(self, value: object) -> bool:
        return isinstance(value, datetime) and value.utcoffset() is not None

    def __str__(self) -> str:
        return "a datetime with a time zone (tzinfo=ZoneInfo('Europe/Berlin'), or datetime.UTC)"


class Function(NamedTuple):
    """Something that can be called. what: it in words."""

    what: str = "callable"

    def fits(self, value: object) -> bool:
        return callable(value)

    def __str__(self) -> str:
        return self.what


class Form(NamedTuple):
    """Text that this regular expression matches as a whole. what: it in words."""

    pattern: str
    what: str

    def fits(self, value: object) -> bool:
        return isinstance(value, str) and re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return self.what


class Switch:
    """True or False."""

    def fits(self, value: object) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


class Choice(NamedTuple):
    """One of these texts. any_case: in capitals, too."""

    names: tuple[str, ...]
    any_case: bool = False

    def fits(self, value: object) -> bool:
        known = isinstance(value, str) and (value.lower() if self.any_case else value)
        return known in self.names

    def __str__(self) -> str:
        *others, last = map(repr, self.names)
        return f"{', '.join(others)} or {last}"


class Table:
    """Names with values."""

    def fits(self, value: object) -> bool:
        return isinstance(value, dict)

    def __str__(self) -> str:
        return "a table"


class Maybe(NamedTuple):
    """What the rule says, or None. none: what that means, where it has to be said."""

    rule: Rule
    none: str = ""

    def fits(self, value: object) -> bool:
        return value is None or self.rule.fits(value)

    def __str__(self) -> str:
        return f"{self.rule}{self.none and f', or None for {self.none}'}"


class Settled(Generic[T]):
    """An attribute that is assigned once, when its object is made; later it would do nothing."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, holder: None, owner: type) -> Self: ...
    @overload
    def __get__(self, holder: object, owner: type) -> T: ...
    def __get__(self, holder: object | None, owner: type) -> Any:
        if holder is None:
            return self
        try:
            return vars(holder)[self._name]
        except KeyError:
            raise AttributeError(f"{owner.__name__} has no {self._name} yet") from None

    def __set__(self, holder: object, value: T) -> None:
        if self._name in vars(holder):
            kind = type(holder).__name__
            raise AttributeError(
                f"{self._name} of a {kind} is settled when it is made: make another {kind}."
            )
        vars(holder)[self._name] = value


def check(name: str, value: object, rule: Rule) -> None:
    """Raise ConfigError unless the value fits."""
    if not rule.fits(value):
        inner = rule.rule if isinstance(rule, Maybe) else rule
        secret = isinstance(inner, Text) and inner.secret
        came = f"a {type(value).__name__}" if secret else shown(value)
        raise ConfigError(f"{name} must be {rule}, got {came}.{_for_url(value)}")


def _for_url(value: object) -> str:
    if not isinstance(value, str) or not is_url(value):
        return ""
    return " A URL is for --url, REDIS_URL or StreamClient.from_url()."


def shown(value: object) -> str:
    """Its repr without passwords, cut; its type where it has none (an integer of 5,000 digits)."""
    try:
        return f"{without_passwords(repr(value)):.80}"
    except Exception:  # whatever its own code raises
        return f"a {type(value).__name__}"


def check_fields(settings: object, rules: Mapping[str, Rule]) -> None:
    """The same for attributes of these names."""
    for name, rule in rules.items():
        check(name, getattr(settings, name), rule)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'group'?``, or nothing where no known name is close."""
    import difflib  # for an error only: whatever starts a pool is loaded before its first message

    close = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {close[0]!r}?" if close else ""
