"""Backpropagation through time, whole or truncated, with the gradient split by how far back it reaches.

With states z_t = F(w, z_{t−1}, x_t) and losses ℓ_t(w, z_t) the gradient is Σ_τ g_τ,

    g_τ = Σ_t ∂ℓ_t/∂z_t · J_t J_{t−1} … J_{t−τ+1} · ∂⁺z_{t−τ}/∂w,   J_t = ∂F/∂z at step t,

where ∂⁺ is the immediate derivative of one step; dz_t/dw is the total one, the sum over all earlier steps. The norms of
g_τ show what the network can learn to remember: they fall like ‖J‖^τ, or explode. Truncation at window k stops the
state at every k-th step, so that lags reach at most k − 1.

When: choosing a window, or finding why a long dependency isn't learnt. Training itself needs no split: stop the state.
O(lags·length) vector-Jacobian products of one step, in parallel over the length; memory O(length·state + parameters).
Source: Werbos, "Backpropagation through time" (1990); Williams & Peng (1990), BPTT(h; h'); Pascanu, Mikolov & Bengio,
"On the difficulty of training recurrent neural networks" (2013), eq. 3-5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from corollary.core import validation
from corollary.core.errors import InputError


class TimeGradient(eqx.Module):
    """A gradient through time.

    Attributes
    ----------
    loss
        Σ_t ℓ_t.
    gradient
        Like the parameters.
    lag_norms : (lags,)
        ‖g_τ‖ for τ = 0, 1, …; the vectors g_τ themselves sum to the gradient.
    by_lag
        With ``keep_lags``: the g_τ, a leading axis on every leaf; else None.
    """

    loss: Float[Array, ""]
    gradient: PyTree
    lag_norms: Float[Array, " lags"]
    by_lag: PyTree


def bptt(
    step: Callable[..., Any],
    loss: Callable[..., Any],
    params: PyTree,
    x: PyTree,
    state: PyTree,
    *,
    targets: PyTree = None,
    window: int | None = None,
    keep_lags: bool = False,
) -> TimeGradient:
    """The gradient of Σ_t loss(params, z_t, target_t) by backpropagation through time, with its norm by lag.

    When: to see how far back a recurrent network learns. O(window·length) vector-Jacobian products of one step.

    Parameters
    ----------
    step
        ``step(params, state, x_t) -> state``, pytrees.
    loss
        ``loss(params, state, target_t) -> scalar``.
    params
        A pytree of floating arrays.
    x, targets
        Pytrees with the time axis first; `targets` None gives the loss None.
    state
        The start state.
    window
        k: the state is held fixed at the start of every k-th step; None: the whole length.
    keep_lags
        Return each lag's gradient too (lags times the memory of the parameters).

    Returns
    -------
    TimeGradient

    Raises
    ------
    InputError
        For a window below one or an empty sequence.

    Source
    ------
    Pascanu, Mikolov & Bengio (2013), eq. 3-5.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> found = bptt(lambda w, z, x: w * z + x, lambda w, z, _: z, jnp.float32(0.5), jnp.ones(3), jnp.float32(0.0))
    >>> float(found.gradient), found.lag_norms.tolist()  # z_2' = 1, z_3' = z_2 + w z_1 = 1.5 + 0.5
    (3.0, [2.5, 0.5, 0.0])
    """
    validation.integer(none=True)("window", window)
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves((x, targets))}
    if len(lengths) != 1 or 0 in lengths:
        raise InputError(f"x, targets: found time axes of lengths {sorted(lengths)}, expected one length >= 1")
    length = lengths.pop()
    reach = length if window is None else min(window, length)

    def forward(z: PyTree, now: PyTree) -> tuple[PyTree, tuple[PyTree, PyTree]]:
        new = step(params, z, now)
        return new, (z, new)

    _, (before, after) = jax.lax.scan(forward, state, x)

    def losses(params: PyTree, after: PyTree) -> Array:
        return jnp.sum(jax.vmap(lambda z, target: loss(params, z, target))(after, targets))

    total, (direct, seed) = jax.value_and_grad(losses, argnums=(0, 1))(params, after)

    def pull(before: PyTree, now: PyTree, cotangent: PyTree) -> tuple[PyTree, PyTree]:
        return jax.vjp(lambda p, z: step(p, z, now), params, before)[1](cotangent)

    position = jnp.arange(length)

    def shifted(leaf: Array) -> Array:
        """From the state before step t to the state after step t − 1, unless the state is held fixed there."""
        earlier = jnp.concatenate([leaf[1:], jnp.zeros_like(leaf[:1])])
        reaches = ((position + 1) % reach != 0) & (position < length - 1)
        return jnp.where(reaches.reshape(-1, *[1] * (leaf.ndim - 1)), earlier, jnp.zeros_like(earlier))

    def lag(carry: tuple[PyTree, PyTree], tau: Array) -> tuple[tuple[PyTree, PyTree], tuple[Array, PyTree]]:
        cotangents, gradient = carry
        parts, back = jax.vmap(pull)(before, x, cotangents)
        part = jax.tree.map(lambda p: jnp.sum(p, 0), parts)
        part = jax.tree.map(lambda p, d: p + jnp.where(tau == 0, d, jnp.zeros_like(d)), part, direct)
        carry = (jax.tree.map(shifted, back), optax.tree.add(gradient, part))
        return carry, (optax.tree.norm(part), part if keep_lags else None)

    start = (seed, jax.tree.map(jnp.zeros_like, params))
    (_, gradient), (norms, by_lag) = jax.lax.scan(lag, start, jnp.arange(reach))
    return TimeGradient(total, gradient, norms, by_lag)
