"""Regularised least squares read off one SVD: x = Σ f(σ_i) (u_iᵀb) v_i for a filter f.

When: an ill-posed problem, where 1/σ_i blows up the noise. Truncation, Tikhonov and any other filter share the
decomposition A = U Σ Vᵀ, of which only σ, V and the coefficients Uᵀb are kept: a tall matrix is reduced by QR first.

Cost: 2 n p² + 20 p³ for n ≥ p, once; each further filter O(p²).
Source: Hansen, Discrete Inverse Problems (SIAM, 2010), ch. 4-5; Golub, Heath & Wahba, Technometrics 21 (1979).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input
from corollary.core.solution import Note, Solution, Status
from corollary.linalg.least_squares._factors import exponent, shift
from corollary.linalg.least_squares._lstsq import lstsq


class Spectrum(eqx.Module):
    """What a filter needs of (A, b): σ, Vᵀ, β = Uᵀb, and the norm of b outside the range of U."""

    s: Float[Array, " r"]
    Vt: Float[Array, "r p"]
    beta: Float[Array, "r k"]
    outside: Float[Array, " k"]

    def norm_of_residual(self, factors: Float[Array, " r"]) -> Float[Array, " k"]:
        """‖b − A x‖ of the filter f with 1 − σ f(σ) = `factors`."""
        return jnp.hypot(jnp.linalg.norm(factors[:, None] * self.beta, axis=0), self.outside)


@follows_input
def spectral_filter(A: Any, b: Any, filter: Callable[[Array], Array]) -> Solution:
    """x = Σ f(σ_i) (u_iᵀb) v_i for any filter f.

    Cost: one SVD. Use `tsvd` and `tikhonov` for the two classical filters.

    Parameters
    ----------
    A, b
        (n, p) and (n,) or (n, k).
    filter
        f: maps the vector of singular values, descending, to the vector of factors; ``lambda s: s / (s**2 + alpha)``
        is ridge. It must be finite, also at σ = 0.

    Returns
    -------
    Solution
        ``value`` (p,) or (p, k); ``stats``: singular_values, factors, residual_norm.

    Raises
    ------
    InputError
        For bad data, or a filter that returns another shape or something that is not finite.

    Notes
    -----
    Certificate ``filter_residual``: the residual r of x, by products with A itself, has Aᵀr = V σ(1 − σf)(Uᵀb), to
    rounding.

    Examples
    --------
    >>> import numpy as np
    >>> A = np.diag([2.0, 1.0, 0.5])
    >>> spectral_filter(A, np.ones(3), lambda s: s / (s**2 + 1)).value.round(2).tolist()
    [0.4, 0.5, 0.4]
    """
    return _filtered(A, b, filter, "spectral_filter")


@follows_input
def tsvd(A: Any, b: Any, *, tau: Any = None, k: Any = None) -> Solution:
    """Truncated SVD: the minimum-norm least-squares solution of the best rank-k approximation of A.

    Parameters
    ----------
    A, b
        (n, p) and (n,) or (n, k).
    tau
        Keep singular values σ_i ≥ tau (in the units of A), or
    k
        keep the k largest. Give exactly one. Singular values at most max(n, p)·eps·σ₁ are rounding and never inverted.

    Returns
    -------
    Solution
        ``value``; ``stats``: rank, amplification 1/σ_k (how much noise in b may grow), singular_values, residual_norm.

    Notes
    -----
    Certificates: ``filter_residual`` as in `spectral_filter`, and ``rank``: the gap at the cut, σ_{k+1}/σ_k. Where the
    gap is small, x is sensitive to where the cut falls (Hansen 2010, §4.2). Equals `lstsq` with rcond = tau/σ₁.

    Examples
    --------
    >>> import numpy as np
    >>> tsvd(np.diag([4.0, 2.0, 1e-9]), np.array([4.0, 2.0, 1.0]), k=2).value.tolist()
    [1.0, 1.0, 0.0]
    """
    if (tau is None) == (k is None):
        raise InputError(f"tau: found tau={tau!r} and k={k!r}, expected exactly one of them")
    if tau is not None and not isinstance(tau, jax.Array):
        validation.number(0)("tau", tau)
    if k is not None and not isinstance(k, jax.Array):
        validation.integer(1)("k", k)

    def keep(s: Array) -> Array:
        wanted = s >= jnp.asarray(tau).astype(s.dtype) if k is None else jnp.arange(s.shape[0]) < k
        floor = max(np.shape(A)) * float(jnp.finfo(s.dtype).eps) * s[0]
        return wanted & (s > floor)

    solution = _filtered(A, b, lambda s: jnp.where(keep(s), 1 / jnp.where(keep(s), s, 1), 0), "tsvd")
    s, kept = solution.stats["singular_values"], solution.stats["factors"] > 0
    least = jnp.min(jnp.where(kept, s, jnp.inf))
    gap = Certificate(
        "a clear cut: σ_{k+1}/σ_k <= 1/2",
        jnp.max(jnp.where(kept, 0, s)) / least,
        jnp.asarray(0.5, s.dtype),
        "monitor",
        "Hansen, Discrete Inverse Problems (2010), §4.2",
    )
    certificates = {**solution.certificates, "rank": gap}
    stats = {**solution.stats, "rank": kept.sum(), "amplification": 1 / least}
    return Solution(solution.value, certificates, solution.status, solution.steps, stats)


def tikhonov(A: Any, b: Any, lam: Any, L: Any = None, *, solver: str = "auto") -> Solution:
    """Minimise ‖A x − b‖² + λ ‖L x‖², by least squares on [A; √λ L], which never squares the condition number.

    Cost: that of `lstsq` on n + q rows. For many λ and L = I, `spectral_filter` and `gcv` share one SVD.

    Parameters
    ----------
    A, b
        (n, p) and (n,) or (n, k).
    lam
        λ ≥ 0, in the units of A²; it may be traced (its derivative exists for λ > 0).
    L
        (q, p); ``None``: the identity (ridge regression).
    solver
        As in `lstsq`.

    Returns
    -------
    Solution
        As from `lstsq` for the stacked problem, with its certificates; ``stats["residual_norm"]`` is ‖A x − b‖.

    Examples
    --------
    >>> import numpy as np
    >>> tikhonov(np.eye(2), np.array([1.0, 3.0]), 1.0).value.round(3).tolist()
    [0.5, 1.5]
    """
    validation.number(0)("lam", lam) if not isinstance(lam, jax.Array) else None
    return _tikhonov(A, b, lam, L, solver=solver)


@follows_input
def _tikhonov(A: Any, b: Any, lam: Any, L: Any, *, solver: str) -> Solution:
    A, b = _data(A, b)
    L = jnp.eye(A.shape[1], dtype=A.dtype) if L is None else validation.matrix("L", L).astype(A.dtype)
    if L.shape[1] != A.shape[1]:
        raise InputError(f"L: found {L.shape[1]} columns, expected {A.shape[1]} as in A")
    root = jnp.sqrt(jnp.asarray(lam).astype(A.dtype))
    stacked = jnp.concatenate([A, root * L])
    solution = lstsq(stacked, jnp.concatenate([b, jnp.zeros((L.shape[0], *b.shape[1:]), b.dtype)]), solver=solver)
    stats = {**solution.stats, "residual_norm": jnp.linalg.norm(b - A @ solution.value, axis=0)}
    return Solution(solution.value, solution.certificates, solution.status, solution.steps, stats)


class GCV(eqx.Module):
    """Generalised cross-validation over a grid of λ: scores, the minimiser, and whether it lies inside the grid."""

    lams: Float[Array | np.ndarray, " m"]
    scores: Float[Array | np.ndarray, " m"]
    best: Any
    certificates: dict[str, Certificate]

    def plot(self, ax: Any = None) -> Any:
        """The score against λ on logarithmic axes, its minimiser marked."""
        from corollary.core import draw

        ax = draw.axes(ax, title="Generalised cross-validation", xlabel="λ", ylabel="GCV(λ)")
        ax.loglog(self.lams, self.scores, color=draw.ACCENT)
        ax.axvline(float(self.best), color=draw.BOUND, linestyle="--", label=f"λ = {float(self.best):.2g}")
        ax.legend(frameon=False)
        return ax


@follows_input
def gcv(A: Any, b: Any, lams: Any = None) -> GCV:
    """GCV(λ) = (‖A x_λ − b‖²/n) / (1 − tr H_λ/n)² for ridge, and its minimiser over a grid, from one SVD.

    Use it to choose λ when the noise level is unknown. Cost: one SVD, then O(p) for each λ.

    Parameters
    ----------
    A, b
        (n, p) and (n,) or (n, k); several right-hand sides share one λ.
    lams
        (m,) positive; ``None``: 100 values from (1e-4 σ₁)² to (10 σ₁)².

    Returns
    -------
    GCV
        ``lams``, ``scores``, ``best``; `.plot()`. Certificate ``interior`` (monitor): the minimiser is no end of
        the grid.

    Notes
    -----
    Source: Golub, Heath & Wahba, Technometrics 21 (1979), eq. 1.4.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> A = rng.normal(size=(50, 5))
    >>> curve = gcv(A, A @ np.ones(5) + rng.normal(size=50))
    >>> bool(curve.scores.min() == curve.scores[list(curve.lams).index(curve.best)])
    True
    """
    A, b = _data(A, b)
    parts = _decompose(A, b.reshape(b.shape[0], -1))
    top = jnp.where(parts.s[0] > 0, parts.s[0], 1)
    grid = (
        jnp.square(top * jnp.logspace(-4, 1, 100, dtype=A.dtype)) if lams is None else validation.vector("lams", lams)
    )
    if lams is not None and not isinstance(grid, jax.core.Tracer) and bool((grid <= 0).any()):
        raise InputError("lams: found a value that is not positive, expected λ > 0")
    grid = grid.astype(A.dtype)
    return _gcv(A.shape[0], parts, grid)


@functools.partial(jax.jit, static_argnums=0)
def _gcv(n: int, parts: Spectrum, grid: Float[Array, " m"]) -> GCV:
    def score(lam: Array) -> Array:
        left = lam / (parts.s**2 + lam)  # 1 − the filter factors
        freedom = (n - parts.s.shape[0] + jnp.sum(left)) / n
        return jnp.sum(parts.norm_of_residual(left) ** 2) / n / freedom**2

    scores = jax.vmap(score)(grid)
    at = jnp.argmin(scores)
    edge = jnp.minimum(at, scores.shape[0] - 1 - at)
    interior = Certificate(
        "the minimiser is not an end of the grid (1 − its distance from the nearest end, in grid steps)",
        1 - edge.astype(grid.dtype),
        jnp.zeros((), grid.dtype),
        "monitor",
        "by inspection of the grid",
    )
    return GCV(grid, scores, grid[at], {"interior": interior})


@follows_input
def discrepancy_principle(A: Any, b: Any, delta: Any, *, safety: Any = 1.0) -> Solution:
    """The λ at which ridge fits the data as well as their noise allows: ‖b − A x_λ‖ = safety · δ.

    Use it when the noise norm δ = ‖b − b_exact‖ is known. ‖b − A x_λ‖ increases strictly with λ (as soon as Uᵀb has a
    part with σ > 0), so the root is unique. Cost: one SVD, then O(p) a bisection step.

    Parameters
    ----------
    A, b
        (n, p) and (n,).
    delta
        δ > 0, in the units of b.
    safety
        Factor τ ≥ 1 that guards against an underestimated δ.

    Returns
    -------
    Solution
        ``value``: λ; ``stats``: x (p,), residual_norm. Differentiable in A, b and δ.

    Raises
    ------
    InputError
        Where no λ does it: δ not between the least-squares residual and ‖b‖. (Traced data: status `MAX_STEPS`.)

    Notes
    -----
    Certificate ``discrepancy``: |‖b − A x_λ‖/(τδ) − 1|, by products with A itself. Source: Morozov (1966); Hansen
    (2010), §5.2.

    Examples
    --------
    >>> import numpy as np
    >>> solution = discrepancy_principle(np.eye(2), np.array([3.0, 4.0]), 1.0)
    >>> round(float(solution.value), 6), round(float(solution.stats["residual_norm"]), 6)
    (0.25, 1.0)
    """
    for name, value, low in (("delta", delta, 0), ("safety", safety, 1)):
        if not isinstance(value, jax.Array):
            validation.number(low, open_low=low == 0)(name, value)
    A, b = _data(A, b)
    if b.ndim != 1:
        raise InputError(f"b: found an array of shape {b.shape}, expected a vector")
    target = jnp.asarray(safety).astype(A.dtype) * jnp.asarray(delta).astype(A.dtype)
    solution, low, high = _discrepancy(A, b, target)
    if not isinstance(low, jax.core.Tracer) and not low < target < high:
        found = f"safety * delta = {float(target):.3g}"
        raise InputError(f"delta: found {found}, expected a residual between {float(low):.3g} and {float(high):.3g}")
    return solution


@jax.jit
def _discrepancy(
    A: Float[Array, "n p"], b: Float[Array, " n"], target: Float[Array, ""]
) -> tuple[Solution, Array, Array]:
    parts = _decompose(A, b[:, None])
    eps = jnp.finfo(A.dtype).eps
    top = jnp.where(parts.s[0] > 0, parts.s[0], 1)
    s = parts.s / top  # λ = (top μ)²: searching μ = √λ/σ₁ keeps squares within range

    def residual(mu: Array) -> Array:
        left = mu**2 / (s**2 + mu**2)
        return parts.norm_of_residual(left)[0]

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        short = residual(jnp.exp(middle)) < target
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    width = jnp.asarray(-2 * jnp.log(eps), A.dtype)
    ends = jax.lax.stop_gradient(jax.lax.fori_loop(0, 64, halve, (-width, width)))
    mu = jnp.exp((ends[0] + ends[1]) / 2)
    # One Newton step at the root changes nothing but carries the implicit derivative.
    slope = jax.lax.stop_gradient(jax.grad(residual)(mu))
    mu = mu - jnp.where(slope > 0, (residual(mu) - target) / jnp.where(slope > 0, slope, 1), 0)
    x = parts.Vt.T @ (s / (s**2 + mu**2) / top * parts.beta[:, 0])
    reached = jnp.linalg.norm(b - A @ x)
    low, high = parts.norm_of_residual((s <= eps * max(A.shape)).astype(A.dtype))[0], jnp.linalg.norm(b)
    scale = jnp.linalg.norm(A) * jnp.linalg.norm(x) + high
    certificate = Certificate(
        "|‖b − A x_λ‖/(τδ) − 1| at rounding level",
        jnp.abs(reached / target - 1),
        (16 + 4 * sum(A.shape) ** 0.5) * eps * (1 + scale / target),
        "exact",
        "Morozov (1966); Hansen, Discrete Inverse Problems (2010), §5.2",
        assumptions=(
            Assumption("δ lies between the least-squares residual and ‖b‖", True, (low < target) & (target < high)),
        ),
    )
    stats = {"x": x, "residual_norm": reached, "solver": Note("bisection on log λ over one SVD")}
    certificate = jax.lax.stop_gradient(certificate)
    status = Status.of(certificate.holds, jnp.isfinite(mu))
    return Solution((top * mu) ** 2, {"discrepancy": certificate}, status, 64, stats), low, high


def _filtered(A: Any, b: Any, filter: Callable[[Array], Array], name: str) -> Solution:
    A, b = _data(A, b)
    B = b.reshape(b.shape[0], -1)
    parts = _decompose(A, B)
    factors = jnp.asarray(filter(parts.s)).astype(A.dtype)
    if factors.shape != parts.s.shape:
        raise InputError(f"filter: returned shape {factors.shape}, expected {parts.s.shape}, one factor for each σ")
    if not isinstance(factors, jax.core.Tracer) and not bool(jnp.isfinite(factors).all()):
        raise InputError("filter: returned NaN or infinity, expected finite factors (also at σ = 0)")
    x, residual, certificate = _apply(A, B, parts, factors)
    value, residual = (x[:, 0], residual[0]) if b.ndim == 1 else (x, residual)
    note = Note(f"{name}: one SVD")
    stats = {"singular_values": parts.s, "factors": factors, "residual_norm": residual, "solver": note}
    return Solution(value, {"filter_residual": certificate}, 0, 1, stats)


@jax.jit
def _apply(A: Array, B: Array, parts: Spectrum, factors: Float[Array, " r"]) -> tuple[Array, Array, Certificate]:
    x = parts.Vt.T @ (factors[:, None] * parts.beta)
    r = B - A @ x
    predicted = parts.Vt.T @ ((parts.s * (1 - parts.s * factors))[:, None] * parts.beta)
    size = jnp.linalg.norm(A)
    scale = size * (size * jnp.linalg.norm(x, axis=0) + jnp.linalg.norm(B, axis=0))
    gap = jnp.linalg.norm(A.T @ r - predicted, axis=0) / jnp.where(scale > 0, scale, 1)
    eps = jnp.finfo(A.dtype).eps
    certificate = Certificate(
        "‖Aᵀ(b − A x) − V σ(1 − σf)Uᵀb‖/(‖A‖_F(‖A‖_F‖x‖ + ‖b‖)) at rounding level",
        jnp.max(gap),
        jnp.asarray((16 + 4 * sum(A.shape) ** 0.5) * eps, A.dtype),
        "exact",
        "Hansen, Discrete Inverse Problems (2010), eq. 4.9",
    )
    return x, jnp.linalg.norm(r, axis=0), jax.lax.stop_gradient(certificate)


@jax.jit
def _decompose(A: Float[Array, "n p"], B: Float[Array, "n k"]) -> Spectrum:
    ea, eb = jax.lax.stop_gradient((exponent(A), exponent(B)))
    A, B = shift(A, -ea), shift(B, -eb)
    n, p = A.shape
    if n > p:
        triangle = jnp.linalg.qr(jnp.concatenate([A, B], 1), mode="r")
        A, rest, B = triangle[:p, :p], triangle[p:, p:], triangle[:p, p:]
    else:
        rest = jnp.zeros((1, B.shape[1]), B.dtype)
    U, s, Vt = jnp.linalg.svd(A, full_matrices=False)
    beta = U.T @ B
    return Spectrum(shift(s, ea), Vt, shift(beta, eb), shift(jnp.linalg.norm(rest, axis=0), eb))


def _data(A: Any, b: Any) -> tuple[Array, Array]:
    A, b = validation.matrix("A", A), validation.vector_or_matrix("b", b)
    validation.same_length("A", A, "b", b)
    A, b = common_float(A, b)
    return A, b
