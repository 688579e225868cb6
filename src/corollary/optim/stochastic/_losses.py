"""Scalar losses φ(z, y) of linear models: value, slope, curvature, conjugate, each entry by entry.

Source: Shalev-Shwartz & Zhang, "Stochastic dual coordinate ascent methods" (2013), table 1, for the conjugates.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy
from jaxtyping import Array

from corollary.optim._tree import like

Function = Callable[[Array, Array, Any], Array]


class Loss(NamedTuple):
    """φ in z, φ', φ'', φ* (at a slope that φ can have), and the largest φ''."""

    value: Function
    slope: Function
    curvature: Function
    conjugate: Function
    smoothness: float


def _entropy(theta: Array, y: Array, _: Any) -> Array:
    q = jnp.clip(-y * theta, 0, 1)
    return xlogy(q, q) + xlogy(1 - q, 1 - q)


def _bell(z: Array, y: Array, _: Any) -> Array:
    s = jax.nn.sigmoid(z)
    return s * (1 - s)


def _huber(z: Array, y: Array, delta: Any) -> Array:
    r, d = jnp.abs(z - y), like(delta, z)
    return jnp.where(r <= d, jnp.square(r) / 2, d * (r - d / 2))


LOSSES: dict[str, Loss] = {
    "logistic": Loss(
        lambda z, y, _: jax.nn.softplus(-y * z), lambda z, y, _: -y * jax.nn.sigmoid(-y * z), _bell, _entropy, 0.25
    ),
    "squared": Loss(
        lambda z, y, _: jnp.square(z - y) / 2,
        lambda z, y, _: z - y,
        lambda z, y, _: jnp.ones_like(z),
        lambda theta, y, _: jnp.square(theta) / 2 + theta * y,
        1.0,
    ),
    "huber": Loss(
        _huber,
        lambda z, y, delta: jnp.clip(z - y, -like(delta, z), like(delta, z)),
        lambda z, y, delta: jnp.where(jnp.abs(z - y) <= like(delta, z), 1.0, 0.0).astype(z.dtype),
        lambda theta, y, _: jnp.square(theta) / 2 + theta * y,
        1.0,
    ),
    "squared_hinge": Loss(
        lambda z, y, _: jnp.square(jnp.maximum(1 - y * z, 0)) / 2,
        lambda z, y, _: -y * jnp.maximum(1 - y * z, 0),
        lambda z, y, _: jnp.where(y * z < 1, 1.0, 0.0).astype(z.dtype),
        lambda theta, y, _: jnp.square(theta) / 2 + y * theta,
        1.0,
    ),
}
