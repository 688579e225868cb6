"""Scaling laws: fit L(N, D) = E + A/N^α + B/D^β, and split a compute budget by it.

The fit minimises the Huber loss of log L − log L̂ over (log E, log A, log B, α, β): for exponents on a grid, the best
E, A, B >= 0 come from non-negative least squares; the best few starts are polished by a trust-region method. Standard
errors come from the sandwich formula of an M-estimate. Under C = 6ND the optimum is

    N* = G·(C/6)^{β/(α+β)},   D* = (C/6)^{α/(α+β)}/G,   G = (αA/(βB))^{1/(α+β)}.

The sum is Hoffmann's form; Kaplan's is nested, and compute enters through C = 6ND only. Cost: O(n) per evaluation.
Source: Hoffmann et al., "Training compute-optimal large language models" (2022), §3.3, equations 2–4, D.2; Huber,
"Robust statistics" (1981), chapter 7 (the standard errors).
"""

from __future__ import annotations

from typing import Any, cast, final

import equinox as eqx
import numpy as np
from scipy import optimize, stats

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution, Status

NAMES = ("E", "A", "B", "alpha", "beta")


@final
class ScalingLaw(eqx.Module):
    """L(N, D) = E + A/N^alpha + B/D^beta, made by `fit_scaling_law`."""

    E: Any
    A: Any
    B: Any
    alpha: Any
    beta: Any

    def loss(self, n_parameters: Any, n_tokens: Any) -> Any:
        """The predicted loss of N parameters trained on D tokens."""
        n, d = np.asarray(n_parameters, dtype=float), np.asarray(n_tokens, dtype=float)
        return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

    def optimal(self, compute: Any) -> tuple[Any, Any]:
        """(N*, D*) of least loss for a budget of C = 6ND floating-point operations; refused where a term rises."""
        for name in NAMES[1:]:
            if not getattr(self, name) > 0:
                raise InputError(f"{name}: found {getattr(self, name):g}, expected it above 0 for an optimum to exist")
        total = self.alpha + self.beta
        log_g = (np.log(self.alpha * self.A) - np.log(self.beta * self.B)) / total
        log_c = np.log(np.asarray(compute, dtype=float) / 6)
        return np.exp(log_g + self.beta / total * log_c), np.exp(self.alpha / total * log_c - log_g)


def fit_scaling_law(
    n_parameters: Any, n_tokens: Any, loss: Any, *, level: float = 0.95, delta: float = 1e-3
) -> Solution:
    """Fit L(N, D) = E + A/N^α + B/D^β to runs, robustly, with confidence intervals.

    Use it with some tens of runs that vary N and D apart from each other. Cost: a few hundred small least-squares fits.

    Parameters
    ----------
    n_parameters, n_tokens, loss
        N, D and the final loss of each run (n,), positive; at least 6 runs.
    level
        Of the intervals.
    delta
        Where the Huber loss turns linear, in log loss; Hoffmann et al. use 1e-3. Noise far above it is fitted by
        medians rather than means.

    Returns
    -------
    `Solution` whose value is a `ScalingLaw`; ``stats["intervals"]`` maps each name to (low, high), ``stats["compute"]``
    the exponent β/(α+β) of N* with its interval.

    Certificates: ``alpha`` and ``beta`` (estimate, with standard errors), ``stationary`` (monitor: the gradient of the
    robust objective, scaled, is near 0).

    Raises
    ------
    InputError
        For values that are not positive, unequal lengths, fewer than 6 runs, N or D that never vary, or that vary only
        together (as at a fixed D/N): the two terms could then be exchanged.

    Source: Hoffmann et al. (2022), §3.3.

    Examples
    --------
    >>> import numpy as np
    >>> N, D = (g.ravel() for g in np.meshgrid(np.geomspace(1e7, 1e9, 5), np.geomspace(1e9, 1e11, 5)))
    >>> law = fit_scaling_law(N, D, 1.7 + 400 / N**0.34 + 410 / D**0.28).value
    >>> round(float(law.alpha), 4), round(float(law.beta), 4)
    (0.34, 0.28)
    """
    n, d, y = (
        _positive(name, v) for name, v in (("n_parameters", n_parameters), ("n_tokens", n_tokens), ("loss", loss))
    )
    validation.same_length("n_parameters", n, "n_tokens", d)
    validation.same_length("n_parameters", n, "loss", y)
    validation.number(0, 1, open_low=True)("level", level)
    validation.number(0, open_low=True)("delta", delta)
    if len(y) < 6:
        raise InputError(f"loss: found {len(y)} runs, expected at least 6 for five coefficients")
    for name, v in (("n_parameters", n), ("n_tokens", d)):
        if np.ptp(v) == 0:
            raise InputError(f"{name}: found one value only, expected it to vary")
    # Centred logs: exponents and scales of the coefficients are then nearly uncorrelated, whatever the units.
    u, v, scale = np.log(n), np.log(d), np.median(y)
    u0, v0 = u.mean(), v.mean()
    u, v, z = u - u0, v - v0, np.log(y / scale)
    apart = np.linalg.svd(np.stack([u / np.linalg.norm(u), v / np.linalg.norm(v)]), compute_uv=False)[1]
    if apart < 1e-6:
        raise InputError("n_parameters, n_tokens: found them varying only together, expected sizes that vary apart")

    def parts(theta: np.ndarray) -> np.ndarray:
        e, a, b, alpha, beta = theta
        return np.stack([np.full_like(u, e), a - alpha * u, b - beta * v])

    def residual(theta: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(parts(theta), axis=0) - z

    def jacobian(theta: np.ndarray) -> np.ndarray:
        terms = parts(theta)
        share = np.exp(terms - np.logaddexp.reduce(terms, axis=0))
        return np.stack([*share, -share[1] * u, -share[2] * v], axis=1)

    slope = cast(Any, jacobian)
    starts = []
    for alpha in np.linspace(0.05, 1.2, 8):
        for beta in np.linspace(0.05, 1.2, 8):
            columns = np.stack([np.ones_like(u), np.exp(-alpha * u), np.exp(-beta * v)], axis=1) / np.exp(z)[:, None]
            coefficients, error = optimize.nnls(columns, np.ones_like(z))
            starts.append((error, *np.log(np.maximum(coefficients, 1e-8)), alpha, beta))
    starts.sort()
    best = None
    for start in starts[:3]:
        # The tails come in gradually: plain least squares first, then the Huber loss from there.
        theta = np.asarray(start[1:])
        for width in (1.0, delta):
            run = optimize.least_squares(
                residual,
                theta,
                slope,
                loss="huber",
                f_scale=width,
                xtol=1e-15,
                ftol=1e-15,
                gtol=1e-15,
                max_nfev=500,
            )
            theta = run.x
        if best is None or run.cost < best.cost:
            best = run
    assert best is not None
    theta, r, J = best.x, residual(best.x), jacobian(best.x)
    psi = np.clip(r, -delta, delta)
    # Sandwich of an M-estimate; its bread is JᵀJ times the share of residuals in the quadratic part.
    inside = max(np.mean(np.abs(r) < delta), 1 / len(r))
    dof = len(y) - 5
    spread = np.sum(psi**2) / dof / inside**2
    covariance = spread * np.linalg.pinv(J.T @ J, rcond=1e-14)
    stderr = np.sqrt(np.diag(covariance))
    q = float(stats.t.ppf(0.5 + level / 2, dof))

    shift = np.zeros((3, 5))
    shift[:, :3] = np.eye(3)
    shift[1, 3], shift[2, 4] = u0, v0
    logs = shift @ theta + np.log(scale)
    log_stderr = np.sqrt(np.diag(shift @ covariance @ shift.T))
    law = ScalingLaw(*np.exp(logs), *theta[3:])
    with np.errstate(over="ignore"):  # a coefficient that the runs do not determine: up to infinity
        intervals = {
            name: (float(np.exp(m - q * s)), float(np.exp(m + q * s)))
            for name, m, s in zip(NAMES[:3], logs, log_stderr, strict=True)
        }
    for k in (3, 4):
        intervals[NAMES[k]] = (float(theta[k] - q * stderr[k]), float(theta[k] + q * stderr[k]))
    alpha, beta = theta[3:]
    turn = np.array([-beta, alpha]) / (alpha + beta) ** 2
    error = float(np.sqrt(turn @ covariance[3:, 3:] @ turn))
    share = float(beta / (alpha + beta))
    gradient = float(np.abs(J.T @ psi).max() / (np.abs(J).sum(0).max() * max(float(np.abs(psi).max()), 1e-300)))
    # Below the rounding of the logarithms a residual has no direction left.
    exact = float(np.abs(r).max()) <= 64 * np.finfo(float).eps * (1 + np.abs(z).max())
    measured = 0.0 if exact else gradient
    source = "Huber (1981), chapter 7"
    certificates = {
        name: Certificate(
            f"{name} of L = E + A/N^alpha + B/D^beta",
            measured=float(theta[k]),
            kind="estimate",
            stderr=float(stderr[k]),
            confidence=level,
            source=source,
        )
        for name, k in (("alpha", 3), ("beta", 4))
    }
    certificates["stationary"] = Certificate(
        "scaled gradient of the Huber objective <= 1e-4",
        measured=measured,
        bound=1e-4,
        kind="monitor",
        source="Hoffmann et al. (2022), equation 3",
    )
    compute = (share, share - q * error, share + q * error)
    return Solution(
        law,
        certificates,
        Status.of(measured <= 1e-4),
        int(best.nfev),
        stats={"intervals": intervals, "compute": compute, "residual": float(np.sqrt(np.mean(r**2)))},
    )


def _positive(name: str, values: Any) -> np.ndarray:
    values = np.asarray(validation.vector(name, np.asarray(values, dtype=float), host=True))
    if np.any(values <= 0):
        raise InputError(f"{name}: found {values.min():g}, expected positive numbers")
    return values
