"""Named functions on one stream: ``redis_stream_queue.Queue`` is the way in."""
