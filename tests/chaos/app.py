"""The app that the pools run. It notes what it does outside Redis, so that the notes survive all.

Each process appends to a file of its own, one short write per note, so a kill leaves whole lines:
what (S started, E ended well, R raised, J rejected, K kills its process), number, id, delivery
count, time, kind.
"""

from __future__ import annotations

STREAM = "work"
GROUP = "crew"
DLQ = "work_dlq"
MAX_DELIVERIES = 4
MAX_STREAM_SIZE = 200  # small, so that trimming goes on all the time
NOTES_ENV = "CHAOS_NOTES"
POOL_ENV = "CHAOS_POOL"

SELF_KILLS = ("exit", "segv", "kill")
POISON = ("raise", *SELF_KILLS)
DOOMED = (*POISON, "reject")  # what has to end as a dead letter, and nothing else may
WEIGHTS = {
    "ok": 86,
    "slow": 5,
    "flaky": 4,
    "reject": 2,
    "raise": 1,
    "exit": 0.7,
    "segv": 0.7,
    "kill": 0.6,
}

SOURCE = f"""
import asyncio, ctypes, os, signal, time
from redis_stream_queue import Reject, per_message, stream_handler

files = {{}}

def note(what, message):
    pid = os.getpid()
    if pid not in files:
        name = f"{{os.environ[{POOL_ENV!r}]}}-{{pid}}.notes"
        path = os.path.join(os.environ[{NOTES_ENV!r}], name)
        files[pid] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    data = message.data
    line = f"{{what}} {{data['n']}} {{message.id}} {{message.delivery_count}} "
    line += f"{{time.time():.6f}} {{data['do']}}\\n"
    os.write(files[pid], line.encode())

def finish(message):
    do = message.data["do"]
    if do in {SELF_KILLS!r}:
        note("K", message)
    if do == "exit":
        os._exit(7)
    if do == "segv":
        ctypes.string_at(0)
    if do == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "raise" or (do == "flaky" and message.delivery_count == 1):
        note("R", message)
        raise ValueError("on purpose")
    if do == "reject":
        note("J", message)
        raise Reject("not for us")
    note("E", message)

settings = dict(group={GROUP!r}, max_deliveries={MAX_DELIVERIES},
                max_stream_size={MAX_STREAM_SIZE})

@stream_handler({STREAM!r}, **settings)
@per_message
def plain(message):
    note("S", message)
    time.sleep(message.data["s"])
    finish(message)

@stream_handler({STREAM!r}, **settings)
@per_message(concurrency=3)
async def asynchronous(message):
    note("S", message)
    await asyncio.sleep(message.data["s"])
    finish(message)
"""
