"""rsq cron as a user runs it."""

from __future__ import annotations

import json

import redis

from redis_stream_queue import Cron, Every, JsonSerializer
from redis_stream_queue.connection.scripts import Script
from redis_stream_queue.later.cron_scripts import DECLARE
from redis_stream_queue.later.periodic import schedules_of
from tests.support.rsq import rsq


def run(server: redis.Redis, script: Script, keys: list[str], *args: object) -> object:
    return server.eval(script.source, len(keys), *keys, *args)  # type: ignore[arg-type]


def test_periodic_messages_are_listed_run_and_paused(pool_url: str) -> None:
    schedules = schedules_of(
        [Cron("nightly", "0 3 * * *", {"a": 1}, tz="Europe/Berlin"), Every("beat", 30)],
        JsonSerializer().encode,
    )
    args = [part for s in schedules for part in (s.name, s.spec, s.payload)]
    with redis.Redis.from_url(pool_url) as server:
        run(server, DECLARE, ["{reports}:cron"], 1, *args)

        listed = rsq("cron", "list", "reports", "--json", url=pool_url).stdout.splitlines()
        beat, nightly = map(json.loads, listed)
        assert (beat["name"], beat["every_s"], beat["alive"]) == ("beat", 30, True)
        assert (nightly["cron"], nightly["tz"]) == ("0 3 * * *", "Europe/Berlin")
        assert nightly["next"].endswith("+00:00")
        assert "every 30 s" in rsq("cron", "list", "reports", url=pool_url).stdout

        entry_id = rsq("cron", "run", "reports", "nightly", url=pool_url).stdout.strip()
        [(found, fields)] = server.xrange("reports")
        assert found.decode() == entry_id
        assert fields == {b"data": b'{"a":1}', b"rsq:cron": b"nightly", b"rsq:manual": b"1"}

    assert "paused: beat" in rsq("cron", "pause", "reports", "beat", url=pool_url).stdout
    assert "PAUSED" in rsq("cron", "list", "reports", url=pool_url).stdout
    assert "goes on: beat" in rsq("cron", "resume", "reports", "beat", url=pool_url).stdout
    with redis.Redis.from_url(pool_url) as server:  # what others have written is shown as it can be
        server.hset(
            "{reports}:cron", mapping={"spec:odd": "?", "last:beat": "x", "seen:beat": "9" * 5000}
        )
        server.set("{reports}:later", "?")
    odd = rsq("cron", "list", "reports", "--json", url=pool_url).stdout.splitlines()
    assert [json.loads(line)["name"] for line in odd] == ["beat", "nightly", "odd"]
    assert "odd" in rsq("cron", "list", "reports", url=pool_url).stdout
    listed_too = rsq("later", "list", "reports", url=pool_url)
    assert (
        listed_too.returncode,
        "the key '{reports}:later' holds a string" in listed_too.stderr,
    ) == (2, True)
    assert rsq("stats", "reports", url=pool_url).returncode == 0
    found = json.loads(rsq("doctor", "reports", "--json", url=pool_url).stdout)["findings"]
    assert "{reports}:later" in next(f for f in found if f["name"] == "wrong_kind")["what"]
    unknown = rsq("cron", "run", "reports", "weekly", url=pool_url)
    assert (unknown.returncode, "no periodic message" in unknown.stderr) == (1, True)
    assert "nothing periodic" in rsq("cron", "list", "other", url=pool_url).stderr
