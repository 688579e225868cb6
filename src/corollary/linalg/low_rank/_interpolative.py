"""Interpolative decomposition: A ≈ A[:, J] Z from k of its own columns (or rows, or both), with small coefficients.

Use it where the factors should be rows and columns of the data: sparse stays sparse, non-negative stays non-negative,
an entry can be looked up. Cost: one product with Aᵀ for k + p columns (that of the sketch), and O(n (k + p)²); the
columns are then read. Source: Cheng, Gimbutas, Martinsson & Rokhlin, SIAM J. Sci. Comput. 26 (2005); Voronin &
Martinsson, Adv. Comput. Math. 43 (2017).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg._products import products
from corollary.linalg.low_rank import _skeleton as skeleton
from corollary.linalg.low_rank._range_finder import ALPHA, PROBES, finite_status, fitting, settings
from corollary.linalg.low_rank._rsvd_bounds import probe_certificates

Part = Float[Array | np.ndarray, "_ _"]
Indices = Int[Array | np.ndarray, " k"]


class Interpolative(eqx.Module):
    """A ≈ left @ skeleton @ right, where `skeleton` is A[rows][:, columns]; what is not needed is None."""

    rows: Indices | None
    columns: Indices | None
    left: Part | None
    skeleton: Part
    right: Part | None

    @property
    def matrix(self) -> Part:
        """The approximation, (m, n)."""
        left = self.skeleton if self.left is None else self.left @ self.skeleton
        return left if self.right is None else left @ self.right


@follows_input
def interpolative(
    A: Any,
    rank: Any = None,
    *,
    tol: Any = None,
    axis: Any = "columns",
    oversampling: Any = None,
    block: Any = 16,
    key: Key[Array, ""],
) -> Solution:
    """Interpolative decomposition by columns, A ≈ A[:, J] Z, by rows, A ≈ W A[I], or both, A ≈ W A[I, J] Z.

    Use it to name the columns or rows that carry a matrix. Cost: one product with Aᵀ (columns) or A (rows) for k + p
    columns, 8 probes, O((m + n) (k + p)²). jit, vmap work for a given rank.

    Parameters
    ----------
    A
        (m, n) dense or sparse matrix, or operator.
    rank
        k; fewer where the numerical rank is lower. Give this or `tol`.
    tol
        Relative tolerance that sets the rank: that of `randomized_rrqr`, which certifies ‖A − QQᵀA‖₂ ≤ tol ‖A‖₂ for k
        columns (rows). The interpolation itself is judged by ``"spectral_error"``. Not under jit.
    axis
        "columns", "rows" or "both".
    oversampling
        p, extra rows of the sketch: by default 3k + 40 where A has entries (a sparse sketch, whose cost does not
        depend on p), else k + 10. The coefficients are a least-squares fit in the sketch, whose error exceeds the least
        possible for these columns by about √(1 + k/(p − 1)).
    block, key
        As in `randomized_rrqr`.

    Returns
    -------
    Solution
        ``value``: `Interpolative`. Certificates: ``"spectral_error"`` (probabilistic) and ``"frobenius_error"``
        (estimate) of A − left · skeleton · right, ``"coefficients"`` (exact: none exceeds 2), ``"strong"`` (theorem).
        ``stats``: ``rank``, ``swaps``.

    Raises
    ------
    InputError
        Unless exactly one of `rank` and `tol` is given and A is a finite real matrix.

    Notes
    -----
    ‖A − A[:, J]Z‖₂ ≤ √(1 + f² k(n − k)) σ_{k+1} for the strong choice of A's own columns (Gu & Eisenstat 1996, Theorem
    3.2); by a sketch, up to its distortion.

    Examples
    --------
    >>> import jax, numpy as np
    >>> A = np.outer(np.arange(1.0, 6.0), [1.0, 3.0, 2.0])
    >>> found = interpolative(A, 1, key=jax.random.key(0)).value
    >>> found.columns.tolist(), found.right.round(3).tolist()
    ([1], [[0.333, 1.0, 0.667]])
    """
    validation.one_of("columns", "rows", "both")("axis", axis)
    P = products(A, key)
    settings(rank, tol, 0 if oversampling is None else oversampling, 0, block)
    sketch_key, probe_key = jax.random.split(key)
    side, source = (P.T, skeleton.transposed(A)) if axis == "rows" else (P, A)
    if tol is None:
        rank = fitting(rank, P.shape)
    else:
        sketch_key, grow_key = jax.random.split(sketch_key)
        rank = max(skeleton.grow(side, source, tol, block, grow_key).skeleton.rank, 1)
    chosen = skeleton.choose(side, source, rank, oversampling, sketch_key)
    picked, Z = chosen.perm[: chosen.rank], chosen.right
    C = skeleton.take(source, side, picked)
    growths, swaps = [chosen.growth], chosen.swaps
    if axis == "columns":
        value = Interpolative(None, picked, None, C, Z)
    elif axis == "rows":
        value = Interpolative(picked, None, Z.T, C.T, None)
    else:
        again = skeleton.of_sketch(C.T, chosen.rank)  # the rows of the chosen columns: exact where C has full rank
        rows = again.perm[: again.rank]
        value = Interpolative(rows, picked, again.right.T, C[rows], Z)
        growths, swaps = [*growths, again.growth], swaps + again.swaps
    omega = P.normal(probe_key, P.shape[1], PROBES)
    image = P.apply(omega)
    inner = omega if value.right is None else value.right @ omega
    outer = value.skeleton @ inner
    rest = image - (outer if value.left is None else value.left @ outer)
    certificates = probe_certificates(rest, omega, image, ALPHA, "A − left·skeleton·right", P.xp)
    status = finite_status(certificates["spectral_error"].measured, P.xp)
    factors = [f for f in (value.left, value.right) if f is not None]
    certificates |= {
        "coefficients": Certificate(
            f"no coefficient of the interpolation exceeds {skeleton.GROWTH:g} in size",
            measured=P.xp.max(P.xp.stack([P.xp.max(P.xp.abs(f), initial=0) for f in factors])),
            bound=skeleton.GROWTH * (1 + 1e-6),
            kind="exact",
            source="Gu & Eisenstat, SIAM J. Sci. Comput. 17 (1996)",
        ),
        "strong": skeleton.strong(chosen._replace(growth=P.xp.max(P.xp.stack(growths))), side.shape[1]),
    }
    stats = {"rank": chosen.rank, "swaps": swaps}
    return P.out(Solution(value, certificates, status, swaps, stats))
