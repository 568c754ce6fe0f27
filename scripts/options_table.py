"""Writes the README's table of options anew, from the fields of PoolConfig: options_table.py."""

from __future__ import annotations

import re
from pathlib import Path

from redis_stream_queue._options import BESIDE_URL, Option
from redis_stream_queue._pool_config import OPTIONS

README = Path(__file__).resolve().parents[1] / "README.md"
HEAD = "| option | default | |\n|---|---|---|\n"
TABLE = re.compile(re.escape(HEAD) + r"(\|.*\n)*")


def made() -> str:
    """The table."""
    options = [*OPTIONS]
    url = [option.name for option in OPTIONS].index("url")
    options[url:url] = BESIDE_URL
    return HEAD + "".join(map(_line, options))


def _line(option: Option) -> str:
    text = " ".join(filter(None, (option.help, option.more)))
    return f"| `{option.flag}` | {_default(option)} | {text} |\n"


def _default(option: Option) -> str:
    if option.shown:
        return option.shown
    if isinstance(option.default, bool):
        return "off"
    value = f"{option.default:g}" if isinstance(option.default, float) else option.default
    return f"`{option.none or value}`" if option.none or value else "none"


if __name__ == "__main__":
    README.write_text(TABLE.sub(lambda _: made(), README.read_text()))
