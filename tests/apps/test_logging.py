"""Logging is the user's: whatever an app configures, what we say is heard, and says where."""

from __future__ import annotations

import json
from typing import Any

import pytest

HANDLER = """
@handled
@per_message
def handler(message):
    if message.data.get("config") == "late":
        configure()
    logging.getLogger("shop").warning("seen by the app")
    if message.data.get("do") == "raise":
        raise ValueError("the customer has no address")
    note("ended", message.id)
"""
CONFIGURE = {
    "dictConfig": """
import logging.config
def configure():
    logging.config.dictConfig({"version": 1,
        "formatters": {"f": {"format": "APP %(levelname)s %(name)s %(message)s"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "f"}},
        "root": {"level": "WARNING", "handlers": ["console"]}})
""",
    "fileConfig": """
import io, logging.config
CONFIG = '''
[loggers]
keys=root
[handlers]
keys=console
[formatters]
keys=f
[logger_root]
level=WARNING
handlers=console
[handler_console]
class=StreamHandler
formatter=f
args=(sys.stderr,)
[formatter_f]
format=APP %(levelname)s %(name)s %(message)s
'''
def configure():
    logging.config.fileConfig(io.StringIO(CONFIG))
""",
    "a queue": """
import logging.handlers, queue
def configure():
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("APP %(levelname)s %(name)s %(message)s"))
    lines = queue.SimpleQueue()
    logging.getLogger().handlers[:] = [logging.handlers.QueueHandler(lines)]
    logging.handlers.QueueListener(lines, console).start()
""",
}


@pytest.mark.parametrize("when", ["at import", "late"])
@pytest.mark.parametrize("how", CONFIGURE)
def test_an_app_that_configures_logging_does_not_silence_ours(
    scene: Any, how: str, when: str
) -> None:
    """Our errors go to the app's handlers in the app's format, and keep slot and pid."""
    at_import = "\nconfigure()\n" if when == "at import" else ""
    pool = scene.start(CONFIGURE[how] + at_import + HANDLER, "--max-deliveries", "1")
    [pid] = pool.workers()
    scene.push({"config": when, "do": "raise"})
    pool.wait_log(f"APP ERROR redis_stream_queue[.a-z_]* slot=0 pid={pid} [^s].*")
    pool.wait_log("ValueError: the customer has no address")
    assert "APP WARNING shop seen by the app" in pool.stderr
    assert pool.drain() == 0
    assert f"slot=0 pid={pid} slot=0" not in pool.stderr


def test_records_made_during_a_message_name_it_and_keep_what_the_app_adds(scene: Any) -> None:
    """JSON keeps extra=, also what is no JSON and what has the name of something of ours; stream
    and message id are in records of the handler's, and in no others."""
    app = """
logging.getLogger("shop").warning("imported")

@handled
@per_message
def handler(message):
    log = logging.getLogger("shop")
    extra = {"customer": 17, "stream": "of the app", "message_id": "theirs", "odd": {1, 2}}
    log.warning("first", extra=extra)
    log.warning("second", extra={"deep": {"a": [1, None]}})
    note("ended")
"""
    pool = scene.start(app, "--log-format", "json")
    [message_id] = scene.push({})
    scene.wait_notes("ended")
    assert pool.drain() == 0
    lines = {line["message"]: line for line in map(json.loads, pool.stderr.splitlines())}
    assert lines["first"]["customer"] == 17
    assert lines["first"]["odd"] == "{1, 2}"
    assert lines["second"]["deep"] == {"a": [1, None]}
    for text in ("first", "second"):
        assert (lines[text]["stream"], lines[text]["message_id"]) == ("work", message_id)
    assert "message_id" not in lines["imported"]
    assert not [line for line in lines.values() if "rsq_slot" in line or "taskName" in line]


@pytest.mark.parametrize("kind", ["plain", "async", "batch", "tasks"])
def test_text_records_of_any_handler_name_their_message(scene: Any, kind: str) -> None:
    """Plain, four side by side, a whole batch, tasks of both kinds in turn: each record names the
    message it belongs to, and its task."""
    app = {
        "plain": """
@handled
@per_message
def handler(message):
    logging.warning("at %s", message.id)
""",
        "async": """
import asyncio
@handled
@per_message(concurrency=4)
async def handler(message):
    await asyncio.sleep(0.05)
    logging.warning("at %s", message.id)
    await asyncio.create_task(later(message))
async def later(message):
    await asyncio.sleep(0.01)
    logging.warning("at %s", message.id)
""",
        "batch": """
@handled
def handler(messages):
    logging.warning("at %s", "..".join(sorted({messages[0].id, messages[-1].id})))
    return [m.id for m in messages]
""",
        "tasks": """
import asyncio
from redis_stream_queue import Queue, current
handler = Queue("work", group="crew")
@handler.task(concurrency=2)
async def waits():
    await asyncio.sleep(0.05)
    says("waits")
@handler.task
def blocks():
    says("blocks")
def says(task):
    logging.warning("at %s %s", current().id, task)
""",
    }[kind]
    pool = scene.start(app)
    ids = scene.push(*({"task": task} for task in ("waits", "waits", "blocks") * 2))
    scene.ledger.wait_settled(ids)
    assert pool.drain() == 0
    said = [line for line in pool.stderr.splitlines() if " at " in line]
    assert said
    for line in said:
        where, _, what = line.partition(" at ")
        assert where.endswith(f" work {what}"), line


def test_the_debug_line_of_a_message_names_it_once(scene: Any) -> None:
    """It knows the message as all records do, and says it by itself."""
    app = """
@handled
@per_message
def handler(message):
    pass
"""
    pool = scene.start(app, "--log-level", "debug")
    [message_id] = scene.push({})
    line = pool.wait_log(r".* done after \d+ ms \(delivery 1\)\n")[0]
    assert line.count(message_id) == 1
    assert f" {message_id} of work: done" in line


def test_an_app_can_show_the_message_in_its_own_format(scene: Any) -> None:
    """Attributes of every record, None outside of a message."""
    app = """
logging.basicConfig(force=True, format="%(rsq_slot)s/%(rsq_stream)s/%(rsq_message_id)s %(message)s")
logging.warning("imported")
@handled
@per_message
def handler(message):
    logging.warning("handling")
"""
    pool = scene.start(app)
    [message_id] = scene.push({})
    pool.wait_log(f"0/work/{message_id} handling")
    assert "0/None/None imported" in pool.stderr


LOG_FORKS = """
class Forks(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING:
            if not (pid := os.fork()):
                logging.getLogger("redis_stream_queue").info("the child goes on")
                os._exit(0)
            note("child", os.waitpid(pid, 0)[1])

logging.getLogger().addHandler(Forks())

@handled
@per_message
def handler(message):
    raise LookupError
"""


def test_a_log_handler_of_the_apps_that_forks_ends_nothing(scene: Any) -> None:
    pool = scene.start(LOG_FORKS, "--max-deliveries", "1")
    scene.ledger.wait_settled(scene.push({}))
    assert scene.wait_notes("child")[0] == "child 0"
    assert "logging raised" not in pool.stderr
    assert pool.drain() == 0
