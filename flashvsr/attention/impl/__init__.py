"""Implementations of attention, one file each; ``reference`` defines the correct result."""
