"""How messages get into a stream."""
