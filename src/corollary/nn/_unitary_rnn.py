"""The unitary cell: a complex state, a unitary recurrent matrix, and modReLU.

h_t = modReLU(W h_{t−1} + V x_t; b), modReLU(z; b) = z/|z|·max(|z| + b, 0): it keeps phases and shifts moduli. W is the
Cayley transform of a skew-Hermitian matrix, the full-capacity form, computed once per sequence; ‖W h‖ = ‖h‖ exactly,
so that signals last. `real_features` makes its complex outputs real for a head.

When: copying and adding over hundreds of steps. O(hidden²) a step, O(hidden³) per sequence.
Sources: Arjovsky, Shah & Bengio, "Unitary evolution recurrent neural networks" (2016), eq. 8; Wisdom et al.,
"Full-capacity unitary recurrent neural networks" (2016).
"""

from __future__ import annotations

import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from corollary.core import validation


def modrelu(z: Complex[Array, "..."], bias: Float[Array, "..."]) -> Complex[Array, "..."]:
    """z/|z|·max(|z| + b, 0), zero at z = 0, with finite derivatives everywhere. O(size).

    Parameters
    ----------
    z
        Complex.
    bias
        Real, of a shape that broadcasts.

    Source
    ------
    Arjovsky, Shah & Bengio (2016), eq. 8.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> modrelu(jnp.array([4j, 0.5]), jnp.array(-1.0)).tolist()
    [3j, 0j]
    """
    re, im = jnp.real(z), jnp.imag(z)
    size = jax.lax.stop_gradient(jnp.maximum(jnp.abs(re), jnp.abs(im)))  # squares of z may not be representable
    nonzero = size > 0
    safe = jnp.where(nonzero, size, 1.0)
    modulus = safe * jnp.sqrt(jnp.where(nonzero, (re / safe) ** 2 + (im / safe) ** 2, 1.0))
    factor = jnp.where(nonzero, jnp.maximum(modulus + bias, 0.0) / modulus, 0.0)
    return jax.lax.complex(re * factor, im * factor)


def real_features(z: Complex[Array, "... n"]) -> Float[Array, "... m"]:
    """Real and imaginary parts side by side, (..., 2n), for a real head. O(size).

    Parameters
    ----------
    z
        Complex.

    Source
    ------
    Arjovsky, Shah & Bengio (2016), §4.3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> real_features(jnp.array([1 + 2j])).tolist()
    [1.0, 2.0]
    """
    return jnp.concatenate([jnp.real(z), jnp.imag(z)], -1)


@final
class UnitaryCell(eqx.Module):
    """A cell with a unitary recurrent matrix and modReLU, for `RNN` (``cell=UnitaryCell``); its outputs are complex.

    Parameters
    ----------
    input_size, hidden_size
        Lengths of x_t (real) and of the complex state.
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes below one.

    Source
    ------
    Arjovsky, Shah & Bengio (2016); Wisdom et al. (2016), theorem 3.1 (the group of all unitary matrices).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> from corollary.nn import RNN
    >>> outputs, _ = RNN(2, 3, cell=UnitaryCell, key=jax.random.key(0))(jnp.ones((5, 2)))
    >>> real_features(outputs).shape
    (5, 6)
    """

    skew: tuple[Any, Any]
    weight_ih: tuple[Any, Any]
    bias: Any
    start: tuple[Any, Any]
    recurrent: Any
    hidden_size: int = eqx.field(static=True)

    def __init__(self, input_size: int, hidden_size: int, *, key: Any):
        validation.integer()("input_size", input_size)
        self.hidden_size = validation.integer()("hidden_size", hidden_size)
        keys = jax.random.split(key, 5)
        # A diagonal start: i·tan(φ/2) gives the eigenvalue e^{−iφ}, spread over the right half of the circle.
        angles = jax.random.uniform(keys[0], (hidden_size,), minval=-math.pi / 2, maxval=math.pi / 2)
        self.skew = (jnp.zeros((hidden_size, hidden_size)), jnp.diag(jnp.tan(angles / 2)))
        scale = (2 * input_size) ** -0.5
        shape = (hidden_size, input_size)
        self.weight_ih = (scale * jax.random.normal(keys[1], shape), scale * jax.random.normal(keys[2], shape))
        self.bias = jnp.zeros(hidden_size)
        size = (2 * hidden_size) ** -0.5
        self.start = (
            size * jax.random.normal(keys[3], (hidden_size,)),
            size * jax.random.normal(keys[4], (hidden_size,)),
        )
        self.recurrent = None

    @property
    def weight_hh(self) -> Array:
        """W = (I + A)⁻¹(I − A) with A = (M − Mᴴ)/2 skew-Hermitian."""
        M = jax.lax.complex(*self.skew)
        A = (M - M.conj().T) / 2
        identity = jnp.eye(self.hidden_size, dtype=A.dtype)
        return jnp.linalg.solve(identity + A, identity - A)

    def initial(self) -> Array:
        """The learnt start state."""
        return jax.lax.complex(*self.start)

    def ready(self) -> UnitaryCell:
        """Itself, with the recurrent matrix computed."""
        return eqx.tree_at(lambda c: c.recurrent, self, self.weight_hh, is_leaf=lambda x: x is None)

    def project(self, x: Array) -> Array:
        """V x, for any number of leading axes."""
        return jax.lax.complex(x @ self.weight_ih[0].T, x @ self.weight_ih[1].T)

    def advance(self, projected: Array, state: Array) -> Array:
        """The rest of the step."""
        recurrent = self.weight_hh if self.recurrent is None else self.recurrent
        return modrelu(state @ recurrent.T + projected, self.bias)

    def __call__(self, x: Array, state: Array) -> Array:
        """One step."""
        return self.advance(self.project(x), state)
