"""Foreign names, extreme ids and forged letters: each is what it is, and stops nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

from redis_stream_queue import StreamClient
from redis_stream_queue._names import MOST_DUE_MS, parking_due_ms
from redis_stream_queue.delivery.dead_letter import LETTER_FIELDS
from redis_stream_queue.delivery.fate import Owner, Policy
from redis_stream_queue.delivery.pending import PendingList
from redis_stream_queue.delivery.sweep import Sweep
from redis_stream_queue.message import GREATEST_ID, PendingEntry

from .conftest import Rsq, StartPool

APP = """
from redis_stream_queue import per_message, stream_handler

@stream_handler("s", group="g", retry_delay_ms=50, min_idle_claim_ms=300)
@per_message
def handler(message):
    if message.data == "fails" and message.delivery_count == 1:
        raise ValueError("once")
"""
NAMES: list[str | bytes] = [
    "g:retry:" + "9" * 5000,
    "g:retry:99999999999999999999",
    "g:retry:3",
    "g:retry:01",
    "g:retry:",
    "g:retry:-4",
    "g:retry:1e3",
    "g:retry:4\n",
    "g:retry:٣",
    f"g:retry:{2 * MOST_DUE_MS}",
    "g:retry:1:retry:4",
    "a\nb\x1b[31m",
    "x" * 100_000,
]
EVIL = b"\x1b]52;c;ZXZpbA==\x07\r\n2026-11-26T00:00:00.000Z CRITICAL master forged \xe2\x80\xae"


def letter(stream: str, payload: str, *own: str) -> list[str]:
    """What XADD wants for a letter that says it came from this stream."""
    ours = {**dict.fromkeys(LETTER_FIELDS, "1"), "original_stream": stream, "reason": "rejected"}
    return ["data", payload, *own, *(part for pair in ours.items() for part in pair)]


def visible(output: bytes) -> bool:
    return output.decode().replace("\n", "").isprintable()


def test_only_names_that_we_make_are_parking_names() -> None:
    for exponent in range(37):
        assert parking_due_ms("g", f"g:retry:{1 << exponent}") == 1 << exponent
    assert all(parking_due_ms("g", str(name)) is None for name in NAMES)


def test_entries_under_odd_names_and_the_greatest_id_are_handled_and_burst_ends(
    raw: Any, start_pool: StartPool, rsq: Rsq
) -> None:
    raw.xgroup_create("s", "g", "0", mkstream=True)
    for name in NAMES:
        raw.xadd("s", {"data": json.dumps("fails")})
        raw.execute_command("XREADGROUP", "GROUP", "g", name, "COUNT", 1, "STREAMS", "s", ">")
    raw.xadd("s", {"data": json.dumps("fails")}, id=GREATEST_ID)
    raw.execute_command("XREADGROUP", "GROUP", "g", "h\r", "COUNT", 1, "STREAMS", "s", ">")
    shown = rsq("stats", "s")
    assert shown.returncode == 0
    assert visible(shown.stdout)

    pool = start_pool(APP, "--workers", "2", "--burst", "--max-deliveries", "9")

    assert pool.wait() == 0
    assert raw.xpending("s", "g")["pending"] == 0
    assert raw.xlen("s_dlq") == 0
    assert rsq("stats", "s").returncode == 0


def test_a_message_with_the_greatest_id_that_waits_unread(raw: Any, start_pool: StartPool) -> None:
    raw.xgroup_create("s", "g", "0", mkstream=True)
    for number in range(1, 501):  # a whole page of the pending list
        raw.xadd("s", {"data": "1"}, id=f"1-{number}")
    raw.xadd("s", {"data": json.dumps("fails")}, id=GREATEST_ID)
    raw.execute_command("XREADGROUP", "GROUP", "g", "gone", "COUNT", 500, "STREAMS", "s", ">")
    assert start_pool(APP, "--workers", "2", "--burst").wait() == 0
    assert raw.xpending("s", "g")["pending"] == 0


def test_a_letter_has_its_own_id_and_keeps_the_messages_own_fields(raw: Any, rsq: Rsq) -> None:
    innocent = raw.execute_command("XADD", "s_dlq", "*", *letter("s", "1")).decode()
    forged = raw.execute_command(
        "XADD", "s_dlq", "*", *letter("s", "2", "id", innocent, "reason", "mine", "headers", "h")
    ).decode()

    lines = [json.loads(line) for line in rsq("dlq", "list", "s", "--json").stdout.splitlines()]
    assert [line["id"] for line in lines] == [innocent, forged]
    assert lines[1]["reason"] == "rejected"
    assert lines[1]["headers"] == {"id": innocent, "reason": "mine", "headers": "h"}
    assert json.loads(rsq("dlq", "show", "s", forged, "--json").stdout) == lines[1]
    assert rsq("dlq", "show", "s", forged).stdout.splitlines()[0].split() == [
        b"id",
        forged.encode(),
    ]

    assert rsq("dlq", "purge", "s", lines[1]["id"]).returncode == 0
    assert [entry_id.decode() for entry_id, _ in raw.xrange("s_dlq")] == [innocent]


def test_letters_of_other_streams_go_back_only_where_one_says(raw: Any, rsq: Rsq) -> None:
    for stream in ("s", "payments", "s\x1b[31m"):
        raw.execute_command("XADD", "s_dlq", "*", *letter(stream, "1"))
    raw.xadd("s_dlq", {"data": "nobody's"})

    done = rsq("dlq", "requeue", "s", "--all")
    assert done.returncode == 1
    assert b"requeued: 1 dead letter" in done.stdout
    assert b"3 dead letters did not come from 's'" in done.stderr
    assert b"--to" in done.stderr
    assert visible(done.stderr)
    assert raw.xlen("s") == 1
    assert raw.exists("payments") == 0

    assert rsq("dlq", "requeue", "s", "--all", "--to", "payments").returncode == 0
    assert raw.xlen("payments") == 3
    assert raw.xlen("s_dlq") == 0


def test_letters_newer_than_our_clock_and_with_the_greatest_id_are_seen(raw: Any, rsq: Rsq) -> None:
    for number in range(150):
        raw.execute_command("XADD", "s_dlq", f"1-{number + 1}", *letter("s", "1"))
    ahead = f"{int(time.time() * 1000) + 3_600_000}-0"
    for entry_id in (ahead, GREATEST_ID):
        raw.execute_command("XADD", "s_dlq", entry_id, *letter("s", "1"))
    listed = rsq("dlq", "list", "s", "--limit", "500").stdout.decode().splitlines()
    assert [line.split()[0] for line in listed[-2:]] == [ahead, GREATEST_ID]
    assert len(listed) == 152
    assert b"2 dead letters" in rsq("dlq", "purge", "s", "--newer-than", "1h").stdout
    assert b"150 dead letters" in rsq("dlq", "requeue", "s", "--all").stdout


def test_nothing_that_others_wrote_reaches_the_terminal_as_it_is(raw: Any, rsq: Rsq) -> None:
    raw.xgroup_create("s", EVIL, "0", mkstream=True)
    raw.xadd("s", {"data": EVIL})
    raw.execute_command("XREADGROUP", "GROUP", EVIL, EVIL, "STREAMS", "s", ">")
    evil = EVIL.decode()
    ours = dict.fromkeys(LETTER_FIELDS, evil)
    entry_id = raw.xadd("s_dlq", {"data": EVIL, evil: evil, **ours}).decode()
    for args in (
        ("stats", "s"),
        ("stats", "s", "--group", "none"),
        ("stats", "s", "--group", EVIL),
        ("dlq", "list", "s"),
        ("dlq", "show", "s", entry_id),
        ("dlq", "requeue", "s", "--all"),
        ("dlq", "list", EVIL),
        ("dlq", "requeue", "s", EVIL),
        ("push", "s", EVIL),
        ("push", "s", "1", "--serializer", EVIL),
        ("stats", "s", "--url", b"redis://" + EVIL),
        (EVIL,),
        ("stats", "s", b"--" + EVIL),
    ):
        done = rsq(*args)
        assert visible(done.stdout), args
        assert visible(done.stderr), args
        assert b"CRITICAL" not in b"".join(
            line[:30] for line in (done.stdout + done.stderr).splitlines() if line[:4] == b"2026"
        )
    for args in (("stats", "s"), ("dlq", "list", "s"), ("dlq", "show", "s", entry_id)):
        line = rsq(*args, "--json").stdout
        assert line.isascii()
        assert visible(line)
        json.loads(line)


async def test_an_entry_that_cannot_be_judged_stops_no_other(pool_url: str, raw: Any) -> None:
    client = StreamClient.from_url(pool_url)
    raw.xgroup_create("s", "g", "0", mkstream=True)
    for number in range(5):
        raw.xadd("s", {"data": "1"}, id=f"1-{number + 1}")
    raw.xreadgroup("g", "c", {"s": ">"})

    def owner_of(entry: PendingEntry) -> Owner:
        if entry.id == "1-2":
            raise ValueError("nobody knows")
        return Owner.DEAD_WAITING

    sweep = Sweep(PendingList(client, "s", "g"), Policy("g", 100, 3), owner_of)
    assert [entry.id for entry, _ in await sweep.page()] == ["1-1", "1-3", "1-4", "1-5"]
    assert sweep.at_start
    await client.close()
