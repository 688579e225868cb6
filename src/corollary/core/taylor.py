"""Taylor polynomials with their remainder, in any number of variables.

Use them to model a function locally and to know how far the model reaches. Evaluating the polynomial of order k costs
one jet: O(k²) evaluations of f's own cost, not the O(2^k) of nested derivatives. Tensors cost O(d^k).

Source: Taylor's theorem with integral remainder (Lang, Real and Functional Analysis (1993), XIII §6):
f(x0+δ) = Σ_{j≤k} D^j f(x0)[δ^j]/j! + ∫₀¹ (1−t)^k/k! · D^{k+1}f(x0+tδ)[δ^{k+1}] dt.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import jet
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import as_float, follows_input


class Taylor(eqx.Module):
    """The Taylor polynomial of a scalar function at a point; call it on a displacement.

    Parameters
    ----------
    f
        The function, of a scalar or of a vector of shape (d,).
    x0
        The centre, of the shape that f takes.
    order
        The degree k.
    """

    f: Callable[[Any], Any] = eqx.field(static=True)
    x0: Any
    order: int = eqx.field(static=True)

    @follows_input
    def __call__(self, delta: Any) -> Float[Array, ""]:
        """The polynomial at x0 + delta; order 1 is the tangent hyperplane."""
        terms = self._series(as_float(self.x0), as_float(delta), self.order)
        return sum((t / math.factorial(j) for j, t in enumerate(terms)), jnp.zeros_like(terms[0]))

    @follows_input
    def derivative(self, delta: Any, k: int) -> Float[Array, ""]:
        """The k-th directional derivative D^k f(x0)[δ, …, δ]."""
        return self._series(as_float(self.x0), as_float(delta), k)[k]

    @follows_input
    def tensor(self, k: int) -> Float[Array, "..."]:
        """The k-th derivative tensor, shape (d,) * k, symmetric where f is C^k."""
        validation.integer(0)("k", k)
        g = self.f
        for _ in range(k):
            g = jax.jacfwd(g)
        return jnp.asarray(g(as_float(self.x0)))

    @follows_input
    def remainder(self, delta: Any, *, nodes: int = 20) -> Float[Array, ""]:
        """f(x0 + δ) − polynomial, as the integral ∫₀¹ (1−t)^k/k! D^{k+1}f(x0+tδ)[δ^{k+1}] dt by Gauss-Legendre."""
        x0, delta = as_float(self.x0), as_float(delta)
        points, weights = np.polynomial.legendre.leggauss(validation.integer(1)("nodes", nodes))
        t, w = jnp.asarray((points + 1) / 2, x0.dtype), jnp.asarray(weights / 2, x0.dtype)
        k = self.order
        top = jax.vmap(lambda s: self._series(x0 + s * delta, delta, k + 1)[k + 1])(t)
        return jnp.sum(w * (1 - t) ** k * top) / math.factorial(k)

    @follows_input
    def lagrange(self, delta: Any, sup: float | None = None, *, nodes: int = 65) -> Certificate:
        """The Lagrange form: \\|f(x0+δ) − polynomial\\| ≤ sup_t \\|D^{k+1}f(x0+tδ)[δ^{k+1}]\\| / (k+1)!.

        Parameters
        ----------
        delta
            The displacement.
        sup
            A bound on the directional derivative over the segment. Left out, the largest of `nodes` samples stands in,
            and the certificate says that it is assumed to be the supremum.
        nodes
            Samples on the segment.

        Returns
        -------
        Certificate
            ``theorem``: the measured remainder against the bound.
        """
        x0, delta = as_float(self.x0), as_float(delta)
        k = self.order
        value = jnp.asarray(self.f(x0 + delta))
        if sup is None:
            t = jnp.linspace(0, 1, nodes, dtype=x0.dtype)
            top = jnp.max(jnp.abs(jax.vmap(lambda s: self._series(x0 + s * delta, delta, k + 1)[k + 1])(t)))
            assumed = f"the supremum over the segment is reached at one of {nodes} samples"
        else:
            top = jnp.asarray(validation.number(0)("sup", sup), x0.dtype)
            assumed = "sup bounds the directional derivative over the segment"
        return Certificate(
            f"|f(x0+δ) − p_{k}(δ)| <= sup |D^{k + 1} f[δ^{k + 1}]| / {k + 1}!",
            measured=jnp.abs(value - self(delta)),
            bound=top / math.factorial(k + 1) + rounding(jnp.abs(value) + jnp.abs(jnp.asarray(self.f(x0)))),
            kind="theorem",
            source="Taylor's theorem with Lagrange remainder",
            assumptions=(Assumption(f"f is {k + 1} times continuously differentiable"), Assumption(assumed)),
        )

    def _series(self, x: Array, delta: Array, order: int) -> list[Array]:
        """f and its first `order` derivatives along delta at x, by one jet."""
        validation.integer(0)("k", order)
        if delta.shape != x.shape:
            raise InputError(f"delta: found shape {delta.shape}, expected {x.shape} as x0")
        delta = delta.astype(x.dtype)
        if order == 0:
            return [jnp.asarray(self.f(x))]
        higher = [delta, *[jnp.zeros_like(delta)] * (order - 1)]
        value, derivatives = jet.jet(self.f, (x,), (higher,))
        return [jnp.asarray(value), *map(jnp.asarray, derivatives)]


def taylor(f: Callable[[Any], Any], x0: Any, order: int) -> Taylor:
    """The Taylor polynomial of degree `order` of a scalar function at `x0`.

    Parameters
    ----------
    f
        A scalar function of a scalar or of a vector of shape (d,), made of JAX primitives.
    x0
        The centre.
    order
        The degree, at least 0.

    Returns
    -------
    Taylor
        Call it on a displacement; `tensor`, `derivative`, `remainder` and `lagrange` are its methods.

    Examples
    --------
    >>> import numpy as np
    >>> p = taylor(lambda x: x**3 - 2 * x + 1, 1.0, order=1)
    >>> float(p(0.5))  # the tangent y = x - 1 at x = 1.5
    0.5
    """
    validation.integer(0)("order", order)
    x0 = x0 if hasattr(x0, "dtype") else np.asarray(x0, dtype=np.float64)
    if x0.ndim > 1:
        raise InputError(f"x0: found shape {x0.shape}, expected a scalar or a vector")
    return Taylor(f, x0, order)
