"""Recurrent layers over whole sequences: one or two directions, any depth, any cell.

When: time series and text of moderate length on few parameters; state is all that is kept between steps, so memory at
inference does not grow with length. `LSTM` first, `GRU` where a quarter fewer weights count, `RNN` with another cell
else. O(length·hidden·(hidden + input)) per layer and direction, sequential in length.

Sources: Elman (1990); Schuster & Paliwal, "Bidirectional recurrent neural networks" (1997); Graves (2013) for stacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._dropout import dropout
from corollary.nn._elman import ElmanCell
from corollary.nn._lstm import run_gru, run_lstm

CELLS: dict[str, Callable[..., Any]] = {"elman": ElmanCell, "lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}


@final
class RNN(eqx.Module):
    """A stack of recurrent layers over a sequence, one-directional or bidirectional.

    Layer l + 1 reads the outputs of layer l; of two directions these are concatenated, forward half first. A batch may
    stand before the time axis: that is one GEMM per step for the whole batch, forward and backward, and faster than
    `jax.vmap` over single sequences (whose backward forms the weights' gradient per example).

    Parameters
    ----------
    input_size, hidden_size
        Features of x and of each direction's state.
    depth
        Number of layers.
    cell
        ``"lstm"``, ``"gru"``, ``"elman"``, or a factory ``(input_size, hidden_size, *, key) -> cell`` of cells with
        ``cell(x_t, state) -> state`` (the output is the state, or the first of a tuple). A cell may define
        ``initial()`` (its zero state; zeros of `hidden_size` without) and ``ready()`` (itself with all that does not
        change over time computed once).
    bidirectional
        Add a second cell per layer that reads from the end.
    dropout
        Rate between layers, as in PyTorch; above 0 a call needs a ``key``, or ``inference=True``.
    reverse_only
        LSTM and GRU: a hand-written derivative, for reverse mode and forward over reverse; False allows `jax.jvp`.
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes or a depth below one, an unknown cell, a rate outside [0, 1].

    Source
    ------
    Schuster & Paliwal (1997); Graves, "Generating sequences with recurrent neural networks" (2013), eq. 1-4.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> net = RNN(3, 4, depth=2, cell="gru", bidirectional=True, key=jax.random.key(0))
    >>> outputs, states = net(jnp.ones((10, 3)))
    >>> outputs.shape, states[1][0].shape
    ((10, 8), (4,))
    """

    cells: tuple[tuple[Any, ...], ...]
    dropout: eqx.nn.Dropout
    hidden_size: int = eqx.field(static=True)
    reverse_only: bool = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        depth: int = 1,
        *,
        cell: str | Callable[..., Any] = "elman",
        bidirectional: bool = False,
        dropout: float = 0.0,
        reverse_only: bool = True,
        key: Any,
    ):
        validation.integer()("input_size", input_size)
        validation.integer()("hidden_size", hidden_size)
        validation.integer()("depth", depth)
        validation.number(0, 1)("dropout", dropout)
        directions = 1 + validation.flag("bidirectional", bidirectional)
        if isinstance(cell, str):
            validation.one_of(*CELLS)("cell", cell)
        make = CELLS[cell] if isinstance(cell, str) else cell
        keys = iter(jax.random.split(key, depth * directions))
        sizes = [input_size] + [directions * hidden_size] * (depth - 1)
        self.cells = tuple(tuple(make(n, hidden_size, key=next(keys)) for _ in range(directions)) for n in sizes)
        self.dropout = eqx.nn.Dropout(dropout)
        self.hidden_size = hidden_size
        self.reverse_only = reverse_only

    @property
    def output_size(self) -> int:
        """Features of the outputs: the hidden size times the directions."""
        return self.hidden_size * len(self.cells[0])

    def __call__(
        self, x: Float[Array, "..."], state: Any = None, *, key: Any = None, inference: bool = False
    ) -> tuple[Inexact[Array, "..."], Any]:
        """Outputs of the last layer, and the last state of each cell, a tuple by layer of tuples by direction.

        Parameters
        ----------
        x
            (..., length, features).
        state
            Like the states returned; zeros where left out.
        key
            For dropout, which refuses to act without it.
        inference
            Switch dropout off.
        """
        if x.ndim < 2 or x.shape[-2] == 0:
            raise InputError(f"x: found shape {x.shape}, expected (..., length >= 1, features)")
        features = getattr(self.cells[0][0], "input_size", None)
        if features is not None and x.shape[-1] != features:
            raise InputError(f"x: found {x.shape[-1]} features, expected {features}")
        keys = [None] * len(self.cells) if key is None else jax.random.split(key, len(self.cells))
        x, states = jnp.moveaxis(x, -2, 0), []
        for layer, cells in enumerate(self.cells):
            if layer:
                x = dropout(self.dropout, x, keys[layer], inference)
            starts = (None,) * len(cells) if state is None else state[layer]
            runs = [
                _run(cell, x if d == 0 else x[::-1], start, self.reverse_only)
                for d, (cell, start) in enumerate(zip(cells, starts, strict=True))
            ]
            outputs = [out if d == 0 else out[::-1] for d, (out, _) in enumerate(runs)]
            x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, -1)
            states.append(tuple(last for _, last in runs))
        return jnp.moveaxis(x, 0, -2), tuple(states)


def LSTM(input_size: int, hidden_size: int, depth: int = 1, *, key: Any, **options: Any) -> RNN:
    """A stack of LSTM layers: `RNN` with ``cell="lstm"``, Equinox's `LSTMCell` (torch's with one bias).

    When: the default for long or noisy dependencies. O(4·length·hidden·(hidden + input)) per layer.

    Parameters
    ----------
    input_size, hidden_size, depth, key
        As in `RNN`; `options` are its others.

    Returns
    -------
    RNN
        Its states are pairs (hidden, cell).

    Source
    ------
    Hochreiter & Schmidhuber, "Long short-term memory" (1997); Gers, Schmidhuber & Cummins (2000), the forget gate.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> outputs, states = LSTM(3, 4, key=jax.random.key(0))(jnp.ones((2, 10, 3)))
    >>> outputs.shape, states[0][0][1].shape
    ((2, 10, 4), (2, 4))
    """
    return RNN(input_size, hidden_size, depth, cell="lstm", key=key, **options)


def GRU(input_size: int, hidden_size: int, depth: int = 1, *, key: Any, **options: Any) -> RNN:
    """A stack of GRU layers: `RNN` with ``cell="gru"``, Equinox's `GRUCell`.

    When: as the LSTM with a quarter fewer weights. O(3·length·hidden·(hidden + input)) per layer.

    Parameters
    ----------
    input_size, hidden_size, depth, key
        As in `RNN`; `options` are its others.

    Returns
    -------
    RNN
        Its states are the hidden vectors.

    Source
    ------
    Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014), eq. 5-8, the reset gate after the
    product.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> GRU(3, 4, depth=2, key=jax.random.key(0))(jnp.ones((10, 3)))[0].shape
    (10, 4)
    """
    return RNN(input_size, hidden_size, depth, cell="gru", key=key, **options)


def _run(cell: Any, x: Array, state: Any, reverse_only: bool) -> tuple[Array, Any]:
    """One cell over a time-major sequence."""
    if hasattr(cell, "ready"):
        cell = cell.ready()
    if state is None:
        state = _start(cell, x)
    if isinstance(cell, eqx.nn.LSTMCell):
        return run_lstm(cell, x, state, reverse_only)
    if isinstance(cell, eqx.nn.GRUCell):
        return run_gru(cell, x, state, reverse_only)
    if hasattr(cell, "project"):
        x, step = cell.project(x), cell.advance
    else:
        step = cell
        for _ in range(x.ndim - 2):
            step = jax.vmap(step)

    def body(state: Any, now: Array) -> Any:
        state = step(now, state)
        return state, (state[0] if isinstance(state, tuple) else state)

    last, outputs = jax.lax.scan(body, state, x)
    return outputs, last


def _start(cell: Any, x: Array) -> Any:
    """The zero state, for every sequence of the batch."""
    if hasattr(cell, "initial"):
        return jax.tree.map(lambda s: jnp.broadcast_to(s, (*x.shape[1:-1], *s.shape)), cell.initial())
    zeros = jnp.zeros((*x.shape[1:-1], cell.hidden_size), jnp.result_type(x))
    return (zeros, zeros) if isinstance(cell, eqx.nn.LSTMCell) else zeros
