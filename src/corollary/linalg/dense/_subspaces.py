"""The four fundamental subspaces of a matrix, from its singular value decomposition.

Use `four_subspaces` for orthonormal bases of the column, row, null and left null space, or to project onto one of them.
The two that may be as large as the matrix is long are kept as complements and built only when they are asked for.

Cost: O(mn min(m, n)). Source: Golub & Van Loan, Matrix Computations, 4th ed., §2.4.2 and §5.5; Strang (1993).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg.low_rank._svd import svd

Basis = Float[Array | np.ndarray, "_ _"]
SPACES = ("column", "row", "null", "left_null")


class FourSubspaces(eqx.Module):
    """Orthonormal bases of the column (m, r), row (n, r), null (n, n − r) and left null space (m, m − r).

    `project` works under `jit` as well, where the rank is traced and the bases have no fixed shape.
    """

    left: Basis  # all min(m, n) left singular vectors
    right: Basis
    singular_values: Float[Array | np.ndarray, " k"]
    rank: Int[Array | np.ndarray, ""] | int | np.integer

    @property
    def column_space(self) -> Basis:
        """Basis of range(A)."""
        return self.left[:, : self._concrete()]

    @property
    def row_space(self) -> Basis:
        """Basis of range(Aᵀ)."""
        return self.right[:, : self._concrete()]

    @property
    def null_space(self) -> Basis:
        """Basis of {x : Ax = 0}."""
        return _complement(self.right, self._concrete())

    @property
    def left_null_space(self) -> Basis:
        """Basis of {y : Aᵀy = 0}."""
        return _complement(self.left, self._concrete())

    def project(self, space: str, x: Any) -> Any:
        """Orthogonal projection of x, (d,) or (d, k), onto ``"column"``, ``"row"``, ``"null"`` or ``"left_null"``."""
        validation.one_of(*SPACES)("space", space)
        basis = self.left if space in ("column", "left_null") else self.right
        kept = (np if isinstance(basis, np.ndarray) else jnp).arange(basis.shape[1]) < self.rank
        basis = basis * kept.astype(basis.dtype)
        inside = basis @ (basis.T @ x)
        return inside if space in ("column", "row") else x - inside

    def _concrete(self) -> int:
        if isinstance(self.rank, Tracer):
            raise InputError("rank: found a traced rank (under jit or vmap), expected a known one, or use `project`")
        return int(self.rank)


@follows_input
def four_subspaces(A: Any, *, rcond: Any = None) -> Solution:
    """Orthonormal bases of range(A), range(Aᵀ), null(A) and null(Aᵀ).

    Cost: one SVD, O(mn min(m, n)); a complement's basis costs a QR more when it is asked for.

    Parameters
    ----------
    A
        (m, n) matrix.
    rcond
        Singular values at most ``rcond`` · σ₁ count as zero; ``None``: max(m, n) · eps. Scale-free. It may be traced.

    Returns
    -------
    Solution
        ``value``: `FourSubspaces`; dimensions r, r, n − r and m − r. A null-space direction is mapped to zero (it is
        the null space of A − I that is left unchanged). ``stats``: ``rank``.

    Raises
    ------
    InputError
        For anything but a finite real matrix.

    Notes
    -----
    Certificates: ``"null_space"`` and ``"left_null_space"`` (exact: ‖AN‖_F and ‖NᵀA‖_F, that is the least perturbation
    of A which makes the null space exact, against the singular values that were dropped); ``"orthogonality"`` and
    ``"weyl"`` of the SVD (exact); ``"rank"`` (monitor: no singular value near the cutoff).

    Examples
    --------
    >>> import numpy as np
    >>> spaces = four_subspaces(np.array([[1.0, 1.0], [2.0, 2.0], [0.0, 0.0]])).value
    >>> spaces.null_space.shape, spaces.left_null_space.shape
    ((2, 1), (3, 2))
    >>> spaces.project("null", np.array([3.0, 1.0])).round(12).tolist()
    [1.0, -1.0]
    """
    A, rcond = checked("A", A, rcond)
    factors = svd(A)
    spaces, certificates = split(A, factors, rcond)
    return Solution(spaces, certificates, factors.status, 1, {"rank": spaces.rank})


def checked(name: str, A: Any, rcond: Any) -> tuple[Any, Any]:
    """The matrix, where it lies, and the relative cutoff; a traced cutoff takes the matrix into JAX."""
    A = validation.matrix(name, A, host=True)
    if isinstance(rcond, jax.Array):
        return jnp.asarray(A), rcond
    return A, validation.number(0, 1, none=True)("rcond", rcond)


def split(A: Any, factors: Solution, rcond: Any) -> tuple[FourSubspaces, dict[str, Certificate]]:
    """The subspaces of a matrix from its reduced SVD, with their certificates."""
    U, s, Vt = factors.value
    xp = np if isinstance(s, np.ndarray) else jnp
    eps = float(np.finfo(s.dtype).eps)
    least = xp.asarray(max(A.shape) * eps if rcond is None else rcond).astype(s.dtype) * s[0]
    kept = (s > least) & (s > 0)
    rank = xp.sum(kept)
    spaces = FourSubspaces(U, Vt.T, s, rank)
    constant = (lambda x: x) if xp is np else jax.lax.stop_gradient
    A, U, s, V = (constant(a) for a in (A, U, s, Vt.T))
    top = xp.where(s[0] > 0, s[0], 1).astype(s.dtype)
    unit = A / top  # norms of a matrix of the order of one neither over- nor underflow
    dropped = xp.linalg.norm(xp.where(kept, 0, s / top))
    noise = 16 * eps * max(A.shape)
    column, row = (basis * kept.astype(basis.dtype) for basis in (U, V))
    residuals = {
        "null_space": ("‖AN‖_F", unit - (unit @ row) @ row.T),
        "left_null_space": ("‖NᵀA‖_F", unit - column @ (column.T @ unit)),
    }
    certificates = {
        name: Certificate(
            f"{claim}/σ₁ <= the singular values that were dropped, and rounding",
            xp.linalg.norm(rest),
            dropped + noise,
            "exact",
            "Golub & Van Loan, Matrix Computations, 4th ed., §2.4.2",
        )
        for name, (claim, rest) in residuals.items()
    }
    smallest = xp.min(xp.where(kept, s, xp.inf))
    gap = xp.maximum(xp.max(xp.where(kept, 0, s)), least) / xp.where(rank > 0, smallest, 1)
    certificates["rank"] = Certificate(
        "no singular value near the cutoff: max(σ_{r+1}, cutoff)/σ_r <= 1/10",
        xp.where(rank > 0, gap, 0).astype(s.dtype),
        xp.asarray(0.1, s.dtype),
        "monitor",
        "Golub & Van Loan, Matrix Computations, 4th ed., §5.5.8",
    )
    return spaces, {**factors.certificates, **certificates}


def _complement(vectors: Basis, rank: int) -> Basis:
    """Orthonormal basis of what the first `rank` columns leave over: the other columns, and what completes them."""
    length, k = vectors.shape
    rest = vectors[:, rank:]
    if length == k:
        return rest
    xp: Any = np if isinstance(vectors, np.ndarray) else jnp
    return xp.concatenate([rest, xp.linalg.qr(vectors, mode="complete")[0][:, k:]], axis=1)
