"""Apps that do what no app should: nothing hangs, nothing is lost, and only the guilty is dead."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.ledger import SOURCE, Ledger
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

BAD_APP = (
    SOURCE
    + """
class DeadlyDecoder:
    def encode(self, data):
        return json.dumps(data).encode()
    def decode(self, raw):
        data = json.loads(raw)
        if data.get("do") == "kill the decoder":
            os._exit(9)
        return data

@stream_handler("work", group="crew", serializer=DeadlyDecoder())
@per_message
def deadly(message):
    act(message)

@stream_handler("work", group="crew", serializer=DeadlyDecoder())
@per_message(concurrency=4)
async def deadly_lanes(message):
    await act_async(message)

@crew
@per_message(concurrency=20)
async def half_an_emoji(message):
    if message.data.get("do") == "raise":
        raise ValueError("half an emoji \\ud83d")
    act(message)

async def end_in_dlq_handler(message, reason):
    note("told", message)
    os._exit(3)

@stream_handler("work", group="crew", dlq_handler=end_in_dlq_handler)
@per_message
def deadly_letters(message):
    act(message)

def unwrapped(func):
    def wrapper(message):
        return func(message)
    return wrapper

@crew
@per_message
@unwrapped
async def looks_plain(message):
    act(message)
"""
)
RETRIES = ("--retry-delay-ms", "50", "--retry-max-delay-ms", "50")


def dead(ledger: Ledger) -> list[tuple[str, str]]:
    return [(letter["original_id"], letter["last_error"]) for letter in ledger.letters()]


@pytest.mark.parametrize("target", ["app:deadly"])
def test_a_message_that_kills_its_worker_in_the_decoder_is_buried(
    pool_url: str, tmp_path: Path, ledger: Ledger, target: str
) -> None:
    ids = ledger.push(*({"do": "kill the decoder"} if n == 3 else {} for n in range(10)))
    args = ("--workers", "2", *RETRIES)
    with PoolProcess(BAD_APP, *args, url=pool_url, cwd=tmp_path, target=target):
        ledger.wait_settled(ids, 15)
    assert dead(ledger) == [(ids[3], "exit code 9")]
    assert {note.id for note in ledger.ended()} == set(ids) - {ids[3]}


@pytest.mark.parametrize("target", ["app:deadly", "app:deadly_lanes"])
def test_innocents_live_beside_a_message_that_kills_while_more_are_read(
    pool_url: str, tmp_path: Path, ledger: Ledger, target: str
) -> None:
    """It is decoded in the middle of a batch, while others run."""
    args = ("--workers", "1", *RETRIES)
    with PoolProcess(BAD_APP, *args, url=pool_url, cwd=tmp_path, target=target) as pool:
        pool.wait_ready()
        short = {"do": "sleep", "s": 0.005}
        ids = ledger.push(*({"do": "kill the decoder"} if n == 150 else short for n in range(300)))
        ledger.wait_settled(ids, 30)
    assert dead(ledger) == [(ids[150], "exit code 9")]
    assert {note.id for note in ledger.ended()} == set(ids) - {ids[150]}


def test_an_error_text_that_utf_8_cannot_express_is_escaped_and_strands_nobody(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    ids = ledger.push(*({"do": "raise"} if n % 3 == 0 else {} for n in range(12)))
    args = ("--workers", "1", *RETRIES)
    with PoolProcess(BAD_APP, *args, url=pool_url, cwd=tmp_path, target="app:half_an_emoji"):
        ledger.wait_settled(ids, 15)
    letters = dead(ledger)
    assert sorted(entry_id for entry_id, _ in letters) == ids[::3]
    assert all(r"ValueError: half an emoji \ud83d" in error for _, error in letters)


def test_a_dlq_handler_that_ends_its_process_is_passed_over_in_the_end(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """It is called a few times, and then the letter moves without it."""
    [entry_id] = ledger.push({"do": "reject"})
    with PoolProcess(
        BAD_APP, "--workers", "1", url=pool_url, cwd=tmp_path, target="app:deadly_letters"
    ):
        ledger.wait_settled([entry_id], 20)
    assert [letter for letter, _ in dead(ledger)] == [entry_id]
    assert len(ledger.notes.of("told")) == 3
    assert len(ledger.started()) == 1


def test_what_a_plain_looking_handler_gives_is_awaited(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    ids = ledger.push({}, {})
    args = ("--workers", "1", *RETRIES)
    with PoolProcess(BAD_APP, *args, url=pool_url, cwd=tmp_path, target="app:looks_plain"):
        ledger.wait_settled(ids, 15)
    assert [note.id for note in ledger.ended()] == ids
    assert dead(ledger) == []


def test_a_long_job_does_not_keep_other_workers_from_being_replaced(
    pool_url: str, tmp_path: Path, ledger: Ledger
) -> None:
    """Two workers of ten messages each, one of them busy for long, and fresh code meanwhile."""
    [long_one] = ledger.push({"do": "sleep", "s": 60})
    args = ("--workers", "2", "--max-messages-per-child", "10")
    with PoolProcess(BAD_APP, *args, url=pool_url, cwd=tmp_path) as pool:
        pool.wait_ready()
        wait_until(lambda: ledger.started(), 10, "the long one runs")
        pool.send(signal.SIGHUP)
        ids = ledger.push(*({} for _ in range(100)))
        wait_until(lambda: len(ledger.ended()) == len(ids), 20, "all others are handled")
    assert long_one not in {note.id for note in ledger.ended()}
