"""Sequence models: a recurrent stack with a head, for classes, for forecasts, or for an output at every step.

When: classify a sequence by what it says last or on average, or continue a series by its next values.
O(length·hidden·(hidden + input)) per layer. Source: Elman (1990), outputs ψ(W z_t); Graves (2013) for stacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.nn._dropout import dropout
from corollary.nn._rnn import RNN


def _identity(x: Any) -> Any:
    return x


@final
class RecurrentNetwork(eqx.Module):
    """A recurrent stack and a linear head: ψ(W z + b) of the last state, of the mean output, or of every output.

    Parameters
    ----------
    input_size, hidden_size, output_size
        Features of x, of each direction's state, of the answer (classes, for a classifier).
    depth, cell, bidirectional, dropout
        As in `RNN`; dropout also stands before the head.
    pool
        ``"last"``: the last state of each direction; ``"mean"``: of the outputs over time; ``"each"``: all times.
    final_activation
        ψ; none by default, so that classes get logits.
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes below one or an unknown setting.

    Source
    ------
    Elman (1990), figure 2.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> net = RecurrentNetwork(3, 8, 5, cell="lstm", key=jax.random.key(0))
    >>> net(jnp.ones((10, 3))).shape, net(jnp.ones((2, 10, 3))).shape
    ((5,), (2, 5))
    """

    rnn: RNN
    head: eqx.nn.Linear
    pool: str = eqx.field(static=True)
    final_activation: Callable[..., Any] = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        depth: int = 1,
        *,
        cell: str | Callable[..., Any] = "lstm",
        bidirectional: bool = False,
        dropout: float = 0.0,
        pool: str = "last",
        final_activation: Callable[..., Any] = _identity,
        key: Any,
    ):
        validation.integer()("output_size", output_size)
        self.pool = validation.one_of("last", "mean", "each")("pool", pool)
        body, head = jax.random.split(key)
        self.rnn = RNN(
            input_size, hidden_size, depth, cell=cell, bidirectional=bidirectional, dropout=dropout, key=body
        )
        self.head = eqx.nn.Linear(self.rnn.output_size, output_size, key=head)
        self.final_activation = final_activation

    def __call__(self, x: Float[Array, "... t f"], *, key: Any = None, inference: bool = False) -> Float[Array, "..."]:
        """(..., length, features) to (..., output_size), or (..., length, output_size) with ``pool="each"``."""
        body, head = (None, None) if key is None else jax.random.split(key)
        outputs, states = self.rnn(x, key=body, inference=inference)
        if self.pool == "last":
            last = [s[0] if isinstance(s, tuple) else s for s in states[-1]]
            outputs = jnp.concatenate(last, -1)
        elif self.pool == "mean":
            outputs = jnp.mean(outputs, -2)
        outputs = dropout(self.rnn.dropout, outputs, head, inference)
        assert self.head.bias is not None
        return self.final_activation(outputs @ self.head.weight.T + self.head.bias)


@final
class RecurrentForecaster(eqx.Module):
    """The next `horizon` values of a series, all at once from the last state, as changes from the last value seen.

    Parameters
    ----------
    features
        Of the series.
    hidden_size, horizon
        State's length; steps ahead.
    depth, cell, dropout
        As in `RNN`.
    key
        From `jax.random.key`.

    Raises
    ------
    InputError
        For sizes below one or an unknown setting.

    Source
    ------
    Direct multi-step forecasts: Ben Taieb et al., "A review and comparison of strategies for multi-step ahead time
    series forecasting" (2012), §2.2. Predicting changes makes the untrained net near the persistence forecast.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> RecurrentForecaster(2, 8, horizon=4, key=jax.random.key(0))(jnp.ones((10, 2))).shape
    (4, 2)
    """

    network: RecurrentNetwork
    features: int = eqx.field(static=True)
    horizon: int = eqx.field(static=True)

    def __init__(
        self,
        features: int,
        hidden_size: int,
        horizon: int = 1,
        depth: int = 1,
        *,
        cell: str | Callable[..., Any] = "lstm",
        dropout: float = 0.0,
        key: Any,
    ):
        self.features = validation.integer()("features", features)
        self.horizon = validation.integer()("horizon", horizon)
        size = horizon * features
        self.network = RecurrentNetwork(features, hidden_size, size, depth, cell=cell, dropout=dropout, key=key)

    def __call__(
        self, x: Float[Array, "... t f"], *, key: Any = None, inference: bool = False
    ) -> Float[Array, "... horizon f"]:
        """(..., length, features) to (..., horizon, features)."""
        changes = self.network(x, key=key, inference=inference)
        return x[..., -1:, :] + changes.reshape(*x.shape[:-2], self.horizon, self.features)
