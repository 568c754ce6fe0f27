"""An app that does at random what real ones do to their process: the ledger stays right.

The short run is in the suite; the long one: ``scripts/test -m soak tests/apps``.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.apps.conftest import Scene
from tests.support.waiting import wait_until

DELIVERIES = 3

APP = """
import asyncio, contextvars, multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from redis_stream_queue import Reject, Retry

tenant = contextvars.ContextVar("tenant", default=None)

class Panic(BaseException):
    pass

class Broken(logging.Handler):
    def emit(self, record):
        raise Panic("of the app's logging")

class Odd(Retry):
    def __init__(self):
        self.delay_ms = "soon"

def raised(error):
    raise error

def square(n):
    return n * n

def nap(seconds):
    time.sleep(seconds)

def forks(code):
    if not (pid := os.fork()):
        if code == "returns":
            raise SystemExit(0)
        if code == "execs":
            os.execvp("true", ["true"])
        raise LookupError
    os.waitpid(pid, 0)

def leaves_a_process():
    subprocess.Popen(["sleep", "600"])

def pool():
    with multiprocessing.Pool(2) as pool:
        assert pool.map(square, range(4)) == [0, 1, 4, 9]

def process():
    child = multiprocessing.Process(target=nap, args=(60,))
    child.start()
    child.terminate()
    child.join()

def executors():
    with ProcessPoolExecutor(1) as pool, ThreadPoolExecutor(2) as threads:
        assert pool.submit(square, 3).result() == threads.submit(square, 3).result()

def threads():
    threading.Thread(target=nap, args=(0.3,), daemon=random.random() < 0.5).start()

def closes():
    random.choice(CLOSING)()

def prints():
    assert all(os.fstat(fd) for fd in (0, 1, 2))
    print("printed")
    print("printed", file=sys.stderr)
    sys.stdin.readline()

def own_signals():
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(1)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

def changes_directory():
    os.chdir(random.choice(["/", "/tmp"]))
    assert subprocess.run(["true"]).returncode == 0

def logging_that_raises():
    logging.getLogger().addHandler(Broken())

import random

CLOSING = [
    lambda: os.close(0), lambda: os.close(1), lambda: os.close(2), lambda: os.closerange(0, 3),
    lambda: sys.stdin.close(), lambda: sys.stdout.close(), lambda: sys.stderr.close(),
]
INNOCENT = [
    lambda: None, lambda: nap(0.02), leaves_a_process, pool, process, executors,
    threads, closes, prints, own_signals, changes_directory, logging_that_raises,
    lambda: forks("returns"), lambda: forks("raises"), lambda: forks("execs"),
    lambda: bytearray(50_000_000),
    lambda: subprocess.run(["true"], check=True), lambda: asyncio.run(asyncio.sleep(0.01)),
]
GUILTY = [
    lambda: raised(Panic()), lambda: raised(KeyboardInterrupt()), lambda: raised(GeneratorExit()),
    lambda: raised(BaseExceptionGroup("g", [Panic()])), lambda: sys.exit(3),
    lambda: (x for x in ""),
    lambda: raised(asyncio.CancelledError()), lambda: raised(Odd()),
    lambda: raised(Retry(delay_ms=float("nan"))), lambda: raised(Retry(delay_ms=0.5)),
]

@handled
@per_message
def handler(message):
    kind, number = message.data["kind"], message.data["number"]
    assert tenant.get() is None
    tenant.set(message.id)
    note("ran", message.id, os.getpid())
    if kind == "innocent":
        INNOCENT[number % len(INNOCENT)]()
    elif kind == "guilty":
        return GUILTY[number % len(GUILTY)]()
    note("done", message.id)
"""


def messages(count: int, seed: int) -> list[dict[str, object]]:
    rng = random.Random(seed)
    return [
        {"kind": rng.choice(["innocent"] * 4 + ["guilty"]), "number": rng.randrange(1000)}
        for _ in range(count)
    ]


def left_of(session: int) -> list[psutil.Process]:
    """Processes of a session that live."""
    found = []
    for process in psutil.process_iter():
        try:
            stat = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(stat[3]) == session and stat[0] != "Z":
            found.append(process)
    return found


def trial(scene: Scene, workers: int, last_s: float) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    args = ("--max-deliveries", str(DELIVERIES), "--retry-delay-ms", "50")
    pool = scene.start(APP, *args, workers=workers)
    before = pool.workers()
    kinds: dict[str, object] = {}
    ends_s = time.monotonic() + last_s
    while not kinds or time.monotonic() < ends_s:
        chosen = messages(40, seed + len(kinds))
        ids = scene.push(*chosen)
        kinds |= {entry_id: m["kind"] for entry_id, m in zip(ids, chosen, strict=True)}
        scene.ledger.wait_settled(ids, 60)

    runs = Counter(line.split()[1] for line in scene.notes("ran"))
    innocent = [entry_id for entry_id, kind in kinds.items() if kind == "innocent"]
    guilty = kinds.keys() - set(innocent)
    assert {i: runs[i] for i in innocent if runs[i] != 1} == {}, "innocents that ran again"
    assert {line.split()[1] for line in scene.notes("done")} == set(innocent)
    assert {i: runs[i] for i in guilty if runs[i] != DELIVERIES} == {}
    assert {letter["original_id"] for letter in scene.ledger.letters()} == guilty
    assert pool.workers() == before, "a worker has died"

    assert pool.drain(30) == 0
    wait_until(lambda: not left_of(pool.pid), 5, "no process of the pool's session is left")


def test_the_ledger_stays_right_whatever_an_app_does(scene: Scene) -> None:
    """Nothing is lost, no innocent runs twice, no worker dies, no process is left."""
    trial(scene, workers=3, last_s=6)


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_same_for_a_minute(scene: Scene) -> None:
    trial(scene, workers=8, last_s=60)
