"""The generalised Gauss-Newton operator G = (1/n) Σ JᵢᵀHᵢJᵢ of a mean of convex losses of a model's outputs.

Jᵢ is the Jacobian of the model's output at example i, Hᵢ the Hessian of the loss in that output. G is the Hessian of
the loss with the model linearised: positive semidefinite where the loss is convex, the Hessian itself where the model
is linear or fits exactly, the Fisher matrix where the loss is minus the log of a density in its natural parameters.
Cost: one forward pass to build; a product is one JVP and one VJP of the model. Source: Schraudolph, Neural
Computation 14 (2002) 1723-1738; Martens, "New insights and perspectives on the natural gradient method", JMLR 21
(2020), section 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.core.precision import as_float
from corollary.optim._tree import at_least_zero, like
from corollary.optim.penalties._base import Scalar

Model = Callable[[Any, Any], Any]
Loss = Callable[..., Any]


def ggn_operator(model: Model, params: PyTree, loss: Loss, *data: Any) -> lx.FunctionLinearOperator:
    """The generalised Gauss-Newton matrix of (1/n) Σ loss(model(params, xᵢ), yᵢ), as a `lineax` operator.

    Use it where the Hessian is wanted but must not be indefinite: conjugate gradients, natural gradients, sharpness.
    Add a damping by `damped`. Cost of a product: one JVP and one VJP. Works under `jit` and `vmap`.

    Parameters
    ----------
    model
        ``model(params, x)``: the output (array or pytree) for one example.
    params
        Any pytree of floating arrays.
    loss
        ``loss(output, *targets)``: a scalar, convex and twice differentiable in the output of one example; a member of
        `OutputDistribution` is one.
    *data
        Inputs, then targets, each an array or pytree with the n examples along its leading axis.

    Returns
    -------
    lineax.FunctionLinearOperator
        v ↦ G v on pytrees of the structure of `params`, tagged positive semidefinite. ``as_matrix()`` is the dense one.

    Raises
    ------
    InputError
        For data without examples, or of different lengths.

    Examples
    --------
    >>> X, y = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 1.0])
    >>> G = ggn_operator(lambda w, x: x @ w, jnp.zeros(2), lambda z, y: (z - y) ** 2 / 2, X, y)
    >>> G.mv(jnp.array([1.0, 1.0])).tolist()
    [0.5, 2.0]
    """
    params, (inputs, *targets) = jax.tree.map(as_float, params), examples(*data)

    def through(z: PyTree) -> Callable[[PyTree], PyTree]:
        slope = lambda z: jax.vmap(jax.grad(loss))(z, *targets)  # noqa: E731
        return jax.linearize(slope, z)[1]

    return outer(model, params, inputs, through)


def damped(operator: lx.AbstractLinearOperator, damping: Any) -> lx.AbstractLinearOperator:
    """C + λI for λ ≥ 0, still tagged positive semidefinite where C is (a plain sum loses the tag).

    Raises
    ------
    InputError
        For a negative damping.

    Examples
    --------
    >>> C = damped(lx.IdentityLinearOperator(jax.eval_shape(lambda: jnp.zeros(2))), 0.5)
    >>> C.mv(jnp.ones(2)).tolist(), lx.is_positive_semidefinite(C)
    ([1.5, 1.5], True)
    """
    at_least_zero("damping", damping)
    structure = operator.in_structure()
    damping = jnp.asarray(damping).astype(jax.tree.leaves(structure)[0].dtype)
    total = operator + damping * lx.IdentityLinearOperator(structure)
    semidefinite = lx.is_positive_semidefinite(operator)
    return lx.TaggedLinearOperator(total, lx.positive_semidefinite_tag) if semidefinite else total


def examples(*data: Any) -> tuple[Any, ...]:
    """The data as JAX arrays (integers stay so), refused where their leading axes differ."""
    if not data:
        raise InputError("data: found nothing, expected inputs and targets with the examples along the leading axis")
    data = jax.tree.map(lambda a: a if isinstance(a, jax.Array) else jnp.asarray(np.asarray(a)), data)
    leaves = jax.tree.leaves(data)
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(lengths) != 1 or 0 in lengths:
        found = sorted({leaf.shape for leaf in leaves})
        raise InputError(f"data: found shapes {found}, expected one number of examples along every leading axis")
    return data


def outer(
    model: Model, params: PyTree, inputs: PyTree, through: Callable[[PyTree], Callable[[PyTree], PyTree]]
) -> lx.FunctionLinearOperator:
    """v ↦ (1/n) Σ JᵢᵀBᵢJᵢv, where ``through(outputs)`` maps the Jᵢv to the BᵢJᵢv, Bᵢ positive semidefinite."""
    z, push = jax.linearize(lambda p: jax.vmap(model, (None, 0))(p, inputs), params)
    middle = through(z)
    pull = jax.linear_transpose(push, params)
    n = count(inputs)

    def product(v: PyTree) -> PyTree:
        (back,) = pull(middle(push(v)))
        return optax.tree.scale(like(1 / n, back), back)

    return lx.FunctionLinearOperator(product, jax.eval_shape(lambda: params), lx.positive_semidefinite_tag)


def dot(a: PyTree, b: PyTree) -> Scalar:
    """⟨a, b⟩."""
    return jnp.asarray(optax.tree.vdot(a, b))


def count(inputs: PyTree) -> int:
    """How many examples."""
    return jax.tree.leaves(inputs)[0].shape[0]


class Slopes(eqx.Module):
    """v ↦ (1/s) Σ_k ⟨u_ik, v_i⟩ u_ik for output gradients u (s, n, ...): a middle of rank s an example."""

    u: PyTree

    def __call__(self, v: PyTree) -> PyTree:
        """Σ over the samples and outputs of one example."""

        def one(u: PyTree, v: PyTree) -> PyTree:
            return optax.tree.scale(dot(u, v), u)

        products = jax.vmap(jax.vmap(one), (0, None))(self.u, v)
        return jax.tree.map(lambda p: jnp.mean(p, axis=0), products)
