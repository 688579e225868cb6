"""Limits, one-sided derivatives and the symmetry of mixed partials at one point, by extrapolated differences.

Use it to find out what a function does at a suspicious point (a kink, a removable hole, a formula with a case split)
where automatic differentiation answers confidently and wrongly. It only evaluates f near the point: O(d²) evaluations.
The verdict is numerical: it compares differences with their own extrapolation error.

Source: Richardson's deferred approach to the limit (Neville's tableau); Rockafellar, Convex Analysis (1970), Theorem
23.4 for the subdifferential of a convex function; Clairaut's theorem and Peano's counter-example.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.precision import as_float, follows_input

Verdict = Literal["not continuous", "continuous", "differentiable", "C2"]
LEVELS = 9


class Smoothness(eqx.Module):
    """What a function does at one point of R^d, coordinate by coordinate.

    Parameters
    ----------
    value
        f(x0): NaN where f has a hole there.
    left_limit, right_limit
        lim f(x0 ∓ h e_i) as h falls to 0.
    left_derivative, right_derivative
        One-sided partial derivatives. For convex f of one variable their interval is the subdifferential.
    hessian
        Second differences D_j D_i f with the inner difference (along i) taken first.
    asymmetry
        max\\|H − Hᵀ\\|: zero where f is C² (Clairaut).
    verdict
        ``"not continuous"``, ``"continuous"``, ``"differentiable"`` or ``"C2"``: the strongest that the numbers allow.
    """

    value: Any
    left_limit: Any
    right_limit: Any
    left_derivative: Any
    right_derivative: Any
    hessian: Any
    asymmetry: Any
    verdict: Verdict = eqx.field(static=True)


@follows_input
def limit(g: Callable[[Any], Any], *, start: float = 0.125) -> Float[Array, "2 ..."]:
    """lim g(h) as h falls to 0, with an error estimate, by Richardson extrapolation in powers of h.

    Parameters
    ----------
    g
        A function of a positive scalar h, never called at 0; a NumPy or JAX expression.
    start
        The largest h; it is halved eight times.

    Returns
    -------
    Array
        The limit and its error estimate, stacked along the first axis.

    Examples
    --------
    >>> import numpy as np
    >>> np.round(limit(lambda h: np.sin(h) / h)[0], 9).item()
    1.0
    """
    validation.number(0, open_low=True)("start", start)
    value, error = _extrapolate(jnp.stack([jnp.asarray(g(start * 0.5**k)) for k in range(LEVELS)]))
    return jnp.stack([value, error])


@follows_input
def smoothness(f: Callable[[Any], Any], x0: Any, *, start: float = 0.125) -> Smoothness:
    """One-sided limits and derivatives of f at x0, the asymmetry of its mixed partials, and the verdict.

    Parameters
    ----------
    f
        A scalar function of a vector of shape (d,), or of a scalar where `x0` is one; traceable by JAX.
    x0
        The point: a scalar or shape (d,).
    start
        The largest step, relative to max(1, ‖x0‖∞).

    Returns
    -------
    Smoothness
        For d = 1 the arrays are scalars.

    Examples
    --------
    >>> import numpy as np
    >>> kink = smoothness(lambda x: abs(x), 0.0)
    >>> kink.verdict, round(float(kink.left_derivative), 6), round(float(kink.right_derivative), 6)
    ('continuous', -1.0, 1.0)
    """
    x0 = as_float(x0)
    scalar = x0.ndim == 0
    x = validation.vector("x0", jnp.atleast_1d(x0))
    unit = jnp.eye(x.size, dtype=x.dtype)
    start = start * float(jnp.maximum(1, jnp.max(jnp.abs(x))))

    def at(point: Array) -> Array:
        return jnp.asarray(f(point[0] if scalar else point)).astype(x.dtype)

    def stacked(g: Callable[[float], Array]) -> tuple[Array, Array]:
        return _extrapolate(jnp.stack([g(start * 0.5**k) for k in range(LEVELS)]))

    value = at(x)
    right, e_right = stacked(lambda h: jax.vmap(at)(x + h * unit))
    left, e_left = stacked(lambda h: jax.vmap(at)(x - h * unit))
    d_right, ed_right = stacked(lambda h: (jax.vmap(at)(x + h * unit) - right) / h)
    d_left, ed_left = stacked(lambda h: (left - jax.vmap(at)(x - h * unit)) / h)

    def mixed(side: float) -> Callable[[float], Array]:
        def differences(h: float) -> Array:
            inner = h * 2.0**-11  # much shorter than the outer step: the inner limit is taken first

            def slope(i: Array, point: Array) -> Array:
                return (at(point + inner * i) - at(point - inner * i)) / (2 * inner)

            def second(i: Array, j: Array) -> Array:
                return side * (slope(i, x + side * h * j) - slope(i, x)) / h

            return jax.vmap(lambda i: jax.vmap(lambda j: second(i, j))(unit))(unit)

        return differences

    hessian, e_hessian = stacked(mixed(1.0))
    hessian_left, eh_left = stacked(mixed(-1.0))
    asymmetry = jnp.max(jnp.abs(hessian - hessian.T))

    # The rounding of a second difference, u|f|/(h·inner), is part of what the tableau cannot see.
    u, size = float(jnp.finfo(x.dtype).eps), 1 + jnp.abs(jnp.nan_to_num(value))
    slack1, slack2 = size * u ** (1 / 3), size * u ** (1 / 5)

    def close(a: Array, b: Array, *errors: Array, slack: Array) -> bool:
        return bool(jnp.all(jnp.abs(a - b) <= slack + 10 * sum(errors)))  # a NaN is never close

    verdict: Verdict = "not continuous"
    if close(right, value, e_right, slack=slack1) and close(left, value, e_left, slack=slack1):
        verdict = "continuous"
        if close(d_right, d_left, ed_right, ed_left, slack=slack1):
            verdict = "differentiable"
            same = close(hessian, hessian_left, e_hessian, eh_left, slack=slack2)
            if same and close(hessian, hessian.T, e_hessian, slack=slack2):
                verdict = "C2"
    if scalar:
        left, right, d_left, d_right, hessian = (jnp.reshape(a, ()) for a in (left, right, d_left, d_right, hessian))
    return Smoothness(value, left, right, d_left, d_right, hessian, asymmetry, verdict)


def _extrapolate(values: Float[Array, "levels ..."]) -> tuple[Array, Array]:
    """Neville's tableau at h = 0 for h halving; per entry, the diagonal with the smallest estimated error."""
    best, best_error = values[-1], jnp.abs(values[-1] - values[-2])
    column = values
    for k in range(1, values.shape[0]):
        nxt = column[1:] + (column[1:] - column[:-1]) / (2.0**k - 1)
        errors = jnp.maximum(jnp.abs(nxt - column[1:]), jnp.abs(nxt - column[:-1]))
        where = jnp.argmin(jnp.nan_to_num(errors, nan=jnp.inf), axis=0)
        error = jnp.take_along_axis(errors, where[None], axis=0)[0]
        candidate = jnp.take_along_axis(nxt, where[None], axis=0)[0]
        better = error < best_error
        best, best_error = jnp.where(better, candidate, best), jnp.where(better, error, best_error)
        column = nxt
    return best, best_error
