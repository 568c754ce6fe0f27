"""Promises 1, 5 and 6: everything is handled, once, by all workers, and a stop is clean."""

from __future__ import annotations

import os
import re
import signal
from itertools import pairwise

import pytest

from tests.pool.conftest import StartPool
from tests.support.ledger import GROUP, Ledger
from tests.support.waiting import wait_until

MANY = 10_000


def test_eight_workers_handle_every_message_exactly_once(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """8 workers are 8 consumers; 10,000 messages pushed meanwhile are each handled once, and the
    master's totals say so."""
    pool = start_pool("--workers", "8")

    def names() -> set[str]:
        return {name for name in ledger.consumers() if ":retry:" not in name}

    ledger.wait(lambda: len(names()) == 8, "each worker has read")
    ids = [i for _ in range(100) for i in ledger.push(*({} for _ in range(MANY // 100)))]
    ledger.wait_ended(MANY, timeout_s=60)

    assert len(names()) == 8
    assert sorted(n.id for n in ledger.started()) == sorted(ids)
    ledger.wait_nothing_pending()
    pool.send(signal.SIGUSR1)
    pool.wait_log(rf"handled {MANY} ")
    assert pool.drain() == 0


@pytest.mark.parametrize("target", ["app:handler", "app:batch", "app:async_handler"])
def test_every_kind_of_handler_works_in_a_burst(
    start_pool: StartPool, ledger: Ledger, target: str
) -> None:
    """Plain, batch and async handlers: --burst handles all there is and exits with 0."""
    ids = ledger.push(*({"n": n} for n in range(200)))

    pool = start_pool("--workers", "2", "--burst", target=target, ready=False)

    assert pool.wait(20) == 0
    assert ledger.executions() == dict.fromkeys(ids, 1)
    assert ledger.pending() == 0
    assert ledger.consumers() == []


@pytest.mark.parametrize("batch_size", ["auto", "20"])
def test_a_free_lane_takes_the_next_message_while_another_is_busy(
    start_pool: StartPool, ledger: Ledger, batch_size: str
) -> None:
    """@per_message(concurrency=4): one message for ever, and 3 lanes for all others, those that
    come later and those that fail and come again, too; never more than 4."""
    args = ("--workers", "1", "--batch-size", batch_size, "--retry-delay-ms", "20")
    start_pool(*args, target="app:lanes")
    [long_one] = ledger.push({"s": 60})
    ledger.wait_started(1)

    for _ in range(3):
        before = len(ledger.ended())
        ledger.push(*({"s": 0.02} for _ in range(30)))
        ledger.wait_ended(before + 30)

    before = len(ledger.ended())
    ids = ledger.push(*({"do": "raise_first"} for _ in range(10)))
    ledger.wait_ended(before + 10)
    assert {ledger.executions()[entry_id] for entry_id in ids} == {2}

    assert long_one not in {note.id for note in ledger.ended()}
    running = 0
    failed = {i for i, count in ledger.executions().items() if count == 2}
    notes = [(n.at_s, 1) for n in ledger.started() if n.id not in failed]
    notes += [(n.at_s, -1) for n in ledger.ended() if n.id not in failed]
    for _, change in sorted(notes):
        running += change
        assert running <= 4


def test_a_verdict_does_not_wait_for_a_busy_lane_while_offers_do(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """A last delivery, which must be alone, waits for the long one; what is rejected meanwhile is
    buried at once."""
    args = ("--workers", "1", "--max-deliveries", "2", "--retry-delay-ms", "20")
    start_pool(*args, target="app:lanes")
    ledger.push({"s": 60})
    ledger.wait_started(1)
    rejected, _ = ledger.push({"do": "reject", "s": 0.5}, {"do": "raise_first"})

    ledger.wait(lambda: bool(ledger.letters()), "a dead letter")

    assert [letter["original_id"] for letter in ledger.letters()] == [rejected]


def test_burst_waits_for_retries_and_exits_with_1_when_a_message_died(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """--burst ends when nothing waits for a retry either; dead letters make it exit with 1."""
    ledger.push({}, {"do": "raise"})

    pool = start_pool("--workers", "1", "--burst", "--retry-delay-ms", "20", ready=False)

    assert pool.wait(20) == 1
    assert len(ledger.letters()) == 1
    assert ledger.pending() == 0


def test_a_message_that_always_raises_gets_max_deliveries_and_one_letter(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """Exactly max_deliveries executions with growing delays, then one dead letter that says why."""
    pool = start_pool("--workers", "2", "--max-deliveries", "4", "--retry-delay-ms", "100")
    [poison] = ledger.push({"do": "raise"})

    ledger.wait(lambda: bool(ledger.letters()), "a dead letter")

    runs = ledger.started()
    pauses = [b.at_s - a.at_s for a, b in pairwise(runs)]
    assert [r.delivery_count for r in runs] == [1, 2, 3, 4]
    assert pauses[0] >= 0.075
    assert pauses[1] >= 0.150
    assert pauses[2] >= 0.300
    [letter] = ledger.letters()
    assert letter["original_id"] == poison
    assert letter["original_stream"] == "work"
    assert letter["group"] == GROUP
    assert letter["reason"] == "max_deliveries"
    assert letter["delivery_count"] == "4"
    assert letter["data"] == '{"do":"raise"}'
    assert letter["last_error"].startswith("ValueError: on purpose")
    assert ledger.pending() == 0
    assert pool.drain() == 0


@pytest.mark.parametrize("target", ["app:handler", "app:batch"])
def test_one_bad_message_in_a_batch_of_20_takes_nobody_down(
    start_pool: StartPool, ledger: Ledger, target: str
) -> None:
    """19 are handled, 1 is dead, whichever kind of handler it is."""
    messages = [{} for _ in range(20)]
    messages[7] = {"do": "raise"}
    ids = ledger.push(*messages)
    start_pool("--workers", "1", "--batch-size", "20", "--retry-delay-ms", "20", target=target)

    ledger.wait(lambda: bool(ledger.letters()), "a dead letter")
    ledger.wait_nothing_pending()

    assert {n.id for n in ledger.ended()} == set(ids) - {ids[7]}
    assert [letter["original_id"] for letter in ledger.letters()] == [ids[7]]


def test_reject_goes_to_the_dead_letters_at_once(start_pool: StartPool, ledger: Ledger) -> None:
    """``raise Reject`` is one execution and a letter with reason ``rejected``."""
    start_pool("--workers", "1")
    [rejected] = ledger.push({"do": "reject"})

    ledger.wait(lambda: bool(ledger.letters()), "a dead letter")

    assert ledger.executions() == {rejected: 1}
    assert [(x["reason"], x["last_error"]) for x in ledger.letters()] == [
        ("rejected", "not for us")
    ]


def test_sigterm_lets_running_messages_finish_and_leaves_nothing_behind(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """Running messages finish, nothing new starts, exit 0, no pending entry, no consumer."""
    pool = start_pool("--workers", "2")
    ledger.push(*({"do": "sleep", "s": 1.5} for _ in range(6)))
    running = {n.id for n in ledger.wait_started(2)}

    code = pool.drain()

    assert code == 0
    assert {n.id for n in ledger.ended()} == running
    assert len(ledger.started()) == 2
    assert ledger.pending() == 0
    assert ledger.consumers() == []
    assert pool.processes() == []


def test_a_drained_batch_gives_back_what_it_had_not_started(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """Prefetched messages are given back uncounted: the next pool runs them as the first time."""
    pool = start_pool("--workers", "1", "--batch-size", "10")
    ids = ledger.push(*({"do": "sleep", "s": 0.5} for _ in range(5)))
    ledger.wait_started(1)

    assert pool.drain() == 0
    start_pool("--workers", "2")
    ledger.wait_ended(5)

    assert ledger.executions() == dict.fromkeys(ids, 1)
    assert {n.delivery_count for n in ledger.started()} == {1}


def test_graceful_timeout_ends_the_wait_and_gives_the_message_back(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """What cannot finish in time is given back at once and uncounted; the exit code is 0."""
    pool = start_pool("--workers", "1", "--graceful-timeout", "0.3")
    [long_one] = ledger.push({"do": "sleep_first", "s": 60})
    ledger.wait_started(1)

    assert pool.drain() == 0

    [line] = ledger.redis.xpending_range("work", GROUP, "-", "+", 10)
    assert line["message_id"].decode() == long_one
    assert line["consumer"] == b"crew:retry:1"
    assert line["times_delivered"] == 0
    assert pool.processes() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_leaves_at_once(
    start_pool: StartPool, ledger: Ledger, number: signal.Signals
) -> None:
    """The second TERM or INT gives back what runs and leaves."""
    pool = start_pool("--workers", "1")
    ledger.push({"do": "sleep", "s": 60})
    ledger.wait_started(1)

    pool.send(number)
    pool.wait_log("draining")
    pool.send(number)

    assert pool.wait(5) == 0
    [line] = ledger.redis.xpending_range("work", GROUP, "-", "+", 10)
    assert line["consumer"] == b"crew:retry:1"


def test_sigquit_leaves_at_once(start_pool: StartPool, ledger: Ledger) -> None:
    """QUIT waits for nothing; the message is still in the stream for others."""
    pool = start_pool("--workers", "1")
    ledger.push({"do": "sleep", "s": 60})
    ledger.wait_started(1)

    pool.send(signal.SIGQUIT)

    assert pool.wait(5) == 0
    assert pool.processes() == []
    assert ledger.pending() == 1


def test_sigterm_to_one_worker_replaces_it(start_pool: StartPool, ledger: Ledger) -> None:
    """A worker that is told to stop finishes its message, and another takes its slot."""
    pool = start_pool("--workers", "1")
    [first] = pool.workers()
    ids = ledger.push({"do": "sleep", "s": 0.5}, {})
    ledger.wait_started(1)

    os.kill(first, signal.SIGTERM)
    ledger.wait_ended(2)

    assert ledger.executions() == dict.fromkeys(ids, 1)
    wait_until(lambda: pool.workers() not in ([], [first]), 5, "a new worker")


def test_the_status_line_names_the_totals(start_pool: StartPool, ledger: Ledger) -> None:
    """USR1 writes one line with workers, handled, errors, dead and replaced."""
    pool = start_pool("--workers", "2", "--retry-delay-ms", "10")
    ledger.push({}, {}, {"do": "raise"})
    ledger.wait(lambda: bool(ledger.letters()), "a dead letter")

    def said() -> bool:
        pool.send(signal.SIGUSR1)  # again, should the letter be there before it is counted
        wanted = r"2 workers \(0 busy\), handled 2 .*errors 3, dead 1, replaced 0"
        return bool(re.search(wanted, pool.stderr))

    wait_until(said, 5, "the status line names the totals")
