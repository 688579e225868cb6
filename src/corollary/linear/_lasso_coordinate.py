"""Coordinate descent on a Gram matrix: the two compiled kernels of the Lasso family.

With G = XᵀX and the gradient g = Xᵀ(y − Xw) at hand, one exact minimisation over w_j,
    w_j ← S(G_jj w_j + g_j, λ) / (G_jj + μ),    g ← g − G_j (w_j⁺ − w_j),
costs O(k), whatever the number of rows. Shapes are padded to a few sizes, so that few programs are compiled; a padded
coordinate has G_jj = 0 and stays at zero. Source: Friedman, Hastie and Tibshirani (2010), section 2.2 (covariance
updates).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

SUPPORT_SWEEPS = 4


def bucket(k: int, least: int = 32) -> int:
    """The next 2^i or 3·2^i: the padded size under which `k` coordinates are compiled."""
    power = 1 << max(0, k - 1).bit_length()
    return max(least, 3 * power // 4 if k <= 3 * power // 4 and power > 256 else power)


def threshold(z: Float[Array, "..."], lam: Float[Array, ""], positive: Bool[Array, ""]) -> Float[Array, "..."]:
    """Soft threshold S(z, λ), the prox of λ|·|; one-sided where only w ≥ 0 is allowed."""
    return jnp.where(positive, jnp.maximum(z - lam, 0), jnp.sign(z) * jnp.maximum(jnp.abs(z) - lam, 0))


def _sweep(G: Any, order: Any, steps: Any, w: Any, g: Any, lam: Any, mu: Any, positive: Any) -> tuple[Array, Array]:
    """Coordinate steps along `order`, over and over: one flat loop, through which XLA carries w and g in place."""
    diagonal = jnp.diagonal(G)
    live = diagonal > 0
    curvature = jnp.where(live, diagonal + mu, 1)
    length = jnp.maximum(order[1], 1)

    def coordinate(i: Any, state: Any) -> Any:
        w, g = state
        j = order[0][i % length]
        z = threshold(diagonal[j] * w[j] + g[j], lam, positive)
        new = jnp.where(live[j], z / curvature[j], 0)
        return w.at[j].set(new), g - G[j] * (new - w[j])

    return jax.lax.fori_loop(0, steps, coordinate, (w, g))


@jax.jit
def sweep(
    G: Float[Array, "k k"],
    w: Float[Array, " k"],
    g: Float[Array, " k"],
    lam: Float[Array, ""],
    mu: Float[Array, ""],
    positive: Bool[Array, ""],
    length: Int[Array, ""],
    times: Int[Array, ""],
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """(w, g) after some sweeps over the first `length` coordinates; the objective never rises."""
    return _sweep(G, (jnp.arange(w.shape[0]), length), length * times, w, g, lam, mu, positive)


def _round(G: Any, w: Any, g: Any, lam: Any, mu: Any, positive: Any) -> tuple[Array, Array]:
    """One sweep over all coordinates, then a few over those that are not zero."""
    k = w.shape[0]
    w, g = _sweep(G, (jnp.arange(k), k), k, w, g, lam, mu, positive)
    size = jnp.sum(w != 0)
    support = jnp.nonzero(w, size=k, fill_value=0)[0]
    return _sweep(G, (support, size), SUPPORT_SWEEPS * size, w, g, lam, mu, positive)


def gap_from_gram(w: Any, g: Any, c: Any, yy: Any, lam: Any, mu: Any, positive: Any) -> Float[Array, ""]:
    """P(w) − D(s·r) for the best feasible multiple s of the residual, from Gram quantities alone."""
    rr, yr, ww = yy - w @ (c + g), yy - w @ c, w @ w
    q = g - mu * w
    top = jnp.where(positive, jnp.max(q), jnp.max(jnp.abs(q)))
    primal = rr / 2 + lam * jnp.sum(jnp.abs(w)) + mu * ww / 2
    norm = rr + mu * ww
    s = jnp.minimum(
        jnp.where(norm > 0, yr / jnp.where(norm > 0, norm, 1), 0),
        jnp.where(top > 0, lam / jnp.where(top > 0, top, 1), jnp.inf),
    )
    s = jnp.maximum(s, 0)
    return primal - (s * yr - s * s * norm / 2)


@jax.jit
def gram_path(
    G: Float[Array, "k k"],
    c: Float[Array, " k"],
    yy: Float[Array, ""],
    lams: Float[Array, " a"],
    mus: Float[Array, " a"],
    tol: Float[Array, ""],
    positive: Bool[Array, ""],
    rounds: Int[Array, ""],
) -> Float[Array, "a k"]:
    """Warm-started solutions for decreasing penalties, each until its gap is at most `tol` or its rounds are spent."""

    def one(state: Any, penalty: Any) -> Any:
        lam, mu = penalty

        def unfinished(s: Any) -> Any:
            return (s[2] > tol) & (s[3] < rounds)

        def step(s: Any) -> Any:
            w, g = _round(G, s[0], s[1], lam, mu, positive)
            return w, g, gap_from_gram(w, g, c, yy, lam, mu, positive), s[3] + 1

        w, g = state
        start = (w, g, gap_from_gram(w, g, c, yy, lam, mu, positive), jnp.zeros_like(rounds))
        w, g, _, _ = jax.lax.while_loop(unfinished, step, start)
        return (w, g), w

    return jax.lax.scan(one, (jnp.zeros_like(c), c), (lams, mus))[1]


@jax.jit
def gram_paths(
    G: Float[Array, "f k k"],
    c: Float[Array, "f k"],
    yy: Float[Array, " f"],
    lams: Float[Array, "f a"],
    mus: Float[Array, "f a"],
    tol: Float[Array, " f"],
    positive: Bool[Array, ""],
    rounds: Int[Array, ""],
) -> Float[Array, "f a k"]:
    """`gram_path` for every fold, in one program: one after another, since folds visit different coordinates."""

    def one(fold: Any) -> Array:
        return gram_path(*fold, positive, rounds)

    return jax.lax.map(one, (G, c, yy, lams, mus, tol))
