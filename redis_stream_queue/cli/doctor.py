"""rsq doctor: what will hurt one day, why, and what to do about it."""

from __future__ import annotations

import click

from .. import _exits
from .._names import default_dlq
from .._plain import json_line
from ..operations.doctor import Patient, examine
from ..operations.heartbeat import INDEX, visible
from .common import Redis, ask, counted, dlq_option, json_option, name, on_redis
from .output import say


@click.command()
@click.argument("stream", required=False, callback=name)
@dlq_option
@on_redis
@json_option
def doctor(redis: Redis, stream: str | None, dlq_stream: str | None, as_json: bool) -> None:
    """Look the server and STREAM over (without it: the streams of all pools that run) for what will
    hurt one day: each finding with why it does and what to do. Nothing is changed.

    Exit code 1 if something is fatal or serious; hints alone end with 0.
    """
    patients = _patients(redis, stream, dlq_stream)
    found = ask(redis, INDEX, lambda: examine(redis.client, patients))
    where, keys = str(redis.client.endpoint), [redis.client.key(p.stream) for p in patients]
    if as_json:
        findings = [finding._asdict() for finding in found]
        say(json_line({"server": where, "streams": keys, "findings": findings}))
    else:
        for finding in found:
            why = [f"    why: {finding.why}"] if finding.why else []
            remedy = [f"    do:  {finding.remedy}"] if finding.remedy else []
            say(f"{finding.severity}: {finding.what}", *why, *remedy)
        say(f"{counted(len(found), 'finding')} at {', '.join([where, *keys])}")
    if any(finding.severity != "hint" for finding in found):
        raise click.exceptions.Exit(_exits.FAILURE)


def _patients(redis: Redis, stream: str | None, dlq_stream: str | None) -> list[Patient]:
    client = redis.client
    if stream:
        return [Patient(stream, redis.dlq_of(stream, dlq_stream))]
    pools, _ = ask(redis, INDEX, lambda: visible(client))
    head = client.key("")
    streams = {(pool.stream, pool.dlq_stream or default_dlq(pool.stream)) for pool in pools}
    return [Patient(*(key.removeprefix(head) for key in keys)) for keys in sorted(streams)]
