"""Looks at a server and its streams for what will cause trouble one day."""

from __future__ import annotations

from typing import NamedTuple

from redis.exceptions import ResponseError

from ..client import StreamClient
from ..connection.refusals import is_forbidden
from ..delivery.server_check import Finding, missing_right, unusable, worries, wrong_key
from .heartbeat import INDEX, Heartbeat, unseen, visible
from .server_findings import ask_server, server_findings
from .stream_findings import ask_stream, other_slot, stream_findings


class Patient(NamedTuple):
    """A stream to be examined, and the stream of its dead letters; names without the prefix."""

    stream: str
    dlq_stream: str


async def examine(client: StreamClient, patients: list[Patient]) -> list[Finding]:
    """All findings, the worst first, each one once; without patients those about the server.

    Raises what Redis raises.
    """
    pools, _ = await visible(client)
    found = [] if patients else [*await _server(client, INDEX), await _no_pool(client)]
    for patient in patients:
        cannot = await unusable(client, patient.stream)
        found += [cannot] if cannot else []
        found += await _server(client, patient.stream)
        found += await _stream(client, patient, pools)
    order = ["fatal", "serious", "hint"]
    once = {finding.what: finding for finding in found}
    return sorted(once.values(), key=lambda finding: order.index(finding.severity))


async def _server(client: StreamClient, stream: str) -> list[Finding]:
    facts = await ask_server(client, client.key(stream))
    return [*await worries(client, stream), *server_findings(facts)]


async def _no_pool(client: StreamClient) -> Finding:
    return Finding(
        "no_pool",
        "hint",
        await unseen(client, None),
        "only the server itself was looked at",
        "Name a stream, as in rsq doctor orders.",
    )


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
