"""Leaving strict saddle points: perturbed methods and their second-order certificate."""
