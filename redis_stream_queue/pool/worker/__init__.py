"""A worker process, from the fork to its exit code."""
