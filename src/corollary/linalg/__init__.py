"""Linear algebra: least squares, spectra, sketching and structured matrices, each answer with its certificate."""

from corollary.linalg._condition import condition_estimate, linear_system_error
from corollary.linalg._gram import gram
from corollary.linalg._least_squares import lstsq
from corollary.linalg._picard import Picard, picard
from corollary.linalg._randomized_svd import randomized_svd
from corollary.linalg._range_finder import range_finder
from corollary.linalg._refine import refine
from corollary.linalg._rsvd_bounds import RsvdBounds, posterior_error, rsvd_error_bounds
from corollary.linalg._spectral_filters import (
    GCV,
    discrepancy_principle,
    gcv,
    spectral_filter,
    tikhonov,
    tsvd,
)
from corollary.linalg._svd import BestApproximation, eckart_young, svd

__all__ = [
    "GCV",
    "BestApproximation",
    "Picard",
    "RsvdBounds",
    "condition_estimate",
    "discrepancy_principle",
    "eckart_young",
    "gcv",
    "gram",
    "linear_system_error",
    "lstsq",
    "picard",
    "posterior_error",
    "randomized_svd",
    "range_finder",
    "refine",
    "rsvd_error_bounds",
    "spectral_filter",
    "svd",
    "tikhonov",
    "tsvd",
]
