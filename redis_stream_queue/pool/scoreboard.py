"""The scoreboard: shared memory, one row per worker life; the worker writes, the master reads.

Neither needs a system call for it. A row outlives its worker, so after a crash it still says what
was running and what was counted. Every field is one aligned 64-bit word; times are milliseconds of
_clock.mono_ms(). Behind all rows stand their histograms.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
from enum import IntEnum

from .histogram import BUCKETS, KINDS, WORDS, bucket

WORD = 8
DUMP_SIGNAL = signal.SIGRTMIN + 8  # asks a worker to write its stacks to DUMP_FD
ROW_WORDS = 32
TIMES_WORDS = len(KINDS) * WORDS
MAX_ROWS = 1024
ALL_ROWS_WORDS = (MAX_ROWS + 1) * ROW_WORDS
MOMENT_MS = 5  # longer than it takes from one batch to the next
MAX_SLOTS = MAX_ROWS // 2  # a slot may have an old and a new life


class Field(IntEnum):
    BUSY_SINCE = 0  # 0 = no handler is running
    FIRST_MS = 1  # lowest and highest id of what is held
    FIRST_SEQ = 2
    LAST_MS = 3
    LAST_SEQ = 4
    CURRENT_MS = 5  # id of the message that runs
    CURRENT_SEQ = 6
    HELD = 7  # how many are held
    READ_AT = 8  # last finished read
    RENEWED_AT = 9  # last renewal of the leases
    BATCH = 10  # messages that the worker would take at once
    READ = 11  # counters of this life
    ACKED = 12
    ERRORS = 13
    DEAD = 14
    BATCHES = 15
    MESSAGE_SINCE = 16  # start of the message that has been running longest, 0 = none
    BUSY_UNTIL = 17  # end of the last batch
    DUMP_FD = 18  # file descriptor, in the worker, that its stack dumps go to
    ONLY_NEW = 19  # 1 = reads new messages only, and asks for offers later
    ACKING_MS = 20  # id of one message of those that Redis was asked to acknowledge last,
    ACKING_SEQ = 21
    ACKING_TOTAL = 22  # and what ACKED is once it has
    BURYING_MS = 23  # the same of the message that was buried last, and of DEAD
    BURYING_SEQ = 24
    BURYING_TOTAL = 25
    EXPIRED = 27  # a counter, too
    OWN_MB = 26  # memory in use once the first message had ended, 0 = it has not
    # of the message that runs, where its handler has rules for it (0 = as the pool's settings say):
    LIMIT_MS = 28  # time limit; read it before MESSAGE_SINCE, which is 0 while this changes
    MOST = 29  # deliveries
    TASK = 30  # number of its task
    ALONE = 31  # 1 = nothing runs beside it


COUNTERS = (Field.READ, Field.ACKED, Field.ERRORS, Field.DEAD, Field.BATCHES, Field.EXPIRED)


class Row:
    """The row of one life."""

    __slots__ = ("_base", "_current", "_since", "_times", "_words")

    def __init__(self, words: memoryview, number: int) -> None:
        self._words = words
        self._base = (number + 1) * ROW_WORDS
        self._current = self._base + Field.CURRENT_MS
        self._since = self._base + Field.MESSAGE_SINCE
        self._times = ALL_ROWS_WORDS + number * TIMES_WORDS

    def __getitem__(self, field: Field) -> int:
        return int(self._words[self._base + field])

    def __setitem__(self, field: Field, value: int) -> None:
        self._words[self._base + field] = value

    def set_id(self, field: Field, entry_id: str) -> None:
        """Write an id to ``field`` and the one after it."""
        ms, _, seq = entry_id.partition("-")
        self._words[self._base + field] = int(ms)
        self._words[self._base + field + 1] = int(seq or 0)

    def start(self, entry_id: str, since_ms: int) -> None:
        """Write what runs, and since when."""
        ms, _, seq = entry_id.partition("-")
        words, current = self._words, self._current
        words[current] = int(ms)
        words[current + 1] = int(seq or 0)
        words[self._since] = since_ms

    def rule(self, limit_ms: int, most: int, task: int, *, alone: bool) -> None:
        """Write what holds for the message that is started next."""
        words, base = self._words, self._base
        words[self._since] = 0
        words[base + Field.LIMIT_MS] = limit_ms
        words[base + Field.MOST] = most
        words[base + Field.TASK] = task
        words[base + Field.ALONE] = alone

    def id(self, field: Field) -> tuple[int, int]:
        """The id at ``field``, as a pair that sorts as Redis sorts it."""
        return self[field], int(self._words[self._base + field + 1])

    def lasted(self, kind: int, ms: int, count: int = 1) -> None:
        """Count ``count`` durations of ``ms`` each in a histogram of this kind."""
        words, base = self._words, self._times + kind * WORDS
        words[base + bucket(ms)] += count
        if ms:
            words[base + BUCKETS] += ms * count

    def times(self) -> list[int]:
        """The words of all histograms."""
        return self._words[self._times : self._times + TIMES_WORDS].tolist()

    def clear(self) -> None:
        """Make it ready for a new life."""
        for word in range(ROW_WORDS):
            self._words[self._base + word] = 0
        for word in range(TIMES_WORDS):
            self._words[self._times + word] = 0


class Scoreboard:
    """The rows of all lives, in memory that parent and children share through a file descriptor."""

    def __init__(self, fd: int | None = None) -> None:
        size = (ALL_ROWS_WORDS + MAX_ROWS * TIMES_WORDS) * WORD
        if fd is None:
            # Sealed, or a worker that cuts it off would take all others and the master along.
            fd = os.memfd_create("rsq-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        self.fd = fd
        self._words = memoryview(mmap.mmap(fd, size)).cast("Q")

    def row(self, number: int) -> Row:
        return Row(self._words, number)

    def someone_idle(self, now_ms: int) -> bool:
        """Has a worker of this pool been without work for more than a moment?"""
        return any(
            since == 0 and 0 < max(read_at, busy_until) < now_ms - MOMENT_MS
            for since, read_at, busy_until in zip(
                self._all(Field.BUSY_SINCE),
                self._all(Field.READ_AT),
                self._all(Field.BUSY_UNTIL),
                strict=True,
            )
        )

    def _all(self, field: Field) -> list[int]:
        """The word of every row."""
        return self._words[ROW_WORDS + field : ALL_ROWS_WORDS : ROW_WORDS].tolist()

    @property
    def offers_waiting(self) -> int:
        """Offers that no worker has taken yet: a worker asks for them before it reads."""
        return int(self._words[0])

    @offers_waiting.setter
    def offers_waiting(self, count: int) -> None:
        self._words[0] = count
