"""TextCNN: filters of several widths over token embeddings, each pooled by its maximum over time.

A filter of width k is a detector of k-grams, wherever they stand: a strong and cheap baseline for classifying short
texts. Cost O(batch·length·E·filters·Σ widths). Source: Kim, "Convolutional neural networks for sentence classification"
(2014), section 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv import Conv
from corollary.nn._dropout import dropout


@final
class TextCNN(eqx.Module):
    """TextCNN on token embeddings (batch, length, features): ``logits = net(x, lengths)``.

    Parameters
    ----------
    features
        Length of a token's embedding.
    classes
        Number of outputs.
    widths
        Widths of the filters in tokens.
    filters
        Number of filters of each width.
    dropout
        Rate before the last layer; needs a key, or ``inference=True``.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> TextCNN(5, 2, filters=4, key=jax.random.key(0))(jnp.zeros((3, 9, 5)), inference=True).shape
    (3, 2)
    """

    convs: tuple[Conv, ...]
    head: eqx.nn.Linear
    drop: eqx.nn.Dropout

    def __init__(
        self,
        features: int,
        classes: int,
        *,
        widths: Sequence[int] = (3, 4, 5),
        filters: int = 100,
        dropout: float = 0.5,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.integer(1)("classes", classes)
        validation.number(0, 1)("dropout", dropout)
        if not widths:
            raise InputError("widths: found none, expected at least one")
        keys = jax.random.split(key, len(widths) + 1)
        self.convs = tuple(
            Conv(features, filters, w, dims=1, padding="VALID", dtype=dtype, key=k)
            for w, k in zip(widths, keys, strict=False)
        )
        self.head = eqx.nn.Linear(filters * len(widths), classes, dtype=dtype, key=keys[-1])
        self.drop = eqx.nn.Dropout(dropout)

    def features(
        self, x: Float[Array, "batch length features"], lengths: Int[Array, " batch"] | None = None
    ) -> Float[Array, "batch filters"]:
        """The maxima of all filters over the windows that lie inside each text.

        Tokens past `lengths` are read as zeros and no window that starts later than the last full one counts, so that
        padding changes nothing; a text shorter than a filter has one window.
        """
        n = jnp.full(x.shape[0], x.shape[1]) if lengths is None else lengths
        x = jnp.where(jnp.arange(x.shape[1])[None, :, None] < n[:, None, None], x, 0)
        out = []
        for conv in self.convs:
            k = conv.kernel.shape[0]
            wide = jnp.pad(x, ((0, 0), (0, max(k - x.shape[1], 0)), (0, 0)))
            h = jax.nn.relu(conv(wide))
            inside = jnp.arange(h.shape[1])[None] <= jnp.maximum(n - k, 0)[:, None]
            out.append(jnp.max(jnp.where(inside[:, :, None], h, 0), axis=1))  # relu(·) ≥ 0
        return jnp.concatenate(out, axis=-1)

    def __call__(
        self,
        x: Float[Array, "batch length features"],
        lengths: Int[Array, " batch"] | None = None,
        *,
        key: Key[Array, ""] | None = None,
        inference: bool = False,
    ) -> Float[Array, "batch classes"]:
        """Logits; dropout needs a `key`, or ``inference=True``."""
        h = dropout(self.drop, self.features(x, lengths), key, inference)
        return jax.vmap(self.head)(h)
