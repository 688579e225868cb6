"""Finite sums: stochastic gradients, batch samplers, variance reduction."""
