"""What theory promises of gradient descent and FISTA, held against a run: the descent lemma, rates, and the energy.

Each function runs the method for a fixed number of steps from x0 and needs a minimiser x* (and the constants L, m) to
speak of; cost: that of the steps. `minimize(..., reference=x*)` gives the rates of a run that stops by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._composite import Composite
from corollary.optim._tree import at_least_zero, dtype, finite, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.proximal._fista import Fista

Function = Callable[[Any], Any]
CONVEX = "Nesterov (2018), theorem 2.1.14"


@follows_input
def descent_lemma(f: Function, x: Any, step: Any, lipschitz: Any) -> Solution:
    """One gradient step against the descent lemma: f(x − t∇f) ≤ f(x) − t(1 − Lt/2)‖∇f(x)‖².

    The inequality holds for every t where ∇f is L-Lipschitz; it promises descent only for t < 2/L.

    Parameters
    ----------
    f
        Differentiable function of an array or pytree.
    x
        A point.
    step, lipschitz
        t > 0 and L > 0.

    Returns
    -------
    Solution
        ``value`` is x − t∇f(x); ``stats["slack"]`` the right side less the left, ``stats["decrease"]`` f(x) less it.

    Notes
    -----
    Certificate ``descent`` (theorem). Source: Nesterov, "Lectures on Convex Optimization" (2018), lemma 1.2.3.

    Examples
    --------
    >>> one = descent_lemma(lambda x: (x**2).sum(), [1.0, 2.0], 0.25, 4.0)
    >>> round(float(one.stats["decrease"]), 6), round(float(one.stats["slack"]), 6)
    (3.75, 1.25)
    """
    x = finite("x", x)
    t, L = _positive("step", step, x), _positive("lipschitz", lipschitz, x)
    value, gradient = jax.value_and_grad(f)(x)
    new = optax.tree.add_scale(x, -t, gradient)
    after, bound = f(new), value - t * (1 - L * t / 2) * norm(gradient) ** 2
    slack = rounding(jnp.abs(value) + jnp.abs(after) + t * (1 + L * t) * norm(gradient) ** 2)
    source = "Nesterov (2018), lemma 1.2.3"
    assumed = (Assumption("∇f is L-Lipschitz"),)
    claim = "f(x − t∇f) <= f(x) − t(1 − Lt/2)‖∇f‖²"
    certificate = Certificate(claim, after, bound + slack, "theorem", source, assumptions=assumed)
    return Solution(new, {"descent": certificate}, stats={"slack": bound - after, "decrease": value - after})


def quadratic_surrogate(f: Function, x: PyTree, step: Any) -> Function:
    """The model y ↦ f(x) + ⟨∇f(x), y − x⟩ + ‖y − x‖²/(2t), which the gradient step x − t∇f(x) minimises.

    It lies above f everywhere iff t ≤ 1/L. Source: Nesterov (2018), eq. (1.2.17).

    Examples
    --------
    >>> model = quadratic_surrogate(lambda x: (x**2).sum(), jnp.ones(2), 0.5)
    >>> abs(float(model(jnp.zeros(2)))) < 1e-6
    True
    """
    value, gradient = jax.value_and_grad(f)(x)

    def surrogate(y):
        moved = optax.tree.sub(y, x)
        return value + optax.tree.vdot(gradient, moved) + norm(moved) ** 2 / (2 * like(step, x))

    return surrogate


@follows_input
def gd_rate_convex(f: Function, x0: Any, reference: Any, lipschitz: Any, steps: int, *, step: Any = None) -> Solution:
    """Gradient descent on a convex function against f(x_k) − f* ≤ ‖x0 − x*‖²/(2tk).

    With t = 1/L also against the tight bound L‖x0 − x*‖²/(4k + 2), which a Huber function attains. The distance to x*
    has no rate here: it only never grows.

    Parameters
    ----------
    f
        Convex differentiable function of an array or pytree.
    x0, reference
        The start and a minimiser x*.
    lipschitz
        L > 0.
    steps
        How many.
    step
        t ≤ 1/L; 1/L if left out.

    Returns
    -------
    Solution
        ``value`` is the last point; ``history`` holds ``suboptimality``, ``rate_bound``, ``tight_bound`` (for t = 1/L)
        and ``distance``, entry k − 1 for x_k.

    Notes
    -----
    Certificates: ``rate``, ``tight_rate`` (theorem, one claim per step) and ``distance`` (monitor).
    Source: Beck & Teboulle (2009), theorem 3.1; Drori & Teboulle (2014), theorem 3.1.

    Examples
    --------
    >>> run = gd_rate_convex(lambda x: (x**2).sum(), [1.0, 2.0], [0.0, 0.0], 2.0, 5, step=0.1)
    >>> bool(run.certificates["rate"].holds.all())
    True
    """
    x0, reference, L = _setting(x0, reference, lipschitz, steps)
    t = 1 / L if step is None else _positive("step", step, x0)
    last, gaps, distances, slack = _descend(f, x0, reference, t, steps)
    k = jnp.arange(1, steps + 1).astype(gaps.dtype)
    squared = distances[0] ** 2
    small = Assumption("step <= 1/L", checked=True, holds=t * L <= 1 + rounding(jnp.ones_like(t)))
    known = (Assumption("f convex, ∇f L-Lipschitz"), Assumption("the reference minimises f"), small)
    rate = squared / (2 * t * k)
    history = {"suboptimality": gaps, "rate_bound": rate, "distance": distances[1:]}
    certificates = {
        "rate": _every_step(
            "f(x_k) − f* <= ‖x0 − x*‖²/(2tk)", gaps, rate + slack, "Beck & Teboulle (2009), theorem 3.1", known
        ),
        "distance": _never_grows(distances),
    }
    if step is None:
        tight = L * squared / (4 * k + 2)
        history["tight_bound"] = tight
        source = "Drori & Teboulle (2014), theorem 3.1"
        certificates["tight_rate"] = _every_step(
            "f(x_k) − f* <= L‖x0 − x*‖²/(4k + 2)", gaps, tight + slack, source, known
        )
    return Solution(last, certificates, Status.of(True, jnp.isfinite(norm(last))), steps, history=history)


@follows_input
def gd_rate_strongly_convex(
    f: Function,
    x0: Any,
    reference: Any,
    strong_convexity: Any,
    lipschitz: Any,
    steps: int,
    *,
    step: Any = None,
) -> Solution:
    """Gradient descent on an m-strongly convex function against f(x_k) − f* ≤ γ^k·L/2·‖x0 − x*‖², γ = 1 − 2tmL/(m + L).

    The step 2/(m + L) is the best constant one: it exceeds 1/L and contracts the distance by (κ − 1)/(κ + 1) a step.
    With t = 1/L (left out) also against (1 − m/L)^k (f(x0) − f*).

    Parameters
    ----------
    f
        Differentiable function of an array or pytree.
    x0, reference
        The start and the minimiser x*.
    strong_convexity, lipschitz
        0 < m ≤ L.
    steps
        How many.
    step
        t ≤ 2/(m + L); 1/L if left out.

    Returns
    -------
    Solution
        ``value`` is the last point; ``history`` holds ``suboptimality``, ``rate_bound`` and ``distance``;
        ``stats["best_step"]`` is 2/(m + L), ``stats["factor"]`` is γ.

    Notes
    -----
    Certificates: ``rate``, and ``objective_rate`` for t = 1/L (theorem, one claim per step); ``distance`` (monitor).
    Source: Nesterov (2018), theorem 2.1.15; Karimi, Nutini & Schmidt (2016), theorem 1.

    Examples
    --------
    >>> run = gd_rate_strongly_convex(lambda x: (x**2).sum(), [1.0, 2.0], [0.0, 0.0], 2.0, 2.0, 5, step=0.1)
    >>> bool(run.certificates["rate"].holds.all()), float(run.stats["best_step"])
    (True, 0.5)
    """
    x0, reference, L = _setting(x0, reference, lipschitz, steps)
    m = _positive("strong_convexity", strong_convexity, x0)
    t = 1 / L if step is None else _positive("step", step, x0)
    last, gaps, distances, slack = _descend(f, x0, reference, t, steps)
    k = jnp.arange(1, steps + 1).astype(gaps.dtype)
    factor = 1 - 2 * t * m * L / (m + L)
    edge = 2 / (m + L)
    short = Assumption("step <= 2/(m + L)", checked=True, holds=t <= edge + rounding(edge))
    known = (Assumption("f m-strongly convex, ∇f L-Lipschitz"), Assumption("the reference minimises f"), short)
    rate = jnp.maximum(factor, 0) ** k * L / 2 * distances[0] ** 2
    source = "Nesterov (2018), theorem 2.1.15"
    claim = "f(x_k) − f* <= γ^k·L/2·‖x0 − x*‖²"
    certificates = {"rate": _every_step(claim, gaps, rate + slack, source, known), "distance": _never_grows(distances)}
    if step is None:
        objective_rate = (1 - m / L) ** k * (f(x0) - f(reference))
        certificates["objective_rate"] = _every_step(
            "f(x_k) − f* <= (1 − m/L)^k (f(x0) − f*)",
            gaps,
            objective_rate + slack,
            "Karimi, Nutini & Schmidt (2016), theorem 1",
            known,
        )
    history = {"suboptimality": gaps, "rate_bound": rate, "distance": distances[1:]}
    return Solution(
        last,
        certificates,
        Status.of(True, jnp.isfinite(norm(last))),
        steps,
        {"best_step": edge, "factor": factor},
        history,
    )


@follows_input
def fista_energy(problem: Composite, x0: Any, reference: Any, steps: int, *, step_size: Any = None) -> Solution:
    """FISTA's Lyapunov energy E_t = θ_{t−1}²(F(x_t) − F*) + L/2·‖z_t − x*‖², which never rises: why FISTA is fast.

    Here z_t = x_{t−1} + θ_{t−1}(x_t − x_{t−1}), θ_0 = 1. The energy pairs θ_{t−1}² with F(x_t): with θ_t² it is not
    monotone. F(x_t) − F* ≤ E_t/θ_{t−1}² ≤ 2L‖x0 − x*‖²/(t + 1)² follows.

    Parameters
    ----------
    problem
        A convex `Composite`.
    x0, reference
        The start and a minimiser x*.
    steps
        How many.
    step_size
        1/L; from the smooth term where it knows L, if left out.

    Returns
    -------
    Solution
        ``value`` is E_1, ..., E_steps; ``history`` holds ``energy``, ``energy_bound``, ``suboptimality`` and ``theta``
        (θ_{t−1} beside x_t).

    Notes
    -----
    Certificates: ``decrease`` (monitor, one claim per step), no rise; ``start`` (theorem), E_t ≤ L/2·‖x0 − x*‖².
    Source: Beck & Teboulle (2009), lemma 4.1 and the proof of theorem 4.4.

    Examples
    --------
    >>> from corollary.optim import LeastSquares
    >>> problem = Composite(LeastSquares([[1.0, 0.0], [0.0, 0.1]], [0.0, 0.0]))
    >>> bool(fista_energy(problem, [1.0, 10.0], [0.0, 0.0], 20).certificates["decrease"].holds.all())
    True
    """
    solver = Fista(restart=None, step_size=step_size)
    if problem.smooth.lipschitz() is None and step_size is None:
        raise InputError("step_size: found None, expected 1/L (the smooth term does not know L)")
    x0, reference = _pair(x0, reference)
    validation.integer(1)("steps", steps)
    best = problem.objective(reference)

    def body(state, _):
        new, info = solver.step(problem, state)
        z = optax.tree.add_scale(state.x, state.theta, optax.tree.sub(new.x, state.x))
        gap, square = info.objective - best, state.theta**2
        noise = square * (jnp.abs(info.objective) + jnp.abs(best))
        energy = square * gap + norm(optax.tree.sub(z, reference)) ** 2 / (2 * info.step)
        return new, (energy, gap, state.theta, noise)

    start = solver.init(problem, x0)
    _, (energy, gap, theta, noise) = jax.lax.scan(body, start, length=steps)
    first = norm(optax.tree.sub(x0, reference)) ** 2 / (2 * start.step)
    slack = rounding(noise + first, 16.0)
    rise = jnp.diff(jnp.concatenate([first[None], energy]))
    source = "Beck & Teboulle (2009), lemma 4.1"
    known = (Assumption("f and h convex, L = 1/step_size"), Assumption("the reference minimises F"))
    certificates = {
        "decrease": Certificate(
            "E_{t+1} <= E_t", jnp.max(rise - 2 * slack), jnp.zeros(()).astype(rise.dtype), "monitor", source
        ),
        "start": _every_step("E_t <= L/2·‖x0 − x*‖²", energy, first + slack, source, known),
    }
    history = {"energy": energy, "energy_bound": jnp.full_like(energy, first), "suboptimality": gap, "theta": theta}
    return Solution(energy, certificates, Status.of(True, jnp.isfinite(energy[-1])), steps, history=history)


@eqx.filter_jit
def _descend(
    f: Function, x0: PyTree, reference: PyTree, step: Scalar, steps: int
) -> tuple[PyTree, Float[Array, " k"], Float[Array, " k1"], Scalar]:
    """Gradient descent: the last point, f(x_k) − f* for k ≥ 1, ‖x_k − x*‖ for k ≥ 0, and the rounding of the gaps."""
    best = f(reference)

    def body(x, _):
        x = optax.tree.add_scale(x, -step, jax.grad(f)(x))
        return x, (f(x) - best, norm(optax.tree.sub(x, reference)))

    last, (gaps, distances) = jax.lax.scan(body, x0, length=steps)
    start = norm(optax.tree.sub(x0, reference))
    slack = rounding(jnp.abs(best) + jnp.abs(f(x0)), 16.0)
    return last, gaps, jnp.concatenate([start[None], distances]), slack


def _every_step(
    claim: str, measured: Array, bound: Array, source: str, assumptions: tuple[Assumption, ...]
) -> Certificate:
    return Certificate(claim, measured, bound, "theorem", source, assumptions=assumptions)


def _never_grows(distances: Float[Array, " k1"]) -> Certificate:
    rise = jnp.max(jnp.diff(distances))
    return Certificate("‖x_k − x*‖ never grows", rise, rounding(distances[0]), "monitor", CONVEX)


def _positive(name: str, value: Any, tree: PyTree) -> Scalar:
    at_least_zero(name, value, positive=True)
    return like(value, tree)


def _pair(x0: Any, reference: Any) -> tuple[PyTree, PyTree]:
    x0, reference = finite("x0", x0), finite("reference", reference)
    if jax.tree.map(jnp.shape, x0) != jax.tree.map(jnp.shape, reference):
        raise InputError("reference: found other shapes than those of x0, expected the same")
    return x0, optax.tree.cast(reference, dtype(x0))


def _setting(x0: Any, reference: Any, lipschitz: Any, steps: int) -> tuple[PyTree, PyTree, Scalar]:
    x0, reference = _pair(x0, reference)
    validation.integer(1)("steps", steps)
    return x0, reference, _positive("lipschitz", lipschitz, x0)
