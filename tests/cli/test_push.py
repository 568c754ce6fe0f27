"""rsq push: arguments, files and pipes become messages, all of them or as many as it says."""

from __future__ import annotations

import json
import os
import pickle
import pty
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgpack
import pytest

from redis_stream_queue import _exits
from tests.cli.kit import ID, WAIT_S, feed, length, payloads, piped, said, wait_for_length
from tests.support.pool import plain_environment
from tests.support.rsq import RSQ, rsq
from tests.support.servers import Server


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
                wait_for_length(pool_server, n)
            out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out, err) == (0, b"pushed 3 messages to orders\n", b"")

    def test_interrupted_while_it_waits(self, pool_server: Server, pool_url: str) -> None:
        with piped("push", "orders", url=pool_url) as process:
            feed(process, b"1\n2")
            wait_for_length(pool_server, 1)
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
                [*RSQ, "push", "orders"],
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


def _peak_kb(url: str, file: Path) -> int:
    command = [*RSQ, "push", "orders", "--file", str(file)]
    process = subprocess.Popen(command, env=plain_environment(url), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def _on_a_terminal(*args: str, url: str, stdin: bytes | None = None) -> str:
    """What is shown on standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*RSQ, *args],
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
