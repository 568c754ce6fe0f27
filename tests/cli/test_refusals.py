"""Whatever is wrong, rsq says it in one sentence, and says what was pushed before."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from redis_stream_queue import _exits
from tests.cli.kit import WAIT_S, feed, length, payloads, piped, said, wait_for_length
from tests.support.faultproxy import ThreadedFaultProxy
from tests.support.guarded import SECRET, limited_user
from tests.support.lyingproxy import NONSENSE, LyingProxy
from tests.support.pool import plain_environment
from tests.support.rsq import RSQ, rsq
from tests.support.servers import Server, free_port
from tests.support.stub import OTHERS, answering
from tests.support.waiting import wait_until


class TestUsage:
    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["nosuch"], "No such command 'nosuch'"),
            (["push"], "Missing argument 'STREAM'"),
            (["stats"], "Missing argument 'STREAM'"),
            (["push", "orders", "--bogus"], "No such option"),
            (["push", "", "1"], "'STREAM': expected a name, got ''"),
            (["push", os.fsdecode(b"\xff"), "1"], "'STREAM': expected a name"),
            (["push", "orders", "--group", "", "1"], "'--group': expected a name, got ''"),
            (["push", "orders", "--file", "/no/such"], "'/no/such': No such file or directory"),
            (["push", "orders", "--file", "/"], "'/': Is a directory"),
            (["push", "orders", "1", "--file", "/dev/null"], "got more than one"),
            (["push", "orders", "1", "-"], "got more than one"),
            (["push", "orders", "--serializer", "yaml", "1"], "module:object, got 'yaml'"),
            (["push", "orders", "1", "--url", "http://x"], "must start with one of redis"),
            (["stats", "orders", "--url", ""], "must start with one of redis"),
            (["stats", "orders", "--url", f"redis://:{SECRET}@h:port"], "the port"),
            (["stats", "orders", "--dlq-stream", ""], "'--dlq-stream': expected a name"),
        ],
    )
    def test_bad_arguments(self, args: list[str], sentence: str) -> None:
        assert sentence in said(rsq(*args), _exits.USAGE)

    def test_serializer_that_cannot_be_loaded(self, pool_url: str) -> None:
        done = rsq("push", "orders", "--serializer", "nosuch:thing", "1", url=pool_url)
        text = said(done, _exits.LOAD_FAILED)
        assert "cannot load serializer 'nosuch:thing': there is no module 'nosuch'" in text


MISTAKEN = f"redis://:{SECRET}@h"


@pytest.mark.parametrize(
    "args",
    [
        ["push", MISTAKEN, "1"],
        ["stats", "orders", "--group", MISTAKEN],
        ["dlq", "list", "orders", "--dlq-stream", MISTAKEN],
        ["stats", "orders", "--prefix", MISTAKEN],
    ],
    ids=lambda args: args[0],
)
def test_a_url_in_place_of_a_name(args: list[str], pool_url: str, pool_server: Server) -> None:
    """It neither becomes a key nor is shown."""
    assert "A URL is for --url" in said(rsq(*args, url=pool_url), _exits.USAGE)
    with pool_server.client() as client:
        assert client.dbsize() == 0


PUSH = ["push", "orders", "1"]
STATS = ["stats", "orders"]


class TestRedisThatDoesNotWork:
    @pytest.mark.parametrize("args", [PUSH, STATS], ids=["push", "stats"])
    @pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster"])
    def test_closed_port(self, args: list[str], scheme: str) -> None:
        where = f"127.0.0.1:{free_port()}"
        text = said(rsq(*args, url=f"{scheme}://:{SECRET}@{where}"), _exits.REDIS)
        assert f"cannot reach Redis at {scheme}://{where}: " in text
        assert ("Nothing was pushed." in text) == (args is PUSH)

    @pytest.mark.parametrize("host", ["nohost.invalid", "x" * 70], ids=["unknown", "too long"])
    def test_host_that_does_not_exist(self, host: str) -> None:
        assert f"redis://{host}:6379" in said(rsq(*STATS, url=f"redis://{host}"), _exits.REDIS)

    def test_port_that_never_answers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"redis://:{SECRET}@127.0.0.1:{silent.getsockname()[1]}"
            assert "no answer within 5 s" in said(rsq(*STATS, url=url), _exits.REDIS)

    @pytest.mark.parametrize("other", OTHERS)
    def test_something_else_answers(self, other: str) -> None:
        with answering(OTHERS[other]) as url:
            text = said(rsq(*(STATS if other == "nothing" else PUSH), url=url), _exits.REDIS)
        assert f"what answers at {url} is no Redis: " in text
        assert "Check --url or REDIS_URL" in text

    @pytest.mark.parametrize("args", [PUSH, STATS, ["cron", "list", "orders"]], ids=" ".join)
    async def test_a_server_that_talks_nonsense(self, pool_server: Server, args: list[str]) -> None:
        assert pool_server.socket_path is not None
        async with LyingProxy(pool_server.socket_path) as liar:
            liar.lies = {"*": NONSENSE["a list of the wrong shape"]}
            text = said(await asyncio.to_thread(rsq, *args, url=liar.url), _exits.REDIS)
        assert re.search(r" is reached, but the server answers [A-Z ]+ with a list of 2, exp", text)

    @pytest.mark.parametrize("args", [PUSH, STATS], ids=["push", "stats"])
    @pytest.mark.parametrize("credentials", [":wrong@", "me:wrong@", ""], ids=["pw", "user", "no"])
    def test_wrong_or_missing_password(
        self, guarded_server: Server, args: list[str], credentials: str
    ) -> None:
        where = f"127.0.0.1:{guarded_server.port}"
        text = said(rsq(*args, url=f"redis://{credentials}{where}"), _exits.REDIS)
        assert f"redis://{where} refuses the user or password (" in text
        assert "Check --url or REDIS_URL" in text
        assert "wrong" not in text

    @pytest.mark.parametrize("args", [PUSH, STATS], ids=["push", "stats"])
    def test_user_who_may_not(self, guarded_server: Server, args: list[str]) -> None:
        url = limited_user(guarded_server, "+ping", "+info", "~*")
        text = said(rsq(*args, url=url), _exits.REDIS)
        assert "does not let this user do that (" in text

    @pytest.mark.parametrize("count", [1, 3])
    def test_user_who_may_only_push(self, guarded_server: Server, count: int) -> None:
        """XADD alone is enough."""
        url = limited_user(guarded_server, "+xadd", "~orders")
        done = rsq("push", "orders", *["1"] * count, url=url)
        assert done.returncode == _exits.OK, done.stderr
        assert payloads(guarded_server) == [b"1"] * count

    @pytest.mark.parametrize("count", [1, 3])
    def test_push_to_a_key_of_another_type(
        self, pool_server: Server, pool_url: str, count: int
    ) -> None:
        with pool_server.client() as client:
            client.rpush("orders", "x")
        text = said(rsq("push", "orders", *["1"] * count, url=pool_url), _exits.USAGE)
        assert "key 'orders' on unix://" in text
        assert "is not a stream" in text
        assert "0 messages were pushed." in text

    @pytest.mark.parametrize("key", ["orders", "orders_dlq"])
    def test_stats_of_a_key_of_another_type(
        self, pool_server: Server, pool_url: str, key: str
    ) -> None:
        with pool_server.client() as client:
            client.xadd("orders", {"data": "1"})
            client.delete(key)
            client.rpush(key, "x")
        text = said(rsq(*STATS, url=pool_url), _exits.USAGE)
        assert f"key {key!r} on unix://" in text
        assert "is not a stream" in text

    def test_out_of_memory_in_the_middle(
        self, pool_server: Server, pool_url: str, lines_file: Path
    ) -> None:
        """It says how many are in, exactly."""
        lines_file.write_text(f'"{"x" * 900}"\n' * 20_000)
        with pool_server.client() as client:
            used = int(client.info("memory")["used_memory"])
            client.config_set("maxmemory", used + 6_000_000)
            try:
                done = rsq("push", "orders", "--file", str(lines_file), url=pool_url)
            finally:
                client.config_set("maxmemory", 0)
        text = said(done, _exits.REDIS)
        assert "refuses: " in text
        assert "OOM" in text or "maxmemory" in text
        assert 0 < length(pool_server) < 20_000
        assert text.endswith(f"{length(pool_server)} messages were pushed.")

    @pytest.mark.parametrize(
        "args",
        [["pause", "orders"], ["push", "orders", "--delay", "1m", "1"]],
        ids=["pause", "push"],
    )
    def test_full_server_refuses_a_script(
        self, pool_server: Server, pool_url: str, args: list[str]
    ) -> None:
        """Which line of ours it refuses is of no use to anybody."""
        with pool_server.client() as client:
            client.config_set("maxmemory", 1)
            try:
                text = said(rsq(*args, url=pool_url), _exits.REDIS)
            finally:
                client.config_set("maxmemory", 0)
        assert "command not allowed when used memory > 'maxmemory'." in text
        assert "script" not in text

    def test_server_that_dies_in_the_middle(self) -> None:
        with Server.start("valkey-9.1") as server, piped("push", "o", url=server.url) as process:
            feed(process, b"1\n2\n")
            wait_until(lambda: length(server, "o") == 2, WAIT_S, "two messages are there")
            server.kill()
            feed(process, b"3\n4\n5\n")
            out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out) == (_exits.REDIS, b"")
        assert err.count(b"\n") == 1
        assert err.endswith(b"2 messages were pushed, and perhaps some of the next 3.\n")

    def test_answer_that_is_lost(self, guarded_server: Server) -> None:
        """The message may be in: it does not say that it is not, and does not push it again."""
        guarded_server.flush()
        with ThreadedFaultProxy(("127.0.0.1", guarded_server.port)) as proxy:
            url = f"redis://:{SECRET}@127.0.0.1:{proxy.port}"
            with piped("push", "orders", url=url) as process:
                for n in (1, 2):
                    feed(process, b"%d\n" % n)
                    wait_for_length(guarded_server, n)
                proxy.set(cut_after=0)
                with contextlib.suppress(BrokenPipeError):  # where it is 2's answer that is lost
                    feed(process, b"3\n")
                _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == _exits.REDIS
        found = re.search(rb"(\d) messages? w\w+ pushed, and perhaps some of the next 1\.", err)
        assert found, err
        assert length(guarded_server) == int(found[1]) + 1

    def test_password_is_not_in_ps(self, guarded_server: Server) -> None:
        """And standard input is still there after the restart without it."""
        guarded_server.flush()
        url = guarded_server.url
        with piped("push", "orders", "--url", url, url="redis://127.0.0.1:1") as process:
            feed(process, b"1\n")
            wait_for_length(guarded_server, 1)
            shown = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
            process.communicate(timeout=WAIT_S)
        assert shown[1:-1] == ["-m", "redis_stream_queue.cli", "push", "orders"]
        assert process.returncode == _exits.OK

    def test_password_is_taken_away_before_a_pipe_is_opened(self, guarded_server: Server) -> None:
        """A named pipe can be opened only once without losing its writer."""
        guarded_server.flush()
        read_end, write_end = os.pipe()
        os.write(write_end, b"1\n2\n")
        os.close(write_end)
        args = ["push", "orders", "--file", f"/dev/fd/{read_end}", "--url", guarded_server.url]
        done = subprocess.run(
            [*RSQ, *args],
            pass_fds=[read_end],
            capture_output=True,
            text=True,
            env=plain_environment(None),
            timeout=WAIT_S,
        )
        os.close(read_end)
        assert done.stdout == "pushed 2 messages to orders\n", done.stderr
