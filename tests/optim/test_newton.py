"""Newton's method and its kin: rates, invariance, models, saddles, lazy factors, truncated directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.tree_util import Partial

from corollary import optim
from corollary.core import InputError, Status
from corollary.optim import (
    Composite,
    CubicNewton,
    Lazy,
    LeastSquares,
    Newton,
    NewtonCG,
    RegularizedNewton,
    functions,
    minimize,
    newton_model,
    penalties,
    regularized_newton_step,
)

N = 4


def bowl(B, x):
    """Strictly convex, not quadratic, minimum at 0."""
    return jnp.sum(jnp.cosh(B @ x))


def saddle(x):
    """Saddle at 0, minima at (0, ±1)."""
    return x[0] ** 2 + (x[1] ** 2 - 1) ** 2


def matrices(count, dtype=float):
    rng = np.random.default_rng(0)
    return np.stack([rng.normal(size=(N, N)) + 2 * np.eye(N) for _ in range(count)]).astype(dtype)


def iterates(solver, f, x0, steps):
    problem = Composite(f)

    @jax.jit
    def run(x0):
        state = solver.init(problem, x0)
        _, xs = jax.lax.scan(lambda s, _: ((new := solver.step(problem, s)[0]), new.x), state, length=steps)
        return jnp.concatenate([x0[None], xs])

    return np.asarray(run(jnp.asarray(x0)))


@pytest.mark.covers("newton")
def test_one_step_solves_a_quadratic(x64):
    B = jnp.asarray(matrices(5))
    b = jnp.asarray(np.random.default_rng(1).normal(size=(5, N)))

    def solve(B, b):
        f = Partial(lambda B, b, x: x @ (B.T @ B) @ x / 2 - b @ x, B, b)
        return minimize(f, jnp.ones(N), Newton(), tol=1e-9, max_steps=5)

    solution = jax.vmap(solve)(B, b)
    assert np.all(solution.steps == 1)
    assert np.all(solution.converged)
    expected = np.stack([np.linalg.solve(M.T @ M, c) for M, c in zip(B, b, strict=True)])
    np.testing.assert_allclose(solution.value, expected, rtol=1e-9)


@pytest.mark.covers("newton")
def test_error_is_squared_and_coordinates_do_not_matter(x64):
    B = matrices(1)[0]
    T = np.random.default_rng(2).normal(size=(N, N)) + 3 * np.eye(N)
    x0 = np.array([0.05, -0.02, 0.03, 0.02])
    solver = Newton(line_search=False)
    xs = iterates(solver, lambda x: bowl(jnp.asarray(B), x) + jnp.sum(x**3), x0, 5)
    ys = iterates(
        solver, lambda y: bowl(jnp.asarray(B @ T), y) + jnp.sum((jnp.asarray(T) @ y) ** 3), np.linalg.solve(T, x0), 5
    )
    np.testing.assert_allclose(ys @ T.T, xs, atol=1e-12)
    error = np.linalg.norm(xs, axis=1)
    ratios = error[1:4] / error[:3] ** 2
    assert error[4] < 1e-11
    assert ratios.max() < 10
    # plain Newton is that iteration: a naive twin
    x = x0
    for k in range(3):
        H = B.T @ np.diag(np.cosh(B @ x)) @ B + np.diag(6 * x)
        x = x - np.linalg.solve(H, B.T @ np.sinh(B @ x) + 3 * x**2)
        np.testing.assert_allclose(xs[k + 1], x, atol=1e-13)


@pytest.mark.covers("newton")
def test_model_and_its_decrease(dtype):
    rng = np.random.default_rng(3)
    A = rng.normal(size=(N, N))
    A = (A @ A.T + np.eye(N)).astype(dtype)
    b, x = rng.normal(size=(2, N)).astype(dtype)
    solution = newton_model(lambda x: x @ A @ x / 2 - b @ x, x)
    g = (A @ x - b).astype(float)
    eps, exact = np.finfo(dtype).eps, A.astype(float)
    assert solution.value.dtype == dtype
    assert solution.holds
    assert solution.converged
    np.testing.assert_allclose(g + exact @ solution.value, 0, atol=100 * eps * np.linalg.norm(exact))
    decrease = g @ np.linalg.solve(exact, g) / 2
    np.testing.assert_allclose(solution.stats["decrease"], decrease, rtol=200 * eps)
    np.testing.assert_allclose(
        solution.stats["model"],
        float(solution.stats["objective"]) - decrease,
        rtol=200 * eps,
        atol=100 * eps * decrease,
    )


@pytest.mark.covers("newton")
def test_model_without_a_minimum_says_so():
    solution = newton_model(saddle, [0.1, 0.1])
    assert solution.status == Status.UNBOUNDED
    assert not solution.stats["bounded"]
    assert solution.stats["decrease"] == np.inf
    assert not solution.holds


@pytest.mark.covers("regularized-newton")
@pytest.mark.parametrize("mode", ["shift", "absolute"])
def test_regularised_leaves_a_saddle_that_attracts_newton(mode, x64):
    attracted = minimize(saddle, [0.3, 0.05], Newton(line_search=False), tol=1e-12, max_steps=20)
    np.testing.assert_allclose(attracted.value, 0, atol=1e-10)
    solution = minimize(saddle, [0.3, 0.05], RegularizedNewton(mode), tol=1e-12)
    np.testing.assert_allclose(solution.value, [0, 1], atol=1e-8)
    assert solution.converged
    assert solution.stats["indefinite_steps"] > 0


@pytest.mark.covers("regularized-newton")
def test_regularised_step_between_newton_and_gradient(x64):
    rng = np.random.default_rng(4)
    M = rng.normal(size=(N, N))
    H, g = M @ M.T + np.eye(N), rng.normal(size=N)
    newton = -np.linalg.solve(H, g)
    np.testing.assert_allclose(regularized_newton_step(g, H, shift=1e-10).value, newton, rtol=1e-8)
    np.testing.assert_allclose(regularized_newton_step(g, H).value, newton, rtol=1e-11)
    np.testing.assert_allclose(regularized_newton_step(g, H, shift=1e9).value, -g / 1e9, rtol=1e-7)
    indefinite = H - 2 * np.linalg.eigvalsh(H)[-2] * np.eye(N)
    low = np.linalg.eigvalsh(indefinite)[0]
    for mode in ("shift", "absolute"):
        solution = regularized_newton_step(g, indefinite, mode=mode)
        assert solution.stats["slope"] < 0
        assert solution.holds
    # λ > 0 alone is not enough: it has to exceed −λ_min
    v = np.linalg.eigh(indefinite)[1][:, 0]
    solution = regularized_newton_step(v, indefinite, shift=-0.5 * low)
    assert solution.stats["slope"] > 0
    assert not solution.holds
    assert solution.status == Status.UNBOUNDED
    Q, values = np.linalg.eigh(indefinite)[1], np.linalg.eigvalsh(indefinite)
    expected = -Q @ ((Q.T @ g) / np.maximum(np.abs(values), 1e-3 * np.abs(values).max()))
    np.testing.assert_allclose(regularized_newton_step(g, indefinite, mode="absolute").value, expected, rtol=1e-9)


@pytest.mark.covers("regularized-newton")
def test_cubic_leaves_the_saddle(dtype):
    solution = minimize(saddle, np.array([0.3, 0.05], dtype), CubicNewton(), tol=1e-5)
    np.testing.assert_allclose(solution.value, [0, 1], atol=1e-4)
    assert solution.value.dtype == dtype
    assert solution.converged


@pytest.mark.covers("newton-cg")
def test_newton_cg_finds_scipys_minimum(x64):
    f = functions.rosenbrock(n=6)
    solution = minimize(f, f.x0, NewtonCG(), tol=1e-10)
    assert solution.converged
    theirs = scipy.optimize.minimize(
        scipy.optimize.rosen,
        f.x0,
        method="Newton-CG",
        jac=scipy.optimize.rosen_der,
        hessp=scipy.optimize.rosen_hess_prod,
    )
    assert theirs.success
    np.testing.assert_allclose(solution.value, theirs.x, atol=1e-4)
    assert solution.stats["products"] < 4 * theirs.nhev


@pytest.mark.covers("newton-cg")
def test_newton_cg_is_superlinear_where_the_forcing_vanishes(x64):
    B, x0 = jnp.asarray(matrices(1)[0]), np.full(N, 0.3)
    f = Partial(bowl, B)
    fast = np.linalg.norm(iterates(NewtonCG(), f, x0, 9), axis=1)
    slow = np.linalg.norm(iterates(NewtonCG(forcing=0.3), f, x0, 9), axis=1)
    ratio = fast[1:] / np.maximum(fast[:-1], 1e-300)
    live = fast[1:] > 1e-13
    assert ratio[live][-1] < 0.1 * ratio[live][0]  # the factor itself goes to zero
    assert fast[-1] < 1e-3 * slow[-1]


@pytest.mark.covers("newton-cg")
def test_negative_curvature_gives_a_descent_direction(x64):
    solver, problem = NewtonCG(), Composite(saddle)

    @jax.jit
    def first(x0):
        state = solver.init(problem, x0)
        new, info = solver.step(problem, state)
        return info.objective, jax.grad(saddle)(x0) @ (new.x - x0), new.descent.indefinite, problem.objective(x0)

    starts = jnp.asarray(np.random.default_rng(5).uniform(-0.4, 0.4, size=(20, 2)))
    value, slope, indefinite, before = jax.vmap(first)(starts)
    assert np.all(slope < 0)
    assert np.all(value < before)
    assert np.any(indefinite)


@pytest.mark.covers("lazy-curvature")
def test_lazy_with_one_is_the_method_itself(x64):
    B, x0 = jnp.asarray(matrices(1)[0]), np.full(N, 0.3)
    f = Partial(bowl, B)
    plain = iterates(Newton(), f, x0, 5)
    np.testing.assert_array_equal(iterates(Lazy(Newton(), 1), f, x0, 5), plain)
    error = np.linalg.norm(iterates(Lazy(Newton(), 3), f, x0, 12), axis=1)[::3]
    live = error[1:] > 1e-14
    ratio = (error[1:] / error[:-1])[live]
    assert error[-1] < 1e-14
    assert np.all(ratio[1:] < 0.1 * ratio[:-1])  # superlinear from cycle to cycle


@pytest.mark.covers("lazy-curvature")
def test_lazy_factors_less_often(x64):
    f = Partial(bowl, jnp.asarray(matrices(1)[0]))
    solution = minimize(f, np.full(N, 1.0), Lazy(RegularizedNewton(), 4), tol=1e-10)
    assert solution.converged
    assert solution.stats["factorizations"] == -(-int(solution.steps) // 4)


def test_any_pytree_and_data_terms(x64):
    A = np.random.default_rng(6).normal(size=(9, N))
    b = np.arange(9.0)
    expected = np.linalg.lstsq(A, b, rcond=None)[0]
    solution = minimize(Composite(LeastSquares(A, b)), solver=Newton(), tol=1e-12)
    np.testing.assert_allclose(solution.value, expected, atol=1e-12)
    tree = {"left": jnp.zeros(1), "right": (jnp.zeros((1, 3)),)}

    def f(t):
        return jnp.sum((jnp.asarray(A) @ jnp.concatenate([t["left"], t["right"][0][0]]) - b) ** 2)

    found = minimize(f, tree, NewtonCG(), tol=1e-11).value
    np.testing.assert_allclose(np.concatenate([found["left"], found["right"][0][0]]), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Newton(line_search=3), "line_search: found 3, expected True or False"),
        (lambda: RegularizedNewton("both"), "mode: found 'both'"),
        (lambda: RegularizedNewton(damping=0.0), "damping: found 0.0"),
        (lambda: NewtonCG(max_inner=0), "max_inner: found 0"),
        (lambda: NewtonCG(forcing=1.5), "forcing: found 1.5"),
        (lambda: Lazy(NewtonCG()), "solver: found NewtonCG, expected one that factors a Hessian"),
        (lambda: Lazy(Newton(), 0), "every: found 0"),
        (lambda: CubicNewton(sigma=-1.0), "sigma: found -1.0"),
        (lambda: minimize(Composite(saddle, penalties.L1(1.0)), [0.0, 0.0], Newton()), "problem: found the penalty L1"),
        (lambda: regularized_newton_step([1.0, 2.0], np.eye(3)), "hessian: found shape"),
        (lambda: regularized_newton_step([1.0, 2.0], [[1.0, 2.0], [0.0, 1.0]]), "hessian: found a matrix that is not"),
        (lambda: newton_model(saddle, [np.inf, 0.0]), "x: found NaN or infinity"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_singular_and_unbounded_models(x64):
    run = optim.newton_model(lambda x: (x[0] + x[1] - 1) ** 2, [0.0, 0.0])
    np.testing.assert_allclose(run.value, 0.5)
    assert run.status == 0
    assert run.holds
    assert optim.newton_model(lambda x: x[0] ** 2 + x[1], [0.0, 0.0]).status == Status.UNBOUNDED
    assert optim.newton_model(lambda x: x[0] ** 2 - x[1] ** 2, [0.0, 1.0]).status == Status.UNBOUNDED
    for c in (1.0, 1e-12):
        run = optim.steihaug_cg(c * np.diag([-2.0, 1.0]), c * np.ones(2), np.inf)
        assert run.status == Status.UNBOUNDED
        first = run.value if c == 1.0 else first
    np.testing.assert_allclose(run.value, first)
    with pytest.raises(InputError, match="max_steps"):
        optim.steihaug_cg(np.eye(2), np.ones(2), 1.0, max_steps=-3)
