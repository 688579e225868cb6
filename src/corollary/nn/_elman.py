"""The Elman cell: z_t = φ(U z_{t−1} + V x_t + b), the plain recurrent unit.

When: short dependencies, or as the body of the orthogonal and spectrally normalised cells, whose recurrent matrix is
computed from other parameters. Gradients through n steps carry the product of n Jacobians diag(φ')U: they vanish or
explode with ‖U‖; use an LSTM, a GRU or an LRU over longer spans. O(hidden·(hidden + input)) a step.
Source: Elman, "Finding structure in time" (1990), eq. 2 (the recurrence takes the input x_t, at every step).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation


@final
class ElmanCell(eqx.Module):
    """One step of the Elman recurrence, laid out like Equinox's cells. O(hidden·(hidden + input)).

    Parameters
    ----------
    input_size, hidden_size
        Lengths of x_t and z_t.
    activation
        φ; tanh by default.
    use_bias
        Add b.
    key
        From `jax.random.key`; weights are uniform on ±1/√hidden.

    Raises
    ------
    InputError
        For sizes below one.

    Source
    ------
    Elman (1990), eq. 2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> cell = ElmanCell(3, 4, key=jax.random.key(0))
    >>> cell(jnp.ones(3), jnp.zeros(4)).shape
    (4,)
    """

    weight_ih: Any
    weight_hh: Any
    bias: Any
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    activation: Callable[..., Any] = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        activation: Callable[..., Any] = jnp.tanh,
        *,
        use_bias: bool = True,
        key: Any,
    ):
        self.input_size = validation.integer()("input_size", input_size)
        self.hidden_size = validation.integer()("hidden_size", hidden_size)
        self.activation = activation
        first, second, third = jax.random.split(key, 3)
        self.weight_ih = _uniform(first, (hidden_size, input_size), hidden_size)
        self.weight_hh = _uniform(second, (hidden_size, hidden_size), hidden_size)
        self.bias = _uniform(third, (hidden_size,), hidden_size) if use_bias else None

    def __call__(self, x: Float[Array, "... i"], state: Float[Array, "... h"]) -> Float[Array, "... h"]:
        """z_t from x_t and z_{t−1}."""
        return self.advance(self.project(x), state)

    def project(self, x: Float[Array, "... i"]) -> Float[Array, "... h"]:
        """V x + b, for any number of leading axes: one product for all times."""
        projected = x @ self.weight_ih.T
        return projected if self.bias is None else projected + self.bias

    def advance(self, projected: Float[Array, "... h"], state: Float[Array, "... h"]) -> Float[Array, "... h"]:
        """The rest of the step."""
        return self.activation(projected + state @ self.weight_hh.T)


def _uniform(key: Any, shape: tuple[int, ...], hidden: int) -> Array:
    limit = 1 / math.sqrt(hidden)
    return jax.random.uniform(key, shape, minval=-limit, maxval=limit)
