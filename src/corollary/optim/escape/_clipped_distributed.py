"""Clipped gradient tracking over a network, with noise to leave saddles.

Worker i holds x_i and y_i, its track of the mean gradient. A round, with doubly stochastic weights W of the graph:

    x ← W(x − η clip(y)),    y ← W y + ∇f_i(x_new) − ∇f_i(x_old),    clip(y) = y·min(1, τ/‖y‖).

The mean of the y_i is that of the local gradients at every round, so that all workers agree in the end, and on a
stationary point of the mean; clipping bounds a round's move by ητ where gradients are heavy-tailed or far off. Where
the mean track is small, all workers add the same uniform noise (from a shared seed), as `perturbed_gd` does; with one
worker and no clipping it is that method. Cost of a round: a gradient of each worker, and one exchange with the
neighbours of x and y. Source: Di Lorenzo & Scutari, "NEXT" (2016) and Nedić, Olshevsky & Shi (2017), algorithm DIGing,
for gradient tracking; Daneshmand, Scutari & Kungurtsev (2020) for its second-order limits; noise and stop: Jin et al.
(2017), algorithm 2. With noise and clipping together it rests on no theorem here: what it claims is checked at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.escape._noise import LANCZOS, Asked, asked, ball, pgd_constants
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._second_order import second_order_stationarity

Local = Callable[[Any, Any], Any]
TRACKING = "Nedić, Olshevsky & Shi (2017), algorithm 1"


@follows_input
def clipped_distributed_escape(
    f: Local,
    data: Any,
    x0: Any,
    weights: Any,
    *,
    lipschitz: Any,
    rho: Any,
    eps: Any,
    lower: Any,
    key: Key[Array, ""],
    clip: Any = None,
    failure: Any = 0.1,
    c: Any = 1.0,
    max_steps: int = 100_000,
    history: bool = False,
) -> Solution:
    """Minimise the mean of the workers' functions to an ε-second-order stationary point, over a network.

    Cost: one gradient of each worker a round, O(workers²) for the exchange (a dense W), Lanczos at the end.

    Parameters
    ----------
    f
        ``f(datum, x)``, a worker's function.
    data
        Array or pytree with a leading axis: one entry per worker.
    x0
        The common start, an array or pytree.
    weights
        W (n, n), nonnegative, doubly stochastic, connected: second largest singular value σ < 1.
    lipschitz, rho, eps, lower, key, failure, max_steps
        As in `perturbed_gd`, of every worker's function.
    clip
        τ > 0, the largest track that is followed as it stands; None: no clipping.
    c
        The constant of the theory; the step is c(1 − σ)²/L.
    history
        Record ``objective`` (of the mean point), ``consensus_error`` and ``track_norm`` per round.

    Returns
    -------
    Solution
        ``value``: the mean of the workers' points, like x0. ``stats``: ``workers``, the points (n, d) flattened;
        ``objective``, ``episodes``, ``clipped`` (in how many rounds), ``gradient_norm``, ``lambda_min``, ``saddle``.

    Raises
    ------
    InputError
        For weights that are not doubly stochastic or not connected, values that are not finite, settings out of range.

    Notes
    -----
    Certificates: ``consensus`` (monitor), L·max_i ‖x_i − x̄‖ ≤ ε; ``gradient`` (monitor) and ``curvature``
    (probabilistic) of `second_order_stationarity` at the mean point.

    Examples
    --------
    >>> def f(datum, x):  # the mean has a saddle at 0, minima at (0, ±1)
    ...     return x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4 + datum * x[0]
    >>> asked = {"lipschitz": 3.0, "rho": 8.0, "eps": 0.1, "lower": -0.25}
    >>> W = np.array([[0.75, 0.25], [0.25, 0.75]])
    >>> run = clipped_distributed_escape(f, [0.1, -0.1], [0.0, 0.0], W, key=jax.random.key(0), clip=1.0, **asked)
    >>> bool(run.converged), bool(abs(abs(run.value[1]) - 1) < 0.01)
    (True, True)
    """
    x0, setting = asked(x0, lipschitz, rho, eps, lower, failure, c, max_steps)
    validation.flag("history", history)
    at_least_zero("clip", clip, positive=True)
    data = finite("data", data)
    W = validation.matrix("weights", weights).astype(setting.eps.dtype)
    n = jax.tree.leaves(data)[0].shape[0] if jnp.ndim(jax.tree.leaves(data)[0]) else 0
    if W.shape != (n, n) or any(jnp.shape(leaf)[:1] != (n,) for leaf in jax.tree.leaves(data)):
        raise InputError(f"weights: found shape {W.shape}, expected (n, n) for the n = {n} workers in data")
    if not isinstance(W, Tracer):
        _check(np.asarray(W))
    level = jnp.asarray(jnp.inf) if clip is None else clip
    limit = jnp.asarray(max_steps)
    return _track(f, data, x0, W, like(level, x0), setting, key, limit, max_steps if history else 0)


def _check(W: np.ndarray) -> None:
    slack = 64 * np.finfo(W.dtype).eps * len(W)
    if W.min() < 0 or np.abs(W.sum(0) - 1).max() > slack or np.abs(W.sum(1) - 1).max() > slack:
        raise InputError("weights: found a row or column that is no probability, expected a doubly stochastic matrix")
    if len(W) > 1 and np.linalg.svd(W - 1 / len(W), compute_uv=False)[0] >= 1 - slack:
        raise InputError("weights: found a graph that is not connected, expected second singular value below 1")


class Network(eqx.Module):
    """The carry: the workers' points, tracks and gradients, the mean before the last noise, flags and counts."""

    x: Float[Array, "n d"]
    y: Float[Array, "n d"]
    gradients: Float[Array, "n d"]
    before: Float[Array, "n d"]
    before_value: Scalar
    since: Int[Array, ""]
    steps: Int[Array, ""]
    episodes: Int[Array, ""]
    clipped: Int[Array, ""]
    key: Key[Array, ""]
    returned: Bool[Array, ""]
    finite: Bool[Array, ""]
    history: dict[str, Array]


@eqx.filter_jit
def _track(
    f: Local,
    data: PyTree,
    x0: PyTree,
    W: Float[Array, "n n"],
    clip: Scalar,
    setting: Asked,
    key: Key[Array, ""],
    max_steps: Any,
    length: int,
) -> Solution:
    start, back = ravel_pytree(x0)
    n = W.shape[0]

    def mean(x: PyTree) -> Scalar:
        return jnp.mean(jax.vmap(lambda datum: f(datum, x))(data))

    local = jax.vmap(jax.grad(lambda x, datum: f(datum, back(x))))

    def gradients(x: Array) -> Array:
        return local(x, data)

    value = mean(x0)
    constants = pgd_constants(setting, start.size, value)
    sigma = jnp.linalg.svd(W - 1 / n, compute_uv=False)[0] if n > 1 else jnp.zeros_like(value)
    eta = constants.eta * (1 - sigma) ** 2
    wait = jnp.ceil(jnp.minimum(constants.wait.astype(eta.dtype) / (1 - sigma) ** 2, 1e9)).astype(jnp.int32)
    look, run_key = jax.random.split(key)

    def body(net: Network) -> Network:
        middle, track = jnp.mean(net.x, 0), jnp.mean(net.y, 0)
        apart = jnp.max(jnp.linalg.norm(net.x - middle, axis=1))
        value = mean(back(middle))
        enough = net.before_value - value >= constants.fall + rounding(jnp.abs(value) + jnp.abs(net.before_value), 4.0)
        returned = (net.since == wait) & ~enough
        agreed = setting.lipschitz * apart <= constants.gradient
        push = ~returned & agreed & (norm(track) <= constants.gradient) & (net.since > wait)
        key, draw = jax.random.split(net.key)

        def pushed() -> tuple[Array, Array, Array]:
            x = net.x + ball(draw, start, constants.radius)
            now = gradients(x)
            return x, net.y + now - net.gradients, now

        x, y, old = jax.lax.cond(push, pushed, lambda: (net.x, net.y, net.gradients))
        sizes = jnp.linalg.norm(y, axis=1, keepdims=True)
        cut = sizes > clip
        step = jnp.where(cut, y * (clip / jnp.where(cut, sizes, 1)), y)
        new = W @ (x - eta * step)
        now = gradients(new)
        values = {"objective": value, "consensus_error": apart, "track_norm": norm(track)}
        return Network(
            x=jnp.where(returned, net.before, new),
            y=W @ y + now - old,
            gradients=now,
            before=jnp.where(push, net.x, net.before),
            before_value=jnp.where(push, value, net.before_value),
            since=jnp.where(push, 0, net.since) + 1,
            steps=jnp.where(returned, net.steps, net.steps + 1),
            episodes=jnp.where(push, net.episodes + 1, net.episodes),
            clipped=jnp.where(jnp.any(cut) & ~returned, net.clipped + 1, net.clipped),
            key=key,
            returned=returned,
            finite=jnp.isfinite(value) & jnp.isfinite(norm(new)),
            history={name: series.at[net.steps].set(values[name]) for name, series in net.history.items()},
        )

    names = ("objective", "consensus_error", "track_norm") if length else ()
    zero, everywhere = jnp.int32(0), jnp.broadcast_to(start, (n, start.size))
    first = gradients(everywhere)
    net = Network(
        x=everywhere,
        y=first,
        gradients=first,
        before=everywhere,
        before_value=value,
        since=wait + 1,
        steps=zero,
        episodes=zero,
        clipped=zero,
        key=run_key,
        returned=jnp.array(False),
        finite=jnp.isfinite(value),
        history={name: jnp.full((length,), jnp.nan, start.dtype) for name in names},
    )
    net = jax.lax.while_loop(lambda s: ~s.returned & s.finite & (s.steps < max_steps), body, net)
    points = jnp.where(net.finite, net.x, net.before)
    middle = jnp.mean(points, 0)
    answer = back(middle)
    seen = second_order_stationarity(mean, answer, eps=setting.eps, rho=setting.rho, key=look, steps=LANCZOS)
    apart = setting.lipschitz * jnp.max(jnp.linalg.norm(points - middle, axis=1))
    bound = setting.eps + rounding(setting.lipschitz * norm(middle))
    consensus = Certificate("L·max ‖x_i − mean‖ <= ε", apart, bound, "monitor", TRACKING)
    stats = {"workers": points, "objective": mean(answer), "episodes": net.episodes, "clipped": net.clipped}
    stats |= {name: seen.stats[name] for name in ("gradient_norm", "lambda_min", "saddle")}
    certificates = seen.certificates | {"consensus": consensus}
    done = net.returned & certificates["gradient"].holds & certificates["curvature"].holds & consensus.holds
    return Solution(answer, certificates, Status.of(done, net.finite), net.steps, stats, net.history or None)
