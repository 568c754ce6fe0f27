"""What users of the package redis-stream-queue 0.1.3 have, run against us; see scripts/seeds."""
