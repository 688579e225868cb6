"""Hessian-free optimisation: truncated CG on damped Gauss-Newton products, with Levenberg-Marquardt damping.

A step minimises the model q(δ) = ⟨g, δ⟩ + ½⟨δ, Gδ⟩ with ½λ‖δ‖² added, by preconditioned CG that starts from the last
step and ends when the model's progress slows down; of the iterates saved on the way the best in the loss is taken (CG
backtracking), then a line search makes sure of descent, and λ follows the ratio of the loss's and the model's decrease.
CG needs positive curvature: the products are G's, never the Hessian's. Cost: a gradient, one JVP and VJP a CG step, a
few forward passes. Memory: about log(cg_steps)/log(spacing) copies of the parameters.
Source: Martens, "Deep learning via Hessian-free optimization" (2010), section 4; Chapelle & Erhan (2011) for the
diagonal from random signs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import rounding
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like, norm, total
from corollary.optim.curvature._cg import CGRun, conjugate_gradients, marks
from corollary.optim.curvature._ggn import count, dot
from corollary.optim.curvature._network_loss import NetworkLoss, descent, network_loss
from corollary.optim.penalties._base import Scalar

POWER, PROBES = 0.75, 4  # of the preconditioner: Martens' exponent; random signs, one VJP each
SUFFICIENT, SHRINK, TRIALS = 1e-2, 0.8, 60  # of the line search
HIGH, LOW, FACTOR = 0.75, 0.25, 1.5  # of the damping


class HessianFreeState(eqx.Module):
    """Iterate, its value and gradient, the last CG step, and λ."""

    x: PyTree
    value: Scalar
    gradient: PyTree
    delta: PyTree
    damping: Scalar
    key: Key[Array, ""]


@final
class HessianFree(Solver):
    """Hessian-free optimisation, for `minimize` on a `NetworkLoss`: deep or ill-conditioned models, full gradients.

    Use it where first-order methods crawl (deep autoencoders, physics-informed losses) and gradients over all examples
    are affordable. Cost: see the module; a step is worth tens of gradients.

    Parameters
    ----------
    damping
        The first λ, relative to the curvature along the first gradient; 0: none, ever.
    cg_steps
        Limit of CG steps.
    progress
        ε of the rule that ends CG: the model fell by less than kε of itself over k = max(10, i/10) steps.
    decay
        The share of the last step that CG starts from, in [0, 1).
    preconditioner
        ``"fisher"``: (diag + λ)^0.75 with the diagonal of the empirical Fisher matrix; None.
    batch
        Examples that the curvature is taken over, drawn anew each step; None: all. Value and gradient are over all.
    spacing
        CG iterates are saved at powers of it, > 1.
    key
        `jax.random.key` for batches and signs.

    Raises
    ------
    InputError
        For settings out of range.

    Notes
    -----
    The history has ``damping``, ``cg_steps`` and ``ratio`` of loss decrease to model decrease.

    Examples
    --------
    >>> from corollary.optim import minimize
    >>> X, y = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 1.0])
    >>> problem = NetworkLoss(lambda w, x: x @ w, lambda z, y: (z - y) ** 2 / 2, X, y)
    >>> solution = minimize(problem, jnp.zeros(2), HessianFree(damping=0.0))
    >>> solution.value.round(4).tolist(), int(solution.steps)
    ([1.0, 0.5], 1)
    """

    damping: Any = 0.1
    cg_steps: int = eqx.field(static=True, default=150)
    progress: Any = 5e-4
    decay: Any = 0.95
    preconditioner: Any = eqx.field(static=True, default="fisher")
    batch: int | None = eqx.field(static=True, default=None)
    spacing: float = eqx.field(static=True, default=1.5)
    key: Key[Array, ""] | None = None

    def __check_init__(self):
        """Refuse settings out of range."""
        at_least_zero("damping", self.damping)
        at_least_zero("progress", self.progress)
        if not isinstance(self.decay, jax.Array):
            validation.number(0.0, 1.0)("decay", self.decay)
        validation.integer(1)("cg_steps", self.cg_steps)
        validation.integer(1, none=True)("batch", self.batch)
        validation.number(1.0, open_low=True)("spacing", self.spacing)
        validation.one_of("fisher", None)("preconditioner", self.preconditioner)

    def check(self, problem: Problem) -> None:
        """A `NetworkLoss`."""
        network_loss(problem)

    def init(self, problem: NetworkLoss, x0: PyTree) -> HessianFreeState:
        """The state at x0, with λ from the curvature along the gradient."""
        start = descent(problem, x0, self.key)
        damping = like(self.damping, x0) * _quotient(start.gradient, problem.ggn(x0, problem.data).mv)
        nothing = optax.tree.zeros_like(x0)
        return HessianFreeState(x0, start.value, start.gradient, nothing, damping, start.key)

    def step(self, problem: NetworkLoss, state: HessianFreeState) -> tuple[HessianFreeState, Info]:
        """One damped, truncated Gauss-Newton step."""
        rows, signs, after = jax.random.split(state.key, 3)
        data, x, g, size = problem.batch(rows, self.batch), state.x, state.gradient, norm(state.gradient)
        operator, eps = problem.ggn(x, data), jnp.finfo(state.value.dtype).eps
        along = _quotient(g, operator.mv)
        run = conjugate_gradients(
            lambda v: optax.tree.add_scale(operator.mv(v), state.damping, v),
            optax.tree.scale(-1, g),
            optax.tree.scale(like(self.decay, x), state.delta),
            tol=10 * eps,
            max_steps=self.cg_steps,
            precondition=self._preconditioner(problem, data, state, along, signs),
            progress=self.progress,
            keep=marks(self.cg_steps, self.spacing),
        )
        delta, trial = _best(problem, x, run)
        slope, curved = dot(g, delta), dot(delta, operator.mv(delta))
        # A warm start may end on a step that goes up (another batch, too few steps): then the gradient, CG's first.
        fine = jnp.isfinite(trial) & (slope < 0)
        short = 1 / jnp.where(along + state.damping > 0, along + state.damping, 1)
        delta = optax.tree.where(fine, delta, optax.tree.scale(-short, g))
        slope = jnp.where(fine, slope, -short * size**2)
        curved = jnp.where(fine, curved, short**2 * along * size**2)
        noise = rounding(state.value, 4.0)

        t, taken, value = _search(lambda t: problem.objective(optax.tree.add_scale(x, t, delta)), state.value, slope)
        model = slope + curved / 2
        full = jnp.where(fine, trial, problem.objective(optax.tree.add_scale(x, 1, delta)))
        ratio = (full - state.value) / jnp.where(model < 0, model, -1)
        damping = jnp.where(ratio > HIGH, state.damping / FACTOR, state.damping)
        damping = jnp.where(ratio >= LOW, damping, state.damping * FACTOR)  # of a NaN, too
        damping = jnp.where(taken, damping, state.damping * 4)

        new = optax.tree.where(taken, optax.tree.add_scale(x, t, delta), x)
        gradient = jax.grad(problem.objective)(new)
        info = Info(
            objective=value,
            residual=norm(gradient),
            gradient_scale=size,
            from_start=True,
            floor=rounding(along * norm(new) + size),
            step=t,
            stuck=(-model <= noise) & (norm(gradient) >= size),
            extra={"damping": state.damping, "cg_steps": run.steps.astype(value.dtype), "ratio": ratio},
        )
        return HessianFreeState(new, value, gradient, delta, damping, after), info

    def _preconditioner(
        self, problem: NetworkLoss, data: tuple[Any, ...], state: HessianFreeState, along: Scalar, key: Key[Array, ""]
    ) -> Callable[[PyTree], PyTree] | None:
        """v ↦ v/(D + λ)^0.75; D is scaled to the curvature along g, so that the two add up in the same units."""
        if self.preconditioner is None:
            return None
        inputs, *targets = data
        n, x, g = count(data), state.x, state.gradient

        def signed(key: Key[Array, ""]) -> PyTree:
            sign = jax.random.rademacher(key, (n,), state.value.dtype)

            def weighted(params: PyTree) -> Scalar:
                outputs = jax.vmap(problem.model, (None, 0))(params, inputs)
                return jnp.sum(sign * jax.vmap(problem.loss)(outputs, *targets)) / n**0.5

            return jax.grad(weighted)(x)

        draws = jax.lax.map(signed, jax.random.split(key, PROBES))
        top = norm(draws)  # only the shape of the diagonal counts: no square over- or underflows
        draws = optax.tree.scale(1 / jnp.where(top > 0, top, 1), draws)
        diagonal = jax.tree.map(lambda s: jnp.mean(jnp.square(s), axis=0), draws)
        here = _quotient(g, lambda v: jax.tree.map(jnp.multiply, diagonal, v))
        diagonal = optax.tree.scale(jnp.where(here > 0, along / jnp.where(here > 0, here, 1), 0), diagonal)
        size = sum(leaf.size for leaf in jax.tree.leaves(diagonal))
        floor = state.damping + 1e-3 * (total(diagonal) / size + along)
        weights = jax.tree.map(lambda d: jnp.where(floor > 0, d + floor, 1) ** POWER, diagonal)
        return lambda v: jax.tree.map(jnp.divide, v, weights)


def _quotient(v: PyTree, product: Callable[[PyTree], PyTree]) -> Scalar:
    """⟨v, Av⟩/⟨v, v⟩, without squares that over- or underflow; 0 for v = 0."""
    size = norm(v)
    unit = optax.tree.scale(1 / jnp.where(size > 0, size, 1), v)
    return dot(unit, product(unit))


def _best(problem: NetworkLoss, x: PyTree, run: CGRun) -> tuple[PyTree, Scalar]:
    """The CG iterate and its loss, going back through the saved ones as long as the loss falls."""

    def loss(delta: PyTree) -> Scalar:
        value = problem.objective(optax.tree.add_scale(x, 1, delta))
        return jnp.where(jnp.isnan(value), jnp.inf, value)

    def earlier(carry):
        index, delta, value, _ = carry
        before = jax.tree.map(lambda leaf: leaf[index], run.saved)
        candidate = loss(before)
        better = candidate < value
        return index - 1, optax.tree.where(better, before, delta), jnp.where(better, candidate, value), better

    begin = run.count - 1, run.x, loss(run.x), jnp.array(True)
    _, delta, value, _ = jax.lax.while_loop(lambda c: (c[0] >= 0) & c[3], earlier, begin)
    return delta, value


def _search(along: Callable[[Scalar], Scalar], value: Scalar, slope: Scalar) -> tuple[Scalar, Any, Scalar]:
    """The longest of 1, 0.8, 0.64, ... with sufficient decrease; whether there is one; the loss there."""
    noise = rounding(value, 2.0)

    def short_of(trial):
        t, new, k = trial
        return ~(new <= value + SUFFICIENT * t * slope + noise) & (k < TRIALS)

    def shorten(trial):
        t = SHRINK * trial[0]
        return t, along(t), trial[2] + 1

    one = jnp.ones_like(value)
    t, new, _ = jax.lax.while_loop(short_of, shorten, (one, along(one), jnp.int32(0)))
    taken = new <= value + SUFFICIENT * t * slope + noise
    return t, taken, jnp.where(taken, new, value)
