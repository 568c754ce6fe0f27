"""Why TLS to a server cannot work, in one sentence: files of no use, a certificate refused."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any

from redis.asyncio.connection import SSLConnection
from redis.exceptions import RedisError

from .endpoint import Endpoint

FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
ABOUT_CERTIFICATES = ("certificate", "unknown ca", "access denied", "handshake failure")
CONNECT_S = 2.0
ALERT_S = 0.5  # after the handshake a server says soon what it thinks of the client's certificate


async def tls_trouble(endpoint: Endpoint, words: str) -> str | None:
    """A sentence about what is wrong where TLS can never work; None = perhaps it can.

    words: the text of the error. The connection that raised it may have been reset before the
    server said more, so this opens another one and listens.
    """
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return (
            f"the certificate of {endpoint} is not trusted ({_why_untrusted(words)}). Name the "
            "authority that signed it: add ?ssl_ca_certs=/path/to/ca.pem to the URL."
        )
    named = {name: str(value) for name, value in endpoint.options if name in FILES and value}
    try:
        context = _context(endpoint, named)
    except _Unusable as error:
        return str(error)
    alert = await _alert(*endpoint.nodes[0], context)
    if alert is None:
        return None
    if "ssl_certfile" in named:
        return (
            f"{endpoint} refuses the client certificate {named['ssl_certfile']} ({alert}): it has "
            "to be valid and signed by an authority that the server trusts."
        )
    return (
        f"{endpoint} wants a client certificate ({alert}): add "
        "?ssl_certfile=/path/to/cert.pem&ssl_keyfile=/path/to/key.pem to the URL."
    )


class _Unusable(Exception):
    """The text is a sentence about files that cannot be used."""


def _context(endpoint: Endpoint, named: dict[str, str]) -> ssl.SSLContext:
    """The SSLContext that the connections use. Raises _Unusable."""
    for name, path in named.items():
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise _Unusable(f"{name} ({path}) cannot be read: {error.strerror}.") from None
    try:
        if "ssl_ca_certs" in named:
            ssl.create_default_context(cafile=named["ssl_ca_certs"])
    except ssl.SSLError:
        raise _Unusable(
            f"ssl_ca_certs ({named['ssl_ca_certs']}) holds no certificate in PEM."
        ) from None
    kwargs: dict[str, Any] = {**endpoint.connection_kwargs(), "host": endpoint.nodes[0][0]}
    try:
        return SSLConnection(**kwargs).ssl_context.get()
    except (ssl.SSLError, RedisError) as error:
        if not isinstance(error, ssl.SSLError) or "ssl_certfile" not in named:
            raise _Unusable(f"the options of TLS cannot work: {str(error).rstrip('.')}.") from None
        pair = f"ssl_certfile ({named['ssl_certfile']})"
        if "ssl_keyfile" in named:
            pair += f" with ssl_keyfile ({named['ssl_keyfile']})"
        why = f" ({error.reason.lower().replace('_', ' ')})" if error.reason else ""
        raise _Unusable(
            f"{pair} is no certificate in PEM with its private key{why}. A key in a file of its "
            "own is named with ssl_keyfile, its password with ssl_password."
        ) from None


async def _alert(host: str, port: int, context: ssl.SSLContext) -> str | None:
    """The alert that the server sends about the client's certificate; None = it sends none."""
    writer = None
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ALERT_S):
                await reader.read(1)
    except ssl.SSLError as error:
        alert = (error.reason or "").lower().replace("_", " ").partition(" alert ")[2]
        return alert if any(word in alert for word in ABOUT_CERTIFICATES) else None
    except (OSError, TimeoutError, UnicodeError):
        return None
    finally:
        if writer is not None:
            writer.close()
    return None


def _why_untrusted(words: str) -> str:
    return words.partition("certificate verify failed: ")[2].partition(" (_ssl")[0] or "unknown CA"
