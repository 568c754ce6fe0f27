"""The command lines: ``rsq`` and ``rsq-pool``."""
