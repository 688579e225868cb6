"""The ground floor: operators, solutions, certificates, the estimator base, and the numerics that every room needs."""

from corollary.core import compile_cache, validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.differentiability import Smoothness, limit, smoothness
from corollary.core.errors import CertificateWarning, ConvergenceError, CorollaryError, InputError, ModelFileError
from corollary.core.estimator import Estimator
from corollary.core.finite_differences import Differences, GradientCheck, check_gradient, finite_difference
from corollary.core.float_formats import FORMATS, FloatFormat, round_to, stochastic_round
from corollary.core.hessian import hessian_operator
from corollary.core.jacobian_chain import ChainCost, chain_cost, jacobian_chain
from corollary.core.model_file import load, save
from corollary.core.operator import Centred, Function, Sparse, as_operator, matmat, rmatmat
from corollary.core.precision import follows_input
from corollary.core.randomness import key_from
from corollary.core.solution import Note, Solution, Status
from corollary.core.summation import Sum, compensated_sum, pairwise_sum
from corollary.core.taylor import Taylor, taylor

__all__ = [
    "FORMATS",
    "Assumption",
    "Centred",
    "Certificate",
    "CertificateWarning",
    "ChainCost",
    "ConvergenceError",
    "CorollaryError",
    "Differences",
    "Estimator",
    "FloatFormat",
    "Function",
    "GradientCheck",
    "InputError",
    "ModelFileError",
    "Note",
    "Smoothness",
    "Solution",
    "Sparse",
    "Status",
    "Sum",
    "Taylor",
    "as_operator",
    "chain_cost",
    "check_gradient",
    "compensated_sum",
    "compile_cache",
    "finite_difference",
    "follows_input",
    "hessian_operator",
    "jacobian_chain",
    "key_from",
    "limit",
    "load",
    "matmat",
    "pairwise_sum",
    "rmatmat",
    "round_to",
    "rounding",
    "save",
    "smoothness",
    "stochastic_round",
    "taylor",
    "validation",
]
