"""rsq push --delay and --at, and rsq later, as a user runs them."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.rsq import rsq

ID = re.compile(r"@\d{13}-\d{12}")


def test_a_delayed_message_is_listed_shown_and_cancelled(pool_url: str) -> None:
    pushed = rsq("push", "orders", "--delay", "2h", '{"n": 1}', '{"n": 2}', url=pool_url)
    one, other = ID.findall(pushed.stdout)

    listed = rsq("later", "list", "orders", url=pool_url).stdout.splitlines()
    assert [line.split()[0] for line in listed] == [one, other]
    assert all("in 2.0 h" in line for line in listed)
    shown = json.loads(rsq("later", "show", "orders", one, "--json", url=pool_url).stdout)
    assert (shown["id"], shown["data"], shown["headers"]) == (one, '{"n":1}', {})
    assert (
        json.loads(rsq("stats", "orders", "--json", url=pool_url).stdout or "{}") == {}
    )  # no stream

    assert rsq("later", "cancel", "orders", one, url=pool_url).returncode == 0
    again = rsq("later", "cancel", "orders", one, other, url=pool_url)
    assert again.returncode == 1
    assert "cancelled: 1 scheduled message" in again.stdout
    assert one in again.stderr
    assert rsq("later", "show", "orders", one, url=pool_url).returncode == 1
    assert "nothing is scheduled" in rsq("later", "list", "orders", url=pool_url).stderr


def test_purge_takes_what_is_due_before_a_date(pool_url: str) -> None:
    for year in (2090, 2091, 2092):
        rsq("push", "orders", "--at", f"{year}-01-01T00:00Z", str(year), url=pool_url)
    assert "'orders' on " in (none := rsq("stats", "orders", url=pool_url).stderr)
    assert "yet: of what will be in it 3 are scheduled (rsq later list orders)" in none
    some = rsq("later", "list", "orders", "--limit", "2", url=pool_url)
    assert some.stderr == "3 are scheduled; --limit shows more than the first 2\n"
    assert rsq("later", "list", "orders", "--limit", "3", url=pool_url).stderr == ""
    rsq("push", "orders", "1", url=pool_url)
    scheduled = json.loads(rsq("stats", "orders", "--json", url=pool_url).stdout)["scheduled"]
    assert scheduled == 3

    args = ("later", "purge", "orders", "--before", "2092-01-01T00:00+00:00")
    assert "would be purged: 2" in rsq(*args, "--dry-run", url=pool_url).stdout
    assert "purged: 2 scheduled messages" in rsq(*args, url=pool_url).stdout
    left = rsq("later", "list", "orders", "--json", url=pool_url).stdout
    assert json.loads(left)["due"] == "2092-01-01T00:00:00.000+00:00"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("push", "s", "--at", "2090-01-01", "1"), "add one, as in 2090-01-01T00:00+01:00"),
        (("push", "s", "--delay", "367d", "1"), "366d at most"),
        (("push", "s", "--at", "tomorrow", "1"), "expected a date"),
        (("push", "s", "--delay", "5", "1"), "expected a number and"),
        (("push", "s", "--delay", "5s", "--at", "2090-01-01T00:00Z", "1"), "one of them"),
        (("later", "cancel", "s", "1-1"), "scheduled message"),
        (("later", "purge", "s"), "exactly one"),
    ],
)
def test_what_cannot_be_meant_is_explained(args: tuple[str, ...], said: str) -> None:
    done = rsq(*args, url="redis://127.0.0.1:1")
    assert done.returncode == 2
    assert said in done.stderr
