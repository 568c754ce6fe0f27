"""A server that wants a password, and users of it who may do little."""

from __future__ import annotations

import re
from pathlib import Path

from .servers import Server

SECRET = "s3cr3t-wOrd"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def documented(role: str) -> list[str]:
    """The rights of a role as the document's table has them, without the optional ones."""
    [line] = [x for x in DOCS.read_text().splitlines() if x.startswith(f"| {role} |")]
    return re.findall(r"\+[a-z|]+", line.split(" | ")[1].replace("\\|", "|"))


def limited_user(server: Server, *rules: str) -> str:
    """Make the user ``shop`` one with these rights alone; returns the URL with which he comes.

    The server is empty afterwards.
    """
    server.flush()
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "shop", "reset", "on", f">{SECRET}", *rules)
    return server.url.replace(f":{SECRET}@", f"shop:{SECRET}@")
