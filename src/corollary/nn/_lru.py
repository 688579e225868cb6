"""The linear recurrent unit: a diagonal complex linear recurrence, run over all times at once by an associative scan.

ξ_t = Λ ξ_{t−1} + γ ⊙ (B x_t),  y_t = Re(C ξ_t) + D x_t, with λ_j = exp(−exp(ν_j) + i exp(θ_j)), so that |λ_j| < 1 for
every value of the parameters, and γ_j = √(1 − |λ_j|²), which keeps the state's size free of |λ|. It is the dense
recurrence A = PΛP⁻¹, B̃ = P⁻¹B in the basis where A is diagonal. Nonlinearities stand between layers, not in time.

When: long sequences; parallel in length. O(length·state·(input + output)) work, O(log length) depth.
Source: Orvieto, Smith, Gu, Fernando, Gulcehre, Pascanu & De, "Resurrecting recurrent neural networks for long
sequences" (2023), §3.1-3.4; the ring start is lemma 3.2.
"""

from __future__ import annotations

import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError


@final
class LinearRecurrentUnit(eqx.Module):
    """One LRU layer over a sequence. O(length·state·(input + output)), parallel in length.

    Parameters
    ----------
    input_size, state_size, output_size
        Lengths of x_t, of the complex state, of y_t (None: as the input).
    r_min, r_max
        The eigenvalues start uniformly (by area) on the ring r_min ≤ |λ| ≤ r_max < 1.
    max_phase
        Phases start uniformly on [0, max_phase].
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes below one, or radii that are not 0 ≤ r_min < r_max < 1.

    Source
    ------
    Orvieto et al. (2023), §3.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> layer = LinearRecurrentUnit(3, 16, key=jax.random.key(0))
    >>> layer(jnp.ones((100, 3))).shape, bool(jnp.all(jnp.abs(layer.eigenvalues) < 1))
    ((100, 3), True)
    """

    log_decay: Any
    log_phase: Any
    log_gain: Any
    B: tuple[Any, Any]
    C: tuple[Any, Any]
    D: Any

    def __init__(
        self,
        input_size: int,
        state_size: int,
        output_size: int | None = None,
        *,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 2 * math.pi,
        key: Any,
    ):
        for name, size in (("input_size", input_size), ("state_size", state_size)):
            validation.integer()(name, size)
        validation.integer(none=True)("output_size", output_size)
        if not 0 <= r_min < r_max < 1:
            raise InputError(f"r_min, r_max: found {r_min}, {r_max}, expected 0 <= r_min < r_max < 1")
        validation.number(0, open_low=True)("max_phase", max_phase)
        output_size = input_size if output_size is None else output_size
        keys = jax.random.split(key, 7)
        area = jax.random.uniform(keys[0], (state_size,))
        # |λ|² is uniform between the squared radii; in float32 1 − |λ|² keeps its digits this way round.
        loss = (1 - r_max**2) + area * (r_max**2 - r_min**2)
        self.log_decay = jnp.log(-0.5 * jnp.log1p(-loss))
        tiny = float(jnp.finfo(area.dtype).eps)
        self.log_phase = jnp.log(max_phase * jax.random.uniform(keys[1], (state_size,), minval=tiny))
        self.log_gain = 0.5 * jnp.log(loss)
        scale = (2 * input_size) ** -0.5
        self.B = (_normal(keys[2], state_size, input_size, scale), _normal(keys[3], state_size, input_size, scale))
        scale = state_size**-0.5
        self.C = (_normal(keys[4], output_size, state_size, scale), _normal(keys[5], output_size, state_size, scale))
        self.D = _normal(keys[6], output_size, input_size, input_size**-0.5)

    @property
    def eigenvalues(self) -> Array:
        """λ = exp(−exp(ν) + i exp(θ)), inside the unit circle."""
        # Below a few eps the modulus would be rounded to 1.
        decay = jnp.maximum(jnp.exp(self.log_decay), 4 * jnp.finfo(self.log_decay.dtype).eps)
        return jnp.exp(jax.lax.complex(-decay, jnp.exp(self.log_phase)))

    @property
    def input_matrix(self) -> Array:
        """γ ⊙ B, complex (state, input)."""
        gain = jnp.exp(self.log_gain)[:, None]
        return jax.lax.complex(gain * self.B[0], gain * self.B[1])

    def states(self, x: Float[Array, "... t f"], state: Any = None) -> Array:
        """ξ_1, …, ξ_T, complex (..., length, state), from the state before (zero where left out)."""
        decay = self.eigenvalues
        gain = jnp.exp(self.log_gain)
        # Real products: a complex one with a real x would do twice the work.
        driven = jax.lax.complex((x @ self.B[0].T) * gain, (x @ self.B[1].T) * gain)
        if state is not None:
            driven = driven.at[..., 0, :].add(decay * state)
        factors = jnp.broadcast_to(decay, driven.shape)
        return jax.lax.associative_scan(_compose, (factors, driven), axis=driven.ndim - 2)[1]

    def __call__(self, x: Float[Array, "... t f"], state: Any = None) -> Float[Array, "... t g"]:
        """(..., length, input) to (..., length, output)."""
        states = self.states(x, state)
        return jnp.real(states) @ self.C[0].T - jnp.imag(states) @ self.C[1].T + x @ self.D.T


def _compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """ξ ↦ a₂(a₁ξ + b₁) + b₂."""
    return first[0] * second[0], second[0] * first[1] + second[1]


def _normal(key: Any, rows: int, columns: int, scale: float) -> Array:
    return scale * jax.random.normal(key, (rows, columns))
