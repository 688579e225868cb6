"""A sketched curvature: C ≈ U diag(d) Uᵀ + λI from products with a random block, solved by Woodbury's identity.

Use it as a preconditioner or a cheap natural gradient where the curvature has few large eigenvalues: everything after
the sketch costs O(n k). C must be positive semidefinite (Fisher, Gauss-Newton; of a Hessian the certificate ``psd``
tells). Cost: k + p + 8 products, O(n (k + p)²); memory n k. Source: Frangella, Tropp & Udell, "Randomized Nyström
preconditioning", SIMAX 44 (2023) 718-752, algorithm 2.1 and proposition 2.2; `corollary.linalg.nystrom` for the
sketch itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.operator import Function
from corollary.core.solution import Note, Solution
from corollary.linalg import nystrom
from corollary.optim._tree import at_least_zero
from corollary.optim.penalties._base import Scalar


@final
class NystromCurvature(eqx.Module):
    """Ĉ + λI with Ĉ = U diag(d) Uᵀ of rank k, on pytrees.

    Attributes
    ----------
    U, eigenvalues
        Orthonormal columns (n, k) on the flattened parameters, and d (k,), falling and not negative.
    damping
        λ.
    """

    U: Float[Array, "n k"]
    eigenvalues: Float[Array, " k"]
    damping: Scalar
    structure: Any = eqx.field(static=True)

    def mv(self, v: PyTree) -> PyTree:
        """(Ĉ + λI) v."""
        return self._spectral(v, self.eigenvalues + self.damping, self.damping)

    def solve(self, v: PyTree) -> PyTree:
        """(Ĉ + λI)⁻¹ v = (v − U diag(d/(d + λ)) Uᵀv)/λ, Woodbury's identity; λ = 0: the pseudo-inverse of Ĉ."""
        return self._spectral(v, *self._inverse())

    def sqrt_solve(self, v: PyTree) -> PyTree:
        """(Ĉ + λI)^(−1/2) v: noise of that covariance out of white noise."""
        inside, outside = self._inverse()
        return self._spectral(v, jnp.sqrt(inside), jnp.sqrt(outside))

    @property
    def operator(self) -> lx.AbstractLinearOperator:
        """Ĉ + λI as a `lineax` operator."""
        return lx.FunctionLinearOperator(self.mv, self._like(), lx.positive_semidefinite_tag)

    @property
    def inverse(self) -> lx.AbstractLinearOperator:
        """(Ĉ + λI)⁻¹ as a `lineax` operator: the preconditioner of `lineax.CG`."""
        return lx.FunctionLinearOperator(self.solve, self._like(), lx.positive_semidefinite_tag)

    def _inverse(self) -> tuple[Array, Array]:
        shifted, rest = self.eigenvalues + self.damping, self.damping
        inverted = lambda a: jnp.where(a > 0, 1 / jnp.where(a > 0, a, 1), 0)  # noqa: E731
        return inverted(shifted), inverted(rest)

    def _spectral(self, v: PyTree, inside: Array, outside: Scalar) -> PyTree:
        """U diag(inside) Uᵀv + outside·(v − UUᵀv)."""
        flat, unravel = ravel_pytree(v)
        parts = self.U.T @ flat
        return unravel(self.U @ ((inside - outside) * parts) + outside * flat)

    def _like(self) -> PyTree:
        leaves, tree = self.structure
        return jax.tree.unflatten(tree, leaves)


def nystrom_curvature(
    operator: lx.AbstractLinearOperator,
    rank: int,
    *,
    damping: Any = 0.0,
    oversampling: int = 10,
    trace: Any = None,
    key: Key[Array, ""],
) -> Solution:
    """A low-rank plus diagonal approximation of a curvature operator, with an error bound.

    Use it for repeated solves with one curvature. Cost: `rank` + `oversampling` + 8 products at once.

    Parameters
    ----------
    operator
        C, positive semidefinite, on any pytree: from `ggn_operator`, `fisher_information`, ...
    rank
        k, at most the number of parameters (then Ĉ = C to rounding).
    damping
        λ ≥ 0, in the units of C.
    oversampling
        p, more columns of the sketch.
    trace
        tr C, where it is known: an exact error bound comes with it.
    key
        `jax.random.key` of the sketch.

    Returns
    -------
    Solution
        ``value``: `NystromCurvature` (``mv``, ``solve``, ``sqrt_solve``, ``operator``, ``inverse``); ``stats``:
        ``products``.

    Raises
    ------
    InputError
        For an operator of another kind, a rank or damping out of range.

    Notes
    -----
    Certificates, those of `corollary.linalg.nystrom`: ``spectral_error`` (probabilistic), a bound of ‖C − Ĉ‖₂;
    ``trace_error`` (exact, where the trace is known); ``psd`` (exact): no negative curvature met; ``orthogonality``.

    Examples
    --------
    >>> C = lx.DiagonalLinearOperator(jnp.array([4.0, 1.0, 0.0]))
    >>> found = nystrom_curvature(C, 3, damping=1.0, key=jax.random.key(0))
    >>> bool(jnp.allclose(found.value.solve(jnp.ones(3)), jnp.array([0.2, 0.5, 1.0])))
    True
    """
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise InputError(f"operator: found {type(operator).__name__}, expected a lineax operator")
    at_least_zero("damping", damping)
    validation.integer(1)("rank", rank)
    structure = operator.in_structure()
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), structure)
    flat, unravel = ravel_pytree(zeros)
    if rank > flat.size:
        raise InputError(f"rank: found {rank}, expected at most {flat.size}, the number of parameters")
    product = _Flat(operator, unravel)
    sketch = nystrom(
        Function(product, flat.size, product, flat.dtype), rank, oversampling=oversampling, trace=trace, key=key
    )
    leaves, tree = jax.tree.flatten(structure)
    value = NystromCurvature(
        jnp.asarray(sketch.value.U),
        jnp.asarray(sketch.value.eigenvalues),
        jnp.asarray(damping).astype(flat.dtype),
        (tuple(leaves), tree),
    )
    stats = {"products": sketch.stats["products"], "method": Note("Nyström, single pass, Woodbury solves")}
    return Solution(value, sketch.certificates, sketch.status, 1, stats)


class _Flat(eqx.Module):
    """The operator on flat vectors."""

    operator: lx.AbstractLinearOperator
    unravel: Callable[[Array], PyTree] = eqx.field(static=True)

    def __call__(self, vector: Array) -> Array:
        return ravel_pytree(self.operator.mv(self.unravel(vector)))[0]
