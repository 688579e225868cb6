"""A penalty per part of the variable: the sum over the parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from corollary.optim._tree import norm
from corollary.optim.penalties._base import Penalty, Scalar


@final
class Blocks(Penalty):
    """h(x) = Σ h_j(x_j): a penalty for each part of a pytree, e.g. none for an intercept.

    Parameters
    ----------
    parts
        A pytree of penalties whose structure is that of the variable, or a prefix of it. Convexity cannot be read off
        the class here: `minimize` asks the parts.

    Examples
    --------
    >>> from corollary.optim.penalties import L1, Zero
    >>> h = Blocks({"coef": L1(1.0), "intercept": Zero()})
    >>> h.prox({"coef": [3.0, 0.5], "intercept": 2.0})["intercept"].tolist()
    2.0
    """

    parts: Any

    @property
    def is_convex(self) -> bool:  # type: ignore[override]
        """Whether every part is."""
        return all(part.is_convex for part in self._leaves())

    def _leaves(self) -> list[Penalty]:
        return jax.tree.leaves(self.parts, is_leaf=lambda x: isinstance(x, Penalty))

    def _map(self, function: Callable[..., Any], *trees: PyTree) -> PyTree:
        return jax.tree.map(function, self.parts, *trees, is_leaf=lambda x: isinstance(x, Penalty))

    def _collect(self, function: Callable[..., Any], *trees: PyTree) -> list[Any]:
        return jax.tree.leaves(self._map(function, *trees), is_leaf=lambda x: x is None)

    def _value(self, x: PyTree) -> Scalar:
        return sum(self._collect(lambda h, x: h._value(x), x))  # type: ignore[return-value]

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return self._map(lambda h, v: h._prox(v, step), v)

    def _conjugate(self, u: PyTree) -> Scalar | None:
        parts = self._collect(lambda h, u: h._conjugate(u), u)
        return None if any(p is None for p in parts) else sum(parts)  # type: ignore[return-value]

    def _dual_scaling(self, u: PyTree) -> Scalar | None:
        parts = self._collect(lambda h, u: h._dual_scaling(u), u)
        return None if any(p is None for p in parts) else jnp.stack(parts).min()

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar | None:
        parts = self._collect(lambda h, x, g: h._distance(x, g), x, gradient)
        return None if any(p is None for p in parts) else norm(jnp.stack(parts))

    def _fenchel_excess(self, x: PyTree, u: PyTree) -> Scalar | None:
        known = [part for part in self._collect(lambda h, x, u: h._fenchel_excess(x, u), x, u) if part is not None]
        return sum(known) if known else None  # type: ignore[return-value]
