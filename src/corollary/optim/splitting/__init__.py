"""Sums of two terms joined by a linear map: ADMM, primal-dual methods, linear and quadratic programmes."""
