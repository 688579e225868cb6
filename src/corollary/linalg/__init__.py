"""Linear algebra: least squares, spectra, sketching and structured matrices, each answer with its certificate."""

import importlib
from typing import TYPE_CHECKING, Any

from corollary.linalg.dense._condition import condition_estimate, linear_system_error
from corollary.linalg.dense._gram import gram
from corollary.linalg.dense._gram_schmidt import gram_schmidt
from corollary.linalg.dense._norms import NormInequalities, cauchy_schwarz, norm_inequalities
from corollary.linalg.dense._projector import Projector, check_projector, orthogonal_projector
from corollary.linalg.dense._refine import refine
from corollary.linalg.dense._solvability import SolutionSet, solvability
from corollary.linalg.dense._structure import MatrixStructure, matrix_structure
from corollary.linalg.dense._subspaces import FourSubspaces, four_subspaces
from corollary.linalg.eigen._arnoldi import ArnoldiResult, arnoldi
from corollary.linalg.eigen._cg_rate import cg_rate
from corollary.linalg.eigen._definiteness import Definiteness, definiteness
from corollary.linalg.eigen._deflation import deflation
from corollary.linalg.eigen._diagonalizability import Diagonalizability, diagonalizability
from corollary.linalg.eigen._eigs import eigs
from corollary.linalg.eigen._eigsh import eigsh
from corollary.linalg.eigen._inverse import inverse_iteration
from corollary.linalg.eigen._lanczos import LanczosResult, lanczos
from corollary.linalg.eigen._low_precision import LowPrecisionSpectrum, low_precision_spectrum
from corollary.linalg.eigen._pair import eigenpair_certificates
from corollary.linalg.eigen._power import power_iteration
from corollary.linalg.eigen._qr_algorithm import Schur, qr_algorithm
from corollary.linalg.eigen._rank_one import RankOne, rank_one_approximation
from corollary.linalg.eigen._rayleigh import RayleighQuotient, rayleigh_quotient, rayleigh_quotient_iteration
from corollary.linalg.eigen._spectral_radius import SpectralRadius, spectral_radius
from corollary.linalg.eigen._subspace import subspace_iteration
from corollary.linalg.functions._expm_action import expm_action
from corollary.linalg.functions._krylov_function import krylov_function
from corollary.linalg.functions._matrix_logarithm import logm
from corollary.linalg.functions._newton_schulz import newton_schulz
from corollary.linalg.functions._square_root import sqrtm
from corollary.linalg.functions._sylvester import lyapunov, sylvester
from corollary.linalg.least_squares._lstsq import lstsq
from corollary.linalg.least_squares._picard import Picard, picard
from corollary.linalg.least_squares._preconditioners import (
    PreconditionedCondition,
    preconditioned_condition,
    preconditioner,
)
from corollary.linalg.least_squares._sketched import sketched_lstsq
from corollary.linalg.least_squares._spectral_filters import (
    GCV,
    discrepancy_principle,
    gcv,
    spectral_filter,
    tikhonov,
    tsvd,
)
from corollary.linalg.low_rank._chooser import Choice, choose_factorisation
from corollary.linalg.low_rank._cur import CUR, cur
from corollary.linalg.low_rank._effective_rank import EffectiveRank, effective_rank
from corollary.linalg.low_rank._interpolative import Interpolative, interpolative
from corollary.linalg.low_rank._ldlt import LDLT, ldlt
from corollary.linalg.low_rank._leverage import LeverageSample, leverage_sample, leverage_scores
from corollary.linalg.low_rank._nystrom import Nystrom, nystrom
from corollary.linalg.low_rank._pivoted_cholesky import PivotedCholesky, pivoted_cholesky
from corollary.linalg.low_rank._pivoted_qr import PivotedQR, pivoted_qr
from corollary.linalg.low_rank._randomized_svd import randomized_svd
from corollary.linalg.low_rank._range_finder import range_finder
from corollary.linalg.low_rank._rank import NumericalRank, numerical_rank
from corollary.linalg.low_rank._rrqr import randomized_rrqr
from corollary.linalg.low_rank._rsvd_bounds import RsvdBounds, posterior_error, rsvd_error_bounds
from corollary.linalg.low_rank._svd import BestApproximation, eckart_young, svd
from corollary.linalg.sketch._dense import GaussianSketch, RademacherSketch
from corollary.linalg.sketch._embedding import EmbeddingDimension, embedding_dimension, sketch_distortion
from corollary.linalg.sketch._frequent_directions import FrequentDirections, frequent_directions
from corollary.linalg.sketch._gaussian_norm import gaussian_matrix_norm
from corollary.linalg.sketch._johnson_lindenstrauss import chi2_concentration, jl_dimension, johnson_lindenstrauss
from corollary.linalg.sketch._matmul import randomized_matmul
from corollary.linalg.sketch._sparse_sign import CountSketch, SparseSignSketch
from corollary.linalg.sketch._srht import SRHT, walsh_hadamard
from corollary.linalg.sketch._streaming_svd import StreamingSVD
from corollary.linalg.structured._block_toeplitz import BlockToeplitz
from corollary.linalg.structured._butterfly import Butterfly
from corollary.linalg.structured._circulant import Circulant
from corollary.linalg.structured._fourier import DFT
from corollary.linalg.structured._integral import (
    Quadrature,
    continuous_convolution,
    integral_operator,
    integral_transform,
    quadrature,
)
from corollary.linalg.structured._kronecker import KhatriRao, Kronecker
from corollary.linalg.structured._laplacian import graph_laplacian, laplacian_spectrum, sweep_cut
from corollary.linalg.structured._low_rank_update import LowRankUpdate, inverse_downdate, woodbury
from corollary.linalg.structured._monarch import Monarch, monarch_projection
from corollary.linalg.structured._permutation import Permutation
from corollary.linalg.structured._solve import solve
from corollary.linalg.structured._toeplitz import Hankel, Toeplitz
from corollary.linalg.trace._hutchinson import diagonal_estimate, divergence, hutchinson
from corollary.linalg.trace._hutchpp import hutchpp
from corollary.linalg.trace._slq import slq
from corollary.linalg.trace._spectral_density import SpectralDensity, spectral_density
from corollary.linalg.trace._xtrace import xdiag, xnystrace, xtrace

__all__ = [
    "CUR",
    "DFT",
    "GCV",
    "LDLT",
    "SRHT",
    "ArnoldiResult",
    "BestApproximation",
    "BlockToeplitz",
    "Butterfly",
    "Choice",
    "Circulant",
    "CountSketch",
    "Definiteness",
    "Diagonalizability",
    "EffectiveRank",
    "EmbeddingDimension",
    "FourSubspaces",
    "FrequentDirections",
    "GaussianSketch",
    "Hankel",
    "Interpolative",
    "KhatriRao",
    "Kronecker",
    "LanczosResult",
    "LeverageSample",
    "LowPrecisionSpectrum",
    "LowRankUpdate",
    "MatrixStructure",
    "Monarch",
    "NormInequalities",
    "NumericalRank",
    "Nystrom",
    "Permutation",
    "Picard",
    "PivotedCholesky",
    "PivotedQR",
    "PreconditionedCondition",
    "Projector",
    "Quadrature",
    "RademacherSketch",
    "RankOne",
    "RayleighQuotient",
    "RsvdBounds",
    "Schur",
    "SolutionSet",
    "SparseSignSketch",
    "SpectralDensity",
    "SpectralRadius",
    "StreamingSVD",
    "Toeplitz",
    "arnoldi",
    "cauchy_schwarz",
    "cg_rate",
    "check_projector",
    "chi2_concentration",
    "choose_factorisation",
    "condition_estimate",
    "continuous_convolution",
    "cur",
    "definiteness",
    "deflation",
    "diagonal_estimate",
    "diagonalizability",
    "discrepancy_principle",
    "divergence",
    "eckart_young",
    "effective_rank",
    "eigenpair_certificates",
    "eigs",
    "eigsh",
    "embedding_dimension",
    "expm_action",
    "four_subspaces",
    "frequent_directions",
    "gaussian_matrix_norm",
    "gcv",
    "gram",
    "gram_schmidt",
    "graph_laplacian",
    "hutchinson",
    "hutchpp",
    "integral_operator",
    "integral_transform",
    "interpolative",
    "inverse_downdate",
    "inverse_iteration",
    "jl_dimension",
    "johnson_lindenstrauss",
    "krylov_function",
    "lanczos",
    "laplacian_spectrum",
    "ldlt",
    "leverage_sample",
    "leverage_scores",
    "linear_system_error",
    "logm",
    "low_precision_spectrum",
    "lstsq",
    "lyapunov",
    "matrix_structure",
    "monarch_projection",
    "newton_schulz",
    "norm_inequalities",
    "numerical_rank",
    "nystrom",
    "orthogonal_projector",
    "picard",
    "pivoted_cholesky",
    "pivoted_qr",
    "posterior_error",
    "power_iteration",
    "preconditioned_condition",
    "preconditioner",
    "qr_algorithm",
    "quadrature",
    "randomized_matmul",
    "randomized_rrqr",
    "randomized_svd",
    "range_finder",
    "rank_one_approximation",
    "rayleigh_quotient",
    "rayleigh_quotient_iteration",
    "refine",
    "rsvd_error_bounds",
    "sketch_distortion",
    "sketched_lstsq",
    "slq",
    "solvability",
    "solve",
    "spectral_density",
    "spectral_filter",
    "spectral_radius",
    "sqrtm",
    "subspace_iteration",
    "svd",
    "sweep_cut",
    "sylvester",
    "tikhonov",
    "tsvd",
    "walsh_hadamard",
    "woodbury",
    "xdiag",
    "xnystrace",
    "xtrace",
]

if TYPE_CHECKING:
    from corollary.linalg import tensor as tensor


def __getattr__(name: str) -> Any:
    """`linalg.tensor` is imported when first touched: it brings scikit-learn along."""
    if name == "tensor":
        return importlib.import_module("corollary.linalg.tensor")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
