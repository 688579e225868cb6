"""Least squares: direct, iterative, sketched and regularised."""
