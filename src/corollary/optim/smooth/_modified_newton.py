"""Regularised Newton: make the Hessian positive definite, by a shift H + λI or by |Λ|, and every step goes downhill.

Use it where the Hessian is indefinite on the way: plain Newton is attracted to saddles as to minima. The shift needs
λ > max(0, −λ_min(H)), not merely λ > 0; the |Λ| modification turns each eigenvalue's sign and so leaves a saddle along
its negative curvature at a rate of its own. (Damped Newton shortens the step; this changes its direction.)
Cost: one eigendecomposition, about 9n³, and n Hessian products a step.
Source: Nocedal & Wright, "Numerical Optimization" (2006), section 3.4; Goldstein & Price (1967), Greenstadt (1967);
for |Λ|: Dauphin et al., "Identifying and attacking the saddle point problem" (2014).
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._smooth import SmoothTerm
from corollary.optim._tree import at_least_zero, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.smooth._newton import DenseNewton, Matrix, Vector, gradient_rounding, hessian_matrix


@follows_input
def regularized_newton_step(gradient: Any, hessian: Any, shift: Any = None, mode: str = "shift") -> Solution:
    """The step −(H + λI)⁻¹g, or −|H|⁻¹g with |H| = Q|Λ|Qᵀ.

    With λ → 0 (where H is definite) it is Newton's step, with λ → ∞ it is −g/λ. Cost: O(n³).

    Parameters
    ----------
    gradient, hessian
        g (n,) and a symmetric H (n, n).
    shift
        λ; None: the least that makes the smallest eigenvalue 10⁻³ of the largest (0 where H is definite enough).
        In mode ``"absolute"``: the least |eigenvalue| kept, 10⁻³ of the largest where left out.
    mode
        ``"shift"`` or ``"absolute"``.

    Returns
    -------
    Solution
        ``value`` is δ; ``stats`` holds ``shift``, ``lowest`` (λ_min of H) and ``slope`` gᵀδ. Where λ does not exceed
        −λ_min the status is `Status.UNBOUNDED` and the certificate fails: the step may lead uphill.

    Raises
    ------
    InputError
        For shapes that do not fit, or a negative shift.

    Notes
    -----
    Certificate ``definite`` (exact): −(λ_min + λ) ≤ 0 less rounding, from which gᵀδ < 0 follows.
    Source: Nocedal & Wright (2006), section 3.4.

    Examples
    --------
    >>> solution = regularized_newton_step([1.0, 1.0], [[2.0, 0.0], [0.0, -1.0]], shift=3.0)
    >>> solution.value.tolist(), bool(solution.holds)
    ([-0.2, -0.5], True)
    """
    g, H = symmetric_system(gradient, hessian)
    validation.one_of("shift", "absolute")("mode", mode)
    at_least_zero("shift", 0.0 if shift is None else shift)
    spectrum = Spectrum.of(H)
    given = None if shift is None else jnp.asarray(shift).astype(H.dtype)
    values, used = spectrum.modified(mode, given)
    step = spectrum.solve(values, g)
    lowest, scale = jnp.min(values), jnp.max(jnp.abs(spectrum.values)) + used
    certificate = Certificate(
        "−λ_min(H + λI) < 0, beyond rounding" if mode == "shift" else "−λ_min(|H|) < 0, beyond rounding",
        -lowest,
        -rounding(scale, 2.0 * g.size**0.5),
        "exact",
        "Nocedal & Wright (2006), section 3.4",
    )
    stats = {"shift": used, "lowest": spectrum.values[0], "slope": jnp.dot(g, step)}
    status = jnp.where(certificate.holds, Status.CONVERGED, Status.UNBOUNDED).astype(jnp.int32)
    return Solution(step, {"definite": certificate}, status, 1, stats)


class Spectrum(eqx.Module):
    """H = QΛQᵀ, eigenvalues rising."""

    matrix: Matrix
    values: Vector
    vectors: Matrix

    @classmethod
    def of(cls, H: Matrix) -> Spectrum:
        """Scaled to entries of at most 1 first: LAPACK squares."""
        top = jnp.max(jnp.abs(H))
        usable = (top > 0) & jnp.isfinite(top)
        safe = jnp.where(usable, top, 1)
        values, vectors = jnp.linalg.eigh(jnp.where(jnp.isfinite(H), H, 0) / safe, symmetrize_input=False)
        return cls(H, values * safe, vectors)

    def definite(self) -> Bool[Array, ""]:
        """Whether H is positive definite beyond rounding."""
        return self.values[0] > rounding(jnp.max(jnp.abs(self.values)), 2.0 * self.values.size**0.5)

    def modified(self, mode: str, shift: Scalar | None = None, damping: Any = 1e-3) -> tuple[Vector, Scalar]:
        """Positive eigenvalues, and the shift (or the least |eigenvalue|) that made them so."""
        top = jnp.max(jnp.abs(self.values))
        top = jnp.where(top > 0, top, 1)
        if mode == "shift":
            if shift is None:
                shift = jnp.where(self.definite(), 0, damping * top - self.values[0])
            return self.values + shift, shift
        least = damping * top if shift is None else shift
        if shift is None:
            least = jnp.where(self.definite(), 0, least)
        return jnp.maximum(jnp.abs(self.values), least), least

    def solve(self, values: Vector, g: Vector) -> Vector:
        """−Q diag(values)⁻¹ Qᵀ g."""
        return -self.vectors @ ((self.vectors.T @ g) / jnp.where(values == 0, 1, values))


@final
class RegularizedNewton(DenseNewton):
    """Newton's method with a Hessian made positive definite, and Armijo's rule, for `minimize`.

    Cost: about 9n³ and n Hessian products a step. Where the Hessian is definite it is Newton's method.

    Parameters
    ----------
    mode
        ``"shift"``: H + λI; ``"absolute"``: |Λ|, better near saddles.
    damping
        Where H is not definite, the smallest eigenvalue after modification, relative to the largest.

    Notes
    -----
    Certificate: ``stationarity``, of `minimize`. Source: Nocedal & Wright (2006), section 3.4.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> saddle = lambda x: x[0] ** 2 + (x[1] ** 2 - 1) ** 2
    >>> minimize(saddle, [1.0, 0.01], RegularizedNewton("absolute"), tol=1e-10).value.round(6).tolist()
    [0.0, 1.0]
    """

    mode: str = "shift"
    damping: Any = 1e-3

    def __check_init__(self):
        """Refuse an unknown mode and a damping that is not positive."""
        validation.one_of("shift", "absolute")("mode", self.mode)
        at_least_zero("damping", self.damping, positive=True)

    def curvature(self, smooth: SmoothTerm, x: PyTree) -> Spectrum:
        """The eigendecomposition."""
        return Spectrum.of(hessian_matrix(smooth, x))

    def direction(self, curvature: Spectrum, gradient: Vector) -> tuple[Vector, Bool[Array, ""]]:
        """−(H + λI)⁻¹g or −|H|⁻¹g."""
        values, _ = curvature.modified(self.mode, damping=jnp.asarray(self.damping).astype(gradient.dtype))
        return curvature.solve(values, gradient), curvature.definite()

    def searches(self) -> bool:
        """Always."""
        return True

    def floor(self, curvature: Spectrum, x: PyTree) -> Scalar:
        """4 eps ‖|H||x|‖."""
        return gradient_rounding(curvature.matrix, x)


def symmetric_system(gradient: Any, hessian: Any) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Refuse a gradient and a Hessian that do not fit each other; symmetrise the latter."""
    g, H = validation.vector("gradient", gradient), validation.matrix("hessian", hessian)
    if H.shape != (g.size, g.size):
        raise InputError(f"hessian: found shape {H.shape}, expected {(g.size, g.size)} as gradient has {g.size}")
    g = g.astype(jnp.promote_types(g.dtype, H.dtype))
    H = H.astype(g.dtype)
    if not isinstance(H, Tracer) and bool(norm(H - H.T) > 1e3 * jnp.finfo(H.dtype).eps * norm(H)):
        raise InputError("hessian: found a matrix that is not symmetric, expected a symmetric one")
    return g, (H + H.T) / 2
