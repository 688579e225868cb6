"""New penalties from old: the conjugate by Moreau's identity, a multiple, and a shift with a tilt and a quadratic.

Each costs one prox of the penalty inside. Source: Moreau, "Proximité et dualité dans un espace hilbertien" (1965);
Parikh & Boyd, "Proximal algorithms" (2014), sections 2.2 and 2.5.
"""

from __future__ import annotations

from typing import Any, final

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero, like, norm, spread
from corollary.optim.penalties._base import Penalty, Scalar


@final
class Conjugate(Penalty):
    """The convex conjugate h* of a convex penalty, prox_{t h*}(v) = v − t·prox_{h/t}(v/t).

    Parameters
    ----------
    penalty
        h, convex. The value h*(x) is known where `penalty.conjugate` is; the prox always is.

    Examples
    --------
    >>> from corollary.optim.penalties import L1
    >>> Conjugate(L1(1.0)).prox([3.0, -0.5]).tolist()
    [1.0, -0.5]
    """

    penalty: Penalty

    def __check_init__(self):
        """Refuse a penalty that is not convex: Moreau's identity needs it."""
        if not isinstance(self.penalty, Penalty) or not self.penalty.is_convex:
            raise InputError(f"penalty: found {type(self.penalty).__name__}, expected a convex penalty")

    def _value(self, x: PyTree) -> Scalar:
        value = self.penalty._conjugate(x)
        if value is None:
            raise InputError(f"penalty: found {type(self.penalty).__name__}, whose conjugate has no closed form here")
        return value

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        p = self.penalty._prox(optax.tree.scale(1 / step, v), 1 / step)
        d = optax.tree.add_scale(v, -step, p)
        fit = self.penalty._dual_scaling(d)
        if fit is None:
            return d
        # The rounding of a long v may leave d a hair outside the domain of h*: bring it in.
        value = self.penalty._conjugate(d)
        outside = jnp.array(False) if value is None else jnp.isposinf(value)
        return optax.tree.scale(jax.lax.stop_gradient(jnp.where(outside, fit, 1.0).astype(fit.dtype)), d)

    def _conjugate(self, u: PyTree) -> Scalar:
        return self.penalty._value(u)  # h** = h

    def _fenchel_excess(self, x: PyTree, u: PyTree) -> Scalar | None:
        return self.penalty._fenchel_excess(u, x)


@final
class Scaled(Penalty):
    """A multiple c·h of a penalty, c > 0.

    Examples
    --------
    >>> from corollary.optim.penalties import L1
    >>> Scaled(L1(1.0), 2.0).prox([3.0, -0.5]).tolist()
    [1.0, 0.0]
    """

    penalty: Penalty
    factor: Any = 1.0

    def __check_init__(self):
        """Refuse a factor that is not positive."""
        at_least_zero("factor", self.factor, positive=True)

    @property
    def is_convex(self) -> bool:  # type: ignore[override]
        """Whether the penalty inside is."""
        return self.penalty.is_convex

    def _value(self, x: PyTree) -> Scalar:
        return like(self.factor, x) * self.penalty._value(x)

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        return self.penalty._prox(v, step * like(self.factor, v))

    def _conjugate(self, u: PyTree) -> Scalar | None:
        c = like(self.factor, u)
        value = self.penalty._conjugate(optax.tree.scale(1 / c, u))
        return None if value is None else c * value

    def _dual_scaling(self, u: PyTree) -> Scalar | None:
        return self.penalty._dual_scaling(optax.tree.scale(1 / like(self.factor, u), u))

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar | None:
        c = like(self.factor, x)
        distance = self.penalty._distance(x, optax.tree.scale(1 / c, gradient))
        return None if distance is None else c * distance

    def _fenchel_excess(self, x: PyTree, u: PyTree) -> Scalar | None:
        c = like(self.factor, x)
        excess = self.penalty._fenchel_excess(x, optax.tree.scale(1 / c, u))
        return None if excess is None else c * excess

    def _linear_minimizer(self, gradient: PyTree) -> PyTree | None:
        return self.penalty._linear_minimizer(gradient)

    def _diameter(self, x: PyTree) -> Scalar | None:
        return self.penalty._diameter(x)


@final
class Tilted(Penalty):
    """A penalty moved and tilted: h(x − shift) + ⟨tilt, x⟩ + ridge/2·‖x‖².

    Parameters
    ----------
    penalty
        h.
    shift, tilt
        A scalar, an array, or a pytree like the variable.
    ridge
        Weight ≥ 0 of the quadratic, or None for none.

    Examples
    --------
    >>> from corollary.optim.penalties import L1
    >>> Tilted(L1(1.0), shift=1.0).prox([3.0, 1.5]).tolist()
    [2.0, 1.0]
    >>> Tilted(L1(1.0), ridge=1.0).prox([3.0, 0.5]).tolist()
    [1.0, 0.0]
    """

    penalty: Penalty
    shift: Any = 0.0
    tilt: Any = 0.0
    ridge: Any = None

    def __check_init__(self):
        """Refuse a negative ridge."""
        if self.ridge is not None:
            at_least_zero("ridge", self.ridge)

    @property
    def is_convex(self) -> bool:  # type: ignore[override]
        """Whether the penalty inside is."""
        return self.penalty.is_convex

    def _parts(self, x: PyTree) -> tuple[PyTree, PyTree, Scalar]:
        return _full(self.shift, x), _full(self.tilt, x), like(0.0 if self.ridge is None else self.ridge, x)

    def _value(self, x: PyTree) -> Scalar:
        shift, tilt, ridge = self._parts(x)
        return (
            self.penalty._value(optax.tree.sub(x, shift)) + optax.tree.vdot(tilt, x) + ridge / 2 * optax.tree.vdot(x, x)
        )

    def _prox(self, v: PyTree, step: Scalar) -> PyTree:
        # In y = x − shift the quadratic terms make one, of step t = 1/(1/step + ridge) and centre c.
        shift, tilt, ridge = self._parts(v)
        shorter = 1 / (1 + step * ridge)

        def centre(v, a, b):
            return shorter * (v - a - step * (ridge * a + b))

        y = self.penalty._prox(jax.tree.map(centre, v, shift, tilt), step * shorter)
        return optax.tree.add(y, shift)

    def _conjugate(self, u: PyTree) -> Scalar | None:
        shift, tilt, ridge = self._parts(u)
        left = optax.tree.sub(u, tilt)
        constant = optax.tree.vdot(left, shift)
        if self.ridge is None:
            value = self.penalty._conjugate(left)
            return None if value is None else value + constant
        if not self.is_convex:
            return None
        # (h + ridge/2‖·‖²)*(l) = min_w h*(w) + ‖l − w‖²/(2·ridge): each w gives an upper bound, so that the prox,
        # which the best w comes from, need not be exact.
        left = optax.tree.add_scale(left, -ridge, shift)
        safe = jnp.where(ridge > 0, ridge, 1)
        y = self.penalty._prox(optax.tree.scale(1 / safe, left), 1 / safe)
        w = optax.tree.where(ridge > 0, optax.tree.add_scale(left, -ridge, y), left)
        fit = self.penalty._dual_scaling(w)
        if fit is None:
            return None

        def bound(s):
            scaled = optax.tree.scale(s, w)
            away = norm(optax.tree.sub(left, scaled))
            value = self.penalty._conjugate(scaled)  # known wherever a scaling is
            return (jnp.inf if value is None else value) + jnp.where(away > 0, away * (away / (2 * ridge)), 0)

        value = jnp.minimum(bound(jnp.ones_like(fit)), bound(fit))
        return value + constant - ridge / 2 * optax.tree.vdot(shift, shift)

    def _dual_scaling(self, u: PyTree) -> Scalar | None:
        if self.ridge is None or not self.is_convex:
            return None
        fit = self.penalty._dual_scaling(u)  # a penalty without one has no conjugate to rely on, either
        return None if fit is None else jnp.where(like(self.ridge, u) > 0, 1.0, fit).astype(fit.dtype)

    def _distance(self, x: PyTree, gradient: PyTree) -> Scalar | None:
        shift, tilt, ridge = self._parts(x)
        gradient = optax.tree.add_scale(optax.tree.add(gradient, tilt), ridge, x)
        return self.penalty._distance(optax.tree.sub(x, shift), gradient)

    def _fenchel_excess(self, x: PyTree, u: PyTree) -> Scalar | None:
        shift, tilt, ridge = self._parts(x)
        u = optax.tree.add_scale(optax.tree.sub(u, tilt), -ridge, x)
        return self.penalty._fenchel_excess(optax.tree.sub(x, shift), u)


def _full(parameter: Any, x: PyTree) -> PyTree:
    return jax.tree.map(lambda p, leaf: jnp.broadcast_to(p, leaf.shape), spread(parameter, x), x)
