"""Functions on which no first-order method is fast: chains that show one new coordinate per gradient.

Started at 0, a method whose points lie in x0 + span of the gradients seen has at most k nonzero coordinates after k
gradients, and no point of that subspace is good. Nesterov's tridiagonal quadratics prove the rates of his method
optimal; the chain of Carmon et al. does for critical points, and laid along a chain of agents that must agree (A x =
0), it makes every new coordinate travel: the count then grows with κ(A).
Cost: O(d) per gradient. Source: Nesterov, "Lectures on Convex Optimization" (2018), theorems 2.1.7 and 2.1.13; Carmon,
Duchi, Hinder & Sidford, "Lower bounds for finding stationary points I" (2020), section 3; Sun & Hong, "Distributed
non-convex first-order optimization and information processing" (2019), section 3, for the agents.
"""

from __future__ import annotations

import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.optim._composite import Composite
from corollary.optim._smooth import Differentiable

SMOOTH, DESCENT = 152.0, 12.0  # of the chain: Lipschitz constant of its gradient; f(0) − inf f per link


class Tridiagonal(eqx.Module):
    """a/2·(x_1² + Σ(x_i − x_{i+1})² + e·x_p²) − a·x_1 + m/2·‖x‖² on the first p coordinates."""

    a: Any
    end: Any
    m: Any
    active: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """f(x)."""
        a, end, m = (jnp.asarray(c).astype(x.dtype) for c in (self.a, self.end, self.m))
        y = x[: self.active]
        chain = y[0] ** 2 + jnp.sum(jnp.square(y[1:] - y[:-1])) + end * y[-1] ** 2
        return a / 2 * chain - a * y[0] + m / 2 * jnp.sum(x**2)


@final
class WorstQuadratic(eqx.Module):
    """Nesterov's worst quadratic for k steps from 0.

    Attributes
    ----------
    problem
        The function, as a `Composite` that knows L.
    reference, minimum
        x* and f*.
    theorem
        The bound after k steps: 3L‖x*‖²/(32(k + 1)²), or μ/2·((√κ − 1)/(√κ + 1))^2k‖x*‖² (μ > 0; in d dimensions less
        its tail).
    bounds
        For every j = 0, ..., k the bound of this very function, the least f − f* (μ > 0: a lower bound of it) with j
        nonzeros.
    """

    problem: Composite
    reference: Float[np.ndarray, " d"]
    minimum: float
    theorem: float
    bounds: Float[np.ndarray, " k"]
    source: str = eqx.field(static=True)

    @property
    def start(self) -> Float[np.ndarray, " d"]:
        """The origin."""
        return np.zeros_like(self.reference)

    def certificate(self, suboptimality: Any) -> Certificate:
        """f(x_j) − f* ≥ bound for the first steps of a run; entry j − 1 of `suboptimality` is of x_j."""
        gaps = np.asarray(suboptimality, dtype=float)[: len(self.bounds) - 1]
        slack = np.asarray(rounding(jnp.asarray(abs(self.minimum) + np.abs(gaps)), 16.0))
        known = (Assumption("x_j in the span of j gradients, from 0"),)
        claim = "bound <= f(x_j) − f*"
        return Certificate(
            claim, self.bounds[1 : len(gaps) + 1], gaps + slack, "theorem", self.source, assumptions=known
        )


def first_order_lower_bound(
    k: int, *, dimension: int | None = None, lipschitz: float = 1.0, strong_convexity: float = 0.0
) -> WorstQuadratic:
    """The quadratic on which no first-order method is good after k steps from 0.

    Parameters
    ----------
    k
        How many steps, k ≤ (d − 1)/2.
    dimension
        d; 2k + 1 if left out (8k + 1 for μ > 0, where the bound is that of infinitely many less its tail).
    lipschitz, strong_convexity
        0 ≤ μ < L.

    Raises
    ------
    InputError
        For constants out of range and a dimension that is too small.

    Notes
    -----
    The function depends on k: on the one for K steps the bound 3L‖x*‖²/(32(j + 1)²) does not hold for j much smaller
    than K; ``bounds`` has what does. Source: Nesterov (2018), theorems 2.1.7 and 2.1.13.

    Examples
    --------
    >>> worst = first_order_lower_bound(10)
    >>> round(float(worst.bounds[10] / worst.theorem), 3)
    1.072
    """
    validation.integer(1)("k", k)
    L = float(validation.number(0.0, open_low=True)("lipschitz", lipschitz))
    m = float(validation.number(0.0)("strong_convexity", strong_convexity))
    if m >= L:
        raise InputError(f"strong_convexity: found {m}, expected less than lipschitz = {L}")
    d = validation.integer(2 * k + 1)("dimension", dimension or (8 * k + 1 if m else 2 * k + 1))
    j = np.arange(k + 1)
    reference = np.zeros(d)
    if m == 0:
        p, a, end = 2 * k + 1, L / 4, 1.0
        reference[:p] = 1 - np.arange(1, p + 1) / (p + 1)
        bounds = L / 8 * (1 / (j + 1) - 1 / (p + 1))
        theorem = 3 * L * float(reference @ reference) / (32 * (k + 1) ** 2)
        source = "Nesterov (2018), theorem 2.1.7"
    else:
        root = math.sqrt(L / m)
        q = (root - 1) / (root + 1)
        p, a, end = d, (L - m) / 4, 2 / (root + 1)
        reference[:] = q ** np.arange(1, d + 1)
        tail = np.cumsum((reference**2)[::-1])[::-1]
        bounds = m / 2 * np.append(tail, 0.0)[j]
        theorem = float(bounds[k])
        source = "Nesterov (2018), theorem 2.1.13"
    problem = Composite(Differentiable(Tridiagonal(a, end, m, p), lipschitz=L))
    return WorstQuadratic(problem, reference, -a / 2 * float(reference[0]), theorem, bounds, source)


class AgentsChain(eqx.Module):
    """Σ_i f_i(x_i) for 3p agents: odd links of the chain in the first third, even links in the last."""

    scale: Any
    sigma: Any
    third: int = eqx.field(static=True)
    links: int = eqx.field(static=True)

    def __call__(self, x: Float[Array, "agents links"]) -> Float[Array, ""]:
        """f(x), x with a row for each agent."""
        scale, sigma = (jnp.asarray(c).astype(x.dtype) for c in (self.scale, self.sigma))
        y = x / sigma
        left, right = y[: self.third], y[-self.third :]
        odd = jnp.arange(self.links) % 2 == 0  # links 1, 3, 5, ...
        return scale * (jnp.sum(jnp.where(odd, _links(left), 0)) + jnp.sum(jnp.where(odd, 0, _links(right))))

    def average(self, x: Float[Array, "agents links"]) -> Float[Array, ""]:
        """‖the gradient along agreement‖ at the agents' average: 0 at a critical point of the constrained problem."""
        mean = jnp.broadcast_to(jnp.mean(x, axis=0), x.shape)
        total = jnp.sum(jax.grad(self.__call__)(mean), axis=0)
        return jnp.linalg.norm(total) / jnp.sqrt(jnp.asarray(x.shape[0]).astype(x.dtype))


def _links(y: Float[Array, "agents links"]) -> Float[Array, "agents links"]:
    """The terms of Carmon et al.: −Ψ(1)Φ(y_1), then Ψ(−y_{i−1})Φ(−y_i) − Ψ(y_{i−1})Φ(y_i)."""
    before = jnp.concatenate([jnp.ones_like(y[:, :1]), y[:, :-1]], axis=1)
    return _psi(-before) * _phi(-y) - _psi(before) * _phi(y)


def _psi(t: Array) -> Array:
    on = t > 0.5
    safe = jnp.where(on, 2 * t - 1, 1.0)
    return jnp.where(on, jnp.exp(1 - 1 / safe**2), 0.0)


def _phi(t: Array) -> Array:
    return float(np.sqrt(np.e * 2 * np.pi)) * jax.scipy.stats.norm.cdf(t)


@final
class AffineWorstCase(eqx.Module):
    """A smooth function under A x = 0 on which every first-order method is slow.

    Attributes
    ----------
    function
        f, of x (agents, links); `AgentsChain.average` is the criterion of a point.
    predicted
        After so many rounds (one gradient, one product with A and one with Aᵀ each) from 0 the criterion is above ε.
    condition
        κ(A) of the chain of differences, x_i − x_{i+1}.
    eps, gap, lipschitz
        ε, Δ ≥ f(0) − inf f on A x = 0, and L.
    """

    function: AgentsChain
    predicted: int
    condition: float
    eps: float
    gap: float
    lipschitz: float

    @property
    def start(self) -> Float[np.ndarray, "agents links"]:
        """The origin."""
        return np.zeros((3 * self.function.third, self.function.links))

    def forward(self, x: Float[Array, "agents links"]) -> Float[Array, "edges links"]:
        """A x."""
        return x[:-1] - x[1:]

    def adjoint(self, y: Float[Array, "edges links"]) -> Float[Array, "agents links"]:
        """Aᵀy."""
        return jnp.diff(jnp.pad(y, ((1, 1), (0, 0))), axis=0)

    def certificate(self, criterion: Any) -> Certificate:
        """ε < the criterion for the first rounds of a run; entry j − 1 of `criterion` is after round j."""
        seen = np.asarray(criterion, dtype=float)[: self.predicted]
        known = (Assumption("a round takes one gradient, one product with A and one with Aᵀ, from 0"),)
        claim = "ε <= ‖gradient along A x = 0‖ until the predicted round"
        source = "Carmon et al. (2020), lemma 2; Sun & Hong (2019), section 3"
        return Certificate(claim, np.full(seen.shape, self.eps), seen, "theorem", source, assumptions=known)


def affine_lower_bound(condition: float, *, lipschitz: float = 1.0, gap: float = 1.0, eps: float) -> AffineWorstCase:
    """The chain of agents on which ε takes order κ(A)·LΔ/ε² rounds of any first-order method.

    Parameters
    ----------
    condition
        κ(A) ≥ 4 at most: the chain has 3p agents with cot(π/(6p)) ≤ κ.
    lipschitz, gap
        L > 0 and Δ > 0.
    eps
        ε, small enough for two links: ε² ≤ LΔ/10944.

    Raises
    ------
    InputError
        For constants out of range.

    Examples
    --------
    >>> worst = affine_lower_bound(8.0, eps=5e-3)
    >>> worst.start.shape, worst.predicted
    ((12, 7), 30)
    """
    kappa = float(validation.number(4.0)("condition", condition))
    L = float(validation.number(0.0, open_low=True)("lipschitz", lipschitz))
    delta = float(validation.number(0.0, open_low=True)("gap", gap))
    validation.number(0.0, open_low=True)("eps", eps)
    p = max(int(math.pi / (6 * math.atan(1 / kappa)) * (1 + 1e-12)), 1)
    links = int(L * delta / (3 * SMOOTH * DESCENT * eps**2) * (1 + 1e-12))
    if links < 2:
        most = math.sqrt(L * delta / (6 * SMOOTH * DESCENT))
        raise InputError(f"eps: found {eps}, expected at most {most:.3g} (two links of the chain)")
    sigma = SMOOTH * math.sqrt(3 / p) * eps / L
    scale = L * sigma**2 / SMOOTH  # of each agent's terms: its gradient is then L-Lipschitz
    function = AgentsChain(scale, sigma, p, links)
    # Link 1 shows at the first gradient; each further one has to cross the p agents in the middle.
    predicted = (links - 1) * (p + 1)
    return AffineWorstCase(function, predicted, 1 / math.tan(math.pi / (6 * p)), float(eps), delta, L)
