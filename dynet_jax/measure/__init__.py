"""The measurement machinery: processes that answer questions, calls that alternate, and stored results.

It uses only the standard library and NumPy, so that a process of another framework can use it without JAX.
"""
