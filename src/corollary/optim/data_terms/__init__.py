"""Smooth data terms beside least squares and the logistic loss."""
