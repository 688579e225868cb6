"""From a projected matrix to a trace: the deflated estimator, its quadrature error, and the derivative of both.

The probes are split: Ω (b columns) spans the deflating basis Q = orth[Ω, AΩ, …, A^{q−1}Ω]; Ψ (m columns) are probes
of the rest, y = (I − QQᵀ)ψ, each rescaled to norm √(n − bq), which makes it uniform on that sphere of Q's complement.
Given Q the estimate tr(Qᵀf(A)Q) + mean yᵀf(A)y is unbiased, and its terms are independent. All of it happens in the
coordinates of one block Krylov space. Source: Chen & Hallman, SIAM J. Matrix Anal. Appl. 44 (2023), Algorithm 3.1;
Epperly, Tropp & Webber (2024), §2.3, for the rescaling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import Operator, matmat
from corollary.linalg.trace._block_lanczos import krylov_basis, projection, radau, ritz
from corollary.linalg.trace._probes import student


class Spectral(NamedTuple):
    """A function of a spectrum: elementwise in JAX, and +1 (−1) where f (−f) is of Stieltjes type, else 0."""

    f: Callable[[Array], Array]
    stieltjes: int

    def at(self, theta: Any) -> Any:
        """f(θ), as an array of θ's kind."""
        values = self.f(jnp.asarray(theta))
        return np.asarray(values) if isinstance(theta, np.ndarray) else values


NAMED = {
    "log": Spectral(jnp.log, -1),
    "sqrt": Spectral(jnp.sqrt, -1),
    "inverse": Spectral(lambda x: 1 / x, 1),
    "inverse_sqrt": Spectral(lambda x: 1 / jnp.sqrt(x), 1),
    "exp": Spectral(jnp.exp, 0),
}


def spectral(f: Any, stieltjes: Any = 0) -> Spectral:
    """A named function, or any elementwise JAX function with its declared type."""
    validation.one_of(-1, 0, 1)("stieltjes", stieltjes)
    if isinstance(f, str):
        validation.one_of(*NAMED)("f", f)
        return NAMED[f]
    if not callable(f):
        raise InputError(f"f: found {f!r}, expected an elementwise JAX function or one of {', '.join(NAMED)}")
    own: Any = f
    return Spectral(own, stieltjes)


class Look(NamedTuple):
    """What one projected matrix says: the trace on Q, a quadratic form for each probe, their cross terms."""

    known: Any
    forms: Any  # (m,)
    size: Any  # ‖B‖_F for the centred remainder B, from the off-diagonal yᵢᵀByⱼ
    skew: Any  # tr B³/‖B‖_F³, from the products round a triangle of probes
    noise: Any  # how far rounding of the eigenvalues may move the value

    @property
    def value(self) -> Any:
        """The estimate of tr f(A)."""
        return self.known + self.forms.mean()


class Frame(NamedTuple):
    """The deflating basis and the probes in the coordinates of the space's leading blocks."""

    Z: Any  # (depth·k, columns of Q)
    C: Any  # (depth·k, m), each of norm √rest


def frame(T: Any, start: Any, b: int, q: int, rest: int, xp: Any) -> Frame:
    """Q from q blocks of Ω, the first b columns of the start block R₀; its other columns as probes of norm √rest."""
    k = start.shape[0]
    E = xp.concatenate([start, xp.zeros((T.shape[0] - k, k), T.dtype)], axis=0)
    C = E[:, b:]
    Z = krylov_basis(T, E[:, :b], q, xp) if b else E[:, :0]
    for _ in range(2 if b else 0):
        C = C - Z @ (Z.T @ C)
    return Frame(Z, C * (rest**0.5 / xp.linalg.norm(C, axis=0)))


def look(g: Spectral, T: Any, at: Frame, xp: Any, floor: Any = None) -> Look:
    """The estimate with f(A) ≈ V f(T) Vᵀ; the frame may use fewer coordinates than T has (the leading ones)."""
    theta, Y = ritz(T, xp, floor)
    f = g.at(theta)
    rows = Y[: at.Z.shape[0]].T
    D = rows @ at.C
    on_basis = xp.sum((rows @ at.Z) ** 2, axis=1)
    delta = 8 * T.shape[0] ** 0.5 * float(jnp.finfo(T.dtype).eps) * xp.max(xp.abs(theta))
    noise = xp.sum(xp.abs(g.at(theta + delta) - f) * (on_basis + xp.mean(D**2, axis=1)))
    G = D.T @ (f[:, None] * D)
    norm = D.T @ D
    m = D.shape[1]
    c = xp.trace(G) / xp.trace(norm)
    off = (G - c * norm) * (1 - xp.eye(m, dtype=T.dtype))
    return Look(xp.sum(f * on_basis), xp.diagonal(G), *_moments(off, xp), noise)


def _moments(off: Any, xp: Any) -> tuple[Any, Any]:
    """‖B‖_F and tr B³/‖B‖_F³ from a matrix of yᵢᵀByⱼ without its diagonal."""
    m, top = off.shape[0], xp.max(xp.abs(off))
    off = off / xp.where(top > 0, top, 1)
    size = xp.sqrt(xp.sum(off**2) / (m * (m - 1)))
    cubes = xp.sum(off * (off @ off)) / max(m * (m - 1) * (m - 2), 1)
    return top * size, xp.clip(cubes / xp.where(size > 0, size, 1) ** 3, -1, 1)


def spread(looks: list[Look], confidence: float, xp: Any) -> tuple[Any, Any, Any]:
    """Standard error of the mean form, and how far the interval reaches below and above it.

    The standard deviation is the larger of the sample's own, which varies much for few probes, and √2 ‖B‖_F from the
    cross terms. Where few eigenvalues of B dominate, the forms are skewed like χ²: with skewness √8 tr B³/‖B‖_F³, that
    of χ² with ν = ‖B‖_F⁶/tr(B³)² degrees, whose scale is unknown as well. The interval is the wider of Student's and
    that of the matching χ² (quantiles by Wilson & Hilferty, 1931); the two agree where B is spread out.
    """
    forms = xp.concatenate([each.forms for each in looks])
    m = forms.shape[0]
    size = xp.sqrt(sum((each.size / m) ** 2 for each in looks) / len(looks)) * m
    skew = sum(each.skew for each in looks) / len(looks)
    stderr = xp.maximum(xp.std(forms, ddof=1), 2**0.5 * size) / m**0.5
    nu = 1 / xp.maximum(skew**2, 1e-6)
    # The long tail carries nearly all the risk, and ν is only estimated: its quantile is taken at half the risk.
    c, z = 2 / (9 * m * nu), lambda risk: scipy.stats.norm.ppf(1 - risk / 2)
    chi = lambda z: xp.maximum(1 - c + z * xp.sqrt(c), 0.05) ** 3  # noqa: E731
    mean = size * xp.sqrt(nu)
    short, long = mean * (1 - 1 / chi(z(1 - confidence))), mean * (1 / chi(-z((1 - confidence) / 2)) - 1)
    students = student(m, confidence) * stderr
    below, above = xp.where(skew >= 0, short, long), xp.where(skew >= 0, long, short)
    return stderr, xp.maximum(students, below), xp.maximum(students, above)


class Bracketed(NamedTuple):
    """An estimate, the size of its quadrature error, and whether that is a bound."""

    look: Any  # a `Look`; None where all eigenvalues are known
    error: Any
    floor_holds: Any


def quadrature(g: Spectral, alpha: Any, beta: Any, at: Frame, floor: Any, xp: Any) -> Bracketed:
    """The estimate at depth d: by Gauss and Gauss-Radau where the type of f and a floor are known, else by Gauss.

    The first error is half the bracket; the second extrapolates the last two changes geometrically.
    """
    k = alpha.shape[1]
    T = projection(alpha, beta, xp)
    here = look(g, T, at, xp, floor)
    if floor is not None and g.stieltjes:
        there = look(g, radau(T, beta[-1], floor, xp), at, xp, floor)
        middle = Look(*((a + b) / 2 for a, b in zip(here, there, strict=True)))
        least = xp.linalg.eigvalsh(T)
        slack = T.shape[0] * float(jnp.finfo(T.dtype).eps) * xp.max(xp.abs(least))
        error = xp.abs(here.value - there.value) / 2 + here.noise
        return Bracketed(middle, error, least[0] >= floor - slack)
    before, earlier = (look(g, T[:-s, :-s], Frame(at.Z[:-s], at.C[:-s]), xp, floor).value for s in (k, 2 * k))
    change, previous = xp.abs(here.value - before), xp.abs(before - earlier)
    rate = xp.clip(change / xp.where(previous > 0, previous, 1), 0.1, 0.9)
    return Bracketed(here, change * rate / (1 - rate) + here.noise, True)


@eqx.filter_custom_jvp
def derivative(A: Operator, *, differences: Array, V: Array, Y: Array, S: Array) -> Array:
    """Zero, with the derivative of Σ sᵀf(A)s over the columns VS, by the Fréchet derivative in the Krylov space.

    It is tr(L M Lᵀ dA) with L = VY the Ritz vectors and M = f[θᵢ, θⱼ] ∘ YᵀSSᵀY, the divided differences of f: the
    Daleckii-Krein formula. The basis Q is held fixed, which leaves the gradient unbiased.
    """
    return jnp.zeros((), Y.dtype)


@derivative.def_jvp
def _derivative_jvp(primals: Any, tangents: Any, *, differences: Array, V: Array, Y: Array, S: Array) -> Any:
    (A,), (dA,) = primals, tangents
    zero = jnp.zeros((), Y.dtype)
    if not jax.tree.leaves(dA):
        return zero, zero
    L = V @ Y
    N = Y.T @ S
    LM = L @ (differences * (N @ N.T))
    moving, fixed = eqx.partition(A, jax.tree.map(lambda t: t is not None, dA, is_leaf=lambda t: t is None))
    _, change = jax.jvp(lambda a: matmat(eqx.combine(a, fixed), L), (moving,), (dA,))
    return zero, jnp.sum(LM * change)


def divided_differences(f: Callable[[Array], Array], theta: Float[Array, " d"]) -> Float[Array, "d d"]:
    """f[θᵢ, θⱼ] = (f(θᵢ) − f(θⱼ))/(θᵢ − θⱼ), and f' of the middle where the two nearly agree."""
    a, b = theta[:, None], theta[None, :]
    gap = a - b
    close = jnp.abs(gap) <= jnp.finfo(theta.dtype).eps ** (1 / 3) * (jnp.abs(a) + jnp.abs(b)) / 2
    middle = (a + b) / 2
    _, slope = jax.jvp(f, (middle,), (jnp.ones_like(middle),))
    values = f(theta)
    quotient = (values[:, None] - values[None, :]) / jnp.where(close, 1, gap)
    return jax.lax.stop_gradient(jnp.where(close, slope, quotient))
