"""What kind of critical point x is: gradient norm, both ends of the Hessian's spectrum, inertia, and a label.

The second-derivative test speaks only where ∇f = 0, and a singular Hessian says nothing (x⁴ has a strict minimum at 0,
x³ has none): such points are ``degenerate``. Up to `DENSE` variables the Hessian is decomposed in full; beyond, Lanczos
finds its ends, and the inertia is what Ritz values prove (Cauchy interlacing: at least as many).
Cost: n Hessian products and O(n³), or `steps` products. Source: Nocedal & Wright, "Numerical Optimization" (2006),
theorems 2.3 and 2.4; Horn & Johnson, "Matrix Analysis" (2013), theorem 4.5.8 (Sylvester's law of inertia).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Int, Key, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate, Numbers
from corollary.core.hessian import hessian_operator
from corollary.core.precision import follows_input
from corollary.core.solution import Code, Solution, Status
from corollary.optim._tree import at_least_zero, finite, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.theory._extremes import SOURCE, extremes

DENSE = 128
LABELS = ("minimum", "maximum", "strict saddle", "degenerate", "not stationary", "undecided")
MINIMUM, MAXIMUM, SADDLE, DEGENERATE, MOVING, UNDECIDED = range(6)


class CriticalPoint(eqx.Module):
    """The verdict on a point.

    Attributes
    ----------
    code
        Index of the label in ``("minimum", "maximum", "strict saddle", "degenerate", "not stationary", "undecided")``.
    gradient_norm, lambda_min, lambda_max
        ‖∇f‖ and the extreme eigenvalues (Ritz values beyond 128 variables).
    inertia
        Numbers of eigenvalues that are negative, zero (to the tolerance) and positive. Beyond 128 variables the first
        and last are lower bounds, and the middle one counts what is not known.
    """

    code: Code
    gradient_norm: Numbers
    lambda_min: Numbers
    lambda_max: Numbers
    inertia: Int[Array | np.ndarray, "... 3"]

    @property
    def label(self) -> str:
        """The label of a single point."""
        return LABELS[int(self.code)]


@follows_input
def critical_point(
    f: Callable[[Any], Any],
    x: Any,
    *,
    tol: Any = None,
    gradient_scale: Any = None,
    steps: int = 60,
    key: Key[Array, ""] | None = None,
) -> Solution:
    """Classify x: minimum, maximum, strict saddle, degenerate, or not stationary.

    Use it on the answer of a solver that sees gradients only. f must be twice differentiable at x: |x| is refused where
    its derivative is not finite, but a kink that automatic differentiation passes over cannot be seen. Cost: n Hessian
    products up to 128 variables, `steps` beyond.

    Parameters
    ----------
    f
        Function of an array or pytree.
    x
        The point.
    tol
        What counts as zero: |λ| ≤ tol·‖∇²f‖, and ‖∇f‖ ≤ tol·`gradient_scale`; ``None``: eps^(1/2).
    gradient_scale
        A large gradient, such as the one at the start of a run; ``None``: ‖∇²f(x)‖·‖x‖, what a change of x by its own
        length would do. Give it where the critical point is the origin and ∇f there is zero only to rounding.
    steps
        Of Lanczos, beyond 128 variables.
    key
        `jax.random.key` of its start.

    Returns
    -------
    Solution
        ``value``: `CriticalPoint`; ``stats``: ``direction``, the eigenvector of λ_min. Status ``MAX_STEPS`` where
        Lanczos could not decide (label ``"undecided"``).

    Raises
    ------
    InputError
        For an x that is not finite, and settings out of range.

    Notes
    -----
    Certificates: ``gradient`` (monitor), ‖∇f‖ within its tolerance; ``spectrum``, λ_min and λ_max as reported hold to
    rounding (exact), or within the probabilistic bound (``probabilistic``).

    Examples
    --------
    >>> f = lambda x: x[0] ** 2 - x[1] ** 2
    >>> critical_point(f, [0.0, 0.0]).value.label, critical_point(f, [1.0, 0.0]).value.label
    ('strict saddle', 'not stationary')
    >>> critical_point(lambda x: (x**4).sum(), [0.0, 0.0]).value.label
    'degenerate'
    """
    x = finite("x", x)
    for name, value in (("tol", tol), ("gradient_scale", gradient_scale)):
        if value is not None:
            at_least_zero(name, value)
    validation.integer(1)("steps", steps)
    eps = jnp.finfo(ravel_pytree(x)[0].dtype).eps
    tol = like(eps**0.5 if tol is None else tol, x)
    scale = None if gradient_scale is None else like(gradient_scale, x)
    return _classify(f, x, tol, scale, steps, jax.random.key(0) if key is None else key)


@eqx.filter_jit
def _classify(
    f: Callable[[Any], Any], x: PyTree, tol: Scalar, scale: Scalar | None, steps: int, key: Key[Array, ""]
) -> Solution:
    flat, unravel = ravel_pytree(x)
    n = flat.shape[0]
    gradient = norm(jax.grad(f)(x))
    product = hessian_operator(f, x).mv
    if n <= DENSE:
        H = jax.vmap(lambda v: ravel_pytree(product(unravel(v)))[0])(jnp.eye(n, dtype=flat.dtype))
        values, vectors = jnp.linalg.eigh((H + H.T) / 2)
        size = jnp.maximum(jnp.abs(values[0]), jnp.abs(values[-1]))
        low, high, direction = values[0], values[-1], unravel(vectors[:, 0])
        loss = jnp.linalg.norm(H @ vectors - vectors * values, axis=0).max()
        noise = 32 * n**0.5 * jnp.finfo(flat.dtype).eps * size
        spectrum = Certificate(
            "an eigenvalue within ‖Hv − λv‖ of each that is reported", loss, noise, "exact", "Weyl's inequality"
        )
        lower, upper = low, high
    else:
        found = extremes(product, x, steps, key)
        values, low, high, direction = found.values, found.smallest, found.largest, found.low_vector
        size = jnp.maximum(jnp.abs(low), jnp.abs(high))
        lower, upper = found.lower, found.upper
        spectrum = Certificate(
            "λ_min and λ_max within tol·‖∇²f‖ of their Ritz values",
            jnp.maximum(low - lower, upper - high),
            tol * size + found.noise,
            "probabilistic",
            SOURCE,
            confidence=0.998,
        )
    edge = tol * size
    inside = jnp.arange(values.shape[0], dtype=jnp.int32) < (n if n <= DENSE else found.count)
    negative, positive = jnp.sum(inside & (values < -edge)), jnp.sum(inside & (values > edge))
    inertia = jnp.stack([negative, n - negative - positive, positive]).astype(jnp.int32)

    threshold = tol * (size * norm(x) if scale is None else scale)
    still = gradient <= threshold
    saddle, flat_below, flat_above = (low < -edge) & (high > edge), lower >= -edge, upper <= edge
    code = jnp.select(
        [~still, saddle, lower > edge, upper < -edge, ((low <= edge) & flat_below) | ((high >= -edge) & flat_above)],
        [MOVING, SADDLE, MINIMUM, MAXIMUM, DEGENERATE],
        UNDECIDED,
    ).astype(jnp.int32)
    certificates = {
        "gradient": Certificate(
            "‖∇f(x)‖ <= tol·gradient_scale", gradient, threshold, "monitor", "Nocedal & Wright (2006), theorem 2.2"
        ),
        "spectrum": spectrum,
    }
    known = jnp.isfinite(gradient) & jnp.isfinite(size)
    value = CriticalPoint(jnp.where(known, code, UNDECIDED), gradient, low, high, inertia)
    stats = {"direction": direction, "lambda_min_lower": lower, "lambda_max_upper": upper}
    return Solution(value, certificates, Status.of(code != UNDECIDED, known), values.shape[0], stats)
