"""The Fisher information F = E_x E_{y∼p(·|x,θ)} [∇log p ∇log pᵀ] = −E_x E_y [∇²log p] of a probabilistic model.

The labels are the model's own, never the observed ones (that is `empirical_fisher`). Exactly: F = (1/n) Σ JᵢᵀF_z Jᵢ
with the closed-form Fisher matrix F_z of the output distribution, so that a product costs one JVP and one VJP.
Sampled: labels drawn from the model in place of the expectation, an unbiased estimate whose relative variance falls
as 1/(n·samples). Source: Amari, Neural Computation 10 (1998) 251-276; Martens, JMLR 21 (2020), sections 5 and 9.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import as_float
from corollary.optim._tree import at_least_zero, like
from corollary.optim.curvature._ggn import Model, Slopes, count, examples, outer
from corollary.optim.penalties._base import Scalar


class OutputDistribution(eqx.Module):
    """p(y|z), the distribution of a target given a model's output z for one example. As a function: −log p(y|z)."""

    @abstractmethod
    def __call__(self, z: Any, y: Any) -> Scalar:
        """−log p(y|z): the loss, convex in z."""

    @abstractmethod
    def sample(self, key: Key[Array, ""], z: Any) -> Any:
        """y ∼ p(·|z)."""

    @abstractmethod
    def fisher(self, z: Any, v: Any) -> Any:
        """F_z v, with F_z = E[∇_z log p ∇_z log pᵀ]."""


@final
class Gaussian(OutputDistribution):
    """y ∼ N(z, σ²I): the Fisher matrix is I/σ².

    Examples
    --------
    >>> Gaussian(0.5).fisher(jnp.zeros(2), jnp.ones(2)).tolist()
    [4.0, 4.0]
    """

    scale: Any = 1.0

    def __check_init__(self):
        """Refuse a scale that is not positive."""
        at_least_zero("scale", self.scale, positive=True)

    def __call__(self, z: Any, y: Any) -> Scalar:
        """½‖(z − y)/σ‖² + log of the normalisation."""
        scale = like(self.scale, z)
        square = jnp.sum(jnp.square((z - jnp.asarray(y).astype(z.dtype)) / scale)) / 2
        return square + z.size * (jnp.log(scale) + float(np.log(2 * np.pi)) / 2)

    def sample(self, key: Key[Array, ""], z: Any) -> Any:
        """z + σ·noise."""
        return z + like(self.scale, z) * jax.random.normal(key, z.shape, z.dtype)

    def fisher(self, z: Any, v: Any) -> Any:
        """v/σ²."""
        return v / like(self.scale, z) ** 2


@final
class Bernoulli(OutputDistribution):
    """y ∈ {0, 1} with P(y = 1) = σ(z), entry by entry; z are logits.

    Examples
    --------
    >>> Bernoulli().fisher(jnp.zeros(1), jnp.ones(1)).tolist()
    [0.25]
    """

    def __call__(self, z: Any, y: Any) -> Scalar:
        """log(1 + e^z) − y z."""
        return jnp.sum(jax.nn.softplus(z) - jnp.asarray(y).astype(z.dtype) * z)

    def sample(self, key: Key[Array, ""], z: Any) -> Any:
        """Zeros and ones."""
        return jax.random.bernoulli(key, jax.nn.sigmoid(z)).astype(z.dtype)

    def fisher(self, z: Any, v: Any) -> Any:
        """p(1 − p) v."""
        return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * v


@final
class Categorical(OutputDistribution):
    """y ∈ {0, ..., c − 1} with probabilities softmax(z): the Fisher matrix is diag(p) − p pᵀ.

    Examples
    --------
    >>> Categorical().fisher(jnp.zeros(2), jnp.array([1.0, 0.0])).tolist()
    [0.25, -0.25]
    """

    def __call__(self, z: Any, y: Any) -> Scalar:
        """log Σ e^z − z_y; NaN for a y that is no class (an index out of range would be taken for another class)."""
        y = jnp.asarray(y)
        return jnp.where((y >= 0) & (y < z.shape[0]), jax.nn.logsumexp(z) - z[y], jnp.nan)

    def sample(self, key: Key[Array, ""], z: Any) -> Any:
        """A class."""
        return jax.random.categorical(key, z)

    def fisher(self, z: Any, v: Any) -> Any:
        """p∘v − p⟨p, v⟩."""
        p = jax.nn.softmax(z)
        return p * (v - jnp.sum(p * v))


@final
class Poisson(OutputDistribution):
    """Counts y with the rate e^z, entry by entry.

    Examples
    --------
    >>> Poisson().fisher(jnp.zeros(1), jnp.ones(1)).tolist()
    [1.0]
    """

    def __call__(self, z: Any, y: Any) -> Scalar:
        """e^z − y z + log y!."""
        y = jnp.asarray(y).astype(z.dtype)
        return jnp.sum(jnp.exp(z) - y * z + jax.scipy.special.gammaln(y + 1))

    def sample(self, key: Key[Array, ""], z: Any) -> Any:
        """Counts."""
        return jax.random.poisson(key, jnp.exp(z)).astype(z.dtype)

    def fisher(self, z: Any, v: Any) -> Any:
        """e^z v."""
        return jnp.exp(z) * v


@final
class ExponentialFamily(OutputDistribution):
    """p(y|z) ∝ exp(⟨z, T(y)⟩ − A(z)), z the natural parameters: the Fisher matrix is ∇²A(z).

    Parameters
    ----------
    statistic
        T: y to an array shaped like z.
    log_partition
        A: z to a scalar, convex.
    sampler
        ``sampler(key, z)``, where labels are to be drawn.

    Examples
    --------
    >>> bernoulli = ExponentialFamily(lambda y: y, lambda z: jax.nn.softplus(z).sum())
    >>> bernoulli.fisher(jnp.zeros(1), jnp.ones(1)).tolist()
    [0.25]
    """

    statistic: Callable[[Any], Any]
    log_partition: Callable[[Any], Any]
    sampler: Callable[..., Any] | None = None

    def __call__(self, z: Any, y: Any) -> Scalar:
        """A(z) − ⟨z, T(y)⟩, without the base measure, which does not depend on z."""
        return self.log_partition(z) - jnp.sum(z * jnp.asarray(self.statistic(y)).astype(z.dtype))

    def sample(self, key: Key[Array, ""], z: Any) -> Any:
        """By the sampler that was given."""
        if self.sampler is None:
            raise InputError("sampler: found None, expected a function to draw labels with")
        return self.sampler(key, z)

    def fisher(self, z: Any, v: Any) -> Any:
        """∇²A(z) v."""
        return jax.jvp(jax.grad(self.log_partition), (z,), (v,))[1]


def fisher_information(
    model: Model,
    params: PyTree,
    distribution: Any,
    inputs: Any,
    *,
    samples: int | None = None,
    key: Key[Array, ""] | None = None,
) -> lx.FunctionLinearOperator:
    """The Fisher information matrix of y ∼ p(·|model(params, x)), mean over the inputs, as a `lineax` operator.

    Use it for natural gradients, Laplace approximations, Cramér-Rao bounds. Cost of a product: one JVP and one VJP.

    Parameters
    ----------
    model
        ``model(params, x)``: the distribution's parameters for one example.
    params
        Any pytree of floating arrays.
    distribution
        `Gaussian`, `Bernoulli`, `Categorical`, `Poisson`, `ExponentialFamily`.
    inputs
        Array or pytree with the examples along its leading axis.
    samples
        None: exact; a number: that many labels an example are drawn from the model.
    key
        `jax.random.key` for them.

    Returns
    -------
    lineax.FunctionLinearOperator
        v ↦ F v, tagged positive semidefinite; ``as_matrix()`` is the dense matrix.

    Raises
    ------
    InputError
        For a distribution of another kind, samples without a key, or inputs without examples.

    Examples
    --------
    >>> F = fisher_information(lambda w, x: x @ w, jnp.zeros(1), Bernoulli(), jnp.ones((3, 1)))
    >>> F.as_matrix().tolist()
    [[0.25]]
    """
    if not isinstance(distribution, OutputDistribution):
        raise InputError(f"distribution: found {type(distribution).__name__}, expected an OutputDistribution")
    validation.integer(1, none=True)("samples", samples)
    params, (inputs,) = jax.tree.map(as_float, params), examples(inputs)
    if samples is None:

        def exactly(z: PyTree) -> Callable[[PyTree], PyTree]:
            return lambda v: jax.vmap(distribution.fisher)(z, v)

        return outer(model, params, inputs, exactly)
    if key is None:
        raise InputError("key: found None, expected a jax.random.key to draw labels with")
    keys = jax.random.split(key, (samples, count(inputs)))

    def drawn(z: PyTree) -> Callable[[PyTree], PyTree]:
        def slope(key: Key[Array, ""], z: PyTree) -> PyTree:
            y = jax.lax.stop_gradient(distribution.sample(key, z))
            return jax.grad(distribution)(z, y)

        return Slopes(jax.vmap(jax.vmap(slope), (0, None))(keys, z))

    return outer(model, params, inputs, drawn)
