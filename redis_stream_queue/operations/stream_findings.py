"""What is wrong with a stream, its groups and its dead letters. Each function is one finding."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import NoPermissionError

from .._clock import wall_ms
from .._names import check_same_slot, parking_due_ms
from ..client import StreamClient
from ..connection.refusals import WrongKind, wrong_kind
from ..delivery.retention import holder_text
from ..delivery.server_check import Finding
from ..exceptions import ClusterSlotError
from ..later.control import Pause, field_of, pause_of, paused
from ..later.keys import companions
from ..message import PendingEntry, id_key
from .heartbeat import Heartbeat

SILENT_MS = 600_000  # a group that nobody has read for so long has no consumer
LONG = 120_000  # entries; by default about 100,000 finished ones are kept
OLD_MS = 3_600_000  # an unfinished entry of this age holds up trimming
LATE_CLAIM_MS = 300_000  # a min_idle_claim_ms from here on is needlessly long
EARLY_CLAIM_MS = 1000  # a min_idle_claim_ms below this may be too short


@dataclass
class StreamFacts:
    """What Redis says about a stream.

    letters: how many dead letters there are. groups: for each group its line of XINFO GROUPS, its
    lines of XINFO CONSUMERS and its oldest pending entry. pauses: see later.control.paused().
    strange: of the keys beside it those that hold what they must not.
    """

    key: str
    length: int
    dlq_key: str
    letters: int
    groups: list[tuple[dict[str, Any], list[dict[str, Any]], PendingEntry | None]]
    pauses: dict[str, Pause] = field(default_factory=dict)
    strange: list[WrongKind] = field(default_factory=list)


async def ask_stream(client: StreamClient, stream: str, dlq_stream: str) -> StreamFacts:
    """Ask Redis about a stream; without scripts, as this user may have no right to run them."""
    infos = await client.group_info(stream)
    groups = []
    for info in infos:
        name = info["name"]
        oldest = await client.pending_range(stream, name, 1) if info["pending"] else []
        consumers = await client.consumer_info(stream, name)
        groups.append((info, consumers, oldest[0] if oldest else None))
    length, letters = await client.stream_len(stream), await client.stream_len(dlq_stream)
    pauses: dict[str, Pause] = {}
    with contextlib.suppress(NoPermissionError, ClusterSlotError, WrongKind):
        pauses = await paused(client.link(), client.key(stream))
    key, dlq_key = client.key(stream), client.key(dlq_stream)
    strange = await _strange(client, key)
    return StreamFacts(key, length, dlq_key, letters, groups, pauses, strange)


async def _strange(client: StreamClient, key: str) -> list[WrongKind]:
    try:
        keys = companions(key)[1:]
    except ClusterSlotError:
        return []
    asked = [("TYPE", one) for one in keys]
    kinds = await client.link().run(key, asked, client.endpoint.socket_timeout)
    found = [wrong_kind([one], [kind]) for one, kind in zip(asked, kinds, strict=True)]
    return [one for one in found if one is not None]


def other_slot(client: StreamClient, stream: str, dlq_stream: str) -> Finding | None:
    """On a cluster: a finding if stream and dead-letter stream are not in one slot."""
    try:
        if client.endpoint.cluster:
            check_same_slot(client.key(stream), client.key(dlq_stream))
    except ClusterSlotError as error:
        what, _, rest = str(error).partition(", so ")
        why, _, remedy = rest.partition(". ")
        return Finding("slots", "fatal", what, why, remedy)
    return None


def stream_findings(facts: StreamFacts, pools: list[Heartbeat]) -> Iterator[Finding]:
    """All findings about a stream. pools: the heartbeats of all pools that run."""
    if not facts.groups:
        yield _no_group(facts) if facts.length else _no_stream(facts)
    for info, consumers, oldest in facts.groups:
        name = str(info["name"])
        consumers = [c for c in consumers if parking_due_ms(name, c["name"]) is None]
        mine = [pool for pool in pools if (pool.stream, pool.group) == (facts.key, name)]
        found = (
            _nobody_reads(facts, info, consumers),
            _holds_up(facts, name, oldest),
            _lag_unknown(facts, info),
            _odd_name(facts, name),
            _mixed(facts, name, mine),
            _small_limit(facts, name, mine),
            _claim_time(facts, name, mine),
            _is_paused(facts, name),
        )
        yield from (finding for finding in found if finding is not None)
    yield from map(_is_strange, facts.strange)
    if facts.letters:
        yield _letters(facts)


def _no_stream(facts: StreamFacts) -> Finding:
    return Finding(
        "no_stream",
        "hint",
        f"stream {facts.key!r} is not there, or has neither entries nor groups",
        "nothing about it could be looked at",
        "A pool or the first push makes it; or is it another name, or a prefix?",
    )


def _is_strange(found: WrongKind) -> Finding:
    return Finding(
        "wrong_kind",
        "serious",
        found.what,
        "what needs it, of delays, unique and periodic messages and pauses, does not work",
        f"{found.remedy}.",
    )


def _no_group(facts: StreamFacts) -> Finding:
    return Finding(
        "no_group",
        "serious",
        f"stream {facts.key!r} (length {facts.length}) has no consumer group",
        "nobody handles what is in it, and nothing is ever trimmed",
        f"Start a pool on it, or delete it: UNLINK {facts.key}",
    )


def _nobody_reads(
    facts: StreamFacts, info: dict[str, Any], consumers: list[dict[str, Any]]
) -> Finding | None:
    name, idle_ms = info["name"], min((int(c["idle"]) for c in consumers), default=None)
    unread = info["last-delivered-id"] == "0-0" and facts.length > 0
    behind = bool(info.get("lag")) or bool(info["pending"]) or unread
    if idle_ms is not None and (idle_ms < SILENT_MS or not behind):
        return None
    silent = "has no consumer" if idle_ms is None else f"was last read {idle_ms // 60_000} min ago"
    lag = info.get("lag")
    waiting = "messages wait" if lag is None else f"{lag} message(s) wait"
    waiting = f"{waiting}, {info['pending']} are pending"
    return Finding(
        "unread_group",
        "serious",
        f"group {name!r} of stream {facts.key!r} {silent}; {waiting}",
        "what it has not finished is not trimmed, so the stream grows until memory is full",
        f"Start consumers of it, or remove it for good: XGROUP DESTROY {facts.key} {name}",
    )


def _holds_up(facts: StreamFacts, group: str, oldest: PendingEntry | None) -> Finding | None:
    """A stream that is not trimmed: finished entries behind the oldest unfinished one stay."""
    if oldest is None or facts.length < LONG:
        return None
    age_ms = wall_ms() - id_key(oldest.id)[0]
    if age_ms < OLD_MS:
        return None
    return Finding(
        "untrimmed",
        "serious",
        f"stream {facts.key!r} has {facts.length} entries: group {group!r} has not finished "
        f"{oldest.id}, which is {age_ms // OLD_MS} h old and {holder_text(oldest, group)}",
        "nothing behind it is trimmed, so the stream grows until memory is full",
        f"See what it is: rsq show {facts.key} {oldest.id}; take it back: rsq cancel {facts.key} "
        f"{oldest.id}",
    )


def _lag_unknown(facts: StreamFacts, info: dict[str, Any]) -> Finding | None:
    if "lag" not in info or info["lag"] is not None:  # Redis 6.2 never knows it
        return None
    return Finding(
        "lag_unknown",
        "hint",
        f"the server does not know the lag of group {info['name']!r} of stream {facts.key!r}",
        "an unread entry was deleted, or the group was set to the middle of the stream; scalers "
        "that ask for the lag (KEDA) take that for nothing to do",
        "It is known again once everything is read.",
    )


def _odd_name(facts: StreamFacts, group: str) -> Finding | None:
    try:
        group.encode()
    except UnicodeEncodeError:
        return Finding(
            "name",
            "hint",
            f"the name of group {group!r} of stream {facts.key!r} is not UTF-8",
            "tables and logs show it in another form than what commands need",
            "Choose another name for the group.",
        )
    return None


def _mixed(facts: StreamFacts, group: str, pools: list[Heartbeat]) -> Finding | None:
    settings = {(pool.max_deliveries, pool.min_idle_claim_ms) for pool in pools}
    if len(settings) < 2:
        return None
    shown = " and ".join(f"{most} deliveries, {ms} ms" for most, ms in sorted(settings))
    return Finding(
        "mixed_settings",
        "serious",
        f"pools of group {group!r} of stream {facts.key!r} have different max_deliveries or "
        f"min_idle_claim_ms ({shown})",
        "whoever looks first decides when a message is dead or abandoned",
        "Start them all with the same settings.",
    )


def _small_limit(facts: StreamFacts, group: str, pools: list[Heartbeat]) -> Finding | None:
    for pool in pools:
        least_mb = min((w.memory_mb for w in pool.workers if w.memory_mb), default=0)
        if 0 < pool.memory_limit_mb < least_mb:
            return Finding(
                "memory_limit",
                "serious",
                f"no worker of {pool.target} on {pool.host} (group {group!r} of stream "
                f"{facts.key!r}) takes less than {least_mb} MB, and one may take "
                f"{pool.memory_limit_mb:g} MB (--max-memory-per-child)",
                "the app takes more by itself, so the limit cannot be kept, and workers may be "
                "replaced again and again",
                f"Set it well above: --max-memory-per-child {2 * least_mb}, say.",
            )
    return None


def _claim_time(facts: StreamFacts, group: str, pools: list[Heartbeat]) -> Finding | None:
    """Compares min_idle_claim_ms with the time that the longest call has been running."""
    now_ms = wall_ms()
    began_ms = [w.since_ms for pool in pools for w in pool.workers if w.since_ms]
    longest_s = max(now_ms - min(began_ms, default=now_ms), 0) / 1000
    claims_s = sorted(pool.min_idle_claim_ms / 1000 for pool in pools)
    whose = f"of group {group!r} of stream {facts.key!r}"
    if claims_s and claims_s[-1] * 1000 >= LATE_CLAIM_MS:
        return Finding(
            "late_claim",
            "hint",
            f"min_idle_claim_ms {whose} is {claims_s[-1]:g} s; the longest call that runs now has "
            f"taken {longest_s:.1f} s",
            "so long the messages of a host that has died wait. It need not be above the time of a "
            "call: a message in a living process is never taken",
            "Leave it out: 10 s, the default, are enough for calls that take hours.",
        )
    if claims_s and claims_s[0] * 1000 < EARLY_CLAIM_MS and claims_s[0] < longest_s:
        return Finding(
            "early_claim",
            "hint",
            f"min_idle_claim_ms {whose} is {claims_s[0]:g} s, and a call has been running for "
            f"{longest_s:.1f} s",
            "if its host stands still for so long, others run the same message once more",
            "Leave it out: the default is 10 s. A worker that dies is noticed at once anyway.",
        )
    return None


def _is_paused(facts: StreamFacts, group: str) -> Finding | None:
    if pause_of(facts.pauses, group, 0) is None:
        return None
    resume = [
        f"rsq resume {facts.key}{option}"
        for option, only in (("", None), (f" --group {group}", group))
        if field_of(only) in facts.pauses
    ]
    return Finding(
        "paused",
        "hint",
        f"stream {facts.key!r} is paused for group {group!r}",
        "nothing of it is started, and what is pushed waits",
        f"Let it go on: {'; '.join(resume)}",
    )


def _letters(facts: StreamFacts) -> Finding:
    return Finding(
        "dead_letters",
        "hint",
        f"{facts.letters} dead letter(s) lie in {facts.dlq_key!r}",
        "each is a message that was not handled, and takes memory until somebody looks at it",
        f"Look at them: rsq dlq list {facts.key}; then rsq dlq requeue, or rsq dlq purge.",
    )
