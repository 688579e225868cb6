"""The Lasso in pure JAX: FISTA with restarts, stopped by the exact duality gap; to be jitted, vmapped and
differentiated.

For traced, sharded and accelerator arrays. Each step costs two products with X; the gap is checked every tenth step.
The derivative is that of the optimality conditions on the support A: with s = sign(w_A),
    X_Aᵀ(X_A w_A − y) + λ s + μ w_A = 0,
differentiated implicitly, one solve by conjugate gradients. Source: Beck and Teboulle (2009); O'Donoghue and Candès
(2015) for the restarts; Bertrand et al. (2020) for the implicit derivative.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.precision import common_float
from corollary.core.solution import Note, Solution, Status

CHECK = 10


def centred(X: Any, y: Any, sample_weight: Any, fit_intercept: bool) -> tuple[Array, ...]:
    """(X̃, Ỹ, x̄, ȳ) with rows times √s, weights of mean one."""
    X = validation.matrix("X", X)
    Y = validation.vector_or_matrix("y", y)
    validation.same_length("X", X, "y", Y)
    X, Y = common_float(X, Y)
    Y = Y.reshape(len(Y), -1)
    s = jnp.ones(len(X), X.dtype)
    if sample_weight is not None:
        s = validation.vector("sample_weight", sample_weight).astype(X.dtype)
        validation.same_length("X", X, "sample_weight", s)
        s = s / jnp.mean(s)
    zero = jnp.zeros((), X.dtype)
    x_mean = s @ X / len(X) if fit_intercept else zero * X[0]
    y_mean = s @ Y / len(X) if fit_intercept else zero * Y[0]
    root = jnp.sqrt(s)[:, None]
    return root * (X - x_mean), root * (Y - y_mean), x_mean, y_mean


def alpha_max(X: Any, y: Any, l1_ratio: Any, sample_weight: Any, fit_intercept: bool, positive: bool) -> Array:
    """‖X̃ᵀỹ‖_∞ / (n l1_ratio)."""
    X, Y, _, _ = centred(X, y, sample_weight, fit_intercept)
    c = X.T @ Y
    return jnp.maximum(jnp.max(c if positive else jnp.abs(c)), 0) / (len(X) * l1_ratio)


def fit(
    X: Any,
    y: Any,
    alpha: Any,
    l1_ratio: Any,
    sample_weight: Any,
    fit_intercept: bool,
    positive: bool,
    tol: Any,
    max_steps: int,
    init: Any,
) -> Solution:
    """The `Solution` of `lasso`, as JAX arrays."""
    from corollary.linear._lasso import LassoFit

    X, Y, x_mean, y_mean = centred(X, y, sample_weight, fit_intercept)
    alpha, l1_ratio, tol = (jnp.asarray(a, X.dtype) for a in (alpha, l1_ratio, tol))
    start = jnp.zeros((X.shape[1], Y.shape[1]), X.dtype) if init is None else jnp.asarray(init, X.dtype)
    start = start.reshape(X.shape[1], -1)
    W, intercept, numbers = _solve(X, Y, x_mean, y_mean, alpha, l1_ratio, tol, start, bool(positive), max_steps)
    if jnp.ndim(y) == 1:
        W, intercept = W[:, 0], intercept[0]
        numbers = {k: v[0] for k, v in numbers.items()}
    claim = "F(w) - F* <= duality gap <= tol |y|^2 / n"
    certificates = {
        "duality_gap": Certificate(
            claim, numbers["gap"], numbers["bound"], "exact", "Fercoq, Gramfort & Salmon (2015), eqs. 2-6"
        ),
        "kkt": Certificate(
            "largest coordinate step sqrt(L_j) |w_j - argmin_j| <= sqrt(2 tol |y|^2 / n)",
            numbers["kkt"],
            numbers["kkt_bound"],
            "exact",
            "a step lowers F by at least L_j step^2 / 2",
        ),
    }
    stats = {"solver": Note("FISTA with restarts: the data are traced, sharded or on an accelerator")}
    return Solution(LassoFit(W, intercept, alpha, l1_ratio), certificates, numbers["status"], numbers["steps"], stats)


@functools.partial(jax.jit, static_argnums=(8, 9))
def _solve(
    X: Float[Array, "n p"],
    Y: Float[Array, "n k"],
    x_mean: Float[Array, " p"],
    y_mean: Float[Array, " k"],
    alpha: Float[Array, ""],
    l1_ratio: Float[Array, ""],
    tol: Float[Array, ""],
    start: Float[Array, "p k"],
    positive: bool,
    max_steps: int,
) -> tuple[Float[Array, "p k"], Float[Array, " k"], dict[str, Array]]:
    """Coefficients, intercepts, and the numbers of the certificates, target by target."""
    n = len(X)
    lam, mu = n * alpha * l1_ratio, n * alpha * (1 - l1_ratio)

    def one(t: Array, w: Array) -> tuple[Array, Array]:
        return _fista(positive, max_steps, X, t, lam, mu, w, tol)

    W, steps = jax.vmap(one, in_axes=1, out_axes=(1, 0))(Y, start)
    X_, Y_, W_, lam_, mu_ = jax.lax.stop_gradient((X, Y, W, lam, mu))
    gap, kkt = jax.vmap(lambda t, w: _quality(X_, t, w, lam_, mu_, positive), in_axes=1)(Y_, W_)
    yy, eps = jnp.sum(Y_**2, axis=0), jnp.finfo(X.dtype).eps
    reach = jnp.sqrt(jnp.sum(X_**2, axis=0)) @ jnp.abs(W_)
    bound = tol * yy + 16 * eps * jnp.sqrt(yy) * (jnp.sqrt(yy) + reach)
    numbers = {
        "gap": gap / n,
        "bound": bound / n,
        "kkt": kkt / jnp.sqrt(n),
        "kkt_bound": jnp.sqrt(2 * bound / n) + 16 * eps * jnp.sqrt(yy / n),
        "status": Status.of(gap <= bound, jnp.isfinite(gap)),
        "steps": steps.astype(jnp.int32),
    }
    return W, y_mean - x_mean @ W, numbers


def _prox(z: Array, level: Array, positive: bool) -> Array:
    return jnp.maximum(z - level, 0) if positive else jnp.sign(z) * jnp.maximum(jnp.abs(z) - level, 0)


def _quality(X: Any, y: Any, w: Any, lam: Any, mu: Any, positive: bool) -> tuple[Array, Array]:
    """Duality gap and coordinate residual of w, in the units of ½‖r‖²."""
    r = y - X @ w
    corr = X.T @ r
    q = corr - mu * w
    top = jnp.maximum(jnp.max(q if positive else jnp.abs(q)), 0)
    norm, yr = r @ r + mu * (w @ w), y @ r
    s = jnp.maximum(jnp.where(norm > 0, yr / jnp.where(norm > 0, norm, 1), 0), 0)
    s = jnp.minimum(s, jnp.where(top > 0, lam / jnp.where(top > 0, top, 1), jnp.inf))
    excess = jnp.maximum((corr if positive else jnp.abs(corr)) - lam, 0)
    unscaled = yr - r @ r / 2 - jnp.where(mu > 0, excess @ excess / jnp.where(mu > 0, 2 * mu, 1), jnp.inf)
    primal = norm / 2 + lam * jnp.sum(jnp.abs(w))
    gap = primal - jnp.maximum(jnp.maximum(s * yr - s * s * norm / 2, unscaled), 0)
    curvature = jnp.sum(X**2, axis=0)
    L = jnp.where(curvature > 0, curvature + mu, 1)
    steps = jnp.where(curvature > 0, w - _prox(curvature * w + corr, lam, positive) / L, w)
    return jnp.maximum(gap, 0), jnp.max(jnp.sqrt(L) * jnp.abs(steps))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fista(
    positive: bool,
    max_steps: int,
    X: Float[Array, "n p"],
    y: Float[Array, " n"],
    lam: Float[Array, ""],
    mu: Float[Array, ""],
    w0: Float[Array, " p"],
    tol: Float[Array, ""],
) -> tuple[Float[Array, " p"], Float[Array, ""]]:
    """(w, steps taken)."""
    L = _largest_eigenvalue(X) + mu
    step = jnp.where(L > 0, 1 / jnp.where(L > 0, L, 1), 0)
    goal = tol * (y @ y)

    def unfinished(state: Any) -> Bool[Array, ""]:
        return (state[3] > goal) & (state[4] < max_steps) & jnp.isfinite(state[3])

    def one(state: Any) -> Any:
        w, v, t, gap, k = state
        new = _prox(v + step * (X.T @ (y - X @ v) - mu * v), step * lam, positive)
        uphill = (v - new) @ (new - w) > 0  # the momentum points away: restart it
        t_new = jnp.where(uphill, 1, (1 + jnp.sqrt(1 + 4 * t * t)) / 2)
        v = jnp.where(uphill, new, new + (t - 1) / t_new * (new - w))
        k = k + 1
        gap = jax.lax.cond(k % CHECK == 0, lambda: _quality(X, y, new, lam, mu, positive)[0], lambda: gap)
        return new, v, t_new, gap, k

    first = _quality(X, y, w0, lam, mu, positive)[0]
    start = (w0, w0, jnp.ones((), X.dtype), first, jnp.zeros((), jnp.int32))
    w, _, _, _, k = jax.lax.while_loop(unfinished, one, start)
    return w, k.astype(X.dtype)


@_fista.defjvp
def _implicit(positive: bool, max_steps: int, primals: Any, tangents: Any) -> Any:
    X, y, _, mu, _, _ = primals
    dX, dy, dlam, dmu, _, _ = tangents
    w, steps = _fista(positive, max_steps, *primals)
    support = (w != 0).astype(w.dtype)
    change = dX.T @ (y - X @ w) + X.T @ (dy - dX @ w) - dlam * jnp.sign(w) - dmu * w

    def curvature(v: Array) -> Array:
        return support * (X.T @ (X @ (support * v)) + mu * v) + (1 - support) * v

    tol = float(jnp.finfo(w.dtype).eps) ** 0.75

    def solve(A: Any, b: Array) -> Array:
        return jax.scipy.sparse.linalg.cg(A, b, tol=tol, maxiter=4 * len(w))[0]

    dw = jax.lax.custom_linear_solve(curvature, support * change, solve, symmetric=True)
    return (w, steps), (dw, jnp.zeros_like(steps))


def _largest_eigenvalue(X: Float[Array, "n p"]) -> Float[Array, ""]:
    """A nearly tight upper bound of ‖X‖²: ‖(XᵀX)^16‖^(1/16) in the sup norm, by squaring the smaller Gram matrix."""
    n, p = X.shape
    G = X @ X.T if n < p else X.T @ X
    scale = jnp.max(jnp.sum(jnp.abs(G), axis=1))
    M = G / jnp.where(scale > 0, scale, 1)
    log = jnp.zeros((), X.dtype)
    for i in range(1, 5):
        M = M @ M
        top = jnp.max(jnp.sum(jnp.abs(M), axis=1))
        safe = jnp.where(top > 0, top, 1)
        M, log = M / safe, log + jnp.log(safe) / 2**i
    return scale * jnp.exp(log)
