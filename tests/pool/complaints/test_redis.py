"""A Redis that does not answer, refuses or is too old: one sentence, and exit code 4."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from redis_stream_queue import _exits
from tests.pool.complaints.conftest import SOON, StartPool, complaint
from tests.support.guarded import SECRET, documented, limited_user
from tests.support.servers import Server, free_port
from tests.support.stub import OTHERS, answering

PICKY = """
from redis_stream_queue import per_message

@per_message
def handler(message):
    if message.data == "bad":
        raise ValueError("not today")
"""


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

    @pytest.mark.parametrize("other", ["all is well", "a web server"])
    def test_something_else_answers(self, start_pool: StartPool, other: str) -> None:
        """It says so at once: waiting for it to become a Redis is in vain."""
        with answering(OTHERS[other]) as url:
            said = complaint(start_pool("--stream", "orders", url=url), _exits.REDIS)
        assert f"what answers at {url} is no Redis: " in said

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
        """The rights that docs/security.md asks for are enough to handle, to retry and to bury;
        what more is wanted for scheduled messages is said once, and costs nothing else."""
        rights = documented("pool, StreamConsumer")
        url = limited_user(guarded_server, *rights, "~orders", "~orders_dlq")
        with guarded_server.client() as client:
            for data in (b'"good"', b'"bad"'):
                client.xadd("orders", {"data": data})

        args = ["--stream", "orders", "--max-deliveries", "2", "--retry-delay-ms", "10", "--burst"]
        pool = start_pool(*args, app=PICKY, url=url)

        assert pool.wait() == _exits.FAILURE  # because there are dead letters
        assert "NOPERM" not in pool.stderr
        [refused] = [line for line in pool.stderr.splitlines() if "permission" in line]
        assert "scheduled messages of orders are not moved here" in refused
        with guarded_server.client() as client:
            assert [group["pending"] for group in client.xinfo_groups("orders")] == [0]
            assert client.xlen("orders_dlq") == 1


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
