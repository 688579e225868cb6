"""Sparse-group lasso and nuclear-norm regression, each to the same duality gap, against skglm and PyProximal."""

from __future__ import annotations

import functools
import os

import numpy as np
from harness import Entry, main

from corollary.optim import Composite, Fista, LeastSquares, minimize, penalties

SMALL = bool(os.environ.get("COROLLARY_BENCH_SMALL"))  # a smoke run at a tiny size


@functools.cache
def _groups() -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """A design with correlated features in groups of 10, of which ten act, and 1/10 of the weight that zeroes all."""
    n, p = (60, 200) if SMALL else (1000, 10_000)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, p))
    X[:, 1:] = 0.4 * X[:, :-1] + 0.6 * X[:, 1:]
    labels = np.arange(p) // 10
    beta = np.where((labels % (p // 100) == 0) & (np.arange(p) % 10 < 4), rng.standard_normal(p), 0)
    y = X @ beta + rng.standard_normal(n)
    alpha = 1 / float(penalties.SparseGroupLasso(1.0, 0.5, labels, 10**0.5).dual_scaling(X.T @ y / 1e-12)) * 1e-12
    return X, y, labels, 0.1 * alpha


def _gap(problem: Composite, x: np.ndarray) -> float:
    """The duality gap at x relative to f(0), by the same code for everybody."""
    import jax
    import jax.numpy as jnp

    with jax.enable_x64(True):
        x = jnp.asarray(x)
        z = problem.smooth.forward(x)
        theta = problem.smooth.dual(z)
        lower = problem.lower_bound(theta, problem.smooth.adjoint(theta))
        return float((problem.objective(x) - lower) / problem.smooth.scale())


def sparse_group() -> Entry:
    X, y, labels, alpha = _groups()
    n, p = X.shape
    problem = Composite(LeastSquares(X, y), penalties.SparseGroupLasso(alpha, 0.5, labels, 10**0.5))
    tol = 1e-6

    def ours():
        return minimize(problem, tol=tol, max_steps=50_000).value

    def skglm():
        from skglm.datafits import QuadraticGroup
        from skglm.penalties import WeightedL1GroupL2
        from skglm.solvers import GroupBCD

        pointers, indices = np.arange(0, p + 1, 10, dtype=np.int32), np.arange(p, dtype=np.int32)
        weights = np.full(p // 10, 10**0.5)
        penalty = WeightedL1GroupL2(alpha / n, 0.5 * weights, np.full(p, 0.5), pointers, indices)
        fit, rule = QuadraticGroup(pointers, indices), GroupBCD(max_iter=200, tol=1e-6, ws_strategy="fixpoint")
        return rule.solve(np.asfortranarray(X), y, fit, penalty)[0]

    return Entry(
        name=f"sparse-group lasso {n} x {p}, groups of 10, alpha_max/10",
        quality="duality gap / f(0)",
        runs={"corollary": ours, "skglm GroupBCD": skglm},
        measure=lambda x: _gap(problem, x),
        bar=1.0,
        note="skglm's tolerance is on the subgradient: set so that its gap is at most ours.",
    )


@functools.cache
def _matrices() -> tuple[np.ndarray, np.ndarray, float]:
    n, p, k, rank = (40, 12, 8, 2) if SMALL else (2000, 300, 200, 8)
    rng = np.random.default_rng(1)
    A = rng.standard_normal((n, p))
    B = A @ (rng.standard_normal((p, rank)) @ rng.standard_normal((rank, k))) + rng.standard_normal((n, k))
    return A, B, 0.05 * float(np.linalg.norm(A.T @ B, 2))


def nuclear() -> Entry:
    A, B, alpha = _matrices()
    (n, p), k = A.shape, B.shape[1]
    problem = Composite(LeastSquares(A, B), penalties.Nuclear(alpha))
    tol = 1e-6

    def ours():
        return minimize(problem, tol=tol, solver=Fista(), max_steps=20_000).value

    def pyproximal(steps: int | None = None):
        import pylops
        import pyproximal as peer

        fit = peer.L2(Op=pylops.MatrixMult(A, otherdims=(k,)), b=B.ravel())
        penalty = peer.Nuclear((p, k), alpha)
        tau = 1 / np.linalg.norm(A, 2) ** 2
        found = peer.optimization.primal.ProximalGradient(
            fit, penalty, x0=np.zeros(p * k), tau=tau, niter=needed if steps is None else steps, acceleration="fista"
        )
        return np.asarray(found).reshape(p, k)

    needed = 10
    while needed < 2000 and _gap(problem, pyproximal(needed)) > tol:
        needed = int(1.3 * needed) + 1

    return Entry(
        name=f"nuclear-norm regression {n} x {p}, {k} targets, alpha_max/20",
        quality="duality gap / f(0)",
        runs={"corollary": ours, "PyProximal FISTA": pyproximal},
        measure=lambda x: _gap(problem, x),
        bar=1.0,
        repeats=3,
        note="PyProximal has no stopping rule on the gap: its number of steps is what the same gap takes.",
    )


if __name__ == "__main__":
    main("prox", [sparse_group, nuclear])
