"""Traces, diagonals and spectral densities of operators by probing."""
