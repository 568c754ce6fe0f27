"""rsq pause, resume, cancel and show as a user runs them."""

from __future__ import annotations

import json

import pytest
import redis

from tests.support.rsq import rsq


def test_a_stream_is_paused_and_goes_on(pool_url: str) -> None:
    rsq("push", "orders", "--group", "g", "1", url=pool_url)
    assert "until rsq resume: orders, group g" in rsq(
        "pause", "orders", "--group", "g", url=pool_url
    ).stdout  # fmt: skip
    assert "for 10.0 min: orders, all groups" in rsq(
        "pause", "orders", "--for", "10m", url=pool_url
    ).stdout  # fmt: skip
    paused = json.loads(rsq("stats", "orders", "--json", url=pool_url).stdout)["paused"]
    assert sorted(line.split(",")[0] for line in paused) == ["all groups", "group g"]
    assert "PAUSED" in rsq("stats", "orders", url=pool_url).stdout
    assert rsq("resume", "orders", url=pool_url).returncode == 0
    typo = rsq("pause", "orders", "--group", "gg", url=pool_url)
    assert (typo.returncode, "orders has no group 'gg' so far. It has: g" in typo.stderr) == (
        0,
        True,
    )
    nobody = rsq("pause", "odrers", url=pool_url)
    assert (nobody.returncode, "odrers has no group so far" in nobody.stderr) == (0, True)
    again = rsq("resume", "orders", url=pool_url)
    assert (again.returncode, "was not paused" in again.stderr) == (1, True)


def test_messages_are_shown_and_cancelled(pool_url: str) -> None:
    one = rsq("push", "orders", "--group", "g", '{"n": 1}', url=pool_url).stdout.strip()
    later = rsq("push", "orders", "--delay", "1h", "2", url=pool_url).stdout.strip()
    shown = json.loads(rsq("show", "orders", one, "--json", url=pool_url).stdout)
    assert (shown["state"], shown["data"]) == ("waiting", '{"n":1}')
    assert shown["groups"][0]["group"] == "g"
    assert "scheduled" in rsq("show", "orders", later, url=pool_url).stdout

    done = rsq("cancel", "orders", one, later, url=pool_url)
    assert (done.returncode, done.stdout.split()) == (0, [one, "waiting", later, "scheduled"])
    again = rsq("cancel", "orders", one, url=pool_url)
    assert (again.returncode, again.stdout.split()) == (1, [one, "gone"])
    assert rsq("show", "orders", one, url=pool_url).returncode == 1


def test_a_dead_one_is_found_by_each_id_that_it_had(pool_url: str) -> None:
    """That of its schedule, that before a long retry, and that of its last entry."""
    later = rsq("push", "orders", "--delay", "1h", "1", url=pool_url).stdout.strip()
    letter = {"data": "1", "rsq:scheduled": later, "rsq:first": "7-7", "original_id": "9-9"}
    with redis.Redis.from_url(pool_url) as server:
        server.delete("{orders}:later")
        server.xadd("orders_dlq", {**letter, "original_stream": "orders"}, id="9999999999999-0")
    for one in (later, "7-7", "9-9"):
        shown = json.loads(rsq("show", "orders", one, "--json", url=pool_url).stdout)
        assert (shown["id"], shown["state"]) == ("9-9", "dead")


@pytest.mark.parametrize("command", ["show", "cancel"])
def test_what_is_no_id_is_a_usage_error(command: str) -> None:
    for wrong in ("x", f"{2**64}-0"):
        done = rsq(command, "orders", wrong, url="redis://127.0.0.1:1")
        assert (done.returncode, "expected a message's id" in done.stderr) == (2, True)
