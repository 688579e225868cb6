"""Both ends of a Hessian's spectrum from Lanczos: Ritz values, which lie inside, and probabilistic bounds outside.

A Ritz value is a Rayleigh quotient, so λ_min ≤ θ_min always: alone it proves negative curvature, never its absence.
The other side comes from the random start b: the Lanczos polynomial p of degree m has ‖p(H) b‖ = 1, so that
|p(λ_min)| ≤ 1/|⟨b, v_min⟩|, and |p| grows fast outside the Ritz values. With |⟨b, v⟩| ≥ c for all but a small share of
starts, the spectrum ends where |p| passes 1/c. Cost: m Hessian products, O(n m²).
Source: van Dorsselaer, Hochstenbach & van der Vorst, SIAM J. Matrix Anal. Appl. 22 (2000) 837-852, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from corollary.core.certificate import rounding
from corollary.linalg.eigen._krylov import BREAKDOWN, Lanczos, lanczos_process
from corollary.optim.penalties._base import Scalar

HALVINGS = 48  # of the logarithm of the gap between Ritz value and bound: far below a percent of it
NOISE = 128.0  # times eps ‖H‖
SOURCE = "van Dorsselaer, Hochstenbach & van der Vorst, SIMAX 22 (2000) 837-852, section 3"


class Extremes(eqx.Module):
    """What m steps of Lanczos tell of a symmetric operator on pytrees.

    `smallest` and `largest` are Ritz values: λ_min ≤ `smallest`, `largest` ≤ λ_max. `lower` and `upper` bound the whole
    spectrum with the confidence that was asked for. `values` are all Ritz values, ascending.
    """

    smallest: Scalar
    largest: Scalar
    lower: Scalar
    upper: Scalar
    values: Float[Array, " m"]
    low_vector: PyTree
    high_vector: PyTree
    residual: Scalar  # ‖H v − θ v‖ of the smallest pair
    scale: Scalar  # a lower bound of ‖H‖
    count: Any

    @property
    def noise(self) -> Scalar:
        """The rounding of an eigenvalue; Lanczos drops a remainder of up to 100 eps ‖H‖ at a breakdown."""
        return rounding(self.scale, NOISE)


def extremes(
    product: Callable[[PyTree], PyTree], x: PyTree, steps: int, key: Key[Array, ""] | None, failure: Any = 1e-3
) -> Extremes:
    """Lanczos with a random start on v ↦ `product` (v), v like x; each bound fails with probability `failure`."""
    flat, unravel = ravel_pytree(x)
    n = flat.shape[0]
    start = jax.random.normal(jax.random.key(0) if key is None else key, flat.shape, flat.dtype)
    run = lanczos_process(lambda v: ravel_pytree(product(unravel(v)))[0], start, min(steps, n))
    values, S = jnp.linalg.eigh(run.T)
    noise = rounding(run.scale, NOISE)
    reach = -jnp.log(jnp.asarray(least_overlap(n, failure)).astype(flat.dtype))
    low, high = _unit(run.Q @ S[:, 0]), _unit(run.Q @ S[:, -1])
    return Extremes(
        smallest=values[0],
        largest=values[-1],
        lower=values[0] - _gap(run, run.alpha, values[0], reach) - noise,
        upper=values[-1] + _gap(run, -run.alpha, -values[-1], reach) + noise,
        values=values,
        low_vector=unravel(low),
        high_vector=unravel(high),
        residual=run.beta[-1] * jnp.abs(S[-1, 0]),
        scale=run.scale,
        count=run.count,
    )


def least_overlap(n: int, failure: Any) -> Any:
    """The c with P(|⟨b, v⟩| < c) ≤ `failure` for b uniform on the sphere of ℝⁿ: the density is at most √(n/2π)."""
    return 1.0 if n == 1 else failure * float(np.sqrt(np.pi / (2 * n)))


def _unit(v: Float[Array, " n"]) -> Float[Array, " n"]:
    size = jnp.linalg.norm(v)
    return v / jnp.where(size > 0, size, 1)


def _gap(run: Lanczos, alpha: Float[Array, " m"], edge: Scalar, reach: Scalar) -> Scalar:
    """How far below the smallest Ritz value |p| passes exp(reach); zero where the Krylov space is the whole space.

    Where Lanczos broke down before, it dropped a remainder of up to 100 eps ‖H‖: an eigenvector that the start holds
    by no more than that is outside the space. The β that was set to zero counts with that size then.
    Below all Ritz values the ratios p_j/p_{j−1} = (λ − α_j − β_{j−1}/ratio)/β_j are all negative, so that log|p| is a
    sum without cancellation. |p(λ)| ≥ (gap/max β)^m bounds the search.
    """
    m, n = run.beta.shape[0], run.Q.shape[0]
    broke = (run.beta[-1] == 0) & (run.count < n)
    dropped = jnp.where(jnp.arange(1, m + 1, dtype=run.count.dtype) == run.count, rounding(run.scale, BREAKDOWN), 0)
    beta = jnp.where(broke, jnp.maximum(run.beta, dropped), run.beta)
    usable = beta > 0
    top = jnp.max(beta, initial=0.0)
    safe = jnp.where(top > 0, top, 1)
    a, b = (alpha - edge) / safe, beta / safe

    def growth(gap: Scalar) -> Scalar:
        def turn(carry, entry):
            total, taken = carry
            a, b, inside = entry
            height = jnp.where(inside, a + gap - taken, 1)  # −β_j p_j/p_{j−1}
            height = jnp.maximum(height, jnp.finfo(height.dtype).tiny)
            total = total + jnp.where(inside, jnp.log(height / jnp.where(inside, b, 1)), 0)
            return (total, jnp.where(inside, jnp.square(b) / height, 0)), None

        zero = jnp.zeros((), a.dtype)
        return jax.lax.scan(turn, (zero, zero), (a, b, usable))[0][0]

    lowest, highest = jnp.log(jnp.finfo(a.dtype).eps).astype(a.dtype), reach + 1.0

    def halve(_, ends):
        left, right = ends
        middle = (left + right) / 2
        beyond = growth(jnp.exp(middle)) >= reach
        return jnp.where(beyond, left, middle), jnp.where(beyond, middle, right)

    _, right = jax.lax.fori_loop(0, HALVINGS, halve, (lowest, highest))
    return jnp.where((run.beta[-1] > 0) | broke, safe * jnp.exp(right), 0)
