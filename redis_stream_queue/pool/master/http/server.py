"""``--http``: probes, metrics and the live page, in the master's own loop (extra ``http``)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .... import _exits
from ...._exits import Failure
from .access import Access
from .listening import Listening
from .prometheus import KINDS, render, wants_openmetrics
from .repeated import Repeated, Request, Response, sentence
from .snapshot import Renderings, Snapshot
from .status import Status

PAGE = Path(__file__).with_name("page")
PAGES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/troubles.js": ("troubles.js", "text/javascript"),
}
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
ALIVE, READY = sentence("the master's loop runs"), sentence("ready")
NOT_READY = sentence("not ready", 503)


class HttpServer:
    """Answers GET and HEAD of probes, metrics, status and page.

    address: ``host:port``. token: see Access. newest: returns the newest snapshot. is_ready: does
    the pool handle messages, for ``/readyz``?
    """

    def __init__(
        self,
        address: str,
        token: str | None,
        newest: Callable[[], Snapshot],
        is_ready: Callable[[], bool],
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]"), int(port)
        self._access = Access(self._host, token)
        self._status = Status(newest)
        self._rendered = Renderings(newest)
        self._is_ready = is_ready
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/livez": lambda _: ALIVE,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/status": self._status_json,
            **{path: _file(PAGE / name, kind) for path, (name, kind) in PAGES.items()},
        }
        self._listening = Listening(Repeated(self._answer))

    async def serve(self) -> NoReturn:
        """Listen, and record the history for the page. Raises Failure if it cannot listen."""
        try:
            await self._listening.begin(self._host, self._port)
        except (OSError, UnicodeError) as error:  # UnicodeError: a text that is no host name
            why = getattr(error, "strerror", None) or str(error)
            raise Failure(
                _exits.FAILURE, f"--http: cannot listen on {self._host}:{self._port}: {why}."
            ) from None
        await self._status.watch()

    def close(self) -> None:
        """Stop listening, and close all connections."""
        self._listening.close()

    def _answer(self, request: Request) -> Response:
        refusal = self._access.refusal(request.path, request.headers)
        if refusal is not None:
            return sentence(refusal.why, refusal.status, {**HEADERS, **refusal.headers})
        route = self._routes.get(request.path)
        if route is None:
            return sentence("there is no such page", 404, HEADERS)
        if request.method not in ("GET", "HEAD"):
            return sentence("nothing can be changed here", 405, {**HEADERS, "Allow": "GET, HEAD"})
        return route(request)

    def _readyz(self, _: Request) -> Response:
        return READY if self._is_ready() else NOT_READY

    def _metrics(self, request: Request) -> Response:
        openmetrics = wants_openmetrics(request.headers.get("accept", ""))
        kind = KINDS[openmetrics]
        return self._rendered.get(
            kind,
            lambda newest: Response(
                render(newest, openmetrics=openmetrics),
                kind=kind,
                headers={"Cache-Control": "no-store"},
            ),
        )

    def _status_json(self, _: Request) -> Response:
        return self._rendered.get(
            "status",
            lambda newest: Response(
                self._status.json(newest), kind="application/json", headers=HEADERS
            ),
        )


def _file(path: Path, kind: str) -> Callable[[Request], Response]:
    response = Response(path.read_bytes(), kind=f"{kind}; charset=utf-8", headers=HEADERS)
    return lambda _: response
