"""The master: watches workers and recovers what they leave; never runs a handler."""
