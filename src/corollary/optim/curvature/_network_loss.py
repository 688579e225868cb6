"""The problem that Gauss-Newton methods solve: the mean of a convex loss of a model's outputs over examples."""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Key, PyTree

from corollary.core.errors import InputError
from corollary.core.precision import follows_input
from corollary.optim._problem import Problem, Solver
from corollary.optim._tree import floats
from corollary.optim.curvature._fisher import OutputDistribution, fisher_information
from corollary.optim.curvature._ggn import Loss, Model, count, examples, ggn_operator
from corollary.optim.penalties._base import Scalar


@final
class NetworkLoss(Problem):
    """Minimise J(θ) = (1/n) Σ loss(model(θ, xᵢ), yᵢ), with the loss convex in the model's output.

    Parameters
    ----------
    model
        ``model(params, x)``: the output for one example; a plain function (a new one compiles anew).
    loss
        ``loss(output, *targets)``: convex and twice differentiable in the output; an `OutputDistribution` is one, and
        is what `NaturalGradient` needs.
    *data
        Inputs, then targets, with the examples along their leading axes.

    Raises
    ------
    InputError
        For data without examples, or of different lengths.

    Examples
    --------
    >>> X, y = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([1.0, 1.0])
    >>> problem = NetworkLoss(lambda w, x: x @ w, lambda z, y: (z - y) ** 2 / 2, X, y)
    >>> float(problem.objective(jnp.zeros(2)))
    0.5
    """

    model: Model
    loss: Loss
    data: tuple[Any, ...]

    def __init__(self, model: Any, loss: Any, *data: Any):
        for name, value in (("model", model), ("loss", loss)):
            if not callable(value):
                raise InputError(f"{name}: found {type(value).__name__}, expected a function")
        self.model, self.loss, self.data = model, loss, examples(*data)

    @follows_input
    def objective(self, x: Any) -> Any:
        """J(θ)."""
        return self.on(floats(x), self.data)

    def on(self, params: PyTree, data: tuple[Any, ...]) -> Scalar:
        """The mean over the given examples."""
        inputs, *targets = data
        outputs = jax.vmap(self.model, (None, 0))(params, inputs)
        return jnp.mean(jax.vmap(self.loss)(outputs, *targets))

    def default_solver(self) -> tuple[Solver, str]:
        """`HessianFree`."""
        from corollary.optim.curvature._hessian_free import HessianFree

        return HessianFree(), "a convex loss of a model's outputs has a semidefinite Gauss-Newton matrix"

    def ggn(self, params: PyTree, data: tuple[Any, ...]) -> lx.FunctionLinearOperator:
        """The generalised Gauss-Newton operator over the given examples."""
        return ggn_operator(self.model, params, self.loss, *data)

    def fisher(
        self, params: PyTree, data: tuple[Any, ...], samples: int | None = None, key: Key[Array, ""] | None = None
    ) -> lx.FunctionLinearOperator:
        """The Fisher operator over the given examples; the loss must be an `OutputDistribution`."""
        likelihood: Any = self.loss
        return fisher_information(self.model, params, likelihood, data[0], samples=samples, key=key)

    def batch(self, key: Key[Array, ""], size: int | None) -> tuple[Any, ...]:
        """`size` examples without replacement; all of them for None."""
        n = count(self.data)
        if size is None or size >= n:
            return self.data
        rows = jax.random.choice(key, n, (size,), replace=False)
        return jax.tree.map(lambda leaf: leaf[rows], self.data)


def network_loss(problem: Any) -> NetworkLoss:
    """Refuse anything but a `NetworkLoss`."""
    if not isinstance(problem, NetworkLoss):
        raise InputError(f"problem: found {type(problem).__name__}, expected a NetworkLoss")
    return problem


def likelihood(problem: Any) -> NetworkLoss:
    """Refuse anything but a `NetworkLoss` whose loss is an `OutputDistribution`."""
    if not isinstance(network_loss(problem).loss, OutputDistribution):
        found = getattr(problem.loss, "__name__", type(problem.loss).__name__)
        raise InputError(
            f"problem: found the loss {found}, expected an OutputDistribution (its Fisher matrix is needed)"
        )
    return problem


class Descent(eqx.Module):
    """Iterate, value and gradient, and a key for mini-batches."""

    x: PyTree
    value: Scalar
    gradient: PyTree
    key: Key[Array, ""]


def descent(problem: NetworkLoss, x0: PyTree, key: Key[Array, ""] | None) -> Descent:
    """The state at x0."""
    value, gradient = jax.value_and_grad(problem.objective)(x0)
    return Descent(x0, value, gradient, jax.random.key(0) if key is None else key)
