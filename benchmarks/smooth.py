"""Smooth optimisation: L-BFGS against Optax, Optimistix and SciPy, Newton-type methods against SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import scipy.optimize
from harness import Entry, main

from corollary.optim import LBFGS, LBFGSB, Composite, NewtonCG, TrustRegion, minimize, penalties

jax.config.update("jax_enable_x64", True)
GRADIENT = 1e-6  # every runner goes on until ‖∇f‖ is below it


def rosenbrock(x: Any) -> Any:
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


gradient = jax.jit(jax.grad(rosenbrock))


def start(n: int) -> np.ndarray:
    return np.tile([-1.2, 1.0], n // 2)


def gradient_norm(x: Any) -> float:
    return float(np.linalg.norm(gradient(jnp.asarray(x))))


def _optax(memory: int) -> Callable[[Any], Any]:
    solver = optax.lbfgs(memory_size=memory)
    value_and_grad = optax.value_and_grad_from_state(rosenbrock)

    def body(carry: Any) -> Any:
        x, state, _, count = carry
        value, grad = value_and_grad(x, state=state)
        update, state = solver.update(grad, state, x, value=value, grad=grad, value_fn=rosenbrock)
        x = optax.apply_updates(x, update)
        return x, state, optax.tree.norm(optax.tree.get(state, "grad")), count + 1

    def going(carry: Any) -> Any:
        return (carry[2] > GRADIENT) & (carry[3] < 100_000)

    @jax.jit
    def run(x0: Any) -> Any:
        return jax.lax.while_loop(going, body, (x0, solver.init(x0), jnp.inf, 0))[0]

    return run


def _optimistix(memory: int, atol: float) -> Callable[[Any], Any]:
    solver = optx.LBFGS(rtol=0.0, atol=atol, history_length=memory, norm=optx.two_norm)

    @jax.jit
    def run(x0: Any) -> Any:
        return optx.minimise(lambda x, _: rosenbrock(x), solver, x0, max_steps=100_000, throw=False).value

    return run


def _relative(n: int) -> float:
    """The tolerance with which ours stops at that gradient norm."""
    return GRADIENT / gradient_norm(start(n))


def _scipy(x0: np.ndarray, method: str, **options: Any) -> Any:
    second = {"hess": scipy.optimize.rosen_hess} if method.startswith("trust") else {}
    second = {"hessp": scipy.optimize.rosen_hess_prod} if method in ("Newton-CG", "trust-ncg") else second
    return scipy.optimize.minimize(
        scipy.optimize.rosen, x0, jac=scipy.optimize.rosen_der, method=method, options=options, **second
    ).x


def lbfgs_rosenbrock(n: int = 1000, memory: int = 10) -> Entry:
    x0 = start(n)
    tol, theirs, there = _relative(n), _optax(memory), _optimistix(memory, 1e-8)
    return Entry(
        name=f"L-BFGS, chained Rosenbrock, n = {n}, memory {memory}, ‖∇f‖ ≤ 1e-6, float64",
        quality="gradient norm",
        runs={
            "corollary": lambda: np.asarray(minimize(rosenbrock, x0, LBFGS(memory), tol=tol, max_steps=100_000).value),
            "optax lbfgs": lambda: np.asarray(theirs(x0)),
            "optimistix LBFGS": lambda: np.asarray(there(x0)),
            "scipy L-BFGS-B": lambda: _scipy(
                x0, "L-BFGS-B", maxcor=memory, ftol=0, gtol=GRADIENT / n**0.5, maxiter=100_000, maxfun=100_000
            ),
        },
        measure=gradient_norm,
        bar=1.0,
        note="Optimistix stops on steps and falls of f, not on the gradient: its atol is set so that it gets there.",
    )


def bounded_rosenbrock(n: int = 1000) -> Entry:
    x0, low, high = start(n), np.full(n, -2.0), np.where(np.arange(n) % 3 == 0, 0.5, 2.0)
    problem = Composite(rosenbrock, penalties.Box(low, high))

    def projected(x: Any) -> float:
        g = np.asarray(gradient(jnp.asarray(x)))
        g = np.where((x <= low) & (g > 0) | (x >= high) & (g < 0), 0, g)
        return float(np.linalg.norm(g))

    tol = GRADIENT / projected(np.clip(x0, low, high))
    return Entry(
        name=f"L-BFGS in a box, chained Rosenbrock, n = {n}, ‖projected ∇f‖ ≤ 1e-6, float64",
        quality="projected gradient norm",
        runs={
            "corollary": lambda: np.asarray(minimize(problem, x0, LBFGSB(), tol=tol, max_steps=100_000).value),
            "scipy L-BFGS-B": lambda: (
                scipy.optimize.minimize(
                    scipy.optimize.rosen,
                    np.clip(x0, low, high),
                    jac=scipy.optimize.rosen_der,
                    method="L-BFGS-B",
                    bounds=np.stack([low, high], 1),
                    options={"ftol": 0, "gtol": GRADIENT / n**0.5, "maxiter": 100_000, "maxfun": 100_000},
                ).x
            ),
        },
        measure=projected,
        bar=1.0,
    )


def newton_cg(n: int = 1000) -> Entry:
    x0, tol = start(n), _relative(n)
    return Entry(
        name=f"Newton-CG, chained Rosenbrock, n = {n}, float64",
        quality="gradient norm",
        runs={
            "corollary": lambda: np.asarray(minimize(rosenbrock, x0, NewtonCG(), tol=tol).value),
            "scipy Newton-CG": lambda: _scipy(x0, "Newton-CG", xtol=1e-10, maxiter=100_000),
        },
        measure=gradient_norm,
        bar=1.0,
    )


def trust_region_exact(n: int = 100) -> Entry:
    x0, tol = start(n), _relative(n)
    return Entry(
        name=f"trust region, exact subproblem, chained Rosenbrock, n = {n}, float64",
        quality="gradient norm",
        runs={
            "corollary": lambda: np.asarray(minimize(rosenbrock, x0, TrustRegion(), tol=tol).value),
            "scipy trust-exact": lambda: _scipy(x0, "trust-exact", gtol=GRADIENT, maxiter=100_000),
        },
        measure=gradient_norm,
        bar=1.0,
    )


def trust_region_steihaug(n: int = 1000) -> Entry:
    x0, tol = start(n), _relative(n)
    return Entry(
        name=f"trust region, truncated CG, chained Rosenbrock, n = {n}, float64",
        quality="gradient norm",
        runs={
            "corollary": lambda: np.asarray(minimize(rosenbrock, x0, TrustRegion("steihaug"), tol=tol).value),
            "scipy trust-ncg": lambda: _scipy(x0, "trust-ncg", gtol=GRADIENT, maxiter=100_000),
        },
        measure=gradient_norm,
        bar=1.0,
    )


if __name__ == "__main__":
    main("smooth", [lbfgs_rosenbrock, bounded_rosenbrock, newton_cg, trust_region_exact, trust_region_steihaug])
