"""Beside a stream, under keys of its slot: scheduled messages, and notes about others."""
