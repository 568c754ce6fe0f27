"""The handler of this example: prints each order."""

from redis_stream_queue import per_message, stream_handler


@stream_handler("orders")
@per_message
def handle(message):
    print("order", message.data, flush=True)
