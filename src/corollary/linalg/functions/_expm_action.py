"""Action of the matrix exponential, e^{tM}v, at one time or many, from products with M.

When: linear evolution (heat, Schrödinger, Markov chains, graph diffusion) for a matrix too large for `expm`. Two ways:
``"krylov"`` projects on one Krylov space for all times and columns of its own, the fewest products where ‖tM‖ is up to
about `steps`; ``"taylor"`` walks in substeps of norm at most 4 with a Taylor polynomial that is exact to rounding, any
‖tM‖ and any number of columns in one block product. Cost: `steps` products and O(n steps²) a column, or 8 ‖tM‖
products. Dense e^M is `jax.scipy.linalg.expm`. Sources: Saad, SIAM J. Numer. Anal. 29 (1992); Al-Mohy & Higham, SIAM J.
Sci. Comput. 33 (2011).

Error of the Krylov form, exactly: ‖v‖h∫₀ᵗ e^{(t−s)M}q (eₘᵀe^{sH}e₁) ds with q, h the next vector and its coefficient
(variation of constants; Saad, Theorem 5.1). With ‖e^{sM}‖ ≤ e^{sμ}, where μ is at least the largest eigenvalue of
(M + Mᵀ)/2, it is bounded by what the small matrix H tells.
"""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.linalg
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from corollary.core import operator, validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.eigen._krylov import arnoldi_process
from corollary.linalg.functions._krylov_function import operands

STRIDE = 4.0  # norm of one substep: e^4 costs the sum fewer than two digits
NODES = 16  # Gauss-Legendre nodes in time for the error integral


@follows_input
def expm_action(
    M: Any,
    v: Any,
    t: Any = 1.0,
    *,
    method: str = "taylor",
    steps: int = 30,
    substeps: int | None = None,
    growth: Any = None,
    tol: Any = None,
) -> Solution:
    """e^{tM}v, with a bound on the error.

    Parameters
    ----------
    M
        (n, n) dense or sparse matrix, or operator.
    v
        (n,) or (n, k).
    t
        One time, or several in any order, shape (T,): their answers come stacked in front.
    method
        ``"taylor"`` or ``"krylov"``.
    steps
        Dimension of the Krylov space.
    substeps
        Taylor: how many for each stretch from one time to the next; ``None``: its length times ‖M‖/4, from the entries
        of a dense or sparse M (an operator needs it given). For reverse-mode derivatives give it: the walk is then a
        scan of static length.
    growth
        μ, at least the largest eigenvalue of (M + Mᵀ)/2, as far as you know it: 0 for a skew matrix, a dissipative one,
        minus a Laplacian. ``None``: from Gershgorin's circles for a dense M, else ‖M‖ as the Krylov space or
        the entries show it.
    tol
        Relative to the larger of ‖v‖ and ‖value‖, what the bound is held against; ``None``: eps^(1/2).

    Returns
    -------
    Solution
        ``value``: (n,), (n, k), (T, n) or (T, n, k). ``stats``: ``error``, the bound for each time. It can be jitted,
        vmapped and differentiated.

    Raises
    ------
    InputError
        Where M is not square and finite, shapes do not fit, or Taylor's method cannot see the norm of M.

    Notes
    -----
    Certificate: ``"error"``, exact where `growth` is right (see the module for Krylov; for Taylor the remainder of each
    substep, amplified to the end, with its rounding); where `growth` had to be guessed from the Krylov space it is only
    a monitor.

    Examples
    --------
    >>> import numpy as np
    >>> turn = np.array([[0.0, -np.pi], [np.pi, 0.0]])
    >>> expm_action(turn, np.array([1.0, 0.0]), growth=0.0).value.round(9).tolist()
    [-1.0, 0.0]
    """
    validation.one_of("taylor", "krylov")("method", method)
    validation.integer(2)("steps", steps)
    validation.integer(1, none=True)("substeps", substeps)
    A, v = operands(M, v, block=True)
    times = jnp.asarray(t, v.dtype)
    if times.ndim > 1:
        raise InputError(f"t: found shape {times.shape}, expected a number or a vector of times")
    for name, value in (("growth", growth), ("tol", tol)):
        if not isinstance(value, Tracer | jax.Array):
            validation.number(none=True)(name, value)
    block, flat = v.reshape(v.shape[0], -1), jnp.atleast_1d(times)
    mu, sure = _growth(A, growth, v.dtype)
    if method == "krylov":
        value, error = _krylov(A, block, flat, steps, mu)
        error, taken = jnp.sqrt(jnp.sum(error**2, axis=1)), steps
    else:
        sure = True
        if substeps is None and _norm(A) is None:
            raise InputError("substeps: found None for an operator, expected a number (about ‖tM‖/4), or 'krylov'")
        both = isinstance(flat, Tracer) or bool(jnp.any(flat < 0))
        value, error, taken = _taylor(A, block, flat, substeps, mu, both)
    size = jnp.maximum(jnp.linalg.norm(v), jnp.linalg.norm(value, axis=(1, 2)))
    size, value = jax.lax.stop_gradient(size), value.reshape((*flat.shape, *v.shape))
    tol = jnp.finfo(v.dtype).eps ** 0.5 if tol is None else tol
    certificate = Certificate(
        "‖value − e^{tM}v‖ <= tol·max(‖v‖, ‖value‖)",
        measured=error,
        bound=tol * size,
        kind="exact" if sure else "monitor",
        source="Saad (1992), Theorem 5.1; Al-Mohy & Higham (2011)",
        assumptions=(Assumption("growth ≥ λ_max((M + Mᵀ)/2)"),),
    )
    status = Status.of(jnp.all(certificate.holds), jnp.all(jnp.isfinite(value)))
    stats = {"error": error[0] if times.ndim == 0 else error, "method": Note(method)}
    return Solution(value[0] if times.ndim == 0 else value, {"error": certificate}, status, taken, stats)


def _entries(A: operator.Operator) -> Any:
    return A.matrix if isinstance(A, lx.MatrixLinearOperator) else None


def _growth(A: operator.Operator, growth: Any, dtype: Any) -> tuple[Any, bool]:
    """μ, and whether it is sure; None where only the Krylov space can tell."""
    if growth is not None:
        return jnp.asarray(growth, dtype), True
    M = jax.lax.stop_gradient(_entries(A))
    if M is not None:
        S = (M + M.T) / 2
        diagonal = jnp.diagonal(S)
        return jnp.max(diagonal + jnp.sum(jnp.abs(S), axis=1) - jnp.abs(diagonal)), True
    norm = _norm(A)
    return norm, norm is not None


def _norm(A: operator.Operator) -> Any:
    """√(‖M‖₁‖M‖_∞) ≥ ‖M‖₂ from the entries, or None."""
    held = jax.lax.stop_gradient(A)
    match held:
        case lx.MatrixLinearOperator():
            size = jnp.abs(held.matrix)
            return jnp.sqrt(jnp.max(jnp.sum(size, axis=0)) * jnp.max(jnp.sum(size, axis=1)))
        case operator.Sparse():
            sums = (
                jax.ops.segment_sum(jnp.abs(part.data), rows, num_segments=part.shape[0])
                for part, rows in ((held.matrix, held.rows), (held.adjoint, held.columns))
            )
            return jnp.sqrt(math.prod(jnp.max(s) for s in sums))
        case _:
            return None


@eqx.filter_jit
def _krylov(A: operator.Operator, block: Array, times: Array, steps: int, mu: Any) -> tuple[Array, Array]:
    each = jax.vmap(lambda v: _krylov_vector(A, v, times, steps, mu), in_axes=1, out_axes=(2, 1))
    return each(block)


def _krylov_vector(A: operator.Operator, v: Array, times: Array, steps: int, mu: Any) -> tuple[Array, Array]:
    """All times from one Arnoldi space: (T, n) and the bounds (T,)."""
    run = arnoldi_process(A.mv, v, steps)
    H = run.H[:steps]
    small = jax.vmap(lambda t: jax.scipy.linalg.expm(t * H)[:, 0])(times)
    value = run.norm * (small @ run.Q[:, :steps].T)
    held, h, norm, scale = jax.lax.stop_gradient((H, jnp.abs(run.H[-1, -1]), run.norm, run.scale))
    mu = scale if mu is None else mu
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    nodes, weights = jnp.asarray((nodes + 1) / 2, v.dtype), jnp.asarray(weights / 2, v.dtype)

    def bound(t: Array) -> Array:
        last = jax.vmap(lambda s: jax.scipy.linalg.expm(s * t * held)[-1, 0])(nodes)
        # Cauchy-Schwarz keeps the integrands smooth, so that the rule in time is accurate.
        grown = jnp.exp(2 * jnp.abs(t) * (1 - nodes) * jnp.where(t > 0, mu, jnp.abs(scale) + jnp.abs(mu)))
        return norm * h * jnp.abs(t) * jnp.sqrt((weights @ last**2) * (weights @ grown))

    size = jnp.linalg.norm(jax.lax.stop_gradient(value), axis=1)
    return value, jax.vmap(bound)(jax.lax.stop_gradient(times)) + rounding(size + norm, 8.0 * steps)


@eqx.filter_jit
def _taylor(
    A: operator.Operator, block: Array, times: Array, substeps: int | None, mu: Any, both: bool
) -> tuple[Array, Array, Any]:
    """From time to time in ascending order, each stretch in equal substeps."""
    norm = _norm(A)
    order = jnp.argsort(times)
    # Backwards from zero through the negative times, then forwards: every stretch starts at an answer already known.
    ranks = jnp.argsort(order)
    ascending = times[order]
    zero = jnp.zeros((), times.dtype)
    forward = jnp.diff(jnp.concatenate([zero[None], jnp.maximum(ascending, 0)]))
    backward = jnp.diff(jnp.concatenate([jnp.minimum(ascending, 0), zero[None]]))[::-1]

    def stretch(carry: tuple[Array, Array], t: Array) -> tuple[Any, Any]:
        x, error = carry
        x, error = _walk(A, x, error, t, norm, substeps, mu)
        return (x, error), (x, error)

    start = (block, jnp.zeros((), block.dtype))
    _, (ahead, error_ahead) = jax.lax.scan(stretch, start, forward)
    if both:
        _, (back, error_back) = jax.lax.scan(stretch, start, -backward)
        negative = ascending < 0
        ahead = jnp.where(negative[:, None, None], back[::-1], ahead)
        error_ahead = jnp.where(negative, error_back[::-1], error_ahead)
    taken = substeps if substeps is not None else jnp.sum(_pieces(jnp.abs(forward), norm))
    return ahead[ranks], error_ahead[ranks], taken


def _pieces(t: Any, norm: Any) -> Array:
    return jnp.maximum(jnp.ceil(jnp.abs(t) * norm / STRIDE), 1).astype(jnp.int32)


def _walk(
    A: operator.Operator, x: Array, error: Array, t: Array, norm: Any, substeps: int | None, mu: Any
) -> tuple[Array, Array]:
    eps = float(jnp.finfo(x.dtype).eps)
    held_t = jax.lax.stop_gradient(t)
    pieces = _pieces(held_t, norm) if substeps is None else jnp.int32(substeps)
    radius = STRIDE if norm is None else jnp.abs(held_t) * norm / pieces.astype(x.dtype)
    degree = _degree(STRIDE, eps)
    h = t / pieces.astype(x.dtype)
    terms = jnp.arange(1, degree + 1, dtype=x.dtype)
    # Remainder of e^z for |z| ≤ radius: the first term left out, over 1 − the ratio that follows it.
    radius = jnp.asarray(radius, x.dtype)
    log_first = (degree + 1) * jnp.log(jnp.maximum(radius, eps)) - math.lgamma(degree + 2)
    ratio = radius / (degree + 2)
    remainder = jnp.where(ratio < 1, jnp.exp(log_first) / (1 - jnp.minimum(ratio, 0.9)), jnp.inf)
    rate = jnp.asarray(0 if mu is None else mu, x.dtype)
    rate = jnp.where(held_t < 0, jnp.abs(rate) if norm is None else norm, rate)
    grows = jnp.exp(jnp.abs(jax.lax.stop_gradient(h)) * rate)
    noise = 8 * eps * jnp.exp(radius)

    def substep(x: Array) -> Array:
        def term(carry: tuple[Array, Array], j: Array) -> tuple[Any, None]:
            total, power = carry
            power = operator.matmat(A, power) * (h / j)
            return (total + power, power), None

        return jax.lax.scan(term, (x, x), terms)[0][0]

    def body(carry: tuple[Array, Array], _: Any = None) -> tuple[Any, None]:
        x, error = carry
        size = jnp.linalg.norm(jax.lax.stop_gradient(x))
        return (substep(x), error * grows + (remainder + noise) * size), None

    if substeps is None:
        return jax.lax.fori_loop(0, pieces, lambda _, c: body(c)[0], (x, error))
    return jax.lax.scan(body, (x, error), None, length=substeps)[0]


def _degree(radius: float, eps: float) -> int:
    """Least degree whose first term left out, relative to e^{−radius}, is below rounding."""
    return next(m for m in range(4, 200) if radius ** (m + 1) / math.factorial(m + 1) <= eps * math.exp(-radius) / 4)
