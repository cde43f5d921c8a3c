"""How everything here is measured: processes that answer questions, calls that take turns, results that are kept.

Of the standard library and NumPy alone: a process of another framework uses it without JAX.
"""
