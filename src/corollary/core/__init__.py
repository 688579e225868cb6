"""The ground floor: operators, solutions, certificates, the estimator base, and the numerics that every room needs."""

from corollary.core import compile_cache, validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import CertificateWarning, ConvergenceError, CorollaryError, InputError, ModelFileError
from corollary.core.estimator import Estimator
from corollary.core.model_file import load, save
from corollary.core.operator import Centred, Function, Sparse, as_operator, matmat, rmatmat
from corollary.core.precision import follows_input
from corollary.core.randomness import key_from
from corollary.core.solution import Note, Solution, Status

__all__ = [
    "Assumption",
    "Centred",
    "Certificate",
    "CertificateWarning",
    "ConvergenceError",
    "CorollaryError",
    "Estimator",
    "Function",
    "InputError",
    "ModelFileError",
    "Note",
    "Solution",
    "Sparse",
    "Status",
    "as_operator",
    "compile_cache",
    "follows_input",
    "key_from",
    "load",
    "matmat",
    "rmatmat",
    "rounding",
    "save",
    "validation",
]
