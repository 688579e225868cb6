"""Yogi with learned settings: learning rate, β1, β2 and ε by gradients through unrolled steps.

For a set of tasks that share their shapes, the mean loss after `unroll` steps of Yogi is differentiated with respect to
the settings (as log η, logit β1, logit β2, log ε) and descended by Adam. Use it where many like problems follow; the
settings are good for the length that was unrolled, and short-sighted beyond it.
Cost: `meta_steps` × tasks × `unroll` gradients, twice; memory O(unroll) copies of the parameters.
Source: Maclaurin, Duvenaud & Adams, "Gradient-based hyperparameter optimization through reversible learning" (2015),
section 2; Zaheer et al., "Adaptive methods for nonconvex optimization" (2018), algorithm 2 (Yogi).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import finite, norm
from corollary.optim.transforms._transform import check

Loss = Callable[[Any, Any], Any]


@follows_input
def learned_yogi(
    loss: Loss,
    tasks: Any,
    start: Any,
    *,
    unroll: int = 20,
    meta_steps: int = 50,
    meta_learning_rate: float = 0.1,
    initial: dict[str, float] | None = None,
) -> Solution:
    """Settings of Yogi tuned on a set of tasks by hypergradients through its steps.

    Parameters
    ----------
    loss
        ``loss(params, task)``, a differentiable number.
    tasks
        A pytree of arrays whose leading axis counts tasks.
    start
        Parameters that every task starts from.
    unroll
        Steps of Yogi that are differentiated through.
    meta_steps
        Steps of Adam on the settings.
    meta_learning_rate
        Of these.
    initial
        Settings to start from: ``learning_rate`` (0.01), ``b1`` (0.9), ``b2`` (0.999), ``eps`` (1e-3).

    Returns
    -------
    Solution
        ``value``: the best settings met, for ``optax.yogi(**value)``; ``history``: ``outer``, the mean final loss at
        each meta-step; ``stats``: ``hypergradient`` at the start and ``finite_difference`` along it. The number of
        meta-steps is fixed, so the status is the step limit, or non-finite.

    Raises
    ------
    InputError
        For settings out of range or unknown.

    Notes
    -----
    Certificates: ``decrease`` (monitor), the outer loss at the answer is at most that of the start;
    ``hypergradient`` (monitor), its length agrees with the central difference along it to 5 %.
    Defaults: Yogi's own settings (Zaheer et al., section 5). Memory of the tuned optimizer: two numbers a parameter.

    Examples
    --------
    >>> run = learned_yogi(lambda x, a: (a * x**2).sum(), [1.0, 2.0], [3.0, -2.0], unroll=10, meta_steps=10)
    >>> bool(run.holds), bool(run.value["learning_rate"] > 0.01)
    (True, True)
    """
    validation.integer(1)("unroll", unroll)
    validation.integer(1)("meta_steps", meta_steps)
    check("meta_learning_rate", meta_learning_rate, 0.0, open_low=True)
    first: dict[str, Any] = {"learning_rate": 0.01, "b1": 0.9, "b2": 0.999, "eps": 1e-3}
    for name, value in (initial or {}).items():
        validation.one_of(*first)("initial", name)
        high = 1.0 if name in ("b1", "b2") else float("inf")
        check(f"initial[{name!r}]", value, 0.0, high, open_low=True, open_high=True)
    first |= initial or {}
    tasks, start = finite("tasks", tasks), finite("start", start)
    kind = jnp.result_type(*jax.tree.leaves(start))
    raw = {name: _free(name, jnp.asarray(value, kind)) for name, value in first.items()}
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes counts and floats, its transpose too
        found = _learn(loss, tasks, start, raw, unroll, meta_steps, jnp.asarray(meta_learning_rate, kind))
    best, history, gradient, difference = found
    size = norm(gradient)
    reached = jnp.nanmin(history)
    certificates = {
        "decrease": Certificate(
            "outer loss at the answer <= at the start", reached, history[0], "monitor", "Maclaurin et al. (2015)"
        ),
        "hypergradient": Certificate(
            "|‖hypergradient‖ − difference along it| <= 5 %",
            jnp.abs(size - difference),
            0.05 * jnp.maximum(size, jnp.abs(difference)) + jnp.sqrt(jnp.finfo(kind).eps) * jnp.abs(history[0]),
            "monitor",
            "central difference",
        ),
    }
    value = {name: _bound(name, x) for name, x in best.items()}
    stats = {"hypergradient": gradient, "finite_difference": difference}
    # A fixed number of steps: the step limit, never a success that nobody checked.
    status = Status.of(False, jnp.isfinite(reached))
    return Solution(value, certificates, status, meta_steps, stats, {"outer": history})


@eqx.filter_jit
def _learn(
    loss: Loss, tasks: PyTree, start: PyTree, raw: dict[str, Array], unroll: int, meta_steps: int, lr: Any
) -> tuple[Any, ...]:
    def final(settings: dict[str, Array], task: PyTree) -> Array:
        yogi = optax.yogi(**{name: _bound(name, x) for name, x in settings.items()})

        def body(carry: Any, _: None) -> Any:
            x, state = carry
            g = jax.grad(loss)(x, task)
            updates, new = yogi.update(g, state, x)
            updates = jax.tree.map(lambda u, p: u.astype(p.dtype), updates, x)
            new = jax.tree.map(lambda n, o: n.astype(o.dtype), new, state)
            return (jax.tree.map(jnp.add, x, updates), new), None

        (x, _), _ = jax.lax.scan(body, (start, yogi.init(start)), length=unroll)
        return loss(x, task)

    def outer(settings: dict[str, Array]) -> Array:
        return jnp.mean(jax.vmap(lambda task: final(settings, task))(tasks))

    tuner = optax.adam(lr)

    def meta(carry: Any, _: None) -> Any:
        settings, state, best, least = carry
        value, g = jax.value_and_grad(outer)(settings)
        better = value < least
        best, least = optax.tree.where(better, settings, best), jnp.minimum(value, least)
        g = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), g)
        updates, new = tuner.update(g, state)
        updates = jax.tree.map(lambda u, p: u.astype(p.dtype), updates, settings)
        new = jax.tree.map(lambda n, o: n.astype(o.dtype), new, state)
        return (jax.tree.map(jnp.add, settings, updates), new, best, least), value

    infinite = jnp.full_like(raw["b1"], jnp.inf)
    (last, _, best, least), history = jax.lax.scan(meta, (raw, tuner.init(raw), raw, infinite), length=meta_steps)
    value = outer(last)
    best = optax.tree.where(value < least, last, best)
    gradient = jax.grad(outer)(raw)
    size = norm(gradient)
    step = jnp.finfo(size.dtype).eps ** (1 / 3) / jnp.where(size > 0, size, 1)
    up = jax.tree.map(lambda x, g: x + step * g, raw, gradient)
    down = jax.tree.map(lambda x, g: x - step * g, raw, gradient)
    difference = (outer(up) - outer(down)) / (2 * step * jnp.where(size > 0, size, 1))
    return best, jnp.append(history, value), gradient, difference


def _free(name: str, value: Array) -> Array:
    """Unconstrained: logarithms of η and ε, logits of the β."""
    return jnp.log(value) if name in ("learning_rate", "eps") else jnp.log(value) - jnp.log1p(-value)


def _bound(name: str, value: Array) -> Array:
    return jnp.exp(value) if name in ("learning_rate", "eps") else jax.nn.sigmoid(value)
