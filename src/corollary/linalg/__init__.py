"""Linear algebra: least squares, spectra, sketching and structured matrices, each answer with its certificate."""

from corollary.linalg._gram import gram
from corollary.linalg._least_squares import lstsq

__all__ = ["gram", "lstsq"]
