"""Optimisation: penalties and their proximal operators, projections, composite problems and their solvers."""

from corollary.optim import penalties, projections
from corollary.optim._composite import Composite, Info
from corollary.optim._fista import Fista
from corollary.optim._minimize import minimize
from corollary.optim._prox import (
    hard_threshold,
    moreau_decomposition,
    prox,
    singular_value_soft_threshold,
    soft_threshold,
)
from corollary.optim._proximal_gradient import ProximalGradient, Solver
from corollary.optim._smooth import Differentiable, LeastSquares, Logistic, SmoothTerm

__all__ = [
    "Composite",
    "Differentiable",
    "Fista",
    "Info",
    "LeastSquares",
    "Logistic",
    "ProximalGradient",
    "SmoothTerm",
    "Solver",
    "hard_threshold",
    "minimize",
    "moreau_decomposition",
    "penalties",
    "projections",
    "prox",
    "singular_value_soft_threshold",
    "soft_threshold",
]
