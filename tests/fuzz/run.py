"""The driver: ``python -m tests.fuzz.run [--seed N] [--payloads N] [--entries N]``.

Everything goes to one real pool, one library consumer and rsq. What must hold: no crash, no
traceback but a handler's own, no control character in any output, memory flat, a log below 1 KB a
message, and in the end nothing is left over.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from redis_stream_queue import ConsumerConfig, StreamClient, StreamConsumer
from tests.support.pool import PoolProcess, plain_environment
from tests.support.servers import Server
from tests.support.waiting import wait_until

from .nasty import COUNTS, Nasty

PORTION = 10_000  # messages at a time: what is handled stays ahead of what is pushed
MOST_GROWTH_MB = 60
MOST_LOG_BYTES = 1024  # a message
RECORD = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z ", re.MULTILINE)
APP = """
from redis_stream_queue import Reject, Retry, per_message, stream_handler

class AppError(Exception):
    pass

@stream_handler("s", group="g", retry_delay_ms=0, max_stream_size=1000, dlq_max_len=20_000)
@per_message
def handler(message):
    if not isinstance(message.data, dict):
        return
    do, say = message.data.get("do"), message.data.get("say")
    if do == "raise":
        raise AppError(say)
    if do == "reject":
        raise Reject(say)
    if do == "retry" and message.delivery_count == 1:
        raise Retry(say, delay_ms=1)
"""


class Fuzz:
    """One run; ``faults`` is what went wrong."""

    def __init__(self, seed: int, directory: Path, server: Server) -> None:
        self.faults: list[str] = []
        self.pushed = 0
        self._nasty = Nasty(seed)
        self._server = server
        self._client: Any = server.client(socket_timeout=30)
        self._client.xgroup_create("s", "g", "0", mkstream=True)
        args = ("--workers", "2", "--min-idle-claim-ms", "300", "--log-level", "warning")
        self.pool = PoolProcess(APP, *args, url=server.url, cwd=directory)
        wait_until(lambda: len(self.pool.workers()) == 2, 15, "the pool has started")
        self._first_mb: dict[int, float] = {}

    # -- what is put in ------------------------------------------------------------------------

    def push_payloads(self, count: int) -> None:
        while count > 0:
            with self._client.pipeline(transaction=False) as pipe:
                for _ in range(min(count, PORTION)):
                    pipe.execute_command("XADD", "s", "*", "data", self._nasty.payload())
                pipe.execute()
            self.pushed += min(count, PORTION)
            count -= PORTION
            self._until_done(300)
            self._weigh()

    def push_entries(self, count: int) -> None:
        """Entries of any fields, some of them held by others and seen any number of times."""
        while count > 0:
            with self._client.pipeline(transaction=False) as pipe:
                for _ in range(min(count, PORTION)):
                    pipe.execute_command("XADD", "s", "*", *self._nasty.entry())
                    if self._nasty.random.random() < 0.05:
                        self._take(pipe)
                for reply in pipe.execute(raise_on_error=False):
                    if isinstance(reply, Exception) and "NOGROUP" in str(reply):
                        self.faults.append(f"the server says {reply}")
            self.pushed += min(count, PORTION)
            count -= PORTION
            self._until_done(300)
            self._weigh()

    def _take(self, pipe: Any) -> None:
        pick = self._nasty.random
        name = self._nasty.name()
        pipe.execute_command("XREADGROUP", "GROUP", "g", name, "COUNT", 1, "STREAMS", "s", ">")
        if pick.random() < 0.5:
            entry_id = f"{int(time.time() * 1000)}-{pick.randint(0, 3)}"
            options = ("RETRYCOUNT", pick.choice(COUNTS), "IDLE", pick.choice((0, 10**6, 10**15)))
            pipe.execute_command("XCLAIM", "s", "g", name, 0, entry_id, *options, "FORCE")

    def push_letters(self, count: int) -> None:
        self._client.delete("s_dlq")
        while count > 0:
            with self._client.pipeline(transaction=False) as pipe:
                for _ in range(min(count, PORTION)):
                    pipe.execute_command("XADD", "s_dlq", "*", *self._nasty.letter())
                pipe.execute()
            count -= PORTION

    # -- who looks at it -----------------------------------------------------------------------

    def library(self, portions: int) -> None:
        """A consumer of the library reads whole entries, and one payloads, of what is there."""
        with self._client.pipeline(transaction=False) as pipe:
            for _ in range(portions * 100):
                pipe.execute_command("XADD", "lib", "*", *self._nasty.entry())
            pipe.execute()
        for group, field in (("whole", None), ("payloads", "data"), ("odd", "\x1b[31m")):
            self._client.xgroup_create("lib", group, "0")
            config = ConsumerConfig(group=group, block_ms=0, payload_field=field, max_deliveries=1)
            client = StreamClient.from_url(self._server.url)
            consumer = StreamConsumer(client, "lib", config, lambda batch: [m.id for m in batch])
            for _ in range(portions + 1):
                consumer.run_once_sync()
            [info] = [i for i in self._client.xinfo_groups("lib") if i["name"] == group.encode()]
            if info["pending"] or info["last-delivered-id"] != self._newest("lib"):
                self.faults.append(f"the library's consumer left something: {info}")

    def _newest(self, stream: str) -> bytes:
        [(entry_id, _)] = self._client.xrevrange(stream, count=1)
        return bytes(entry_id)

    def rsq(self, letters: int) -> None:
        """Everything that shows something, and a few letters one by one."""
        for name in (self._nasty.name() for _ in range(5)):
            self._client.xgroup_createconsumer("s", "g", name)
        ids = [i.decode() for i, _ in self._client.xrange("s_dlq", count=letters)]
        chosen = self._nasty.random.sample(ids, min(len(ids), 8))
        listed = self._run("dlq", "list", "s", "--json", "--limit", "100000").splitlines()
        known = [i.decode() for i, _ in self._client.xrange("s_dlq")]
        if [json.loads(line)["id"] for line in listed] != known:
            self.faults.append("rsq dlq list --json does not list the letters' own ids")
        self._run("stats", "s")
        self._run("stats", "s", "--json")
        self._run("dlq", "list", "s", "--limit", "100000")
        for letter_id in chosen:
            self._run("dlq", "show", "s", letter_id)
        self._run("dlq", "requeue", "s", *chosen)
        self._run("dlq", "purge", "s", "--all")
        if self._client.xlen("s_dlq"):
            self.faults.append("rsq dlq purge --all left letters")
        foreign = [k for k in self._client.scan_iter() if k not in (b"s", b"s_dlq", b"lib")]
        if foreign := [k for k in foreign if not k.startswith(b"rsq:")]:
            self.faults.append(f"rsq dlq requeue made streams: {foreign[:5]}")

    def _run(self, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "redis_stream_queue.cli", *args],
            env=plain_environment(self._server.url),
            capture_output=True,
            check=False,
        )
        self._check_text("rsq " + args[0], done.stdout)
        self._check_text("rsq " + args[0], done.stderr)
        if b"Traceback" in done.stderr or done.returncode not in (0, 1):
            self.faults.append(f"rsq {args}: {done.returncode} {done.stderr[-500:]!r}")
        return done.stdout.decode()

    # -- what must hold ------------------------------------------------------------------------

    def _until_done(self, timeout_s: float) -> None:
        def done() -> bool:
            if not self.pool.alive:
                return True
            [info] = [i for i in self._client.xinfo_groups("s") if i["name"] == b"g"]
            behind = info["last-delivered-id"] != self._newest("s")
            return not behind and not info["pending"]

        try:
            wait_until(done, timeout_s, "all is handled")
        except AssertionError:
            left = self._client.execute_command("XPENDING", "s", "g", "-", "+", 3)
            raise AssertionError(f"not handled after {timeout_s:g} s: {left}") from None

    def _weigh(self) -> None:
        for process in self.pool.processes():
            mb = process.memory_info().rss / 1e6
            first = self._first_mb.setdefault(process.pid, mb)
            if mb - first > MOST_GROWTH_MB:
                self.faults.append(f"{process.name()} grew from {first:.0f} to {mb:.0f} MB")

    def _check_text(self, who: str, output: bytes) -> None:
        try:
            text = output.decode()
        except UnicodeDecodeError as error:
            self.faults.append(f"{who} wrote what is no text: {error}")
            return
        if odd := {c for line in text.split("\n") for c in line if not c.isprintable()}:
            self.faults.append(f"{who} wrote {sorted(odd)[:5]!r}")

    def end(self) -> str:
        """Drain the pool and judge what it has said; returns a line about it."""
        growth = {
            p.name(): round(p.memory_info().rss / 1e6 - self._first_mb.get(p.pid, 0))
            for p in self.pool.processes()
            if p.pid in self._first_mb and psutil.pid_exists(p.pid)
        }
        if not self.pool.alive:
            self.faults.append("the pool has died")
        elif (code := self.pool.drain(30)) != 0:
            self.faults.append(f"the pool ended with {code}")
        said = self.pool.stderr
        self._check_text("the pool", said.encode(errors="surrogateescape"))
        self._check_text("the handlers", self.pool.stdout.encode(errors="surrogateescape"))
        for record in RECORD.split(said):
            if "Traceback" in record and "handler failed for" not in record:
                self.faults.append(f"a traceback: {record[:1500]}")
        if said and not RECORD.match(said):
            self.faults.append(f"the log begins with {said[:200]!r}")
        per_message = len(said.encode()) // max(self.pushed, 1)
        if per_message > MOST_LOG_BYTES:
            self.faults.append(f"{per_message} bytes of log a message")
        self.pool.close()
        self._client.close()
        return f"{self.pushed} messages, {per_message} bytes of log each, grew by {growth} MB"


def fuzz(seed: int, payloads: int, entries: int) -> tuple[str, list[str]]:
    """One run; returns a line about it and what went wrong."""
    with (
        tempfile.TemporaryDirectory(prefix="rsq-fuzz-") as directory,
        Server.start("valkey-9.1") as server,
    ):
        run = Fuzz(seed, Path(directory), server)
        try:
            run.push_payloads(payloads)
            run.push_entries(entries)
            run.library(max(entries // 1000, 1))
            run.push_letters(entries)
            run.rsq(entries)
            return run.end(), run.faults
        finally:
            run.pool.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    seed = random.randrange(1_000_000)
    parser.add_argument("--seed", type=int, default=seed, help="default: a random one")
    parser.add_argument("--payloads", type=int, default=1_000_000, help="default 1000000")
    parser.add_argument("--entries", type=int, default=100_000, help="and letters; default 100000")
    options = parser.parse_args()
    print(f"fuzz: seed {options.seed}", flush=True)
    logging.getLogger("redis_stream_queue").setLevel(logging.CRITICAL)  # of the library's consumer
    began = time.monotonic()
    line, faults = fuzz(options.seed, options.payloads, options.entries)
    print(f"{line}, in {time.monotonic() - began:.0f} s")
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
