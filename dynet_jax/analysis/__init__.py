"""What a network costs."""

from dynet_jax.analysis.macs import MacCount, count_macs

__all__ = ["MacCount", "count_macs"]
