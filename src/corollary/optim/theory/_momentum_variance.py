"""The stationary covariance of SGD with momentum on a quadratic with additive gradient noise.

m ← βm + Hx + ξ, x ← x − ηm (Optax's ``sgd(η, momentum=β)``), Cov ξ = C. For 0 < ηλ < 2(1 + β) the covariance S of
(x, ηm) solves S = A S Aᵀ + Q; for one coordinate with curvature h and noise variance s² it is

    Var x = η s² (1 + β) / (h (1 − β) (2(1 + β) − ηh)),    to first order η s²/(2h(1 − β)).

The form with an average, m ← βm + (1 − β)g, x ← x − η'm, gives the same iterates for η' = η/(1 − β). Cost: O(d³) for
the covariance by doubling, `runs`·`steps` products with H for the measurement.
Source: the variance of a second-order autoregression, Box & Jenkins (1970), eq. (3.2.28); Gitman, Lang, Zhang & Xiao
(2019), theorem 3; Smith (1968) for the doubling.
"""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from jax.core import Tracer
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._sgd_runs import run_settings, sgd_runs

SOURCE = "Gitman, Lang, Zhang & Xiao (2019), theorem 3: S = A S Aᵀ + Q"
Matrix = Float[Array, "d d"]
DOUBLINGS = 40  # A^(2^40) vanishes for every stable A that a float can tell from an unstable one


@follows_input
def sgd_momentum_variance(
    step: Any,
    momentum: Any,
    curvature: Any,
    noise_variance: Any,
    *,
    form: Literal["velocity", "ema"] = "velocity",
    steps: int = 500,
    runs: int = 1000,
    confidence: float = 0.99,
    key: Key[Array, ""],
) -> Solution:
    """The stationary covariance of x and of the momentum, beside the one of simulated runs.

    Parameters
    ----------
    step
        η of the form named.
    momentum
        β in [0, 1).
    curvature
        H: a positive number, a vector (diagonal) or a symmetric positive definite matrix (d, d).
    noise_variance
        C: a number (times the identity) or a covariance matrix (d, d).
    form
        ``"velocity"`` (Optax's and PyTorch's) or ``"ema"``.
    steps
        Length of the runs, which start at 0; what is left of the transient is computed, not assumed away.
    runs, confidence, key
        As in `sgd_rate_convex`; the noise is Gaussian.

    Returns
    -------
    Solution
        ``value`` holds the stationary ``x`` (d, d), ``momentum`` (d, d) and ``cross`` (of x with the momentum);
        ``stats["measured"]`` the runs' covariance of x after `steps` steps, ``stats["expected"]`` the exact one then,
        ``stats["other_step"]`` the step of the other form with the same iterates.

    Raises
    ------
    InputError
        For a step outside the stable range 0 < ηλ_max < 2(1 + β), or H that is not positive definite.

    Notes
    -----
    Certificates: ``covariance`` (probabilistic): largest deviation of the measured covariance in standard errors;
    ``forms`` (monitor): the two forms' iterates agree to rounding.

    Examples
    --------
    >>> import jax
    >>> found = sgd_momentum_variance(0.1, 0.9, 1.0, 1.0, key=jax.random.key(0))
    >>> round(float(found.value["x"][0, 0]), 6), round(0.1 * 1.9 / (0.1 * (3.8 - 0.1)), 6), bool(found.holds)
    (0.513514, 0.513514, True)
    """
    validation.one_of("velocity", "ema")("form", form)
    validation.integer(1)("steps", steps)
    at_least_zero("step", step, positive=True)
    at_least_zero("momentum", momentum)
    keys = run_settings(runs, confidence, key)
    H, C, eta, beta = common_float(jnp.asarray(curvature), jnp.asarray(noise_variance), step, momentum)
    H = jnp.diag(jnp.atleast_1d(H)) if H.ndim < 2 else H
    C = C * jnp.eye(H.shape[0], dtype=H.dtype) if C.ndim == 0 else C
    if H.shape[0] != H.shape[1] or C.shape != H.shape:
        raise InputError(f"noise_variance: found shape {C.shape}, expected a number or {H.shape} as in curvature")
    velocity = eta if form == "velocity" else eta * (1 - beta)
    if not isinstance(C, Tracer) and not np.linalg.eigvalsh((np.asarray(C) + np.asarray(C).T) / 2)[0] >= 0:
        raise InputError("noise_variance: found a negative eigenvalue, expected a covariance")
    _refuse_unstable(H, velocity, beta)
    S, then, measured, apart, size = _covariances(H, C, velocity, beta, keys, steps)

    d = H.shape[0]
    unit = velocity if form == "velocity" else eta  # of the momentum that the form keeps
    value = {"x": S[:d, :d], "momentum": S[d:, d:] / unit**2, "cross": S[:d, d:] / unit}
    spread = jnp.sqrt((jnp.outer(jnp.diagonal(then), jnp.diagonal(then)) + then**2) / runs)
    worst = jnp.max(jnp.abs(measured - then) / jnp.where(spread > 0, spread, 1))
    limit = float(scipy.stats.norm.ppf(1 - (1 - confidence) / (d * (d + 1))))
    certificates = {
        "covariance": Certificate(
            "|measured − exact| in standard errors",
            worst,
            jnp.full_like(worst, limit),
            "probabilistic",
            SOURCE,
            confidence,
            assumptions=(Assumption("the noise is Gaussian, independent of x and over the steps"),),
        ),
        "forms": Certificate(
            "velocity and average form give the same iterates", apart, rounding(size, 8.0 * steps), "monitor", SOURCE
        ),
    }
    other = velocity / (1 - beta) if form == "velocity" else velocity
    return Solution(value, certificates, 0, steps, {"measured": measured, "expected": then, "other_step": other})


def _refuse_unstable(H: Matrix, eta: Scalar, beta: Scalar) -> None:
    if any(isinstance(a, Tracer) for a in (H, eta, beta)):
        return
    if not np.allclose(H, np.asarray(H).T, rtol=1e-5, atol=0):
        raise InputError("curvature: found a matrix that is not symmetric, expected a symmetric one")
    eigenvalues = np.linalg.eigvalsh(np.asarray(H))
    if not eigenvalues[0] > 0:
        raise InputError(f"curvature: found least eigenvalue {eigenvalues[0]:.3g}, expected > 0 (else no stationarity)")
    if not float(beta) < 1:
        raise InputError(f"momentum: found {float(beta):.3g}, expected a number in [0, 1)")
    if not float(eta) * eigenvalues[-1] < 2 * (1 + float(beta)):
        limit = 2 * (1 + float(beta)) / eigenvalues[-1]
        raise InputError(
            f"step: found {float(eta):.3g} (velocity form), expected less than 2(1 + β)/λ_max = {limit:.3g}"
        )


@eqx.filter_jit
def _covariances(
    H: Matrix, C: Matrix, eta: Scalar, beta: Scalar, keys: Key[Array, " runs"], steps: int
) -> tuple[Float[Array, "e e"], Matrix, Matrix, Scalar, Scalar]:
    """S of (x, ηm), the covariance of x after `steps` steps exactly and measured, how far the forms are apart, size."""
    eye = jnp.eye(H.shape[0], dtype=H.dtype)
    A = jnp.block([[eye - eta * H, -beta * eye], [eta * H, beta * eye]])
    noise = eta**2 * C
    Q = jnp.block([[noise, -noise], [-noise, noise]])

    def double(_, pair):
        S, power = pair
        return S + power @ S @ power.T, power @ power

    S, _ = jax.lax.fori_loop(0, DOUBLINGS, double, (Q, A))
    left = jnp.linalg.matrix_power(A, steps)
    then = (S - left @ S @ left.T)[: H.shape[0], : H.shape[0]]

    root = jnp.linalg.eigh(C)
    root = root[1] * jnp.sqrt(jnp.maximum(root[0], 0))

    def gradient(x, key):
        return H @ x + root @ jax.random.normal(key, x.shape, x.dtype)

    def observe(memory, t, x, g, new):
        return memory, None

    forms = optax.sgd(eta, beta), optax.chain(optax.ema(beta, debias=False), optax.scale(-eta / (1 - beta)))
    first, second = (
        sgd_runs(gradient, jnp.zeros_like(H[0]), keys, steps, optimiser, observe)[0] for optimiser in forms
    )
    return S, then, first.T @ first / keys.shape[0], jnp.max(jnp.abs(first - second)), jnp.max(jnp.abs(first))
