"""One factorisation of the design, whence coefficients, degrees of freedom and leave-one-out follow for every alpha.

Four routes, the first that is accurate enough: the Gram matrix X̃ᵀX̃ = V Λ Vᵀ in float32 or float64 (error eps·κ²,
repaired in the coefficients by refinement with float64 residuals), QR by blocks of rows and the SVD of R (error eps·κ),
or, for wide data, X̃X̃ᵀ = U Λ Uᵀ and the SVD of X̃. κ is that of the regularised problem. Cost O(n p min(n, p)).
Sources: Björck, *Numerical Methods for Least Squares Problems*, §2.2, §2.8 and §6.6; Rifkin & Lippert (2007).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.solution import Note
from corollary.linear._design import Rows, Whole

SOLVERS = ("auto", "normal", "svd", "dual")
LARGEST = 20_000  # the smaller side of a dense factorisation: 3.2 GB in float64

Matrix = Float[Array | np.ndarray, "_ _"]
Vector = Float[Array | np.ndarray, " _"]


class Spectrum(eqx.Module):
    """Λ with V (tall) or U (wide), and what the right-hand side is in that basis."""

    values: Vector  # λ = σ²
    right: Matrix | None  # V, p×r
    left: Matrix | None  # U, n×r, without the intercept's direction √w
    moment: Matrix  # VᵀX̃ᵀỸ where there is V, else UᵀỸ; r×k
    cutoff: Any  # λ + α at or below it counts as zero
    error: Any  # normwise error of X̃ᵀX̃ to expect
    bound: Any  # and a bound of it, or infinity where none is known
    route: Note
    reason: Note

    def filter(self, alpha: Any) -> Any:
        """1/(λ + α), shape (r, q) for alpha of shape (q,); zero where that is numerically singular: minimum norm."""
        xp = jnp if isinstance(self.values, jax.Array) else np
        total = self.values[:, None] + alpha[None, :]
        keep = total > self.cutoff
        return xp.where(keep, 1.0 / xp.where(keep, total, 1.0), 0.0)

    @property
    def rank(self) -> Any:
        """How many λ are numerically nonzero."""
        return (self.values > self.cutoff).sum()


class Fit(eqx.Module):
    """Coefficients of every (alpha, target) column, in the scaled units of the design, and how good they are."""

    coef: Matrix  # p×q
    rss: Vector
    gradient: Matrix  # X̃ᵀ(ỹ − X̃β) − αβ, p×q
    slack: Vector  # added to ‖gradient‖ where the last step's effect was bounded rather than measured
    refinements: int = eqx.field(static=True, default=0)


def decompose(design: Rows | Whole, alpha: Any, solver: str = "auto", budget: float = 1e-2) -> Spectrum:
    """Factorise by the named route, or by the first whose error, relative to λ_min + α, is within `budget`."""
    if solver not in SOLVERS:
        raise InputError(f"solver: found {solver!r}, expected one of {', '.join(map(repr, SOLVERS))}")
    if min(design.n, design.p) > LARGEST:
        raise InputError(
            f"X: found shape {(design.n, design.p)}, expected a side of at most {LARGEST} for a dense factor"
        )
    if isinstance(design, Whole):
        return _traced(design, solver)
    wide = design.wide
    if solver == "svd":
        return _wide_svd(design, "as asked") if wide else _tall_qr(design, "as asked")
    if solver == "normal":
        return _tall_gram(design, np.float64, "as asked")
    if solver == "dual":
        return _wide_gram(design, "as asked")
    if wide:
        spectrum = _wide_gram(design, "n <= p, and the regularised Gram matrix is well conditioned")
        lost = _amplification(design, spectrum, alpha)
        if lost <= min(budget, 1e-9):  # the dual form loses its square: no refinement mends it beyond
            return spectrum
        return _wide_svd(design, f"n <= p, and the Gram matrix would lose {lost:.1e}")
    precisions = (
        [np.float32, np.float64]
        if design.dtype == np.float32 and budget >= 1e-2 and not design.sparse
        else [np.float64]
    )
    lost = np.inf
    for dtype in precisions:
        spectrum = _tall_gram(design, dtype, f"n > p, and the Gram matrix in {np.dtype(dtype)} is accurate enough")
        lost = _amplification(design, spectrum, alpha)
        if lost <= budget:
            return spectrum
    return _tall_qr(design, f"n > p, and the Gram matrix would lose {lost:.1e}")


def solve(design: Rows | Whole, spectrum: Spectrum, alpha: Any) -> Fit:
    """β(α) for every column of `alpha` (alpha-major, then target), refined where the route needs it."""
    repeats = alpha.shape[0] // design.k
    weight = spectrum.filter(alpha)
    moment = design.xp.tile(spectrum.moment, (1, repeats))
    if isinstance(design, Whole):
        coef = _differentiable(design, spectrum, weight, moment, alpha)
        gradient, rss = design.gradient(coef, alpha)
        return Fit(coef, rss, gradient, 0.0 * rss)
    if spectrum.right is None:
        assert spectrum.left is not None
        coef = design.adjoint(spectrum.left @ (weight * moment))
        coef = _rounded(design, coef + _dual_step(design, spectrum, alpha, design.gradient(coef, alpha)[0]))
        gradient, rss = design.gradient(coef, alpha)
        return Fit(coef, rss, gradient, 0.0 * rss, 1)
    return _refined(design, spectrum, weight, spectrum.right @ (weight * moment), alpha)


def gradient_certificate(design: Rows | Whole, fit: Fit, alpha: Any, claim: str, source: str) -> Certificate:
    """‖X̃ᵀ(ỹ − X̃β) − αβ‖ against the rounding of the returned coefficients, relative to its natural scale."""
    xp = design.xp
    size = xp.linalg.norm(fit.gradient, axis=0) + fit.slack
    scale = natural_scale(design, fit, alpha)
    measured = size / xp.where(scale > 0, scale, 1.0)
    bound = 8 * float(jnp.finfo(design.dtype).eps) * design.p**0.5
    return Certificate(claim, xp.max(measured), bound, "exact", source)


def natural_scale(design: Rows | Whole, fit: Fit, alpha: Any) -> Any:
    """‖X‖(‖r‖ + ‖X‖‖β‖) + α‖β‖, to which rounding in a gradient is relative."""
    xp = design.xp
    size = xp.sqrt(design.norm2 + design.total * xp.sum(_unshifted_mean(design) ** 2))
    beta = xp.linalg.norm(fit.coef, axis=0)
    return size * (xp.sqrt(fit.rss) + size * beta) + alpha * beta


def _unshifted_mean(design: Rows | Whole) -> Any:
    return design.offset if isinstance(design, Rows) else 0.0 * design.x_mean


def _amplification(design: Rows, spectrum: Spectrum, alpha: Any) -> float:
    """Relative error of 1/(λ + α) at the smallest λ: error / (λ_min + α)."""
    low = float(spectrum.values.min(initial=np.inf)) + float(np.min(alpha)) * design.scale**2
    return spectrum.error / low if low > 0 else np.inf


def _tall_gram(design: Rows, dtype: Any, reason: str) -> Spectrum:
    square, moment = design.gram(dtype)
    values, right = np.linalg.eigh(square)
    error = design.gram_error
    route = Note(f"normal equations, {np.dtype(dtype)} Gram matrix")
    values = np.maximum(values, 0)
    return Spectrum(values, right, None, right.T @ moment, error, error, design.gram_bound, route, Note(reason))


def _tall_qr(design: Rows, reason: str) -> Spectrum:
    triangle = design.triangle()
    left, sigma, right = np.linalg.svd(triangle[:, : design.p], full_matrices=False)
    moment = sigma[:, None] * (left.T @ triangle[:, design.p :])
    cutoff = _cutoff(design, sigma)
    route = Note("QR by blocks of rows, SVD of R")
    return Spectrum(sigma**2, right.T, None, moment, cutoff**2, np.inf, np.inf, route, Note(reason))


def _wide_gram(design: Rows, reason: str) -> Spectrum:
    # The intercept's direction √w is in the kernel of X̃X̃ᵀ; lifted above the rest, it can be dropped cleanly.
    square = design.outer()
    top = float(np.abs(square).sum(axis=1).max(initial=0.0)) or 1.0
    if design.fit_intercept:
        square += 2 * top * np.outer(design.columns[:, 0], design.columns[:, 0]) / design.total
    values, left = np.linalg.eigh(square)
    if design.fit_intercept:
        values, left = values[:-1], left[:, :-1]
    error = 8 * float(np.finfo(np.float64).eps) * top
    values = np.maximum(values, 0)
    return Spectrum(
        values, None, left, left.T @ design.Y, error, error, np.inf, Note("dual, n×n Gram matrix"), Note(reason)
    )


def _wide_svd(design: Rows, reason: str) -> Spectrum:
    matrix = design.matrix()
    top = float(np.linalg.norm(matrix)) or 1.0
    if design.fit_intercept:
        matrix = np.column_stack([matrix, 2 * top * design.columns[:, :1] / design.total**0.5])
    left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
    if design.fit_intercept:
        left, sigma, right = left[:, 1:], sigma[1:], right[1:, :-1]
    cutoff, moment = _cutoff(design, sigma), sigma[:, None] * (left.T @ design.Y)
    return Spectrum(sigma**2, right.T, left, moment, cutoff**2, np.inf, np.inf, Note("dual, SVD of X"), Note(reason))


def _traced(design: Whole, solver: str) -> Spectrum:
    """The same four routes in JAX; `auto` can only look at the shape, so it takes the accurate one."""
    wide = design.wide if solver in ("auto", "svd") else solver == "dual"
    eps = float(jnp.finfo(design.dtype).eps)
    frozen = jax.lax.stop_gradient
    x, y, q = frozen(design.X), frozen(design.Y), frozen(design.root / jnp.sqrt(design.total))
    reason = Note("as asked" if solver != "auto" else "a JAX array: accurate for every conditioning")
    drop = int(design.fit_intercept)
    top = jnp.maximum(frozen(jnp.sqrt(design.norm2)), jnp.finfo(design.dtype).tiny ** 0.5)
    if solver == "normal":
        values, right = jnp.linalg.eigh(x.T @ x)
        error = 8 * eps * top**2
        route = Note("normal equations, Gram matrix")
        return Spectrum(jnp.maximum(values, 0), right, None, right.T @ (x.T @ y), error, error, np.inf, route, reason)
    if solver == "dual":
        square = x @ x.T + (2 * top**2 * jnp.outer(q, q) if drop else 0.0)
        values, left = jnp.linalg.eigh(square)
        values, left = jnp.maximum(values[: design.n - drop], 0), left[:, : design.n - drop]
        error = 8 * eps * top**2
        return Spectrum(values, None, left, left.T @ y, error, error, np.inf, Note("dual, n×n Gram matrix"), reason)
    if wide:
        matrix = jnp.concatenate([x, 2 * top * q[:, None]], axis=1) if drop else x
        left, sigma, vt = jnp.linalg.svd(matrix, full_matrices=False)
        left, sigma, right, route = left[:, drop:], sigma[drop:], vt[drop:, : design.p].T, Note("dual, SVD of X")
        moment = sigma[:, None] * (left.T @ y)
    else:
        u, sigma, vt = jnp.linalg.svd(x, full_matrices=False)
        moment, right, left, route = sigma[:, None] * (u.T @ y), vt.T, None, Note("SVD of X")
    cutoff = (max(design.n, design.p) * eps * jnp.max(sigma, initial=0.0)) ** 2
    cutoff = jnp.maximum(cutoff, frozen(_noise(design)))
    return Spectrum(sigma**2, right, left, moment, cutoff, np.inf, np.inf, route, reason)


def _noise(design: Whole) -> Any:
    """Rounding of the centring itself: where all columns are constant, what is left of X̃ is only that."""
    eps = float(jnp.finfo(design.dtype).eps)
    return (4 * eps) ** 2 * design.total * jnp.sum(design.x_mean**2) * float(design.fit_intercept)


def _differentiable(design: Whole, spectrum: Spectrum, weight: Any, moment: Any, alpha: Any) -> Any:
    """β(α), whose first and second derivatives are those of the regularised solution, not of singular vectors.

    A Newton step from the solution changes nothing, but carries the implicit derivative: so two are taken, and only
    their derivatives kept. Equal singular values do no harm.
    """
    frozen = jax.lax.stop_gradient
    inverse, gram = frozen(weight), "Gram" in str(spectrum.route)
    dual = spectrum.left is not None
    basis: Any = spectrum.left if dual else spectrum.right

    def newton(unknown: Any) -> Any:
        if dual:
            slope = design.residual(design.adjoint(unknown)) - alpha * unknown
        else:
            slope = design.gradient(unknown, alpha)[0]
        step = basis @ (inverse * (basis.T @ slope))
        return unknown + step - (0.0 if gram else frozen(step))  # a Gram matrix's answer is refined by it, too

    moment = basis.T @ jnp.tile(design.Y, (1, alpha.shape[0] // design.k)) if dual else moment
    unknown = newton(newton(basis @ (inverse * frozen(moment))))
    if not dual:
        return unknown
    coef = design.adjoint(unknown)
    if spectrum.right is None:
        return coef + frozen(_dual_step(design, spectrum, alpha, design.gradient(coef, alpha)[0]))
    # Where V is known, V(Λ + α)⁻¹Λ^½Uᵀỹ is the more accurate value; the derivative stays that of the dual form.
    value = spectrum.right @ (inverse * jnp.tile(spectrum.moment, (1, alpha.shape[0] // design.k)))
    return frozen(value) + coef - frozen(coef)


def _dual_step(design: Rows | Whole, spectrum: Spectrum, alpha: Any, gradient: Any) -> Any:
    """(X̃ᵀX̃ + α)⁻¹ g for g in the row space, from U alone; each direction by the form whose rounding is not amplified.

    With q = UᵀX̃g: the part of g with λ ≥ α is X̃ᵀU(q/λ), to be divided by λ + α; of the rest, divide by α and take off
    X̃ᵀU(q/(α(λ + α))).
    """
    xp, values = design.xp, spectrum.values[:, None]
    left: Any = spectrum.left
    q = left.T @ (design.residual(0.0 * gradient) - design.residual(gradient))
    large = values > xp.maximum(alpha, spectrum.cutoff)
    safe, positive = xp.where(large, values, 1.0), xp.where(alpha > 0, alpha, 1.0)
    part = xp.where(large, q / safe, 0.0)
    rest = xp.where(large | (alpha == 0), 0.0, q / (positive * (values + positive)))
    products = design.adjoint(left @ xp.concatenate([part / (safe + alpha) - rest, part], axis=1))
    first, within = products[:, : q.shape[1]], products[:, q.shape[1] :]
    some = (alpha > 0) & xp.any(~large, axis=0)
    return first + xp.where(some, (gradient - within) / positive, 0.0)


def _refined(design: Rows, spectrum: Spectrum, weight: np.ndarray, coef: np.ndarray, alpha: np.ndarray) -> Fit:
    """Iterative refinement β += V(Λ + α)⁻¹Vᵀ g with float64 gradients g, rounded to the precision of X as it goes.

    A step's effect on the gradient is known up to the error E of the factor, ‖g₁‖ ≤ ‖g₀ − (VΛVᵀ + α)δ‖ + ‖E‖‖δ‖,
    so that a well-conditioned fit needs no further pass over the data to prove itself.
    """
    right = spectrum.right
    assert right is not None
    tolerance = 2 * float(np.finfo(design.dtype).eps) * np.sqrt(design.p)
    coef = _rounded(design, coef)
    best: Fit | None = None
    least = np.inf
    for step in range(5):
        gradient, rss = design.gradient(coef, alpha)
        fit = Fit(coef, rss, gradient, np.zeros_like(rss), step)
        error = float(np.max(backward_error(design, spectrum, fit, alpha), initial=0.0))
        if best is not None and not error < least / 2:
            return fit if error < least else best
        best, least = fit, error
        if error <= tolerance / 4:
            return fit
        better = _rounded(design, coef + right @ (weight * (right.T @ gradient)))
        change = better - coef
        after = gradient - right @ (spectrum.values[:, None] * (right.T @ change)) - alpha * change
        rss = np.maximum(rss - np.sum(change * (gradient + after + 2 * alpha * coef + alpha * change), axis=0), 0.0)
        moved = np.linalg.norm(change, axis=0)
        fit = Fit(better, rss, after, np.where(moved > 0, spectrum.bound, 0.0) * moved, step + 1)
        if (
            np.isfinite(fit.slack).all()
            and np.max(backward_error(design, spectrum, fit, alpha), initial=0.0) <= tolerance
        ):
            return fit
        coef = better
    assert best is not None
    return best


def backward_error(design: Rows | Whole, spectrum: Spectrum, fit: Fit, alpha: Any) -> Any:
    """At least the smallest relative perturbation of [X̃; √α I] for which β is the exact least-squares solution.

    √2 ‖(‖β‖²(X̃ᵀX̃ + α) + ‖r‖² + α‖β‖²)^-½ g‖ / ‖[X̃; √α I]‖ for the gradient g; unlike ‖g‖ it also sees the directions in
    which X̃ is small. Without V, the larger of Stewart's simple bounds.
    """
    xp = design.xp
    beta = xp.sum(fit.coef**2, axis=0)
    rest = fit.rss + alpha * beta
    norm = xp.sqrt(design.norm2 + alpha)
    norm = xp.where(norm > 0, norm, 1.0)
    if spectrum.right is None:
        size = xp.linalg.norm(fit.gradient, axis=0)
        by_gradient = xp.where(rest > 0, size / xp.sqrt(xp.where(rest > 0, rest, 1.0)), 0.0)
        by_residual = xp.sqrt(rest / xp.where(beta > 0, beta, 1.0))
        return xp.where(beta > 0, xp.minimum(by_gradient, by_residual), by_gradient) / norm
    total = spectrum.values[:, None] + alpha
    weight = beta * total + rest
    safe = xp.where(weight > 0, weight, 1.0)
    parts = xp.where(weight > 0, (spectrum.right.T @ fit.gradient) ** 2 / safe, 0.0)
    low = xp.min(safe, axis=0, initial=xp.inf)
    return xp.sqrt(2.0) * (xp.sqrt(xp.sum(parts, axis=0)) + fit.slack / xp.sqrt(low)) / norm


def inverse_root(spectrum: Spectrum) -> Any:
    """Λ^-½, zero where λ is numerically zero."""
    xp = jnp if isinstance(spectrum.values, jax.Array) else np
    keep = spectrum.values > spectrum.cutoff
    return xp.where(keep, 1.0 / xp.sqrt(xp.where(keep, spectrum.values, 1.0)), 0.0)


def _rounded(design: Rows, coef: np.ndarray) -> np.ndarray:
    return coef.astype(design.dtype).astype(np.float64)


def _cutoff(design: Rows, sigma: np.ndarray) -> float:
    return max(design.n, design.p) * float(np.finfo(np.float64).eps) * float(sigma.max(initial=0.0))
