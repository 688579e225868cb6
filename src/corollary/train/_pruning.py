"""Pruning by magnitude or saliency: masks with an exact share of zeros, entry by entry or in whole structures.

The smallest scores go: |w| (magnitude), or ½h w² with a diagonal Hessian h, which is what the loss rises by to second
order when w is set to zero (optimal brain damage). Structures score by their sum: rows (output units), columns
(inputs), or n of every m consecutive entries. Ties are broken by position, so that the share is exact.

Cost: a selection on the host, O(n); a sort, O(n log n), in compiled code. Source: Han et al., "Learning both weights
and connections for efficient neural networks" (2015); LeCun, Denker & Solla, "Optimal brain damage" (1990), equation 3;
Mishra et al., "Accelerating sparse deep neural networks" (2021) (2:4).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Solution
from corollary.optim._tree import at_least_zero, finite


@follows_input
def prune(
    params: PyTree,
    sparsity: float,
    *,
    structure: str = "entry",
    scope: str = "leaf",
    hessian: PyTree | None = None,
    pattern: tuple[int, int] = (2, 4),
) -> Solution:
    """Set the least important weights to zero.

    Use it after training, with some further training under `keep_pruned`. Whole structures are dropped from weights
    only; entry by entry every array is pruned, biases too: leave out of `params` what should stay.

    Parameters
    ----------
    params
        Pytree of arrays; weights are (out, in, ...).
    sparsity
        Share of entries (or rows, columns) to drop, in [0, 1): ⌊sparsity·n⌋ of n, exactly. Ignored by ``"n:m"``.
    structure
        ``"entry"``; ``"row"``: whole output units (axis 0); ``"column"``: whole inputs (axis 1); ``"n:m"``: within
        every m consecutive entries of the last axis, n are dropped.
    scope
        ``"leaf"``: the share holds in every array; ``"global"``: over all of them (entries only).
    hessian
        The diagonal of the Hessian, a pytree like `params` of numbers >= 0: scores are then ½h w².
    pattern
        (n, m) of ``"n:m"``.

    Returns
    -------
    `Solution` whose value is ``(pruned, masks)``, boolean masks in the same tree; ``stats["sparsity"]`` the share of
    zeros in the masks.

    Certificates: ``loss_rise`` (estimate: Σ½h w² over the dropped entries) where `hessian` is given; ``dropped``
    (exact: no dropped score exceeds a kept one of the same group) for entries.

    Raises
    ------
    InputError
        For settings out of range, an axis that m does not divide, or a Hessian of another structure or below 0.

    Source: Han et al. (2015), §3; LeCun et al. (1990), equation 3.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> prune(jnp.array([[1.0, -3.0], [0.5, 2.0]]), 0.5).value[0].tolist()
    [[0.0, -3.0], [0.0, 2.0]]
    """
    params = finite("params", params)
    validation.number(0, 1)("sparsity", sparsity)
    if sparsity == 1:
        raise InputError("sparsity: found 1, expected a number below 1")
    validation.one_of("entry", "row", "column", "n:m")("structure", structure)
    validation.one_of("leaf", "global")("scope", scope)
    if scope == "global" and structure != "entry":
        raise InputError(f"scope: found 'global' with structure {structure!r}, expected structure 'entry'")
    if hessian is None:
        scores = jax.tree.map(jnp.abs, params)
    else:
        hessian = finite("hessian", hessian)
        if jax.tree.structure(hessian) != jax.tree.structure(params):
            raise InputError("hessian: found another structure, expected one number per parameter")
        shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (hessian, params)]
        if shapes[0] != shapes[1]:
            raise InputError(f"hessian: found shapes {shapes[0]}, expected {shapes[1]} as in params")
        at_least_zero("hessian", hessian)
        scores = jax.tree.map(lambda h, w: h * jnp.square(w) / 2, hessian, params)
    leaves, tree = jax.tree.flatten(scores)
    if scope == "global":
        # Relative to each other the scores keep their scale; a common sort needs one dtype.
        wide = jnp.dtype(functools.reduce(np.promote_types, [leaf.dtype for leaf in leaves]))
        leaves = [leaf.astype(wide) for leaf in leaves]
        flat = jnp.concatenate([leaf.ravel() for leaf in leaves])
        keep = _keep(flat, int(sparsity * flat.size + 1e-9))
        cuts = [sum(leaf.size for leaf in leaves[: k + 1]) for k in range(len(leaves) - 1)]
        masks = [part.reshape(leaf.shape) for part, leaf in zip(jnp.split(keep, cuts), leaves, strict=True)]
    else:
        masks = [_mask(leaf, sparsity, structure, pattern) for leaf in leaves]
    size = sum(mask.size for mask in masks)
    zeros = jnp.stack([jnp.sum(~mask) for mask in masks]).sum()
    certificates = {}
    if structure == "entry":
        pairs = list(zip(leaves, masks, strict=True))
        if scope == "global":
            pairs = [(jnp.concatenate([a.ravel() for a, _ in pairs]), jnp.concatenate([m.ravel() for _, m in pairs]))]
        certificates["dropped"] = Certificate(
            "largest dropped score − smallest kept score <= 0",
            measured=jnp.stack(
                [
                    jnp.max(jnp.where(m, -jnp.inf, s), initial=-jnp.inf)
                    - jnp.min(jnp.where(m, s, jnp.inf), initial=jnp.inf)
                    for s, m in pairs
                ]
            ).max(),
            bound=0.0,
            kind="exact",
            source="by sorting",
        )
    if hessian is not None:
        certificates["loss_rise"] = Certificate(
            "rise of the loss to second order",
            measured=jnp.stack([jnp.sum(jnp.where(m, 0, s)) for s, m in zip(leaves, masks, strict=True)]).sum(),
            kind="estimate",
            source="LeCun, Denker & Solla (1990), equation 3",
        )
    kept = jax.tree.unflatten(tree, masks)
    pruned = jax.tree.map(lambda w, m: jnp.where(m, w, 0), params, kept)
    return Solution((pruned, kept), certificates, stats={"sparsity": zeros / size})


def keep_pruned(masks: PyTree) -> optax.GradientTransformation:
    """Zero the updates of pruned weights; chain it last, so that they stay zero whatever the optimizer does.

    Memory: the masks. Cost: one product per parameter and step.

    Parameters
    ----------
    masks
        From `prune`.

    Returns
    -------
    optax.GradientTransformation
        No certificate: an update of 0 leaves a 0.

    Examples
    --------
    >>> import jax.numpy as jnp, optax
    >>> opt = optax.chain(optax.sgd(0.1, momentum=0.9), keep_pruned(jnp.array([True, False])))
    >>> w = jnp.array([1.0, 0.0])
    >>> float(opt.update(jnp.ones(2), opt.init(w), w)[0][1])
    0.0
    """
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u, m: jnp.where(m, u, 0), updates, masks))


def _keep(scores: Array, drop: int) -> Array:
    """All but the `drop` smallest along the last axis; ties go by position."""
    if drop == 0:
        return jnp.ones(scores.shape, bool)
    host = on_host(scores)
    xp = np if host else jnp
    # On the host a selection is ten times faster than the sort of a compiled program.
    s = xp.asarray(scores)
    level = (np.partition(s, drop, axis=-1) if host else jnp.sort(s, axis=-1))[..., drop : drop + 1]
    above, tie = s > level, s == level
    too_many = s.shape[-1] - drop - above.sum(-1, keepdims=True)
    late = xp.cumsum(tie, axis=-1) > tie.sum(-1, keepdims=True) - too_many
    return jnp.asarray(above | (tie & late))


def _mask(scores: Array, sparsity: float, structure: str, pattern: tuple[int, int]) -> Array:
    if structure == "entry":
        drop = int(sparsity * scores.size + 1e-9)
        return _keep(scores.ravel(), drop).reshape(scores.shape)
    if scores.ndim < 2:
        return jnp.ones(scores.shape, bool)
    if structure == "n:m":
        n, m = pattern
        if not 0 <= n < m or scores.shape[-1] % m:
            raise InputError(f"pattern: found {pattern} for an axis of {scores.shape[-1]}, expected n < m dividing it")
        return _keep(scores.reshape(*scores.shape[:-1], -1, m), n).reshape(scores.shape)
    axis = 0 if structure == "row" else 1
    others = tuple(k for k in range(scores.ndim) if k != axis)
    lead = scores / jnp.maximum(jnp.max(scores), jnp.finfo(scores.dtype).tiny)  # a sum that does not overflow
    totals = jnp.sum(lead, axis=others)
    keep = _keep(totals, int(sparsity * totals.size + 1e-9))
    return jnp.broadcast_to(jnp.expand_dims(keep, others), scores.shape)
