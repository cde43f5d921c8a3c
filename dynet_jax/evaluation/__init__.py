"""How good a network is: exact metrics on a test set, on any number of devices and hosts."""
