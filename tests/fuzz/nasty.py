"""What anybody could put into Redis: made from a seed, as nasty as we know how."""

from __future__ import annotations

import json
from random import Random

from redis_stream_queue.delivery.dead_letter import LETTER_FIELDS

EVIL = (
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b[2J\r",
    "\r\n2026-11-26T00:00:00.000Z CRITICAL master pid=1 forged",
    "\u202e\u2066",
    "\x9b31m",
    "\x00\x7f\x85\u2028",
    "%s%n{}{0}",
    "\U0001f600 ok ",
    "' OR 1=1 --",
)
FIELDS = ("data", "id", "reason", "original_stream", "headers", "rsq:tick", "", "traceparent")
COUNTS = (0, 1, 2, 3, 10**9, 10**10, 10**10 + 1, 3 * 10**9, 9 * 10**9, 2**53 + 1, 2**63 - 1)


class Nasty:
    """A source of everything below."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def text(self) -> str:
        parts = self.random.choices(EVIL, k=self.random.randint(0, 3))
        return "".join(parts) + str(self.random.randint(0, 10**6))

    def raw(self) -> bytes:
        return self.random.randbytes(self.random.randint(0, 200))

    def payload(self) -> bytes:
        """Half of them are JSON that a handler can do something with."""
        kind = self.random.random()
        if kind < 0.5:
            does = self.random.choice(["ok"] * 17 + ["raise", "reject", "retry"])
            return json.dumps({"do": does, "say": self.text()}).encode()
        if kind < 0.6:
            return self.raw()
        whole = json.dumps({"say": [self.text()] * self.random.randint(0, 5)}).encode()
        choices = (
            whole,
            whole[: self.random.randint(0, len(whole))],
            b"[" * self.random.randint(1, 3000),
            b"9" * self.random.randint(1, 6000),
            b"-" + b"1" * 400 + b"." + b"0" * 400 + b"e" + b"9" * self.random.randint(1, 9),
            b'"\\ud800"',
            b"NaN",
            b"",
            b"\xff\xfe" + whole,
            b'{"a":1,"a":2}',
            json.dumps(self.text() * self.random.choice((1, 1, 1, 200))).encode(),
        )
        return self.random.choice(choices)

    def name(self) -> bytes:
        """Of a consumer or a group."""
        digits = self.random.choice((1, 2, 5, 20, 400, 5000))
        retry = "g:retry:" + "".join(self.random.choices("0123456789", k=digits))
        return self.random.choice(
            (
                retry.encode(),
                f"g:retry:{1 << self.random.randint(0, 5)}".encode(),
                f"g:retry:{self.text()}".encode(),
                self.text().encode() or b"x",
                self.raw() or b"\xff",
                b"g_host_ab12",
            )
        )

    def entry(self) -> list[bytes]:
        """Fields and values: any number of any."""
        fields: list[bytes] = []
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 8, 60))):
            name = self.random.choice(FIELDS).encode()
            if self.random.random() < 0.3:
                name = self.random.choice((self.text().encode(), self.raw()))
            fields += [name, self.random.choice((self.payload, self.raw))()]
        return fields

    def letter(self) -> list[bytes]:
        """Like one of ours, more or less."""
        names = list(LETTER_FIELDS)
        if self.random.random() < 0.3:
            self.random.shuffle(names)
        fields = self.entry()
        for name in names[: self.random.choice((8, 8, 8, 3, 0))]:
            value = self.random.choice(("s", "s", self.text(), "1-1"))
            fields += [name.encode(), value.encode()]
        return fields or [b"data", b"1"]
