"""Orthogonal projectors: from a basis, as an operator; and the test whether a given matrix is one.

Use `orthogonal_projector` to project onto the span of any vectors, dependent ones included, and `check_projector` on a
matrix P that is said to project. UUᵀ projects only where U's columns are orthonormal, V(VᵀV)⁻¹Vᵀ squares the condition
number: here the basis is orthonormalised by an SVD. An idempotent matrix is an orthogonal projector only if symmetric.

Cost: O(mk²) once, O(mk) a product. Source: Golub & Van Loan, Matrix Computations, 4th ed., §2.6.1.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.operator import register
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.dense._subspaces import checked, split
from corollary.linalg.low_rank._rsvd_bounds import orthogonality
from corollary.linalg.low_rank._svd import svd


class Projector(lx.AbstractLinearOperator):
    """x ↦ Q Qᵀx for a Q with orthonormal columns (or zero ones): symmetric, idempotent, never formed."""

    basis: Float[Array | np.ndarray, "m k"]

    def mv(self, vector: Any) -> Any:
        """P x."""
        return self.basis @ (self.basis.T @ vector)

    def residual(self, vector: Any) -> Any:
        """(I − P) x for x (m,) or (m, k): projected twice, so that it is orthogonal to the basis to rounding."""
        for _ in range(2):
            vector = vector - self.basis @ (self.basis.T @ vector)
        return vector

    def as_matrix(self) -> Float[Array, "m m"]:
        """Q Qᵀ."""
        basis = jnp.asarray(self.basis)
        return basis @ basis.T

    def transpose(self) -> Projector:
        """P itself."""
        return self

    def in_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of x in P x."""
        return jax.ShapeDtypeStruct((self.basis.shape[0],), self.basis.dtype)

    def out_structure(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of P x."""
        return self.in_structure()


register(Projector, is_symmetric=True, is_positive_semidefinite=True)


@follows_input
def orthogonal_projector(V: Any, *, orthonormal: Any = False, rcond: Any = None) -> Solution:
    """The orthogonal projector onto the span of V's columns, as an operator.

    It depends on the span alone: V and VA give the same for any invertible A. Cost: one SVD, O(mk min(m, k)).

    Parameters
    ----------
    V
        (m, k) spanning vectors; they may be dependent.
    orthonormal
        True: V's columns are orthonormal already and are taken as they are (checked by the certificate).
    rcond
        Singular values at most ``rcond`` · σ₁ count as zero; ``None``: max(m, k) · eps.

    Returns
    -------
    Solution
        ``value``: `Projector`, a ``lineax`` operator with ``mv``, ``as_matrix``, ``residual`` and its ``basis``
        (columns beyond the rank are zero). ``stats``: ``rank``, the projector's trace.

    Raises
    ------
    InputError
        For anything but a finite real matrix.

    Notes
    -----
    Certificates: ``"orthogonality"`` (exact: ‖QᵀQ − I‖, which is the idempotency defect too), ``"range"`` (exact: P
    leaves V unchanged, ‖V − PV‖_F/σ₁ against what the cutoff drops), ``"rank"`` (monitor).

    Examples
    --------
    >>> import numpy as np
    >>> P = orthogonal_projector(np.array([[1.0, 2.0], [1.0, 2.0]])).value
    >>> np.round(P.mv(np.array([3.0, 1.0])), 12).tolist()
    [2.0, 2.0]
    """
    validation.flag("orthonormal", orthonormal)
    V, rcond = checked("V", V, rcond)
    xp = np if isinstance(V, np.ndarray) else jnp
    if orthonormal:
        constant = V if xp is np else jax.lax.stop_gradient(V)
        return Solution(Projector(V), {"orthogonality": orthogonality(xp, Q=constant)}, stats={"rank": V.shape[1]})
    factors = svd(V)
    spaces, certificates = split(V, factors, rcond)
    kept = (xp.arange(spaces.left.shape[1]) < spaces.rank).astype(spaces.left.dtype)
    chosen = {
        "orthogonality": certificates["orthogonality"],
        "range": certificates["left_null_space"],
        "rank": certificates["rank"],
    }
    return Solution(Projector(spaces.left * kept), chosen, factors.status, 1, {"rank": spaces.rank})


@follows_input
def check_projector(P: Any) -> Solution:
    """Is this matrix an orthogonal projector? Its range and null space, and what it misses.

    Cost: two products and one SVD, O(n³).

    Parameters
    ----------
    P
        (n, n) matrix.

    Returns
    -------
    Solution
        ``value``: `FourSubspaces` of P, so that ``value.column_space`` is the range that it projects onto and
        ``value.null_space`` the directions that it removes. ``stats``: ``rank``, ``trace`` (equal for a projector).

    Raises
    ------
    InputError
        For a matrix that is not square.

    Notes
    -----
    Certificates, all exact and relative to the rounding n·eps·‖P‖² of the products: ``"idempotent"`` ‖P² − P‖_F;
    ``"symmetric"`` ‖P − Pᵀ‖_F; ``"orthogonal"`` ‖Pᵀ(I − P)‖_F, range against null space: an oblique projector fails
    this and ``"symmetric"`` while it is idempotent; ``"range"``: ‖P R − R‖_F for the basis R of the range.

    Examples
    --------
    >>> import numpy as np
    >>> found = check_projector(np.array([[1.0, 1.0], [0.0, 0.0]]))  # onto the first axis, but obliquely
    >>> {name: bool(found.certificates[name].holds) for name in ("idempotent", "symmetric", "orthogonal")}
    {'idempotent': True, 'symmetric': False, 'orthogonal': False}
    """
    P = validation.matrix("P", P, host=True)
    if P.shape[0] != P.shape[1]:
        raise InputError(f"P: found shape {P.shape}, expected a square matrix")
    xp = np if isinstance(P, np.ndarray) else jnp
    factors = svd(P)
    spaces, _ = split(P, factors, None)
    kept = (xp.arange(P.shape[0]) < spaces.rank).astype(P.dtype)
    R = spaces.left * kept
    # Products of a huge P would overflow: it is then no projector, and its defects relative to ‖P‖² say so.
    size = xp.maximum(factors.value[1][0], xp.ones((), P.dtype))
    unit, identity = P / size, xp.eye(P.shape[0], dtype=P.dtype) / size
    noise = xp.asarray(16 * P.shape[0] * float(np.finfo(P.dtype).eps), P.dtype)
    defects = {
        "idempotent": ("‖P² − P‖_F", unit @ (unit - identity)),
        "symmetric": ("‖P − Pᵀ‖_F", (unit - unit.T) / size),
        "orthogonal": ("‖Pᵀ(I − P)‖_F", unit.T @ (identity - unit)),
        "range": ("‖PR − R‖_F", (unit @ R - identity @ R) / size),
    }
    certificates = {
        name: Certificate(
            f"{claim}/max(‖P‖, 1)² at rounding level",
            xp.linalg.norm(defect),
            noise,
            "exact",
            "Golub & Van Loan, Matrix Computations, 4th ed., §2.6.1",
        )
        for name, (claim, defect) in defects.items()
    }
    stats = {"rank": spaces.rank, "trace": xp.trace(P)}
    return Solution(spaces, certificates, factors.status, 1, stats)
