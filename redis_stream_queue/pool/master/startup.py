"""Before the first message: reaches Redis, checks the server, and creates the group.

Whatever is wrong here ends the pool with one sentence and an exit code.
"""

from __future__ import annotations

import asyncio
import functools
import socket

from redis.exceptions import ResponseError

from ... import _exits
from ..._clock import mono_ms
from ..._exits import Failure
from ..._log import logger
from ...client import StreamClient
from ...connection.backoff import Backoff
from ...connection.exchange import OUTAGES
from ...connection.refusals import explained, is_forbidden, passes, reason
from ...delivery.server_check import check_server, check_stream, forbidden, worries
from ...exceptions import ClusterSlotError, ConfigError, UnsupportedServer
from ...group import ConsumerGroup
from ..settings import Settings

log = logger(__name__)

SAY_AFTER_MS = 1000  # a wait that is longer than this is logged


async def connect(client: StreamClient, timeout_s: float) -> None:
    """Wait until Redis answers, at most ``timeout_s``. Raises Failure."""
    started, said = mono_ms(), False
    deadline = started + timeout_s * 1000
    backoff = Backoff()
    while True:
        try:
            async with asyncio.timeout(max(deadline - mono_ms(), 100) / 1000):
                await client.link().call("", "PING")
            return
        except OUTAGES as error:
            last = error
        if why := await reason(client.endpoint, last):
            raise Failure(_exits.REDIS, why)
        if not said and mono_ms() >= started + SAY_AFTER_MS:
            said = True
            log.info("waiting up to %g s for Redis at %s", timeout_s, client.endpoint)
        if mono_ms() >= deadline:
            raise await explained(client.endpoint, last, waited_s=timeout_s)
        await asyncio.sleep(min(backoff.next_s(), max(deadline - mono_ms(), 0) / 1000))


async def prepare(client: StreamClient, settings: Settings, timeout_s: float) -> ConsumerGroup:
    """Check the server and create the group; returns the group.

    In an outage, or while Redis refuses for a reason that passes, it tries again for ``timeout_s``.
    Raises Failure.
    """
    deadline = mono_ms() + timeout_s * 1000
    backoff = Backoff()
    while True:
        try:
            group = await _prepare(client, settings)
            for worry in await worries(client, settings.stream):
                _warn(str(worry))
            return group
        except OUTAGES as error:
            if mono_ms() >= deadline:
                raise await explained(client.endpoint, error, waited_s=timeout_s) from None
            pause_s = backoff.next_s()
            if isinstance(error, ResponseError) and backoff.worth_a_line():
                log.warning("%s refuses: %s; trying again", client.endpoint, error)
            await asyncio.sleep(pause_s)


async def _prepare(client: StreamClient, settings: Settings) -> ConsumerGroup:
    consumer = settings.consumer
    group = ConsumerGroup(client, settings.stream, consumer.group)
    try:
        await check_server(client, settings.stream)
        await check_stream(client, settings.stream)
        if consumer.dlq_stream is not None:
            await check_stream(client, consumer.dlq_stream)
        await group.ensure(consumer.dlq_stream, consumer.dlq_group)
    except UnsupportedServer as error:
        raise Failure(_exits.REDIS, str(error)) from None
    except (ConfigError, ClusterSlotError) as error:
        raise Failure(_exits.USAGE, str(error)) from None
    except ResponseError as error:
        if is_forbidden(error):
            raise Failure(_exits.REDIS, str(forbidden(client, error))) from None
        if passes(error):
            raise
        key = client.key(settings.stream)
        raise await explained(client.endpoint, error, key=key) from None
    return group


def look_at_host_name() -> None:
    """Warn of a host name that is not UTF-8: consumer names contain it."""
    host = socket.gethostname()
    try:
        host.encode()
    except UnicodeEncodeError:
        log.warning("the host name %r is not UTF-8: consumer names show a '?' instead", host)


@functools.cache  # once, however many crews find the same about their server
def _warn(text: str) -> None:
    log.warning("%s", text)
