"""Forward, reverse, or something better: the cheapest bracketing of a Jacobian product.

The Jacobian of f_L ∘ … ∘ f_1 is the product J_L … J_1. Multiplying from the right is forward mode, from the left
reverse mode; the best bracketing is found by the matrix-chain dynamic programme in O(L³), negligible beside them.

Source: Griewank & Walther, Evaluating Derivatives (2008), §10; Godbole (1973) for the dynamic programme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input

Mode = Literal["forward", "reverse", "mixed"]


class ChainCost(eqx.Module):
    """Multiplications of each way to form the Jacobian product, and the cheapest way.

    Parameters
    ----------
    forward, reverse, optimal
        Scalar multiplications with the local Jacobians taken as dense.
    mode
        ``"forward"`` or ``"reverse"`` where that is optimal, else ``"mixed"``.
    order
        The optimal bracketing as a nested tuple of factor indices, factor 0 applied first: ``(0, (1, 2))``.
    """

    forward: int = eqx.field(static=True)
    reverse: int = eqx.field(static=True)
    optimal: int = eqx.field(static=True)
    mode: Mode = eqx.field(static=True)
    order: Any = eqx.field(static=True)


def chain_cost(sizes: Sequence[int]) -> ChainCost:
    """Cost of forward, reverse and optimal accumulation through layers of the given sizes.

    Parameters
    ----------
    sizes
        n_0, …, n_L: factor k maps R^{n_k} to R^{n_{k+1}}.

    Returns
    -------
    ChainCost
        The optimum is never worse than either mode. A scalar output makes reverse mode optimal, a scalar input forward.

    Examples
    --------
    >>> cost = chain_cost([10, 10, 10, 1])
    >>> cost.mode, cost.forward, cost.reverse
    ('reverse', 1100, 200)
    """
    check = validation.integer(1)
    n = [check(f"sizes[{i}]", size) for i, size in enumerate(sizes)]
    if len(n) < 2:
        raise InputError(f"sizes: found {len(n)} of them, expected at least an input and an output")
    factors = len(n) - 1
    forward = sum(n[0] * n[i] * n[i + 1] for i in range(1, factors))
    reverse = sum(n[-1] * n[i] * n[i + 1] for i in range(factors - 1))
    best: dict[tuple[int, int], tuple[int, Any]] = {(i, i): (0, i) for i in range(factors)}
    for length in range(2, factors + 1):
        for i in range(factors - length + 1):
            j = i + length - 1
            splits = range(i, j)
            costs = {k: best[i, k][0] + best[k + 1, j][0] + n[i] * n[k + 1] * n[j + 1] for k in splits}
            k = min(splits, key=costs.__getitem__)
            best[i, j] = costs[k], (best[i, k][1], best[k + 1, j][1])
    optimal, order = best[0, factors - 1]
    mode: Mode = "reverse" if reverse == optimal else "forward" if forward == optimal else "mixed"
    return ChainCost(forward, reverse, optimal, mode, order)


@follows_input
def jacobian_chain(maps: Sequence[Callable[[Any], Any]], x: Any) -> tuple[Float[Array, "m n"], ChainCost]:
    """The Jacobian of a composition, accumulated in the cheapest order.

    Each factor's own Jacobian takes the cheaper of its two modes: n_k JVPs or n_{k+1} VJPs.

    Parameters
    ----------
    maps
        Functions from vectors to vectors, the first applied first.
    x
        Where, shape (n,).

    Returns
    -------
    tuple
        The Jacobian, shape (m, n), and the costs of the ways to it.

    Examples
    --------
    >>> import jax.numpy as jnp, numpy as np
    >>> J, cost = jacobian_chain([lambda x: jnp.outer(x, x).ravel(), lambda y: y.sum()[None]], np.array([1.0, 2.0]))
    >>> J.tolist(), cost.mode
    ([[6.0, 6.0]], 'reverse')
    """
    point = validation.vector("x", x)
    if not maps:
        raise InputError("maps: found none, expected at least one function")
    jacobians, sizes = [], [point.size]
    for k, f in enumerate(maps):
        out = jax.eval_shape(f, point)
        if out.ndim != 1:
            raise InputError(f"maps[{k}]: returned an array of shape {out.shape}, expected a vector")
        local = jax.jacfwd if point.size <= out.shape[0] else jax.jacrev
        jacobians.append(local(f)(point))
        point, sizes = f(point), [*sizes, out.shape[0]]
    cost = chain_cost(sizes)

    def product(order: Any) -> Array:
        if isinstance(order, int):
            return jacobians[order]
        first, then = order
        return product(then) @ product(first)

    return product(cost.order), cost
