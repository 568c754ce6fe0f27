"""The same two tasks in Celery, RQ and Dramatiq; each module runs in a virtual environment of its
own and uses nothing of ours but the busy work and the notes.

``python -m tests.bench.peers.NAME nothing|work COUNT ITERATIONS`` pushes messages and says how many
seconds that took.
"""
