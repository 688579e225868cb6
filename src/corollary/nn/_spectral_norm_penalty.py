"""Penalties on the spectrum of weights and on logits.

`spectral_norm_penalty`: (λ/2)Σ_l σ_max(W_l)², whose gradient λσ u vᵀ shrinks the largest singular value only; for nets
that should be insensitive to input perturbations. `spectral_decoupling`: (λ/2)‖logits‖², against gradient starvation,
where one feature that explains the labels stops the learning of the others; no power method despite the name.
Sources: Yoshida & Miyato, "Spectral norm regularization" (2017), eq. 4; Pezeshki et al., "Gradient starvation" (2021),
eq. 15.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from corollary.core.errors import InputError
from corollary.nn._conv import Conv
from corollary.optim._tree import at_least_zero


def spectral_norm_penalty(weights: PyTree, strength: Any = 1.0) -> Float[Array, ""]:
    """(λ/2)Σσ_max(W)² over the matrices of a pytree, with gradient λσ u vᵀ. One SVD per matrix: O(m n min(m, n)).

    When: robustness to input perturbations; weight decay shrinks every singular value, this one the largest only.

    Parameters
    ----------
    weights
        A pytree (a module will do); the kernel of a `Conv` is flattened to (window·in, out), other leaves of more than
        two axes to (first, rest); vectors and what is no floating array are left out.
    strength
        λ ≥ 0.

    Returns
    -------
    scalar

    Raises
    ------
    InputError
        For a negative strength, or where there is no matrix.

    Source
    ------
    Yoshida & Miyato (2017), eq. 4.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> jax.grad(spectral_norm_penalty)(jnp.diag(jnp.array([3.0, 1.0]))).tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """
    at_least_zero("strength", strength)
    leaves = jax.tree.leaves(weights, is_leaf=lambda node: isinstance(node, Conv))
    matrices = [_matrix(w.kernel, True) if isinstance(w, Conv) else _matrix(w) for w in leaves]
    matrices = [w for w in matrices if w is not None]
    if not matrices:
        raise InputError("weights: found no floating matrix in it, expected at least one")
    # The derivative of singular values has no gaps in it: finite where the largest is repeated, too.
    squares = [jnp.linalg.svd(w, compute_uv=False)[0] ** 2 for w in matrices]
    return jnp.asarray(strength, squares[0].dtype) / 2 * jnp.sum(jnp.stack(squares))


def spectral_decoupling(logits: Float[Array, "..."], strength: Any = 0.1) -> Float[Array, ""]:
    """(λ/2)‖logits‖² of one example, to be added to its loss; the gradient is λ·logits. O(classes).

    When: cross-entropy leans on one feature alone. Every logit then has the same finite goal, so that features go on
    being learnt until all examples reach it; features that no example tells apart keep their proportion.
    Over a batch, take the mean: ``jax.vmap(spectral_decoupling)(logits).mean()``.

    Parameters
    ----------
    logits
        Of one example (its classes, or a scalar).
    strength
        λ ≥ 0.

    Raises
    ------
    InputError
        For a negative strength.

    Source
    ------
    Pezeshki et al. (2021), eq. 15.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> jax.grad(spectral_decoupling)(jnp.array([2.0, -4.0]), 0.5).tolist()
    [1.0, -2.0]
    """
    at_least_zero("strength", strength)
    return jnp.asarray(strength, logits.dtype) / 2 * jnp.sum(logits**2)


def _matrix(leaf: Any, last: bool = False) -> Any:
    """A leaf as a matrix, with its first (or last) axis kept; None where it is none."""
    if not (isinstance(leaf, jax.Array | np.ndarray) and leaf.ndim >= 2 and jnp.issubdtype(leaf.dtype, jnp.floating)):
        return None
    return jnp.asarray(leaf).reshape((-1, leaf.shape[-1]) if last else (leaf.shape[0], -1))
