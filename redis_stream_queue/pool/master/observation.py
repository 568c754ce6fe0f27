"""What Redis says of a crew's stream, asked on a clock, so that no HTTP request waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from ..._log import logger
from ..._plain import plain_cut
from ...client import StreamClient
from ...connection.exchange import OUTAGES
from ...connection.refusals import words_of
from ...operations.readings import Reading, read
from ..settings import Settings

READ_S = 5.0  # between two readings
LETTERS = 10  # newest dead letters that are shown
MOST_TEXT = 300  # characters

log = logger(__name__)

if TYPE_CHECKING:
    from ...dlq import DeadLetter, DeadLetterQueue


class Observation:
    """The newest reading of a crew's stream.

    reading: None = none yet. at_s: when it was made. error: why the last try failed, "" = it did
    not. failing_since_s: since when, 0 = it does not; both since the epoch. letters: the newest
    dead letters, without payloads. stream, dlq_stream: keys with their prefix; "" until the handler
    is known. group: its name.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.reading: Reading | None = None
        self.stream = self.group = self.dlq_stream = ""
        self.at_s = self.failing_since_s = 0.0
        self.error = ""
        self.letters: list[dict[str, str]] = []
        self._letters_of: Sequence[str] = ()

    async def watch(self, client: StreamClient, settings: Settings) -> NoReturn:
        """Read again and again; in an outage the last reading stays."""
        consumer = settings.consumer
        self.stream, self.group = client.key(settings.stream), consumer.group
        self.dlq_stream = client.key(consumer.dlq_stream) if consumer.dlq_stream else ""
        from ...dlq import DeadLetterQueue  # now: without --http nobody needs it

        while True:
            try:
                self.reading = await read(
                    client, settings.stream, consumer.group, consumer.dlq_stream
                )
                self.at_s, self.error, self.failing_since_s = time.time(), "", 0.0
                if consumer.dlq_stream:
                    await self._read_letters(DeadLetterQueue(client, consumer.dlq_stream))
            except OUTAGES as error:  # the clocks of maintenance.py log an outage
                log.debug("no reading of the stream: %s", error)
                self.error = plain_cut(words_of(error) or type(error).__name__, MOST_TEXT)
                self.failing_since_s = self.failing_since_s or time.time()
            await asyncio.sleep(READ_S)

    async def _read_letters(self, queue: DeadLetterQueue) -> None:
        ids = await queue.newest(LETTERS)
        if ids == self._letters_of:
            return
        letters = [await queue.get(letter_id, payloads=False) for letter_id in ids]
        self.letters = [_line(letter) for letter in letters if letter is not None]
        self._letters_of = ids


def _line(letter: DeadLetter) -> dict[str, str]:
    said = letter.headers
    names = "reason", "original_id", "delivery_count", "worker"
    return {
        "id": letter.id,
        **{name: plain_cut(said.get(name, ""), MOST_TEXT) for name in names},
        "error": plain_cut(said.get("last_error", "").partition("\n")[0], MOST_TEXT),
    }
