"""Total-variation denoising of images, min_x ½‖x − y‖² + α·TV(x), to a duality gap.

Fast gradient projection on the dual: p lives on the pixels' differences, |p| ≤ α pixel by pixel, and x = y − Dᵀp. One
step is a pass over the image in each direction; the gap ½‖x − y‖² + α·TV(x) − (½‖y‖² − ½‖y − Dᵀp‖²) is
Σ_pixels α|Dx| − ⟨p, D x⟩, a sum of terms ≥ 0, so that it keeps its digits in float32. F(x) − F* ≤ gap, and
½‖x − x*‖² ≤ gap, since F is 1-strongly convex. Momentum restarts when it points uphill.
Source: Beck & Teboulle, "Fast gradient-based algorithms for constrained total variation image denoising and deblurring
problems" (2009), algorithm FGP; Chambolle (2004) for ‖D‖² < 8; O'Donoghue & Candès (2015) for the restarts.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from corollary.core import precision, validation
from corollary.core.certificate import rounding
from corollary.core.errors import InputError
from corollary.optim._problem import Info, Problem, Solver
from corollary.optim._tree import at_least_zero, floats, like, norm
from corollary.optim.penalties._base import Scalar
from corollary.optim.penalties._differences import differences, differences_adjoint


@final
class TVDenoise(Problem):
    """Minimise ½‖x − image‖² + α·TV(x), with the total variation of an image's forward differences.

    Use it for noise on pictures with edges: flat regions become flat, edges stay. Colour: `jax.vmap` over channels.

    Parameters
    ----------
    image
        (m, n), finite.
    alpha
        Weight ≥ 0, in the units of the pixels: about the noise's standard deviation.
    isotropic
        True: Euclidean length of the pixel's two differences; False: sum of their moduli.

    Raises
    ------
    InputError
        For an image that is not a finite matrix, and a negative weight.

    Examples
    --------
    >>> import numpy as np
    >>> from corollary.optim import minimize
    >>> image = np.array([[0.0, 0.0, 6.0, 6.0]])
    >>> minimize(TVDenoise(image, 1.0), tol=1e-9).value.round(4).tolist()
    [[0.5, 0.5, 5.5, 5.5]]
    """

    image: Any
    alpha: Any
    isotropic: bool = eqx.field(static=True)

    def __init__(self, image: Any, alpha: Any, isotropic: bool = True):
        self.image = precision.follows_input(validation.matrix)("image", image)
        at_least_zero("alpha", alpha)
        validation.flag("isotropic", isotropic)
        self.alpha, self.isotropic = alpha, isotropic

    @precision.follows_input
    def objective(self, x: Any) -> Any:
        """½‖x − image‖² + α·TV(x)."""
        x = floats(x)
        return jnp.sum(jnp.square(x - self.image)) / 2 + self.weight(x) * self.variation(differences(x))

    def default_solver(self) -> tuple[Solver, str]:
        """`DualTV`."""
        return DualTV(), "the dual of total variation, by fast gradient projection"

    def claims(self) -> tuple[str, str]:
        """Of a gap relative to F."""
        return super().claims()[0], "F(x) − F* <= duality gap <= tol·F(x)"

    def start(self) -> Float[Array, "m n"]:
        """The mean of the image, in every pixel: the answer for a large α."""
        image = jnp.asarray(self.image)
        return jnp.full_like(image, jnp.mean(image))

    def weight(self, x: Array) -> Scalar:
        """α in the precision of x."""
        return like(self.alpha, x)

    def variation(self, d: Float[Array, "2 m n"]) -> Scalar:
        """TV from the differences."""
        return jnp.sum(jnp.sqrt(d[0] ** 2 + d[1] ** 2)) if self.isotropic else jnp.sum(jnp.abs(d))

    def project(self, p: Float[Array, "2 m n"], alpha: Scalar) -> Float[Array, "2 m n"]:
        """|p| ≤ α pixel by pixel."""
        if not self.isotropic:
            return jnp.clip(p, -alpha, alpha)
        squared = p[0] ** 2 + p[1] ** 2
        return p * jnp.where(squared > alpha**2, alpha * jax.lax.rsqrt(jnp.where(squared > 0, squared, 1)), 1)


class DualTVState(eqx.Module):
    """The answer x = y − Dᵀp, the dual p, the extrapolated q (both in units of `unit`), and the momentum θ."""

    x: Float[Array, "m n"]
    p: Float[Array, "2 m n"]
    q: Float[Array, "2 m n"]
    theta: Scalar
    centre: Scalar  # the iteration runs on (y − centre)/unit: squares of the differences stay in range
    unit: Scalar


@final
class DualTV(Solver):
    """Fast gradient projection on the dual of `TVDenoise`, with restarts.

    Parameters
    ----------
    inner
        Iterations per step of the driver: the gap is looked at after that many.

    Notes
    -----
    Certificate ``duality_gap`` (exact) from `minimize`, relative to the objective; ``distance`` in ``stats`` bounds
    ‖x − x*‖ by √(2·gap).

    Examples
    --------
    >>> import numpy as np
    >>> from corollary.optim import TVDenoise, minimize
    >>> solution = minimize(TVDenoise(np.eye(4), 0.1), solver=DualTV(), tol=1e-8)
    >>> bool(solution.converged), bool(solution.holds)
    (True, True)
    """

    inner: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        """Refuse a count that is not positive."""
        validation.integer(1)("inner", self.inner)

    def check(self, problem: Problem) -> None:
        """A `TVDenoise`."""
        if not isinstance(problem, TVDenoise):
            raise InputError(f"problem: found {type(problem).__name__}, expected a TVDenoise")

    def init(self, problem: TVDenoise, x0: Array) -> DualTVState:
        """p = 0: the dual does not start from an image, so x0 gives only the shape."""
        p = jnp.zeros((2, *x0.shape), x0.dtype)
        y = jnp.asarray(problem.image).astype(x0.dtype)
        centre = jnp.mean(y)
        unit = jnp.max(jnp.abs(y - centre))
        return DualTVState(jnp.asarray(x0), p, p, like(1.0, x0), centre, jnp.where(unit > 0, unit, 1.0))

    def step(self, problem: TVDenoise, state: DualTVState) -> tuple[DualTVState, Info]:
        """`inner` iterations, then the gap."""
        y = jnp.asarray(problem.image).astype(state.x.dtype)
        centre, unit = state.centre, state.unit
        y = (y - centre) / unit
        alpha = problem.weight(y) / unit

        def advance(carry):
            p, q, theta = carry
            new = problem.project(q + differences(y - differences_adjoint(q)) / 8, alpha)
            after = (1 + jnp.sqrt(1 + 4 * theta**2)) / 2
            return new, new + (theta - 1) / after * (new - p), after

        carry = jax.lax.fori_loop(0, self.inner - 1, lambda _, carry: advance(carry), (state.p, state.q, state.theta))
        p, q, theta = advance(carry)
        uphill = jnp.sum((carry[1] - p) * (p - carry[0])) > 0  # looked at once in `inner`, it costs next to nothing
        theta, q = jnp.where(uphill, 1.0, theta), jnp.where(uphill, p, q)

        pull = differences_adjoint(p)
        x = y - pull
        d = differences(x)
        variation = alpha * problem.variation(d)
        # ½‖x − y‖² + α·TV(x) less the dual ½‖y‖² − ½‖x‖², whose difference is α·TV(x) − ⟨p, D x⟩.
        relative = jnp.sum(jnp.square(pull)) / 2 + variation
        gap = self._gap(problem, p, d, alpha)
        objective = relative * unit * unit
        # Where F itself leaves the range of the numbers, so would the gap: it then counts only once it is rounding.
        eps, tiny = jnp.finfo(x.dtype).eps, jnp.finfo(x.dtype).tiny
        told = (objective * eps > tiny) | (relative == 0) | (gap <= 64 * eps * relative)
        step = like(1 / 8, x)
        info = Info(
            objective=objective,
            residual=norm(p - problem.project(p + d / 8, alpha)),
            gradient_scale=norm(p),
            floor=rounding(norm(p)),
            step=step,
            merit=relative,
            lower=jnp.where(told, objective - gap * unit * unit, -jnp.inf),
        )
        return DualTVState(centre + unit * x, p, q, theta, centre, unit), info

    def _gap(self, problem: TVDenoise, p: Array, d: Array, alpha: Scalar) -> Scalar:
        if problem.isotropic:
            terms = alpha * jnp.sqrt(d[0] ** 2 + d[1] ** 2) - (p[0] * d[0] + p[1] * d[1])
        else:
            terms = alpha * jnp.abs(d) - p * d
        return jnp.sum(jnp.maximum(terms, 0))

    def stats(self, problem: TVDenoise, state: DualTVState) -> dict[str, Any]:
        """The dual p, and the bound √(2·gap) on ‖x − x*‖, both of the last state."""
        x, unit = (state.x - state.centre) / state.unit, state.unit
        gap = self._gap(problem, state.p, differences(x), problem.weight(x) / unit)
        return {"dual": unit * state.p, "distance": unit * jnp.sqrt(2 * gap)}
