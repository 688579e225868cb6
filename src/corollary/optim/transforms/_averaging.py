"""Averages of the weights along a run: stochastic weight averaging, Polyak-Ruppert's mean, tails, moving averages.

The steps are left as they are; the average is kept in the state and read by `averaged_params`. With steps that do not
vanish the last iterate hovers at a distance, while the average converges: on least squares with the best asymptotic
covariance H⁻¹ΣH⁻¹/t. Rates: O(1/t) in value for strongly convex problems, O(1/√t) for convex ones.
Batch normalisation's statistics are those of other weights: `refresh_statistics` takes them anew.
Cost: O(n) a step. Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging" (1992), theorem 1;
Izmailov et al., "Averaging weights leads to wider optima and better generalization" (2018), algorithm 1; Rakhlin,
Shamir & Sridharan, "Making gradient descent optimal for strongly convex stochastic optimization" (2012), theorem 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._transform import after, at, check, counter, rule, same_types


class AverageState(NamedTuple):
    """Steps taken, how many iterates the average holds, and the average (float32 or wider)."""

    count: Array
    taken: Array
    average: PyTree


def weight_average(
    kind: str = "mean", *, start: Any = 0, every: int = 1, decay: Any = 0.999
) -> optax.GradientTransformationExtraArgs:
    """Keep an average of the weights beside the run; to be chained LAST, after the learning rate.

    Parameters
    ----------
    kind
        ``"mean"``: arithmetic mean of the iterates taken (Polyak-Ruppert from the start; a tail, or SWA, with `start`
        and `every`); ``"ema"``: a·average + (1 − a)·θ; the first taken iterate starts it, without bias.
    start
        The first step whose result is taken.
    every
        Then one in `every` is: the length of a cycle of the learning rate for SWA.
    decay
        a of ``"ema"``, number or schedule of the count of taken iterates.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Updates pass unchanged; it needs the parameters.

    Raises
    ------
    InputError
        For settings out of range, and a call without parameters.

    Notes
    -----
    Until `start` the average is the last iterate. Memory: one number a parameter, never below float32. Cost: O(n).
    Defaults: mean over all; 0.999 as in `torch.optim.swa_utils`. When: the last part of any run at a constant rate.

    Examples
    --------
    >>> opt, x = optax.chain(optax.sgd(0.5), weight_average()), jnp.array([4.0])
    >>> state = opt.init(x)
    >>> for _ in range(2):
    ...     step, state = opt.update(x, state, x)
    ...     x = x + step
    >>> averaged_params(state, x).tolist()  # of 2 and 1
    [1.5]
    """
    validation.one_of("mean", "ema")("kind", kind)
    check("start", start, 0)
    validation.integer(1)("every", every)
    check("decay", decay, 0.0, 1.0)

    def init(params: PyTree) -> AverageState:
        return AverageState(counter(), counter(), jax.tree.map(jnp.array, params))

    def update(updates: PyTree, state: AverageState, params: PyTree, **_: Any) -> tuple[PyTree, AverageState]:
        new = jax.tree.map(jnp.add, params, updates)
        begun = state.count >= start
        due = begun & ((state.count - jnp.asarray(start).astype(jnp.int32)) % every == 0)
        taken = state.taken + due.astype(jnp.int32)
        if kind == "mean":
            weight = 1 / jnp.maximum(taken, 1).astype(jnp.result_type(*jax.tree.leaves(params)))
        else:
            weight = jnp.where(taken > 1, 1 - jnp.asarray(at(decay, state.taken)), 1.0)
        weight = jnp.where(begun, jnp.where(due, weight, 0), 1)

        # A convex combination: (1 − w)·a + w·θ is exactly θ at w = 1.
        average = jax.tree.map(lambda a, p: (1 - weight) * a + weight * p, state.average, new)
        return updates, AverageState(after(state.count), taken, average)

    return rule(init, update, params=True)


def averaged_params(state: Any, like: PyTree) -> PyTree:
    """The average kept by `weight_average`, from its state or that of a chain, in the precision of `like`.

    Parameters
    ----------
    state
        Optimizer state that holds exactly one average.
    like
        The parameters.

    Returns
    -------
    PyTree
        Like the parameters.

    Raises
    ------
    InputError
        Where no average is kept, or several are.

    Examples
    --------
    >>> x = jnp.ones(2)
    >>> averaged_params(weight_average().init(x), x).tolist()
    [1.0, 1.0]
    """

    def ours(node: Any) -> bool:
        return isinstance(node, AverageState)

    found = [node for node in jax.tree.leaves(state, is_leaf=ours) if ours(node)]
    if len(found) != 1:
        raise InputError(f"state: found {len(found)} averages in it, expected one")
    return same_types(found[0].average, like)


def refresh_statistics(statistics: Callable[[Any], PyTree], batches: Iterable[Any]) -> PyTree:
    """Normalisation statistics of averaged weights: the mean of each batch's over a pass of the data.

    Parameters
    ----------
    statistics
        From a batch to a pytree of that batch's statistics (means and variances of every normalisation layer), computed
        with the averaged weights.
    batches
        Batches of equal size, at least one.

    Returns
    -------
    PyTree
        The plain mean over the batches, as `torch.optim.swa_utils.update_bn` takes it.

    Raises
    ------
    InputError
        For no batches.

    Examples
    --------
    >>> refresh_statistics(lambda b: {"mean": b.mean(0)}, jnp.arange(8.0).reshape(2, 2, 2))["mean"].tolist()
    [3.0, 4.0]
    """
    mean, seen = None, 0
    for batch in batches:
        new, seen = statistics(batch), seen + 1
        mean = new if mean is None else jax.tree.map(lambda m, x, k=seen: m + (x - m) / k, mean, new)
    if mean is None:
        raise InputError("batches: found none, expected at least one")
    return mean
