"""What is told over HTTP is made once of each snapshot, however many ask."""

from __future__ import annotations

from redis_stream_queue.pool.master.http.repeated import Response, sentence
from redis_stream_queue.pool.master.http.snapshot import Renderings, Snapshot


def test_each_is_made_once_of_a_snapshot() -> None:
    newest = Snapshot(1.0, "starting", [], {})
    made: list[str] = []

    def make(snapshot: Snapshot) -> Response:
        made.append(snapshot.state)
        return sentence(snapshot.state)

    renderings = Renderings(lambda: newest)
    seen = [renderings.get(name, make) for name in ("a", "a", "b", "a")]
    newest = Snapshot(2.0, "running", [], {})
    seen += [renderings.get("a", make) for _ in range(2)]

    assert made == ["starting", "starting", "running"]
    assert seen == [sentence("starting")] * 4 + [sentence("running")] * 2
