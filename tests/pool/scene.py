"""A real server, and a pool or a consumer at work on it while something goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.pool.trial import Subject, Trial
from tests.support.faultproxy import ThreadedFaultProxy
from tests.support.ledger import GROUP, SOURCE, STREAM, Notes
from tests.support.pool import PoolProcess, plain_environment
from tests.support.servers import Server

WORKERS = 2
CONSUMER = f"""
import json, os, sys
from app import handler
from redis_stream_queue import ConsumerConfig, StreamClient, StreamConsumer
from redis_stream_queue.pool import logs

logs.set_up("info", "text", "consumer")
client = StreamClient.from_url(os.environ["REDIS_URL"])
config = ConsumerConfig(group="{GROUP}", **json.loads(sys.argv[1]))
StreamConsumer(client, "{STREAM}", config, handler).run_sync()
"""


class ConsumerProcess:
    """A program that runs one StreamConsumer and nothing else."""

    def __init__(self, cwd: Path, url: str, config: dict[str, Any]) -> None:
        (cwd / "app.py").write_text(SOURCE)
        (cwd / "consumer.py").write_text(CONSUMER)
        self._stderr = cwd / "consumer.stderr"
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "consumer.py", json.dumps(config)],
                cwd=cwd,
                env=plain_environment(url),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def workers(self) -> list[int]:
        """The only one."""
        return [self.pid] if self.alive else []

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Scene:
    """Starts what a test needs; all of it ends with the ExitStack."""

    def __init__(
        self, stack: ExitStack, cwd: Path, record_property: Callable[[str, object], None]
    ) -> None:
        self._stack = stack
        self._cwd = cwd
        self._record_property = record_property
        self._notes = Notes(cwd / "notes")

    def server(self, name: str = "valkey-9.1", *extra_args: str) -> Server:
        """A server of the test's own, on TCP, that loses nothing when it is killed."""
        args = ("--appendfsync", "always", *extra_args)
        return self._stack.enter_context(Server.start(name, tcp=True, extra_args=args))

    def proxy(self, server: Server) -> ThreadedFaultProxy:
        target = ("127.0.0.1", server.port)
        return self._stack.enter_context(ThreadedFaultProxy(target))

    def pool(
        self, server: Server, *args: str, url: str = "", env: dict[str, str] | None = None
    ) -> tuple[PoolProcess, Trial]:
        """A pool of two workers; url: how it reaches the server, if not directly."""
        pool = self._stack.enter_context(
            PoolProcess(
                SOURCE,
                "--workers",
                str(WORKERS),
                *args,
                url=url or server.url,
                cwd=self._cwd,
                env=env,
            )
        ).wait_ready()
        return pool, self._trial(server, pool)

    def consumer(self, server: Server, **config: Any) -> tuple[ConsumerProcess, Trial]:
        """A standalone StreamConsumer in a process of its own."""
        process = ConsumerProcess(self._cwd, server.url, config)
        self._stack.callback(process.close)
        return process, self._trial(server, process)

    def _trial(self, server: Server, subject: Subject) -> Trial:
        trial = Trial(server, subject, self._notes, self._record_property)
        self._stack.callback(trial.close)
        return trial


def last(seconds: float) -> None:
    """The fault that was begun lasts so long."""
    time.sleep(seconds)
