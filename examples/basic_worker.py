"""Producer, consumer, dead letters and a monitor in one asyncio program.

    python basic_worker.py                  # a private server, in ./data
    REDIS_URL=redis://localhost:6379/0 python basic_worker.py

Pushes 20 orders, handles them, gives one up, and says how it went. Ends when all is settled.
"""

from __future__ import annotations

import asyncio
import os

from redis_stream_queue import (
    ConsumerConfig,
    ConsumerGroup,
    StreamClient,
    StreamConsumer,
    StreamMessage,
    StreamProducer,
)

STREAM, GROUP, DEAD = "example_orders", "example_workers", "example_orders_dlq"
ORDERS = 20


async def produce(client: StreamClient) -> None:
    """Push orders; the last one has a quantity that nobody can deliver."""
    producer = StreamProducer(client, STREAM, group=GROUP)
    await producer.ensure_group()
    first = await producer.push({"order": 0, "quantity": 1})
    print(f"pushed {first}")
    orders = [{"order": n, "quantity": n} for n in range(1, ORDERS - 1)]
    await producer.push_many([*orders, {"order": ORDERS - 1, "quantity": -1}])
    print(f"pushed {producer.metrics().total_pushed} in all")


async def handle(messages: list[StreamMessage]) -> list[str]:
    """Deliver what can be delivered; what is not returned comes again."""
    return [message.id for message in messages if message.data["quantity"] > 0]


async def dlq_handler(message: StreamMessage, reason: str) -> None:
    """Somebody should look at this one."""
    print(
        f"given up: order {message.data['order']} ({reason}, {message.delivery_count} deliveries)"
    )


async def monitor(consumer: StreamConsumer, group: ConsumerGroup) -> None:
    """Stop the consumer when everything is settled; until then say how it goes."""
    while True:
        stats, metrics = await group.stats(DEAD), consumer.metrics()
        print(
            f"waiting {stats.lag}, pending {stats.group_pel_size}, done {metrics.total_acked}, "
            f"dead {stats.dlq_length}, {metrics.tps_out:.0f}/s"
        )
        if metrics.total_acked + metrics.total_dlq >= ORDERS and not stats.group_pel_size:
            health = await group.health_check()
            print(f"healthy: {health['healthy']} {health['issues']}")
            consumer.stop()
            return
        await asyncio.sleep(0.2)


async def main() -> None:
    client = StreamClient.from_url(os.environ.get("REDIS_URL", "embedded://./data"))
    config = ConsumerConfig(
        group=GROUP,
        dlq_stream=DEAD,
        block_ms=500,
        max_deliveries=3,
        retry_delay_ms=100,  # the n-th retry waits twice as long as the one before
        retry_max_delay_ms=2000,
    )
    consumer = StreamConsumer(client, STREAM, config, handle, dlq_handler=dlq_handler)
    await produce(client)
    await asyncio.gather(consumer.run(), monitor(consumer, ConsumerGroup(client, STREAM, GROUP)))
    await client.close()


if __name__ == "__main__":
    asyncio.run(main())
