"""The analysis of networks: cost, latency, coefficients, correlations and ranks."""

from dynet_jax.analysis.macs import MacCount, count_macs

__all__ = ["MacCount", "count_macs"]
