"""The ground floor: operators, solutions, certificates, the estimator base, and the numerics that every room needs."""

from corollary.core import compile_cache, laws, validation
from corollary.core.approximation import Validation, validate_approximation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.differentiability import Smoothness, limit, smoothness
from corollary.core.errors import CertificateWarning, ConvergenceError, CorollaryError, InputError, ModelFileError
from corollary.core.estimator import Estimator
from corollary.core.finite_differences import Differences, GradientCheck, check_gradient, finite_difference
from corollary.core.float_formats import FORMATS, FloatFormat, round_to, stochastic_round
from corollary.core.generating import ChernoffBound, LawMoments, chernoff, log_mgf, mgf, moments
from corollary.core.hessian import hessian_operator
from corollary.core.images import Images, read_idx, read_images, write_idx
from corollary.core.jacobian_chain import ChainCost, chain_cost, jacobian_chain
from corollary.core.linearity import check_linear
from corollary.core.model_file import load, save
from corollary.core.monte_carlo import RunningMoments, expectation, expectation_on_grid
from corollary.core.operator import Centred, Function, Sparse, as_operator, matmat, rmatmat
from corollary.core.precision import follows_input
from corollary.core.randomness import key_from
from corollary.core.solution import Note, Solution, Status
from corollary.core.subgaussian import subgaussian_parameter
from corollary.core.summation import Sum, compensated_sum, pairwise_sum
from corollary.core.tail_bounds import cantelli, chebyshev, hoeffding, hoeffding_radius, hoeffding_samples, markov
from corollary.core.taylor import Taylor, taylor

__all__ = [
    "FORMATS",
    "Assumption",
    "Centred",
    "Certificate",
    "CertificateWarning",
    "ChainCost",
    "ChernoffBound",
    "ConvergenceError",
    "CorollaryError",
    "Differences",
    "Estimator",
    "FloatFormat",
    "Function",
    "GradientCheck",
    "Images",
    "InputError",
    "LawMoments",
    "ModelFileError",
    "Note",
    "RunningMoments",
    "Smoothness",
    "Solution",
    "Sparse",
    "Status",
    "Sum",
    "Taylor",
    "Validation",
    "as_operator",
    "cantelli",
    "chain_cost",
    "chebyshev",
    "check_gradient",
    "check_linear",
    "chernoff",
    "compensated_sum",
    "compile_cache",
    "expectation",
    "expectation_on_grid",
    "finite_difference",
    "follows_input",
    "hessian_operator",
    "hoeffding",
    "hoeffding_radius",
    "hoeffding_samples",
    "jacobian_chain",
    "key_from",
    "laws",
    "limit",
    "load",
    "log_mgf",
    "markov",
    "matmat",
    "mgf",
    "moments",
    "pairwise_sum",
    "read_idx",
    "read_images",
    "rmatmat",
    "round_to",
    "rounding",
    "save",
    "smoothness",
    "stochastic_round",
    "subgaussian_parameter",
    "taylor",
    "validate_approximation",
    "validation",
    "write_idx",
]
