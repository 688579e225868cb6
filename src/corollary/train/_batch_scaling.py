"""How the best batch size grows: B = c·D^a·N^b fitted in log space, with prediction intervals.

Least squares on log B = log c + a log D + b log N; an interval for the optimum at new (D, N) has the residual's
variance and the coefficients' own. In experiments B grows with the data and hardly with the model: a near 0.5, b near
0. With ``ratio=True`` the exponents are tied, B = c·(D/N)^a.

Cost: O(n). Source: Zhang et al., "How does critical batch size scale in pre-training?" (2024); Bergsma et al.,
"Power lines" (2025); Draper & Smith, "Applied regression analysis" (1998) (the intervals).
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import numpy as np
from scipy import stats

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Solution
from corollary.train._scaling_law import _positive


@final
class BatchLaw(eqx.Module):
    """B = c·D^data·N^model, with the covariance of the fitted logarithms; made by `fit_batch_law`."""

    c: Any
    data: Any
    model: Any
    covariance: Any
    variance: Any
    dof: int = eqx.field(static=True)
    ratio: bool = eqx.field(static=True)

    def predict(self, n_tokens: Any, n_parameters: Any, *, level: float = 0.95) -> tuple[Any, Any, Any]:
        """The best batch size at (D, N), and the ends of its prediction interval."""
        validation.number(0, 1, open_low=True)("level", level)
        X = _design(np.asarray(n_tokens, dtype=float), np.asarray(n_parameters, dtype=float), self.ratio)
        coefficients = np.array([np.log(self.c), self.data] + ([] if self.ratio else [self.model]))
        middle = X @ coefficients
        error = np.sqrt(self.variance + np.einsum("...i,ij,...j->...", X, self.covariance, X))
        q = stats.t.ppf(0.5 + level / 2, self.dof)
        return np.exp(middle), np.exp(middle - q * error), np.exp(middle + q * error)


def fit_batch_law(
    batch: Any, n_tokens: Any, n_parameters: Any, *, ratio: bool = False, level: float = 0.95
) -> Solution:
    """Fit B = c·D^a·N^b to the best batch sizes of several runs, for extrapolation with intervals.

    Use it where sweeps at small scale must set the batch size of a large run.

    Parameters
    ----------
    batch, n_tokens, n_parameters
        The best (or critical) batch size B, the data D and the model size N of each run (n,), positive.
    ratio
        Tie the exponents: B = c·(D/N)^a.
    level
        Of the intervals.

    Returns
    -------
    `Solution` whose value is a `BatchLaw`, with ``predict(D, N)``; ``stats["intervals"]`` has each exponent's interval.

    Certificates: ``data`` and (unless tied) ``model`` (estimate, with standard errors).

    Raises
    ------
    InputError
        For values that are not positive, too few runs, or D and N that vary only together.

    Source: Zhang et al. (2024).

    Examples
    --------
    >>> import numpy as np
    >>> D, N = np.array([1e9, 1e10, 1e11, 1e12]), np.array([1e8, 1e7, 1e9, 1e8])
    >>> round(float(fit_batch_law(20 * D**0.5, D, N).value.data), 6)
    0.5
    """
    named = {"batch": batch, "n_tokens": n_tokens, "n_parameters": n_parameters}
    b, d, n = (_positive(name, v) for name, v in named.items())
    validation.same_length("batch", b, "n_tokens", d)
    validation.same_length("batch", b, "n_parameters", n)
    validation.flag("ratio", ratio)
    validation.number(0, 1, open_low=True)("level", level)
    X = _design(d, n, ratio)
    k = X.shape[1]
    if len(b) <= k:
        raise InputError(f"batch: found {len(b)} runs, expected at least {k + 1} for {k} coefficients")
    centred = X[:, 1:] - X[:, 1:].mean(0)
    if np.linalg.matrix_rank(centred, tol=1e-9 * max(float(np.abs(X).max()), 1.0) * len(b)) < k - 1:
        raise InputError("n_tokens, n_parameters: found them varying only together, expected sizes that vary apart")
    y = np.log(b)
    coefficients, *_ = np.linalg.lstsq(X, y, rcond=None)
    dof = len(b) - k
    variance = float(np.sum((y - X @ coefficients) ** 2) / dof)
    covariance = variance * np.linalg.inv(X.T @ X)
    stderr = np.sqrt(np.diag(covariance))
    q = float(stats.t.ppf(0.5 + level / 2, dof))
    names = ["c", "data"] + ([] if ratio else ["model"])
    certificates = {
        name: Certificate(
            f"exponent of the {'data' if name == 'data' else 'model size'} in the batch law",
            measured=float(coefficients[i]),
            kind="estimate",
            stderr=float(stderr[i]),
            confidence=level,
            source="Draper & Smith (1998)",
        )
        for i, name in enumerate(names)
        if i
    }
    intervals = {
        name: (float(coefficients[i] - q * stderr[i]), float(coefficients[i] + q * stderr[i]))
        for i, name in enumerate(names)
        if i
    }
    model = -coefficients[1] if ratio else coefficients[2]
    law = BatchLaw(np.exp(coefficients[0]), coefficients[1], model, covariance, variance, dof, ratio)
    return Solution(law, certificates, stats={"intervals": intervals})


def _design(d: np.ndarray, n: np.ndarray, ratio: bool) -> np.ndarray:
    d, n = np.broadcast_arrays(np.log(d), np.log(n))
    columns = [d - n] if ratio else [d, n]
    return np.stack([np.ones_like(d), *columns], axis=-1)
