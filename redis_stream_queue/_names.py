"""Names: Redis keys, consumers, parking consumers."""

from __future__ import annotations

import hashlib
import secrets
import string

from redis.crc import key_slot

from .exceptions import ClusterSlotError

MAX_WORKER_NAME = 64
MAX_HOST = 40
SUSPECT_DUE_MS = 2  # what waits under this D may have killed a worker: it is delivered alone
# What stands beside a stream, and as what.
BESIDE = {
    "later": "zset",
    "later-seq": "string",
    "bell": "stream",
    "control": "hash",
    "unique": "hash",
    "cron": "hash",
    "retried": "hash",
    "cancelled": "zset",
}
_ALPHABET = string.ascii_lowercase + string.digits
MOST_DUE_MS = 1 << 36  # two years: nothing is parked for longer
_DUE_MS = {str(1 << exponent): 1 << exponent for exponent in range(MOST_DUE_MS.bit_length())}


def prefixed(prefix: str, stream: str) -> str:
    """Key of a stream: ``<prefix>_<stream>``, or the name itself without a prefix."""
    return f"{prefix}_{stream}" if prefix else stream


def default_dlq(stream: str, prefix: str = "", *, cluster: bool = False) -> str:
    """Name of the dead-letter stream a pool uses when none was given.

    On a cluster it must share the stream's slot, so a stream without a hash tag gets literal
    braces around its whole key.
    """
    if not cluster or has_hash_tag(prefixed(prefix, stream)):
        return f"{stream}_dlq"
    return f"{{{prefixed(prefix, stream)}}}_dlq"


def has_hash_tag(key: str) -> bool:
    """Does a part in braces alone decide the key's slot?"""
    start = key.find("{")
    return start >= 0 and key.find("}", start) > start + 1


def beside(key: str, name: str) -> str:
    """Key of this name beside the stream ``key``."""
    # ':' and '|' apart, or the keys of "orders" and of "{orders}" would be the same.
    return f"{key}|{name}" if has_hash_tag(key) else f"{{{key}}}:{name}"


def kind_of(key: str) -> str:
    """What this key should hold, as TYPE says it; a stream, if its name does not tell."""
    for name, kind in BESIDE.items():
        if key.endswith((f"}}:{name}", f"|{name}")):
            return kind
    for name, kind in (("dedup", "string"), ("result", "list")):
        if f"}}:{name}:" in key or f"|{name}:" in key:
            return kind
    return "stream"


def slot_of(key: str) -> int:
    """The slot of a key in a cluster; the key may stand for bytes that are not UTF-8."""
    return key_slot(key.encode(errors="surrogateescape"))


def check_same_slot(stream_key: str, dlq_key: str) -> None:
    """Raise ClusterSlotError unless a script may touch both keys."""
    if slot_of(stream_key) == slot_of(dlq_key):
        return
    good = f"{stream_key}_dlq" if has_hash_tag(stream_key) else f"{{{stream_key}}}_dlq"
    works = slot_of(good) == slot_of(stream_key)
    raise ClusterSlotError(
        f"stream {stream_key!r} and dead-letter stream {dlq_key!r} are in different slots of the "
        "cluster, so a message cannot move between them in one step. "
        + (f"Name the dead-letter stream {good!r}, or give" if works else "Give")
        + " both one hash tag, as in '{orders}_main' and '{orders}_dlq'."
    )


def worker_name(group: str, hostname: str) -> str:
    """A new consumer name ``<group>_<hostname>_<rand4>`` of at most 64 characters.

    The group is cut first; a hostname over 40 characters is cut and gets a short hash. Of one that
    is not UTF-8, question marks stand for what cannot be sent.
    """
    hostname = hostname.encode(errors="replace").decode()
    if len(hostname) > MAX_HOST:
        digest = hashlib.sha256(hostname.encode()).hexdigest()[:6]
        hostname = f"{hostname[: MAX_HOST - 7]}-{digest}"
    tail = f"_{hostname}_{''.join(secrets.choice(_ALPHABET) for _ in range(4))}"
    return group[: MAX_WORKER_NAME - len(tail)] + tail


def parking_name(group: str, delay_ms: int, *, suspect: bool = False) -> tuple[str, int]:
    """Consumer under which a retry waits, and the idle time it starts with.

    suspect: it may have killed a worker. (A retry after 2 ms gets the same name.)

    Returns ``(<group>:retry:<D>, D - delay_ms)`` with D the smallest power of two >= delay_ms:
    an entry there is due once its idle time has reached D.
    """
    delay_ms = min(delay_ms, MOST_DUE_MS)
    due_ms = 1 << max(delay_ms - 1, 0).bit_length()
    if suspect:
        due_ms = max(due_ms, SUSPECT_DUE_MS)
    return f"{group}:retry:{due_ms}", due_ms - max(delay_ms, 0)


def parking_due_ms(group: str, consumer: str) -> int | None:
    """Idle time in ms at which an entry of this parking consumer is due; None for other names.

    Others may take any name: only those that parking_name() makes are parking consumers.
    """
    head = f"{group}:retry:"
    return _DUE_MS.get(consumer[len(head) :]) if consumer.startswith(head) else None
