"""Is an operator on a grid a convolution? Tests of linearity and shift invariance, and the kernel from a unit impulse.

Every linear operator on a finite periodic grid that commutes with all shifts is the circular convolution with its
response to δ_0. Linearity and shifts are tested on random inputs: what fails is refuted, what passes is only likely,
except that a kernel found reproduces the operator on the inputs tried. (On an infinite or continuous domain continuity
is needed too, and the kernel may be a distribution.) Cost: a few calls of the operator and FFTs, O(n log n).
Source: Oppenheim & Schafer, "Discrete-time signal processing" (2010), section 2.3; Bronstein, Bruna, Cohen &
Veličković, "Geometric deep learning" (2021), section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution, Status
from corollary.optim._tree import norm


def impulse_response(
    operator: Callable[[Array], Array],
    shape: Sequence[int],
    *,
    trials: int = 8,
    tol: Any = None,
    dtype: Any = None,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """The response to a unit impulse, and whether convolution with it is the operator.

    Parameters
    ----------
    operator
        From an array of `shape` to one of the same shape.
    shape
        Of the periodic grid.
    trials
        Random inputs, each with random coefficients and one step along each axis, which generate all shifts.
    tol
        Largest relative defect that passes: √eps by default.
    dtype
        Precision of the inputs (default: JAX's).
    key
        ``jax.random.key(0)`` by default.

    Returns
    -------
    Solution
        ``value``: the kernel. Certificates (monitor): ``"linearity"``, ``"shift"``, and ``"convolution"``, the largest
        relative difference between the operator and the circular convolution, which rests on the first two.
        The status is converged where all three pass.

    Raises
    ------
    InputError
        Where the operator changes the shape, or settings are out of range.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> found = impulse_response(lambda x: 2 * x - jnp.roll(x, 1), (6,))
    >>> found.value.tolist(), bool(found.converged)
    ([2.0, -1.0, 0.0, 0.0, 0.0, 0.0], True)
    >>> bool(impulse_response(lambda x: x * jnp.arange(6.0), (6,)).converged)  # depends on the place
    False
    """
    validation.integer(1)("trials", trials)
    for n in shape:
        validation.integer(1)("shape", n)
    if tol is not None and not isinstance(tol, jax.Array):
        validation.number(0, open_low=True)("tol", tol)
    grid = tuple(shape)
    dtype = jnp.zeros(()).dtype if dtype is None else jnp.dtype(dtype)
    delta = jnp.zeros(grid, dtype).at[(0,) * len(grid)].set(1)
    kernel = operator(delta)
    if kernel.shape != grid:
        raise InputError(f"operator: found an output of shape {kernel.shape}, expected {grid}")
    limit = jnp.asarray(jnp.sqrt(jnp.finfo(dtype).eps) if tol is None else tol, dtype)
    draws = jax.random.split(jax.random.key(0) if key is None else key, trials)
    linear, shift, same = (jnp.max(d) for d in jax.lax.map(lambda k: _defects(operator, kernel, grid, k), draws))

    def monitor(claim: str, measured: Any, assumptions: tuple[Assumption, ...] = ()) -> Certificate:
        return Certificate(claim, measured=measured, bound=limit, kind="monitor", assumptions=assumptions)

    rests = (
        Assumption("linear on the inputs tried", checked=True, holds=linear <= limit),
        Assumption("commutes with the shifts tried", checked=True, holds=shift <= limit),
    )
    certificates = {
        "linearity": monitor("‖T(ax + by) − aTx − bTy‖ <= tol·(|a|‖Tx‖ + |b|‖Ty‖ + ‖T(ax + by)‖)", linear),
        "shift": monitor("‖T(shift x) − shift T x‖ <= tol·(‖T x‖ + ‖T shift x‖)", shift),
        "convolution": monitor("‖T x − kernel ∗ x‖ <= tol·(‖T x‖ + ‖kernel ∗ x‖)", same, rests),
    }
    passed = (linear <= limit) & (shift <= limit) & (same <= limit)
    finite = jnp.all(jnp.isfinite(kernel)) & jnp.isfinite(linear + shift + same)
    return Solution(kernel, certificates, Status.of(passed, finite), trials)


def _defects(operator: Any, kernel: Array, grid: tuple[int, ...], key: Any) -> tuple[Array, Array, Array]:
    """Relative defects of linearity, of shifts, and of convolution with the kernel, on one draw."""
    left, right, scales = jax.random.split(key, 3)
    x, y = jax.random.normal(left, grid, kernel.dtype), jax.random.normal(right, grid, kernel.dtype)
    a, b = jax.random.normal(scales, (2,), kernel.dtype)
    tx, ty = operator(x), operator(y)
    mixed = operator(a * x + b * y)
    linear = _ratio(mixed - a * tx - b * ty, jnp.abs(a) * norm(tx) + jnp.abs(b) * norm(ty) + norm(mixed))
    shift = jnp.zeros((), kernel.dtype)
    for axis in range(len(grid)):  # one step along each axis: these generate all shifts
        moved = operator(jnp.roll(x, 1, axis))
        shift = jnp.maximum(shift, _ratio(moved - jnp.roll(tx, 1, axis), norm(tx) + norm(moved)))
    circular = jnp.fft.irfftn(jnp.fft.rfftn(x) * jnp.fft.rfftn(kernel), grid).astype(kernel.dtype)
    return linear, shift, _ratio(tx - circular, norm(tx) + norm(circular))


def _ratio(x: Array, scale: Array) -> Array:
    """‖x‖/scale without overflow; 0 where both vanish."""
    return jnp.where(scale > 0, norm(x) / jnp.where(scale > 0, scale, 1), norm(x))
