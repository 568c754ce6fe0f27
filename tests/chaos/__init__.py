"""Two pools on one Redis under random faults, and a ledger that says what became of each message.

``python -m tests.chaos.run`` (or ``scripts/chaos``) runs it; every file here is one part of it.
"""
