"""Hutchinson's estimators: the trace, the diagonal, and the divergence of a vector field, from products alone.

When: A is known only by its products (a Jacobian, a Hessian, an inverse) or is too large to look at. The error falls
as 1/√probes; where the spectrum decays `hutchpp` and `xtrace` need far fewer products. Cost: one product of A with a
block of `probes` columns, O(n · probes) beside it. Source: Hutchinson, Comm. Stat. Simul. 19 (1990); Girard (1989);
Bekas, Kokiopoulou & Saad, Appl. Numer. Math. 57 (2007), for the diagonal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.trace._probes import draw, probe_block, settings, square, summarise

HUTCHINSON = "Hutchinson (1990); Avron & Toledo (2011), Lemmas 5 and 9, for the variance"


@follows_input
def hutchinson(
    A: Any,
    *,
    probes: int = 64,
    distribution: str = "rademacher",
    tol: Any = None,
    confidence: float = 0.95,
    key: Key[Array, ""],
) -> Solution:
    """Trace of a square matrix or operator as the mean of ωᵀAω over random probes.

    Parameters
    ----------
    A
        (n, n) dense or sparse matrix, or operator (`core.Function` from a product).
    probes
        How many, at least 2; all in one block product.
    distribution
        ``"rademacher"`` (exact where A is diagonal), ``"gaussian"`` or ``"sphere"``.
    tol
        Given, the certificate ``"interval"`` claims a half-width of at most tol·|trace|; raise `probes` where it fails.
    confidence
        Of the interval.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: the estimate, unbiased. ``stats``: ``stderr``, ``interval`` (Student's), ``products``. It can be
        jitted, vmapped and differentiated; the gradient is that of the estimate, unbiased for the trace's own.

    Raises
    ------
    InputError
        Where A is not square, real and finite, or fewer than two probes are asked for.

    Notes
    -----
    Certificates: ``"estimate"`` (the standard error), ``"interval"`` (probabilistic, given `tol`). Variance of one
    probe for symmetric A: 2(‖A‖_F² − Σaᵢᵢ²) with signs, 2‖A‖_F² with Gaussian probes.

    Examples
    --------
    >>> import jax, numpy as np
    >>> float(hutchinson(np.diag([1.0, 2.0, 3.0]), probes=2, key=jax.random.key(0)).value)
    6.0
    """
    settings(probes, distribution, tol, confidence)
    P = square(A, key)
    omega = probe_block(P, probes, distribution, key)
    samples = P.xp.sum(omega * P.apply(omega), axis=0)
    stats = {"products": probes}
    found = summarise(samples, 0, P.xp, name="tr A", tol=tol, confidence=confidence, source=HUTCHINSON, stats=stats)
    return P.out(found)


@follows_input
def diagonal_estimate(
    A: Any,
    *,
    probes: int = 64,
    distribution: str = "rademacher",
    tol: Any = None,
    confidence: float = 0.95,
    key: Key[Array, ""],
) -> Solution:
    """Diagonal of a square matrix or operator as the mean of ω ∘ Aω over random probes.

    Cost: as `hutchinson`. One entry has variance Σ_{j≠i} aᵢⱼ² with signs; `xdiag` does better where A is close to low
    rank. Parameters and certificates are those of `hutchinson`; the interval holds for each entry by itself.

    Parameters
    ----------
    A, probes, distribution, tol, confidence, key
        As in `hutchinson`.

    Returns
    -------
    Solution
        ``value``: (n,), unbiased; ``stats``: ``stderr`` and ``interval`` by entry, ``products``.

    Raises
    ------
    InputError
        As `hutchinson`.

    Examples
    --------
    >>> import jax, numpy as np
    >>> diagonal_estimate(np.diag([1.0, 2.0, 3.0]), probes=2, key=jax.random.key(0)).value.tolist()
    [1.0, 2.0, 3.0]
    """
    settings(probes, distribution, tol, confidence)
    P = square(A, key)
    omega = probe_block(P, probes, distribution, key)
    samples = (omega * P.apply(omega)).T
    source = "Bekas, Kokiopoulou & Saad (2007)"
    stats = {"products": probes}
    return P.out(summarise(samples, 0, P.xp, name="diag A", tol=tol, confidence=confidence, source=source, stats=stats))


@follows_input
def divergence(
    field: Callable[[Array], Array],
    x: Any,
    *,
    probes: int | None = 8,
    distribution: str = "rademacher",
    confidence: float = 0.95,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Divergence Σ ∂fᵢ/∂xᵢ of a vector field at a point: the trace of its Jacobian, from directional derivatives.

    When: the change of log-density along a flow (continuous normalising flows, score matching). Cost: the field is
    linearised once and pushed forward `probes` times; exactly, n times.

    Parameters
    ----------
    field
        (n,) to (n,), differentiable.
    x
        (n,): the point.
    probes
        Directions, at least 2; ``None``: all n unit vectors, exactly.
    distribution, confidence, key
        As in `hutchinson`; no key is needed for ``probes=None``.

    Returns
    -------
    Solution
        ``value``: the divergence; ``stats``: ``stderr`` and ``interval`` as in `hutchinson` (zero width where exact).

    Raises
    ------
    InputError
        Where the field does not map (n,) to (n,), or the key is missing.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> float(divergence(lambda x: x**2, jnp.array([1.0, 2.0]), probes=None).value)
    6.0
    """
    x = jnp.asarray(validation.vector("x", x))
    out = jax.eval_shape(field, x)
    if getattr(out, "shape", None) != x.shape:
        raise InputError(f"field: returned shape {getattr(out, 'shape', None)}, expected {x.shape} as x")
    _, push = jax.linearize(field, x)
    columns = jax.vmap(push, in_axes=1, out_axes=1)
    if probes is None:
        value = jnp.trace(columns(jnp.eye(x.shape[0], dtype=x.dtype)))
        zero = jnp.zeros_like(value)
        stats = {"stderr": zero, "interval": (value, value), "products": x.shape[0]}
        return Solution(value, {}, Status.of(True, jnp.isfinite(value)), 1, stats)
    settings(probes, distribution, None, confidence)
    if key is None:
        raise InputError("key: found None, expected jax.random.key(...) for random probes")
    omega = draw(key, x.shape[0], probes, distribution, x.dtype)
    samples = jnp.sum(omega * columns(omega), axis=0)
    stats = {"products": probes}
    return summarise(samples, 0, jnp, name="div f", tol=None, confidence=confidence, source=HUTCHINSON, stats=stats)
