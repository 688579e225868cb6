"""How much variance each component explains, and how many components to keep.

Kaiser's rule keeps what is above the average eigenvalue; parallel analysis keeps what noise of the same shape would not
reach; Minka's evidence weighs every rank as a probabilistic PCA model. Cost: O(p) for Kaiser, O(p³) for the others.
"""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.draw import ACCENT, BOUND, MUTED, axes
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution

DRAWS, LEVEL = 200, 0.95


class ExplainedVariance(eqx.Module):
    """Shares of the variance, their running sum, and the number of components that the rule keeps.

    ``scores`` is what the rule compared: the noise's quantiles (parallel analysis), the log evidence of ranks
    0, 1, ... (MLE), or the threshold (Kaiser).
    """

    eigenvalues: Any
    ratios: Any
    cumulative: Any
    n_components: int = eqx.field(static=True)
    rule: str = eqx.field(static=True)
    scores: Any

    def plot(self, ax: Any = None) -> Any:
        """The scree plot, with the rule's threshold and cut."""
        ax = axes(ax, title="Scree", xlabel="component", ylabel="eigenvalue")
        index = np.arange(1, len(self.eigenvalues) + 1)
        ax.plot(index, self.eigenvalues, "o-", color=ACCENT, markersize=3, label="eigenvalues")
        if self.rule in ("kaiser", "parallel"):
            ax.plot(index, np.broadcast_to(self.scores, index.shape), "--", color=BOUND, label=f"{self.rule} threshold")
        ax.axvline(self.n_components + 0.5, color=MUTED, linewidth=1, label=f"keep {self.n_components}")
        ax.legend(frameon=False)
        return ax


@follows_input
def explained_variance(
    eigenvalues: Any, rule: Any = "kaiser", *, n_samples: Any = None, key: Key[Array, ""] | None = None
) -> Solution:
    """Explained-variance ratios and the number of components to keep.

    Use "parallel" to find how many components are signal, "mle" for a Gaussian model of signal and white noise, a
    fraction to keep that share of the variance. Kaiser's rule is quick and keeps too many. Cost: O(p), or O(p³).

    Parameters
    ----------
    eigenvalues
        All p eigenvalues of the covariance (or correlation) matrix, decreasing, ≥ 0.
    rule
        "kaiser" (λ above the mean eigenvalue), "parallel" (Horn: λ_i above the 95 % quantile of the i-th eigenvalue of
        200 white-noise samples of the same size), "mle" (Minka's Laplace evidence), or a share in (0, 1).
    n_samples
        n, needed by "parallel" and "mle".
    key
        For "parallel": `jax.random.key(0)` by default.

    Returns
    -------
    Solution
        ``value``: `ExplainedVariance`. It makes no claim that a certificate could check.

    Raises
    ------
    InputError
        For eigenvalues that are negative or increase, an unknown rule, or a missing `n_samples`.

    Notes
    -----
    Sources: Kaiser (1960); Horn, Psychometrika 30 (1965); Minka, Automatic choice of dimensionality for PCA (2000),
    eq. 30.

    Examples
    --------
    >>> import numpy as np
    >>> found = explained_variance(np.array([6.0, 1.0, 1.0])).value
    >>> found.ratios.round(3).tolist(), found.n_components
    ([0.75, 0.125, 0.125], 1)
    """
    values = np.asarray(validation.vector("eigenvalues", eigenvalues, host=True))
    share = isinstance(rule, float) and 0 < rule < 1
    if not share:
        validation.one_of("kaiser", "parallel", "mle")("rule", rule)
    validation.integer(2, none=rule not in ("parallel", "mle"))("n_samples", n_samples)
    if (values < 0).any() or (np.diff(values) > 8 * np.finfo(values.dtype).eps * values[0]).any():
        raise InputError("eigenvalues: found a negative or an increasing entry, expected λ_1 >= λ_2 >= ... >= 0")
    top = values[0] if values[0] > 0 else 1.0
    scaled = values / top
    total = scaled.sum()
    ratios = scaled / total if total > 0 else scaled
    cumulative = np.cumsum(ratios)
    if share:
        kept, scores = share_of_variance(ratios, rule), np.asarray(rule)
    elif rule == "kaiser":
        scores = values.mean()
        kept = int(np.sum(scaled > scaled.mean() * (1 + 8 * np.finfo(values.dtype).eps)))
    elif rule == "parallel":
        null = noise_quantiles(len(values), int(n_samples), jax.random.key(0) if key is None else key)
        scores = np.asarray(null, values.dtype) * values.mean()
        above = scaled > np.asarray(null) * scaled.mean()
        kept = len(values) if above.all() else int(np.argmin(above))
    else:
        scores = log_evidence(scaled, int(n_samples))
        kept = int(np.argmax(scores))
    name = "share" if share else str(rule)
    value = ExplainedVariance(values, ratios, cumulative, kept, name, scores)
    return Solution(value, stats={"rule": Note(name), "n_components": kept})


def share_of_variance(ratios: Any, share: float) -> int:
    """The fewest components that explain more than `share` of the variance."""
    return int(np.searchsorted(np.cumsum(ratios), share, side="right")) + 1 if share < np.sum(ratios) else len(ratios)


def noise_quantiles(p: int, n: int, key: Key[Array, ""]) -> Float[Array, " p"]:
    """95 % quantiles of the ordered eigenvalues of a sample covariance of white noise, relative to their mean.

    Σ of n samples has n − 1 degrees of freedom. With n > p a Wishart matrix is drawn by its Bartlett factor, O(p²)
    numbers whatever n is; else by its data.
    """
    values = _noise_values(key, float(n - 1), p=p, rank=min(p, n - 1))
    return jnp.quantile(values, LEVEL, axis=0)


@functools.partial(jax.jit, static_argnames=("p", "rank"))
def _noise_values(key: Key[Array, ""], free: Any, *, p: int, rank: int) -> Float[Array, "draws p"]:
    def draw(key: Key[Array, ""]) -> Float[Array, " p"]:
        normal, chi = jax.random.split(key)
        factor = jax.random.normal(normal, (p, rank))
        if rank == p:
            degrees = free - jnp.arange(p, dtype=factor.dtype)
            factor = jnp.tril(factor, -1) + jnp.diag(jnp.sqrt(jax.random.chisquare(chi, degrees)))
        values = jnp.square(jnp.linalg.svd(factor, compute_uv=False))
        values = jnp.concatenate([values, jnp.zeros(p - rank, values.dtype)])
        return values / jnp.mean(values)

    return jax.lax.map(draw, jax.random.split(key, DRAWS))


def log_evidence(values: Any, n: int) -> np.ndarray:
    """Minka's log evidence of rank 0, 1, ..., p − 1 (0 and ranks beyond the numerical rank are excluded by −∞)."""
    values = np.asarray(values, dtype=float)
    p = len(values)
    evidence = np.full(p, -np.inf)
    tiny = np.finfo(float).eps
    if p == 1:
        return np.zeros(1)
    i = np.arange(1, p)
    # log p(U): the uniform prior over orthonormal frames
    frames = np.cumsum(scipy.special.gammaln((p - i + 1) / 2) - np.log(np.pi) * (p - i + 1) / 2) - i * np.log(2.0)
    for k in range(1, p):
        if values[k - 1] < tiny:
            break
        noise = max(tiny, values[k:].mean())
        free = p * k - k * (k + 1) / 2
        inverse = 1 / np.where(np.arange(p) < k, np.maximum(values, tiny), noise)
        pairs = (values[:k, None] - values) * (inverse - inverse[:k, None])
        later = np.arange(p) > np.arange(k)[:, None]
        with np.errstate(divide="ignore"):
            curvature = np.sum(np.log(pairs[later])) + later.sum() * np.log(n)
        evidence[k] = (
            frames[k - 1]
            - n / 2 * np.sum(np.log(values[:k]))
            - n * (p - k) / 2 * np.log(noise)
            + (free + k) / 2 * np.log(2 * np.pi)
            - curvature / 2
            - k / 2 * np.log(n)
        )
    return evidence
