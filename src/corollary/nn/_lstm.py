"""Whole-sequence LSTM and GRU: the steps of Equinox's cells with the input product hoisted and a hand-written backward.

Forward: the products with x of all times are one GEMM before the loop, a step has one GEMM for all gates. Backward: a
step has one GEMM, for the state; the gradient of the recurrent weights is one GEMM over all times after the loop,
where automatic differentiation would add an outer product to it at every step. Saved: the gates and the states,
5 (LSTM) or 5 (GRU) times the size of the output.

Time is the first axis here and any number of batch axes follow it. The derivative is defined for reverse mode (and,
through its rule, for forward over reverse); `reverse_only=False` of the layer gives plain loops for forward mode.

Sources: Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000); Cho et al. (2014) in the variant
with the reset gate inside the product (cuDNN's, PyTorch's, Equinox's); Appleyard et al. (2016) on hoisting.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Sequence = Float[Array, "t ... f"]
State = Float[Array, "... h"]


def _lstm_gates(gates: Array, cell: Array) -> tuple[Array, ...]:
    i, f, u, o = jnp.split(gates, 4, -1)
    i, f, o, u = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(u)
    return i, f, u, o, f * cell + i * u


def _lstm_loop(projected: Sequence, weight: Array, hidden: State, cell: State, save: bool) -> Any:
    weight = weight.T

    def step(carry: Any, now: Array) -> Any:
        i, f, u, o, cell = _lstm_gates(now + carry[0] @ weight, carry[1])
        hidden = o * jnp.tanh(cell)
        kept = (hidden, cell, jnp.concatenate([i, f, u, o], -1)) if save else hidden
        return (hidden, cell), kept

    return jax.lax.scan(step, (hidden, cell), projected)


def lstm_plain(projected: Sequence, weight: Array, hidden: State, cell: State) -> Any:
    """(outputs, last hidden, last cell) with JAX's own derivative: forward mode works."""
    (hidden, cell), outputs = _lstm_loop(projected, weight, hidden, cell, False)
    return outputs, hidden, cell


lstm_scan = jax.custom_vjp(lstm_plain)


def _lstm_forward(projected: Sequence, weight: Array, hidden: State, cell: State) -> Any:
    (last, last_cell), (outputs, cells, gates) = _lstm_loop(projected, weight, hidden, cell, True)
    return (outputs, last, last_cell), (weight, hidden, cell, outputs, cells, gates)


def _lstm_backward(saved: Any, cotangents: Any) -> Any:
    weight, hidden, cell, outputs, cells, gates = saved
    d_outputs, d_hidden, d_cell = cotangents
    cells_before = jnp.concatenate([cell[None], cells[:-1]])

    def step(carry: Any, now: Any) -> Any:
        d_hidden, d_cell = carry
        d_output, cell, before, gates = now
        i, f, u, o = jnp.split(gates, 4, -1)
        squashed = jnp.tanh(cell)
        d_hidden = d_hidden + d_output
        d_cell = d_cell + d_hidden * o * (1 - squashed * squashed)
        d_gates = jnp.concatenate(
            [
                d_cell * u * i * (1 - i),
                d_cell * before * f * (1 - f),
                d_cell * i * (1 - u * u),
                d_hidden * squashed * o * (1 - o),
            ],
            -1,
        )
        return (d_gates @ weight, d_cell * f), d_gates

    carry, d_gates = jax.lax.scan(step, (d_hidden, d_cell), (d_outputs, cells, cells_before, gates), reverse=True)
    return d_gates, _over_all_times(d_gates, hidden, outputs), *carry


lstm_scan.defvjp(_lstm_forward, _lstm_backward)


def _gru_loop(projected: Sequence, weight: Array, bias: Array, hidden: State, save: bool) -> Any:
    weight = weight.T

    def step(hidden: Array, now: Array) -> Any:
        r, z, n = jnp.split(now, 3, -1)
        r_hidden, z_hidden, n_hidden = jnp.split(hidden @ weight, 3, -1)
        r, z, q = jax.nn.sigmoid(r + r_hidden), jax.nn.sigmoid(z + z_hidden), n_hidden + bias
        n = jnp.tanh(n + r * q)
        hidden = n + z * (hidden - n)
        return hidden, ((hidden, r, z, n, q) if save else hidden)

    return jax.lax.scan(step, hidden, projected)


def gru_plain(projected: Sequence, weight: Array, bias: Array, hidden: State) -> Any:
    """(outputs, last hidden) with JAX's own derivative: forward mode works."""
    hidden, outputs = _gru_loop(projected, weight, bias, hidden, False)
    return outputs, hidden


gru_scan = jax.custom_vjp(gru_plain)


def _gru_forward(projected: Sequence, weight: Array, bias: Array, hidden: State) -> Any:
    last, (outputs, *gates) = _gru_loop(projected, weight, bias, hidden, True)
    return (outputs, last), (weight, hidden, outputs, *gates)


def _gru_backward(saved: Any, cotangents: Any) -> Any:
    weight, hidden, outputs, *gates = saved
    d_outputs, d_hidden = cotangents
    before = jnp.concatenate([hidden[None], outputs[:-1]])

    def step(d_hidden: Array, now: Any) -> Any:
        d_output, before, r, z, n, q = now
        d_hidden = d_hidden + d_output
        d_n = d_hidden * (1 - z) * (1 - n * n)
        d_r, d_z = d_n * q * r * (1 - r), d_hidden * (before - n) * z * (1 - z)
        d_recurrent = jnp.concatenate([d_r, d_z, d_n * r], -1)
        return d_hidden * z + d_recurrent @ weight, (d_recurrent, d_n)

    first, (d_recurrent, d_n) = jax.lax.scan(step, d_hidden, (d_outputs, before, *gates), reverse=True)
    size = d_n.shape[-1]
    d_bias = jnp.sum(d_recurrent[..., 2 * size :], axis=tuple(range(d_n.ndim - 1)))
    d_projected = jnp.concatenate([d_recurrent[..., : 2 * size], d_n], -1)
    return d_projected, _over_all_times(d_recurrent, hidden, outputs), d_bias, first


gru_scan.defvjp(_gru_forward, _gru_backward)


def _over_all_times(d_gates: Array, first: Array, outputs: Array) -> Array:
    """Σ over times and batch of dgates ⊗ (the state before): one GEMM."""
    before = jnp.concatenate([first[None], outputs[:-1]])
    axes = tuple(range(d_gates.ndim - 1))
    return jnp.tensordot(d_gates, before, axes=(axes, axes))


def run_lstm(cell: eqx.nn.LSTMCell, x: Sequence, state: Any, reverse_only: bool) -> Any:
    """Outputs and the last (hidden, cell) of an `equinox.nn.LSTMCell` over time-major x."""
    projected = x @ cell.weight_ih.T
    if cell.bias is not None:
        projected = projected + cell.bias
    outputs, hidden, memory = (lstm_scan if reverse_only else lstm_plain)(projected, cell.weight_hh, *state)
    return outputs, (hidden, memory)


def run_gru(cell: eqx.nn.GRUCell, x: Sequence, state: Any, reverse_only: bool) -> Any:
    """Outputs and the last hidden state of an `equinox.nn.GRUCell` over time-major x."""
    projected = x @ cell.weight_ih.T
    if cell.bias is not None:
        projected = projected + cell.bias
    bias = jnp.zeros(cell.hidden_size, x.dtype) if cell.bias_n is None else cell.bias_n
    return (gru_scan if reverse_only else gru_plain)(projected, cell.weight_hh, bias, state)
