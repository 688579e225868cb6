"""Random search: the best of N independent points.

The baseline of every black-box method, and hard to beat in few evaluations of many variables of which few matter.
Whatever f is, the best of N lies among the best fraction q of the search distribution with probability 1 − (1 − q)^N:
90 points suffice for the best 5 % at 99 %. It says nothing of the distance to the minimum. Cost: N evaluations, in
parallel. Source: Brooks, "A discussion of random methods for seeking maxima" (1958); Bergstra & Bengio (2012).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import dtype, finite
from corollary.optim.blackbox._poll import Function, box, value_of
from corollary.optim.penalties._base import Scalar

SOURCE = "Brooks (1958): P(best of N in the top fraction q) = 1 − (1 − q)^N"


@follows_input
def random_search(
    f: Function,
    bounds: Any = None,
    *,
    sample: Callable[[Any], Any] | None = None,
    evaluations: int = 1000,
    fraction: float = 0.01,
    batch: int = 1024,
    key: Key[Array, ""],
) -> Solution:
    """The best of N points drawn uniformly from a box, or from a distribution.

    Parameters
    ----------
    f
        Function of an array or pytree; NaN counts as infinitely bad. One that is not made of JAX operations goes
        through `jax.pure_callback`.
    bounds
        ``(lower, upper)``: two arrays or pytrees of the same shapes.
    sample
        In its place, ``sample(key)``: one draw from any distribution.
    evaluations
        N.
    fraction
        The q that the certificate speaks of.
    batch
        How many points are evaluated at a time.
    key
        Of `jax.random.key`; the same key draws the same points.

    Returns
    -------
    Solution
        ``value`` is the best point; ``stats`` holds its ``objective`` and ``evaluations``; ``history["objective"]`` the
        best so far. The status is NON_FINITE where every value was infinite or not a number, and MAX_STEPS where
        N is too small for q.

    Notes
    -----
    Certificate ``quantile`` (probabilistic): the fraction of the distribution that is better than the answer is at
    most q; its expectation, 1/(N + 1), is what is held against q, its confidence 1 − (1 − q)^N.

    Examples
    --------
    >>> import jax
    >>> found = random_search(lambda x: ((x - 0.3) ** 2).sum(), ([0.0, 0.0], [1.0, 1.0]), key=jax.random.key(0))
    >>> bool(found.stats["objective"] < 0.01), round(float(found.certificates["quantile"].confidence), 5)
    (True, 0.99996)
    """
    if (bounds is None) == (sample is None):
        raise InputError("bounds: expected either bounds or sample, not both and not neither")
    validation.integer(1)("evaluations", evaluations)
    validation.integer(1)("batch", batch)
    validation.number(0.0, 1.0, open_low=True)("fraction", fraction)
    if sample is None:
        low, high = (finite("bounds", end) for end in bounds)
        box((low, high), low)
        draw = jax.tree_util.Partial(_uniform, low, high)
    else:
        draw = sample
    x, value, best = _search(f, draw, jax.random.split(key, evaluations), min(batch, evaluations))
    confidence = -jnp.expm1(evaluations * jnp.log1p(-jnp.asarray(fraction).astype(value.dtype)))
    certificate = Certificate(
        "fraction of the distribution with smaller f <= q",
        jnp.asarray(1 / (evaluations + 1)).astype(value.dtype),
        jnp.asarray(fraction).astype(value.dtype),
        "probabilistic",
        SOURCE,
        confidence,
        assumptions=(Assumption("f has no atoms in value (else: no better than q)"),),
    )
    stats = {"objective": value, "evaluations": evaluations}
    status = Status.of(certificate.holds, value < jnp.inf)
    return Solution(x, {"quantile": certificate}, status, evaluations, stats, {"objective": best})


def _uniform(low: PyTree, high: PyTree, key: Key[Array, ""]) -> PyTree:
    leaves, structure = jax.tree.flatten(low)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
    return jax.tree.map(lambda a, b, k: a + (b - a) * jax.random.uniform(k, a.shape, a.dtype), low, high, keys)


@eqx.filter_jit
def _search(
    f: Function, draw: Callable[[Any], Any], keys: Key[Array, " n"], batch: int
) -> tuple[PyTree, Scalar, Float[Array, " n"]]:
    values = jax.lax.map(lambda key: value_of(f, draw(key)), keys, batch_size=batch)
    first = jnp.argmin(values)
    x = draw(keys[first])  # drawn again rather than kept: the points of a large search need not fit in memory
    return x, values[first].astype(dtype(x)), jax.lax.cummin(values)
