"""rsq push and rsq stats as a user runs them: real processes, a real server."""

from __future__ import annotations

import json
import os
import pickle
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from redis_stream_queue import _exits
from tests.support.cluster import Cluster
from tests.support.faultproxy import ThreadedFaultProxy
from tests.support.pool import plain_environment
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

COMMAND = [sys.executable, "-m", "redis_stream_queue.cli"]
SECRET = "s3cr3t-wOrd"
ID = re.compile(r"\d+-\d+")
WAIT_S = 15.0


def rsq(
    *args: str,
    url: str | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end. stdin: what is piped in; None = nothing."""
    done = subprocess.run(
        [*COMMAND, *args],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        cwd=cwd,
        env={**plain_environment(url), **(env or {})},
        timeout=WAIT_S * 2,
    )
    stderr = done.stderr.decode(errors="replace")
    assert "Traceback" not in stderr, stderr
    assert SECRET not in stderr + done.stdout.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), stderr)


@contextmanager
def piped(*args: str, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """An rsq whose standard input stays open; killed at the end if it still runs."""
    process = subprocess.Popen(
        [*COMMAND, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=plain_environment(url),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def feed(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def said(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one sentence on standard error."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = [
        line for line in done.stderr.splitlines() if line and not line.startswith(("Usage", "Try"))
    ]
    assert len(lines) == 1, done.stderr
    return lines[0]


def payloads(server: Server, key: str = "orders") -> list[bytes]:
    with server.client() as client:
        entries: Any = client.xrange(key)
    return [fields[b"data"] for _, fields in entries]


def length(server: Server, key: str = "orders") -> int:
    with server.client() as client:
        return int(client.xlen(key))


@pytest.fixture(scope="module")
def guarded_server(_no_process_left: None) -> Iterator[Server]:
    """A server on a TCP port that wants a password."""
    with Server.start("valkey-9.1", tcp=True, password=SECRET) as server:
        yield server


@pytest.fixture
def lines_file(tmp_path: Path) -> Path:
    path = tmp_path / "orders.jsonl"
    path.write_text("".join(f'{{"n": {n}}}\n' for n in range(2500)))
    return path


class TestPushArguments:
    def test_json_values(self, real_server: Server, redis_url: str) -> None:
        """Each argument is one message; its id is printed on a line of its own."""
        done = rsq("push", "orders", '{"a": [1, "ä"]}', "2", '"x"', "null", url=redis_url)

        assert done.returncode == _exits.OK, done.stderr
        assert done.stderr == ""
        assert payloads(real_server) == ['{"a":[1,"ä"]}'.encode(), b"2", b'"x"', b"null"]
        with real_server.client() as client:
            entries: Any = client.xrange("orders")
        assert done.stdout.split() == [entry_id.decode() for entry_id, _ in entries]

    def test_text(self, pool_server: Server, pool_url: str) -> None:
        done = rsq("push", "orders", "--text", "hello", "", "{", url=pool_url)
        assert len(ID.findall(done.stdout)) == 3
        assert payloads(pool_server) == [b'"hello"', b'""', b'"{"']

    def test_what_looks_like_an_option_after_two_dashes(self, guarded_server: Server) -> None:
        guarded_server.flush()
        args = ["push", "--url", guarded_server.url, "orders", "--text", "--", "--url", "-x"]
        assert rsq(*args).returncode == _exits.OK
        assert payloads(guarded_server) == [b'"--url"', b'"-x"']

    @pytest.mark.parametrize(
        ("serializer", "decode"), [("msgpack", msgpack.unpackb), ("pickle", pickle.loads)]
    )
    def test_serializer(
        self, pool_server: Server, pool_url: str, serializer: str, decode: Any
    ) -> None:
        done = rsq("push", "orders", "--serializer", serializer, '{"a": 1}', url=pool_url)
        assert done.returncode == _exits.OK, done.stderr
        assert decode(payloads(pool_server)[0]) == {"a": 1}

    def test_serializer_of_ones_own(
        self, pool_server: Server, pool_url: str, tmp_path: Path
    ) -> None:
        (tmp_path / "shop.py").write_text(
            "class Upper:\n"
            "    def encode(self, data): return data.upper().encode()\n"
            "    def decode(self, raw): return raw.decode()\n"
        )
        args = ["push", "orders", "--serializer", "shop:Upper"]
        assert rsq(*args, '"abc"', url=pool_url, cwd=tmp_path).returncode == _exits.OK
        assert payloads(pool_server) == [b"ABC"]

        done = rsq(*args, '"abc"', "1", url=pool_url, cwd=tmp_path)

        assert "argument 2 cannot be serialized: 'int' object has no" in said(done, _exits.USAGE)
        assert length(pool_server) == 1

    def test_group_is_created_before_the_messages(self, pool_server: Server, pool_url: str) -> None:
        for _ in range(2):  # an existing one is left as it is
            assert rsq("push", "orders", "--group", "g", "1", url=pool_url).returncode == _exits.OK
        with pool_server.client() as client:
            [group] = client.xinfo_groups("orders")
            assert (group["name"], group["lag"]) == (b"g", 2)

    @pytest.mark.parametrize("given", ["option", "environment"])
    def test_prefix(self, pool_server: Server, pool_url: str, given: str) -> None:
        args = ["--prefix", "shop"] if given == "option" else []
        env = {"RSQ_PREFIX": "shop"} if given == "environment" else {}
        assert rsq("push", "orders", *args, "1", url=pool_url, env=env).returncode == _exits.OK
        assert payloads(pool_server, "shop_orders") == [b"1"]

    def test_json_answer(self, pool_server: Server, pool_url: str) -> None:
        done = rsq("push", "orders", "--json", "--prefix", "shop", "1", "2", url=pool_url)
        answer = json.loads(done.stdout)
        assert (answer["stream"], answer["pushed"]) == ("shop_orders", 2)
        assert [ID.fullmatch(entry_id) is not None for entry_id in answer["ids"]] == [True, True]

    @pytest.mark.parametrize(
        ("written", "why"),
        [
            ("hello", "Expecting value at 1"),
            ("{'a': 1}", "Expecting property name"),
            ("1 2", "Extra data at 3"),
            ("NaN", "JSON has no NaN"),
            ("[-Infinity]", "JSON has no -Infinity"),
            ("[" * 100_000, "recursion"),
        ],
        ids=["word", "quotes", "two", "NaN", "Infinity", "deep"],
    )
    def test_bad_json_pushes_nothing(
        self, pool_server: Server, pool_url: str, written: str, why: str
    ) -> None:
        """Not even the good arguments before it."""
        text = said(rsq("push", "orders", "--", "1", written, "3", url=pool_url), _exits.USAGE)
        assert text.startswith("rsq: argument 2 is not JSON (")
        assert why in text
        assert text.endswith("Plain text needs --text. Nothing was pushed.")
        assert len(text) < 300
        assert length(pool_server) == 0

    def test_argument_that_is_not_utf8(self, pool_server: Server, pool_url: str) -> None:
        text = said(rsq("push", "orders", os.fsdecode(b'"\xff"'), url=pool_url), _exits.USAGE)
        assert "argument 1 cannot be serialized" in text
        assert length(pool_server) == 0


class TestPushLines:
    LINES = b'{"n": 1}\n\n  \n"\xc3\xa4"\r\n3'

    @pytest.mark.parametrize("args", [[], ["-"], ["--file", "-"]], ids=["piped", "-", "--file -"])
    def test_standard_input(self, pool_server: Server, pool_url: str, args: list[str]) -> None:
        """Empty lines do not count; the last line needs no end."""
        done = rsq("push", "orders", *args, url=pool_url, stdin=self.LINES)
        assert done.returncode == _exits.OK, done.stderr
        assert done.stdout == "pushed 3 messages to orders\n"
        assert done.stderr == ""  # no progress bar without a terminal
        assert payloads(pool_server) == [b'{"n":1}', '"ä"'.encode(), b"3"]

    def test_text_lines_stay_as_they_are(self, pool_server: Server, pool_url: str) -> None:
        rsq("push", "orders", "--text", url=pool_url, stdin=b"\xef\xbb\xbfa b\r\n\n  c\n")
        assert payloads(pool_server) == [b'"a b"', b'"  c"']

    def test_nothing_at_all(self, pool_server: Server, pool_url: str) -> None:
        assert rsq("push", "orders", url=pool_url).stdout == "pushed 0 messages to orders\n"

    def test_file(self, real_server: Server, redis_url: str, lines_file: Path) -> None:
        done = rsq("push", "orders", "--file", str(lines_file), url=redis_url)
        assert done.stdout == "pushed 2500 messages to orders\n", done.stderr
        assert payloads(real_server) == [b'{"n":%d}' % n for n in range(2500)]

    def test_json_answer(self, pool_url: str, lines_file: Path) -> None:
        done = rsq("push", "orders", "--file", str(lines_file), "--json", url=pool_url)
        assert json.loads(done.stdout) == {"stream": "orders", "pushed": 2500}

    def test_line_far_longer_than_a_read(self, pool_server: Server, pool_url: str) -> None:
        long = b'"%s"' % (b"x" * 2_000_000)
        done = rsq("push", "orders", url=pool_url, stdin=b"1\n" + long + b"\n2\n")
        assert done.stdout == "pushed 3 messages to orders\n", done.stderr
        assert payloads(pool_server) == [b"1", long, b"2"]

    @pytest.mark.parametrize("number", [1, 2, 1000, 1001, 2345])
    def test_bad_line(
        self, pool_server: Server, pool_url: str, lines_file: Path, number: int
    ) -> None:
        """Everything before it is pushed, nothing from there on, and it says so."""
        lines = lines_file.read_text().splitlines()
        lines[number - 1] = "{n: 1}"
        lines_file.write_text("\n".join(lines))

        text = said(rsq("push", "orders", "--file", str(lines_file), url=pool_url), _exits.USAGE)

        were = "1 message was" if number == 2 else f"{number - 1} messages were"
        assert text.startswith(f"rsq: line {number} is not JSON (")
        assert text.endswith(f"{were} pushed, nothing from there on.")
        assert payloads(pool_server) == [b'{"n":%d}' % n for n in range(number - 1)]

    def test_number_of_a_bad_line_counts_empty_ones(
        self, pool_server: Server, pool_url: str
    ) -> None:
        done = rsq("push", "orders", url=pool_url, stdin=b"1\n\n\nx\n5\n")
        text = said(done, _exits.USAGE)
        assert "line 4 is not JSON" in text
        assert "1 message was pushed, nothing from there on." in text

    def test_line_that_is_not_utf8(self, pool_server: Server, pool_url: str) -> None:
        text = said(rsq("push", "orders", url=pool_url, stdin=b'1\n"a\xff"\n3\n'), _exits.USAGE)
        assert "line 2 is not UTF-8 (invalid start byte at byte 3)" in text
        assert length(pool_server) == 1

    def test_slow_pipe_is_pushed_as_it_comes(self, pool_server: Server, pool_url: str) -> None:
        with piped("push", "orders", url=pool_url) as process:
            for n in (1, 2, 3):
                feed(process, b"%d\n" % n)
                _wait_for_length(pool_server, n)
            out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out, err) == (0, b"pushed 3 messages to orders\n", b"")

    def test_interrupted_while_it_waits(self, pool_server: Server, pool_url: str) -> None:
        with piped("push", "orders", url=pool_url) as process:
            feed(process, b"1\n2")
            _wait_for_length(pool_server, 1)
            process.send_signal(signal.SIGINT)
            process.wait(WAIT_S)
            assert process.stderr is not None
            said = process.stderr.read()
        assert process.returncode == 130
        assert length(pool_server) == 1
        # Redis has it; whether the answer had come back yet is a matter of microseconds.
        assert said.startswith(b"rsq: interrupted. ")
        assert b"1 message was pushed." in said or b"perhaps some of the next 1." in said, said

    def test_a_file_is_never_whole_in_memory(
        self, pool_server: Server, pool_url: str, tmp_path: Path
    ) -> None:
        small, big = tmp_path / "small", tmp_path / "big"
        small.write_bytes(b"1\n")
        line = b'"%s"\n' % (b"x" * 2000)
        with big.open("wb") as file:
            for _ in range(60):
                file.write(line * 500)

        grown_kb = _peak_kb(pool_url, big) - _peak_kb(pool_url, small)

        assert length(pool_server) == 30_001
        assert grown_kb < 25_000  # of 60 MB

    def test_progress_bar_on_a_terminal(self, pool_url: str, lines_file: Path) -> None:
        shown = _on_a_terminal("push", "orders", "--file", str(lines_file), url=pool_url)
        assert "pushing" in shown
        assert "100%" in shown

    def test_counter_where_the_end_is_not_known(self, pool_url: str) -> None:
        shown = _on_a_terminal("push", "orders", url=pool_url, stdin=b"1\n" * 2500)
        assert "pushing  2500" in shown

    def test_nothing_given_on_a_terminal(self, pool_url: str) -> None:
        """It says what it wants rather than wait for somebody who does not know."""
        ours, theirs = pty.openpty()
        try:
            done = subprocess.run(
                [*COMMAND, "push", "orders"],
                stdin=theirs,
                capture_output=True,
                text=True,
                env=plain_environment(pool_url),
                timeout=WAIT_S,
            )
        finally:
            os.close(ours)
            os.close(theirs)
        assert "nothing to push" in said(done, _exits.USAGE)


def _wait_for_length(server: Server, wanted: int) -> None:
    wait_until(lambda: length(server) == wanted, WAIT_S, f"{wanted} message(s) are there")


def _peak_kb(url: str, file: Path) -> int:
    command = [*COMMAND, "push", "orders", "--file", str(file)]
    process = subprocess.Popen(command, env=plain_environment(url), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def _on_a_terminal(*args: str, url: str, stdin: bytes | None = None) -> str:
    """What is shown on standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**plain_environment(url), "TERM": "xterm"},
    )
    os.close(theirs)
    shown = b""
    with process, open(ours, "rb", buffering=0) as terminal:
        assert process.stdin is not None
        process.stdin.write(stdin or b"")
        process.stdin.close()
        try:
            while block := terminal.read(65536):
                shown += block
        except OSError:  # EIO: the other side is closed
            assert process.wait(WAIT_S) == 0
    return shown.decode()


class TestUsage:
    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["nosuch"], "No such command 'nosuch'"),
            (["push"], "Missing argument 'STREAM'"),
            (["stats"], "Missing argument 'STREAM'"),
            (["push", "orders", "--bogus"], "No such option '--bogus'"),
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
                feed(process, b"1\n")
                _wait_for_length(guarded_server, 1)
                proxy.set(cut_after=0)
                feed(process, b"2\n")
                _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == _exits.REDIS
        assert b"1 message was pushed, and perhaps some of the next 1." in err
        assert length(guarded_server) == 2

    def test_password_is_not_in_ps(self, guarded_server: Server) -> None:
        """And standard input is still there after the restart without it."""
        guarded_server.flush()
        url = guarded_server.url
        with piped("push", "orders", "--url", url, url="redis://127.0.0.1:1") as process:
            feed(process, b"1\n")
            _wait_for_length(guarded_server, 1)
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
            [*COMMAND, *args],
            pass_fds=[read_end],
            capture_output=True,
            text=True,
            env=plain_environment(None),
            timeout=WAIT_S,
        )
        os.close(read_end)
        assert done.stdout == "pushed 2 messages to orders\n", done.stderr


def limited_user(server: Server, *rules: str) -> str:
    """Make the user ``shop`` one with these rights alone; returns the URL with which he comes."""
    server.flush()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "reset", "on", f">{SECRET}", *rules)
    return server.url.replace(f":{SECRET}@", f"shop:{SECRET}@")


@pytest.fixture
def busy_stream(real_server: Server, redis_url: str) -> str:
    """orders: 6 entries; group ``g`` has read 4: ``a`` holds 1, ``b`` holds 2, one waits for its
    retry. 2 dead letters. Returns the URL.
    """
    with real_server.client() as client:
        client.xgroup_create("orders", "g", id="0", mkstream=True)
        for n in range(6):
            client.xadd("orders", {"data": str(n)})
        read: Any = client.xreadgroup("g", "a", {"orders": ">"}, count=2)
        client.xreadgroup("g", "b", {"orders": ">"}, count=2)
        failed = read[0][1][0][0]
        client.xclaim("orders", "g", "g:retry:65536", 0, [failed], justid=True)
        for _ in range(2):
            client.xadd("orders_dlq", {"data": "x"})
    return redis_url


class TestStats:
    def test_table(self, busy_stream: str) -> None:
        done = rsq("stats", "orders", url=busy_stream)

        assert done.returncode == _exits.OK, done.stderr
        shown = re.sub(r"idle .*", "idle T", done.stdout)
        shown = re.sub(r"\d+-\d+, held by g:retry:\d+ for \d+ ms", "ID, held by H", shown)
        assert shown == (
            "stream             orders\n"
            "length             6\n"
            "dead letters       2  in orders_dlq\n"
            "oldest unfinished  group g has not finished ID, held by H\n"
            "\n"
            "group              g\n"
            "lag                2\n"
            "pending            4\n"
            "waiting for retry  1\n"
            "consumers          2\n"
            "                   b  pending 2, idle T\n"
            "                   a  pending 1, idle T\n"
        )

    def test_json(self, busy_stream: str) -> None:
        report = json.loads(rsq("stats", "orders", "--json", url=busy_stream).stdout)

        [group] = report.pop("groups")
        assert "group g has not finished" in report.pop("oldest_unfinished")
        assert report == {
            "stream": "orders", "length": 6, "dlq_stream": "orders_dlq", "dead_letters": 2,
            "scheduled": 0,
        }  # fmt: skip
        consumers = {c["name"]: c["pending"] for c in group.pop("consumers")}
        assert consumers == {"a": 1, "b": 2}
        assert ID.fullmatch(group.pop("last_delivered_id"))
        assert group == {"group": "g", "lag": 2, "pending": 4, "waiting_for_retry": 1}

    def test_all_groups_unless_one_is_named(self, real_server: Server, busy_stream: str) -> None:
        with real_server.client() as client:
            client.xgroup_create("orders", "audit", id="0")

        def groups(*args: str) -> dict[str, int]:
            done = rsq("stats", "orders", "--json", *args, url=busy_stream)
            return {g["group"]: g["lag"] for g in json.loads(done.stdout)["groups"]}

        assert groups() == {"audit": 6, "g": 2}
        assert groups("--group", "audit") == {"audit": 6}

    def test_stream_without_a_group(self, pool_server: Server, pool_url: str) -> None:
        """It has a length, and no group is made up for it."""
        rsq("push", "orders", "1", "2", url=pool_url)
        report = json.loads(rsq("stats", "orders", "--json", url=pool_url).stdout)
        assert (report["length"], report["groups"]) == (2, [])
        assert "none yet" in rsq("stats", "orders", url=pool_url).stdout

    def test_what_is_not_there(self, pool_url: str) -> None:
        text = said(rsq("stats", "orders", "--prefix", "shop", url=pool_url), _exits.FAILURE)
        assert "there is no stream 'shop_orders' on unix://" in text

        rsq("push", "orders", "1", url=pool_url)
        text = said(rsq("stats", "orders", "--group", "g", url=pool_url), _exits.FAILURE)
        assert "stream 'orders' has no group 'g'. It has none yet." in text

        rsq("push", "orders", "--group", "a", "1", url=pool_url)
        text = said(rsq("stats", "orders", "--group", "g", url=pool_url), _exits.FAILURE)
        assert "stream 'orders' has no group 'g'. It has a." in text

    def test_dead_letter_stream_and_prefix(self, pool_server: Server, pool_url: str) -> None:
        for stream in ("orders", "orders_dlq", "lost", "lost"):
            rsq("push", stream, "--prefix", "shop", "1", url=pool_url)

        def dead(*args: str) -> tuple[str, int]:
            done = rsq("stats", "orders", "--prefix", "shop", "--json", *args, url=pool_url)
            report = json.loads(done.stdout)
            return report["dlq_stream"], report["dead_letters"]

        assert dead() == ("shop_orders_dlq", 1)
        assert dead("--dlq-stream", "lost") == ("shop_lost", 2)


def test_cluster(real_cluster: Cluster, cluster_url: str, lines_file: Path) -> None:
    """On a cluster the dead letters are where the pool puts them."""
    done = rsq("push", "orders", "--group", "g", "--file", str(lines_file), url=cluster_url)
    assert done.stdout == "pushed 2500 messages to orders\n", done.stderr

    report = json.loads(rsq("stats", "orders", "--json", url=cluster_url).stdout)

    assert (report["length"], report["dlq_stream"]) == (2500, "{orders}_dlq")
    assert [(g["group"], g["lag"]) for g in report["groups"]] == [("g", 2500)]


def test_embedded_server_keeps_the_messages(tmp_path: Path) -> None:
    url = f"embedded://{tmp_path}/data"
    assert rsq("push", "orders", "1", "2", url=url).returncode == _exits.OK
    assert json.loads(rsq("stats", "orders", "--json", url=url).stdout)["length"] == 2
