"""A soft time limit stops what it interrupts, whatever the handler waits in."""

from __future__ import annotations

from tests.apps.conftest import Scene

SOFT = """
import asyncio
from redis_stream_queue import SoftTimeLimitExceeded

async def goes_on(where):
    try:
        await asyncio.sleep(1.0)
        note("went on", where)
    except asyncio.CancelledError:
        note("stopped", where)
        raise

async def under_wait_for():
    await asyncio.wait_for(goes_on("wait_for"), 60)

async def under_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(goes_on("group"))
        await asyncio.sleep(60)

async def under_gather():
    await asyncio.gather(goes_on("gather"), goes_on("gather"))

async def under_a_timeout():
    async with asyncio.timeout(60):
        await goes_on("timeout")

async def catches():
    try:
        await asyncio.wait_for(goes_on("catches"), 60)
    except SoftTimeLimitExceeded as limit:
        note("caught", str(limit).replace(" ", "_"))
        async with asyncio.timeout(5):  # works as usual afterwards
            await asyncio.sleep(0.01)
        return

SCENES = (under_wait_for, under_a_group, under_gather, under_a_timeout, catches)
WAYS = {scene.__name__: scene for scene in SCENES}

@handled
@per_message(concurrency=5)
async def handler(message):
    await WAYS[message.data["way"]]()
    note("done", message.data["way"])

def own_alarm(*_):
    raise TimeoutError("the app's own alarm")

@handled
@per_message
def plain(message):
    old = signal.signal(signal.SIGALRM, own_alarm)
    signal.alarm(30)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, old)
    try:
        if message.data.get("looks_plain"):
            return goes_on("awaited")
        if message.data.get("own"):
            signal.signal(signal.SIGALRM, own_alarm)
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(message.data.get("s", 0))
    except TimeoutError as error:
        note("own")
    note("done", "plain")
"""


def test_a_soft_limit_stops_what_it_interrupts(scene: Scene) -> None:
    """Also what runs under it: nothing goes on beside the retry."""
    ways = ["under_wait_for", "under_a_group", "under_gather", "under_a_timeout"]
    args = ("--soft-time-limit", "0.2", "--max-deliveries", "1")
    scene.start(SOFT, *args)
    ids = scene.push(*({"way": way} for way in [*ways, "catches"]))
    scene.ledger.wait_settled(ids)
    stopped = ["catches", "gather", "gather", "group", "timeout", "wait_for"]
    scene.wait_notes("stopped", len(stopped))

    assert sorted(line.split()[1] for line in scene.notes("stopped")) == stopped
    assert scene.notes("went on") == []
    assert scene.notes("caught") == ["caught the_handler_ran_for_more_than_0.2_s"]
    assert scene.notes("done") == ["done catches"]
    letters = scene.ledger.letters()
    assert sorted(letter["original_id"] for letter in letters) == sorted(ids[:4])
    said = "SoftTimeLimitExceeded: the handler ran for more than 0.2 s"
    assert {letter["last_error"].partition("\n")[0] for letter in letters} == {said}


def test_an_app_may_use_sigalrm_beside_the_soft_limit(scene: Scene) -> None:
    """Its own alarms ring, and switch nothing off."""
    args = ("--soft-time-limit", "0.3", "--max-deliveries", "1", "--batch-size", "1")
    scene.start(SOFT, *args, target="app:plain")
    own, hangs, looks_plain, quick = ids = scene.push(
        {"own": True, "s": 0.2}, {"s": 30}, {"looks_plain": True}, {}
    )
    scene.ledger.wait_settled(ids)
    assert scene.notes("own") == ["own"]
    assert scene.notes("done") == ["done plain"] * 2
    letters = {letter["original_id"]: letter["last_error"] for letter in scene.ledger.letters()}
    assert set(letters) == {hangs, looks_plain}
    assert all(error.startswith("SoftTimeLimitExceeded") for error in letters.values())
    assert (own, quick) == (ids[0], ids[3])
