"""Curvature of any (function, pytree) as `lineax` operators, and the methods that step with it."""

from corollary.core.hessian import hessian_operator
from corollary.optim.curvature._cg import curvature_step
from corollary.optim.curvature._empirical_fisher import empirical_fisher
from corollary.optim.curvature._fisher import (
    Bernoulli,
    Categorical,
    ExponentialFamily,
    Gaussian,
    OutputDistribution,
    Poisson,
    fisher_information,
)
from corollary.optim.curvature._gauss_newton_step import GaussNewtonStep, gauss_newton_step
from corollary.optim.curvature._ggn import damped, ggn_operator
from corollary.optim.curvature._hessian_free import HessianFree
from corollary.optim.curvature._natural_gradient import NaturalGradient
from corollary.optim.curvature._network_loss import NetworkLoss
from corollary.optim.curvature._nystrom import NystromCurvature, nystrom_curvature

__all__ = [
    "Bernoulli",
    "Categorical",
    "ExponentialFamily",
    "GaussNewtonStep",
    "Gaussian",
    "HessianFree",
    "NaturalGradient",
    "NetworkLoss",
    "NystromCurvature",
    "OutputDistribution",
    "Poisson",
    "curvature_step",
    "damped",
    "empirical_fisher",
    "fisher_information",
    "gauss_newton_step",
    "ggn_operator",
    "hessian_operator",
    "nystrom_curvature",
]
