"""The three nouns of the room: a problem (what is asked), a solver (how), and what a step tells of its answer.

`minimize` knows nothing else. A problem gives its objective; a solver owns no loop, only `init` and `step`; the `Info`
of a step carries the certificate that the driver stops on: a lower bound of the minimum, or a stationarity residual.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Float, PyTree

from corollary.core.certificate import Certificate

Scalar = Float[Array, ""]


class Info(eqx.Module):
    """What a person wants to know of a step; the next step does not need it.

    Attributes
    ----------
    objective
        F at the new iterate.
    residual
        ≥ dist(0, ∂F) at the new iterate, or another measure that vanishes exactly at a solution.
    gradient_scale
        The size of the terms that have to cancel in the residual: the tolerance is relative to the larger of the first
        step's and this one's.
    floor
        The rounding of the residual.
    step
        The step length (1/L where a rate is asked for).
    lower
        A lower bound on the minimum, where there is a dual; the driver then stops on the gap.
    merit
        What the best iterate is judged by, where it is not the objective (iterates that are not feasible, games).
    unbounded
        True where the objective is proved to fall without end; left out, where it is −∞.
    stuck
        True where no further progress is possible at this precision.
    from_start
        The residual is a plain gradient, in which no terms cancel: the tolerance is relative to the first step's scale
        alone. A gradient can grow a millionfold on the way; a tenth of that is no stationary point.
    extra
        More numbers for the history, by name.
    """

    objective: Scalar
    residual: Scalar
    gradient_scale: Scalar
    floor: Scalar
    step: Scalar
    lower: Scalar | None = None
    merit: Scalar | None = None
    stuck: Bool[Array, ""] | None = None
    unbounded: Bool[Array, ""] | None = None
    from_start: bool = eqx.field(static=True, default=False)
    extra: dict[str, Scalar] = eqx.field(default_factory=dict)


class Problem(eqx.Module):
    """What is asked: data and terms."""

    @abstractmethod
    def objective(self, x: Any) -> Any:
        """F(x)."""

    @abstractmethod
    def default_solver(self) -> tuple[Solver, str]:
        """The solver that ``solver="auto"`` takes, and why."""

    def scale(self) -> Scalar | None:
        """The natural size of the objective, which the tolerance of a gap refers to; None where there is none."""
        return None

    def claims(self) -> tuple[str, str]:
        """What the driver's certificates say: of a residual, and of a gap."""
        return "dist(0, ∂F(x)) <= tol·(‖∇f‖ + ‖subgradient‖)", "F(x) − F* <= duality gap <= tol·f(0)"

    def start(self) -> PyTree | None:
        """The origin of the space of x, where its shape is known."""
        return None


class Solver(eqx.Module):
    """How a problem is solved: settings as fields, and two pure methods. It owns no loop: `minimize` does."""

    @abstractmethod
    def init(self, problem: Any, x0: PyTree) -> Any:
        """The state before the first step."""

    @abstractmethod
    def step(self, problem: Any, state: Any) -> tuple[Any, Info]:
        """One step: the next state (its field ``x`` is the iterate), and what a person wants to know."""

    def check(self, problem: Problem) -> None:
        """Raise `InputError` for a problem that this solver does not speak of."""
        return

    def rate(self, k: Any, lipschitz: Scalar, distance: Scalar) -> Scalar | None:
        """The theorem's bound on F(x_k) − F* for ‖x0 − x*‖ = distance; None where there is no theorem."""
        return None

    def rated(self, problem: Any) -> bool:
        """Whether `rate` speaks of this problem (a search for the step has no theorem)."""
        return True

    def source(self) -> str:
        """Where that theorem stands."""
        return ""

    def certify(self, problem: Any, state: Any) -> dict[str, Certificate]:
        """More certificates, of the last state."""
        return {}

    def stats(self, problem: Any, state: Any) -> dict[str, Any]:
        """More for the solution's ``stats``: counts of evaluations, a radius."""
        return {}
