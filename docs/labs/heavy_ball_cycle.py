"""Heavy ball's limit cycle: strong convexity and smoothness do not save it outside quadratics.

f'(x) = 25x below 1, x + 24 between 1 and 2, 25x − 24 beyond: 1-strongly convex, its gradient 25-Lipschitz, f* = f(0).
With the constants that are best for quadratics of that condition, α = 1/9 and β = 4/9, heavy ball started near 3.3
falls into a cycle of three points and stays there. Nesterov's method, with its own constants of the same kind,
converges. Source: Lessard, Recht & Packard (2016), section 4.6.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from corollary.optim import Composite, Differentiable, HeavyBall, Nesterov

STRONG, SMOOTH = 1.0, 25.0
STEP, MOMENTUM = 1 / 9, 4 / 9


def f(x):
    """The piecewise quadratic function of a vector with one entry."""
    x = x[0]
    middle = x**2 / 2 + 24 * x - 12
    return jnp.where(x < 1, 12.5 * x**2, jnp.where(x < 2, middle, 12.5 * x**2 - 24 * x + 36))


def orbit(solver, x0: float, steps: int) -> np.ndarray:
    """The iterates x_1, ..., x_steps of a solver, the driver's loop laid bare."""
    problem = Composite(Differentiable(f, lipschitz=SMOOTH))

    def body(state, _):
        state, _ = solver.step(problem, state)
        return state, state.x[0]

    start = solver.init(problem, jnp.asarray([x0]))
    return np.asarray(jax.lax.scan(body, start, length=steps)[1])


def cycle() -> np.ndarray:
    """The cycle from its linear equations: p → q → r → p with p, r < 1 and q > 2."""
    # x⁺ = x − αf'(x) + β(x − x_before), where f' is 25x at p and r, and 25x − 24 at q.
    M, right = np.zeros((3, 3)), np.zeros(3)
    for row, (now, before, after, offset) in enumerate(((0, 2, 1, 0.0), (1, 0, 2, 24.0), (2, 1, 0, 0.0))):
        M[row, after] += 1
        M[row, now] -= 1 - 25 * STEP + MOMENTUM
        M[row, before] += MOMENTUM
        right[row] = STEP * offset
    return np.linalg.solve(M, right)


def main(x0: float = 3.3, steps: int = 300) -> dict[str, np.ndarray]:
    """Both orbits, and the cycle."""
    heavy = orbit(HeavyBall(step_size=STEP, momentum=MOMENTUM), x0, steps)
    nesterov = orbit(Nesterov("constant", STRONG), x0, steps)
    return {"heavy ball": heavy, "nesterov": nesterov, "cycle": cycle()}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    found = main()
    for name in ("heavy ball", "nesterov"):
        print(f"{name:12}", " ".join(f"{x:9.5f}" for x in found[name][-6:]))
    print(f"{'cycle':12}", " ".join(f"{x:9.5f}" for x in found["cycle"]))
