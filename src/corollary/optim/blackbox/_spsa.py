"""SPSA: simultaneous perturbation stochastic approximation, two noisy evaluations a step in any dimension.

With Δ of random signs, ĝ = (f(x + cΔ) − f(x − cΔ))/(2c)·Δ (for signs 1/Δ_i = Δ_i) and x ← x − a_k ĝ. Its bias is O(c²)
and vanishes on quadratics: over all 2^d sign vectors the mean of ĝ is ∇f exactly. One step costs 2 evaluations instead
of the 2d of central differences, for an estimate whose variance grows with d. Gains a/(k + 1 + A)^0.602 and c/(k +
1)^0.101. Use it on noisy simulators; where f is exact, `FiniteDifference` with a quasi-Newton solver is far better.
Source: Spall, IEEE Trans. Automat. Control 37 (1992), 332, lemma 1; Spall (1998) for the gains.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.blackbox._poll import Function, value_of
from corollary.optim.penalties._base import Scalar

ALPHA, GAMMA = 0.602, 0.101
SOURCE = "Spall (1992), proposition 1; Spall (1998), section III"


def spsa_gradient(f: Function, x: PyTree, c: Any, signs: PyTree) -> PyTree:
    """(f(x + cΔ) − f(x − cΔ))/(2c)·Δ for a pytree Δ of signs like x.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> spsa_gradient(lambda x: 3 * x[0], jnp.zeros(2), 0.5, jnp.asarray([1.0, -1.0])).tolist()
    [3.0, -3.0]
    """
    c = like(c, x)
    up, down = (value_of(f, optax.tree.add_scale(x, s * c, signs)) for s in (1, -1))
    return optax.tree.scale((up - down) / (2 * c), signs)


@follows_input
def spsa(
    f: Function,
    x0: Any,
    steps: int = 1000,
    *,
    a: Any,
    c: Any,
    stability: Any = None,
    noisy: bool = False,
    checks: int = 32,
    tol: Any = 0.05,
    key: Key[Array, ""],
) -> Solution:
    """Minimise a function that can only be evaluated, with noise, by simultaneous perturbation.

    Parameters
    ----------
    f
        ``f(x)``, or with `noisy` ``f(x, key)``, of an array or pytree.
    x0
        The start.
    steps
        Each takes two evaluations.
    a, c
        Gains: the first step moves each coordinate by about a·|slope|/(A + 1)^0.602; c is about the noise's standard
        deviation (in units of x), or small.
    stability
        A in a/(k + 1 + A)^0.602; a tenth of `steps` if left out.
    noisy
        Whether f takes a key.
    checks
        How often the gradient is measured for the certificate when f is noisy (once otherwise), at the start and the
        end.
    tol
        Relative size of the last gradient that counts as converged.
    key
        Of `jax.random.key`.

    Returns
    -------
    Solution
        ``value`` is the mean of the last tenth of the iterates; ``history["objective"]`` the mean of each step's two
        evaluations; ``stats["evaluations"]`` the count, the certificate's included.

    Notes
    -----
    Certificate ``stationarity`` (monitor): central-difference gradient at the answer ≤ tol times that at x0, plus three
    standard errors (of the noise, or the rounding of f). Source: Spall (1992, 1998).

    Examples
    --------
    >>> import jax
    >>> found = spsa(lambda x: ((x - 1) ** 2).sum(), [3.0, -2.0], 500, a=0.5, c=0.1, key=jax.random.key(0))
    >>> found.value.round(3).tolist(), bool(found.converged), found.stats["evaluations"]
    ([1.0, 1.0], True, 1008)
    """
    x0 = finite("x0", x0)
    for name, value in (("steps", steps), ("checks", checks)):
        validation.integer(2)(name, value)
    validation.flag("noisy", noisy)
    for name, value in (("a", a), ("c", c)):
        at_least_zero(name, value, positive=True)
    at_least_zero("stability", stability)
    at_least_zero("tol", tol)
    A = like(steps / 10 if stability is None else stability, x0)
    repeats = checks if noisy else 1
    gains = like(a, x0), like(c, x0), A
    x, values, first, last, error, size = _run(f, x0, gains, key, steps, noisy, repeats)
    # What the values' own rounding makes of 2d differences.
    dimension = sum(leaf.size for leaf in jax.tree.leaves(x0))
    error = error + rounding(size, 1.0) * dimension**0.5 / (like(c, x0) / steps**GAMMA)
    bound = like(tol, x0) * first + 3 * error
    known = (Assumption("f is differentiable and its noise has mean zero"),)
    certificate = Certificate("‖∇f‖ <= tol·‖∇f(x0)‖", last, bound, "monitor", SOURCE, stderr=error, assumptions=known)
    # A gradient that is all noise proves nothing: the start has to stand out from it.
    seen = 3 * error <= jnp.maximum(first, last)
    still = (first == 0) & (last == 0) & (error == 0)
    status = Status.of(certificate.holds & (seen | still), jnp.isfinite(norm(x)) & jnp.isfinite(last))
    stats = {"evaluations": 2 * steps + 4 * dimension * repeats, "gradient": last, "first_gradient": first}
    return Solution(x, {"stationarity": certificate}, status, steps, stats, {"objective": values})


@eqx.filter_jit
def _run(
    f: Function,
    x0: PyTree,
    gains: tuple[Scalar, Scalar, Scalar],
    key: Key[Array, ""],
    steps: int,
    noisy: bool,
    repeats: int,
) -> tuple[PyTree, Float[Array, " k"], Scalar, Scalar, Scalar, Scalar]:
    a, c, A = gains
    tail = max(steps // 10, 1)

    def evaluate(x, key):
        return value_of(f, x, key) if noisy else value_of(f, x)

    flat0, unravel = ravel_pytree(x0)
    optimiser = optax.sgd(lambda k: a / (like(k, x0) + 1 + A) ** ALPHA)

    def body(carry, key_and_k):
        x, state, mean = carry
        key, k = key_and_k
        signs, up_key, down_key = jax.random.split(key, 3)
        delta = jax.random.rademacher(signs, x.shape, x.dtype)
        width = c / (like(k, x0) + 1) ** GAMMA
        up, down = evaluate(unravel(x + width * delta), up_key), evaluate(unravel(x - width * delta), down_key)
        updates, state = optimiser.update((up - down) / (2 * width) * delta, state)
        x = x + updates
        late = k - (steps - tail)
        mean = jnp.where(late >= 0, mean + (x - mean) / (like(jnp.maximum(late, 0), x0) + 1), mean)
        return (x, state, mean), (up + down) / 2

    keys, ends = jax.random.split(key, steps), jax.random.split(jax.random.fold_in(key, steps), 2)
    start = (flat0, optimiser.init(flat0), flat0)
    (_, _, x), values = jax.lax.scan(body, start, (keys, jnp.arange(steps, dtype=jnp.int32)))

    def measure(x, key):
        width = c / steps**GAMMA
        offsets = width * jnp.eye(x.size, dtype=x.dtype)

        def once(key):
            pairs = jax.random.split(key, (2, x.size))
            up, down = (
                jax.vmap(lambda o, k, s=s: evaluate(unravel(x + s * o), k))(offsets, k)
                for s, k in zip((1, -1), pairs, strict=True)
            )
            return (up - down) / (2 * width), jnp.max(jnp.abs(jnp.concatenate([up, down])))

        g, sizes = jax.vmap(once)(jax.random.split(key, repeats))
        mean = jnp.mean(g, 0)
        error = norm(jnp.std(g, 0, ddof=1)) / repeats**0.5 if repeats > 1 else jnp.zeros((), x.dtype)
        return norm(mean), error, jnp.max(sizes)

    (first, _, _), (last, error, size) = measure(flat0, ends[0]), measure(x, ends[1])
    return unravel(x), values, first, last, error, size
