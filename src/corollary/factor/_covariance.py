"""Sample mean and covariance, weighted and streaming, without cancellation.

Use `covariance` for data in memory and `RunningCovariance` for a stream: batches are centred at their own mean and
joined by the pairwise update of Chan, Golub & LeVeque (1983), so a mean of 1e8 costs no digits and any split of the
data gives the same answer to rounding. Cost: O(n p²), one pass; memory O(p²).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution
from corollary.linalg import gram

SOURCE = "Chan, Golub & LeVeque, Algorithms for computing the sample variance, Amer. Statist. 37 (1983)"


class RunningCovariance(eqx.Module):
    """Mean and covariance of a stream, updated batch by batch; immutable, and a pytree.

    Parameters
    ----------
    mean
        (p,) weighted mean of what was seen.
    scatter
        (p, p) Σ w (x − mean)(x − mean)ᵀ.
    weight
        Σ w.
    weight_squares
        Σ w², which reliability weights need for an unbiased estimate.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, -1.0]])
    >>> seen = RunningCovariance.of(X[:1]).update(X[1:])
    >>> np.asarray(seen.covariance()).round(6).tolist()
    [[4.0, -2.0], [-2.0, 4.0]]
    """

    mean: Any
    scatter: Any
    weight: Any
    weight_squares: Any

    @classmethod
    def of(cls, X: Any, weights: Any = None) -> RunningCovariance:
        """The statistics of one batch of rows."""
        X = validation.matrix("X", X, host=True)
        xp = np if isinstance(X, np.ndarray) else jnp
        if weights is None:
            w = xp.ones(X.shape[0], X.dtype)
        else:
            w = validation.vector("weights", weights, host=True).astype(X.dtype)
            validation.same_length("X", X, "weights", w)
            if not isinstance(w, Tracer) and bool((w < 0).any() or not (w > 0).any()):
                raise InputError("weights: found a negative weight or none above 0, expected weights >= 0, not all 0")
        total = w.sum()
        # Two steps: the first mean is off by its rounding at large offsets, the mean of what is left corrects it.
        first = X.mean(axis=0)
        centred = X - first
        shift = (w / total) @ centred
        centred = centred - shift
        return cls(first + shift, gram(centred, weights=None if weights is None else w), total, (w * w).sum())

    def update(self, X: Any, weights: Any = None) -> RunningCovariance:
        """With one more batch of rows."""
        return self.merge(RunningCovariance.of(X, weights))

    def merge(self, other: RunningCovariance) -> RunningCovariance:
        """Both streams together (Chan, Golub & LeVeque, eq. 2.1)."""
        total = self.weight + other.weight
        step = other.mean - self.mean
        mean = self.mean + step * (other.weight / total)
        between = (step[:, None] * step) * (self.weight * other.weight / total)
        squares = self.weight_squares + other.weight_squares
        return RunningCovariance(mean, self.scatter + other.scatter + between, total, squares)

    def covariance(self, ddof: float = 1, *, reliability: bool = False) -> Any:
        """Scatter over Σw − ddof, or over Σw − ddof Σw²/Σw for reliability weights (`numpy.cov`'s ``aweights``)."""
        lost = ddof * (self.weight_squares / self.weight) if reliability else ddof
        return self.scatter / (self.weight - lost)


@follows_input
def covariance(X: Any, weights: Any = None, *, ddof: Any = 1, reliability: bool = False) -> Solution:
    """Weighted sample mean and covariance.

    Use it wherever a covariance is wanted, whatever the data's offset. Cost: O(n p²).

    Parameters
    ----------
    X
        (n, p) data, one sample a row.
    weights
        (n,) weights ≥ 0: how often each row counts, or with `reliability` how far it is trusted.
    ddof
        1 gives the unbiased estimate (divisor n − 1), 0 the maximum-likelihood one (divisor n).
    reliability
        Divide by Σw − ddof Σw²/Σw instead of Σw − ddof: the scale of the weights then does not matter.

    Returns
    -------
    Solution
        ``value``: (mean (p,), covariance (p, p), exactly symmetric). Certificate ``"positive_semidefinite"`` (exact).

    Raises
    ------
    InputError
        For anything but a finite real matrix, for bad weights, and where the divisor is not positive (one sample).

    Notes
    -----
    Source: Chan, Golub & LeVeque (1983).

    Examples
    --------
    >>> import numpy as np
    >>> mean, C = covariance(np.array([[1e8], [1e8 + 1], [1e8 + 2]])).value
    >>> float(C[0, 0])
    1.0
    """
    validation.number(0)("ddof", ddof)
    validation.flag("reliability", reliability)
    seen = RunningCovariance.of(X, weights)
    divisor = seen.weight - ddof * (seen.weight_squares / seen.weight if reliability else 1)
    if not isinstance(divisor, Tracer) and not divisor > 0:
        raise InputError(f"X: found a total weight of {float(seen.weight):g} with ddof = {ddof}, expected more samples")
    C = seen.covariance(ddof, reliability=reliability)
    xp = np if isinstance(C, np.ndarray) else jnp
    return Solution((seen.mean, C), {"positive_semidefinite": _semidefinite(C, xp)})


def _semidefinite(C: Float[Array, "p p"] | np.ndarray, xp: Any) -> Certificate:
    """−λ_min at most at rounding level: by the diagonal of an LDLᵀ it would be cheaper, by eigenvalues it is plain."""
    values = xp.linalg.eigvalsh(C)
    return Certificate(
        "the covariance is positive semidefinite: −λ_min <= p·eps·λ_max",
        measured=-values[0],
        bound=8 * C.shape[0] * float(np.finfo(C.dtype).eps) * xp.maximum(values[-1], 0),
        kind="exact",
        source=SOURCE,
    )
