"""Katyusha: accelerated SVRG, whose momentum is held back by a pull towards the snapshot.

With τ₂ = ½ and an epoch of m blocks,

    x = τ₁z + τ₂x̃ + (1 − τ₁ − τ₂)y,    v = ∇f_B(x) − ∇f_B(x̃) + ∇f(x̃),
    z⁺ = prox_{αH}(z − αv),    y⁺ = prox_{H/(3L)}(x − v/(3L)),    α = 1/(3τ₁L),    H = h + (l2/2)‖·‖²,

and x̃ becomes the mean of the y's with weights (1 + αμ)^j. With τ₁ = min(√(mμ/(3L)), ½) it takes
O((N + √(N·L/μ)) log 1/ε) blocks: better than SVRG's N + L/μ where L/μ > N. Where no strong convexity is known,
τ₁ = 2/(s + 4) in epoch s, and F(x̃) − F* = O(1/s²). Cost: as `SVRG`, and two proxes a block.
Source: Allen-Zhu, "Katyusha: the first direct acceleration of stochastic gradient methods" (2018), theorems 2.1, 4.1.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key, PyTree

from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.stochastic import _epoch as E
from corollary.optim.stochastic._finite_sum import FiniteSum
from corollary.optim.stochastic._svrg import difference


class KatyushaState(eqx.Module):
    """The snapshot (its ``x`` is the iterate), y and z, the step 1/(3L), how many epochs, and the key."""

    x: PyTree
    snapshot: E.Snapshot
    y: PyTree
    z: PyTree
    step: Scalar
    epochs: Int[Array, ""]
    key: Key[Array, ""]


@final
class Katyusha(Solver):
    """Katyusha for `minimize`, with an optional prox; h and all f_i convex. A step is a full gradient and an epoch.

    Parameters
    ----------
    strong_convexity
        μ of F; ``l2`` and what the problem knows if left out. Zero: the accelerated method without strong convexity.
    step_size
        1/(3L); from the smoothness of a block if left out.
    batch_size, sampling, key
        As in `SVRG`.
    passes
        Length m of an epoch in passes: 2 in the paper.

    Examples
    --------
    >>> from corollary.optim import FiniteSum, minimize
    >>> problem = FiniteSum("squared", [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], [1.0, 2.0, 2.0], l2=0.1)
    >>> minimize(problem, solver=Katyusha(), tol=1e-9).value.round(3).tolist()
    [0.885, 0.965]
    """

    strong_convexity: Any = None
    step_size: Any = None
    batch_size: int | str = eqx.field(static=True, default="auto")
    passes: int = eqx.field(static=True, default=2)
    sampling: str = eqx.field(static=True, default="iid")
    key: Any = None

    def __check_init__(self):
        """Refuse settings out of range."""
        at_least_zero("strong_convexity", self.strong_convexity)
        E.check_settings(self)

    def check(self, problem: Problem) -> None:
        """A `FiniteSum`."""
        E.check_problem(problem, self)

    def init(self, problem: FiniteSum, x0: PyTree) -> KatyushaState:
        """A full gradient at x0; y = z = x̃."""
        b = E.batch(problem, self.batch_size)
        first = E.snapshot(problem, x0, b)
        step = E.step_of(self.step_size, problem, first, b, 1 / 3)
        return KatyushaState(x0, first, x0, x0, step, jnp.int32(0), E.first_key(self.key))

    def step(self, problem: FiniteSum, state: KatyushaState) -> tuple[KatyushaState, Info]:
        """An epoch, and the full gradient at its snapshot."""
        b = E.batch(problem, self.batch_size)
        steps = self.passes * problem.terms.blocks(b)
        key, draws = jax.random.split(state.key)
        order = E.order(draws, self.sampling, steps, problem.terms.blocks(b))
        mu = problem.mu(state.x) if self.strong_convexity is None else like(self.strong_convexity, state.x)
        strong = jnp.minimum(jnp.sqrt(steps * mu * state.step), 0.5)
        tau = jnp.where(mu > 0, strong, 2 / (state.epochs + 4).astype(mu.dtype))
        alpha = state.step / tau
        at = state.snapshot

        def body(t, carry):
            y, z, mean, ratio = carry
            x = jax.tree.map(lambda z, s, y: tau * z + s / 2 + (0.5 - tau) * y, z, at.x, y)
            v = difference(problem, at, x, order[t], b, ridge=False)
            z = _move(problem, z, v, alpha)
            y = _move(problem, x, v, state.step)
            # A running mean with weights (1 + αμ)^t: `ratio` is their sum over the newest, which cannot overflow.
            ratio = 1 + ratio / (1 + alpha * mu)
            return y, z, optax.tree.add_scale(mean, 1 / ratio, optax.tree.sub(y, mean)), ratio

        start = (state.y, state.z, at.x, jnp.zeros_like(tau))
        y, z, x, _ = jax.lax.fori_loop(0, steps, body, start)
        new = E.snapshot(problem, x, b, at.curvature)
        after = KatyushaState(x, new, y, z, state.step, state.epochs + 1, key)
        after, new = E.guarded(problem, after, state, new, at, b, self.step_size)
        return after, E.report(problem, new, at, state.step)

    def stats(self, problem: FiniteSum, state: KatyushaState) -> dict[str, Any]:
        """The block's size."""
        return {"batch_size": E.batch(problem, self.batch_size)}


def _move(problem: FiniteSum, x: PyTree, v: PyTree, step: Scalar) -> PyTree:
    """The prox of step·(h + (l2/2)‖·‖²) at x − step·v: the theorem wants the strong convexity there."""
    shrink = 1 if problem.l2 is None else 1 + step * like(problem.l2, x)
    return problem.penalty.prox(optax.tree.scale(1 / shrink, optax.tree.add_scale(x, -step, v)), step / shrink)
