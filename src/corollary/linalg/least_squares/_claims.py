"""The certificates of a least-squares solution, from its residual and the small factors of the matrix.

Every backward error below is the norm of a perturbation E that can be written down, for which x is an exact solution of
min ‖(A + E) x − b‖; with r = b − A x and P the projector onto the range of A:

- E = P r xᵀ/‖x‖², of norm ‖P r‖/‖x‖;
- E = −r rᵀA/‖r‖², of norm ‖Aᵀr‖/‖r‖ (Stewart, SIAM Review 19, 1977);
- E = r xᵀ/‖x‖², of norm ‖r‖/‖x‖ (consistent afterwards);
- for any z, E = A z xᵀ/‖x‖², which moves the residual to r' = r − A z, then −r'r'ᵀ(A + E)/‖r'‖²: together at most
  ‖A z‖/‖x‖ + (‖Aᵀr'‖ + |r'ᵀA z|/‖x‖)/‖r'‖.

The least of these bounds the optimal backward error of Waldén, Karlson & Sun (1995) from above. The first three alone
miss it where rounding errors of A x and of Aᵀr mix; with z = (AᵀA + ‖r‖²/‖x‖² I)⁻¹Aᵀr the last is Karlson & Waldén's
estimate up to a small factor, yet a bound, for E is at hand. Cost: O(p² k), and p³/3 for z where it is needed.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

from corollary.core.certificate import Assumption, Certificate
from corollary.core.solution import Solution, Status
from corollary.linalg.least_squares._factors import Factor

FAILURE = 1e-6  # chance that a sketch distorts by more than its factor says
SOURCE = "Waldén, Karlson & Sun, NLAA 2 (1995) 271-286; Stewart, SIAM Review 19 (1977) 579-634"


class Audit(eqx.Module):
    """A solution seen from outside: products with the large matrix, by right-hand side."""

    x: Float[Array, "p k"]
    r: Float[Array, "n k"]
    g: Float[Array, "p k"]  # Aᵀr
    lift: Float[Array, "p k"]  # a vector of the row space beside x
    b_norm: Float[Array, " k"]
    size: Float[Array, ""] | None = None  # ‖A‖_F where it is not ‖R‖_F
    moved: Float[Array, " k"] | None = None  # `moved_backward` of a z, where that is needed


def norms(a: Float[Array, "m k"]) -> Float[Array, " k"]:
    """Euclidean norms of the columns."""
    return jnp.linalg.norm(a, axis=0)


def dense(shape: tuple[int, int], factor: Factor, audit: Audit) -> Solution:
    """Certificates and stats of a direct solution; its value is filled in by the caller."""
    n, p = shape
    R, W, condition = factor.R, factor.W, factor.condition
    size = jnp.linalg.norm(R) if audit.size is None else audit.size
    x, r = norms(audit.x), norms(audit.r)
    if n >= p:
        inside = W.T @ audit.g  # Uᵀr: the residual's part in the range of A
        kept = R.T @ inside
        error = W @ inside  # A⁺r = x − x*
    else:
        kept = R @ audit.r
        inside = W @ kept
        error = W.T @ audit.r
    inside, kept, error = norms(inside), norms(kept), norms(error)
    if factor.distortion is not None:
        inside, error = inside * (1 + factor.distortion), error * (1 + factor.distortion) ** 2
    eps = float(jnp.finfo(R.dtype).eps)
    unit = eps * (16 + 4 * (n**0.5 + p**0.5))  # √n: rounding errors of long sums grow like a random walk
    backward = jnp.minimum(jnp.minimum(_ratio(inside, x), _ratio(kept, r)), _ratio(r, x))
    if audit.moved is not None:
        backward = jnp.minimum(backward, audit.moved)
    backward = jnp.where(x + r > 0, _ratio(backward, size), 0.0)
    certificates = {
        "backward_error": Certificate(
            "x solves min ‖(A_r + E)x − b‖ exactly, ‖E‖/‖A‖_F at rounding level (A_r: A without what the cutoff drops)",
            jnp.max(backward),
            jnp.asarray(unit, R.dtype),
            "probabilistic" if factor.assumed else "exact",
            SOURCE,
            confidence=1 - FAILURE if factor.assumed else 1.0,
            assumptions=(Assumption(factor.assumed),) if factor.assumed else (),
        ),
        "orthogonality": _orthogonality(kept, size, x, r, audit.b_norm, unit),
        "rank": Certificate(
            "no singular value near the cutoff: max(σ_{r+1}, cutoff)/σ_r <= 1/10",
            factor.gap,
            jnp.asarray(0.1, R.dtype),
            "monitor",
            "Golub & Van Loan, Matrix Computations, 4th ed., §5.5.8",
        ),
        "minimum_norm": Certificate(
            "distance of x from the row space of A, relative to ‖x‖, at rounding level",
            jnp.max(_ratio(norms(audit.x - audit.lift), x)),
            jnp.asarray(unit * jnp.maximum(condition, 1), R.dtype),
            "exact",
            "x = A⁺b if and only if x is a minimiser in range(Aᵀ); Björck (1996), Theorem 1.2.10",
        ),
        "forward_error": _forward(error, backward + unit, condition, size, x, r, factor.assumed),
    }
    stats: dict[str, Any] = {"rank": factor.rank.astype(int), "condition": condition, "residual_norm": r}
    finite = jnp.all(jnp.isfinite(audit.x))
    return Solution(None, certificates, Status.of(finite, finite), 1, stats)


def shortfall(shape: tuple[int, int], factor: Factor, audit: Audit) -> Float[Array, ""]:
    """How far the simple backward errors lie above rounding, in units of eps·√p: above 1 a z is worth its price."""
    x, r = norms(audit.x), norms(audit.r)
    inside = factor.W.T @ audit.g
    kept = factor.R.T @ inside
    simple = jnp.minimum(jnp.minimum(_ratio(norms(inside), x), _ratio(norms(kept), r)), _ratio(r, x))
    size = jnp.linalg.norm(factor.R) if audit.size is None else audit.size
    eps = float(jnp.finfo(factor.R.dtype).eps)
    return jnp.max(_ratio(simple, size * eps * shape[1] ** 0.5))


def filtered(factor: Factor, audit: Audit) -> Float[Array, "p k"]:
    """z = (RᵀR + φ²I)⁻¹ g with φ = ‖r‖/‖x‖, column by column. It need not be accurate: any z gives a bound."""
    R, g = factor.R, factor.R.T @ (factor.W.T @ audit.g)
    G = R.T @ R
    phi = jnp.minimum(_ratio(norms(audit.r), norms(audit.x)), jnp.linalg.norm(R))
    floor = g.shape[0] * jnp.finfo(G.dtype).eps * jnp.trace(G)

    def one(column: tuple[Array, Array]) -> Array:
        g, phi = column
        return cho_solve(cho_factor(G + (phi**2 + floor) * jnp.eye(G.shape[0], dtype=G.dtype)), g)

    return jax.lax.map(one, (g.T, phi)).T


def moved_backward(x: Array, image: Array, rest: Array, gradient: Array) -> Float[Array, " k"]:
    """Norm of the perturbation that a z gives, from A z, r' = r − A z and Aᵀr' (its part in the row space)."""
    x_norm, rest_norm = norms(x), norms(rest)
    turn = _ratio(jnp.abs(jnp.sum(image * rest, axis=0)), x_norm)
    found = _ratio(norms(image), x_norm) + _ratio(norms(gradient) + turn, rest_norm)
    return jnp.where(jnp.isnan(found), jnp.inf, found)


def iterative(
    x: Array, r: Array, g: Array, squared: Array | None, tol: Array
) -> tuple[dict[str, Certificate], Float[Array, " k"]]:
    """Certificates of a solution of which only products with A are known."""
    # Without ‖A‖_F a lower bound does: it makes what is measured larger.
    size = jnp.sqrt(squared) if squared is not None else jnp.max(_ratio(norms(g), norms(r)))
    x_norm, r_norm, g_norm = norms(x), norms(r), norms(g)
    eps = float(jnp.finfo(r.dtype).eps)
    backward = _ratio(jnp.minimum(_ratio(g_norm, r_norm), _ratio(r_norm, x_norm)), size)
    certificate = Certificate(
        "x solves the least-squares problem of A + E exactly, ‖E‖/‖A‖_F <= 4 tol",
        jnp.max(backward),
        4 * tol + 64 * eps,
        "exact",
        SOURCE,
    )
    return {"backward_error": certificate}, r_norm


def _orthogonality(kept: Array, size: Array, x: Array, r: Array, b: Array, unit: float) -> Certificate:
    measured = _ratio(kept, size * r)
    bound = unit * (1 + _ratio(size * x + b, r))  # the residual's own rounding
    worst = jnp.argmax(measured - bound)
    return Certificate(
        "residual orthogonal to the columns: ‖Aᵀr‖/(‖A‖_F‖r‖) at rounding level",
        measured[worst],
        bound[worst],
        "exact",
        "normal equations; Björck (1996), Theorem 1.1.2",
    )


def _forward(
    error: Array, backward: Array, condition: Array, size: Array, x: Array, r: Array, assumed: str
) -> Certificate:
    likely = (Assumption(assumed),) if assumed else ()
    loss = condition * backward
    growth = jnp.where(loss < 1, loss / (1 - jnp.where(loss < 1, loss, 0)), jnp.inf)
    bound = growth * (2 + condition * _ratio(r, size * x))
    measured = _ratio(error, x)
    worst = jnp.argmax(measured - jnp.where(jnp.isfinite(bound), bound, jnp.finfo(x.dtype).max))
    return Certificate(
        "‖x − A⁺b‖/‖x‖ <= κε/(1 − κε) · (2 + κ‖r‖/(‖A‖‖x‖)), ε the backward error; measured ‖A⁺r‖/‖x‖",
        measured[worst],
        bound[worst],
        "probabilistic" if assumed else "theorem",
        "Wedin, BIT 13 (1973) 217-232; Higham (2002), Theorem 20.1",
        confidence=1 - FAILURE if assumed else 1.0,
        assumptions=(
            Assumption("κε < 1", checked=True, holds=jnp.all(loss < 1)),
            Assumption("the perturbation keeps the rank"),
            *likely,
        ),
    )


def _ratio(a: Array, b: Array) -> Array:
    """a/b with 0/0 = 0 and a/0 = ∞."""
    quotient = a / jnp.where(b > 0, b, 1)
    return jnp.where(a > 0, jnp.where(b > 0, quotient, jnp.inf), 0.0)
