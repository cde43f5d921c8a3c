"""The native engine: programs on CPUs, in C++ of our own, because no runtime has a good kernel per image."""
