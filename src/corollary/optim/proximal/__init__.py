"""Proximal methods for a smooth term plus one with a prox."""
