"""The empirical Fisher matrix (1/n) Σ gᵢgᵢᵀ of the per-example gradients at the observed labels.

It is not the Fisher information: that takes labels drawn from the model. The two agree only where the model is right
and θ is its optimum (and n large); elsewhere the empirical one can precondition badly, growing where gradients are
large rather than where curvature is. Take `fisher_information` or `ggn_operator` for natural gradients; this one is
the second moment of the gradient noise. Cost of a product: one JVP and one VJP; no per-example gradient is ever formed.
Source: Kunstner, Balles & Hennig, "Limitations of the empirical Fisher approximation" (2019), section 3.
"""

from __future__ import annotations

from typing import Any

import jax
import lineax as lx
from jaxtyping import PyTree

from corollary.core.precision import as_float
from corollary.optim.curvature._ggn import Loss, Model, Slopes, examples, outer


def empirical_fisher(model: Model, params: PyTree, loss: Loss, *data: Any) -> lx.FunctionLinearOperator:
    """(1/n) Σ gᵢgᵢᵀ with gᵢ = ∇loss(model(params, xᵢ), yᵢ), as a `lineax` operator (not centred).

    Use it for gradient noise. As a curvature it is right only at the optimum of a well-specified likelihood.

    Parameters
    ----------
    model
        ``model(params, x)``: the output for one example.
    params
        Any pytree of floating arrays.
    loss
        ``loss(output, *targets)``: a scalar for one example, differentiable.
    *data
        Inputs, then observed targets, with the examples along their leading axes.

    Returns
    -------
    lineax.FunctionLinearOperator
        v ↦ (1/n) Σ gᵢ⟨gᵢ, v⟩, tagged positive semidefinite.

    Raises
    ------
    InputError
        For data without examples, or of different lengths.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> X, y = jnp.ones((2, 1)), jnp.array([1.0, 3.0])
    >>> E = empirical_fisher(lambda w, x: x @ w, jnp.zeros(1), lambda z, y: (z - y) ** 2 / 2, X, y)
    >>> E.as_matrix().tolist()
    [[5.0]]
    """
    params, (inputs, *targets) = jax.tree.map(as_float, params), examples(*data)

    def observed(z: PyTree) -> Slopes:
        u = jax.vmap(jax.grad(loss))(z, *targets)
        return Slopes(jax.tree.map(lambda a: a[None], u))

    return outer(model, params, inputs, observed)
