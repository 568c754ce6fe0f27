"""Whatever is wrong, rsq-pool says it in one clear sentence, with the right exit code, and leaves.

Promise 7 of the product: no traceback but the app's own, and a password is never shown.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redis_stream_queue import _exits
from redis_stream_queue.delivery.server_check import NEEDED_ACL
from redis_stream_queue.pool.scoreboard import MAX_SLOTS
from tests.support.pool import PoolProcess
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

HANDLER = """
from redis_stream_queue import per_message
def handler(messages):
    return [m.id for m in messages]

def _hidden(messages):
    return []

class Handler:
    def __call__(self, messages):
        return []

number = 5

def two(messages, more):
    return []

@per_message
def each():
    pass
"""

DECORATED = """
from redis_stream_queue import stream_handler

@stream_handler("orders"{settings})
def handler(messages):
    return [m.id for m in messages]
"""

PICKY = """
from redis_stream_queue import per_message

@per_message
def handler(message):
    if message.data == "bad":
        raise ValueError("not today")
"""

SECRET = "s3cr3t-wOrd"
SOON = ("--connect-timeout", "0.5")
ENDS_WITHIN_S = 8.0

StartPool = Callable[..., PoolProcess]


@pytest.fixture
def start_pool(tmp_path: Path) -> Iterator[StartPool]:
    """Start a pool of two workers; all that was started is gone after the test."""
    started: list[PoolProcess] = []

    def start(
        *args: str, app: str = HANDLER, url: str | None = None, **options: Any
    ) -> PoolProcess:
        pool = PoolProcess(app, "--workers", "2", *args, url=url, cwd=tmp_path, **options)
        started.append(pool)
        return pool

    yield start
    for pool in started:
        pool.close()


@pytest.fixture(scope="module")
def guarded_server(_no_process_left: None) -> Iterator[Server]:
    """A server on a TCP port that wants a password."""
    with Server.start("valkey-9.1", tcp=True, password=SECRET) as server:
        yield server


def dead_url() -> str:
    """A URL where nobody listens."""
    return f"redis://127.0.0.1:{free_port()}/0"


def complaint(pool: PoolProcess, code: int) -> str:
    """Wait for the end; the one sentence that the pool says. It says nothing else."""
    ended = pool.wait(ENDS_WITHIN_S)
    assert "Traceback" not in pool.stderr
    assert ended == code, pool.stderr
    assert SECRET not in pool.stderr + pool.stdout
    assert pool.stdout == ""
    lines = [
        line
        for line in pool.stderr.splitlines()
        if line and not line.startswith(("Usage: rsq-pool ", "Try 'rsq-pool --help'"))
    ]
    assert len(lines) == 1, pool.stderr
    return lines[0]


class TestTheApp:
    """Exit code 3: the app could not be loaded."""

    @pytest.mark.parametrize(
        ("target", "sentence"),
        [
            ("nosuch:handler", "no module 'nosuch'"),
            ("app.sub:handler", "no module 'app.sub'"),
            ("app:handlr", "no 'handlr'. Did you mean handler"),
            ("app:zzz", "no 'zzz'. Check the name"),
            ("app:handler.deep", "no 'handler.deep'"),
            ("app:number", "int, not a function"),
            ("app:Handler", "is a class, not a function"),
            ("app:two", "its arguments are (messages, more), but it is called with one"),
            ("app:each.func", "its arguments are (), but it is called with one"),
            ("app:each", "called with one, the message."),
        ],
    )
    def test_target_that_is_not_there_or_no_handler(
        self, start_pool: StartPool, target: str, sentence: str
    ) -> None:
        pool = start_pool("--stream", "orders", url=dead_url(), target=target)

        said = complaint(pool, _exits.LOAD_FAILED)

        assert f"cannot load {target!r}" in said
        assert sentence in said

    def test_module_that_raises_shows_its_own_last_lines(self, start_pool: StartPool) -> None:
        app = "def setting(name):\n    raise KeyError(name)\n\nsetting('SHOP_TOKEN')\n"

        pool = start_pool("--stream", "orders", app=app, url=dead_url())

        assert pool.wait() == _exits.LOAD_FAILED
        assert pool.stderr.count("cannot load 'app:handler'") == 1
        assert pool.stderr.count("Traceback") <= 1
        assert "line 4, in <module>\n        setting('SHOP_TOKEN')" in pool.stderr
        assert pool.stderr.rstrip().endswith("KeyError: 'SHOP_TOKEN'")

    @pytest.mark.parametrize(
        ("app", "sentence"),
        [
            ("def handler(messages:\n", "SyntaxError"),
            ("import not_installed_here\n", "No module named 'not_installed_here'"),
            ("from app import handler\n", "ImportError: cannot import name 'handler'"),
            ("import sys\nsys.exit('no licence found')\n", "SystemExit: no licence found"),
        ],
    )
    def test_module_that_cannot_be_imported(
        self, start_pool: StartPool, app: str, sentence: str
    ) -> None:
        pool = start_pool("--stream", "orders", app=app, url=dead_url())

        assert pool.wait() == _exits.LOAD_FAILED
        assert sentence in pool.stderr.rstrip().splitlines()[-1]
        assert "redis_stream_queue/" not in pool.stderr  # the app's error, not our own
        assert "importlib" not in pool.stderr

    def test_module_that_ends_the_process(self, start_pool: StartPool) -> None:
        pool = start_pool("--stream", "orders", app="import os\nos._exit(7)\n", url=dead_url())

        assert pool.wait() == _exits.LOAD_FAILED
        said = pool.stderr.rstrip().splitlines()[-1]
        assert "workers end while they load 'app:handler' (exit code 7)" in said
        assert "Traceback" not in pool.stderr

    @pytest.mark.parametrize(
        ("settings", "sentence"),
        [
            (", max_deliveries=0", "max_deliveries must be a whole number of 1 or more, got 0."),
            (", batch_size='many'", "batch_size must be a whole number of 1 or more, got 'many'."),
            (", retry_delay_ms=-1", "retry_delay_ms must be a whole number of 0 or more, got -1."),
            (", group=''", "group must be a non-empty text, got ''."),
            (", max_deliverys=3", "@stream_handler does not know max_deliverys."),
        ],
    )
    def test_bad_setting_of_the_decorator(
        self, start_pool: StartPool, settings: str, sentence: str
    ) -> None:
        pool = start_pool(app=DECORATED.format(settings=settings), url=dead_url())

        assert pool.wait() == _exits.LOAD_FAILED
        assert sentence in pool.stderr.rstrip().splitlines()[-1]
        assert f'@stream_handler("orders"{settings})' in pool.stderr  # where to look

    @pytest.mark.parametrize(
        ("serializer", "sentence"),
        [
            ("nosuch:thing", "no module 'nosuch'"),
            ("app:nosuch", "no 'nosuch'"),
            ("app:number", "'app:number' has no encode() and decode()"),
        ],
    )
    def test_serializer_that_cannot_be_loaded(
        self, start_pool: StartPool, serializer: str, sentence: str
    ) -> None:
        pool = start_pool("--stream", "orders", "--serializer", serializer, url=dead_url())

        said = complaint(pool, _exits.LOAD_FAILED)

        assert sentence in said
        assert serializer in said


class TestUsage:
    """Exit code 2: an option, a name or a key that cannot work."""

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["--no-such-option"], "--no-such-option"),
            (["--worker", "2"], "--workers"),
            (["--workers", "0"], "'--workers': 0 is not in the range x>=1"),
            (["--workers", "-3"], "'--workers': -3 is not in the range x>=1"),
            (["--workers", "many"], "'--workers': 'many' is not a valid integer"),
            (["--workers", "100000"], f"workers must be 1 to {MAX_SLOTS}, got 100000"),
            (["--batch-size", "x"], "a whole number of 1 or more, or 'auto', got 'x'"),
            (["--batch-size", "0"], "a whole number of 1 or more, or 'auto', got '0'"),
            (["--batch-size", "²"], "a whole number of 1 or more, or 'auto', got '²'"),
            (["--max-deliveries", "0"], "'--max-deliveries': 0 is not in the range"),
            (["--min-idle-claim-ms", "0"], "'--min-idle-claim-ms': 0 is not in the range"),
            (["--retry-delay-ms", "-1"], "'--retry-delay-ms': -1 is not in the range"),
            (["--retry-max-delay-ms", "1.5"], "'--retry-max-delay-ms': '1.5' is not"),
            (["--graceful-timeout", "-1"], "'--graceful-timeout': -1.0 is not in the range"),
            (["--graceful-timeout", "nan"], "must be 0 or more, got nan"),
            (["--connect-timeout", "-0.1"], "'--connect-timeout': -0.1 is not in the range"),
            (["--log-level", "loud"], "'--log-level': 'loud' is not one of"),
            (["--log-format", "xml"], "'--log-format': 'xml' is not one of"),
            (["--serializer", "yaml"], "json, msgpack, pickle or module:object, got 'yaml'"),
            (["--stream", ""], "stream"),
            (["--group", "", "--stream", "orders"], "group must be a non-empty text"),
            (["--url", ""], "must start with one of redis, rediss, unix"),
            (["--url"], "'--url' requires an argument"),
        ],
    )
    def test_bad_option(self, start_pool: StartPool, args: list[str], sentence: str) -> None:
        # --url last takes the target for its value, so there it is left out
        target = {"target": None} if args == ["--url"] else {}

        assert sentence in complaint(
            start_pool(*args, url=dead_url(), **target),
            _exits.USAGE,
        )

    @pytest.mark.parametrize(
        ("target", "sentence"),
        [
            (None, "Missing argument 'TARGET'"),
            ("app", "the target must be module:function, as in app:handler, got 'app'"),
            ("app.py", "the target must be module:function, as in app:handler, got 'app.py'"),
            ("app:", "the target must be module:function"),
            ("./app.py:handler", "the target must be module:function"),
        ],
    )
    def test_bad_target(self, start_pool: StartPool, target: str, sentence: str) -> None:
        assert sentence in complaint(start_pool(target=target, url=dead_url()), _exits.USAGE)

    @pytest.mark.parametrize("given", ["option", "environment"])
    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("localhost:6379", "must start with one of redis, rediss, unix"),
            ("redis:/localhost", "must start with one of redis, rediss, unix"),
            (f"http://:{SECRET}@localhost", "must start with one of redis, rediss, unix"),
            (f"redis://:{SECRET}@localhost:port", "the port"),
            (f"redis://:{SECRET}@localhost:99999", "the port"),
            (f"redis://:{SECRET}@localhost:-1", "the port"),
            (
                f"redis://:{SECRET}/x@localhost",
                "percent-encode it",
            ),
            (f"redis://:{SECRET}@localhost/first", "database"),
            (f"redis+cluster://:{SECRET}@localhost:7000/3", "has only database 0"),
            ("unix://", "a unix:// URL must name the socket's path"),
        ],
    )
    def test_bad_url(self, start_pool: StartPool, url: str, sentence: str, given: str) -> None:
        if given == "option":
            pool = start_pool(f"--url={url}", *SOON, "--stream", "orders")
        else:
            pool = start_pool(*SOON, "--stream", "orders", url=url)

        assert sentence in complaint(pool, _exits.USAGE)

    def test_no_stream(self, start_pool: StartPool) -> None:
        said = complaint(start_pool(url=dead_url()), _exits.USAGE)
        assert "no stream: pass --stream NAME, or decorate app:handler" in said

    @pytest.mark.parametrize(
        ("args", "settings"),
        [(["--dlq-stream", "orders"], ""), ([], ", dlq_stream='orders'")],
    )
    def test_dead_letters_into_the_stream_itself(
        self, start_pool: StartPool, args: list[str], settings: str
    ) -> None:
        pool = start_pool(*args, app=DECORATED.format(settings=settings), url=dead_url())
        said = complaint(pool, _exits.USAGE)
        assert "the dead-letter stream must not be the stream itself ('orders')" in said

    def test_retry_delays_that_contradict_each_other(self, start_pool: StartPool) -> None:
        args = ["--retry-delay-ms", "5000", "--retry-max-delay-ms", "1000"]
        pool = start_pool(*args, "--stream", "orders", url=dead_url())
        said = complaint(pool, _exits.USAGE)
        assert "retry_max_delay_ms must be at least retry_delay_ms (5000), got 1000" in said

    @pytest.mark.parametrize("key", ["orders", "orders_dlq"])
    def test_key_of_another_type(
        self, start_pool: StartPool, pool_server: Server, pool_url: str, key: str
    ) -> None:
        with pool_server.client() as client:
            client.rpush(key, "x")

        said = complaint(start_pool("--stream", "orders", url=pool_url), _exits.USAGE)

        assert f"key '{key}' on unix://" in said
        assert "is a list, not a stream" in said


class TestRedis:
    """Exit code 4: unreachable, refusing us, or too old."""

    @pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "rediss"])
    def test_closed_port(self, start_pool: StartPool, scheme: str) -> None:
        where = f"127.0.0.1:{free_port()}"
        url = f"{scheme}://:{SECRET}@{where}"

        said = complaint(start_pool("--stream", "orders", *SOON, url=url), _exits.REDIS)

        assert f"cannot reach Redis at {scheme}://{where} within 0.5 s" in said

    def test_socket_that_is_not_there(self, start_pool: StartPool) -> None:
        pool = start_pool("--stream", "orders", *SOON, url="unix:///nowhere/redis.sock")
        said = complaint(pool, _exits.REDIS)
        assert "cannot reach Redis at unix:///nowhere/redis.sock within 0.5 s" in said

    @pytest.mark.parametrize("host", ["nohost.invalid", "x" * 70], ids=["unknown", "too long"])
    def test_host_that_does_not_exist(self, start_pool: StartPool, host: str) -> None:
        url = f"redis://:{SECRET}@{host}:6379"
        said = complaint(start_pool("--stream", "orders", *SOON, url=url), _exits.REDIS)
        assert f"cannot reach Redis at redis://{host}:6379 within 0.5 s" in said

    def test_no_server_within_the_time(self, start_pool: StartPool) -> None:
        """A port that accepts and never answers."""
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://:{SECRET}@127.0.0.1:{silent.getsockname()[1]}"
            said = complaint(start_pool("--stream", "orders", *SOON, url=url), _exits.REDIS)
        assert "within 0.5 s" in said

    @pytest.mark.parametrize("credentials", [":wrong", "nobody:wrong", f"nobody:{SECRET}"])
    @pytest.mark.parametrize("given", ["option", "environment"])
    def test_wrong_password(
        self, start_pool: StartPool, guarded_server: Server, credentials: str, given: str
    ) -> None:
        url = guarded_server.url.replace(f":{SECRET}", credentials)
        if given == "option":
            pool = start_pool("--stream", "orders", "--url", url)
        else:
            pool = start_pool("--stream", "orders", url=url)

        said = complaint(pool, _exits.REDIS)

        assert f"redis://127.0.0.1:{guarded_server.port} refuses the user or password" in said
        assert "wrong" not in said
        assert "nobody" not in said

    def test_missing_password(self, start_pool: StartPool, guarded_server: Server) -> None:
        url = f"redis://127.0.0.1:{guarded_server.port}"
        said = complaint(start_pool("--stream", "orders", url=url), _exits.REDIS)
        assert f"{url} refuses the user or password" in said
        assert "Authentication required" in said
        assert "Check --url or REDIS_URL" in said

    def test_too_old(self, start_pool: StartPool) -> None:
        with OldRedis() as old:
            said = complaint(start_pool("--stream", "orders", url=old.url), _exits.REDIS)
        assert f"{old.url} is Redis 5.0, but 6.2 or newer" in said
        assert "Upgrade the server" in said

    @pytest.mark.parametrize(
        "forbidden",
        ["evalsha", "xreadgroup", "xack", "xclaim", "xpending", "xgroup|create", "xadd", "type"],
    )
    def test_user_who_may_not(
        self, start_pool: StartPool, guarded_server: Server, forbidden: str
    ) -> None:
        url = limited_user(guarded_server, "+@all", f"-{forbidden}", "~*")

        said = complaint(start_pool("--stream", "orders", *SOON, url=url), _exits.REDIS)

        assert "refuses a command that consumers cannot do without" in said
        assert forbidden in said.lower()
        assert "ACL SETUSER" in said

    def test_user_who_may_not_touch_the_stream(
        self, start_pool: StartPool, guarded_server: Server
    ) -> None:
        url = limited_user(guarded_server, "+@all", "~other*")
        said = complaint(start_pool("--stream", "orders", *SOON, url=url), _exits.REDIS)
        assert "access to the keys of the stream and its dead-letter stream" in said

    def test_user_who_may_not_touch_the_dead_letters(
        self, start_pool: StartPool, guarded_server: Server
    ) -> None:
        url = limited_user(guarded_server, "+@all", "~orders")
        said = complaint(start_pool("--stream", "orders", *SOON, url=url), _exits.REDIS)
        assert "access to the keys of the stream and its dead-letter stream" in said

    def test_user_who_may_do_what_we_ask_for(
        self, start_pool: StartPool, guarded_server: Server
    ) -> None:
        """The ACL line that the pool asks for is enough to handle, to retry and to bury."""
        rights = [word for word in NEEDED_ACL.split() if word.startswith("+")]
        url = limited_user(guarded_server, *rights, "~orders", "~orders_dlq")
        with guarded_server.client() as client:
            for data in (b'"good"', b'"bad"'):
                client.xadd("orders", {"data": data})

        args = ["--stream", "orders", "--max-deliveries", "2", "--retry-delay-ms", "10", "--burst"]
        pool = start_pool(*args, app=PICKY, url=url)

        assert pool.wait() == _exits.FAILURE  # because there are dead letters
        assert "NOPERM" not in pool.stderr
        assert "permission" not in pool.stderr
        with guarded_server.client() as client:
            assert [group["pending"] for group in client.xinfo_groups("orders")] == [0]
            assert client.xlen("orders_dlq") == 1


class TestPassword:
    """It is not in ps, not in the log, and the pool works with it."""

    @pytest.mark.parametrize("form", ["--url URL", "--url=URL", "--url first --url URL", "query"])
    def test_password_on_the_command_line(
        self, start_pool: StartPool, guarded_server: Server, form: str
    ) -> None:
        url = guarded_server.url
        args = {
            "--url URL": ["--url", url],
            "--url=URL": [f"--url={url}"],
            "--url first --url URL": ["--url", f"redis://:{SECRET}@first", "--url", url],
            "query": ["--url", f"redis://127.0.0.1:{guarded_server.port}?password={SECRET}"],
        }[form]

        pool = start_pool(*args, "--stream", "orders", "--log-level", "debug").wait_ready()

        assert_not_in_ps(pool)
        pid = pool.pid
        pool.send(signal.SIGUSR1)
        pool.wait_log("status: ")
        assert pool.drain() == _exits.OK
        assert SECRET not in pool.stderr + pool.stdout
        assert f"pid={pid} " in pool.stderr  # the process that was started is the one that runs

    def test_password_on_the_command_line_while_it_waits_for_redis(
        self, start_pool: StartPool
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://:{SECRET}@127.0.0.1:{silent.getsockname()[1]}"
            pool = start_pool("--url", url, "--stream", "orders")
            wait_until(lambda: len(pool.processes()) == 4, 10, "master, template and two workers")
            assert_not_in_ps(pool)
            pool.close()
        assert SECRET not in pool.stderr + pool.stdout

    def test_url_in_the_environment_is_not_overruled(
        self, start_pool: StartPool, guarded_server: Server
    ) -> None:
        """--url is above REDIS_URL and RSQ_URL, also through the restart without it."""
        pool = start_pool(
            "--url", guarded_server.url, "--stream", "orders",
            url="redis://127.0.0.1:1", env={"RSQ_URL": "redis://127.0.0.1:2"},
        )  # fmt: skip
        pool.wait_ready()
        assert pool.drain() == _exits.OK


def assert_not_in_ps(pool: PoolProcess) -> None:
    processes = pool.processes()
    assert pool.pid in [p.pid for p in processes]
    shown = [Path(f"/proc/{p.pid}/cmdline").read_text() for p in processes]
    assert all("redis_stream_queue" in line for line in shown)
    assert not any(SECRET in line for line in shown)


def limited_user(server: Server, *rules: str) -> str:
    """Make the user ``shop`` one with these rights alone; returns the URL with which he comes."""
    with server.client() as client:
        client.execute_command("FLUSHALL")
        client.execute_command("ACL", "SETUSER", "shop", "reset", "on", f">{SECRET}", *rules)
    return server.url.replace(f":{SECRET}@", f"shop:{SECRET}@")


class OldRedis:
    """Answers as a Redis 5.0.14 would, as far as it is asked before it is refused.

    The one server that cannot be had for real.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> OldRedis:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        """One connection after the other gets a thread; all end with their clients."""
        threads = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            threads.append(threading.Thread(target=self._talk, args=(connection,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _talk(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while line := stream.readline():
                words = [self._word(stream) for _ in range(int(line[1:]))]
                stream.write(self._answer(words[0].upper()))
                stream.flush()

    def _word(self, stream: Any) -> bytes:
        length = int(stream.readline()[1:])
        word: bytes = stream.read(length + 2)[:-2]
        return word

    def _answer(self, command: bytes) -> bytes:
        if command == b"PING":
            return b"+PONG\r\n"
        if command == b"INFO":
            info = b"# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\n"
            return b"$%d\r\n%s\r\n" % (len(info), info)
        return b"-ERR unknown command `%s`, with args beginning with: \r\n" % command
