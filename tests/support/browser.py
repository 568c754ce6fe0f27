"""A headless Chromium, and one page of it that is driven by its DevTools protocol."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp

from .waiting import wait_until

COMMANDS = "chromium", "chromium-browser", "google-chrome"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"),
)
COMPLAINTS = "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"
ANSWER_S = 30


@contextmanager
def chromium(directory: Path) -> Iterator[int]:
    """Runs until the end; what it keeps is in this directory. Returns the port to drive it by."""
    found = next(filter(None, map(shutil.which, COMMANDS)), None)
    assert found, "there is no Chromium: apt-get install chromium"
    with subprocess.Popen(
        [found, *FLAGS, f"--user-data-dir={directory}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            file = directory / "DevToolsActivePort"
            wait_until(lambda: file.exists() and "\n" in file.read_text(), 30, "it listens")
            yield int(file.read_text().split("\n")[0])
        finally:
            process.terminate()


class Page:
    """Its only page. complaints: what came to its console. hosts: that it has asked."""

    def __init__(self, port: int) -> None:
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self._port = port
        self._answers: list[asyncio.Future[dict[str, Any]]] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{self._port}/json/list") as answer:
            [target] = [t for t in await answer.json() if t["type"] == "page"]
        self._socket = await self._session.ws_connect(target["webSocketDebuggerUrl"])
        self._reader = asyncio.ensure_future(self._read())
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        return self

    async def _read(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers[said["id"]].set_result(said)
            elif said["method"] in COMPLAINTS:
                self.complaints.append(str(said["params"]))
            elif said["method"] == "Network.requestWillBeSent":
                url = said["params"]["request"]["url"]
                if host := re.match(r"\w+://([^/]+)", url):
                    self.hosts.add(host[1])

    async def send(self, method: str, **params: Any) -> Any:
        """A command of the DevTools protocol; returns its result."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        number = len(self._answers) - 1
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(ANSWER_S):
            return (await answer)["result"]

    async def value(self, expression: str) -> Any:
        """Of JavaScript on the page; of a promise what comes of it."""
        answer = await self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until it is true, 20 s at most."""
        look = (
            "new Promise((done) => { let looks = 200; const look = () => "
            f"({expression}) ? done('') : looks-- ? setTimeout(look, 100) "
            ": done(document.body.innerText || 'nothing'); look(); })"
        )
        shown = await self.value(look)
        assert shown == "", f"not true: {expression}; the page shows: {shown}"

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._session.close()
