"""Initial weights with an exact spectral property: largest singular value, spectral radius, or all singular values.

When: recurrent matrices at the edge of stability, deep linear-ish stacks, width-independent feature learning. The draw
(normal, truncated normal, uniform) only gives the direction; the scale is then exact, which no variance rule is.
O(m n min(m, n)). Sources: Jaeger (2001) for the radius; Saxe et al. (2014) for isometry; Yang, Simon & Bernstein,
"A spectral condition for feature learning" (2023), eq. 1, for √(out/in).
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError

TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at ±2; scipy.stats.truncnorm(-2, 2).std()


def spectral_init(
    key: Any,
    shape: tuple[int, int],
    target: str = "norm",
    value: Any = 1.0,
    *,
    distribution: str = "normal",
    dtype: Any = None,
) -> Float[Array, "m n"]:
    """Random weights with an exact spectral property. O(m n min(m, n)).

    Parameters
    ----------
    key
        From `jax.random.key`.
    shape
        (out, in).
    target
        ``"norm"``: ‖W‖₂ = value; ``"radius"``: spectral radius = value (square shapes); ``"isometry"``: all singular
        values = value; ``"mup"``: ‖W‖₂ = value·√(out/in).
    value
        The target's number, > 0.
    distribution
        ``"normal"``, ``"truncated"`` (at ±2 standard deviations, divided by its standard deviation 0.8796) or
        ``"uniform"``, of unit variance before scaling.
    dtype
        Floating; JAX's default where left out.

    Raises
    ------
    InputError
        For an unknown target or distribution, a value that is not positive, a radius of a matrix that is not square.

    Source
    ------
    Yang, Simon & Bernstein (2023), eq. 1; Saxe et al. (2014), §3.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> W = spectral_init(jax.random.key(0), (8, 2), "mup")
    >>> round(float(jnp.linalg.norm(W, 2)), 5)
    2.0
    """
    validation.one_of("norm", "radius", "isometry", "mup")("target", target)
    if not isinstance(value, Tracer):
        validation.number(0, open_low=True)("value", float(value))
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f"shape: found {shape}, expected two sizes >= 1")
    if target == "radius" and shape[0] != shape[1]:
        raise InputError(f"shape: found {shape}, expected a square one for a spectral radius")
    dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    # Decompositions need 32 bits; a shorter type is rounded to at the end.
    W = unit_variance(key, shape, distribution, dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32)
    if target == "isometry":
        U, _, Vh = jnp.linalg.svd(W, full_matrices=False)
        return (jnp.asarray(value, W.dtype) * (U @ Vh)).astype(dtype)
    if target == "radius":
        size = jnp.max(jnp.abs(jnp.linalg.eigvals(W)))
    else:
        size = jnp.linalg.svd(W, compute_uv=False)[0]
    goal = jnp.asarray(value, W.dtype) * (math.sqrt(shape[0] / shape[1]) if target == "mup" else 1.0)
    return (W * (goal / size)).astype(dtype)


def unit_variance(key: Any, shape: tuple[int, ...], distribution: str = "normal", dtype: Any = None) -> Array:
    """Independent entries of mean 0 and variance 1: normal, truncated at ±2 deviations, or uniform. O(size).

    Parameters
    ----------
    key, shape, distribution, dtype
        As in `spectral_init`.

    Raises
    ------
    InputError
        For an unknown distribution.

    Source
    ------
    Johnson, Kotz & Balakrishnan, Continuous Univariate Distributions (1994), §13.10.1 for the truncated variance.

    Examples
    --------
    >>> import jax
    >>> x = unit_variance(jax.random.key(0), (100_000,), "truncated")
    >>> bool(abs(x.std() - 1) < 0.01), bool(abs(x).max() <= 2 / TRUNCATED_STD)
    (True, True)
    """
    validation.one_of("normal", "truncated", "uniform")("distribution", distribution)
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    if distribution == "normal":
        return jax.random.normal(key, shape, dtype)
    if distribution == "uniform":
        return jax.random.uniform(key, shape, dtype, -math.sqrt(3), math.sqrt(3))
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) / TRUNCATED_STD
