"""What a server that works may do to messages one day, beyond what a pool checks when it starts.

Each function is one finding about the facts that the server has told.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .._clock import wall_ms
from ..client import StreamClient
from ..connection.packing import Command
from ..connection.replies import info_lines, mapping
from ..delivery.server_check import Finding, size

SMALL_BYTES = 32 * 1024 * 1024  # an empty server takes some MB itself
ASKED = "memory", "persistence", "clients", "replication", "cluster"
OFF_MS = 2000  # a clock that is wrong by so much is a finding
LOOPBACK = {"127.0.0.1", "-::1", "::1", "localhost"}
FULL = 0.9  # a finding when this share of the possible connections is used
SHORT_S = 60  # a shorter timeout for quiet clients is a finding
SETTINGS = "protected-mode", "bind", "requirepass", "maxclients", "timeout"


@dataclass
class ServerFacts:
    """What INFO and CONFIG say; empty where this user has no right to ask.

    where: the endpoint, for texts. ahead_ms: how far the server's clock is before ours.
    """

    where: str
    cluster_client: bool
    info: dict[str, str] = field(default_factory=dict)
    config: dict[str, str] = field(default_factory=dict)
    ahead_ms: int = 0


async def ask_server(client: StreamClient, key: str) -> ServerFacts:
    """Ask the server that has this key. Raises what Redis raises, but not where it refuses."""
    facts = ServerFacts(str(client.endpoint), client.endpoint.cluster)
    commands: list[Command] = [
        *(("INFO", part) for part in ASKED),
        *(("CONFIG", "GET", name) for name in SETTINGS),
    ]
    replies = await client.link().run(key, commands, client.endpoint.socket_timeout)
    for command, reply in zip(commands, replies, strict=True):
        if command[0] == "INFO":
            facts.info |= info_lines(reply)
        elif not isinstance(reply, Exception):
            facts.config |= {name: str(value) for name, value in mapping(reply).items()}
    before_ms = wall_ms()
    [reply] = await client.link().run(key, [("TIME",)], client.endpoint.socket_timeout)
    if not isinstance(reply, Exception):
        seconds, micros = reply
        server_ms = int(seconds) * 1000 + int(micros) // 1000
        facts.ahead_ms = _beyond(server_ms, before_ms, wall_ms())
    return facts


def _beyond(moment: int, first: int, last: int) -> int:
    """How far a moment lies before ``first`` (below 0) or after ``last``; 0 = between them."""
    return min(moment - first, 0) or max(moment - last, 0)


def server_findings(facts: ServerFacts) -> list[Finding]:
    """All findings about a server."""
    found = (
        _little_memory(facts),
        _cannot_save(facts),
        _few_connections(facts),
        _hangs_up(facts),
        _open_to_all(facts),
        _is_a_cluster(facts),
        _is_a_replica(facts),
        _forgets_in_a_failover(facts),
        _clock_is_off(facts),
    )
    return [finding for finding in found if finding is not None]


def _little_memory(facts: ServerFacts) -> Finding | None:
    most = int(facts.info.get("maxmemory", "0"))
    if not 0 < most < SMALL_BYTES:
        return None
    return Finding(
        "little_memory",
        "serious",
        f"{facts.where} may use {size(most)} of memory (maxmemory)",
        "an empty server takes about as much: soon nothing can be pushed, or keys are evicted",
        "Raise maxmemory to what the longest backlog takes, and watch used_memory.",
    )


def _cannot_save(facts: ServerFacts) -> Finding | None:
    failed = {
        "rdb_last_bgsave_status": "a snapshot (RDB)",
        "aof_last_write_status": "its append-only file",
        "aof_last_bgrewrite_status": "its append-only file anew",
    }
    cannot = [what for name, what in failed.items() if facts.info.get(name) == "err"]
    if not cannot:
        return None
    return Finding(
        "cannot_save",
        "serious",
        f"{facts.where} could not write {' and '.join(cannot)} when it last tried",
        "it refuses pushes until it can, or forgets at a restart what came since",
        "See its log: most often the disk is full, or the directory may not be written to.",
    )


def _few_connections(facts: ServerFacts) -> Finding | None:
    used, most = int(facts.info.get("connected_clients", "0")), facts.config.get("maxclients", "")
    if not most.isdecimal() or used < FULL * int(most):
        return None
    return Finding(
        "connections",
        "serious",
        f"{facts.where} has {used} of at most {most} connections (maxclients)",
        "further pools and producers are turned away; a worker keeps two or three",
        "Raise maxclients (and the limit of open files), or start fewer workers.",
    )


def _hangs_up(facts: ServerFacts) -> Finding | None:
    after_s = facts.config.get("timeout", "")
    if not after_s.isdecimal() or not 0 < int(after_s) < SHORT_S:
        return None
    return Finding(
        "timeout",
        "hint",
        f"{facts.where} hangs up when a client is quiet for {after_s} s (timeout)",
        "producers that push now and then connect anew each time, which takes longer",
        "Set timeout 0: it finds clients that are gone by tcp-keepalive.",
    )


def _open_to_all(facts: ServerFacts) -> Finding | None:
    config = facts.config
    reached = set(config.get("bind", "").split()) - LOOPBACK
    if config.get("protected-mode") != "no" or config.get("requirepass") or not reached:
        return None
    return Finding(
        "open",
        "serious",
        f"{facts.where} lets in whoever reaches it (protected-mode no, no password)",
        "anybody on its network can read, change and delete every message",
        "Set a password (requirepass, or ACL SETUSER), or bind it to an address that only your "
        "own hosts reach.",
    )


def _is_a_cluster(facts: ServerFacts) -> Finding | None:
    if facts.info.get("cluster_enabled") != "1" or facts.cluster_client:
        return None
    return Finding(
        "cluster_url",
        "serious",
        f"{facts.where} is a node of a cluster, and the URL names it alone",
        "streams in slots of other nodes cannot be reached, and after a failover none can",
        "Write redis+cluster:// (rediss+cluster:// for TLS) instead of redis://.",
    )


def _is_a_replica(facts: ServerFacts) -> Finding | None:
    if facts.info.get("role") != "slave":
        return None
    return Finding(
        "replica",
        "fatal",
        f"{facts.where} is a replica",
        "nothing can be pushed or acknowledged there",
        "Name its master, or let it be found: redis+sentinel://HOST:PORT/SERVICE.",
    )


def _forgets_in_a_failover(facts: ServerFacts) -> Finding | None:
    if facts.info.get("connected_slaves", "0") == "0" or "min_slaves_good_slaves" in facts.info:
        return None
    return Finding(
        "unconfirmed",
        "hint",
        f"{facts.where} has replicas and does not wait for them (min-replicas-to-write 0)",
        "a failover may lose what was pushed in the last moments before it",
        "Set min-replicas-to-write 1, or push what must not be lost with "
        "StreamProducer(min_replicas=1).",
    )


def _clock_is_off(facts: ServerFacts) -> Finding | None:
    if abs(facts.ahead_ms) < OFF_MS:
        return None
    way = "ahead of" if facts.ahead_ms > 0 else "behind"
    return Finding(
        "clock",
        "hint",
        f"the clock of {facts.where} is {abs(facts.ahead_ms) / 1000:.1f} s {way} this host's",
        "delays and ages go by its clock, dates (at=) by that of who pushes",
        "Let both follow NTP.",
    )
