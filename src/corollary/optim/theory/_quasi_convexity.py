"""One-point (star) quasi-convexity: ⟨∇f(x), x − x*⟩ ≥ τ(f(x) − f*): when gradient steps approach x*.

τ = 1 holds for every convex f (at its minimiser); τ > 0 suffices for a rate, L‖x0 − x*‖²/(τ²k) up to constants, and
asks nothing of other directions. The least ratio over samples is an upper bound of the true τ: an estimate, no proof.
Cost: a gradient a point. Source: Hardt, Ma & Recht, JMLR 19 (2018), definition 2.1 (weak quasi-convexity).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import finite, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._samples import as_function, at, sample, worst

HARDT = "Hardt, Ma & Recht, JMLR 19 (2018), definition 2.1"


@follows_input
def quasi_convexity_check(f: Any, minimiser: Any, points: Any, *, minimum: Any = None) -> Solution:
    """The least ratio τ = ⟨∇f(x), x − x*⟩/(f(x) − f*) over samples, with its witness.

    Parameters
    ----------
    f
        Differentiable function of an array or pytree, or a smooth term.
    minimiser
        x*.
    points
        n samples along the leading axes; those whose f is f* to rounding are left out.
    minimum
        f*; f(x*) if left out.

    Returns
    -------
    Solution
        ``value``: τ. ``stats``: ``witness``, the point of the least ratio; ``ratios`` (n,), NaN where left out;
        ``lowest``, the least f(x) − f*: well below zero, x* is no minimiser.

    Raises
    ------
    InputError
        For points that are not finite, or of other shapes than x*.

    Notes
    -----
    Certificates: ``tau`` (estimate); ``star_quasi_convex`` (monitor): −⟨∇f(x), x − x*⟩ within rounding at every sample;
    ``minimiser`` (monitor): no sample below f*.

    Examples
    --------
    >>> import numpy as np
    >>> round(float(quasi_convexity_check(lambda x: x**2, 0.0, np.linspace(-1, 1, 9)).value), 6)
    2.0
    """
    f, minimiser, points = as_function(f), finite("minimiser", minimiser), sample("points", points, 1)
    if jax.tree.map(lambda leaf: leaf.shape[1:], points) != jax.tree.map(jnp.shape, minimiser):
        raise InputError("points: found other shapes than that of minimiser behind the leading axis, expected the same")
    minimiser = jax.tree.map(lambda m, p: m.astype(p.dtype), minimiser, points)
    best = f(minimiser) if minimum is None else like(minimum, points)
    return _look(f, minimiser, points, best)


@eqx.filter_jit
def _look(f: Callable[[Any], Any], minimiser: PyTree, points: PyTree, best: Scalar) -> Solution:
    def one(x: PyTree) -> tuple[Scalar, ...]:
        value, gradient = jax.value_and_grad(f)(x)
        inner = jnp.asarray(optax.tree.vdot(gradient, optax.tree.sub(x, minimiser)))
        size = jax.tree.map(lambda g, a, b: jnp.sum(jnp.abs(g) * (jnp.abs(a) + jnp.abs(b))), gradient, x, minimiser)
        return value - best, inner, rounding(jnp.abs(value) + jnp.abs(best)), rounding(sum(jax.tree.leaves(size)))

    gap, inner, noise, slack = jax.vmap(one)(points)
    # A gap of a few hundred roundings would give ratios that are wrong in the first digits.
    ratios = jnp.where(jnp.abs(gap) > 256 * noise, inner / jnp.where(gap == 0, 1, gap), jnp.nan)
    k = jnp.nanargmin(jnp.where(jnp.all(jnp.isnan(ratios)), 0, ratios))
    w, low = worst(-inner, slack), jnp.argmin(gap)
    certificates = {
        "tau": Certificate("τ over the samples, an upper bound of the infimum", ratios[k], None, "estimate", HARDT),
        "star_quasi_convex": Certificate("⟨∇f(x), x − x*⟩ >= 0, at the samples", -inner[w], slack[w], "monitor", HARDT),
        "minimiser": Certificate("f(x) >= f*, at the samples", -gap[low], noise[low], "monitor", "definition"),
    }
    return Solution(ratios[k], certificates, stats={"witness": at(points, k), "ratios": ratios, "lowest": gap[low]})
