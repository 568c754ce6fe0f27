"""Whatever a handler does with its call: nothing is acknowledged that did not run, and no other
message suffers."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.apps.conftest import Scene

QUICK = ("--retry-delay-ms", "10", "--max-deliveries", "2", "--batch-size", "5")

APP = """
import asyncio, contextvars, functools, logging
from redis_stream_queue import Retry, SoftTimeLimitExceeded

class Panic(BaseException):  # as a Rust extension raises it
    pass

class Odd(Retry):
    def __init__(self):
        self.delay_ms = object()

async def cancelled_inside():
    task = asyncio.create_task(asyncio.sleep(10))
    await asyncio.sleep(0)
    task.cancel()
    await task

def cancelled():
    asyncio.run(cancelled_inside())

def raised(error):
    raise error

WAYS = {
    "panic": lambda: raised(Panic("unwrap of None")),
    "cancelled": cancelled,
    "keyboard": lambda: raised(KeyboardInterrupt("of a library")),
    "generator_exit": lambda: raised(GeneratorExit()),
    "group": lambda: raised(BaseExceptionGroup("several", [Panic("x")])),
    "exit": lambda: sys.exit("bye"),
    "stop_iteration": lambda: raised(StopIteration()),
    "odd_retry": lambda: raised(Odd()),
    "huge_retry": lambda: raised(Retry(delay_ms=10**25)),
}

def act(message):
    note("ran", message.id)
    if "way" in message.data:
        WAYS[message.data["way"]]()
    note("done", message.id)

@handled
@per_message
def handler(message):
    act(message)

async def own_task_cancelled():
    asyncio.current_task().cancel()
    await asyncio.sleep(10)

async def exits():
    sys.exit("of a task")

async def in_a_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(exits())

def cancels_when_it_is_over():
    asyncio.current_task().cancel()

ASYNC_WAYS = {
    "cancelled": cancelled_inside,
    "own_task": own_task_cancelled,
    "at_the_end": cancels_when_it_is_over,
    "exit_in_a_group": in_a_group,
}

async def act_async(message):
    way = message.data.get("way")
    if way not in ASYNC_WAYS:
        await asyncio.sleep(message.data.get("s", 0))
        act(message)
        return
    note("ran", message.id)
    if (waits := ASYNC_WAYS[way]()) is not None:
        await waits
    if way == "at_the_end":
        note("done", message.id)

@handled
@per_message
async def one_by_one(message):
    await act_async(message)

@handled
@per_message(concurrency=5)
async def lanes(message):
    await act_async(message)

@handled
def batch(messages):
    for message in messages:
        act(message)
    return [m.id for m in messages]

@handled
async def async_batch(messages):
    for message in messages:
        await act_async(message)
    return [m.id for m in messages]
"""

WAYS = [
    "panic",
    "cancelled",
    "keyboard",
    "generator_exit",
    "group",
    "exit",
    "stop_iteration",
    "odd_retry",
    "huge_retry",
]
ASYNC_WAYS = [*WAYS, "own_task", "exit_in_a_group"]


@pytest.mark.parametrize("target", ["handler", "one_by_one", "lanes"])
def test_whatever_is_raised_is_that_message_s_verdict(scene: Scene, target: str) -> None:
    """The message dies of it after its deliveries; its neighbours run once; no worker dies."""
    ways = WAYS if target == "handler" else ASYNC_WAYS
    pool = scene.start(APP, *QUICK, target=f"app:{target}")
    guilty = dict(zip(scene.push(*({"way": way} for way in ways)), ways, strict=True))
    innocent = scene.push(*({"s": 0.001} for _ in range(20)))
    [worker] = pool.workers()
    scene.ledger.wait_settled(innocent, 20)

    runs = Counter(line.split()[1] for line in scene.notes("ran"))
    assert runs == {**dict.fromkeys(guilty, 2), **dict.fromkeys(innocent, 1)}
    letters = {letter["original_id"]: letter["last_error"] for letter in scene.ledger.letters()}
    assert {guilty[entry_id] for entry_id in letters} == set(ways)
    assert pool.workers() == [worker]
    assert pool.drain() == 0


def test_a_call_that_cancels_its_own_task_at_its_end_is_done_all_the_same(scene: Scene) -> None:
    """And the next one does not get that cancellation."""
    scene.start(APP, *QUICK, target="app:one_by_one")
    ids = scene.push(*({"way": "at_the_end"} for _ in range(5)), {"s": 0.01})
    scene.ledger.wait_settled(ids)
    assert [line.split()[1] for line in scene.notes("done")] == ids
    assert scene.ledger.letters() == []


@pytest.mark.parametrize("target", ["batch", "async_batch"])
@pytest.mark.parametrize("way", ["panic", "cancelled", "exit"])
def test_what_a_batch_handler_raises_condemns_the_guilty_alone(
    scene: Scene, target: str, way: str
) -> None:
    pool = scene.start(APP, *QUICK, target=f"app:{target}")
    [worker] = pool.workers()
    first, guilty, *others = ids = scene.push({}, {"way": way}, {}, {})
    scene.ledger.wait_settled(ids)
    assert [letter["original_id"] for letter in scene.ledger.letters()] == [guilty]
    done = {line.split()[1] for line in scene.notes("done")}
    assert done == {first, *others}
    assert pool.workers() == [worker]


FORKS = """
import asyncio

async def waits():
    await asyncio.sleep(0.01)

def in_child(way):
    if way == "exit":
        sys.exit(4)
    if way == "raise":
        raise LookupError("in the child")
    if way == "_exit":
        os._exit(5)
    if way == "base":
        raise BaseExceptionGroup("b", [KeyboardInterrupt()])
    return "return"

def forks(message):
    note("ran", message.id, message.delivery_count)
    pid = os.fork() if "way" in message.data else 1
    if pid == 0:
        in_child(message.data["way"])
        return False
    if pid > 1:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        note("child", message.data["way"], code)
    note("done", message.id)
    return True

@handled
@per_message
def handler(message):
    forks(message)

@handled
@per_message
async def one_by_one(message):
    await asyncio.sleep(0.001)
    if not forks(message) and message.data["way"] == "await":
        await asyncio.sleep(0)
        await asyncio.sleep(30)

@handled
@per_message(concurrency=3)
async def lanes(message):
    await asyncio.sleep(0.001)
    if not forks(message) and message.data["way"] == "await":
        await asyncio.sleep(0)

@handled
def batch(messages):
    for message in messages:
        if not forks(message):
            break
    return [m.id for m in messages]

async def sub(message):
    return forks(message)

@handled
@per_message(concurrency=2)
async def subtasks(message):
    await asyncio.create_task(sub(message))
"""
CODES = {"exit": 4, "raise": 1, "_exit": 5, "base": 1, "return": 0}


@pytest.mark.parametrize("target", ["handler", "one_by_one", "lanes", "batch", "subtasks"])
def test_a_forked_child_is_never_a_worker(scene: Scene, target: str) -> None:
    """However it ends, its exit code is the one of plain Python, nothing runs twice, and the
    parent goes on."""
    codes = CODES | ({"await": 0 if target == "lanes" else 1} if target == "one_by_one" else {})
    pool = scene.start(FORKS, *QUICK, target=f"app:{target}")
    [worker] = pool.workers()
    ids = scene.push(*({"way": way} for way in CODES), *({} for _ in range(5)))
    scene.ledger.wait_settled(ids)
    more = scene.push({}, {})
    scene.ledger.wait_settled(more)

    runs = Counter(line.split()[1] for line in scene.notes("ran"))
    assert runs == dict.fromkeys([*ids, *more], 1)
    ended = dict(line.split()[1:] for line in scene.notes("child"))
    if target != "subtasks":  # what a child's task raises, nobody hears
        assert ended == {way: str(codes[way]) for way in CODES}
    assert set(ended) == set(CODES)
    assert scene.ledger.letters() == []
    assert pool.workers() == [worker]
    assert pool.drain() == 0


def test_a_forked_child_that_waits_in_the_loop_ends_there(scene: Scene) -> None:
    pool = scene.start(FORKS, *QUICK, target="app:one_by_one")
    ids = scene.push({"way": "await"}, {"way": "await"}, {})
    scene.ledger.wait_settled(ids)
    assert [line.split()[1] for line in scene.notes("done")] == ids
    assert len(scene.notes("child await")) == 2
    assert pool.drain() == 0


LOGGING = """
import asyncio
class Panic(BaseException):
    pass

def broken(record):
    raise Panic("the app's own logging")

def hang_in(where):
    if where == "handler":
        class Broken(logging.Handler):
            emit = staticmethod(broken)
        logging.getLogger().addHandler(Broken())
    elif where == "filter":
        class Filter(logging.Filter):
            filter = staticmethod(broken)
        logging.getLogger("redis_stream_queue").addFilter(Filter())
    elif where == "formatter":
        class Formatter(logging.Formatter):
            format = staticmethod(broken)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(Formatter())
    elif where == "factory":
        logging.setLogRecordFactory(lambda *a, **k: broken(None))

hang_in(os.environ["WHERE"])

def act(message):
    note("ran", message.id)
    if message.data.get("fails"):
        raise ValueError("an error that is logged")

@handled
@per_message
def handler(message):
    act(message)

@handled
@per_message(concurrency=3)
async def lanes(message):
    await asyncio.sleep(0)
    act(message)
"""


@pytest.mark.parametrize(
    ("where", "target", "level"),
    [
        ("handler", "handler", "info"),
        ("filter", "lanes", "info"),
        ("formatter", "lanes", "info"),
        ("factory", "handler", "info"),
        ("handler", "lanes", "debug"),
        ("factory", "handler", "debug"),
    ],
)
def test_no_log_call_changes_what_becomes_of_a_message(
    scene: Scene, where: str, target: str, level: str
) -> None:
    """Innocents run once, the failing one its deliveries, the worker lives and drains; what broke
    is said. At debug, asyncio's own lines break as well."""
    args = (*QUICK, "--log-level", level)
    pool = scene.start(LOGGING, *args, env={"WHERE": where}, target=f"app:{target}")
    [worker] = pool.workers()
    guilty, *innocent = ids = scene.push({"fails": True}, *({} for _ in range(10)))
    scene.ledger.wait_settled(ids)

    runs = Counter(line.split()[1] for line in scene.notes("ran"))
    assert runs == {guilty: 2, **dict.fromkeys(innocent, 1)}
    assert [letter["original_id"] for letter in scene.ledger.letters()] == [guilty]
    assert pool.workers() == [worker]
    assert pool.drain() == 0
    assert "the app's logging raised Panic" in pool.stderr


CONTEXT = """
import asyncio, contextvars
tenant = contextvars.ContextVar("tenant", default="nobody")

def see(message):
    note("saw", message.id, tenant.get())
    tenant.set("ALICE")
    if message.data.get("fails") and message.delivery_count == 1:
        raise ValueError

@handled
@per_message
def handler(message):
    see(message)

@handled
@per_message
async def one_by_one(message):
    see(message)
    await asyncio.sleep(message.data.get("s", 0))
    assert tenant.get() == "ALICE"

@handled
@per_message(concurrency=2)
async def lanes(message):
    see(message)
    await asyncio.sleep(0.001)
    assert tenant.get() == "ALICE"

def once(messages):
    see(messages[0])
    return [m.id for m in messages]

@handled
def batch(messages):
    return once(messages)

@handled
async def async_batch(messages):
    return once(messages)
"""


@pytest.mark.parametrize("target", ["handler", "one_by_one", "lanes", "batch", "async_batch"])
def test_messages_do_not_see_each_other_s_context(scene: Scene, target: str) -> None:
    scene.start(CONTEXT, *QUICK, target=f"app:{target}")
    for round_ in range(3):
        ids = scene.push({"fails": target == "handler"}, {}, {"s": 0.001}, {})
        scene.ledger.wait_settled(ids)
        assert len(scene.notes("saw")) > round_
    assert {line.split()[2] for line in scene.notes("saw")} == {"nobody"}
    assert scene.ledger.letters() == []


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
