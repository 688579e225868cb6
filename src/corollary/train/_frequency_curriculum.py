"""From low to high frequencies: filtered targets that sharpen during training, and Fourier features for inputs.

Networks fit low frequencies first. A curriculum makes that a plan: the targets, given on a regular grid, pass a
low-pass filter whose band opens by a schedule. Fourier features γ(x) = [cos 2πBx, sin 2πBx] take the bias away instead:
the tangent kernel becomes stationary with the bandwidth of B.

Cost: O(n log n) per filtering; m frequencies make 2m inputs. Source: Rahaman et al., "On the spectral bias of neural
networks" (2019); Tancik et al., "Fourier features let networks learn high frequency functions" (2020).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import as_float, follows_input


@follows_input
def low_pass(targets: Any, bandwidth: Any, *, axes: Sequence[int] = (0,), soft: float = 0.0) -> Float[Array, "..."]:
    """Keep the frequencies of gridded targets up to a bandwidth.

    Parameters
    ----------
    targets
        Values on a regular grid along `axes`; other axes are channels.
    bandwidth
        Share of the highest frequency that passes, 0 (the mean alone) to 1 (all); may be traced.
    axes
        The grid's axes; the frequency is the largest of theirs.
    soft
        Width of a linear roll-off beyond the band, in the same unit.

    Returns
    -------
    Array
        Of the same shape and dtype; at bandwidth 1 the targets themselves, bit by bit. No certificate.

    Raises
    ------
    InputError
        For settings out of range, axes that the targets lack, or complex targets.

    Source: Rahaman et al. (2019), §3.

    Examples
    --------
    >>> import numpy as np
    >>> low_pass(np.array([1.0, 3.0, 1.0, 3.0]), 0.5).tolist()
    [2.0, 2.0, 2.0, 2.0]
    """
    y = as_float(targets)
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise InputError(f"targets: found dtype {y.dtype}, expected real numbers")
    if not isinstance(bandwidth, jax.Array):
        validation.number(0, 1)("bandwidth", bandwidth)
    validation.number(0, 1)("soft", soft)
    axes = tuple(axes)
    if not axes or any(not -y.ndim <= a < y.ndim for a in axes):
        raise InputError(f"axes: found {axes}, expected axes of targets with {y.ndim} dimensions")
    return _low_pass(y, jnp.asarray(bandwidth).astype(y.dtype), axes, jnp.asarray(soft).astype(y.dtype))


@functools.partial(jax.jit, static_argnums=2)
def _low_pass(y: Array, band: Array, axes: tuple[int, ...], soft: Array) -> Array:
    frequency = jnp.zeros((1,) * y.ndim, y.dtype)
    for a in axes:
        shape = [1] * y.ndim
        shape[a] = y.shape[a]
        along = 2 * jnp.abs(jnp.fft.fftfreq(y.shape[a], dtype=y.dtype)).reshape(shape)
        frequency = jnp.maximum(frequency, along)
    over = frequency - band
    slack = 8 * jnp.finfo(y.dtype).eps
    roll = jnp.where(soft > 0, jnp.clip(1 - over / jnp.where(soft > 0, soft, 1), 0, 1), 0)
    gain = jnp.where(over <= slack, 1, roll).astype(y.dtype)
    spectrum = jnp.fft.fftn(y, axes=axes)
    filtered = jnp.real(jnp.fft.ifftn(spectrum * gain.astype(spectrum.dtype), axes=axes)).astype(y.dtype)
    return jnp.where(band >= 1, y, filtered)


def frequency_curriculum(
    schedule: Callable[[Any], Any], *, axes: Sequence[int] = (0,), soft: float = 0.0
) -> Callable[[Any, Any], Any]:
    """A function ``(targets, step) -> targets`` whose band opens by a schedule.

    Use it on the full grid of targets in the loss of a coordinate network; batches of scattered points have no grid.

    Parameters
    ----------
    schedule
        Step to bandwidth in [0, 1], any Optax schedule (``optax.linear_schedule(0.1, 1.0, 1000)``). A constant 1 is
        plain training, bit by bit.
    axes, soft
        As in `low_pass`.

    Returns
    -------
    Callable
        To be called with a traced step. No certificate.

    Source: Rahaman et al. (2019), §3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> curriculum = frequency_curriculum(lambda step: jnp.minimum(step / 10, 1.0))
    >>> curriculum(jnp.array([1.0, 3.0]), jnp.asarray(0.0)).tolist()
    [2.0, 2.0]
    """
    return lambda targets, step: low_pass(targets, jnp.asarray(schedule(step)), axes=axes, soft=soft)


@final
class FourierFeatures(eqx.Module):
    """γ(x) = [cos 2πBx, sin 2πBx]·√(1/m), with a fixed B of m random frequencies.

    Use it before the first layer of a network on coordinates; the bandwidth is the one setting that matters.

    Parameters
    ----------
    n_inputs
        Length of x.
    n_frequencies
        m.
    bandwidth
        Standard deviation of B's normal entries, in cycles per unit of x.
    key
        A random key.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> FourierFeatures(2, 8, bandwidth=3.0, key=jax.random.key(0))(jnp.zeros(2)).shape
    (16,)
    """

    frequencies: Float[Array, "m n"]

    def __init__(self, n_inputs: int, n_frequencies: int, *, bandwidth: Any = 1.0, key: Key[Array, ""]):
        validation.integer(1)("n_inputs", n_inputs)
        validation.integer(1)("n_frequencies", n_frequencies)
        draw = jax.random.normal(key, (n_frequencies, n_inputs))
        self.frequencies = jnp.asarray(bandwidth).astype(draw.dtype) * draw

    def __call__(self, x: Float[Array, " n"], *, key: Any = None) -> Float[Array, " two_m"]:
        """Encode one point; B gets no gradient."""
        angle = 2 * jnp.pi * (jax.lax.stop_gradient(self.frequencies).astype(x.dtype) @ x)
        return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)]) / jnp.sqrt(jnp.asarray(angle.size, x.dtype))
