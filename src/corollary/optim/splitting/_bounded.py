"""Least squares and quadratic functions within bounds: projected Newton steps on the free variables.

A variable on a bound that the gradient pushes outwards is held; the others take the Newton step of the free block,
cut back onto the box, halved till the objective falls. Once the free set is right one step is exact: a handful of
Cholesky factorisations is all, O(n³) each, after O(m n²) for the Gram matrix. For least squares the gradient is taken
from the residual, not from the Gram matrix: each step then also refines the last one.
The gap: with g = P y + q, every feasible t has F(t) ≥ F(x) − ½‖x − y‖²_P − Σ_j max_t g_j(x_j − t_j).
Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints" (1982), section 2;
weak duality: Rockafellar (1970), theorem 31.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import norm
from corollary.optim.splitting import _bounded_host as host
from corollary.optim.splitting._programs import limits_of

SOURCE = "Fermat's rule on a box: Bertsekas (1982), section 2"
WEAK = "weak duality: Rockafellar, Convex Analysis (1970), theorem 31.2"
CLAIM = "‖gradient where no bound holds it‖ <= tol·(‖q‖ + ‖P x‖)"
TEXTS = (CLAIM, SOURCE, WEAK)
DEFINITE = "P positive semidefinite, up to rounding"


@follows_input
def box_qp(
    P: Any, q: Any, bounds: Any = (None, None), *, x0: Any = None, tol: Any = 1e-9, max_steps: int = 200
) -> Solution:
    """Minimise ½xᵀP x + qᵀx within bounds, by projected Newton steps.

    Use it for dense problems up to a few thousand variables. Cost: a few to some dozen Cholesky factorisations, O(n³)
    each. It can be jitted and vmapped.

    Parameters
    ----------
    P
        Symmetric positive semidefinite (n, n), dense.
    q
        Linear term (n,).
    bounds
        A tuple (lower, upper), numbers or arrays (n,), None for no limit; or a list of pairs, one per variable.
    x0
        Where to start; the feasible point nearest to the origin if left out.
    tol
        Relative to ‖q‖ + ‖P x‖: how large the gradient may be where no bound holds it.
    max_steps
        Limit of steps.

    Returns
    -------
    Solution
        ``value`` is x; ``stats`` holds ``objective``, ``gradient``, and ``free``, how many entries are off the bounds.

    Raises
    ------
    InputError
        For data that are not finite or do not fit, a P that is not symmetric (not looked at where it is traced), and a
        lower bound above its upper.

    Notes
    -----
    Certificates: ``stationarity`` (monitor); ``duality_gap`` (exact), F(x) − F* ≤ gap; it is infinite, and does not
    hold, where P is singular and a variable that it depends on is unbounded. It rests on P being positive
    semidefinite, which one more factorisation checks; where it is not, x is a stationary point, and the certificate
    does not hold. Source: Bertsekas (1982).

    Examples
    --------
    >>> box_qp([[2.0, 0.0], [0.0, 2.0]], [-2.0, -5.0], (0.0, 2.0)).value.round(6).tolist()
    [1.0, 2.0]
    """
    P, q = validation.matrix("P", P, host=True), validation.vector("q", q, host=True)
    if P.shape != (q.shape[0], q.shape[0]):
        raise InputError(f"P: found shape {P.shape}, expected ({q.shape[0]}, {q.shape[0]})")
    P = P.astype(q.dtype, copy=False) if isinstance(P, np.ndarray) else P.astype(q.dtype)
    if not isinstance(P, Tracer) and not (isinstance(P, np.ndarray) and np.array_equal(P, P.T)):
        skew, size = np.max(np.abs(P - P.T), initial=0.0), np.max(np.abs(P), initial=0.0)
        if skew > 1e3 * np.finfo(P.dtype).eps * size:
            raise InputError(f"P: found an entry that differs by {skew:.3g} from its mirror image, expected symmetry")
    lower, upper, start = _setting(q, q.shape[0], bounds, x0, tol, max_steps)
    if isinstance(start, np.ndarray) and isinstance(P, np.ndarray):
        scale = host.norm(q)

        def gradient(x):
            Px = P @ x
            return Px + q, scale + host.norm(Px)

        def objective(x, g):
            value = float((g + q) @ x / 2)
            return value, abs(value) + float(np.abs(q) @ np.abs(x))

        return host.solve(P, gradient, objective, lower, upper, start, tol, max_steps, True, TEXTS, DEFINITE)
    return _quadratic(P, q, lower, upper, start, jnp.asarray(tol).astype(q.dtype), max_steps)


@follows_input
def lsq_linear(
    A: Any, b: Any, bounds: Any = (None, None), *, x0: Any = None, tol: Any = 1e-9, max_steps: int = 200
) -> Solution:
    """Minimise ½‖A x − b‖² within bounds, by projected Newton steps on the Gram matrix.

    Use it for dense problems with up to a few thousand columns; beyond, `Fista` on ``Composite(LeastSquares(A, b),
    penalties.Box(lower, upper))`` needs products only. Cost O(m n²) once, then O(n³ + m n) a step. It can be jitted and
    vmapped.

    Parameters
    ----------
    A, b
        Matrix (m, n) and right-hand side (m,).
    bounds
        A tuple (lower, upper), numbers or arrays (n,), None for no limit; or a list of pairs, one per variable.
    x0
        Where to start; the feasible point nearest to the origin if left out.
    tol
        Relative to ‖Aᵀb‖: how large the gradient may be where no bound holds it.
    max_steps
        Limit of steps.

    Returns
    -------
    Solution
        ``value`` is x; ``stats`` holds ``objective`` (½‖A x − b‖²), ``gradient`` and ``free``.

    Raises
    ------
    InputError
        For data that are not finite or do not fit, and a lower bound above its upper.

    Notes
    -----
    Certificates: ``stationarity`` (monitor); ``duality_gap`` (exact) where A is not wide or all bounds are finite.
    Source: Bertsekas (1982).

    Examples
    --------
    >>> lsq_linear([[1.0, 0.0], [1.0, 1.0]], [3.0, 1.0], (0.0, 2.5)).value.round(6).tolist()
    [2.0, 0.0]
    """
    return _lsq_linear(A, b, bounds, x0, tol, max_steps)


@follows_input
def nnls(A: Any, b: Any, *, x0: Any = None, tol: Any = 1e-9, max_steps: int = 200) -> Solution:
    """Nonnegative least squares: minimise ½‖A x − b‖² subject to x ≥ 0; `lsq_linear` with bounds (0, None).

    Parameters
    ----------
    A, b
        Matrix (m, n) and right-hand side (m,).
    x0, tol, max_steps
        As in `lsq_linear`.

    Returns
    -------
    Solution
        As of `lsq_linear`.

    Examples
    --------
    >>> nnls([[1.0, 0.0], [1.0, 1.0]], [3.0, 1.0]).value.round(6).tolist()
    [2.0, 0.0]
    """
    return _lsq_linear(A, b, (0, None), x0, tol, max_steps)


def _lsq_linear(A: Any, b: Any, bounds: Any, x0: Any, tol: Any, max_steps: int) -> Solution:
    A, b = validation.matrix("A", A, host=True), validation.vector("b", b, host=True)
    if A.shape[0] != b.shape[0]:
        raise InputError(f"b: found {b.shape[0]} entries, expected {A.shape[0]} as A has rows")
    b = b.astype(A.dtype)
    lower, upper, start = _setting(A, A.shape[1], bounds, x0, tol, max_steps)
    finite = not isinstance(lower, Tracer) and bool(np.all(np.isfinite(lower) & np.isfinite(upper)))
    gap = A.shape[0] >= A.shape[1] or finite
    if isinstance(lower, np.ndarray) and isinstance(A, np.ndarray) and isinstance(b, np.ndarray):
        G, pull = A.T @ A, b @ A
        scale = host.norm(pull)

        def gradient(x):
            return (A @ x - b) @ A, scale + host.norm(x @ G)

        def objective(x, g):
            residual = A @ x - b
            return float(residual @ residual) / 2, float(b @ b) / 2

        return host.solve(G, gradient, objective, lower, upper, start, tol, max_steps, gap, TEXTS)
    return _least_squares(A, b, lower, upper, start, jnp.asarray(tol).astype(A.dtype), max_steps, gap)


def _setting(data: Any, n: int, bounds: Any, x0: Any, tol: Any, max_steps: Any) -> tuple[Any, Any, Any]:
    """Limits and a feasible start, in the data's precision: NumPy where the data and all settings are."""
    if not isinstance(tol, jax.Array):
        validation.number(0.0)("tol", tol)
    validation.integer(1)("max_steps", max_steps)
    start = np.zeros((n,)) if x0 is None else validation.vector("x0", x0, host=True)
    if start.shape != (n,):
        raise InputError(f"x0: found shape {start.shape}, expected ({n},)")
    on_host = isinstance(data, np.ndarray) and isinstance(start, np.ndarray) and not isinstance(tol, jax.Array)
    limits = limits_of(bounds, n)
    array = np if on_host and not any(isinstance(v, Tracer) for v in limits) else jnp
    lower, upper = (array.asarray(v).astype(data.dtype) for v in limits)
    return lower, upper, array.clip(array.asarray(start).astype(data.dtype), lower, upper)


@jax.jit
def _quadratic(P, q, lower, upper, x0, tol, max_steps) -> Solution:
    scale = norm(q)

    def gradient(x):
        Px = P @ x
        return Px + q, scale + norm(Px)

    x, g, size, steps, status = _newton(P, gradient, lower, upper, x0, tol, max_steps)
    objective = (g + q) @ x / 2
    gap = duality_gap(P, x, g, lower, upper)
    natural = jnp.abs(objective) + jnp.abs(q) @ jnp.abs(x)
    top = jnp.max(jnp.diagonal(P), initial=0.0)
    shifted = P + (16 * P.shape[0] * jnp.finfo(P.dtype).eps * top + jnp.finfo(P.dtype).tiny) * jnp.eye(
        *P.shape, dtype=P.dtype
    )
    definite = jnp.all(jnp.isfinite(jax.scipy.linalg.cho_factor(shifted, lower=True)[0]))
    assumptions = (Assumption(DEFINITE, checked=True, holds=definite),)
    return _solution(x, g, size, steps, status, objective, gap, natural, tol, lower, upper, assumptions)


def _least_squares_run(A, b, lower, upper, x0, tol, max_steps, with_gap) -> Solution:
    G, scale = A.T @ A, norm(b @ A)

    def gradient(x):
        return (A @ x - b) @ A, scale + norm(x @ G)

    x, g, size, steps, status = _newton(G, gradient, lower, upper, x0, tol, max_steps)
    objective = jnp.sum(jnp.square(A @ x - b)) / 2
    gap = duality_gap(G, x, g, lower, upper) if with_gap else None
    return _solution(x, g, size, steps, status, objective, gap, jnp.sum(jnp.square(b)) / 2, tol, lower, upper)


_least_squares = jax.jit(_least_squares_run, static_argnums=7)


def _solution(x, g, size, steps, status, objective, gap, natural, tol, lower, upper, assumptions=()) -> Solution:
    free = (x > lower) & (x < upper)
    measured = norm(_projected(x, g, lower, upper))
    certificates = {"stationarity": Certificate(CLAIM, measured, tol * size + rounding(size, 16.0), "monitor", SOURCE)}
    if gap is not None:
        bound = jnp.maximum(tol, jnp.sqrt(jnp.finfo(x.dtype).eps)) * natural
        claim = "F(x) − F* <= duality gap"
        certificates["duality_gap"] = Certificate(claim, gap, bound, "exact", WEAK, assumptions=assumptions)
    stats = {"objective": objective, "gradient": g, "free": jnp.sum(free)}
    return Solution(x, certificates, status, steps, stats)


def _projected(x, g, lower, upper):
    """The gradient, less what the bounds take up."""
    g = jnp.where(x <= lower, jnp.minimum(g, 0), g)
    return jnp.where(x >= upper, jnp.maximum(g, 0), g)


def _newton(
    P: Float[Array, "n n"],
    gradient: Callable[[Array], tuple[Array, Array]],
    lower: Array,
    upper: Array,
    x0: Array,
    tol,
    max_steps,
):
    """Projected Newton steps till the projected gradient is within tol: x, its gradient, scale, steps, status."""
    n = x0.shape[0]
    diagonal = jnp.diagonal(P)
    top = jnp.max(diagonal, initial=0.0)
    # Without curvature: a step as long as the widest side of the box.
    wide = jnp.max(jnp.where(jnp.isfinite(upper - lower), upper - lower, 0), initial=0.0)
    slope = norm(gradient(x0)[0])
    flat = jnp.where((wide > 0) & (slope > 0), slope / jnp.where(wide > 0, wide, 1), 1.0)
    top = jnp.where(top > 0, top, jnp.where(flat > 0, flat, 1.0))
    ridge = n * jnp.finfo(P.dtype).eps * top

    def direction(x, g):
        push = _projected(x, g, lower, upper)
        free = ~(((x <= lower) & (g > 0)) | ((x >= upper) & (g < 0)))
        H = jnp.where(free[:, None] & free, P, 0)
        H = H + jnp.diag(jnp.where(free, ridge, 1.0))
        d = -jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(H, lower=True), push)
        usable = jnp.all(jnp.isfinite(d)) & (push @ d < 0)
        return jnp.where(usable, d, -push / jnp.maximum(top * n, ridge))

    def change(x, g, step):
        new = jnp.clip(x + step, lower, upper)
        s = new - x
        return new, g @ s + s @ (P @ s) / 2, g @ s

    def body(carry):
        x, g, size, k, _, _ = carry
        d = direction(x, g)

        def too_long(trial):
            _, (_, fall, slope), count = trial
            # NaN counts as too long.
            return ~(fall <= 1e-4 * slope) & (count < host.HALVINGS)

        def halve(trial):
            t = trial[0] / 2
            return t, change(x, g, t * d), trial[2] + 1

        _, (new, fall, _), tried = jax.lax.while_loop(
            too_long, halve, (jnp.ones_like(size), change(x, g, d), jnp.int32(0))
        )
        moved = (fall < 0) & (tried < host.HALVINGS)
        new = jnp.where(moved, new, x)
        g, size = gradient(new)
        done = norm(_projected(new, g, lower, upper)) <= tol * size
        return new, g, size, k + 1, done, ~moved & ~done

    g, size = gradient(x0)
    done = norm(_projected(x0, g, lower, upper)) <= tol * size
    carry = jax.lax.while_loop(
        lambda c: (c[3] < max_steps) & ~c[4] & ~c[5], body, (x0, g, size, jnp.int32(0), done, jnp.array(False))
    )
    x, g, size, steps, done, stuck = carry
    # Stuck at rounding level is as good as it gets; stuck above it is not success.
    at_rounding = norm(_projected(x, g, lower, upper)) <= tol * size + rounding(size, 16.0)
    status = Status.of(done | at_rounding, jnp.all(jnp.isfinite(x)))
    status = jnp.where(stuck & ~at_rounding, Status.PRECISION, status).astype(jnp.int32)
    return x, g, size, steps, status


def duality_gap(P: Array, x: Array, g: Array, lower: Array, upper: Array) -> Float[Array, ""]:
    """F(x) − D(y), with y = x + d the point near x whose gradient every infinite bound allows."""
    no_low, no_high = jnp.isneginf(lower), jnp.isposinf(upper)
    size = jnp.abs(P) @ jnp.abs(x) + jnp.abs(g)
    margin = 16 * jnp.finfo(g.dtype).eps * size
    wanted = jnp.where(no_high, jnp.maximum(g, jnp.where(no_low, 0, margin)), g)
    wanted = jnp.where(no_low, jnp.minimum(wanted, jnp.where(no_high, 0, -margin)), wanted)
    r = wanted - g
    needed = jnp.any(r != 0)
    factor = jax.scipy.linalg.cho_factor(P, lower=True)
    d = jnp.where(needed, jax.scipy.linalg.cho_solve(factor, r), 0)
    Pd = P @ d
    after = g + Pd
    # A variable without bounds needs a gradient of zero exactly: what is left is rounding, and is allowed for.
    after = jnp.where(no_low & no_high & (jnp.abs(after) <= margin), 0, after)
    down, up = jnp.maximum(after, 0), jnp.minimum(after, 0)
    terms = jnp.where(down > 0, down * (x - lower), 0) + jnp.where(up < 0, up * (x - upper), 0)
    gap = jnp.abs(d @ Pd) / 2 + jnp.sum(terms) + rounding(norm(x) * norm(jnp.abs(g) + jnp.abs(Pd)))
    return jnp.where(jnp.isnan(gap), jnp.inf, gap)
