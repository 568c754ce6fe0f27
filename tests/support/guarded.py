"""A server that wants a password, and users of it who may do little."""

from __future__ import annotations

from .servers import Server

SECRET = "s3cr3t-wOrd"


def limited_user(server: Server, *rules: str) -> str:
    """Make the user ``shop`` one with these rights alone; returns the URL with which he comes.

    The server is empty afterwards.
    """
    server.flush()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "reset", "on", f">{SECRET}", *rules)
    return server.url.replace(f":{SECRET}@", f"shop:{SECRET}@")
