"""Pages in docs/ do what they say: their files and commands run here as they stand there."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import redis

from redis_stream_queue import StreamClient, StreamProducer
from tests.guide.conftest import ROOT, Shell
from tests.guide.test_readme import Block, blocks_of
from tests.support.pool import PoolProcess
from tests.support.waiting import wait_until

FILE_NAME = re.compile(r"# ([\w/]+\.py)\n")


def copied(shell: Shell, page: str) -> list[Block]:
    """Somebody has copied all files of a page; returns its blocks."""
    blocks = blocks_of(ROOT / "docs" / page)
    for block in blocks:
        if block.language == "python" and (name := FILE_NAME.match(block.text)):
            (shell.directory / name[1]).parent.mkdir(exist_ok=True)
            shell.write(name[1], block.text)
    return blocks


def commands(blocks: list[Block]) -> str:
    return "\n".join(block.text for block in blocks if block.language == "sh")


@pytest.mark.long
def test_django(shell: Shell) -> None:
    """Orders that are placed in a transaction are paid by a pool that uses the same models."""
    blocks = copied(shell, "django.md")
    (shell.directory / "shop" / "__init__.py").touch()
    said = shell.run(commands(blocks))
    assert sorted(re.findall(r"paid (\d)", said)) == ["0", "1", "2"]
    shell.write(
        "look.py",
        "import handlers\n"
        "from shop.models import Order\n"
        "print('paid orders:', Order.objects.filter(paid=True).count())\n",
    )
    assert "paid orders: 3" in shell.run("python look.py")


RECIPE = ", middleware=[fresh_connections]"
SEED = "import handlers; [handlers.Order.objects.create(number=n) for n in range(3)]"


def paid(directory: Path) -> list[int]:
    with closing(sqlite3.connect(directory / "shop.sqlite3")) as database:
        rows = database.execute("SELECT number FROM shop_order WHERE paid ORDER BY number")
        return [number for (number,) in rows]


@pytest.mark.parametrize("with_recipe", [True, False])
def test_django_after_the_database_was_restarted(
    shell: Shell, pool_url: str, with_recipe: bool
) -> None:
    """Between two messages the database goes, and another comes in its place: the next messages
    are handled in that one. Without what the page has around each call they are not."""
    copied(shell, "django.md")
    directory = shell.directory
    (directory / "shop" / "__init__.py").touch()
    shell.run(
        "python -m django migrate -v 0 --run-syncdb --settings shop.settings --pythonpath .\n"
        f'python -c "{SEED}"\n'
    )
    if not with_recipe:
        handlers = (directory / "handlers.py").read_text()
        assert RECIPE in handlers
        shell.write("handlers.py", handlers.replace(RECIPE, ""))
    producer = StreamProducer(StreamClient.from_url(pool_url), "orders")
    args = ("--workers", "1", "--max-deliveries", "1")
    pool = PoolProcess(None, *args, url=pool_url, cwd=directory, target="handlers:pay")
    with pool, closing(redis.Redis.from_url(pool_url)) as server:
        pool.wait_ready()
        producer.push_sync({"number": 0})
        wait_until(lambda: "paid 0" in pool.stdout, 15, "the first order is paid")
        shutil.copy(directory / "shop.sqlite3", directory / "restored")
        (directory / "restored").replace(directory / "shop.sqlite3")
        producer.push_many_sync([{"number": 1}, {"number": 2}])
        if with_recipe:
            wait_until(lambda: paid(directory) == [0, 1, 2], 15, "all orders are paid")
            assert server.xlen("orders_dlq") == 0
        else:
            wait_until(lambda: server.xlen("orders_dlq") == 2, 15, "the others fail")
            assert paid(directory) == [0]
        assert pool.drain() == 0


def test_web(shell: Shell) -> None:
    """What both frameworks push, a pool handles."""
    blocks = copied(shell, "web.md")
    shell.environment["REDIS_URL"] = f"embedded://{shell.directory}/redis-data"
    shell.write(
        "requests_.py",
        "from fastapi.testclient import TestClient\n"
        "import fast, plain\n"
        "with TestClient(fast.app) as client:\n"
        "    assert '-' in client.post('/orders/1').json()['id']\n"
        "assert '-' in plain.app.test_client().post('/orders/2').json['id']\n",
    )
    said = shell.run("python requests_.py\n" + commands(blocks))
    assert sorted(re.findall(r"paid (\d)", said)) == ["1", "2"]


@pytest.mark.long
def test_testing(shell: Shell) -> None:
    """All kinds of tests pass: of handlers and of tasks, without and with a server."""
    said = shell.run(commands(copied(shell, "testing.md")))
    assert "10 passed" in said


@pytest.mark.long
def test_tasks(shell: Shell, pool_url: str) -> None:
    """Tasks are run, their result is read, and the tests of the page pass."""
    shell.environment["REDIS_URL"] = pool_url
    said = shell.run(commands(copied(shell, "tasks.md")))
    assert "thumbnail: /thumbs/42_640.jpg done" in said
    assert sorted(re.findall(r"fetched https://example.com/(.*) delivery 1", said)) == [
        "a 2026-01-01",
        "later None",
        "shell 2026-02-03",
    ]
    assert re.search(r"fetch +async +5 +30 s +\(url", said)
    assert "welcome ada@example.com" in said
    assert "2 passed" in said


def test_how_to(shell: Shell, pool_url: str) -> None:
    """What is above the rate comes later, and nothing dies; a plain XADD calls a task."""
    shell.environment["REDIS_URL"] = pool_url
    blocks = copied(shell, "how-to.md")
    with closing(redis.Redis.from_url(pool_url)) as server:
        server.xadd("partner", {"data": '{"task": "order", "args": [12]}'})
        server.xadd("partner", {"data": '{"task": "order", "kwargs": {"number": 13}}'})
        with server.pubsub() as told:  # of each window: its count expires soon
            server.config_set("notify-keyspace-events", "K$")
            told.psubscribe("__keyspace@0__:calls:partner:*")
            said = shell.run(commands(blocks))
            events = list(iter(told.get_message, None))
        server.config_set("notify-keyspace-events", "")

    assert sorted(int(n) for n in re.findall(r"ordered (\d+)", said)) == list(range(14))
    assert len({event["channel"] for event in events if event["type"] == "pmessage"}) > 2
    assert "dead 0" in said


def test_coming_from_celery(shell: Shell, pool_url: str) -> None:
    """The ported project: all six tasks run, but for the reminder in an hour, which waits."""
    shell.environment["REDIS_URL"] = pool_url
    said = shell.run(commands(copied(shell, "coming-from-celery.md")))
    assert "invoice: /invoices/7_16.50.txt" in said
    assert sorted(re.findall(r"mail to (.*)", said)) == [
        "ada@example.com Order 7",
        "grace@example.com Order 8 is not paid yet",
    ]
    for done in ("thumbnail 42 32", "fetched https://example.com/rates", "cleaned up", "1 passed"):
        assert done in said
    assert re.search(r"^@\d+-\d+ .*remind", said, re.MULTILINE)


UNTIL_TWO_BEATS = """
import subprocess, sys
with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True) as pool:
    beats = 0
    for line in pool.stdout:
        print(line, end="", flush=True)
        beats += line.startswith("beat of")
        if beats == 2:
            pool.terminate()
sys.exit(pool.returncode)
"""


@pytest.mark.long
def test_later(shell: Shell, pool_url: str) -> None:
    """What is due is handled, and the rest waits until it is taken back. Four seconds may be one
    beat where much else runs: two are waited for."""
    shell.environment["REDIS_URL"] = pool_url
    shell.write("until_two_beats.py", UNTIL_TWO_BEATS)
    page, pool = commands(copied(shell, "later.md")), "timeout --preserve-status 4 rsq-pool"
    assert page.count(pool) == 1
    said = shell.run(page.replace(pool, "python until_two_beats.py rsq-pool"))
    assert sorted(re.findall(r"reminded (.*)", said)) == ["from the shell", "soon"]
    assert "taken back: True" in said
    assert "already waiting: True" in said
    assert len(re.findall(r"beat of \S+T\S+\+00:00", said)) >= 2
    assert re.search(r"nightly +0 3 \* \* \* \(Europe/Berlin\)", said)
    assert "daily of now" in said
    assert "paused: nightly" in said
    assert "goes on: reminders, all groups" in said
    assert re.search(r"@\d+-\d+  scheduled", said)
    assert "purged: 2 scheduled messages" in said
