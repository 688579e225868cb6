"""What a penalty is: the second term of a composite objective, known by its value and its proximal operator.

A leaf implements the underscored methods on floating JAX arrays; the public ones take any array or pytree of arrays.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from corollary.core import precision
from corollary.optim._tree import at_least_zero, floats, like

Scalar = Float[Array, ""]


class Penalty(eqx.Module):
    """A term h with a proximal operator; every penalty of this module is one.

    A penalty need not be smooth. Its settings are traced: another `alpha` compiles nothing new.
    """

    is_convex: ClassVar[bool] = True

    @precision.follows_input
    def value(self, x: Any) -> Any:
        """h(x); +inf outside the domain of an indicator."""
        return self._value(floats(x))

    @precision.follows_input
    def prox(self, v: Any, step: Any = 1.0) -> Any:
        """The proximal point argmin_x h(x) + ‖x − v‖²/(2·step), of the same shape as `v`."""
        at_least_zero("step", step, positive=True)
        v = floats(v)
        return self._prox(v, like(step, v))

    @precision.follows_input
    def conjugate(self, u: Any) -> Any:
        """h*(u) = sup_x ⟨u, x⟩ − h(x), or None where no closed form is at hand."""
        return self._conjugate(floats(u))

    @precision.follows_input
    def dual_scaling(self, u: Any) -> Any:
        """A factor s ≤ 1 that brings s·u into the domain of h*; None where scaling cannot."""
        return self._dual_scaling(floats(u))

    @precision.follows_input
    def subdifferential_distance(self, x: Any, gradient: Any) -> Any:
        """dist(−gradient, ∂h(x)): how far x is from minimising f + h where ∇f(x) = gradient; None where not known."""
        return self._distance(floats(x), floats(gradient))

    @precision.follows_input
    def linear_minimizer(self, gradient: Any) -> Any:
        """A point of the set that minimises ⟨gradient, s⟩, for Frank-Wolfe; None where not known."""
        return self._linear_minimizer(floats(gradient))

    @abstractmethod
    def _value(self, x: PyTree) -> Scalar: ...

    @abstractmethod
    def _prox(self, v: PyTree, step: Scalar) -> PyTree: ...

    def _conjugate(self, u: PyTree) -> Scalar | None:
        return None

    def _dual_scaling(self, u: PyTree) -> Scalar | None:
        return None

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar | None:
        return None

    def _linear_minimizer(self, gradient: PyTree) -> PyTree | None:
        return None

    def _fenchel_excess(self, x: PyTree, u: PyTree) -> Scalar | None:
        """ε = h(x) + h*(u) − ⟨u, x⟩ ≥ 0 of the u = (v − x)/step that a proximal step left: u ∈ ∂_ε h(x).

        None where the prox is exact, so that ε is 0 up to rounding; a prox that iterates has to tell.
        """
        return None

    def _diameter(self, x: PyTree) -> Scalar | None:
        """The largest distance of two points of the set; None where not known."""
        return None


def is_indicator(penalty: Penalty) -> bool:
    """Whether a penalty is 0 or +inf, as all of these modules' are."""
    return type(penalty).__module__.rpartition(".")[2] in ("_indicators", "_sets", "_cones")
