"""An app that cannot be loaded: one sentence, and exit code 3."""

from __future__ import annotations

import pytest

from redis_stream_queue import _exits
from tests.pool.complaints.conftest import DECORATED, StartPool, complaint, dead_url


class TestTheApp:
    """Exit code 3: the app could not be loaded."""

    @pytest.mark.parametrize(
        ("target", "sentence"),
        [
            ("nosuch:handler", "no module 'nosuch'"),
            ("app.sub:handler", "no module 'app.sub'"),
            ("app:handlr", "no 'handlr'. Did you mean handler"),
            ("app:zzz", "no 'zzz'. It has handler"),
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
            (", max_deliveries=0", "max_deliveries must be a whole number from 1 to"),
            (", batch_size='many'", "batch_size must be a whole number of 1 or more, got 'many'."),
            (
                ", retry_delay_ms=-1",
                "retry_delay_ms must be a whole number of 0 or more, got -1.",
            ),
            (", group=''", "group must be a non-empty text, got ''."),
            (", max_deliverys=3", "does not know max_deliverys. Did you mean 'max_deliveries'?"),
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
