"""What a push may ask for beyond being added now: a delay, once only, not too late. Pure."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypedDict

from ..exceptions import ConfigError, Delay, whole_ms
from ..pushing.headers import Parts
from .ids import when

MOST_NAME = 1000  # characters of a dedup_id or a unique key
DEDUP_TTL_S = 86_400.0
MOST_WINDOW_MS = 366 * 86_400_000


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
    """Extras, checked.

    when: see ids.when(). dedup_id, unique: "" = not asked for; the unique key is one of its group,
    see PUSH_WITH. window_ms: of the dedup_id.
    until_started: the unique key is free again once its message has started.
    """

    when: str = ""
    dedup_id: str = ""
    window_ms: int = 0
    unique: str = ""
    until_started: bool = False

    @property
    def scheduled(self) -> bool:
        """Is it for later?"""
        return bool(self.when)


class PushedId(str):
    """Id of a pushed message: a ``str`` with one attribute more.

    text: the id. duplicate: it is the id of an earlier one, because this one would have been there
    twice (``dedup_id``, ``unique``): nothing was added.
    """

    duplicate: bool

    def __new__(cls, text: str, duplicate: bool = False) -> PushedId:
        made = super().__new__(cls, text)
        made.duplicate = duplicate
        return made


class Asked(NamedTuple):
    """A message to push under terms of its own."""

    payload: bytes
    parts: Parts
    terms: Terms

    def script_args(self, window: int) -> list[Any]:
        """Arguments of PUSH_WITH; window: index of its dedup key."""
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
    """Headers that say until when a message may start. Raises ConfigError."""
    ttl_ms, expired = extras.get("ttl_ms"), extras.get("expired", "count")
    if expired not in ("count", "dead"):
        raise ConfigError(f"expired must be 'count' or 'dead', got {expired!r:.80}.")
    if ttl_ms is None:
        return ()
    dead = ("rsq:expired", "dead") if expired == "dead" else ()
    return ("rsq:ttl", str(whole_ms(ttl_ms, "ttl_ms")), *dead)


def terms_of(extras: OneExtras | PushExtras, group: str | None) -> Terms | None:
    """The terms, None if nothing is asked for.

    Raises ConfigError for wrong values, and TypeError for an option that there is not.
    """
    asked: Any = extras
    if unknown := sorted(asked.keys() - OneExtras.__annotations__.keys()):
        raise TypeError(f"push() got an unexpected keyword argument {unknown[0]!r}")
    dedup_id = _name("dedup_id", asked.get("dedup_id"))
    unique = _name("unique", asked.get("unique"))
    until = asked.get("unique_until", "finished")
    if until not in ("finished", "started"):
        raise ConfigError(f"unique_until must be 'finished' or 'started', got {until!r:.80}.")
    if unique and not group:
        raise ConfigError(
            "unique needs a group, which tells what is finished: StreamProducer(client, stream, "
            "group='workers')."
        )
    terms = Terms(
        when(asked.get("delay_ms"), asked.get("at")),
        dedup_id,
        _window_ms(asked.get("dedup_ttl_s", DEDUP_TTL_S)) if dedup_id else 0,
        f"{len((group or '').encode())}:{group}:{unique}" if unique else "",
        until == "started",
    )
    return terms if terms.scheduled or dedup_id or unique else None


def _name(name: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not 0 < len(value) <= MOST_NAME:
        raise ConfigError(
            f"{name} must be a text of 1 to {MOST_NAME} characters, got {value!r:.80}."
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} holds half of a surrogate pair, which is no text.") from None
    return value


def _window_ms(seconds: object) -> int:
    try:
        ms = whole_ms(seconds * 1000, "dedup_ttl_s") if isinstance(seconds, int | float) else 0
    except ConfigError:
        ms = 0
    if ms < 1:
        raise ConfigError(
            f"dedup_ttl_s must be seconds above 0, 366 days at most, got {seconds!r:.80}."
        )
    return ms
