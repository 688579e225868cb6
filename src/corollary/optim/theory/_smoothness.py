"""The smoothness constant L, Lipschitz constant of the gradient: from below by samples, from above where known.

It is the gradient that is L-Lipschitz: ‖∇²f‖ ≤ L in both directions, so for a non-convex f also ∇²f ⪰ −L I. Below:
ratios of gradient differences and Ritz values of Hessians, each a proof of L ≥ it. Above: the data term's closed
form, or interval arithmetic over a box. Cost: two gradients a pair, up to 60 Hessian products a point.
Source: Nesterov, "Lectures on Convex Optimization" (2018), lemmas 1.2.2 and 1.2.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._smooth import SmoothTerm
from corollary.optim._tree import at_least_zero, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._lipschitz import SMOOTH, bound_over, checked_region
from corollary.optim.theory._samples import as_function, at, least_curvature, linear_error, pairs, sample, worst

NESTEROV = "Nesterov (2018)"


@follows_input
def smoothness_constant(
    f: Any,
    points: Any,
    *,
    region: tuple[Any, Any] | None = None,
    splits: int = 1,
    lipschitz: Any = None,
    per_point: int = 2,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Bounds of the smoothness constant L of f over a region, and a check of the quadratic bounds it promises.

    Use it to choose a step 1/L. Cost: two gradients a pair, Lanczos at each point.

    Parameters
    ----------
    f
        Twice differentiable function of an array or pytree; or a smooth term that knows its L (`LeastSquares`).
    points
        n ≥ 2 samples of the region, along the leading axes.
    region, splits
        A box (low, high) of vectors, cut into splits^d pieces: an upper bound by interval arithmetic on the Hessian.
    lipschitz
        A constant to be checked; the upper bound if left out.
    per_point
        Pairs that each point takes part in.
    key
        `jax.random.key` for pairs and Lanczos.

    Returns
    -------
    Solution
        ``value``: the lower bound. ``stats``: ``lower``, ``upper`` (infinite where nothing is known), ``least`` and
        ``largest`` eigenvalue met, ``witness``: points x, y of the worst quadratic bound.

    Raises
    ------
    InputError
        For points that are not finite, operations without an interval rule, and settings out of range.

    Notes
    -----
    Certificates: ``bracket`` (exact, for a continuous ∇f), lower ≤ L ≤ upper, where there is an upper bound;
    ``quadratic_bound`` (monitor), |f(y) − f(x) − ⟨∇f(x), y − x⟩| ≤ L/2‖y − x‖² at the pairs, where there is
    a constant to check.

    Examples
    --------
    >>> import numpy as np
    >>> points = np.random.default_rng(0).normal(size=(8, 2))
    >>> found = smoothness_constant(lambda x: 2 * x[0] ** 2 + x[1] ** 2, points)
    >>> round(float(found.value), 6)
    4.0
    """
    function, points = as_function(f), sample("points", points)
    validation.integer(1)("per_point", per_point)
    at_least_zero("lipschitz", lipschitz, positive=True)
    dtype = jax.tree.leaves(points)[0].dtype
    upper = f.lipschitz() if isinstance(f, SmoothTerm) else None
    if upper is None and region is not None:
        upper = hessian_bound(function, region, splits, dtype)
    constant = upper if lipschitz is None else like(lipschitz, points)
    upper = None if upper is None else upper.astype(dtype)
    constant = None if constant is None else constant.astype(dtype)
    return _bounds(function, points, upper, constant, per_point, jax.random.key(0) if key is None else key)


def hessian_bound(f: Callable[[Any], Any], region: tuple[Any, Any], splits: int, dtype: Any) -> Scalar:
    """An upper bound of ‖∇²f‖₂ over a box."""
    validation.integer(1)("splits", splits)
    low, high = checked_region(region)
    return bound_over(jax.grad(f), (low.astype(dtype), high.astype(dtype)), splits, "2")


@eqx.filter_jit
def _bounds(
    f: Callable[[Any], Any], points: PyTree, upper: Scalar | None, constant: Scalar | None, per_point: int, key: Any
) -> Solution:
    shuffle, start = jax.random.split(key)
    x, y = pairs(points, per_point, shuffle)

    def ratio(x: PyTree, y: PyTree) -> Scalar:
        a, b = jax.grad(f)(x), jax.grad(f)(y)
        apart = norm(optax.tree.sub(x, y))
        moved = norm(optax.tree.sub(a, b)) - rounding(norm(a) + norm(b), 16.0)
        return jnp.where(apart > 0, moved / jnp.where(apart > 0, apart, 1), 0)

    low, high, _, noise = jax.lax.map(lambda p: least_curvature(f, p, start), points)
    ratios = jax.vmap(ratio)(x, y)
    ritz = jnp.maximum(jnp.abs(low), jnp.abs(high)) - noise
    lower = jnp.maximum(jnp.maximum(jnp.max(ritz), jnp.max(ratios)), 0)
    # Gradients between points far from the origin cancel: their ratio proves less than the Hessians do there.
    certificates: dict[str, Certificate] = {}
    stats: dict[str, Any] = {"least": jnp.min(low), "largest": jnp.max(high), "lower": lower}
    stats["upper"] = jnp.full_like(lower, jnp.inf) if upper is None else upper
    if upper is not None:
        slack = rounding(upper, 16.0)
        certificates["bracket"] = Certificate(
            "lower <= L <= upper", lower, upper + slack, "exact", "definition", assumptions=(SMOOTH,)
        )
    if constant is not None:
        gap, slack, apart = jax.vmap(lambda x, y: linear_error(f, x, y))(x, y)
        allowed = constant / 2 * apart**2 + slack
        k = worst(jnp.abs(gap), allowed)
        claim = "|f(y) − f(x) − ⟨∇f(x), y − x⟩| <= L/2·‖y − x‖², at the pairs"
        certificates["quadratic_bound"] = Certificate(
            claim, jnp.abs(gap[k]), allowed[k], "monitor", f"{NESTEROV}, lemma 1.2.3"
        )
        stats["witness"] = {"x": at(x, k), "y": at(y, k)}
    return Solution(lower, certificates, stats=stats)


@follows_input
def data_smoothness(X: Any, loss: Literal["squared", "logistic"] = "squared") -> Any:
    """L of a mean loss over the rows of X: σ_max²/n for ‖Xw − y‖²/(2n), σ_max²/(4n) for the mean logistic loss.

    The latter is attained at w = 0, where every probability is ½. Cost: O(n p min(n, p)).

    Parameters
    ----------
    X
        (n, p) matrix.
    loss
        ``"squared"`` or ``"logistic"``.

    Raises
    ------
    InputError
        For a matrix that is not finite, or another loss.

    Examples
    --------
    >>> float(data_smoothness([[2.0, 0.0], [0.0, 1.0]]))
    2.0
    """
    validation.one_of("squared", "logistic")("loss", loss)
    X = validation.matrix("X", X)
    if X.shape[0] == 0:
        raise InputError("X: found no rows, expected at least one")
    top = jnp.linalg.norm(X, 2)
    return top / X.shape[0] * top / (4 if loss == "logistic" else 1)
