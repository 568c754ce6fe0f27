"""The library and rsq in an interpreter that has nothing but what every Unix has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.pool import plain_environment

# Python on macOS has none of these, and no /proc. (The interpreter goes on saying that it is Linux:
# what others have chosen by that when they were installed would not fit to another answer.)
WITHOUT_LINUX = """
import fcntl, os, select, signal, socket, sys

for module, names in {
    fcntl: "F_ADD_SEALS F_GETPIPE_SZ F_GET_SEALS F_SETPIPE_SZ",
    os: "O_PATH O_TMPFILE copy_file_range eventfd eventfd_read eventfd_write fdatasync getrandom "
        "getresuid getxattr listxattr memfd_create pidfd_open pipe2 posix_fadvise posix_fallocate "
        "sched_getaffinity sched_getparam sched_getscheduler sched_setaffinity sched_setscheduler "
        "setresuid setxattr splice waitid",
    select: "epoll",
    signal: "SIGPOLL SIGPWR SIGRTMAX SIGRTMIN SIGSTKFLT pidfd_send_signal sigtimedwait sigwaitinfo",
    socket: "SOCK_CLOEXEC SOCK_NONBLOCK SO_BINDTODEVICE SO_DOMAIN SO_PASSCRED SO_PEERCRED "
            "SO_PROTOCOL TCP_KEEPIDLE TCP_QUICKACK TCP_USER_TIMEOUT",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

def hook(event, args):
    if event in ("open", "os.listdir") and str(args[0]).startswith(("/proc", "/sys")):
        raise FileNotFoundError(args[0])

sys.addaudithook(hook)
"""
MODULES = """
import importlib, pkgutil, redis_stream_queue

def walk(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        name = module.name.removeprefix("redis_stream_queue.")
        if name in ("pool", "cli.rsq_pool", "cli.__main__"):
            continue
        found = importlib.import_module(module.name)
        print(name)
        if module.ispkg:
            walk(found)

walk(redis_stream_queue)
"""
LIBRARY = """
import sys
from redis_stream_queue import ConsumerConfig, StreamClient, StreamConsumer, StreamProducer

def handler(messages):
    print("handled", *[message.data for message in messages])
    consumer.stop()
    return [message.id for message in messages]

client = StreamClient.from_url(sys.argv[1])
StreamProducer(client, "orders").push_sync("one")
consumer = StreamConsumer(client, "orders", ConsumerConfig(group="crew"), handler)
consumer.run_sync()
"""


class Elsewhere:
    def __init__(self, directory: Path, url: str) -> None:
        (directory / "sitecustomize.py").write_text(WITHOUT_LINUX)
        self._directory = directory
        self._environment = {**plain_environment(url), "PYTHONPATH": str(directory)}

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *args], cwd=self._directory, env=self._environment,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def said(self, *args: str) -> str:
        done = self.run(*args)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout


@pytest.fixture
def elsewhere(pool_url: str, tmp_path: Path) -> Elsewhere:
    return Elsewhere(tmp_path, pool_url)


def test_it_is_elsewhere(elsewhere: Elsewhere) -> None:
    """Else nothing here shows anything: the pool's modules cannot be imported."""
    assert "AttributeError" in elsewhere.run("-c", "import redis_stream_queue.pool").stderr


def test_all_but_the_pool_can_be_imported(elsewhere: Elsewhere) -> None:
    imported = elsewhere.said("-c", MODULES).split()

    assert {"consumer", "popoto", "embedded.server", "delivery.session", "cli.rsq"} <= {*imported}


def test_the_library_works(elsewhere: Elsewhere, pool_url: str) -> None:
    assert elsewhere.said("-c", LIBRARY, pool_url) == "handled one\n"


def test_rsq_works(elsewhere: Elsewhere) -> None:
    rsq = ("-m", "redis_stream_queue.cli")

    assert "Commands:" in elsewhere.said(*rsq, "--help")
    elsewhere.said(*rsq, "push", "orders", '"one"')
    assert "groups" in elsewhere.said(*rsq, "stats", "orders")
    assert "no such letters" in elsewhere.run(*rsq, "dlq", "list", "orders").stderr


def test_rsq_pool_says_what_it_needs(elsewhere: Elsewhere) -> None:
    # zoneinfo reads a file of the interpreter that is named after the platform: the true one's
    start = "import sys, zoneinfo; sys.platform = 'darwin'; import redis_stream_queue.cli.rsq_pool"
    done = elsewhere.run("-c", start)

    assert done.returncode == 1
    assert done.stderr == "rsq-pool: a pool needs Linux. The library and rsq run here, too.\n"
