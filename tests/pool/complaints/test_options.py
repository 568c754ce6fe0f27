"""An option, a name or a key that cannot work: one sentence, and exit code 2."""

from __future__ import annotations

import pytest

from redis_stream_queue import _exits
from redis_stream_queue._pool_config import MAX_WORKERS
from tests.pool.complaints.conftest import DECORATED, SOON, StartPool, complaint, dead_url
from tests.support.guarded import SECRET
from tests.support.servers import Server


class TestUsage:
    """Exit code 2: an option, a name or a key that cannot work."""

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["--no-such-option"], "--no-such-option"),
            (["--stream", f"redis://:{SECRET}@h"], "A URL is for --url, REDIS_URL or"),
            (["--group", f"rediss+cluster://:{SECRET}@h"], "A URL is for --url, REDIS_URL or"),
            (["--worker", "2"], "--workers"),
            (["--workers", "0"], "'--workers': 0 is not in the range x>=1"),
            (["--workers", "-3"], "'--workers': -3 is not in the range x>=1"),
            (["--workers", "many"], "'--workers': 'many' is not a valid integer"),
            (
                ["--workers", "100000"],
                f"workers must be a whole number from 1 to {MAX_WORKERS:,}, got 100000",
            ),
            (["--batch-size", "x"], "a whole number of 1 or more, or 'auto', got 'x'"),
            (["--batch-size", "0"], "a whole number of 1 or more, or 'auto', got '0'"),
            (["--batch-size", "²"], "a whole number of 1 or more, or 'auto', got '²'"),
            (["--max-deliveries", "0"], "'--max-deliveries': 0 is not in the range"),
            (["--min-idle-claim-ms", "0"], "'--min-idle-claim-ms': 0 is not in the range"),
            (["--retry-delay-ms", "-1"], "'--retry-delay-ms': -1 is not in the range"),
            (["--retry-max-delay-ms", "1.5"], "'--retry-max-delay-ms': '1.5' is not"),
            (["--graceful-timeout", "-1"], "'--graceful-timeout': -1.0 is not in the range"),
            (["--graceful-timeout", "nan"], "must be a number of 0 or more, got nan"),
            (["--connect-timeout", "-0.1"], "'--connect-timeout': -0.1 is not in the range"),
            (["--log-level", "loud"], "'--log-level': 'loud' is not one of"),
            (["--log-format", "xml"], "'--log-format': 'xml' is not one of"),
            (["--serializer", "yaml"], "json, msgpack, pickle or module:object, got 'yaml'"),
            (["--stream", ""], "stream"),
            (["--group", "", "--stream", "orders"], "group must be a non-empty text"),
            (["--url", ""], "must start with one of redis, rediss, unix"),
            (["--url"], "'--url' requires an argument"),
            (["--url-file", f"redis://:{SECRET}@h"], "URL (redis://***@h) cannot be read"),
            (["--config", f"redis://:{SECRET}@h"], "redis:/***@h: cannot be read"),
            (["--workers", f"redis://me:{SECRET}@h"], "'redis://***@h' is not a valid integer"),
            (["--http", f"redis://h?password={SECRET}"], "got 'redis://h?password=***'."),
            ([f"redis://:{SECRET}@h"], "module:function, as in app:handler, got 'redis://***@h'"),
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
            (None, "Missing argument 'TARGET...'"),
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
