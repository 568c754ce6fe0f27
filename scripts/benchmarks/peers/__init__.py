"""The same two tasks in Celery, RQ, Dramatiq and 0.1.3; the modules of the first three run in
virtual environments of their own and use nothing of ours but the busy work and the notes.

``python -m scripts.benchmarks.peers.NAME nothing|work COUNT ITERATIONS`` pushes messages and says
how many seconds that took.
"""
