"""The orthogonal factor UVᵀ of momentum matrices, roughly and fast: Newton-Schulz in the smaller Gram matrix.

When: inside Muon, every step, where singular values within some 10% of 1 are enough. For an accurate factor with a
certificate take `corollary.linalg.newton_schulz`. What makes it fast beside the usual five quintic steps:

- the scale is the Schatten-4 norm ‖XXᵀ‖_F^{1/2}, which comes free with the first Gram matrix, lies between ‖X‖₂ and
  ‖X‖_F, and saves about one step;
- the coefficients are Polar Express' (minimax for the interval where the singular values lie);
- for an (m, n) matrix with n >= 2m the iteration runs on the m × m Gram matrix R alone, Q ← Q p(R), R ← R p(R)², and X
  is touched twice instead of ten times: about 4m²n + 8 m³ a step instead of (4m²n + 2m³) a step. In exact arithmetic
  both are the same; the Gram form squares the condition number, so it serves few steps only (here at most 6).

Sources: Jordan et al., "Muon" (2024); Amsel, Persson, Musco & Gower, "The Polar Express" (2025), Algorithm 1; Grishina
et al., "Accelerating Newton-Schulz iteration" (2025), for the Schatten-4 norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.linalg.functions._newton_schulz import QUINTIC, Coefficients, polar_express
from corollary.optim.transforms._matrix_settings import working

SMALLEST = 0.01  # below this part of the largest singular value a direction is noise to a momentum


def schedule_of(schedule: str, steps: int) -> tuple[Coefficients, ...]:
    """The coefficients (a, b, c) of each step: ``"polar_express"``, or ``"jordan"`` (the same quintic every time)."""
    validation.one_of("polar_express", "jordan")("schedule", schedule)
    validation.integer(1)("steps", steps)
    return polar_express(SMALLEST, steps)[0] if schedule == "polar_express" else (QUINTIC,) * steps


def orthogonalise(X: Array, *, steps: int = 4, schedule: str = "polar_express") -> Array:
    """Rough polar factor UVᵀ of each matrix: singular values near 1, zero for a zero matrix.

    Parameters
    ----------
    X
        (..., m, n). The work is done in float32 where the precision is lower.
    steps
        Quintic steps. With Polar Express, four leave singular values from 0.01‖X‖ to ‖X‖ within 1.3% of 1,
        three within 27%.
    schedule
        ``"polar_express"`` or ``"jordan"`` ((3.4445, −4.7750, 2.0315) at each step: about [0.68, 1.13]).

    Returns
    -------
    Array
        (..., m, n), in the precision of X. It does not depend on the scale of X.

    Raises
    ------
    InputError
        For fewer than two axes, or unknown settings.

    Notes
    -----
    Cost: min(m, n) = m: about (4m²n + 2m³)·steps, or 4m²n + 8m³·steps where n >= 2m. Rotations commute with it:
    ``orthogonalise(Q X P) == Q orthogonalise(X) P``.

    Examples
    --------
    >>> P = orthogonalise(jnp.array([[3.0, 0.0], [0.0, -2.0]]), steps=6)
    >>> P.round(2).tolist()
    [[1.0, 0.0], [0.0, -1.0]]
    """
    if X.ndim < 2:
        raise InputError(f"X: found an array of shape {X.shape}, expected at least two axes")
    coefficients = schedule_of(schedule, steps)
    if X.ndim > 2:
        # One after another: batched products of small matrices are slower than single ones on a CPU.
        flat = X.reshape(-1, *X.shape[-2:])
        return jax.lax.map(lambda x: _polar(x, coefficients), flat).reshape(X.shape)
    return _polar(X, coefficients)


def _polar(X: Float[Array, "m n"], coefficients: Sequence[Coefficients]) -> Float[Array, "m n"]:
    dtype = X.dtype
    X = working(X)
    tall = X.shape[0] > X.shape[1]
    X = X.T if tall else X
    top = jnp.max(jnp.abs(X), initial=0)
    X = X / jnp.where(top > 0, top, 1)  # so that the Gram matrix neither overflows nor underflows
    R = X @ X.T
    size = jnp.linalg.norm(R)
    scale = jnp.where(size > 0, size, 1)
    R = R / scale
    if X.shape[1] >= 2 * X.shape[0] and len(coefficients) <= 6:
        X = (_gram_only(R, coefficients) / jnp.sqrt(scale)) @ X
    else:
        X = X / jnp.sqrt(scale)
        for k, (a, b, c) in enumerate(coefficients):
            R = X @ X.T if k else R
            X = a * X + (b * R + c * (R @ R)) @ X
    return (X.T if tall else X).astype(dtype)


def _gram_only(R: Float[Array, "m m"], coefficients: Sequence[Coefficients]) -> Float[Array, "m m"]:
    """Q with QX the result, from the Gram matrix of X: everything is a polynomial in R, so all factors commute."""
    eye = jnp.eye(R.shape[0], dtype=R.dtype)
    Q = eye
    for k, (a, b, c) in enumerate(coefficients):
        Z = a * eye + b * R + c * (R @ R)
        Q = Q @ Z if k else Z
        if k < len(coefficients) - 1:
            R = (R @ Z) @ Z
    return Q
