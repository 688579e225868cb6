"""Batch samplers: which examples a step sees, and with what weights, so that the weighted mean is unbiased.

Four schemes over n examples in batches of B: ``"iid"`` (with replacement), ``"importance"`` (with replacement, with
given probabilities), ``"shuffle"`` (one permutation, cut into batches, the same every epoch) and ``"reshuffle"`` (a new
one each epoch). Cost: O(number of indices), and O(n log n) a permutation.
Source: Bottou, Curtis & Nocedal (2018), section 3; Zhao & Zhang, "Stochastic optimization with importance sampling"
(2015), for the weights.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import as_float, follows_input


@final
class Batches(eqx.Module):
    """Index batches with weights: Σ_j weights[t, j]·g[indices[t, j]] estimates the mean of g without bias.

    Attributes
    ----------
    indices
        (steps, B).
    weights
        (steps, B); 0 where the last batch of an epoch is padded.
    inclusion
        (n,): the expected count of each example in a batch.
    """

    indices: Int[Array, "t B"]
    weights: Float[Array, "t B"]
    inclusion: Float[Array, " n"]


@follows_input
def minibatch_sampler(
    n: int, batch_size: int, scheme: str, key: Key[Array, ""], *, steps: int | None = None, probabilities: Any = None
) -> Batches:
    """Batches of indices with weights for `steps` steps.

    Parameters
    ----------
    n, batch_size
        Examples, and how many a batch; at most n without replacement.
    scheme
        ``"iid"``, ``"importance"``, ``"shuffle"`` or ``"reshuffle"``.
    key
        From `jax.random.key`.
    steps
        How many batches; one epoch, ⌈n/B⌉, if left out. Shuffles start a new epoch every ⌈n/B⌉ steps.
    probabilities
        (n,), for ``"importance"``: positive, of any sum.

    Returns
    -------
    Batches
        Where n is no multiple of B, an epoch's last batch repeats indices at weight 0, and each batch counts as one of
        ⌈n/B⌉: weights are 1/(n/⌈n/B⌉), so that a batch drawn at random is unbiased.

    Raises
    ------
    InputError
        For sizes, schemes or probabilities out of range.

    Examples
    --------
    >>> batches = minibatch_sampler(6, 2, "reshuffle", jax.random.key(0))
    >>> sorted(batches.indices.ravel().tolist()), batches.weights[0].tolist()
    ([0, 1, 2, 3, 4, 5], [0.5, 0.5])
    """
    validation.integer(1)("n", n)
    validation.integer(1)("batch_size", batch_size)
    validation.one_of("iid", "importance", "shuffle", "reshuffle")("scheme", scheme)
    if scheme.endswith("shuffle") and batch_size > n:
        raise InputError(f"batch_size: found {batch_size}, expected at most n = {n} without replacement")
    N = -(-n // batch_size)
    steps = N if steps is None else int(validation.integer(1)("steps", steps))
    if (probabilities is None) == (scheme == "importance"):
        expected = "one per example" if probabilities is None else "None (only importance sampling takes them)"
        raise InputError(f"probabilities: found {'None' if probabilities is None else 'an array'}, expected {expected}")
    if scheme == "importance":
        p = as_float(probabilities)
        if p.shape != (n,):
            raise InputError(f"probabilities: found shape {p.shape}, expected ({n},)")
        if not isinstance(p, Tracer) and not bool(np.all(np.isfinite(p) & (np.asarray(p) > 0))):
            raise InputError("probabilities: found an entry that is not positive and finite, expected all > 0")
        p = p / jnp.max(p)
        p = p / jnp.sum(p)
        indices = jax.random.categorical(key, jnp.log(p), shape=(steps, batch_size)).astype(jnp.int32)
        return Batches(indices, 1 / (batch_size * n * p[indices]), batch_size * p)
    one = jnp.ones(())
    if scheme == "iid":
        indices = jax.random.randint(key, (steps, batch_size), 0, n)
        return Batches(indices, one * jnp.full((steps, batch_size), 1 / batch_size), jnp.full((n,), batch_size / n))
    epochs = -(-steps // N)
    keys = jax.random.split(key, epochs if scheme == "reshuffle" else 1)
    orders = jax.vmap(lambda k: jax.random.permutation(k, n))(keys)
    orders = jnp.broadcast_to(orders, (epochs, n))
    padded = jnp.concatenate([orders, orders[:, : N * batch_size - n]], axis=1).reshape(-1, batch_size)[:steps]
    counts = (jnp.arange(N * batch_size) < n).reshape(N, batch_size)
    weights = jnp.tile(jnp.where(counts, N / n, 0.0), (epochs, 1))[:steps]
    return Batches(padded.astype(jnp.int32), weights, jnp.full((n,), 1 / N))
