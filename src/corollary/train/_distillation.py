"""Knowledge distillation: a student learns a teacher's softened outputs beside the labels.

    α·T²·KL(softmax(v/T) ‖ softmax(z/T)) + (1 − α)·cross-entropy(z, labels).

The factor T² keeps the gradient's size as T changes; as T → ∞ it tends to (z − v)/C for logits of zero mean. The KL is
computed from the centred differences u = (z − v − mean)/T, as log1p(Σ p(e^u − 1 − u)): two nearly equal distributions
then keep all their digits, where a difference of log-softmaxes would keep none at large T.

Cost: O(C) an example. Source: Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network" (2015), §2, eq.
2–4.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import common_float, follows_input


@follows_input
def distillation_loss(
    student: Any, teacher: Any, labels: Any = None, *, temperature: Any = 2.0, alpha: Any = 0.5
) -> Float[Array, "..."]:
    """Softened KL to a teacher's logits, times T², beside the cross-entropy to the labels.

    Use it to train a small network on a large one's outputs. Stop the teacher's gradient yourself if it is trained.

    Parameters
    ----------
    student, teacher
        Logits z and v (..., C).
    labels
        Class numbers (...), or None: the soft term alone, times α.
    temperature
        T > 0; may be traced.
    alpha
        Weight of the soft term in [0, 1]; may be traced.

    Returns
    -------
    Array
        The loss per example (...). No certificate.

    Raises
    ------
    InputError
        For mismatched shapes, labels that are no classes, or settings out of range.

    Source: Hinton et al. (2015), §2.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.array([1.0, 2.0, 3.0])
    >>> float(distillation_loss(z, z, temperature=4.0))
    0.0
    """
    z, v = common_float(student, teacher)
    if z.shape != v.shape or z.ndim == 0:
        raise InputError(f"teacher: found shape {v.shape}, expected {z.shape} as in student, with a class axis")
    for name, value, check in (
        ("temperature", temperature, validation.number(0, open_low=True)),
        ("alpha", alpha, validation.number(0, 1)),
    ):
        if not isinstance(value, jax.Array):
            check(name, value)
    T, a = jnp.asarray(temperature).astype(z.dtype), jnp.asarray(alpha).astype(z.dtype)
    soft = a * jnp.square(T) * _divergence(z / T, v / T)
    if labels is None:
        return soft
    labels = jnp.asarray(labels)
    if labels.shape != z.shape[:-1] or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(f"labels: found {labels.dtype} of shape {labels.shape}, expected integers {z.shape[:-1]}")
    if not isinstance(labels, Tracer) and labels.size and not bool(jnp.all((labels >= 0) & (labels < z.shape[-1]))):
        raise InputError(f"labels: found one outside the classes, expected numbers from 0 to {z.shape[-1] - 1}")
    return soft + (1 - a) * optax.softmax_cross_entropy_with_integer_labels(z, labels)


def _divergence(z: Array, v: Array) -> Array:
    """KL(softmax(v) ‖ softmax(z)), accurate also where they nearly agree."""
    p = jax.nn.softmax(v)
    d = z - v
    u = d - jnp.sum(p * d, axis=-1, keepdims=True)
    near = jnp.max(jnp.abs(u), axis=-1, keepdims=True) < 0.5
    w = jnp.where(near, u, 0)
    # (e^w − 1 − w)/w² by Horner's scheme: the first term left out is below 1e-16 of the sum for |w| < 0.5.
    series = jnp.ones_like(w)
    for k in range(14, 2, -1):
        series = 1 + w * series / k
    close = jnp.log1p(jnp.sum(p * jnp.square(w) * series / 2, axis=-1))
    log_q, log_p = jax.nn.log_softmax(z), jax.nn.log_softmax(v)
    apart = jnp.sum(p * (log_p - log_q), axis=-1)
    return jnp.where(near[..., 0], close, apart)
