"""The complex linear layer W z + b, and Wirtinger's gradient of a real function of complex variables.

When: spectra, phases, unitary recurrences. A complex matrix is the real 2×2 block [[Re W, −Im W], [Im W, Re W]] on
stacked parts; it has half of that block's parameters. O(in·out), four real products.
Source: Wirtinger (1927); Kreutz-Delgado, "The complex gradient operator and the CR-calculus" (2009), eq. 19, 31.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex

from corollary.core import validation


@final
class ComplexLinear(eqx.Module):
    """z ↦ W z + b with complex weights, stored as real pairs so that every optimizer takes them. O(in·out).

    Parameters
    ----------
    in_features, out_features
        Lengths.
    use_bias
        Add b, zero at the start.
    key
        From `jax.random.key`; E|W_jk|² = 1/in.

    Raises
    ------
    InputError
        For sizes below one.

    Source
    ------
    Trabelsi et al., "Deep complex networks" (2018), §3.2 and §3.6.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> ComplexLinear(2, 3, key=jax.random.key(0))(jnp.ones((5, 2), complex)).shape
    (5, 3)
    """

    parts: tuple[Any, Any]
    bias_parts: Any

    def __init__(self, in_features: int, out_features: int, *, use_bias: bool = True, key: Any):
        validation.integer()("in_features", in_features)
        validation.integer()("out_features", out_features)
        scale = (2 * in_features) ** -0.5
        first, second = (jax.random.normal(k, (out_features, in_features)) for k in jax.random.split(key))
        self.parts = (scale * first, scale * second)
        self.bias_parts = (jnp.zeros(out_features), jnp.zeros(out_features)) if use_bias else None

    @property
    def weight(self) -> Array:
        """W, complex (out, in)."""
        return jax.lax.complex(*self.parts)

    @property
    def bias(self) -> Array | None:
        """The complex bias b, or None."""
        return None if self.bias_parts is None else jax.lax.complex(*self.bias_parts)

    def real_form(self) -> Array:
        """[[Re W, −Im W], [Im W, Re W]], the same map on (Re z, Im z)."""
        re, im = self.parts
        return jnp.block([[re, -im], [im, re]])

    def __call__(self, z: Complex[Array, "... n"]) -> Complex[Array, "... m"]:
        """(..., in) to (..., out)."""
        out = z @ self.weight.T
        return out if self.bias is None else out + self.bias


def wirtinger(function: Callable[..., Any]) -> Callable[..., Any]:
    """∂L/∂z̄ of a real-valued L at its first argument, a pytree of complex arrays: as much work as `jax.grad`.

    Steepest descent goes along −2 ∂L/∂z̄ = −(∂L/∂x + i ∂L/∂y); `jax.grad` returns the conjugate, ∂L/∂x − i ∂L/∂y.

    Parameters
    ----------
    function
        L(z, ...), real scalar.

    Returns
    -------
    function of the same arguments

    Source
    ------
    Kreutz-Delgado (2009), eq. 19 and §5.2.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> complex(wirtinger(lambda z: jnp.abs(z) ** 2)(jnp.array(1.0 + 2.0j)).round(4))  # ∂(z z̄)/∂z̄ = z
    (1+2j)
    """
    gradient = jax.grad(function)

    def conjugate_derivative(*args: Any) -> Any:
        return jax.tree.map(lambda g: jnp.conj(g) / 2, gradient(*args))

    return conjugate_derivative
