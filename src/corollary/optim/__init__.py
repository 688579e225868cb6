"""Optimisation: problem, solver and certificate as three independent choices."""

from corollary.optim import penalties, projections
from corollary.optim._composite import Composite
from corollary.optim._minimize import minimize
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._prox import (
    hard_threshold,
    moreau_decomposition,
    prox,
    singular_value_soft_threshold,
    soft_threshold,
)
from corollary.optim._smooth import Differentiable, LeastSquares, Logistic, SmoothTerm
from corollary.optim.proximal._fista import Fista
from corollary.optim.proximal._proximal_gradient import ProximalGradient
from corollary.optim.theory._convergence import ConvergenceFit, fit_convergence
from corollary.optim.theory._rates import (
    descent_lemma,
    fista_energy,
    gd_rate_convex,
    gd_rate_strongly_convex,
    quadratic_surrogate,
)

__all__ = [
    "Composite",
    "ConvergenceFit",
    "Differentiable",
    "Fista",
    "Info",
    "LeastSquares",
    "Logistic",
    "Problem",
    "ProximalGradient",
    "SmoothTerm",
    "Solver",
    "descent_lemma",
    "fista_energy",
    "fit_convergence",
    "gd_rate_convex",
    "gd_rate_strongly_convex",
    "hard_threshold",
    "minimize",
    "moreau_decomposition",
    "penalties",
    "projections",
    "prox",
    "quadratic_surrogate",
    "singular_value_soft_threshold",
    "soft_threshold",
]
