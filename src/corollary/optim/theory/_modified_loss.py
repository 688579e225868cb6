"""Backward error analysis: what gradient descent with a finite step minimises, seen as a flow.

Gradient descent with step η follows the flow of J̃ = J + (η/4)‖∇J‖² to O(η²) over a fixed time, that of J only to O(η).
SGD without replacement, averaged over the order of its m batches, follows J + (η/4m) Σ_k ‖∇J_k‖², that is J̃ and the
spread (η/4m) Σ_k ‖∇J_k − ∇J‖². The extra term penalises steep places; it is no ℓ2 penalty and no label smoothing in
general (for least squares it is a penalty on the residual). Valid while mη times the curvature is small. Cost: `steps`
gradients and an ODE solve with Hessian-vector products.
Source: Barrett & Dherin, "Implicit gradient regularization" (2021), theorem 3.1; Smith, Dherin, Barrett & De, "On the
origin of implicit regularization in SGD" (2021), eq. (22).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.experimental.ode import odeint
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import dtype, finite, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._sgd_runs import Function, positive, sgd_runs

BatchLoss = Callable[[Any, Any], Any]  # x and the batch's number to its loss
SOURCE = "Barrett & Dherin (2021), theorem 3.1; Smith, Dherin, Barrett & De (2021), eq. (22)"


def modified_loss(f: Function, step: Any, *, batch_loss: BatchLoss | None = None, batches: int = 1) -> Function:
    """The function J + (η/4)‖∇J‖², for batches with their spread (η/4m) Σ‖∇J_k − ∇J‖² added.

    Parameters
    ----------
    f
        J, the full loss.
    step
        η.
    batch_loss, batches
        ``batch_loss(x, k)`` for k = 0, …, m − 1, whose mean is J.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(modified_loss(lambda x: (x**2).sum() / 2, 0.4)(jnp.asarray([1.0, 2.0])))
    3.0
    >>> loss = lambda x, k: (x - jnp.asarray([-1.0, 1.0])[k]) ** 2 / 2
    >>> with_spread = modified_loss(lambda x: x**2 / 2 + 0.5, 0.4, batch_loss=loss, batches=2)
    >>> round(float(with_spread(jnp.asarray(0.0))), 6)
    0.6
    """

    def modified(x):
        value, gradient = jax.value_and_grad(f)(x)
        square: Any = optax.tree.norm(gradient, squared=True)
        if batch_loss is not None:
            each = jax.vmap(jax.grad(batch_loss), (None, 0))(x, jnp.arange(batches))
            square = optax.tree.norm(each, squared=True) / batches  # = ‖∇J‖² + spread
        return value + jnp.asarray(step).astype(value.dtype) / 4 * square

    return modified


@follows_input
def sgd_modified_loss(
    f: Function,
    x0: Any,
    step: Any,
    steps: int,
    *,
    batch_loss: BatchLoss | None = None,
    batches: int = 1,
    runs: int = 256,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """How far gradient descent, or the mean of SGD over shuffles, is from the modified flow and from the plain one.

    Parameters
    ----------
    f
        J, a smooth function of an array or pytree.
    x0
        The start.
    step
        η > 0.
    steps
        Steps of gradient descent; with `batches`, epochs of m steps each, compared at their ends.
    batch_loss, batches
        As in `modified_loss`: SGD that visits the m batches in a fresh random order each epoch.
    runs, key
        For SGD: over how many shuffled runs the mean is taken; `key` is then required.

    Returns
    -------
    Solution
        ``value`` is the last point (for SGD the mean); ``history`` holds ``distance`` to the modified flow and
        ``plain_distance`` to that of J, entry k − 1 for time kη (kmη), for SGD also ``stderr``.

    Notes
    -----
    Certificate ``closer`` (monitor): the modified flow is the nearer one at the end (for SGD up to 3 standard errors).
    Source: Barrett & Dherin (2021), theorem 3.1; Smith, Dherin, Barrett & De (2021), eq. (22).

    Examples
    --------
    >>> run = sgd_modified_loss(lambda x: (x**2).sum() / 2, [1.0], 0.1, 10)
    >>> round(float(run.history["distance"][-1]), 4), round(float(run.history["plain_distance"][-1]), 4)
    (0.0013, 0.0192)
    """
    x0 = finite("x0", x0)
    eta = positive("step", step, x0)
    validation.integer(1)("steps", steps)
    validation.integer(1)("batches", batches)
    if batch_loss is not None and key is None:
        raise InputError("key: found None, expected a key for SGD's shuffles")
    if batch_loss is None and batches != 1:
        raise InputError(f"batches: found {batches} without batch_loss, expected both")
    validation.integer(2)("runs", runs)
    keys = None if key is None else jax.random.split(key, runs)
    last, distance, plain, stderr, size = _compare(f, x0, eta, keys, batch_loss, batches, steps)
    history = {"distance": distance, "plain_distance": plain}
    slack = rounding(size, 64.0)
    if stderr is not None:
        history["stderr"] = stderr
        slack = slack + 3 * stderr[-1]
    claim = "distance to the modified flow <= distance to the flow of J"
    certificates = {"closer": Certificate(claim, distance[-1], plain[-1] + slack, "monitor", SOURCE)}
    return Solution(last, certificates, 0, steps * batches, history=history)


@eqx.filter_jit
def _compare(
    f: Function,
    x0: PyTree,
    eta: Scalar,
    keys: Key[Array, " runs"] | None,
    batch_loss: BatchLoss | None,
    batches: int,
    steps: int,
) -> tuple[PyTree, Float[Array, " t"], Float[Array, " t"], Float[Array, " t"] | None, Scalar]:
    def observe(memory, t, x, g, new):
        return memory, new

    if batch_loss is None or keys is None:
        single = jax.random.split(jax.random.key(0), 1)
        _, _, path = sgd_runs(lambda x, key: jax.grad(f)(x), x0, single, steps, optax.sgd(eta), observe)
        path, stderr = jax.tree.map(lambda p: p[0], path), None
    else:
        path, stderr = _shuffled(x0, eta, keys, batch_loss, batches, steps)
    times = jnp.arange(steps + 1).astype(eta.dtype) * batches
    modified = modified_loss(f, eta, batch_loss=batch_loss, batches=batches)
    flows = _flows(f, modified, x0, eta, times)
    away = jax.vmap(jax.vmap(lambda p, q: norm(optax.tree.sub(p, q))), (None, 0))(path, flows)
    last = jax.tree.map(lambda p: p[-1], path)
    return last, away[0], away[1], stderr, norm(x0) + norm(last)


def _shuffled(
    x0: PyTree, eta: Scalar, keys: Key[Array, " runs"], batch_loss: BatchLoss, batches: int, steps: int
) -> tuple[PyTree, Float[Array, " t"]]:
    """Mean and the root mean square of its standard error at the ends of the epochs."""
    optimiser = optax.sgd(eta)

    def one(key):
        def epoch(x, key):
            def visit(carry, k):
                x, state = carry
                updates, state = optimiser.update(jax.grad(batch_loss)(x, k), state)
                return (optax.tree.add(x, updates), state), None

            x = jax.lax.scan(visit, (x, optimiser.init(x)), jax.random.permutation(key, batches))[0][0]
            return x, x

        return jax.lax.scan(epoch, x0, jax.random.split(key, steps))[1]

    paths = jax.vmap(one)(keys)
    spread = [jnp.std(p, 0, ddof=1).reshape(steps, -1) / keys.shape[0] ** 0.5 for p in jax.tree.leaves(paths)]
    return jax.tree.map(lambda p: jnp.mean(p, 0), paths), norm(jnp.concatenate(spread, 1), 1)


def _flows(f: Function, modified: Function, x0: PyTree, eta: Scalar, times: Float[Array, " t"]) -> PyTree:
    """The gradient flows of the modified loss and of f at t·η, t > 0, in units of the first step: free of scale."""
    unit = eta * norm(jax.grad(f)(x0))
    unit = jnp.where(unit > 0, unit, 1)
    tight = 1e-12 if dtype(x0) == jnp.float64 else 1e-6

    def flow(weight):
        def slope(u, t):
            at = optax.tree.add_scale(x0, unit, u)
            g, h = jax.grad(f)(at), jax.grad(modified)(at)
            return jax.tree.map(lambda g, h: -eta / unit * (g + weight * (h - g)), g, h)

        return odeint(slope, optax.tree.zeros_like(x0), times, rtol=tight, atol=tight)

    moved = jax.vmap(flow)(jnp.asarray([1, 0]).astype(eta.dtype))
    return jax.tree.map(lambda x, u: x + unit * u[:, 1:], x0, moved)
