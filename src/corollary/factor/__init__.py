"""Factors: principal components and their kin, each with its certificates."""

from corollary.factor._covariance import RunningCovariance, covariance
from corollary.factor._explained_variance import ExplainedVariance, explained_variance
from corollary.factor._pca import PrincipalComponents, pca
from corollary.factor._pca_estimator import PCA
from corollary.factor._projection_risk import projection_risk
from corollary.factor._truncated_svd import TruncatedSVD

__all__ = [
    "PCA",
    "ExplainedVariance",
    "PrincipalComponents",
    "RunningCovariance",
    "TruncatedSVD",
    "covariance",
    "explained_variance",
    "pca",
    "projection_risk",
]
