"""`dynet compile-gpu`: what XLA's GPU compiler makes of a configuration, on a machine that has no GPU."""
