"""Eigenvalues: power-like iterations, Krylov methods for a few pairs, their certificates."""
