"""The Łojasiewicz exponent near an optimum: ‖∇f(x)‖ ≥ c (f(x) − f*)^β, from a regression over samples.

It decides how gradient methods end: β = 0, in finitely many steps; β ≤ 1/2, linearly; β in (1/2, 1), f(x_k) − f* like
k^(−1/(2β − 1)). |x|^p has β = 1 − 1/p exactly. An L-smooth f has ‖∇f‖² ≤ 2L(f − f*), so that only β ≥ 1/2 is possible
for it. Cost: a gradient a sample. Source: Attouch & Bolte, Mathematical Programming 116 (2009), theorem 2;
Łojasiewicz (1963).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._tree import like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._samples import as_function, sample

ATTOUCH = "Attouch & Bolte, Mathematical Programming 116 (2009), theorem 2"


class KLExponent(eqx.Module):
    """What `kl_exponent` found.

    Attributes
    ----------
    beta, interval
        β with its confidence interval.
    c
        The largest c with ‖∇f‖ ≥ c (f − f*)^β at every sample.
    rate
        ``"finite"``, ``"linear"`` or ``"sublinear"``.
    order
        For a sublinear rate the power p of f(x_k) − f* ~ k^(−p), 1/(2β − 1); else infinite.
    certificate
        β as an ``estimate`` with its standard error.
    """

    beta: float
    interval: tuple[float, float]
    c: float
    rate: Literal["finite", "linear", "sublinear"]
    order: float
    certificate: Certificate


@follows_input
def kl_exponent(f: Any, points: Any, *, minimum: Any, confidence: float = 0.95, atol: float = 0.02) -> KLExponent:
    """Fit log‖∇f‖ = log c + β log(f − f*) over samples near an optimum, and tell the rate that follows.

    Use it on samples at many distances from the optimum (log-spaced). With directions that behave differently the
    largest exponent governs; the regression mixes them, so look at one direction at a time.

    Parameters
    ----------
    f
        Differentiable function of an array or pytree.
    points
        n samples along the leading axes; those whose f is f* to rounding are left out.
    minimum
        f*.
    confidence
        Of the interval.
    atol
        β within it of 0 or 1/2 counts as that.

    Raises
    ------
    InputError
        Where fewer than 4 samples are left.

    Examples
    --------
    >>> fit = kl_exponent(lambda x: x**4, np.geomspace(1e-3, 1.0, 20), minimum=0.0)
    >>> round(fit.beta, 6), round(fit.c, 4), fit.rate, round(fit.order, 4)
    (0.75, 4.0, 'sublinear', 2.0)
    """
    f, points = as_function(f), sample("points", points, 1)
    validation.number(0.0, 1.0, open_low=True)("confidence", confidence)
    gap, size, noise = (np.asarray(a, float) for a in _measure(f, points, like(minimum, points)))
    usable = (gap > 1e3 * noise) & (size > 0) & np.isfinite(gap) & np.isfinite(size)
    if usable.sum() < 4 or np.ptp(np.log(gap[usable])) == 0:
        raise InputError(f"points: found {int(usable.sum())} with f above f*, expected at least 4 of different values")
    x, y = np.log(gap[usable]), np.log(size[usable])
    fit: Any = scipy.stats.linregress(x, y)
    beta, stderr = float(fit.slope), float(fit.stderr)
    half = float(scipy.stats.t.ppf((1 + confidence) / 2, max(x.size - 2, 1))) * stderr
    c = float(np.exp(np.min(y - beta * x)))
    rate = "finite" if beta <= atol else "linear" if beta <= 0.5 + atol else "sublinear"
    order = 1 / (2 * beta - 1) if rate == "sublinear" else float("inf")
    certificate = Certificate("Łojasiewicz exponent β", beta, None, "estimate", ATTOUCH, confidence, stderr)
    return KLExponent(beta, (beta - half, beta + half), c, rate, order, certificate)


@eqx.filter_jit
def _measure(f: Callable[[Any], Any], points: PyTree, best: Scalar) -> Any:
    values, gradients = jax.vmap(jax.value_and_grad(f))(points)
    return values - best, jax.vmap(norm)(gradients), rounding(jnp.abs(values) + jnp.abs(best), 1.0)
