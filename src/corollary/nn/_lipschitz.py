"""How much a feed-forward network can stretch: an upper bound from its layers and a lower one by ascent.

Upper: ‖f(x) − f(y)‖ ≤ ∏‖W_l‖₂·∏ Lip(φ)·‖x − y‖, cheap and loose for deep nets. Lower: the largest ‖Df(x)‖₂ found by
power iteration on the Jacobian, with gradient ascent and random search over x; any value it finds is a true lower
bound. When: robustness margins, or to see how loose the product is. O(Σ m n min(m, n)), and O(steps) passes.
Sources: Szegedy et al., "Intriguing properties of neural networks" (2014), §4.3; Virmaux & Scaman (2018), §3, §5.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.solution import Solution

# The largest |φ'|, rounded up. jax.nn.gelu is the tanh form by default; both forms stay below 1.1291.
LIPSCHITZ: dict[Callable[..., Any], float] = {
    jax.nn.relu: 1.0,
    jax.nn.relu6: 1.0,
    jax.nn.leaky_relu: 1.0,
    jax.nn.elu: 1.0,
    jax.nn.celu: 1.0,
    jax.nn.selu: 1.7581,
    jax.nn.gelu: 1.1291,
    jax.nn.silu: 1.0999,
    jax.nn.softplus: 1.0,
    jax.nn.sigmoid: 0.25,
    jax.nn.soft_sign: 1.0,
    jax.nn.hard_tanh: 1.0,
    jax.nn.log_sigmoid: 1.0,
    jax.nn.tanh: 1.0,
    jnp.tanh: 1.0,
    jnp.sin: 1.0,
    jnp.cos: 1.0,
}
# Equinox's own objects for ReLU and the identity.
_DEFAULTS = inspect.signature(eqx.nn.MLP.__init__).parameters


class LipschitzBounds(eqx.Module):
    """lower ≤ Lip(f) ≤ upper, in the Euclidean norm; `at` is the point where the Jacobian's norm is `lower`."""

    lower: Float[Array, ""]
    upper: Float[Array, ""]
    at: Float[Array, " n"]


def network_lipschitz(
    network: Any,
    x: Float[Array, "k n"],
    *,
    key: Any,
    steps: int = 100,
    rate: Any = 1.0,
    constants: dict[Callable[..., Any], float] | None = None,
) -> Solution:
    """Bounds on the Lipschitz constant of an MLP or a sequence of layers.

    Parameters
    ----------
    network
        `equinox.nn.MLP`, `equinox.nn.Sequential`, or a list of `equinox.nn.Linear` and activation functions.
    x
        (k, in): the starts of the ascent, on the data's scale.
    key
        From `jax.random.key`, for the first directions.
    steps, rate
        Of the ascent; a step tries a move of x by `rate` (falling to zero) times the spread of the starts
        (of one start: its size).
    constants
        Lipschitz constants of further activations.

    Returns
    -------
    Solution
        ``value``: `LipschitzBounds`. Certificate ``bounds`` (exact): lower ≤ upper, with rounding.

    Raises
    ------
    InputError
        For a layer or an activation that isn't known, or starts of another shape.

    Source
    ------
    Szegedy et al. (2014), §4.3; Virmaux & Scaman, "Lipschitz regularity of deep neural networks" (2018), algorithm 2.

    Examples
    --------
    >>> import equinox as eqx, jax
    >>> net = eqx.nn.MLP(3, 2, 8, 2, key=jax.random.key(0))
    >>> found = network_lipschitz(net, jax.random.normal(jax.random.key(1), (4, 3)), key=jax.random.key(2))
    >>> bool(found.holds), bool(0 < found.value.lower <= found.value.upper)
    (True, True)
    """
    validation.integer()("steps", steps)
    layers = _layers(network)
    known = LIPSCHITZ | (constants or {})
    upper, widths, depth = None, 1, 0
    for layer in layers:
        if isinstance(layer, eqx.nn.Linear):
            norm = jnp.linalg.svd(layer.weight, compute_uv=False)[0]
            upper = norm if upper is None else upper * norm
            widths, depth = max(widths, *layer.weight.shape), depth + 1
        elif not _is_known(layer, known):
            raise InputError(f"network: found activation {layer!r}, expected a known one, or its constant in constants")
        elif upper is not None:
            upper = upper * jnp.asarray(known[layer], upper.dtype)
        else:
            upper = jnp.asarray(known[layer], x.dtype)
    first = next((layer for layer in layers if isinstance(layer, eqx.nn.Linear)), None)
    if upper is None or first is None or x.ndim != 2 or x.shape[1] != first.weight.shape[1]:
        expected = "any" if first is None else first.weight.shape[1]
        raise InputError(f"x: found shape {x.shape}, expected (k, {expected}) and a network with a linear layer")
    arrays, static = eqx.partition(layers, eqx.is_array)
    lower, at = _ascend(arrays, x, key, jnp.asarray(rate, x.dtype), static, steps)
    claim = Certificate(
        "max ‖Df(x)‖ found ≤ Lip(f) ≤ ∏‖W‖·Lip(φ)",
        lower,
        upper + rounding(upper, 8.0 * widths * depth),
        "exact",
        "Virmaux & Scaman (2018), §3",
    )
    return Solution(LipschitzBounds(lower, upper, at), {"bounds": claim}, 0, steps)


def _is_known(layer: Any, known: Any) -> bool:
    try:
        return layer in known
    except TypeError:  # a module with arrays in it
        return False


def _layers(network: Any) -> tuple[Any, ...]:
    """Linear layers and plain activation functions, in order."""
    if isinstance(network, eqx.nn.MLP):
        parts: list[Any] = []
        for k, layer in enumerate(network.layers):
            parts += [layer, network.final_activation if k == len(network.layers) - 1 else network.activation]
        network = parts
    elif isinstance(network, eqx.nn.Sequential):
        network = network.layers
    if not isinstance(network, list | tuple):
        raise InputError(f"network: found {type(network).__name__}, expected an MLP, a Sequential or a list of layers")
    plain = [layer.fn if isinstance(layer, eqx.nn.Lambda) else layer for layer in network]
    identity, relu = (_DEFAULTS[name].default for name in ("final_activation", "activation"))
    plain = [jax.nn.relu if p is relu else p for p in plain]
    return tuple(p for p in plain if not (isinstance(p, eqx.nn.Identity) or p is identity))


@functools.partial(jax.jit, static_argnames=("static", "steps"))
def _ascend(arrays: Any, x: Array, key: Any, rate: Array, static: Any, steps: int) -> tuple[Array, Array]:
    layers = eqx.combine(arrays, static)
    spread = jnp.sqrt(jnp.mean((x - jnp.mean(x, 0)) ** 2))
    spread = jnp.where(spread > 0, spread, jnp.sqrt(jnp.mean(x**2))) + jnp.finfo(x.dtype).tiny

    def network(z: Array) -> Array:
        for layer in layers:
            z = layer(z)
        return z

    def stretch(z: Array, v: Array) -> Array:
        return jnp.linalg.norm(jax.jvp(network, (z,), (v,))[1])

    def measure(z: Array, v: Array) -> tuple[Array, Array]:
        pull = jax.vjp(network, z)[1]
        for _ in range(2):  # power iterations on DfᵀDf
            v = _unit(pull(jax.jvp(network, (z,), (v,))[1])[0], v)
        return v, stretch(z, v)

    def step(carry: Any, now: Any) -> Any:
        z, v, value = carry
        k, key = now
        # The slope of a piecewise linear net's stretch is zero almost everywhere: chance has to lead there.
        slope = _unit(jax.grad(stretch)(z, v), jnp.zeros_like(z))
        noise = _unit(jax.random.normal(key, z.shape, z.dtype), jnp.zeros_like(z))
        length = rate * spread * (1 - k.astype(z.dtype) / steps)
        tried = z + length * (slope + noise)
        v_here, value = measure(z, v)
        v_tried, value_tried = measure(tried, v_here)
        better = value_tried > value
        z, v, value = (jnp.where(better, a, b) for a, b in ((tried, z), (v_tried, v_here), (value_tried, value)))
        return (z, v, value), None

    def one(z: Array, v: Array, key: Array) -> tuple[Array, Array]:
        keys = jax.random.split(key, steps)
        (z, v, value), _ = jax.lax.scan(step, (z, _unit(v, v), jnp.zeros((), z.dtype)), (jnp.arange(steps), keys))
        return value, z

    first, others = jax.random.split(key)
    directions = jax.random.normal(first, x.shape, x.dtype)
    best, at = jax.vmap(one)(x, directions, jax.random.split(others, x.shape[0]))
    winner = jnp.argmax(best)
    return best[winner], at[winner]


def _unit(v: Array, otherwise: Array) -> Array:
    size = jnp.max(jnp.abs(v))
    scaled = v / jnp.where(size > 0, size, 1.0)
    return jnp.where(size > 0, scaled / jnp.linalg.norm(jnp.where(size > 0, scaled, jnp.ones_like(v))), otherwise)
