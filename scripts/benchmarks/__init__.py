"""How fast, how soon, how large: each figure beside a raw loop of the same run.

``scripts/bench`` runs ``run.py``; every file here is one part of it.
"""
