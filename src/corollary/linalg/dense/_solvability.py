"""Does A x = b have a solution, and how many? Rouché and Capelli's theorem, with a witness for either answer.

Use `solvability` for the whole solution set x₀ + null(A), and for span membership: b lies in the span of A's columns if
and only if the system has a solution. Where it has none, the residual is the witness (Fredholm's alternative).

Cost: one SVD, O(mn min(m, n)). Source: Rouché & Capelli; Golub & Van Loan, 4th ed., §5.5; Rigal & Gaches (1967).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution
from corollary.linalg.dense._subspaces import FourSubspaces, checked, split
from corollary.linalg.least_squares._factors import exponent, shift
from corollary.linalg.low_rank._svd import svd


class SolutionSet(eqx.Module):
    """All x with A x = b: a particular one, and the null space of A."""

    particular: Float[Array | np.ndarray, " n"]  # of least norm; the least-squares solution where there is none
    subspaces: FourSubspaces
    solvable: Bool[Array | np.ndarray, ""] | np.bool_ | bool
    unique: Bool[Array | np.ndarray, ""] | np.bool_ | bool  # solvable, and A has full column rank

    @property
    def count(self) -> str:
        """``"none"``, ``"unique"`` or ``"infinite"``."""
        return "none" if not bool(self.solvable) else "unique" if bool(self.unique) else "infinite"

    @property
    def null_space(self) -> Float[Array | np.ndarray, "n _"]:
        """What may be added to `particular`: an orthonormal basis, (n, n − r)."""
        return self.subspaces.null_space


@follows_input
def solvability(A: Any, b: Any, *, rcond: Any = None) -> Solution:
    """The solution set of A x = b: none, one or infinitely many, within rounding.

    A unique solution needs rank(A) = n as well as rank([A b]) = rank(A). Cost: O(mn min(m, n)).

    Parameters
    ----------
    A
        (m, n) matrix.
    b
        (m,) right-hand side.
    rcond
        Singular values at most ``rcond`` · σ₁ count as zero, and so does a residual of at most
        ``rcond`` · (‖A‖‖x‖ + ‖b‖); ``None``: 4 max(m, n) · eps for the residual, max(m, n) · eps for the rank.

    Returns
    -------
    Solution
        ``value``: `SolutionSet`. ``stats``: ``rank``, ``augmented_rank``, ``residual_norm``, and ``least_norm``: if
        the data are exact, every solution is at least so long (finite and large: almost unsolvable).

    Raises
    ------
    InputError
        For anything but a finite real matrix and a vector that fits it.

    Notes
    -----
    Certificates: ``"decision"`` (exact): a solution has a backward error ‖b − Ax‖/(‖A‖‖x‖ + ‖b‖) within the tolerance;
    where there is none, y = b − Ax has ‖Aᵀy‖ at rounding level while yᵀb > 0, so Ax = b would give 0 = yᵀAx = yᵀb > 0.
    ``"null_space"``, ``"left_null_space"``, ``"orthogonality"``, ``"weyl"``, ``"rank"`` as in `four_subspaces`.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.array([[1.0, 2.0], [2.0, 4.0]])
    >>> solvability(A, np.array([1.0, 2.0])).value.count, solvability(A, np.array([1.0, 0.0])).value.count
    ('infinite', 'none')
    """
    A, rcond = checked("A", A, rcond)
    b = validation.vector("b", b, host=True)
    validation.same_length("A", A, "b", b)
    if isinstance(A, np.ndarray) and isinstance(b, np.ndarray):
        A, b = (a.astype(np.result_type(A, b), copy=False) for a in (A, b))
    else:
        A, b = common_float(A, b)
    factors = svd(A)
    spaces, certificates = split(A, factors, rcond)
    eps = float(np.finfo(A.dtype).eps)
    tol = jnp.asarray(4 * max(A.shape) * eps if rcond is None else rcond, A.dtype)
    return _decide(jnp.asarray(A), jnp.asarray(b), spaces, certificates, factors.status, tol)


@jax.jit
def _decide(
    A: Float[Array, "m n"],
    b: Float[Array, " m"],
    spaces: FourSubspaces,
    certificates: dict[str, Certificate],
    status: Any,
    tol: Float[Array, ""],
) -> Solution:
    ea, eb = exponent(A), exponent(b)
    unit, rhs, s = shift(A, -ea), shift(b, -eb), shift(spaces.singular_values, -ea)
    kept = jnp.arange(s.shape[0]) < spaces.rank
    x = spaces.right @ (jnp.where(kept, 1 / jnp.where(kept, s, 1), 0) * (spaces.left.T @ rhs))
    y = rhs - unit @ x
    scale = s[0] * jnp.linalg.norm(x) + jnp.linalg.norm(rhs)
    left = jnp.linalg.norm(y)
    backward = left / jnp.where(scale > 0, scale, 1)
    solvable = backward <= tol
    pulled = jnp.linalg.norm(unit.T @ y)
    # y carries rounding of the size tol·scale, and so does Aᵀy beside the dropped singular values.
    witness = pulled / jnp.where(left > 0, s[0] * scale, 1)
    witness = jnp.where(s[0] > 0, witness, 0)
    decision = Certificate(
        "a solution within the tolerance, or y with Aᵀy = 0 to rounding and yᵀb > 0: then none exists",
        jnp.where(solvable, backward, jnp.where(y @ rhs > 0, witness, jnp.inf)),
        tol,
        "exact",
        "Rouché & Capelli; Rigal & Gaches, J. ACM 14 (1967)",
    )
    shortest = jnp.where(solvable, 0, (y @ rhs) / jnp.where(pulled > 0, pulled, 1))
    shortest = jnp.where(~solvable & (pulled == 0), jnp.inf, shortest)
    stats = {
        "rank": spaces.rank,
        "augmented_rank": spaces.rank + jnp.where(solvable, 0, 1).astype(jnp.asarray(spaces.rank).dtype),
        "residual_norm": shift(left, eb),
        "least_norm": shift(shortest, eb - ea),
    }
    value = SolutionSet(shift(x, eb - ea), spaces, solvable, solvable & (spaces.rank == A.shape[1]))
    return Solution(value, {"decision": decision, **certificates}, status, 1, stats)
