"""Minimising from values alone."""
