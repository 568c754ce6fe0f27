"""The page in a real browser, and the metrics under load while 20 workers are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support.browser import Page, chromium
from tests.support.ledger import Ledger
from tests.support.pool import PoolProcess
from tests.support.servers import Server, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.soak

StartPool = Callable[..., PoolProcess]
Key = tuple[str, tuple[tuple[str, str], ...]]
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
COUNTING = ("_total", "_count", "_bucket", "_sum")


class Scraper:
    """Scrapes again and again: no two samples have one name and labels, no counter falls."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"
        self.seen: dict[Key, float] = {}
        self.count = 0

    def scrape(self) -> None:
        text = httpx.get(self._url, headers=OPENMETRICS).text
        found: list[tuple[Key, float]] = [
            ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]
        now = dict(found)
        assert len(now) == len(found)
        for key, value in self.seen.items():
            if key[0].endswith(COUNTING):
                assert now[key] >= value, key
        self.seen = now
        self.count += 1

    def total(self, name: str) -> float:
        """Over all labels."""
        return sum(value for (known, _), value in self.seen.items() if known == name)

    def check_with_promtool(self) -> None:
        """Where it is installed; the parser of prometheus-client says less about names."""
        if promtool := shutil.which("promtool"):
            text = httpx.get(self._url).text
            command = [promtool, "check", "metrics"]
            done = subprocess.run(command, input=text, text=True, capture_output=True)
            assert (done.returncode, done.stdout + done.stderr) == (0, "")


TROUBLES = "document.querySelector('#troubles').textContent"
WELL = """{stream: "it's", dlq_stream: "d", redis: {error: ""}, paused: false, lag: 0,
    oldest_waiting_s: 0, history: {at_s: [], errors: []}, failures: [], letters: [],
    dead_letters: 0, handling: {p99_s: 30}, workers: []}"""
NOTED = {  # what the page says, and of what in /status
    "": "oldest_waiting_s: 59, history: {at_s: [699], errors: [9]}",
    "9 errors in the last 5 min. ": "history: {at_s: [701], errors: [9]}",
    "2 messages not started, the oldest for 61 s. rsq running 'it'\\''s'": (
        "lag: 2, oldest_waiting_s: 61"
    ),
    "Messages wait, the oldest for 61 s. rsq running 'it'\\''s'": "lag: null, oldest_waiting_s: 61",
    "1 of 1 worker not there: they end, and are started again. ": "workers: [{state: 'gone'}]",
    "Slot 3 (pid 7) has been running 1-0 for 91 s. rsq show 'it'\\''s' 1-0": (
        "workers: [{state: 'ready', slot: 3, pid: 7, message_id: '1-0', message_ms: 91000}]"
    ),
    "1 dead letter. rsq dlq list 'it'\\''s' --dlq-stream d": "dead_letters: 1",
    "Paused: nothing is started for this group. rsq resume 'it'\\''s'": "paused: true",
}


def test_metrics_under_load_while_20_workers_are_killed(
    start_pool: StartPool, ledger: Ledger
) -> None:
    """Whenever it is scraped; in the end the totals are what the ledger says."""
    port = free_port()
    pool = start_pool("--workers", "4", "--http", f"127.0.0.1:{port}")
    scraper = Scraper(port)
    ids: list[str] = []
    for death in range(20):
        ids += ledger.push(*({"s": 0.002} for _ in range(200)), {"do": "raise_first"})
        wait_until(lambda: len(pool.workers()) == 4, 15, "four workers")
        os.kill(pool.workers()[death % 4], signal.SIGKILL)
        for _ in range(5):
            scraper.scrape()
    ledger.wait_settled(ids, 60)

    def all_is_counted() -> bool:
        scraper.scrape()
        return scraper.total("rsq_messages_acked_total") == len(ids)

    wait_until(all_is_counted, 15, f"{len(ids)} messages are counted")
    scraper.check_with_promtool()
    started = len(ledger.started())
    assert scraper.total("rsq_worker_restarts_total") == 20
    assert len(ids) <= scraper.total("rsq_handler_duration_seconds_count") <= started
    assert len(ids) - 20 <= scraper.total("rsq_message_wait_seconds_count") <= len(ids)


async def test_the_page_in_a_browser(
    start_pool: StartPool, ledger: Ledger, pool_server: Server, tmp_path: Path
) -> None:
    """Numbers change, it says what is wrong, its console stays empty, no other host is asked."""
    address = f"127.0.0.1:{free_port()}"
    pool = start_pool("--workers", "2", "--http", address)
    with chromium(tmp_path / "browser") as port:
        async with Page(port) as page:
            await page.send("Page.navigate", url=f"http://{address}/")
            await page.until(f"{text('acked')} === '0'")
            ledger.push(
                *({"do": "ok"} for _ in range(30)), {"do": "raise"}, {"do": "sleep", "s": 60}
            )
            await page.until(f"{text('acked')} === '30'")
            await page.until(f"{rows('failures')}.includes('Error')")
            await page.until(f"{rows('workers')}.includes('busy')")
            await page.until("document.querySelector('path').getAttribute('d').length > 20")
            await page.until(f"{TROUBLES}.includes('in the last 5 min, the last one: ')")
            pool_server.pause()
            await page.until(f"{TROUBLES}.includes('Redis does not answer since')")
            pool_server.resume()
            await page.until(f"!{TROUBLES}.includes('Redis does not answer')")
            for expected, changes in NOTED.items():
                assert await page.value(looked_at(changes)) == expected
            narrow = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
            await page.send("Emulation.setDeviceMetricsOverride", **narrow)
            assert await page.value("document.documentElement.scrollWidth") == 360
            assert page.complaints == []
            (tmp_path / "app.py").write_text("no code")
            pool.send(signal.SIGHUP)
            await page.until(f"{TROUBLES}.includes('failed, the old code still runs: cannot load')")
            pool.process.kill()
            await page.until("document.querySelector('#verdict').textContent === 'No answer'")
            assert page.hosts == {address}


def text(name: str) -> str:
    """JavaScript: what the page shows there."""
    return f"document.querySelector('[data-text={name}]')?.textContent"


def looked_at(changes: str) -> str:
    """JavaScript: what the page says of a crew that is well but for these changes."""
    crew = f"{{...{WELL}, {changes}}}"
    return f"troublesOf({crew}, 1000).map((t) => `${{t.words}} ${{t.command}}`).join()"


def rows(name: str) -> str:
    """JavaScript: what is in this table."""
    return f"document.querySelector('[data-rows={name}]').textContent"
