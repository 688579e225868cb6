"""Structured operators: circulant, Toeplitz, Kronecker, butterfly, permutations, low-rank updates."""
