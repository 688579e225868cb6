"""Derivatives of solutions: against closed forms and finite differences, in both modes, implicit and unrolled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.optim import Composite, Fista, LeastSquares, Logistic, hypergradient, implicit_root, minimize
from corollary.optim import penalties as P
from tests.core.test_labs import lab

N, D = 16, 6
SIGNS = np.where(np.random.default_rng(9).random(N) < 0.5, -1.0, 1.0)
PROBLEMS = {
    "lasso": lambda A, b, alpha: Composite(LeastSquares(A, b), P.L1(alpha)),
    "ridge": lambda A, b, alpha: Composite(LeastSquares(A, b), P.SquaredL2(alpha)),
    "logistic": lambda A, b, alpha: Composite(
        Logistic(A + b[:, None] / 10, jnp.asarray(SIGNS, A.dtype)), P.L1(alpha / 4)
    ),
}


def data(seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(N, D))
    b = A[:, :3].sum(1) + 0.3 * rng.normal(size=N)
    return jnp.asarray(A), jnp.asarray(b), jnp.asarray(2.0)


def loss_of(name, **how):
    """θ to a smooth function of the solution, which a gap of a few eps leaves with an error of √eps."""
    how = {"tol": 0.0, "max_steps": 400} | how

    def loss(theta):
        run = minimize(PROBLEMS[name](*theta), solver=Fista(), **how)
        return jnp.sum(jnp.sin(run.value)) + run.stats["objective"]

    return loss


@functools.cache
def compiled(name):
    loss = loss_of(name)
    both = jax.jit(jax.value_and_grad(loss))  # one program for the values and the gradients
    forward = jax.jit(lambda theta, d: jax.jvp(loss, (theta,), (d,))[1])
    return lambda theta: both(theta)[0], lambda theta: both(theta)[1], forward


def directions(theta, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)).astype(leaf.dtype), theta)


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_modes_agree_with_finite_differences(name, x64):
    loss, gradient, forward = compiled(name)
    theta, h = data(), 3e-3
    reverse = gradient(theta)
    for seed in range(3):
        d = directions(theta, seed)
        ends = [float(loss(jax.tree.map(lambda t, v: t + s * h * v, theta, d))) for s in (1, -1)]  # noqa: B023
        expected = (ends[0] - ends[1]) / (2 * h)
        along = sum(float(jnp.vdot(g, v)) for g, v in zip(reverse, d, strict=True))
        scale = sum(float(jnp.linalg.norm(g) * jnp.linalg.norm(v)) for g, v in zip(reverse, d, strict=True))
        assert abs(along - expected) <= 1e-4 * scale  # h² and √eps/h, times derivatives of the gradient's size
        if name != "ridge":
            assert abs(float(forward(theta, d)) - along) <= 1e-11 * scale


def test_ridge_is_the_closed_form(dtype):
    A, b, alpha = (leaf.astype(dtype) for leaf in data())

    def closed(theta):
        A, b, alpha = theta
        x = jnp.linalg.solve(A.T @ A + alpha * jnp.eye(D, dtype=dtype), A.T @ b)
        return jnp.sum(jnp.sin(x)) + jnp.sum((A @ x - b) ** 2) / 2 + alpha / 2 * x @ x

    found, expected = compiled("ridge")[1]((A, b, alpha)), jax.grad(closed)((A, b, alpha))
    condition = np.linalg.cond(np.asarray(A, float)) ** 2
    tol = 8 * float(jnp.finfo(dtype).eps) ** 0.5 * condition
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert float(jnp.linalg.norm(one - other)) <= tol * float(jnp.linalg.norm(other))


def test_unrolled_derivative_converges_to_the_implicit_one(x64):
    theta = data()
    implicit = compiled("lasso")[1](theta)
    unrolled = jax.jit(jax.grad(loss_of("lasso", differentiate="unroll", max_steps=150)))(theta)
    for one, other in zip(unrolled, implicit, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_second_derivative_and_vmap(x64):
    A, b, _ = data()
    loss = loss_of("lasso")

    def slope(alpha):
        return jax.grad(lambda a: loss((A, b, a)))(alpha)

    h, alphas = 1e-3, jnp.asarray([1.0, 2.0])
    slopes = jax.jit(jax.vmap(slope))
    expected = (slopes(alphas + h) - slopes(alphas - h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(slope)))(alphas), expected, rtol=1e-3)


def test_an_eager_gradient_runs_the_ordinary_program(x64, capsys, caplog):
    A, b, alpha = data()
    problem = PROBLEMS["lasso"]
    minimize(problem(A, b, alpha))
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for scale in (1.0, 1.5):
            caplog.clear()
            jax.grad(lambda a: minimize(problem(A, b, a), verbose=True).value.sum())(scale * alpha)
            built = {name for name in ("_start", "_advance", "_finish") if f"jit({name})" in caplog.text}
            assert not built
    assert "_solution_tangent" not in caplog.text  # the second time nothing is compiled
    assert "minimize" in capsys.readouterr().err


def test_a_function_may_close_over_what_it_is_differentiated_by(x64):
    A, b, alpha = data()

    def solution(alpha):
        def f(x):
            return jnp.sum((A @ x["w"] - b) ** 2) / 2 + alpha / 2 * jnp.sum(x["w"] ** 2)

        return minimize(f, {"w": jnp.zeros(D)}, tol=1e-11).value["w"].sum()

    inverse = jnp.linalg.inv(A.T @ A + alpha * jnp.eye(D))
    expected = -jnp.sum(inverse @ inverse @ A.T @ b)
    np.testing.assert_allclose(jax.grad(jax.jit(solution))(alpha), expected, rtol=1e-8)

    class Hidden:
        def __init__(self, alpha):
            self.alpha = alpha

        def __call__(self, x):
            return self.alpha * jnp.sum(x**2) - jnp.sum(x)

    with pytest.raises(InputError, match="closes over"):
        jax.jvp(lambda a: minimize(Composite(Hidden(a), P.L1(a)), jnp.ones(2)).value, (alpha,), (alpha,))


def test_rank_deficient_least_squares_has_the_derivative_of_the_least_norm_solution(x64):
    A, b, _ = data()
    A = A.at[:, 5].set(A[:, 0])

    def solution(b):
        return minimize(Composite(LeastSquares(A, b)), jnp.zeros(D), tol=1e-12).value

    np.testing.assert_allclose(jax.jacobian(solution)(b), jnp.linalg.pinv(A), atol=1e-9)


@pytest.mark.parametrize("solver", ["dense", "gmres", "cg", "neumann"])
def test_linear_solvers_agree(solver, x64):
    H = jnp.diag(jnp.asarray([0.5, 0.2, 0.9])) + 0.05

    def root(theta):  # H x + x³ = θ, a contraction x − F near the origin
        def equation(x, theta):
            return {"x": H @ x["x"] + x["x"] ** 3 - theta}

        def newton(_, x):
            return x - jnp.linalg.solve(H + 3 * jnp.diag(x**2), H @ x + x**3 - theta)

        x = jax.lax.fori_loop(0, 20, newton, jnp.zeros(3))
        return implicit_root(equation, {"x": x}, theta, solver=solver)["x"]

    theta = jnp.asarray([0.1, -0.2, 0.05])
    expected = jnp.linalg.inv(H + 3 * jnp.diag(root(theta) ** 2))
    np.testing.assert_allclose(jax.jit(jax.jacrev(root))(theta), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.covers("bilevel-hypergradient")
@pytest.mark.parametrize(
    ("method", "dtype"), [("cg", "float64"), ("cg", "float32"), ("neumann", "float64"), ("dense", "float64")]
)
def test_hypergradient_of_ridge_is_the_closed_form(method, dtype):
    rng = np.random.default_rng(1)
    A, b, V, w = (rng.normal(size=s).astype(dtype) for s in ((N, D), (N,), (8, D), (8,)))
    alpha = np.asarray(1.5, dtype)

    def ridge(alpha):
        return np.linalg.solve(A.T @ A + alpha * np.eye(D, dtype=dtype), A.T @ b)

    def inner(x, alpha):
        return jnp.sum((A @ x - b) ** 2) / 2 + alpha / 2 * x @ x

    def outer(x, alpha):
        return jnp.sum((V @ x - w) ** 2) / 2

    L = float(np.linalg.norm(A, 2) ** 2 + alpha)
    step = {"step_size": 1 / L} if method == "neumann" else {}
    x = ridge(alpha)
    tol = 1e-10 if dtype == "float64" else 1e-5
    run = hypergradient(inner, outer, x, alpha, method=method, tol=tol, **step)
    expected = -(V @ x - w) @ V @ np.linalg.solve(A.T @ A + alpha * np.eye(D, dtype=dtype), x)
    assert run.converged
    assert run.holds
    mu = np.linalg.eigvalsh(A.T @ A)[0] + alpha
    assert abs(run.value - expected) <= 4 * float(run.certificates["adjoint"].bound) * np.linalg.norm(x) / mu
    if dtype == "float64":
        h = 1e-5
        ends = [np.sum((V @ ridge(alpha + s * h) - w) ** 2) / 2 for s in (1, -1)]
        np.testing.assert_allclose(run.value, (ends[0] - ends[1]) / (2 * h), rtol=1e-7)


@pytest.mark.covers("bilevel-hypergradient")
def test_hypergradient_says_where_it_falls_short(x64):
    def inner(x, a):
        return jnp.sum(jnp.asarray([1.0, 1e6]) * x**2) / 2 - a * jnp.sum(x)

    def outer(x, a):
        return jnp.sum(x)

    x = jnp.asarray([1.0, 1e-6])
    short = hypergradient(inner, outer, x, 1.0, method="neumann", step_size=1e-6, max_steps=10)
    assert not short.converged
    assert not short.certificates["adjoint"].holds
    saddle = hypergradient(lambda x, a: -inner(x, a), outer, x, 1.0, method="dense")
    assert not saddle.certificates["curvature"].holds
    elsewhere = hypergradient(inner, outer, 10 * x, 1.0, method="dense")
    assert not elsewhere.converged  # no inner solution: nothing follows from the linear solve
    assert not elsewhere.certificates["stationarity"].holds
    for scale in (1e-12, 1e12):
        scaled = hypergradient(lambda x, p: p[1] * inner(x, p[0]), outer, x, (1.0, scale))
        np.testing.assert_allclose(scaled.value[0], 1 + 1e-6, rtol=1e-7)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: minimize(lambda x: x @ x, jnp.ones(2), differentiate="adjoint"), "differentiate: found 'adjoint'"),
        (lambda: implicit_root(lambda x: x, jnp.ones(2), solver="lu"), "solver: found 'lu'"),
        (lambda: hypergradient(jnp.vdot, jnp.vdot, [1.0], [1.0], method="qr"), "method: found 'qr'"),
        (lambda: hypergradient(jnp.vdot, jnp.vdot, [1.0], [1.0], method="neumann"), "step_size: found None"),
        (lambda: hypergradient(jnp.vdot, jnp.vdot, [np.nan], [1.0]), "x: found NaN"),
        (lambda: hypergradient(jnp.vdot, jnp.vdot, [1.0], [np.inf]), "parameters: found NaN"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_lab_hypergradient():
    module = lab("hypergradient")
    found, expected = module.finite_difference("lasso")
    assert found == pytest.approx(expected, rel=2e-3)
    with jax.enable_x64(True):
        arrays = module.data()
        _, losses = module.tune("lasso", arrays, steps=12)
        nearby = [float(module.value_and_slope(np.full(10, a), arrays, "lasso")[0]) for a in np.linspace(0, 4, 17)]
    assert min(losses) < losses[0] - 0.01
    assert min(losses) < min(nearby) + 1e-4
