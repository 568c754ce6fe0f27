"""The scoreboard: shared memory, one row per worker life; the worker writes, the master reads.

Neither needs a system call for it. A row outlives its worker, so after a crash it still says what
was running and what was counted. A field is one aligned 64-bit word, or the text of an id. Times
are milliseconds of _clock.mono_ms(). The histograms of all rows follow after the last row.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
from enum import IntEnum
from struct import Struct

from .._pool_config import MAX_WORKERS
from ..message import is_entry_id
from .histogram import BUCKETS, KINDS, WORDS, bucket
from .task_times import MOST_TASKS, counted_as

WORD = 8
MOST_COUNT = 2**64 - 1
NO_ID = "0-0"
DUMP_SIGNAL = signal.SIGRTMIN + 8  # asks a worker to write its stacks to DUMP_FD
ROW_WORDS = 64
ID_WORDS = 6
TASKS_AT = len(KINDS) * WORDS
TASK_WORDS = TASKS_AT + 1  # of one task: its histograms, then its errors
TIMES_WORDS = TASKS_AT + MOST_TASKS * TASK_WORDS
MAX_ROWS = 2 * MAX_WORKERS  # a slot may have an old and a new life
ALL_ROWS_WORDS = (MAX_ROWS + 1) * ROW_WORDS
MOMENT_MS = 5  # longer than it takes from one batch to the next


class Field(IntEnum):
    """Where a field is in a row, in words."""

    # written together at the start of a batch:
    BUSY_SINCE = 0  # 0 = no handler is running
    READ_AT = 1  # last finished read
    RENEWED_AT = 2  # last renewal of the leases
    HELD = 3  # how many messages are held
    BATCH = 4  # messages that the worker would take at once
    READ = 5  # counters of this life
    ACKED = 6
    ERRORS = 7
    DEAD = 8
    BATCHES = 9
    EXPIRED = 10
    BUSY_UNTIL = 11  # end of the last batch
    DUMP_FD = 12  # file descriptor, in the worker, that its stack dumps go to
    ONLY_NEW = 13  # 1 = reads new messages only, and asks for offers later
    ACKING_TOTAL = 14  # what ACKED is once Redis has answered, see ACKING
    BURYING_TOTAL = 15  # the same of DEAD
    OWN_MB = 16  # memory in use once the first message had ended, 0 = it has not
    # of the message that runs, where its handler has rules for it (0 = as the pool's settings say):
    LIMIT_MS = 17  # time limit; read it before MESSAGE_SINCE, which is 0 while this changes
    MOST = 18  # its max_deliveries
    TASK = 19  # number of its task
    ALONE = 20  # 1 = nothing runs beside it
    MESSAGE_SINCE = 21  # start of the message that has been running longest, 0 = none
    # ids; CURRENT follows MESSAGE_SINCE, as both are written together
    CURRENT = 22  # the message that runs
    FIRST = CURRENT + ID_WORDS  # lowest and highest of what is held
    LAST = FIRST + ID_WORDS
    ACKING = LAST + ID_WORDS  # one of those that Redis was asked to acknowledge last
    BURYING = ACKING + ID_WORDS  # the one that was buried last
    RETRIED = BURYING + ID_WORDS  # counters, as above
    RELEASED = RETRIED + 1
    REDIS_ERRORS = RETRIED + 2
    TASKS = RETRIED + 3  # how many tasks have counters of their own, see task_times


COUNTERS = (
    Field.READ,
    Field.ACKED,
    Field.ERRORS,
    Field.DEAD,
    Field.BATCHES,
    Field.EXPIRED,
    Field.RETRIED,
    Field.RELEASED,
    Field.REDIS_ERRORS,
)


ID_BYTES = ID_WORDS * WORD
_write_id = Struct(f"{ID_BYTES}s").pack_into
_write_start = Struct(f"@Q{ID_BYTES}s").pack_into
_write_held = Struct("@4Q").pack_into
_write_batch = Struct(f"@Q{ID_BYTES}x{ID_BYTES}s{ID_BYTES}s").pack_into


_NOTHING = memoryview(bytes(max(ROW_WORDS, TIMES_WORDS) * WORD)).cast("Q")


class Row:
    """The row of one life: ``row[Field.X]`` is the word of a field."""

    __slots__ = ("_base", "_bytes", "_since", "_start", "_times", "_words")

    def __init__(self, shared: mmap.mmap, words: memoryview, number: int) -> None:
        self._bytes = shared
        self._words = words
        self._base = (number + 1) * ROW_WORDS
        self._since = (self._base + Field.MESSAGE_SINCE) * WORD
        self._start = self._base * WORD
        self._times = ALL_ROWS_WORDS + number * TIMES_WORDS

    def __getitem__(self, field: Field) -> int:
        return int(self._words[self._base + field])

    def __setitem__(self, field: Field, value: int) -> None:
        self._words[self._base + field] = value

    def id(self, field: Field) -> str:
        """The id in this field; NO_ID if there is none."""
        at = (self._base + field) * WORD
        text = self._bytes[at : at + ID_BYTES].partition(b"\0")[0].decode(errors="replace")
        return text if is_entry_id(text) else NO_ID

    def set_id(self, field: Field, entry_id: str) -> None:
        """Write an id into this field."""
        _write_id(self._bytes, (self._base + field) * WORD, entry_id.encode())

    def start(self, entry_id: str, since_ms: int) -> None:
        """Write which message runs, and since when.

        The id is written as text: to make numbers of it would double the time of this call.
        """
        _write_start(self._bytes, self._since, since_ms, entry_id.encode())

    def begin(self, first_id: str, last_id: str, held: int, now_ms: int) -> None:
        """Write that a batch of ``held`` messages was read just now.

        No message of it runs yet, but the time limit counts from now: decoding may take long, too.
        """
        shared = self._bytes
        _write_batch(shared, self._since, now_ms, first_id.encode(), last_id.encode())
        _write_held(shared, self._start, now_ms, now_ms, now_ms, held)

    def rule(self, limit_ms: int, most: int, task: int, *, alone: bool) -> None:
        """Write the rules of the message that is started next; 0 = those of the pool hold.

        limit_ms: time limit. most: max_deliveries. task: number of its task. alone: nothing runs
        beside it.
        """
        words, base = self._words, self._base
        words[base + Field.MESSAGE_SINCE] = 0
        words[base + Field.LIMIT_MS] = limit_ms
        words[base + Field.MOST] = most
        words[base + Field.TASK] = task
        words[base + Field.ALONE] = alone

    def lasted(self, kind: int, ms: int, count: int = 1) -> None:
        """Count ``count`` durations of ``ms`` each in a histogram of this kind."""
        self._lasted(self._times + kind * WORDS, ms, count)

    def _lasted(self, base: int, ms: int, count: int) -> None:
        words = self._words
        at = base + bucket(ms)
        words[at] = words[at] + count & MOST_COUNT  # an app may have written anything there
        if ms:
            words[base + BUCKETS] = words[base + BUCKETS] + ms * count & MOST_COUNT

    def task_lasted(self, number: int, kind: int, ms: int, count: int = 1) -> None:
        """Count ``count`` durations of ``ms`` each in a task's histogram of this kind."""
        self._lasted(self._task(number) + kind * WORDS, ms, count)

    def task_failed(self, number: int) -> None:
        """Count that a call of this task has raised."""
        words, at = self._words, self._task(number) + TASKS_AT
        words[at] = words[at] + 1 & MOST_COUNT

    def _task(self, number: int) -> int:
        return self._times + TASKS_AT + counted_as(number) * TASK_WORDS

    def times(self) -> list[int]:
        """The words of the histograms of all messages."""
        return self._words[self._times : self._times + TASKS_AT].tolist()

    def tasks(self) -> list[list[int]]:
        """The words of each task that has counters of its own."""
        at, count = self._times + TASKS_AT, min(self[Field.TASKS], MOST_TASKS)
        words = self._words[at : at + count * TASK_WORDS].tolist()
        return [words[at : at + TASK_WORDS] for at in range(0, len(words), TASK_WORDS)]

    def clear(self) -> None:
        """Set all fields and histograms to 0, for a new life."""
        self._words[self._base : self._base + ROW_WORDS] = _NOTHING[:ROW_WORDS]
        self._words[self._times : self._times + TIMES_WORDS] = _NOTHING[:TIMES_WORDS]


class Scoreboard:
    """The rows of all lives, in memory that all processes of a pool share.

    fd: file descriptor of the memory, None = make it.
    """

    def __init__(self, fd: int | None = None) -> None:
        size = (ALL_ROWS_WORDS + MAX_ROWS * TIMES_WORDS) * WORD
        if fd is None:
            # Sealed: if a worker made it shorter, all processes that use it would be killed.
            fd = os.memfd_create("rsq-scoreboard", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        self.fd = fd
        self._bytes = mmap.mmap(fd, size)
        self._words = memoryview(self._bytes).cast("Q")

    def row(self, number: int) -> Row:
        """The row with this number, from 0 to MAX_ROWS - 1."""
        return Row(self._bytes, self._words, number)

    def someone_idle(self, now_ms: int) -> bool:
        """Has a worker of this pool been without work for longer than MOMENT_MS?"""
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
        """The word of this field in every row."""
        return self._words[ROW_WORDS + field : ALL_ROWS_WORDS : ROW_WORDS].tolist()

    @property
    def offers_waiting(self) -> int:
        """Offers that no worker has taken yet; if there are any, workers ask before they read."""
        return int(self._words[0])

    @offers_waiting.setter
    def offers_waiting(self, count: int) -> None:
        self._words[0] = count
