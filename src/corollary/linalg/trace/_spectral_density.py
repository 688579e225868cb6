"""Spectral density of a symmetric operator by stochastic Lanczos quadrature, with error bars.

When: the whole spectrum in one picture (a Hessian, a kernel, a graph) without its eigenvalues. Cost: `steps` products
of A with a block of `probes` vectors and O(n steps² probes). Each probe gives the Gauss quadrature of its own spectral
measure; their mean estimates the density of eigenvalues. Source: Lin, Saad & Yang, SIAM Review 58 (2016); Ghorbani,
Krishnan & Xiao (2019); Chen, Trogdon & Ubaru (2021).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from corollary.core import operator, validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.precision import follows_input
from corollary.core.solution import Solution, Status
from corollary.linalg.eigen._krylov import lanczos_process
from corollary.linalg.trace._probes import draw, square

Nodes = Float[Array | np.ndarray, "probes steps"]


class SpectralDensity(eqx.Module):
    """A Gauss quadrature for each probe: nodes ascending, weights that sum to 1 in each row."""

    nodes: Nodes
    weights: Nodes

    def cdf(self, x: Any) -> Any:
        """Share of eigenvalues at most x, by the quadrature's own weights; it lies within `cdf_bounds`."""
        return self._shares(x, 0).mean(axis=0)

    def cdf_bounds(self, x: Any) -> tuple[Any, Any]:
        """What the quadrature alone leaves open: the mean over the probes of their share at most x lies between.

        For one probe's measure μ and nodes θᵢ, the Chebyshev-Markov-Stieltjes inequalities say that μ(−∞, θᵢ) is at
        least w₁ + … + wᵢ₋₁ and μ(−∞, θᵢ] at most w₁ + … + wᵢ. They are exact; `cdf_stderr` is what the choice of
        probes adds.
        """
        return self._shares(x, -1).mean(axis=0), self._shares(x, 1).mean(axis=0)

    def cdf_stderr(self, x: Any) -> Any:
        """Standard error of `cdf` over the probes."""
        each = self._shares(x, 0)
        return each.std(axis=0, ddof=1) / len(each) ** 0.5

    def density(self, x: Any, width: Any = None) -> tuple[Any, Any]:
        """Density at x and its error, smoothed by a Gaussian of deviation `width` (a fortieth of the range)."""
        xp = np if isinstance(self.nodes, np.ndarray) else jnp
        x = xp.asarray(x, self.nodes.dtype)
        width = self._width() if width is None else width
        z = (x[:, None, None] - self.nodes) / width
        each = xp.sum(self.weights * xp.exp(-(z**2) / 2), axis=-1) / (width * (2 * np.pi) ** 0.5)
        return each.mean(axis=1), each.std(axis=1, ddof=1) / each.shape[1] ** 0.5

    def plot(self, ax: Any = None, width: Any = None, points: int = 400) -> Any:
        """The smoothed density with a band of two standard errors."""
        from corollary.core.draw import ACCENT, axes

        low, high, width = float(self.nodes.min()), float(self.nodes.max()), width or float(self._width())
        x = np.linspace(low - 3 * width, high + 3 * width, points)
        values, errors = (np.asarray(y) for y in self.density(x, width))
        ax = axes(ax, xlabel="eigenvalue", ylabel="density")
        ax.fill_between(x, np.maximum(values - 2 * errors, 0), values + 2 * errors, color=ACCENT, alpha=0.25)
        ax.plot(x, values, color=ACCENT, linewidth=1.6)
        return ax

    def _width(self) -> Any:
        span = self.nodes.max() - self.nodes.min()
        return span / 40 + (span == 0) * 1.0

    def _shares(self, x: Any, more: int) -> Any:
        """(probes, points): the weight of the nodes at most x, and of so many more."""
        xp = np if isinstance(self.nodes, np.ndarray) else jnp
        x = xp.asarray(x, self.nodes.dtype)
        count = xp.sum(self.nodes[:, None, :] <= x[:, None], axis=-1) + more
        total = xp.concatenate([xp.zeros_like(self.weights[:, :1]), xp.cumsum(self.weights, axis=1)], axis=1)
        at: Any = xp.clip(count, 0, self.nodes.shape[1])
        return xp.take_along_axis(total, at, axis=1)


@follows_input
def spectral_density(A: Any, *, probes: int = 16, steps: int = 40, key: Key[Array, ""]) -> Solution:
    """Density of the eigenvalues of a symmetric matrix or operator.

    Parameters
    ----------
    A
        (n, n) symmetric: dense or sparse matrix, or operator.
    probes
        Independent Gaussian vectors, at least 2: the standard error falls as 1/√(n · probes).
    steps
        Lanczos steps, at most n: the resolution is about the spectrum's width over `steps`.
    key
        `jax.random.key`.

    Returns
    -------
    Solution
        ``value``: a `SpectralDensity` with ``nodes`` and ``weights`` (probes, steps), ``cdf``, ``cdf_bounds``,
        ``cdf_stderr``, ``density`` and ``plot``. It jits and vmaps.

    Raises
    ------
    InputError
        Where A is not square, real and finite.

    Notes
    -----
    Certificates: ``"orthogonality"`` (exact: ‖QᵀQ − I‖_F of the worst probe is at rounding level, so that no eigenvalue
    appears twice as a ghost), ``"mean"`` (estimate: tr A/n with its standard error). The error of the quadrature is
    bounded pointwise by `SpectralDensity.cdf_bounds`.

    Examples
    --------
    >>> import jax, numpy as np
    >>> found = spectral_density(np.diag(np.linspace(0, 1, 200)), key=jax.random.key(0))
    >>> found.value.cdf(np.array([-0.1, 1.1])).tolist()
    [0.0, 1.0]
    """
    validation.integer(2)("probes", probes)
    validation.integer(1)("steps", steps)
    P = square(A, key)
    n, steps = P.shape[0], min(steps, P.shape[0])
    omega = draw(key, n, probes, "gaussian", P.dtype)
    nodes, weights, defect = _measures(operator.as_operator(A), omega, steps)
    means = jnp.sum(nodes * weights, axis=1)
    stderr = jnp.std(means, ddof=1) / probes**0.5
    certificates = {
        "orthogonality": Certificate(
            "‖QᵀQ − I‖_F <= rounding", measured=defect, bound=rounding(jnp.ones_like(defect), 16.0 * steps * n**0.5)
        ),
        "mean": Certificate(
            "mean of the eigenvalues",
            measured=jnp.mean(means),
            stderr=stderr,
            kind="estimate",
            source="Lin, Saad & Yang (2016)",
            assumptions=(Assumption("A is symmetric"),),
        ),
    }
    status = Status.of(True, jnp.all(jnp.isfinite(nodes)))
    return Solution(SpectralDensity(nodes, weights), certificates, status, steps, {"products": probes * steps})


@eqx.filter_jit
def _measures(A: operator.Operator, omega: Array, steps: int) -> tuple[Array, Array, Array]:
    def one(v: Array) -> tuple[Array, Array, Array]:
        run = lanczos_process(A.mv, v, steps)
        theta, Y = jnp.linalg.eigh(run.T)
        active = jnp.sum(run.Q * run.Q, axis=0) > 0
        defect = jnp.linalg.norm(run.Q.T @ run.Q - jnp.diag(active.astype(theta.dtype)))
        return theta, Y[0] ** 2, defect

    nodes, weights, defect = jax.vmap(one, in_axes=1)(omega)
    return nodes, weights / jnp.sum(weights, axis=1, keepdims=True), jnp.max(defect)
