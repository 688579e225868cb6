"""Linear algebra: least squares, spectra, sketching and structured matrices, each answer with its certificate."""

from corollary.linalg._gram import gram

__all__ = ["gram"]
