"""``python -m redis_stream_queue.cli``: rsq."""

from .rsq import main

main(prog_name="rsq")
