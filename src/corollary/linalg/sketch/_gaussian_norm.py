"""Spectral norm of a Gaussian matrix: σ(√m + √n), and how seldom it is exceeded.

Use it to plan a sketch, to choose a noise level, or to tell signal from noise in singular values. Cost: O(1); the
Monte Carlo check costs `samples` singular value decompositions. Source: Davidson & Szarek, Handbook of the Geometry of
Banach Spaces I (2001), Theorem II.13 (Gordon's inequality and Gaussian concentration); Bai & Yin (1993) for the limit.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution

SOURCE = "Davidson & Szarek (2001), Theorem II.13"


@follows_input
def gaussian_matrix_norm(
    m: int, n: int, sigma: Any = 1.0, t: Any = 2.0, *, samples: int = 0, key: Key[Array, ""] | None = None
) -> Solution:
    """E ‖G‖₂ <= σ(√m + √n) and P(‖G‖₂ > σ(√m + √n + t)) <= exp(−t²/2), for independent N(0, σ²) entries.

    Parameters
    ----------
    m, n
        Shape of G.
    sigma
        Standard deviation of the entries, not negative.
    t
        Deviation in units of σ, not negative.
    samples, key
        Draws of G for a check of both claims, at least 2; none by default.

    Returns
    -------
    Solution
        ``value``: σ(√m + √n). ``stats``: ``threshold`` = σ(√m + √n + t) and ``tail`` = exp(−t²/2). With `samples`, the
        certificates ``"expected_norm"`` and ``"tail"`` (theorem): mean norm and frequency, less four standard errors.

    Examples
    --------
    >>> import jax
    >>> found = gaussian_matrix_norm(100, 25, samples=50, key=jax.random.key(0))
    >>> float(found.value), bool(found.holds)
    (15.0, True)
    """
    validation.integer(1)("m", m)
    validation.integer(1)("n", n)
    validation.integer(0)("samples", samples)
    for name, value in (("sigma", sigma), ("t", t)):
        if not isinstance(value, jax.Array):
            validation.number(0)(name, value)
    if samples == 1 or (samples and key is None):
        raise InputError(f"samples, key: found {samples} and {key}, expected a key and at least 2 samples, or 0")
    floats = [x.dtype for x in (sigma, t) if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)]
    dtype = jnp.result_type(*floats) if floats else jnp.zeros(()).dtype
    sigma, t = jnp.asarray(sigma).astype(dtype), jnp.asarray(t).astype(dtype)
    root = jnp.sqrt(jnp.asarray(m, dtype)) + jnp.sqrt(jnp.asarray(n, dtype))
    expected, threshold, tail = sigma * root, sigma * (root + t), jnp.exp(-(t**2) / 2)
    certificates = {}
    if samples:
        drawn = _norms(samples, m, n, dtype, key)
        error = 4 / samples**0.5
        certificates["expected_norm"] = Certificate(
            f"E ‖G‖₂ <= σ(√m + √n): mean of {samples} draws less four standard errors",
            measured=sigma * (jnp.mean(drawn) - error * jnp.std(drawn, ddof=1)),
            bound=expected,
            kind="theorem",
            source=SOURCE,
        )
        certificates["tail"] = Certificate(
            f"P(‖G‖₂ > σ(√m + √n + t)) <= exp(−t²/2): frequency in {samples} draws less four standard errors",
            measured=jnp.mean(drawn > root + t, dtype=dtype) - error * jnp.sqrt(tail * (1 - tail)),
            bound=tail,
            kind="theorem",
            source=SOURCE,
        )
    return Solution(expected, certificates, stats={"threshold": threshold, "tail": tail})


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _norms(samples: int, m: int, n: int, dtype: Any, key: Key[Array, ""]) -> Float[Array, " s"]:
    draw = lambda key: jnp.linalg.norm(jax.random.normal(key, (m, n), dtype), 2)  # noqa: E731
    return jax.lax.map(draw, jax.random.split(key, samples))
