"""Mean and covariance of a mini-batch gradient, exactly, and whether a sampler is biased.

With replacement Cov g_B = S/B, S the covariance of the single gradients (divisor n); without, S/B·(n − B)/(n − 1): zero
at B = n. So σ²/B, the usual account of what a larger batch buys, is exact only with replacement. Cost: O(n d²).
Source: Cochran, "Sampling techniques" (1977), theorem 2.2; Bottou, Curtis & Nocedal (2018), section 4.2.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._tree import like, norm


@final
class BatchMoments(eqx.Module):
    """The law of g_B to second order.

    Attributes
    ----------
    mean
        E g_B, (d,).
    covariance
        Cov g_B, (d, d).
    variance
        Its trace, E‖g_B − E g_B‖².
    full
        The full gradient, (d,).
    certificates
        ``unbiased`` (exact): ‖E g_B − full‖ against rounding.
    """

    mean: Float[Array, " d"] | Any
    covariance: Float[Array, "d d"] | Any
    variance: Float[Array, ""] | Any
    full: Float[Array, " d"] | Any
    certificates: dict[str, Certificate]

    @property
    def unbiased(self) -> Any:
        """The verdict."""
        return self.certificates["unbiased"].holds


@follows_input
def minibatch_gradient(
    gradients: Any, batch_size: int | None = None, *, replacement: bool = True, sampler: Any = None
) -> BatchMoments:
    """E g_B and Cov g_B of the mean over a batch, or of any sampler that is given by all its outcomes.

    Parameters
    ----------
    gradients
        (n, d): the gradient of each example.
    batch_size
        B of uniform sampling.
    replacement
        Draw with replacement, or without.
    sampler
        In place of `batch_size`: ``(indices, weights, probabilities)``, all outcomes of a sampler with shapes (m, B),
        (m, B) and (m,); outcome t gives Σ_j weights[t, j]·gradients[indices[t, j]]. `Batches` of equal probability
        are ``(batches.indices, batches.weights, None)``.

    Returns
    -------
    BatchMoments

    Raises
    ------
    InputError
        For sizes out of range or probabilities that do not add up to 1.

    Notes
    -----
    Certificate ``unbiased`` (exact). Source: Cochran (1977), theorem 2.2.

    Examples
    --------
    >>> moments = minibatch_gradient([[1.0], [2.0], [6.0]], 3, replacement=False)
    >>> moments.mean.tolist(), float(moments.variance), bool(moments.unbiased)
    ([3.0], 0.0, True)
    """
    g = validation.matrix("gradients", gradients)
    validation.flag("replacement", replacement)
    if (batch_size is None) == (sampler is None):
        raise InputError("batch_size: found both or neither of it and a sampler, expected one of them")
    n = g.shape[0]
    full = jnp.mean(g, axis=0)
    scale = jnp.max(norm(g, 1))
    if sampler is None:
        validation.integer(1)("batch_size", batch_size)
        if not replacement and batch_size > n:  # type: ignore[operator]
            raise InputError(f"batch_size: found {batch_size}, expected at most n = {n} without replacement")
        centred = g - full
        factor = 1.0 if replacement else (n - batch_size) / max(n - 1, 1)  # type: ignore[operator]
        covariance = centred.T @ centred * (factor / (n * batch_size))  # type: ignore[operator]
        mean = full
    else:
        indices, weights, p = _outcomes(sampler, g)
        outcomes = jnp.einsum("tb,tbd->td", weights, g[indices])
        mean = p @ outcomes
        centred = outcomes - mean
        covariance = jnp.einsum("t,ti,tj->ij", p, centred, centred)
        scale = jnp.maximum(scale, jnp.max(jnp.sum(jnp.abs(weights), 1)) * scale)
    bias = norm(mean - full)
    claim = "‖E g_B − full gradient‖ = 0, up to rounding"
    source = "by enumeration" if sampler is not None else "Cochran (1977), theorem 2.1"
    certificate = Certificate(claim, bias, rounding(scale, 8.0 + n**0.5), "exact", source)
    return BatchMoments(mean, covariance, jnp.trace(covariance), full, {"unbiased": certificate})


def _outcomes(sampler: Any, g: Float[Array, "n d"]) -> tuple[Array, Array, Array]:
    indices, weights, p = sampler
    indices = jnp.asarray(indices)
    weights = jnp.asarray(weights).astype(g.dtype)
    if indices.ndim != 2 or weights.shape != indices.shape:
        raise InputError(f"sampler: found shapes {indices.shape} and {weights.shape}, expected (m, B) for both")
    m = indices.shape[0]
    p = jnp.full((m,), 1 / m, g.dtype) if p is None else jnp.asarray(p).astype(g.dtype)
    if p.shape != (m,) or bool(jnp.any(p < 0)) or not bool(jnp.abs(jnp.sum(p) - 1) <= rounding(like(1.0, g), 8 * m)):
        raise InputError(f"sampler: found probabilities of shape {p.shape}, expected {m} that add up to 1")
    if bool(jnp.any((indices < 0) | (indices >= g.shape[0]))):
        raise InputError(f"sampler: found an index out of range, expected 0 to {g.shape[0] - 1}")
    return indices, weights, p
