"""Linear models, each fit with its certificate."""

from corollary.linear._collinearity import Collinearity, vif
from corollary.linear._early_stopping import Filters, early_stopping_filter
from corollary.linear._hat_matrix import Deletion, deletion_effects, effective_dof, hat_matrix, leverages
from corollary.linear._hyperplane import Hyperplane, hyperplane
from corollary.linear._information_criteria import InformationCriteria, gaussian_log_likelihood, information_criteria
from corollary.linear._lasso import LassoFit, alpha_max, elastic_net, lasso
from corollary.linear._lasso_cv import LassoCVFit, lasso_cv
from corollary.linear._lasso_estimators import ElasticNet, ElasticNetCV, Lasso, LassoCV
from corollary.linear._lasso_path import elastic_net_path, lasso_path
from corollary.linear._lasso_screening import Screening, gap_safe_screening
from corollary.linear._leave_one_out import LeaveOneOut, leave_one_out
from corollary.linear._linear_regression import LinearRegression, Ridge
from corollary.linear._logistic import LogisticModel, logistic_regression, softmax_regression
from corollary.linear._logistic_regression import LogisticRegression
from corollary.linear._ols import OLSFit, ols
from corollary.linear._ridge import RidgeFit, ridge
from corollary.linear._ridge_cv import RidgeCV, RidgeCVFit, ridge_cv
from corollary.linear._ridge_views import Augmented, RidgeConditioning, ridge_augmentation, ridge_conditioning

__all__ = [
    "Augmented",
    "Collinearity",
    "Deletion",
    "ElasticNet",
    "ElasticNetCV",
    "Filters",
    "Hyperplane",
    "InformationCriteria",
    "Lasso",
    "LassoCV",
    "LassoCVFit",
    "LassoFit",
    "LeaveOneOut",
    "LinearRegression",
    "LogisticModel",
    "LogisticRegression",
    "OLSFit",
    "Ridge",
    "RidgeCV",
    "RidgeCVFit",
    "RidgeConditioning",
    "RidgeFit",
    "Screening",
    "alpha_max",
    "deletion_effects",
    "early_stopping_filter",
    "effective_dof",
    "elastic_net",
    "elastic_net_path",
    "gap_safe_screening",
    "gaussian_log_likelihood",
    "hat_matrix",
    "hyperplane",
    "information_criteria",
    "lasso",
    "lasso_cv",
    "lasso_path",
    "leave_one_out",
    "leverages",
    "logistic_regression",
    "ols",
    "ridge",
    "ridge_augmentation",
    "ridge_conditioning",
    "ridge_cv",
    "softmax_regression",
    "vif",
]
