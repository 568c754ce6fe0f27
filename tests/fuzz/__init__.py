"""Random payloads, entries, names and letters against pool, library and rsq; see ``run.py``."""
