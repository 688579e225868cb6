"""Gram-Schmidt in its three forms, with the orthogonality that each one keeps.

Use `gram_schmidt` to orthonormalise columns one after another, or to see what the order of operations costs; for a
plain QR of a matrix that is all there, Householder's (`jax.numpy.linalg.qr`) is faster and orthogonal to rounding.
Classical Gram-Schmidt loses orthogonality like κ²u, modified like κu, classical done twice not at all.

Cost: 2mn² flops, "twice" 4mn²; memory O(mn). Source: Björck, BIT 7 (1967); Smoktunowicz, Barlow & Langou, Numer. Math.
105 (2006); Giraud, Langou, Rozložník & van den Eshof, Numer. Math. 101 (2005).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.least_squares._factors import exponent, shift

POWER = {"classical": 2, "modified": 1, "twice": 0}  # orthogonality is lost like κ^power · u
SOURCE = {
    "classical": "Smoktunowicz, Barlow & Langou, Numer. Math. 105 (2006), Theorem 1",
    "modified": "Björck, BIT 7 (1967); Higham (2002), Theorem 19.13",
    "twice": "Giraud, Langou, Rozložník & van den Eshof, Numer. Math. 101 (2005), Theorem 2",
}


@follows_input
def gram_schmidt(A: Any, *, variant: str = "twice") -> Solution:
    """A = QR by Gram-Schmidt, with the defect ‖QᵀQ − I‖ that it leaves.

    A column that depends on those before it, to rounding, gives a zero column of Q and a zero on R's diagonal: A = QR
    still holds, and the other columns of Q are orthonormal. It can be jitted, vmapped and differentiated. Cost: O(mn²).

    Parameters
    ----------
    A
        (m, n) matrix. The columns' scales do not matter: Q is the same for A·diag(d), d > 0.
    variant
        ``"twice"``: project, and project again what is left; orthogonal to rounding whatever κ. ``"modified"``: one
        projection at a time, each on what is left. ``"classical"``: all at once, with the diagonal of R by Pythagoras,
        √(‖a‖² − ‖r‖²), without which not even the bound κ²u holds.

    Returns
    -------
    Solution
        ``value``: (Q, R), Q (m, n) and R (n, n) upper triangular. ``stats``: ``rank``, the columns that were kept;
        ``condition``, κ₂ of A with columns of unit length; ``defect``, ‖QᵀQ − I‖_F.

    Raises
    ------
    InputError
        For anything but a finite real matrix, or an unknown variant.

    Notes
    -----
    Certificates: ``"reconstruction"`` (exact: every ‖a_j − Qr_j‖ at the rounding of ‖a_j‖); ``"orthogonality"``
    (exact: ‖QᵀQ − I‖_F at rounding level, which the first two variants miss where κ is large); ``"loss"`` (theorem:
    ‖QᵀQ − I‖ ≤ c κ²u, c κ u or c u; the first two ask for c κ²u < 1 or c κ u < 1, which is checked).

    Examples
    --------
    >>> import numpy as np
    >>> Q, R = gram_schmidt(np.array([[3.0, 1.0], [4.0, 2.0]])).value
    >>> Q.round(12).tolist(), float(R[0, 0].round(12))
    ([[0.6, -0.8], [0.8, 0.6]], 5.0)
    """
    validation.one_of(*POWER)("variant", variant)
    return _orthogonalise(variant, validation.matrix("A", A))


@functools.partial(jax.jit, static_argnums=0)
def _orthogonalise(variant: str, A: Float[Array, "m n"]) -> Solution:
    # Every column is brought to the order of one by a power of two, which changes no bit of Q.
    e = jax.lax.stop_gradient(jax.vmap(exponent, in_axes=1)(A))
    scaled = jax.vmap(shift, in_axes=(1, 0), out_axes=1)(A, -e)
    Q, R = (_modified if variant == "modified" else functools.partial(_classical, variant == "twice"))(scaled)
    certificates, stats = _audit(variant, *jax.lax.stop_gradient((scaled, Q, R)))
    R = jax.vmap(shift, in_axes=(1, 0), out_axes=1)(R, e)
    finite = jnp.all(jnp.isfinite(R))
    return Solution((Q, R), certificates, Status.of(finite, finite), A.shape[1], stats)


def _classical(twice: bool, A: Float[Array, "m n"]) -> tuple[Float[Array, "m n"], Float[Array, "n n"]]:
    """Column by column: r = Qᵀa and a − Qr, once (diagonal by Pythagoras) or twice (diagonal by the length)."""

    def column(j: Any, factors: tuple[Array, Array]) -> tuple[Array, Array]:
        Q, R = factors
        a = A[:, j]
        r = Q.T @ a
        rest = a - Q @ r
        length, size = _norm(rest), _norm(a)
        kept = length > _cutoff(A) * size
        if twice:
            again = Q.T @ rest
            rest, r = rest - Q @ again, r + again
            length = _norm(rest)
        else:
            inside = _norm(r)
            square = (size - inside) * (size + inside)
            seen = square > _cutoff(A) * size * size  # else κ²u >= 1: Pythagoras sees rounding only
            length = jnp.where(seen, jnp.sqrt(jnp.where(seen, square, 1)), length)
        q, length = _unit(rest, length, kept)
        return Q.at[:, j].set(q), R.at[:, j].set(r).at[j, j].set(length)

    n = A.shape[1]
    return jax.lax.fori_loop(0, n, column, (jnp.zeros_like(A), jnp.zeros((n, n), A.dtype)))


def _modified(A: Float[Array, "m n"]) -> tuple[Float[Array, "m n"], Float[Array, "n n"]]:
    """Direction by direction: each new q is taken out of all columns that follow."""
    n = A.shape[1]
    sizes = jax.vmap(_norm, in_axes=1)(A)

    def direction(j: Any, factors: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        V, Q, R = factors
        length = _norm(V[:, j])
        q, length = _unit(V[:, j], length, length > _cutoff(A) * sizes[j])
        row = jnp.where(jnp.arange(n) > j, q @ V, 0)
        return V - jnp.outer(q, row), Q.at[:, j].set(q), R.at[j].set(row).at[j, j].set(length)

    _, Q, R = jax.lax.fori_loop(0, n, direction, (A, jnp.zeros_like(A), jnp.zeros((n, n), A.dtype)))
    return Q, R


def _norm(v: Float[Array, " m"]) -> Float[Array, ""]:
    """Length, with a zero gradient at zero."""
    square = jnp.sum(jnp.square(v))
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def _unit(v: Float[Array, " m"], length: Array, kept: Array) -> tuple[Float[Array, " m"], Float[Array, ""]]:
    """v/length, or zeros where nothing but rounding is left."""
    return jnp.where(kept, v / jnp.where(kept, length, 1), 0), jnp.where(kept, length, 0)


def _cutoff(A: Array) -> float:
    """Below this share of its length, what is left of a column is rounding: n projections, √m-long random walks."""
    m, n = A.shape
    return 4 * (m * n) ** 0.5 * float(jnp.finfo(A.dtype).eps)


def _audit(variant: str, A: Array, Q: Array, R: Array) -> tuple[dict[str, Certificate], dict[str, Any]]:
    m, n = A.shape
    eps = float(jnp.finfo(A.dtype).eps)
    sizes = jnp.linalg.norm(A, axis=0)
    errors = jnp.linalg.norm(A - Q @ R, axis=0) / jnp.where(sizes > 0, sizes, 1)
    kept = jnp.diagonal(R) > 0
    defect = jnp.linalg.norm(Q.T @ Q - jnp.diag(kept.astype(A.dtype)))
    s = jnp.linalg.svd(A / jnp.where(sizes > 0, sizes, 1), compute_uv=False)
    least = s[-1] if m >= n else jnp.zeros((), A.dtype)
    condition = jnp.where(least > 0, s[0] / jnp.where(least > 0, least, 1), jnp.inf)
    certificates = {
        "reconstruction": Certificate(
            "every ‖a_j − Qr_j‖ at the rounding of ‖a_j‖",
            jnp.max(errors),
            jnp.asarray(2 * _cutoff(A) + 8 * n * eps, A.dtype),
            "exact",
            "Higham (2002), Theorem 19.13",
        ),
        "orthogonality": Certificate(
            "‖QᵀQ − I‖_F at rounding level, over the columns that were kept",
            defect,
            jnp.asarray(16 * m**0.5 * n * eps, A.dtype),
            "exact",
            "computed",
        ),
        "loss": _loss(variant, defect, condition, 4 * m**0.5 * n**1.5 * eps),
    }
    return certificates, {"rank": jnp.sum(kept), "condition": condition, "defect": defect}


def _loss(variant: str, defect: Array, condition: Array, unit: float) -> Certificate:
    """The theorem of each variant, with 4√m n^{3/2} in the place of its modest constant c(m, n)."""
    power = POWER[variant]
    lost = unit * condition**power if power else jnp.full_like(condition, 4 * unit)
    growth = jnp.where(lost < 1, lost / jnp.where(lost < 1, 1 - lost, 1), jnp.inf)
    claim = {2: "c κ²u/(1 − c κ²u)", 1: "c κu/(1 − c κu)", 0: "c u"}[power]
    assumption = Assumption({2: "c κ²u < 1", 1: "c κu < 1", 0: "dependent columns are dropped"}[power], True, lost < 1)
    return Certificate(f"‖QᵀQ − I‖ <= {claim}", defect, growth, "theorem", SOURCE[variant], assumptions=(assumption,))
