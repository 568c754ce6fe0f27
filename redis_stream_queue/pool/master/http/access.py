"""Who may see what over HTTP.

Probes and metrics are for all who can reach the address; status and page are for this machine, or
for clients that know the token.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ....exceptions import ConfigError

OPEN = frozenset({"/livez", "/readyz", "/metrics"})


class Refusal(NamedTuple):
    """An answer to a request that is refused: HTTP status, a sentence, and further headers."""

    status: int
    why: str
    headers: dict[str, str]


class Access:
    """Decides which requests are answered.

    host: the address that the server listens on. token: needed for status and page; None = these
    are served on a loopback address only, without a token.
    """

    def __init__(self, host: str, token: str | None) -> None:
        self._is_loopback = is_loopback(host)
        self._token = token

    def refusal(self, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why this request is refused; None = it is answered. headers: names in lower case."""
        if self._is_loopback and not is_loopback(_without_port(headers.get("host", ""))):
            # Else a web page whose name leads to 127.0.0.1 could read it (DNS rebinding).
            return Refusal(403, "ask for localhost or 127.0.0.1", {})
        if path in OPEN or (self._token is None and self._is_loopback):
            return None
        if self._token is None:
            return Refusal(403, "beyond loopback this is served with --http-token-file only", {})
        if hmac.compare_digest(_given(headers).encode(), self._token.encode()):
            return None
        ask = 'Basic realm="rsq-pool: any name, the token as the password", charset="UTF-8"'
        return Refusal(401, "the token is missing or wrong", {"WWW-Authenticate": ask})


def _given(headers: Mapping[str, str]) -> str:
    """The token in a request: a bearer token, or the password that a browser has asked for."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        with contextlib.suppress(ValueError):
            return base64.b64decode(given).decode().partition(":")[2]
    return given if kind.lower() == "bearer" else ""


def read_token(file: str) -> str:
    """The token in a file. Raises ConfigError for a file that cannot be read or is empty."""
    try:
        token = Path(file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(f"http_token_file ({file}) cannot be read: {why}.") from None
    if not token:
        raise ConfigError(f"http_token_file ({file}) is empty.")
    return token


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


@lru_cache(16)  # scrapers use the same name each time
def is_loopback(host: str) -> bool:
    """Does this name or address mean this machine alone?"""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    name = host.lower().removesuffix(".")  # names are alike in any case, and end with the root
    return name == "localhost" or name.endswith(".localhost")
