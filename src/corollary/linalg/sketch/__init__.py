"""Sketches: random embeddings, sampling and streams."""
