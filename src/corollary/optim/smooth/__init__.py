"""Smooth problems: gradient, momentum, Newton, quasi-Newton and trust-region methods."""
