"""Optimisation: problem, solver and certificate as three independent choices."""

from corollary.optim import curvature, functions, penalties, projections, transforms
from corollary.optim._composite import Composite
from corollary.optim._hypergradient import hypergradient
from corollary.optim._implicit import implicit_root
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
from corollary.optim.blackbox._cma_es import cma_es
from corollary.optim.blackbox._difference_gradient import FiniteDifference, difference_gradient
from corollary.optim.blackbox._evolution import centred_ranks, evolution_strategy, smoothed_gradient
from corollary.optim.blackbox._random_search import random_search
from corollary.optim.blackbox._spsa import spsa, spsa_gradient
from corollary.optim.curvature._gauss_newton_step import GaussNewtonStep
from corollary.optim.curvature._hessian_free import HessianFree
from corollary.optim.curvature._natural_gradient import NaturalGradient
from corollary.optim.curvature._network_loss import NetworkLoss
from corollary.optim.data_terms._huber import Huber
from corollary.optim.data_terms._multinomial import Multinomial
from corollary.optim.data_terms._poisson import Poisson
from corollary.optim.data_terms._squared_hinge import SquaredHinge
from corollary.optim.escape._clipped_distributed import clipped_distributed_escape
from corollary.optim.escape._curvature_calibrated import curvature_calibrated_escape, curvature_probe
from corollary.optim.escape._occupation_time import occupation_time_pgd
from corollary.optim.escape._perturbed_agd import perturbed_agd
from corollary.optim.escape._perturbed_gd import perturbed_gd
from corollary.optim.minimax._descent_ascent import GradientDescentAscent, OptimisticGradient
from corollary.optim.minimax._extragradient import Extragradient
from corollary.optim.minimax._game import Game, MatrixGame, SaddlePoint, restricted_gap
from corollary.optim.minimax._variance_reduced import FiniteSumGame, VarianceReducedForwardBackward
from corollary.optim.proximal._douglas_rachford import DouglasRachford, PenaltySum
from corollary.optim.proximal._fista import Fista
from corollary.optim.proximal._frank_wolfe import FrankWolfe
from corollary.optim.proximal._group_working_set import GroupWorkingSet
from corollary.optim.proximal._mirror_descent import MirrorDescent
from corollary.optim.proximal._proximal_gradient import ProximalGradient
from corollary.optim.smooth._barzilai_borwein import BarzilaiBorwein
from corollary.optim.smooth._cubic import CubicNewton
from corollary.optim.smooth._gradient_descent import GradientDescent
from corollary.optim.smooth._heavy_ball import HeavyBall
from corollary.optim.smooth._lazy import Lazy
from corollary.optim.smooth._lbfgs import LBFGS
from corollary.optim.smooth._lbfgsb import LBFGSB
from corollary.optim.smooth._modified_newton import RegularizedNewton, regularized_newton_step
from corollary.optim.smooth._nesterov import Nesterov
from corollary.optim.smooth._newton import Newton, newton_model
from corollary.optim.smooth._newton_cg import NewtonCG
from corollary.optim.smooth._nonlinear_cg import NonlinearCG
from corollary.optim.smooth._nonlinear_least_squares import NonlinearLeastSquares
from corollary.optim.smooth._nonmonotone import nonmonotone_line_search
from corollary.optim.smooth._riemannian import RiemannianGradient, SpecialOrthogonal, Sphere, Stiefel
from corollary.optim.smooth._schedules import Schedule, anytime_stepsize, schedule_rate, silver_stepsize
from corollary.optim.smooth._sharpness_aware import sharpness_aware_gd
from corollary.optim.smooth._spectral_projected import SpectralProjectedGradient
from corollary.optim.smooth._sqp import SQP, EqualityConstrained
from corollary.optim.smooth._steihaug import steihaug_cg
from corollary.optim.smooth._subgradient import hinge_oracle, max_oracle, subgradient_method, sum_oracle
from corollary.optim.smooth._trust_region import TrustRegion
from corollary.optim.smooth._trust_region_subproblem import trust_region_subproblem
from corollary.optim.smooth._wrapped import BFGS, Dogleg, GaussNewton, LevenbergMarquardt, Wrapped
from corollary.optim.splitting._admm import ADMM
from corollary.optim.splitting._bounded import box_qp, lsq_linear, nnls
from corollary.optim.splitting._chambolle_pock import ChambollePock
from corollary.optim.splitting._condat_vu import CondatVu
from corollary.optim.splitting._consensus import Consensus, ConsensusADMM
from corollary.optim.splitting._malitsky_pock import MalitskyPock
from corollary.optim.splitting._programs import LinearProgram, QuadraticProgram
from corollary.optim.splitting._restarted_pdhg import RestartedPDHG
from corollary.optim.splitting._splitting import Splitting
from corollary.optim.splitting._tv_denoise import DualTV, TVDenoise
from corollary.optim.splitting._two_block import AugmentedLagrangian, TwoBlock, augmented_lagrangian
from corollary.optim.stochastic._finite_sum import FiniteSum
from corollary.optim.stochastic._katyusha import Katyusha
from corollary.optim.stochastic._loopless_svrg import LooplessSVRG
from corollary.optim.stochastic._minibatch_gradient import BatchMoments, minibatch_gradient
from corollary.optim.stochastic._proximal_point import StochasticProximalPoint, prox_of_term
from corollary.optim.stochastic._sag import SAG
from corollary.optim.stochastic._saga import SAGA
from corollary.optim.stochastic._sampler import Batches, minibatch_sampler
from corollary.optim.stochastic._sarah import SARAH
from corollary.optim.stochastic._sgd import SGD
from corollary.optim.stochastic._sgd_bb import SGDBB, SVRGBB
from corollary.optim.stochastic._shuffling_sarah import ShufflingSARAH
from corollary.optim.stochastic._svrg import SVRG, svrg_factor
from corollary.optim.theory._accelerated_rates import nesterov_count, nesterov_rate
from corollary.optim.theory._convergence import ConvergenceFit, fit_convergence
from corollary.optim.theory._convexity import convexity_check, jensen_gap, set_convexity_check
from corollary.optim.theory._critical_point import CriticalPoint, critical_point
from corollary.optim.theory._critical_point_rate import critical_point_rate, critical_point_steps
from corollary.optim.theory._fenchel import fenchel_biconjugate, fenchel_conjugate
from corollary.optim.theory._gradient_domination import gradient_domination_exponent, gradient_domination_rate
from corollary.optim.theory._kl_exponent import KLExponent, kl_exponent
from corollary.optim.theory._kl_rate import kl_proximal_rate
from corollary.optim.theory._lipschitz import lipschitz_estimate
from corollary.optim.theory._lower_bounds import (
    AffineWorstCase,
    WorstQuadratic,
    affine_lower_bound,
    first_order_lower_bound,
)
from corollary.optim.theory._modified_loss import modified_loss, sgd_modified_loss
from corollary.optim.theory._momentum_variance import sgd_momentum_variance
from corollary.optim.theory._oracle_complexity import OracleComplexity, oracle_complexity
from corollary.optim.theory._performance_estimation import WorstFunction, nesterov_steps, performance_estimation
from corollary.optim.theory._polyak_lojasiewicz import pl_constant, pl_rate, tangent_kernel_pl
from corollary.optim.theory._quasi_convexity import quasi_convexity_check
from corollary.optim.theory._rates import (
    descent_lemma,
    fista_energy,
    gd_rate_convex,
    gd_rate_strongly_convex,
    quadratic_surrogate,
)
from corollary.optim.theory._robbins_monro import StepConditions, robbins_monro_check
from corollary.optim.theory._scaling import optimum_scaling
from corollary.optim.theory._second_order import second_order_stationarity
from corollary.optim.theory._sgd_convex import sgd_rate_convex
from corollary.optim.theory._sgd_crossover import Crossover, gradient_counts, sgd_gd_crossover
from corollary.optim.theory._sgd_nonconvex import sgd_rate_nonconvex
from corollary.optim.theory._sgd_saddle import sgd_saddle_escape
from corollary.optim.theory._sgd_strongly_convex import sgd_rate_strongly_convex
from corollary.optim.theory._smoothness import data_smoothness, smoothness_constant
from corollary.optim.theory._strong_convexity import strong_convexity

__all__ = [
    "ADMM",
    "BFGS",
    "LBFGS",
    "LBFGSB",
    "SAG",
    "SAGA",
    "SARAH",
    "SGD",
    "SGDBB",
    "SQP",
    "SVRG",
    "SVRGBB",
    "AffineWorstCase",
    "AugmentedLagrangian",
    "BarzilaiBorwein",
    "BatchMoments",
    "Batches",
    "ChambollePock",
    "Composite",
    "CondatVu",
    "Consensus",
    "ConsensusADMM",
    "ConvergenceFit",
    "CriticalPoint",
    "Crossover",
    "CubicNewton",
    "Differentiable",
    "Dogleg",
    "DouglasRachford",
    "DualTV",
    "EqualityConstrained",
    "Extragradient",
    "FiniteDifference",
    "FiniteSum",
    "FiniteSumGame",
    "Fista",
    "FrankWolfe",
    "Game",
    "GaussNewton",
    "GaussNewtonStep",
    "GradientDescent",
    "GradientDescentAscent",
    "GroupWorkingSet",
    "HeavyBall",
    "HessianFree",
    "Huber",
    "Info",
    "KLExponent",
    "Katyusha",
    "Lazy",
    "LeastSquares",
    "LevenbergMarquardt",
    "LinearProgram",
    "Logistic",
    "LooplessSVRG",
    "MalitskyPock",
    "MatrixGame",
    "MirrorDescent",
    "Multinomial",
    "NaturalGradient",
    "Nesterov",
    "NetworkLoss",
    "Newton",
    "NewtonCG",
    "NonlinearCG",
    "NonlinearLeastSquares",
    "OptimisticGradient",
    "OracleComplexity",
    "PenaltySum",
    "Poisson",
    "Problem",
    "ProximalGradient",
    "QuadraticProgram",
    "RegularizedNewton",
    "RestartedPDHG",
    "RiemannianGradient",
    "SaddlePoint",
    "Schedule",
    "ShufflingSARAH",
    "SmoothTerm",
    "Solver",
    "SpecialOrthogonal",
    "SpectralProjectedGradient",
    "Sphere",
    "Splitting",
    "SquaredHinge",
    "StepConditions",
    "Stiefel",
    "StochasticProximalPoint",
    "TVDenoise",
    "TrustRegion",
    "TwoBlock",
    "VarianceReducedForwardBackward",
    "WorstFunction",
    "WorstQuadratic",
    "Wrapped",
    "affine_lower_bound",
    "anytime_stepsize",
    "augmented_lagrangian",
    "box_qp",
    "centred_ranks",
    "clipped_distributed_escape",
    "cma_es",
    "convexity_check",
    "critical_point",
    "critical_point_rate",
    "critical_point_steps",
    "curvature",
    "curvature_calibrated_escape",
    "curvature_probe",
    "data_smoothness",
    "descent_lemma",
    "difference_gradient",
    "evolution_strategy",
    "fenchel_biconjugate",
    "fenchel_conjugate",
    "first_order_lower_bound",
    "fista_energy",
    "fit_convergence",
    "functions",
    "gd_rate_convex",
    "gd_rate_strongly_convex",
    "gradient_counts",
    "gradient_domination_exponent",
    "gradient_domination_rate",
    "hard_threshold",
    "hinge_oracle",
    "hypergradient",
    "implicit_root",
    "jensen_gap",
    "kl_exponent",
    "kl_proximal_rate",
    "lipschitz_estimate",
    "lsq_linear",
    "max_oracle",
    "minibatch_gradient",
    "minibatch_sampler",
    "minimize",
    "modified_loss",
    "moreau_decomposition",
    "nesterov_count",
    "nesterov_rate",
    "nesterov_steps",
    "newton_model",
    "nnls",
    "nonmonotone_line_search",
    "occupation_time_pgd",
    "optimum_scaling",
    "oracle_complexity",
    "penalties",
    "performance_estimation",
    "perturbed_agd",
    "perturbed_gd",
    "pl_constant",
    "pl_rate",
    "projections",
    "prox",
    "prox_of_term",
    "quadratic_surrogate",
    "quasi_convexity_check",
    "random_search",
    "regularized_newton_step",
    "restricted_gap",
    "robbins_monro_check",
    "schedule_rate",
    "second_order_stationarity",
    "set_convexity_check",
    "sgd_gd_crossover",
    "sgd_modified_loss",
    "sgd_momentum_variance",
    "sgd_rate_convex",
    "sgd_rate_nonconvex",
    "sgd_rate_strongly_convex",
    "sgd_saddle_escape",
    "sharpness_aware_gd",
    "silver_stepsize",
    "singular_value_soft_threshold",
    "smoothed_gradient",
    "smoothness_constant",
    "soft_threshold",
    "spsa",
    "spsa_gradient",
    "steihaug_cg",
    "strong_convexity",
    "subgradient_method",
    "sum_oracle",
    "svrg_factor",
    "tangent_kernel_pl",
    "transforms",
    "trust_region_subproblem",
]
