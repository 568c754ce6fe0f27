"""redis-stream-queue 0.1.3 beside ours, under a name of its own, with the same redis-py.

``python -m scripts.benchmarks.original HANDLER URL`` runs one of its consumers.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from .busywork import WORKS
from .names import COUNT, GROUP, HOME, KEY
from .notes import note

VERSION = "0.1.3"
PLACE = HOME / VERSION


def install() -> None:
    """Fetch it, unless it is there."""
    if (PLACE / f"redis_stream_queue-{VERSION}.dist-info").exists():
        return
    print(f"installing redis-stream-queue=={VERSION} into .bench", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install", "--no-deps"]
    subprocess.run(
        [*pip, "--target", str(PLACE), f"redis-stream-queue=={VERSION}"],
        check=True,
        stderr=subprocess.DEVNULL,
    )


def load() -> Any:
    """The package as a module."""
    name, place = "original_redis_stream_queue", PLACE / "redis_stream_queue"
    if name not in sys.modules:
        found = importlib.util.spec_from_file_location(
            name, place / "__init__.py", submodule_search_locations=[str(place)]
        )
        assert found is not None
        assert found.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def noted(data: Any) -> None:
    """Nothing, but note that it was done."""
    now = time.monotonic_ns()
    note(now, now)


def work(data: Any) -> None:
    """Do so much of that work; note begin and end."""
    begin = time.monotonic_ns()
    WORKS[data["do"]](data["n"])
    note(begin, time.monotonic_ns())


def stamp(data: Any) -> None:
    """Note when the message was pushed and when it got here."""
    note(data["at"], time.monotonic_ns())


HANDLERS: dict[str, Callable[[Any], None]] = {"noted": noted, "work": work, "stamp": stamp}


async def consume(kind: str, url: str) -> None:
    package = load()
    handle = HANDLERS[kind]

    async def handler(messages: list[Any]) -> list[str]:
        for message in messages:
            handle(message.data)
        return [message.id for message in messages]

    config = package.ConsumerConfig(group=GROUP, batch_size=COUNT)
    await package.StreamConsumer(package.StreamClient.from_url(url), KEY, config, handler).run()


if __name__ == "__main__":
    asyncio.run(consume(*sys.argv[1:]))
