"""ADMM, consensus ADMM and the augmented Lagrangian: their theorems, cvxpy's optimum, eight devices, refusals."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.optim import (
    ADMM,
    Composite,
    Consensus,
    ConsensusADMM,
    LeastSquares,
    Logistic,
    Splitting,
    TwoBlock,
    augmented_lagrangian,
    minimize,
    soft_threshold,
)
from corollary.optim import penalties as P

M, N, ALPHA = 8, 5, 0.4


def data(seed, dtype="float64"):
    rng = np.random.default_rng(seed)
    return tuple(v.astype(dtype) for v in (rng.normal(size=(M, N)), rng.normal(size=N), rng.normal(size=M)))


def fit(b, x):
    return jnp.sum(jnp.square(x - b)) / 2


def absolute(z):
    return ALPHA * jnp.sum(jnp.abs(z))


def least_squares_step(A, b, v, rho):
    return jnp.linalg.solve(jnp.eye(N, dtype=A.dtype) + rho * (A.T @ A), b + rho * (A.T @ v))


def shrink(v, rho):
    return soft_threshold(-v, ALPHA / rho)


def two_block(A, b, c):
    """½‖x − b‖² + α‖z‖₁ subject to A x − z = c."""
    part = jax.tree_util.Partial
    return TwoBlock(part(fit, b), absolute, part(least_squares_step, A, b), shrink, A=A, B=-1.0, c=c)


@pytest.mark.covers("admm")
def test_residuals_vanish_the_energy_never_grows_and_averages_have_their_rate(x64):
    solver, rho = ADMM(rho=0.7, balance=False), 0.7

    def run(A, b, c):
        problem = two_block(A, b, c)
        state = solver.init(problem, (jnp.zeros(N), jnp.zeros(M)))

        def body(state, _):
            new, info = solver.step(problem, state)
            return new, (new.x[0], new.z, new.u, info.extra)

        last, found = jax.lax.scan(body, state, length=600)
        return (last.x, last.u), found

    A, b, c = (jnp.stack(parts) for parts in zip(*(data(seed) for seed in range(8)), strict=True))
    ((x_star, z_star), u_star), (x, z, u, residual) = jax.jit(jax.vmap(run))(A, b, c)
    for name in ("primal_residual", "dual_residual"):
        assert float(residual[name][:, -1].max()) <= 1e-9
    energy = rho * jnp.sum((z - z_star[:, None]) ** 2, -1) + jnp.sum((u - u_star[:, None]) ** 2, -1) / rho
    assert float(jnp.max(jnp.diff(energy[:, :200], axis=1))) <= 1e-12 * float(energy.max())

    t = np.arange(1, 201)
    values = jax.vmap(lambda b, x, z: jax.vmap(lambda x, z: fit(b, x) + absolute(z))(x, z))
    mean_x, mean_z = (np.cumsum(np.asarray(v)[:, :200], axis=1) / t[:, None] for v in (x, z))
    best = values(b, x_star[:, None], z_star[:, None])
    gap = np.asarray(values(b, jnp.asarray(mean_x), jnp.asarray(mean_z)) - best)
    # He & Yuan's inequality at the multiplier u = 0, from z0 = 0 and u0 = 0.
    assert np.all(gap <= rho * np.sum(np.asarray(z_star) ** 2, -1)[:, None] / (2 * t) + 1e-12)


@pytest.mark.covers("admm")
def test_reaches_cvxpys_optimum(dtype):
    cvxpy = pytest.importorskip("cvxpy")
    A, b, c = data(0)
    x = cvxpy.Variable(N)
    target = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x - b) / 2 + ALPHA * cvxpy.norm1(A @ x - c)))
    target.solve("CLARABEL")
    tol = 1e-9 if dtype == "float64" else 1e-5
    problem, start = two_block(*(jnp.asarray(v, dtype) for v in data(0))), (jnp.zeros(N, dtype), jnp.zeros(M, dtype))
    for rho in (1.0, 10.0):  # one compilation
        solution = minimize(problem, start, ADMM(rho=rho, relaxation=1.6), tol=tol, history=True, max_steps=500)
        assert solution.converged
        assert solution.holds
        assert solution.value[0].dtype == dtype
        np.testing.assert_allclose(solution.value[0], x.value, atol=1e3 * tol + 1e-6)
    assert {"primal_residual", "dual_residual"} <= set(solution.history)


@pytest.mark.covers("admm")
def test_twin_and_history(x64):
    """The paper's three lines, written plainly."""
    A, b, c = data(3)
    x, z, u, rho = np.zeros(N), np.zeros(M), np.zeros(M), 2.0
    for _ in range(20):
        x = np.linalg.solve(np.eye(N) + rho * A.T @ A, b + rho * A.T @ (z + c - u / rho))
        v = A @ x - c + u / rho
        z = np.sign(v) * np.maximum(abs(v) - ALPHA / rho, 0)
        u = u + rho * (A @ x - z - c)
    solver = ADMM(rho=rho, balance=False)
    problem = two_block(*map(jnp.asarray, (A, b, c)))
    state = solver.init(problem, (jnp.zeros(N), jnp.zeros(M)))
    state = jax.jit(lambda s: jax.lax.fori_loop(0, 20, lambda _, s: solver.step(problem, s)[0], s))(state)
    for ours, theirs in ((state.x[0], x), (state.z, z), (state.u, u)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.covers("admm")
@pytest.mark.parametrize("c", [1e-12, 1.0, 1e12])
def test_splitting_linearised_and_rescaled(c):
    """½‖A x − b‖² + α‖D x‖₁ over x ≥ 0 with the x-step linearised; objective and variables rescaled."""
    A, _, b = data(4)
    D = np.diff(np.eye(N), axis=0)

    def solve(s, u):
        problem = Splitting(P.Nonnegative(), P.L1(s * 0.3 / u), D, smooth=LeastSquares(s**0.5 * A / u, s**0.5 * b))
        return minimize(problem, None, ADMM(relaxation=1.5), tol=1e-8, max_steps=5000)

    plain, scaled = solve(1.0, 1.0), [solve(c, 1.0), solve(1.0, c)]
    problem = Composite(LeastSquares(A, b))
    assert plain.converged
    for solution, u in zip(scaled, (1.0, c), strict=True):
        assert solution.converged
        np.testing.assert_allclose(solution.value / u, plain.value, atol=1e-6)
    # Optimal: no feasible neighbour along the axes or differences is better.
    objective = Splitting(P.Nonnegative(), P.L1(0.3), D, smooth=problem.smooth).objective
    best, rng = objective(plain.value), np.random.default_rng(0)
    for size in (1e-1, 1e-3):
        near = np.maximum(plain.value + size * rng.normal(size=(20, N)), 0)
        assert all(objective(x) >= best - 1e-7 for x in near)


def shards(seed=0, n=48):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, N))
    b = A @ np.array([2.0, -1.0, 0.0, 0.0, 0.5]) + 0.3 * rng.normal(size=n)
    return A, b


def squares(x, d):
    return jnp.sum(jnp.square(d[0] @ x - d[1])) / 2


def logistic(x, d):
    return jnp.sum(jax.nn.softplus(-d[1] * (d[0] @ x)))


@pytest.mark.covers("consensus-admm")
@pytest.mark.parametrize("loss", ["lasso", "logistic"])
def test_consensus_is_the_centralised_solution_whatever_the_shards(loss):
    A, b = shards()
    y = np.where(b > 0, 1.0, -1.0)
    target, smooth, local, steps = {
        "lasso": (b, LeastSquares(A, b), squares, 1),
        "logistic": (y, Logistic(A, y), logistic, 3),
    }[loss]
    central = minimize(Composite(smooth, P.L1(2.0)), tol=1e-13).value
    for count in (2, 6):
        data = A.reshape(count, -1, N), target.reshape(count, -1)
        problem = Consensus(local, data, P.L1(2.0))
        solution = minimize(problem, np.zeros(N), ConsensusADMM(newton_steps=steps), tol=1e-8, max_steps=2000)
        assert solution.converged
        assert solution.holds
        np.testing.assert_allclose(solution.value, central, atol=1e-6)


PROGRAM = """
import json
import jax, jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from corollary import optim
from corollary.core import compile_cache
from tests.optim.test_admm import shards, squares

compile_cache.enable(".cache/xla")
A, b = (jnp.asarray(v, jnp.float32) for v in shards())
data = A.reshape(8, 6, -1), b.reshape(8, 6)
mesh = Mesh(jax.devices(), ("shards",))
spread = jax.device_put(data, NamedSharding(mesh, PartitionSpec("shards")))
values = []
for where, solver in ((data, optim.ConsensusADMM()), (spread, optim.ConsensusADMM(mesh=mesh))):
    problem = optim.Consensus(squares, where, optim.penalties.L1(2.0))
    solution = optim.minimize(problem, jnp.zeros(5), solver, tol=1e-5)
    values.append((solution.value.tolist(), int(solution.steps), bool(solution.converged)))
print(json.dumps([len(jax.devices()), *values]))
"""


@pytest.mark.slow
@pytest.mark.covers("consensus-admm")
def test_eight_devices_agree_with_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", PROGRAM]
    out = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **flags}, check=False)
    assert out.returncode == 0, out.stderr[-2000:]
    count, (one, steps, converged), (eight, steps_eight, converged_eight) = json.loads(out.stdout.splitlines()[-1])
    assert count == 8
    assert converged
    assert converged_eight
    assert abs(steps - steps_eight) <= 2
    np.testing.assert_allclose(one, eight, atol=1e-4)


@pytest.mark.covers("augmented-lagrangian")
@pytest.mark.parametrize("seed", range(3))
def test_augmented_lagrangian(seed, x64):
    rng = np.random.default_rng(seed)
    A, B, x, z = (jnp.asarray(rng.normal(size=s)) for s in ((M, N), (M, 3), N, 3))

    def f(x):
        return jnp.sum(jnp.cosh(x))

    def g(z):
        return jnp.sum(z**4)

    c = A @ x + B @ z
    for rho in (0.0, 1.0, 100.0):
        u = jnp.asarray(rng.normal(size=M))
        at_feasible = augmented_lagrangian(f, g, A, B, c, x, z, u, rho)
        np.testing.assert_allclose(at_feasible.value, f(x) + g(z), rtol=1e-13)
        np.testing.assert_allclose(at_feasible.gradient_u, 0.0, atol=1e-13)

        other = x + 0.3

        def value(x, z, u, rho=rho):
            r = A @ x + B @ z - c
            return f(x) + g(z) + u @ r + rho / 2 * r @ r

        found = augmented_lagrangian(f, g, A, B, c, other, z, u, rho)
        expected = jax.grad(value, argnums=(0, 1, 2))(other, z, u)
        ours = (found.gradient_x, found.gradient_z, found.gradient_u)
        np.testing.assert_allclose(found.value, value(other, z, u), rtol=1e-12)
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.gradient_u, A @ other + B @ z - c, rtol=1e-12)
        through = jax.grad(lambda u, x=other, rho=rho: augmented_lagrangian(f, g, A, B, c, x, z, u, rho).value)(u)
        np.testing.assert_allclose(through, found.gradient_u, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ADMM(rho=0.0), "rho: found"),
        (lambda: ADMM(relaxation=2.0), "relaxation: found"),
        (lambda: ADMM().check(Composite(LeastSquares([[1.0]], [1.0]))), "problem: found Composite"),
        (lambda: TwoBlock(1.0, absolute, shrink, shrink), "f: found float"),
        (lambda: Consensus(squares, np.zeros(())), "data: found leading axes"),
        (lambda: Consensus(squares, (np.zeros((2, 1)), np.zeros((3, 1)))), "data: found leading axes"),
        (lambda: Consensus(squares, np.zeros((2, 1)), P.L0(1.0)), "penalty: found L0"),
        (lambda: ConsensusADMM(newton_steps=0), "newton_steps: found"),
        (lambda: augmented_lagrangian(fit, fit, None, None, None, [1.0], [1.0], [1.0], -1.0), "rho: found"),
        (lambda: augmented_lagrangian(absolute, absolute, None, None, None, [1.0], [1.0], [1.0, 2.0]), "u: found"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_no_success_far_out_after_an_overshoot(x64):
    """At x0 the exponential is flat: an undamped step ends where the gradient is 1e20."""
    problem = Splitting(P.L1(1.0), P.L1(1.0), [[1.0, -1.0]], lambda x: jnp.sum(jnp.exp(x) - 5 * x))
    solution = minimize(problem, np.full(2, -3.0), ADMM(), tol=1e-6)
    assert solution.converged
    assert np.allclose(solution.value, np.log(4.0), atol=1e-5)
    shards = Consensus(lambda x, d: jnp.sum(jnp.exp(x) - d * x), np.full((2, 1), 5.0))
    solution = minimize(shards, [-3.0], tol=1e-6)
    assert solution.converged
    assert np.allclose(solution.value, np.log(5.0), atol=1e-5)
