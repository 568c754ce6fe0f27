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
    """Its numbers change, it says that Redis is away, its console stays empty, and it asks no other
    host."""
    address = f"127.0.0.1:{free_port()}"
    start_pool("--workers", "2", "--http", address)
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
            pool_server.pause()
            await page.until(f"{text('notice')}.startsWith('Redis does not answer since')")
            pool_server.resume()
            await page.until(f"{text('notice')} === ''")
            narrow = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
            await page.send("Emulation.setDeviceMetricsOverride", **narrow)
            assert await page.value("document.documentElement.scrollWidth") == 360
            assert page.complaints == []
            assert page.hosts == {address}


def text(name: str) -> str:
    """JavaScript: what the page shows there."""
    return f"document.querySelector('[data-text={name}]')?.textContent"


def rows(name: str) -> str:
    """JavaScript: what is in this table."""
    return f"document.querySelector('[data-rows={name}]').textContent"
