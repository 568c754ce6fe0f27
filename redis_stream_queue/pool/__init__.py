"""The worker pool; ``rsq-pool`` on the command line."""

from .._pool_config import PoolConfig
from .metrics import PoolMetrics
from .pool import Pool

__all__ = ["Pool", "PoolConfig", "PoolMetrics"]
