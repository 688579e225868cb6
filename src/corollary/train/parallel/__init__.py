"""Parallel training on JAX's own runtime: shardings on a mesh, and collectives where they are the method."""
