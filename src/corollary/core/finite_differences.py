"""Finite-difference gradients with error-optimal steps, and a gradient checker.

Use them where there is no derivative to be had (a simulator), or to check one that somebody wrote by hand. Forward
differences cost d + 1 evaluations and err by O(√u), central ones 2d and O(u^(2/3)), complex steps d and O(u) but need a
function that is analytic in its argument. Any pytree is a valid argument.

Source: Nocedal & Wright, Numerical Optimization (2006), §8.1; Squire & Trapp (1998) for the complex step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import as_float, follows_input


class Differences(eqx.Module):
    """A finite-difference gradient.

    Parameters
    ----------
    gradient
        Same structure as the argument.
    evaluations
        Calls of the function: d + 1 (forward), 2d (central), d (complex).
    steps
        The step taken along each coordinate, flattened.
    """

    gradient: PyTree
    evaluations: int = eqx.field(static=True)
    steps: Float[Array, " d"]


class GradientCheck(eqx.Module):
    """How far a gradient is from finite differences.

    Parameters
    ----------
    error
        Largest \\|g − g_fd\\| over the coordinates, relative to the gradient's largest entry.
    coordinate
        Where it occurs, in the flattened argument.
    tolerance
        What rounding and truncation of the scheme explain: 10 u^(1/2) forward, 10 u^(2/3) central, 100 u complex,
        each amplified by the cancellation of the function's own value.
    """

    error: Float[Array, ""]
    coordinate: Int[Array, ""]
    tolerance: Float[Array, ""]

    @property
    def passed(self) -> Any:
        """Whether the error is within the tolerance."""
        return self.error <= self.tolerance


@follows_input
def finite_difference(
    f: Callable[..., Any], x: PyTree, *, scheme: str = "central", step: float | None = None
) -> Differences:
    """Gradient of a scalar function by differences along each coordinate.

    Parameters
    ----------
    f
        A scalar function of `x`, traceable by JAX.
    x
        Any pytree of floats.
    scheme
        ``"forward"``, ``"central"`` or ``"complex"``.
    step
        Relative step: the coordinate x_i moves by ``step·max(1, |x_i|)``. Default: √u forward, u^(1/3) central (which
        balance truncation against rounding), u² complex.

    Returns
    -------
    Differences
        Gradient, evaluation count and steps. Exact on linear functions up to rounding.

    Examples
    --------
    >>> import numpy as np
    >>> np.round(finite_difference(lambda x: x[0] ** 2 * x[1], np.array([3.0, 2.0])).gradient, 6).tolist()
    [12.0, 9.0]
    """
    validation.one_of("forward", "central", "complex")("scheme", scheme)
    validation.number(0, open_low=True, none=True)("step", step)
    flat, unravel = ravel_pytree(jax.tree.map(as_float, x))
    d, u = flat.size, 0.5 * float(jnp.finfo(flat.dtype).eps)
    default = {"forward": u ** (1 / 2), "central": u ** (1 / 3), "complex": u**2}[scheme]
    size = jnp.maximum(1, jnp.abs(flat)) * (default if step is None else step)
    h = size if scheme == "complex" else (flat + size) - flat  # a step that the sum represents exactly

    def along(points: Array) -> Array:
        return jax.vmap(lambda row: _scalar(f, unravel(row)))(points)

    match scheme:
        case "forward":
            values = along(jnp.vstack([flat, flat + jnp.diag(h)]))
            gradient, count = (values[1:] - values[0]) / h, d + 1
        case "central":
            values = along(jnp.vstack([flat + jnp.diag(h), flat - jnp.diag(h)]))
            gradient, count = (values[:d] - values[d:]) / (2 * h), 2 * d
        case _:
            gradient, count = _complex_step(f, flat, unravel, h), d
    return Differences(unravel(gradient), count, h)


@follows_input
def check_gradient(
    f: Callable[..., Any], x: PyTree, gradient: PyTree | None = None, *, scheme: str = "central"
) -> GradientCheck:
    """Compare a gradient (``jax.grad`` where none is given) with finite differences.

    Parameters
    ----------
    f
        A scalar function of `x`, traceable by JAX.
    x
        Any pytree of floats.
    gradient
        What to check: of the structure of `x`, or a function of `x` that returns it.
    scheme
        As in `finite_difference`.

    Returns
    -------
    GradientCheck
        The largest relative error, its coordinate, and whether the scheme's own error explains it.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([1.0, 2.0])
    >>> bool(check_gradient(lambda x: (x**3).sum(), x).passed)
    True
    >>> int(check_gradient(lambda x: (x**3).sum(), x, np.array([3.0, 12.12])).coordinate)
    1
    """
    x = jax.tree.map(as_float, x)
    if gradient is None:
        gradient = jax.grad(lambda point: _scalar(f, point))(x)
    elif callable(gradient):
        gradient = gradient(x)
    if jax.tree.structure(gradient) != jax.tree.structure(x):
        raise InputError(f"gradient: found structure {jax.tree.structure(gradient)}, expected {jax.tree.structure(x)}")
    by_differences = finite_difference(f, x, scheme=scheme)
    claimed, _ = ravel_pytree(jax.tree.map(lambda g, v: as_float(g).astype(v.dtype), gradient, x))
    found, _ = ravel_pytree(by_differences.gradient)
    if claimed.shape != found.shape:
        raise InputError(f"gradient: found {claimed.size} entries, expected {found.size} as in x")
    u = 0.5 * float(jnp.finfo(found.dtype).eps)
    scale = jnp.maximum(jnp.max(jnp.abs(found)), jnp.finfo(found.dtype).tiny)
    errors = jnp.abs(claimed - found) / scale
    cancellation = 1 + jnp.abs(_scalar(f, x)) / scale  # |f| u / h is the rounding error of a difference
    base = {"forward": 10 * u ** (1 / 2), "central": 10 * u ** (2 / 3), "complex": 100 * u}[scheme]
    return GradientCheck(jnp.max(errors), jnp.argmax(errors), base * cancellation)


def _scalar(f: Callable[..., Any], x: PyTree) -> Array:
    value = jnp.asarray(f(x))
    if value.ndim:
        raise InputError(f"f: returned an array of shape {value.shape}, expected a scalar")
    return value


def _complex_step(f: Callable[..., Any], flat: Array, unravel: Callable[[Array], PyTree], h: Array) -> Array:
    """Im f(x + i h e_j) / h: no subtraction, hence no cancellation."""
    parts = jax.tree.leaves(unravel(flat))
    treedef = jax.tree.structure(unravel(flat))
    bounds = [0]
    for part in parts:
        bounds.append(bounds[-1] + part.size)

    def value(point: Array) -> Array:
        pieces = [point[a:b].reshape(p.shape) for p, a, b in zip(parts, bounds, bounds[1:], strict=False)]
        return _scalar(f, jax.tree.unflatten(treedef, pieces))

    points = jax.lax.complex(jnp.broadcast_to(flat, (flat.size, flat.size)), jnp.diag(h))
    return jax.vmap(value)(points).imag / h
