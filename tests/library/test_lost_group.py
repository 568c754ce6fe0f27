"""A group that is lost is made again, and what was finished does not run once more."""

from __future__ import annotations

import pytest

from tests.library.kit import GROUP, Bench, RecordingHandler, running


class TestGroupLost:
    """XGROUP DESTROY, DEL and FLUSHALL: the consumer goes on by itself."""

    @pytest.mark.parametrize("loss", ["XGROUP DESTROY", "DEL", "FLUSHALL"])
    async def test_run_goes_on(self, bench: Bench, loss: str) -> None:
        handler = RecordingHandler()
        async with running(bench, bench.consumer(handler, block_ms=300)):
            [first] = await bench.push(1)
            await bench.until(lambda: first in handler.runs, "the first message is handled")
            await bench.until(bench.settled, "and acknowledged")
            await self.lose(bench, loss)
            [second] = await bench.push(2)
            await bench.until(lambda: second in handler.runs, "a message after the loss", 4)
        assert handler.runs[second] == 1

    @pytest.mark.parametrize("loss", ["XGROUP DESTROY", "DEL", "FLUSHALL"])
    async def test_run_once_goes_on(self, bench: Bench, loss: str) -> None:
        """At most one iteration raises; the next one makes the group again."""
        handler = RecordingHandler()
        consumer = bench.consumer(handler)
        await bench.push(1)
        await consumer.run_once()
        await self.lose(bench, loss)
        [second] = await bench.push(2)
        try:
            await consumer.run_once()
        except Exception as error:
            assert "NOGROUP" in str(error)  # noqa: PT017 - it may raise, and then this
            await consumer.run_once()
        assert second in handler.runs

    async def test_a_new_consumer_looks_for_itself(self, bench: Bench) -> None:
        """What this process remembers of the group is no longer so: between two tests, say."""
        await bench.consumer(RecordingHandler()).run_once()
        await self.lose(bench, "FLUSHALL")
        handler = RecordingHandler()
        [message] = await bench.push(1)
        await bench.consumer(handler).run_once()
        assert handler.runs == {message: 1}

    async def test_finished_messages_do_not_run_again(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The group is made again behind what the last trim tick saw finished."""
        monkeypatch.setattr("redis_stream_queue.consumer.TRIM_INTERVAL_S", 0.01)
        monkeypatch.setattr("redis_stream_queue.delivery.reclaiming.SWEEP_INTERVAL_MS", 10)
        handler = RecordingHandler()
        consumer = bench.consumer(handler, block_ms=20)
        async with running(bench, consumer):
            ids = await bench.push(*range(20))
            await bench.until(lambda: len(handler.runs) == 20, "20 handled")
            await bench.until(
                lambda: consumer._retention.restart_id >= ids[-1], "a trim tick saw them finished"
            )
            await self.lose(bench, "XGROUP DESTROY")
            ids += await bench.push(*range(5))
            await bench.until(lambda: len(handler.runs) == 25, "5 more handled")
        assert handler.runs == dict.fromkeys(ids, 1)

    async def test_what_this_consumer_just_finished_does_not_run_again(self, bench: Bench) -> None:
        """As far as it knows since it looked last: at its start, and every few seconds."""
        handler = RecordingHandler()
        ids = await bench.push(*range(20))  # before it starts: its first look comes after them
        async with running(bench, bench.consumer(handler, block_ms=200)):
            await bench.until(lambda: len(handler.runs) == 20, "20 handled")
            await bench.until(bench.settled, "and acknowledged")
            await self.lose(bench, "XGROUP DESTROY")
            ids += await bench.push(*range(5))
            await bench.until(lambda: len(handler.runs) == 25, "5 more handled")
        assert handler.runs == dict.fromkeys(ids, 1)

    async def test_the_group_goes_on_with_the_oldest_that_was_unfinished(
        self, bench: Bench
    ) -> None:
        """It is made again right before that message, which waited for its retry, not behind it."""
        handler = RecordingHandler()
        consumer = bench.consumer(handler)
        done, waits = await bench.push(1, {"mode": "skip"})
        await consumer.run_once()
        await consumer._retention.trim()
        await self.lose(bench, "XGROUP DESTROY")
        async with running(bench, consumer):
            await bench.until(lambda: handler.runs[waits] == 2, "it is delivered again", 4)
        assert handler.runs[done] == 1

    async def test_unread_messages_survive_the_loss(self, bench: Bench) -> None:
        handler = RecordingHandler()
        await bench.client.create_group(bench.stream, GROUP)
        consumer = bench.consumer(handler, batch_size=1)
        ids = await bench.push(*range(5))
        await consumer.run_once()
        await self.lose(bench, "XGROUP DESTROY")
        async with running(bench, consumer):
            await bench.until(lambda: len(handler.runs) == 5, "all five are handled")
        assert set(handler.runs) == set(ids)

    @staticmethod
    async def lose(bench: Bench, how: str) -> None:
        if how == "XGROUP DESTROY":
            await bench.client.command(how, bench.stream, GROUP)
        elif how == "DEL":
            await bench.client.command(how, bench.stream)
        else:
            await bench.client.link().call(bench.stream, how)
