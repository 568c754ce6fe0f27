"""Looks at a server and its streams for what will cause trouble one day."""

from __future__ import annotations

from typing import NamedTuple

from redis.exceptions import ResponseError

from ..client import StreamClient
from ..connection.refusals import is_forbidden
from ..delivery.server_check import Finding, missing_right, unusable, worries, wrong_key
from .heartbeat import Heartbeat, visible
from .server_findings import ask_server, server_findings
from .stream_findings import ask_stream, other_slot, stream_findings


class Patient(NamedTuple):
    """A stream to be examined, and the stream of its dead letters; names without the prefix."""

    stream: str
    dlq_stream: str


async def examine(client: StreamClient, patients: list[Patient]) -> list[Finding]:
    """All findings, the worst first, each one once. Raises what Redis raises."""
    pools, _ = await visible(client)
    found: dict[str, Finding] = {}
    for patient in patients:
        for finding in [*await _server(client, patient), *await _stream(client, patient, pools)]:
            found.setdefault(finding.what, finding)
    order = ["fatal", "serious", "hint"]
    return sorted(found.values(), key=lambda finding: order.index(finding.severity))


async def _server(client: StreamClient, patient: Patient) -> list[Finding]:
    facts = await ask_server(client, client.key(patient.stream))
    cannot = await unusable(client, patient.stream)
    found = [cannot] if cannot else []
    return [*found, *await worries(client, patient.stream), *server_findings(facts)]


async def _stream(client: StreamClient, patient: Patient, pools: list[Heartbeat]) -> list[Finding]:
    slot = other_slot(client, patient.stream, patient.dlq_stream)
    found = [slot] if slot else []
    try:
        kinds = [await wrong_key(client, name) for name in patient]
        found += [kind for kind in kinds if kind]
        if not any(kinds):
            facts = await ask_stream(client, patient.stream, patient.dlq_stream)
            found += stream_findings(facts, pools)
    except ResponseError as error:
        if not is_forbidden(error):
            raise
        found.append(_cannot_look(client, patient, error))
    return found


def _cannot_look(client: StreamClient, patient: Patient, error: ResponseError) -> Finding:
    right = missing_right(error, "+xinfo|groups +xinfo|consumers +xlen +xpending")
    return Finding(
        "cannot_look",
        "hint",
        f"this user may not look at stream {client.key(patient.stream)!r} ({error})",
        "what is wrong with it is not seen",
        f"Allow it: ACL SETUSER name {right}",
    )
