"""The game f(x, y) = xy: descent-ascent spirals out, extragradient and the optimistic gradient spiral in.

The field F(x, y) = (y, −x) only turns: at every point it stands at a right angle to the way to the solution, the
origin. A plain step along it therefore leaves every circle on the outside, and ‖z‖² grows by exactly 1 + η² a step.
Looking one step ahead bends the step inwards: the factor becomes (1 − η²)² + η² < 1 for η < 1. The optimistic gradient
gets the same effect from the field of the step before, at half the cost. For a game between mixed strategies the same
methods find the value that a linear program would.
"""

import jax
import jax.numpy as jnp
import numpy as np

from corollary.optim import (
    Extragradient,
    GradientDescentAscent,
    MatrixGame,
    OptimisticGradient,
    SaddlePoint,
    minimize,
)

PAPER_SCISSORS_ROCK = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


def bilinear() -> SaddlePoint:
    """f(x, y) = xy, L = 1."""
    return SaddlePoint(jnp.vdot, lipschitz=1.0)


def radii(solver, steps: int = 40) -> np.ndarray:
    """‖z_k‖ for k = 0, ..., steps, from z_0 = (1, 1)."""
    problem, z0 = bilinear(), (jnp.ones(1), jnp.ones(1))

    def body(state, _):
        return solver.step(problem, state)[0], jnp.hypot(*state.x)[0]

    return np.asarray(jax.lax.scan(body, solver.init(problem, z0), length=steps + 1)[1], float)


def solvers(step: float) -> dict:
    """The three methods with one step length."""
    return {
        "descent-ascent": GradientDescentAscent(step),
        "extragradient": Extragradient(step),
        "optimistic": OptimisticGradient(step),
    }


def factors(step: float = 0.3, steps: int = 40) -> dict[str, float]:
    """The factor of ‖z‖² a step, as measured over the run."""
    runs = {name: radii(solver, steps) for name, solver in solvers(step).items()}
    return {name: float((r[-1] / r[0]) ** (2 / steps)) for name, r in runs.items()}


def predicted(step: float = 0.3) -> dict[str, float]:
    """The same from theory; for the optimistic gradient the largest root of its recursion."""
    # z_{k+1} = (1 + 2iη) z_k − iη z_{k−1} in complex numbers, x + iy.
    root = np.abs(np.roots([1, -(1 + 2j * step), 1j * step])).max()
    return {
        "descent-ascent": 1 + step**2,
        "extragradient": (1 - step**2) ** 2 + step**2,
        "optimistic": float(root**2),
    }


def rock_paper_scissors() -> dict:
    """The mixed equilibrium of the children's game with one payoff doubled, and its certified gap."""
    A = PAPER_SCISSORS_ROCK.copy()
    A[0, 1] *= 2
    run = minimize(MatrixGame(A), tol=1e-6)
    x, y = run.value
    return {"row player": x, "column player": y, "value": float(x @ A @ y), "gap": float(run.stats["objective"])}


if __name__ == "__main__":
    measured, theory = factors(), predicted()
    print(f"{'':16} factor of ‖z‖² a step, predicted")
    for name, value in measured.items():
        print(f"{name:16} {value:.6f}               {theory[name]:.6f}")
    for name, value in rock_paper_scissors().items():
        print(f"{name:16} {np.round(value, 6)}")
