"""Headers of a message: fields of its entry beside the payload. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ..exceptions import ConfigError

OURS = "rsq:"  # names that begin so are the library's own
MOST_HEADERS = 1000
PAYLOAD = "data"

Parts = tuple[str, ...]  # name, value, name, value, ...


class OwnHeaders(dict[str, str]):
    """Headers that a room of ours has made, of names of ours, too: nothing is checked again.

    parts: the same, made once.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(zip(parts[::2], parts[1::2], strict=True))
        self.parts = parts


def header_parts(headers: Mapping[str, str] | None) -> Parts:
    """What follows the payload in the entry.

    Raises ConfigError for what is no text, for a name of ours, and for too many.
    """
    if not headers:
        return ()
    if isinstance(headers, OwnHeaders):
        return headers.parts
    if not isinstance(headers, Mapping):
        raise ConfigError(f"headers must be a dict of texts, got a {type(headers).__name__}.")
    if len(headers) > MOST_HEADERS:
        raise ConfigError(f"a message has {MOST_HEADERS:,} headers at most, got {len(headers):,}.")
    parts: list[str] = []
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(
                f"header {name!r} must be a text with a text as its value, got a "
                f"{type(value).__name__}. Use str(...), or put it into the payload."
            )
        if name.startswith(OURS) or name in ("", PAYLOAD):
            raise ConfigError(
                f"header {name!r} has a name that is taken: {PAYLOAD!r} holds the payload, and "
                f"names that begin with {OURS!r} are the library's. Choose another one."
            )
        try:
            (name + value).encode()
        except UnicodeEncodeError:  # packed with those of others, it would fail them all
            raise ConfigError(
                f"header {name!r} holds half of a surrogate pair, which is no text: {value!r:.80}."
            ) from None
        parts += (name, value)
    return tuple(parts)
