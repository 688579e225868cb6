"""How long a gate remembers: ∂C_t/∂C_0 = ∏ f, the time constant −1/ln f, and chrono initialisation.

When: choosing the forget gate's bias for a known span, or reading a trained LSTM's memory from its gates. O(size).
Along the cell path (gates held fixed) an LSTM's Jacobian is the product of its forget gates; with a constant gate f it
decays as exp(−t/τ) with τ = −1/ln f, and the sum of what is kept, 1/(1 − f), is the time-scale to first order.
Source: Gers, Schmidhuber & Cummins (2000); Tallec & Ollivier, "Can recurrent neural networks warp time?" (2018), §2.
"""

from __future__ import annotations

import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from corollary.core import validation
from corollary.core.certificate import Certificate, rounding
from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.core.solution import Solution


class GateMemory(eqx.Module):
    """What forget gates keep.

    Attributes
    ----------
    kept : (length, ...)
        ∂C_t/∂C_0 = f_1 ⋯ f_t along the cell path.
    time_constant : (...)
        τ = −T/Σ ln f, in steps: the constant gate with the same product; infinite for f = 1.
    """

    kept: Any
    time_constant: Any


@follows_input
def gate_memory(gates: Any) -> Solution:
    """The memory of forget gates along the cell path. O(size).

    Parameters
    ----------
    gates : (length, ...)
        Values in [0, 1], time first; one row for a constant gate.

    Returns
    -------
    Solution
        ``value`` is a `GateMemory`. Certificate ``decay`` (theorem): ∏ f ≤ exp(−Σ(1 − f)), for ln f ≤ f − 1; so the
        time constant never exceeds 1/(1 − f) (of the mean gate).

    Raises
    ------
    InputError
        For values outside [0, 1].

    Source
    ------
    Tallec & Ollivier (2018), §2; Gers et al. (2000), eq. 3.

    Examples
    --------
    >>> import numpy as np
    >>> memory = gate_memory(np.full(100, 0.99)).value
    >>> round(float(memory.time_constant), 2), round(float(memory.kept[-1]), 4)
    (99.5, 0.366)
    """
    gates = validation.tensor("gates", gates)
    if not isinstance(gates, Tracer) and not bool(((gates >= 0) & (gates <= 1)).all()):
        raise InputError(f"gates: found values from {gates.min():g} to {gates.max():g}, expected [0, 1]")
    kept, constant, worst, bound = _memory(jnp.asarray(gates))
    claim = Certificate("∏ f ≤ exp(−Σ(1 − f))", worst, bound, "theorem", "ln f ≤ f − 1; Tallec & Ollivier (2018), §2")
    return Solution(GateMemory(kept, constant), {"decay": claim})


@jax.jit
def _memory(gates: Any) -> Any:
    kept = jnp.cumprod(gates, axis=0)
    length = gates.shape[0]
    logs = jnp.sum(jnp.log(gates), axis=0)
    constant = jnp.where(logs < 0, -length / jnp.where(logs < 0, logs, -1.0), jnp.inf)
    bound = jnp.exp(-jnp.sum(1 - gates, axis=0))
    bound = bound + rounding(jnp.ones((), gates.dtype), 4.0 * length) * bound + jnp.finfo(gates.dtype).tiny
    worst = jnp.argmax(kept[-1] / bound)
    return kept, constant, kept[-1].ravel()[worst], bound.ravel()[worst]


def chrono_init(hidden_size: int, longest: float, *, key: Any) -> tuple[Any, Any]:
    """Biases of forget and input gates for dependencies of up to `longest` steps. O(hidden).

    b_f = ln U(1, T − 1) and b_i = −b_f: a unit starts with f = σ(b_f), whose time-scale 1/(1 − f) = 1 + e^{b_f} is
    uniform on [2, T].

    Parameters
    ----------
    hidden_size
        How many units.
    longest
        T > 2, the span in steps.
    key
        From `jax.random.key`.

    Returns
    -------
    (forget, input) : biases, (hidden,) each

    Raises
    ------
    InputError
        For a span of two steps or fewer, or an infinite one.

    Source
    ------
    Tallec & Ollivier (2018), eq. 16.

    Examples
    --------
    >>> import jax
    >>> forget, enter = chrono_init(4, 100.0, key=jax.random.key(0))
    >>> scale = 1 / (1 - jax.nn.sigmoid(forget))
    >>> bool((scale >= 2).all() & (scale <= 100.01).all())
    True
    """
    validation.integer()("hidden_size", hidden_size)
    if not isinstance(longest, Tracer):
        validation.number(2, sys.float_info.max, open_low=True)("longest", float(np.asarray(longest)))
    forget = jnp.log(jax.random.uniform(key, (hidden_size,), minval=1.0, maxval=longest - 1.0))
    return forget, -forget
