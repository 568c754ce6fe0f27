"""How fast, how soon, how large: each figure beside a raw loop of the same run.

``python -m tests.bench.run`` (or ``scripts/bench``) measures; every file here is one part of it.
"""
