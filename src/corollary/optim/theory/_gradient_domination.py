"""Almost-sure rates of SGD and stochastic heavy ball under gradient domination ‖∇f(x)‖ ≥ c (f(x) − f*)^β, ½ ≤ β ≤ 1.

β = ½ is the Polyak-Łojasiewicz inequality; |x|^p has β = (p − 1)/p. With steps ~ n^{−θ}, ½ < θ < 1, and steady momentum
f(X_n) − f* is o(n^{−r}) almost surely for every r < min(2θ − 1, (1 − θ)/(2β − 1)): at the best θ = 2β/(4β − 1) that is
o(n^{−1/(4β−1)+ε}) for every ε > 0 (β = ½: nearly 1/n). The rate is asymptotic and without constant, so a run can only
agree with it or not: what is compared is the slope of the largest gap of each doubling of n. Cost: `runs`·`steps`
gradients. Source: Weissmann, Klein, Azizian & Döring (2024), theorems on SGD and SHB under global gradient domination.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import finite, like
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._sgd_runs import (
    NORMAL,
    UNBIASED,
    Function,
    StochasticGradient,
    log_slope,
    mean_and_stderr,
    positive,
    quantile,
    run_settings,
    sgd_runs,
)

SOURCE = "Weissmann, Klein, Azizian & Döring, Almost sure convergence rates under gradient domination (2024)"


def gradient_domination_exponent(beta: float, theta: float | None = None) -> tuple[float, float]:
    """The exponent r of f(X_n) − f* = o(n^{−r+ε}) almost surely, and the θ of the steps n^{−θ} it belongs to.

    Parameters
    ----------
    beta
        Of the gradient domination, in [1/2, 1].
    theta
        The steps' exponent in (1/2, 1]; the best one, 2β/(4β − 1), if left out: then r = 1/(4β − 1).

    Examples
    --------
    >>> gradient_domination_exponent(0.5), gradient_domination_exponent(0.5, 0.75)
    ((1.0, 1.0), (0.5, 0.75))
    >>> gradient_domination_exponent(0.75)
    (0.5, 0.75)
    """
    validation.number(0.5, 1.0)("beta", beta)
    if theta is None:
        return 1 / (4 * beta - 1), 2 * beta / (4 * beta - 1)
    validation.number(0.5, 1.0, open_low=True)("theta", theta)
    slow = 2 * theta - 1
    return (slow if beta == 0.5 else min(slow, (1 - theta) / (2 * beta - 1))), theta


@follows_input
def gradient_domination_rate(
    f: Function,
    gradient: StochasticGradient,
    x0: Any,
    steps: int,
    *,
    beta: float,
    minimum: Any,
    scale: Any,
    theta: float | None = None,
    momentum: Any = 0.0,
    epsilon: float = 0.1,
    burn_in: int = 32,
    runs: int = 32,
    confidence: float = 0.99,
    key: Key[Array, ""],
) -> Solution:
    """SGD, or stochastic heavy ball, with steps scale·(n + 1)^{−θ}: the slope of each path against the theorem's rate.

    Parameters
    ----------
    f
        Function of an array or pytree.
    gradient
        ``gradient(x, key)``: an unbiased stochastic gradient.
    x0
        The start.
    steps
        How many; a few thousand, since the rate is asymptotic.
    beta
        Of the gradient domination, in [1/2, 1].
    minimum
        f*.
    scale
        Of the steps, > 0. Where θ = 1 (β = ½) it must exceed a multiple of 1/μ, or the run is slower.
    theta
        2β/(4β − 1) if left out.
    momentum
        In [0, 1): heavy ball; 0: SGD.
    epsilon
        The ε of the theorem that the fitted slope is granted.
    burn_in
        Steps before the fit begins.
    runs, confidence, key
        As in `sgd_rate_convex`.

    Returns
    -------
    Solution
        ``value`` is the exponent 1/(4β − 1) (less for another θ); ``stats["slopes"]`` has the fitted slope of each
        path, ``history`` the block ends ``n`` and the paths' mean of the ``largest_gap`` in each block.

    Notes
    -----
    Certificates: ``rate`` (theorem): mean fitted slope ≤ −exponent + ε + t standard errors; ``slope`` (estimate).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def gradient(x, key):
    ...     return x + jax.random.normal(key, x.shape, x.dtype)
    >>> run = gradient_domination_rate(lambda x: (x**2).sum() / 2, gradient, [1.0], 2048, beta=0.5, minimum=0.0,
    ...                                scale=2.0, key=jax.random.key(0))
    >>> float(run.value), bool(run.holds)
    (1.0, True)
    """
    x0 = finite("x0", x0)
    exponent, theta = gradient_domination_exponent(beta, theta)
    validation.integer(1)("burn_in", burn_in)
    validation.number(0.0, open_low=True)("epsilon", epsilon)
    blocks = 0
    while burn_in << (blocks + 1) <= steps:
        blocks += 1
    if blocks < 3:
        raise InputError(
            f"steps: found {steps}, expected at least 8·burn_in = {8 * burn_in}: a slope needs 3 doublings"
        )
    if not isinstance(momentum, jax.Array):
        validation.number(0.0, 1 - 1e-6)("momentum", momentum)
    keys = run_settings(runs, confidence, key)
    law = positive("scale", scale, x0), like(theta, x0)
    largest = _runs(f, gradient, x0, like(minimum, x0), law, like(momentum, x0), keys, burn_in, blocks)

    n = burn_in * 2 ** jnp.arange(1, blocks + 1)
    slopes, _ = log_slope(n, largest)
    mean, stderr = mean_and_stderr(slopes)
    known = (
        UNBIASED,
        Assumption("∇f is L-Lipschitz where the run goes"),
        Assumption("‖∇f‖ >= c (f − f*)^β where the run goes"),
        Assumption("the run is long enough for an asymptotic rate to show"),
        NORMAL,
    )
    claim = "slope of log(f(X_n) − f*) on log n <= −1/(4β − 1) + ε"
    limit = -exponent + epsilon + quantile(runs, confidence) * stderr
    certificates = {
        "rate": Certificate(claim, mean, limit, "theorem", SOURCE, confidence, stderr, known),
        "slope": Certificate("fitted slope", mean, None, "estimate", "regression over doublings", stderr=stderr),
    }
    history = {"n": n, "largest_gap": jnp.mean(largest, 0)}
    return Solution(like(exponent, x0), certificates, 0, steps, {"slopes": slopes, "theta": like(theta, x0)}, history)


@eqx.filter_jit
def _runs(
    f: Function,
    gradient: StochasticGradient,
    x0: PyTree,
    minimum: Scalar,
    law: tuple[Scalar, Scalar],
    momentum: Scalar,
    keys: Key[Array, " runs"],
    burn_in: int,
    blocks: int,
) -> Float[Array, "runs b"]:
    """The largest f(X_n) − f* of each block burn_in·2^b ≤ n < burn_in·2^{b+1}."""
    scale, theta = law

    def observe(memory, t, x, g, new):
        gap = f(new) - minimum
        block = jnp.floor(jnp.log2(like(t + 1, x) / burn_in)).astype(jnp.int32)
        return memory.at[jnp.where(block >= 0, block, blocks)].max(gap, mode="drop"), None

    optimiser = optax.sgd(lambda t: scale * (like(t, x0) + 1) ** -theta, momentum)
    memory = jnp.full((blocks,), -jnp.inf, scale.dtype)
    _, largest, _ = sgd_runs(gradient, x0, keys, (burn_in << blocks) - 1, optimiser, observe, memory)
    return largest
