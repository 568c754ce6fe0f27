"""Model test: every message is in exactly one place, whatever happens in whatever order."""
