"""Integral transforms and continuous convolution by quadrature: Gauss-Legendre, Clenshaw-Curtis, trapezoid.

When: (T f)(u) = ∫ K(u, v) f(v) dv is wanted at some points u: Laplace, Fourier, Fredholm operators, smoothing kernels.
For smooth integrands Gauss-Legendre converges geometrically, and the trapezoid rule does so over a period or where the
integrand dies out at both ends. Cost: n kernel values a point; convolution on a uniform grid O(n log n).
Source: Trefethen, SIAM Review 50 (2008) 67-87; Trefethen & Weideman, SIAM Review 56 (2014) 385-458 (trapezoid).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.fft
from jax.core import Tracer
from jax.scipy.signal import fftconvolve
from jaxtyping import Array, Float, Inexact

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import as_float, common_float, follows_input
from corollary.core.solution import Solution
from corollary.linalg.structured._base import numbers

Points = Float[Array | np.ndarray, " _"]
RULES = ("gauss", "clenshaw-curtis", "trapezoid")


class Quadrature(NamedTuple):
    """Nodes v_j and weights w_j: ∫ f ≈ Σ w_j f(v_j)."""

    nodes: Points
    weights: Points


def quadrature(
    rule: str, n: int, interval: tuple[float, float] = (-1.0, 1.0), *, dtype: Any = np.float64
) -> Quadrature:
    """Nodes and weights of a rule with n points. Cost O(n²) (Gauss) or O(n log n), on the host.

    Parameters
    ----------
    rule
        ``"gauss"`` (Legendre; exact for polynomials of degree 2n − 1), ``"clenshaw-curtis"`` (n − 1; half the rate of
        Gauss at worst, seldom seen) or ``"trapezoid"`` (the ends count half).
    n
        Points; at least 2, except for Gauss.
    interval
        (a, b), a < b. Gauss also takes infinite ends, through v = a + (1 + x)/(1 − x) and v = x/(1 − x²): for smooth
        functions that die out.

    Raises
    ------
    InputError
        For an unknown rule, too few points, or an interval that is empty or infinite for a rule that cannot take it.

    Examples
    --------
    >>> nodes, weights = quadrature("gauss", 3, (0.0, 1.0))
    >>> round(float(weights @ nodes**5), 12)
    0.166666666667
    """
    validation.one_of(*RULES)("rule", rule)
    validation.integer(1 if rule == "gauss" else 2)("n", n)
    a, b = (float(end) for end in interval)
    if not a < b or (rule != "gauss" and not np.isfinite(b - a)):
        raise InputError(f"interval: found ({a}, {b}), expected a < b" + ("" if rule == "gauss" else ", both finite"))
    if rule == "trapezoid":
        x, w = np.linspace(-1, 1, n), np.full(n, 2 / (n - 1))
        w[[0, -1]] /= 2
    elif rule == "gauss":
        x, w = np.polynomial.legendre.leggauss(n)
    else:
        x, w = _clenshaw_curtis(n)
    if np.isfinite(a) and np.isfinite(b):
        nodes, weights = a + (b - a) * (1 + x) / 2, (b - a) / 2 * w
    elif np.isfinite(a):
        nodes, weights = a + (1 + x) / (1 - x), 2 / (1 - x) ** 2 * w
    elif np.isfinite(b):
        nodes, weights = b - (1 - x) / (1 + x), 2 / (1 + x) ** 2 * w
    else:
        nodes, weights = x / (1 - x**2), (1 + x**2) / (1 - x**2) ** 2 * w
    return Quadrature(nodes.astype(dtype), weights.astype(dtype))


@follows_input
def integral_operator(kernel: Callable[[Any, Any], Any], points: Any, rule: Quadrature) -> lx.MatrixLinearOperator:
    """The matrix K(u_i, v_j) w_j as an operator: f at the nodes to (T f) at the points. Cost O(m n) kernel values.

    Parameters
    ----------
    kernel
        K(u, v) on arrays that broadcast, real or complex: ``lambda s, t: jnp.exp(-s * t)`` for Laplace,
        ``lambda u, t: jnp.exp(-2j * jnp.pi * u * t)`` for Fourier. Use `jax.numpy` where u is traced.
    points
        u, (m,).
    rule
        Of `quadrature`.

    Raises
    ------
    InputError
        Where the kernel does not broadcast.

    Examples
    --------
    >>> rule = quadrature("gauss", 20, (0.0, 1.0))
    >>> T = integral_operator(lambda u, v: u * v, np.array([1.0, 2.0]), rule)
    >>> np.round(T.as_matrix() @ rule.nodes, 12).tolist()
    [0.333333333333, 0.666666666667]
    """
    u = validation.vector("points", points)
    nodes, weights = (as_float(a).astype(u.dtype) for a in rule)
    values = jnp.asarray(kernel(u[:, None], nodes[None, :]))
    if values.shape != (u.shape[0], nodes.shape[0]):
        raise InputError(
            f"kernel: returned shape {values.shape}, expected {(u.shape[0], nodes.shape[0])} by broadcasting"
        )
    return lx.MatrixLinearOperator(values * weights.astype(values.dtype))


@follows_input
def integral_transform(
    kernel: Callable[[Any, Any], Any],
    f: Callable[[Any], Any],
    points: Any,
    interval: tuple[float, float],
    *,
    n: int = 64,
    rule: str = "gauss",
) -> Solution:
    """(T f)(u) = ∫ K(u, v) f(v) dv at some points, with an estimate of the quadrature error.

    Parameters
    ----------
    kernel, points
        As in `integral_operator`.
    f
        On arrays.
    interval
        Of integration; ends may be infinite for ``rule="gauss"``.
    n, rule
        As in `quadrature`. The answer uses 2n points, its error is judged by the n-point rule: 3 n m kernel values.

    Returns
    -------
    Solution
        ``value``: (m,).

    Raises
    ------
    InputError
        For non-finite values of f or K at the nodes, and as `quadrature`.

    Notes
    -----
    Certificate ``quadrature`` (estimate): the largest difference between the rules with n and 2n points. It bounds
    nothing: an integrand that both rules miss escapes it; for smooth integrands it is far too large for the 2n points.

    Examples
    --------
    >>> answer = integral_transform(lambda s, t: jnp.exp(-s * t), lambda t: t, np.array([1.0, 2.0]), (0.0, np.inf))
    >>> answer.value.round(6).tolist()
    [1.0, 0.25]
    """
    u = validation.vector("points", points)
    values = []
    for size in (n, 2 * n):
        grid = quadrature(rule, size, interval, dtype=u.dtype)
        nodes = jnp.asarray(grid.nodes)
        K = integral_operator(kernel, u, Quadrature(nodes, jnp.asarray(grid.weights)))
        samples = jnp.asarray(f(nodes))
        if samples.shape != nodes.shape:
            raise InputError(f"f: returned shape {samples.shape} for {nodes.shape[0]} points, expected one value each")
        wide = np.promote_types(samples.dtype, K.matrix.dtype)
        values.append(K.matrix.astype(wide) @ samples.astype(wide))
    coarse, fine = values
    if not isinstance(fine, Tracer) and not bool(jnp.all(jnp.isfinite(fine))):
        raise InputError("f: found NaN or infinity in K(u, v) f(v) at the nodes, expected finite values")
    certificate = Certificate(
        f"quadrature error of the {rule} rule with {2 * n} points, from that with {n}",
        jnp.max(jnp.abs(fine - coarse)),
        kind="estimate",
        source="difference of two rules; Trefethen, SIAM Review 50 (2008), §5 for the rates",
    )
    return Solution(fine, {"quadrature": certificate}, stats={"points": 2 * n})


@follows_input
def continuous_convolution(h: Any, f: Any, step: Any) -> Inexact[Array | np.ndarray, " _"]:
    """(h ∗ f)(u) = ∫ h(u − v) f(v) dv from samples on uniform grids, by the trapezoid rule. Cost O(n log n).

    Parameters
    ----------
    h, f
        (m,) and (n,) samples on grids with the same step that begin at u₀ and v₀, taken as 0 outside them. Where a
        function jumps, the sample should be the mean of both sides.
    step
        The grids' spacing, > 0.

    Returns
    -------
    array
        (m + n − 1,) samples of h ∗ f on the grid that begins at u₀ + v₀.

    Notes
    -----
    Linear, not circular: zeros are padded. Functions that die out smoothly within their grids are convolved to
    rounding; jumps cost O(step), kinks O(step²).

    Examples
    --------
    >>> continuous_convolution(np.array([0.5, 1.0, 0.5]), np.array([0.5, 1.0, 0.5]), 1.0).round(12).tolist()
    [0.25, 1.0, 1.5, 1.0, 0.25]
    """
    h, f = (jnp.asarray(numbers(name, value, 1)) for name, value in (("h", h), ("f", f)))
    if not isinstance(step, jax.Array):
        validation.number(0, open_low=True)("step", step)
    h, f = common_float(h, f)
    product = fftconvolve(h, f)
    return jnp.asarray(step).astype(product.dtype) * product


def _clenshaw_curtis(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights by the DCT of ∫ T_k = 2/(1 − k²), k even (Gentleman 1972; Waldvogel 2006)."""
    k = np.arange(0, n, 2)
    moments = np.zeros(n)
    moments[::2] = 2.0 / (1 - k**2)
    w = np.asarray(scipy.fft.dct(moments, type=1)) / (n - 1)
    w[[0, -1]] /= 2
    return np.cos(np.pi * np.arange(n) / (n - 1))[::-1], w
