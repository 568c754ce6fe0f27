"""Options of a push: a delay or a date, no duplicates, a latest start. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import Any, Literal, NamedTuple, TypedDict

from .._validate import Choice, Maybe, Name, Number, Rule, check
from ..exceptions import ConfigError, Delay, whole_ms
from ..pushing.headers import Parts
from .ids import when

MOST_NAME = 1000  # characters of a dedup_id or a unique key
MOST_WINDOW_S = 366 * 86_400
DEFAULTS = {"dedup_id": None, "dedup_ttl_s": 86_400, "unique": None, "unique_until": "finished"}
NEEDED = {"dedup_ttl_s": "dedup_id", "unique_until": "unique", "expired": "ttl_ms"}  # without: none
ONE_ONLY = ("dedup_id", "unique")  # options whose value several messages cannot share
_RULES: dict[str, Rule] = {
    "dedup_id": Maybe(Name(MOST_NAME)),
    "dedup_ttl_s": Number(0, above=True, most=MOST_WINDOW_S),
    "unique": Maybe(Name(MOST_NAME)),
    "unique_until": Choice(("finished", "started")),
}


class PushExtras(TypedDict, total=False):
    """Options of every way of pushing.

    delay_ms: milliseconds, or a ``timedelta``, from now on; at most 366 days.
    at: a ``datetime`` with a time zone; what has passed is pushed at once.
    ttl_ms: milliseconds, or a ``timedelta``, after the push: not started later than that.
    expired: what is too late is acknowledged and counted (``"count"``), or a dead letter
        (``"dead"``).
    """

    delay_ms: Delay | None
    at: datetime | None
    ttl_ms: Delay | None
    expired: Literal["count", "dead"]


class ManyExtras(PushExtras, total=False):
    """Options of pushes of many messages.

    dedup_ids: one for each message, None = none; see OneExtras, also for dedup_ttl_s.
    """

    dedup_ids: Sequence[str | None] | None
    dedup_ttl_s: float


class OneExtras(PushExtras, total=False):
    """Options of pushes of one message.

    dedup_id: the same id again within dedup_ttl_s seconds (86,400 if not given) is not pushed, and
        gets the first one's id.
    unique: not pushed while a message with the same key is unfinished; needs the producer's group.
    unique_until: ``"finished"``, or ``"started"``: one may wait while another one runs.
    """

    dedup_id: str | None
    dedup_ttl_s: float
    unique: str | None
    unique_until: Literal["finished", "started"]


class Terms(NamedTuple):
    """Checked options of a push that the script PUSH_WITH carries out.

    when: see ids.when(). dedup_id: "" = none. window_ms: how long it counts. unique: "" = none,
    else the key with its group, see PUSH_WITH. until_started: the unique key is free again once
    its message has started.
    """

    when: str = ""
    dedup_id: str = ""
    window_ms: int = 0
    unique: str = ""
    until_started: bool = False

    @property
    def scheduled(self) -> bool:
        """Has the push a delay or a date?"""
        return bool(self.when)


class PushedId(str):
    """Id of a pushed message: a ``str`` with one more attribute.

    text: the id. duplicate: nothing was added, and this is the id of the earlier message with the
    same ``dedup_id`` or ``unique`` key.
    """

    duplicate: bool

    def __new__(cls, text: str, duplicate: bool = False) -> PushedId:
        made = super().__new__(cls, text)
        made.duplicate = duplicate
        return made


class Asked(NamedTuple):
    """A message to push with terms of its own. parts: its headers."""

    payload: bytes
    parts: Parts
    terms: Terms

    def script_args(self, window: int) -> list[Any]:
        """Arguments of PUSH_WITH for this message. window: index of its dedup key, 0 = none."""
        terms = self.terms
        parts = self.parts + (("rsq:unique", terms.unique) if terms.unique else ())
        headers = json.dumps(parts, ensure_ascii=False, separators=(",", ":")) if parts else ""
        return [
            terms.when,
            window,
            terms.window_ms,
            terms.unique,
            int(not terms.until_started),
            headers,
            self.payload,
        ]


def expiry_parts(extras: OneExtras | PushExtras) -> Parts:
    """The headers that say until when a message may start. Raises ConfigError for wrong options."""
    _check_needed(extras, "expired")
    ttl_ms, expired = extras.get("ttl_ms"), extras.get("expired", "count")
    check("expired", expired, Choice(("count", "dead")))
    if ttl_ms is None:
        return ()
    left_ms = whole_ms(ttl_ms, "ttl_ms")
    if not left_ms:
        raise ConfigError("ttl_ms must be above 0, got 0: nothing can start in no time.")
    dead = ("rsq:expired", "dead") if expired == "dead" else ()
    return ("rsq:ttl", str(left_ms), *dead)


def _check_needed(extras: OneExtras | PushExtras, *options: str) -> None:
    """Raise ConfigError for an option that does nothing without another one, which is missing."""
    for name in options:
        if name in extras and (needed := NEEDED[name]) not in extras:
            raise ConfigError(
                f"{name} does nothing without {needed}: give both, or leave {name} out."
            )


def check_shared(extras: Mapping[str, Any]) -> None:
    """Raise ConfigError for an option that the messages of one push_many() cannot share."""
    if asked := [name for name in ONE_ONLY if extras.get(name)]:
        raise ConfigError(
            f"{asked[0]} is for one push, not for push_many(): of messages that share it only the "
            "first would be added. Push them one by one, or give dedup_ids, one for each."
        )


def terms_of_each(
    extras: OneExtras | ManyExtras, group: str | None, count: int, *, one: bool
) -> list[Terms] | None:
    """The terms of each of ``count`` messages; None if no option needs the script.

    one: True for a call that pushes a single message. Raises ConfigError for wrong values, and
    TypeError for an unknown option.
    """
    shared: Any = dict(extras)
    if not one:
        check_shared(shared)
    dedup_ids = shared.pop("dedup_ids", None)
    if dedup_ids is None:
        if "dedup_ids" in extras:
            shared.setdefault("dedup_id", None)
        terms = terms_of(shared, group)
        return [terms] * count if terms else None
    is_list = isinstance(dedup_ids, Sequence) and not isinstance(dedup_ids, str | bytes)
    if not is_list or len(dedup_ids) != count:
        raise ConfigError(
            f"dedup_ids must be a list with one text for each of the {count} messages, got "
            f"{dedup_ids!r:.80}."
        )
    its_own: list[Any] = [{**shared, "dedup_id": one} for one in dedup_ids]
    return [terms_of(one, group) or Terms() for one in its_own]


def terms_of(extras: OneExtras | PushExtras, group: str | None) -> Terms | None:
    """The terms for these options; None if no option needs the script.

    Raises ConfigError for wrong values, and TypeError for an unknown option.
    """
    asked: Any = extras
    if unknown := sorted(asked.keys() - OneExtras.__annotations__.keys()):
        raise TypeError(f"push() got an unexpected keyword argument {unknown[0]!r}")
    _check_needed(extras, "dedup_ttl_s", "unique_until")
    given = {**DEFAULTS, **asked}
    for name, rule in _RULES.items():
        check(name, given[name], rule)
    dedup_id, unique = given["dedup_id"] or "", given["unique"] or ""
    if unique and not group:
        raise ConfigError(
            "unique needs a group, which tells what is finished: StreamProducer(client, stream, "
            "group='workers')."
        )
    terms = Terms(
        when(asked.get("delay_ms"), asked.get("at")),
        dedup_id,
        ceil(given["dedup_ttl_s"] * 1000) if dedup_id else 0,
        f"{len((group or '').encode())}:{group}:{unique}" if unique else "",
        given["unique_until"] == "started",
    )
    return terms if terms.scheduled or dedup_id or unique else None
