"""Is a layer equivariant, or invariant, under a group? A measured answer on samples, with the worst case.

Equivariance is f(gx) = g f(x): shifting the input shifts the output (a convolution), permuting tokens permutes the
outputs (attention without positions, which is equivariant and not invariant); invariance is f(gx) = f(x) (after global
pooling). Borders break a zero-padded layer's shift equivariance: compare the interior only.
When: a layer is meant to have a symmetry, or must not lose one. O(samples·actions) calls.
Source: Cohen & Welling, "Group equivariant convolutional networks" (2016), eq. 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import as_float
from corollary.core.solution import Solution


class Equivariance(eqx.Module):
    """The largest defect over samples, by action, and the largest output."""

    defects: Float[Array, " actions"]
    scale: Float[Array, ""]


def check_equivariance(
    function: Callable[..., Any],
    x: Any,
    actions: Callable[..., Any] | Sequence[Callable[..., Any]],
    *,
    on_output: Any = "same",
    interior: tuple[slice, ...] | None = None,
    factor: float = 1e3,
) -> Solution:
    """max |f(gx) − g f(x)|, or max |f(gx) − f(x)|, over samples and actions.

    When: to test that a layer keeps a symmetry. O(samples·actions) calls of the function.

    Parameters
    ----------
    function
        f, of one example.
    x
        (samples, ...).
    actions
        g on the input, one or several: functions of one example (a shift, a permutation, a rotation).
    on_output
        ``"same"``: as on the input; ``"invariant"``: none; or the functions g on the output, as many.
    interior
        Slices of the output that count, e.g. ``(slice(2, -2), slice(2, -2))`` away from borders.
    factor
        The rounding allowed, in eps times the largest output.

    Returns
    -------
    Solution
        ``value`` is an `Equivariance`. Certificate ``equivariance`` (monitor): the largest defect ≤ its rounding; where
        it fails, a counter-example was found; where it holds, these samples show none.

    Raises
    ------
    InputError
        For actions of unequal number, an unknown `on_output`, or outputs whose shapes do not match.

    Source
    ------
    Cohen & Welling (2016), eq. 1.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> x = jax.random.normal(jax.random.key(0), (5, 8))
    >>> shift = lambda v: jnp.roll(v, 3)
    >>> bool(check_equivariance(jnp.cumsum, x, shift).holds), bool(check_equivariance(jnp.tanh, x, shift).holds)
    (False, True)
    """
    if isinstance(on_output, str):
        validation.one_of("same", "invariant")("on_output", on_output)
    given = [actions] if callable(actions) else list(actions)
    if isinstance(on_output, str) and on_output == "same":
        outer = given
    elif isinstance(on_output, str):
        outer = [lambda y: y] * len(given)
    else:
        outer = [on_output] if callable(on_output) else list(on_output)
    if len(outer) != len(given) or not given:
        raise InputError(f"on_output: found {len(outer)} actions, expected as many as on the input, {len(given)}")

    plain: Any = as_float(jax.vmap(function)(x))
    defects = []
    for before, after in zip(given, outer, strict=True):
        moved: Any = as_float(jax.vmap(lambda v, g=before: function(g(v)))(x))
        expected: Any = jax.vmap(after)(plain)
        if moved.shape != expected.shape:
            raise InputError(f"function: found outputs of shapes {moved.shape}, {expected.shape}, expected equal ones")
        difference = moved - expected
        if interior is not None:
            difference = difference[(slice(None), *interior)]
        if difference.size == 0:
            raise InputError(f"interior: found no entry left of {moved.shape[1:]}, expected at least one")
        defects.append(jnp.max(jnp.abs(difference)))
    worst, scale = jnp.stack(defects), jnp.max(jnp.abs(plain))
    claim = Certificate(
        "max |f(gx) − g f(x)| ≤ its rounding, on these samples",
        jnp.max(worst),
        rounding(scale, factor),
        "monitor",
        "Cohen & Welling (2016), eq. 1",
    )
    return Solution(Equivariance(worst, scale), {"equivariance": claim})
