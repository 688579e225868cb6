"""SGD on convex functions: the averaged iterate reaches R G/√T, the last one need not.

With ‖x0 − x*‖ = R, E‖g_t‖² ≤ G² and the step η = R/(G√T) of the horizon T, the mean of x_0 … x_{T−1} obeys
E f(x̄_T) − f* ≤ R²/(2ηT) + ηG²/2 = R G/√T. Where f is L-smooth and only the noise is bounded, E‖g_t − ∇f‖² ≤ σ², the
step 1/(L + σ√T/R) gives the mean of x_1 … x_T the bound LR²/(2T) + Rσ/√T. Both speak of the average: the last iterate
needs another factor log T or special steps. Cost: `runs` times the sum of the horizons' longest in gradients, for each.
Source: Nemirovski, Juditsky, Lan & Shapiro (2009), eq. (2.24); Bubeck, "Convex Optimization" (2015), theorem 6.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import dtype, norm
from corollary.optim.theory._sgd_runs import (
    Function,
    StochasticGradient,
    log_slope,
    mean_and_stderr,
    mean_within,
    moment_within,
    point_and_reference,
    positive,
    run_settings,
    sgd_runs,
    square_distance,
)

LIPSCHITZ = "Nemirovski, Juditsky, Lan & Shapiro (2009), eq. (2.24)"
SMOOTH = "Bubeck (2015), theorem 6.3"


@follows_input
def sgd_rate_convex(
    f: Function,
    gradient: StochasticGradient,
    x0: Any,
    reference: Any,
    horizons: Sequence[int],
    *,
    second_moment: Any = None,
    noise: Any = None,
    lipschitz: Any = None,
    runs: int = 64,
    confidence: float = 0.99,
    key: Key[Array, ""],
) -> Solution:
    """SGD on a convex function against E f(x̄_T) − f* ≤ R G/√T, for several horizons T, each with its own step.

    The bound is for the average of the iterates; ``history["last_gap"]`` shows what the last one does.

    Parameters
    ----------
    f
        Convex function of an array or pytree.
    gradient
        ``gradient(x, key)``: an unbiased stochastic (sub)gradient.
    x0, reference
        The start and a minimiser x*; R is their distance.
    horizons
        Numbers of steps T ≥ 1.
    second_moment
        G with E‖g‖² ≤ G² along the run (checked).
    noise, lipschitz
        In its place: σ with E‖g − ∇f‖² ≤ σ² (checked), and L of a smooth f.
    runs
        How many independent runs the mean is taken over.
    confidence
        That a true bound is not called broken by chance, over all the horizons.
    key
        Of `jax.random.key`.

    Returns
    -------
    Solution
        ``value`` is the bound for each horizon; ``history`` holds ``horizon``, ``gap`` (the mean over the runs),
        ``stderr``, ``rate_bound`` and ``last_gap``; ``stats`` the ``step_size`` of each horizon and ``radius`` R.

    Raises
    ------
    InputError
        For a horizon below 1, and where neither `second_moment` nor `noise` with `lipschitz` is given.

    Notes
    -----
    Certificates: ``rate`` (probabilistic, one claim a horizon): mean gap ≤ bound + t standard errors; ``slope``
    (estimate, for three horizons or more) of log gap on log T, −1/2 where the bound is sharp.
    Source: Nemirovski, Juditsky, Lan & Shapiro (2009), eq. (2.24); Bubeck (2015), theorem 6.3.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> def gradient(x, key):
    ...     return jnp.sign(x) + jax.random.rademacher(key, x.shape, x.dtype)
    >>> run = sgd_rate_convex(lambda x: jnp.abs(x).sum(), gradient, [1.0], [0.0], [16, 64], second_moment=2**0.5,
    ...                       key=jax.random.key(0))
    >>> run.value.round(4).tolist(), bool(run.holds.all())
    ([0.3536, 0.1768], True)
    """
    x0, reference = point_and_reference(x0, reference)
    for T in horizons:
        validation.integer(1)("horizons", T)
    if len(horizons) == 0:
        raise InputError("horizons: found none, expected at least one")
    smooth = second_moment is None
    if smooth and (noise is None or lipschitz is None):
        raise InputError("second_moment: found None, expected G, or both noise and lipschitz")
    keys = run_settings(runs, confidence, key)
    T = jnp.asarray(np.asarray(horizons)).astype(dtype(x0))
    R = norm(optax.tree.sub(x0, reference))
    if smooth:
        G, L = positive("noise", noise, x0), positive("lipschitz", lipschitz, x0)
        R_safe = jnp.where(R > 0, R, 1)
        eta, bound = 1 / (L + G * jnp.sqrt(T) / R_safe), L * R**2 / (2 * T) + R * G / jnp.sqrt(T)
    else:
        G = positive("second_moment", second_moment, x0)
        eta, bound = R / (G * jnp.sqrt(T)), R * G / jnp.sqrt(T)
    steps = jnp.asarray(np.asarray(horizons), jnp.int32)
    gap, last, square = _runs(f, gradient, x0, reference, steps, eta, keys, int(max(horizons)), smooth)

    what = "E‖g − ∇f‖² <= σ²" if smooth else "E‖g‖² <= G²"
    worst = jnp.argmax(jnp.mean(square, 0))
    known = (
        Assumption("f convex" + (", ∇f L-Lipschitz" if smooth else "")),
        Assumption("the reference minimises f"),
        moment_within(what + " on average along the runs", square[:, worst], G**2, confidence),
    )
    claim = "E f(x̄_T) − f* <= " + ("L R²/(2T) + R σ/√T" if smooth else "R G/√T")
    best = jnp.abs(f(reference))
    slack = 32 * jnp.finfo(best.dtype).eps * best
    rate = mean_within(claim, gap, bound, confidence, SMOOTH if smooth else LIPSCHITZ, known, slack)
    certificates = {"rate": rate}
    mean, stderr = mean_and_stderr(gap)
    if len(horizons) > 2:
        slope, error = log_slope(T, mean)
        text = "slope of log E f(x̄_T) − f* on log T"
        certificates["slope"] = Certificate(text, slope, None, "estimate", "regression", stderr=error)
    history = {"horizon": T, "gap": mean, "stderr": stderr, "rate_bound": bound, "last_gap": jnp.mean(last, 0)}
    return Solution(bound, certificates, 0, int(max(horizons)), {"step_size": eta, "radius": R}, history)


@eqx.filter_jit
def _runs(
    f: Function,
    gradient: StochasticGradient,
    x0: PyTree,
    reference: PyTree,
    horizons: Int[Array, " h"],
    eta: Float[Array, " h"],
    keys: Key[Array, " runs"],
    longest: int,
    smooth: bool,
) -> tuple[Float[Array, "runs h"], Float[Array, "runs h"], Float[Array, "runs h"]]:
    """Gap of the average, gap of the last iterate, and mean square of the noise (smooth) or of the gradient."""
    best = f(reference)

    def one(T, eta):
        def observe(memory, t, x, g, new):
            average, square = memory
            going = t < T
            weight = jnp.where(going, 1 / (t + 1).astype(eta.dtype), 0)
            seen = square_distance(g, jax.grad(f)(x)) if smooth else norm(g) ** 2
            average = optax.tree.add_scale(average, weight, optax.tree.sub(new if smooth else x, average))
            return (average, square + weight * (seen - square)), None

        # Once its horizon is reached a run stands still, so that all horizons share one scan.
        optimiser = optax.sgd(lambda t: jnp.where(t < T, eta, 0))
        x, (average, square), _ = sgd_runs(
            gradient, x0, keys, longest, optimiser, observe, (x0, jnp.zeros((), eta.dtype))
        )
        return jax.vmap(f)(average) - best, jax.vmap(f)(x) - best, square

    return jax.vmap(one, out_axes=1)(horizons, eta)
