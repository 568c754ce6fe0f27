"""A pool that is started without standard streams, with an odd environment, on an odd host."""

from __future__ import annotations

from typing import Any

import pytest

APP = """
@handled
@per_message
def handler(message):
    subprocess.run(["sh", "-c", "read line; echo to stdout; echo to stderr >&2"])
    print("printed")
    print("printed", file=sys.stderr)
    note("fds", [os.path.basename(os.readlink(f"/proc/self/fd/{n}")) for n in (0, 1, 2)])
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_dev_null(scene: Any, closed: str) -> None:
    """In every process: no file of ours gets their numbers, and nobody fails at printing."""
    pool = scene.start(APP, ready=False, shell=closed)
    scene.push({}, {})
    notes = scene.wait_notes("fds", 2)
    names = ["null", pool.stdout_name, pool.stderr_name]
    wanted = [
        "null" if mark in closed.split() else name
        for name, mark in zip(names, ("<&-", ">&-", "2>&-"), strict=True)
    ]
    assert notes == 2 * [f"fds {wanted}"]
    assert pool.drain() == 0
    assert "Traceback" not in pool.stderr + pool.stdout


CLOSES = """
WAYS = {
    "0": lambda: os.close(0),
    "1": lambda: os.close(1),
    "2": lambda: os.close(2),
    "range": lambda: os.closerange(0, 3),
    "file": lambda: open(1, "wb").close(),
    "stdin": lambda: sys.stdin.close(),
    "stdout": lambda: sys.stdout.close(),
    "stderr": lambda: sys.stderr.close(),
    "with": lambda: sys.stdout.__exit__(),
    "raises": lambda: (os.closerange(0, 3), 1 / 0),
}

def act(message):
    note("ran", message.id)
    if way := message.data.get("way"):
        WAYS[way]()
        time.sleep(message.data.get("s", 0))
    else:
        links = [os.path.basename(os.readlink(f"/proc/self/fd/{n}")) for n in (0, 1, 2)]
        note("fds", links)
        print("printed")
        print("printed", file=sys.stderr)
        assert sys.stdin.read() == ""
        subprocess.run(["sh", "-c", "echo from a child"], check=True)
        logging.warning("logged")

@handled
@per_message
def handler(message):
    act(message)

@handled
@per_message(concurrency=3)
async def lanes(message):
    act(message)

@handled
@per_message
async def one_by_one(message):
    act(message)

@handled
def batch(messages):
    for message in messages:
        act(message)
    return [message.id for message in messages]
"""
WAYS = ["raises", "0", "1", "2", "range", "file", "stdin", "stdout", "stderr", "with"]


@pytest.mark.parametrize("target", ["handler", "lanes", "one_by_one", "batch"])
def test_what_a_handler_closes_is_open_for_the_next_message(scene: Any, target: str) -> None:
    """Descriptors and objects: others print, read, start programs and log; our connections, made
    anew meanwhile, get no such number; the worker lives on."""
    size = "1" if target == "batch" else "50"
    args = ("--max-deliveries", "1", "--batch-size", size)
    pool = scene.start(CLOSES, *args, target=f"app:{target}")
    workers = pool.workers()
    pushed = [m for way in WAYS for m in ({"way": way}, {})]
    slow = [{"way": "range", "s": 0.2}, {}]
    ids = scene.push(*pushed, *slow)
    scene.ledger.wait_settled(ids, 20)
    for client in scene.ledger.redis.client_list():
        if client["cmd"] == "xreadgroup":  # the worker makes it anew
            scene.ledger.redis.client_kill_filter(_id=client["id"])
    ids += scene.push(*reversed(pushed))
    scene.ledger.wait_settled(ids, 20)

    ran = [line.split()[1] for line in scene.notes("ran")]
    assert sorted(ran) == sorted(ids), "each ran once"
    assert [letter["last_error"].split("\n")[0] for letter in scene.ledger.letters()] == [
        "ZeroDivisionError: division by zero"
    ] * 2
    others = 2 * len(WAYS) + 1
    assert scene.notes("fds") == others * [f"fds {['null', pool.stdout_name, pool.stderr_name]}"]
    assert pool.stdout.splitlines().count("printed") == others
    assert pool.stdout.splitlines().count("from a child") == others
    assert pool.stderr.count(" logged\n") == others
    assert "a handler closed" in pool.stderr
    assert pool.stderr.count("handler failed for") == 2, "our log, too"
    assert pool.workers() == workers
    assert pool.drain() == 0


UNKNOWN = {
    "RSQ_WORKER": "Did you mean 'RSQ_WORKERS'",
    "RSQ_GRACEFULL_TIMEOUT": "Did you mean 'RSQ_GRACEFUL_TIMEOUT'",
    "RSQ_ZZZ": "--help names the options",
}


def test_a_variable_that_is_no_setting_is_named(scene: Any) -> None:
    """With the one that may have been meant; settings that are one are not."""
    env = {**dict.fromkeys(UNKNOWN, "1"), "RSQ_LOG_LEVEL": "info", "RSQ_BATCH_SIZE": "auto"}
    pool = scene.start(APP, env=env)
    for name, hint in UNKNOWN.items():
        assert f"the environment variable {name} is no setting of rsq-pool" in pool.stderr
        assert hint in pool.stderr
    assert pool.stderr.count("is no setting") == len(UNKNOWN)
