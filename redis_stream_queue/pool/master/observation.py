"""What Redis says of the pool's stream, asked on a clock: whoever wants to know it waits for
nobody."""

from __future__ import annotations

import asyncio
import time
from typing import NoReturn

from ..._log import logger
from ...client import StreamClient
from ...connection.link import OUTAGES
from ...operations.readings import Reading, read
from ..config import Settings

READ_S = 5.0

log = logger(__name__)


class Observation:
    """The newest reading, and when it was made (seconds since the epoch); None = none yet."""

    def __init__(self) -> None:
        self.reading: Reading | None = None
        self.stream = self.group = ""
        self.at_s = 0.0

    async def watch(self, client: StreamClient, settings: Settings) -> NoReturn:
        """Read again and again; while Redis is away the last one stays."""
        consumer = settings.consumer
        self.stream, self.group = client.key(settings.stream), consumer.group
        while True:
            try:
                self.reading = await read(
                    client, settings.stream, consumer.group, consumer.dlq_stream
                )
                self.at_s = time.time()
            except OUTAGES as error:  # clocks that need Redis say what is wrong with it
                log.debug("no reading of the stream: %s", error)
            await asyncio.sleep(READ_S)
