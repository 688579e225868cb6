"""Paths that only save time: loops in order, bounds looked for before factorising, working sets of groups."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from corollary.core import InputError
from corollary.optim import (
    LBFGS,
    Composite,
    Fista,
    LeastSquares,
    Logistic,
    _in_order,
    box_qp,
    functions,
    minimize,
    nnls,
)
from corollary.optim import _minimize as driver
from corollary.optim import penalties as P
from corollary.optim.proximal import _group_working_set as sets
from corollary.optim.proximal._group_working_set import GroupWorkingSet
from corollary.optim.splitting import _bounded_host as host

LARGE = 280  # variables: beyond host.MANY


# Loops in order


def test_a_loop_in_order_takes_the_same_steps(monkeypatch):
    f = functions.rosenbrock(n=6)
    run = functools.partial(minimize, f, f.x0, LBFGS(), tol=1e-9)
    here = run()
    size = driver._advance_in_order._cache_size()
    again = minimize(f, f.x0 + 0.1, LBFGS(), tol=1e-8, max_steps=777)
    assert bool(again.converged)
    assert driver._advance_in_order._cache_size() == size  # other values compile nothing
    monkeypatch.setattr(_in_order, "pays", lambda tree: False)
    there = run()
    assert bool(here.converged)
    assert bool(there.converged)
    assert abs(int(here.steps) - int(there.steps)) <= 2  # other fusions round otherwise
    np.testing.assert_allclose(here.value, there.value, rtol=1e-7)


def test_only_small_loops_on_one_cpu_run_in_order():
    assert _in_order.pays([jnp.zeros(8)]) == _in_order._known()
    assert not _in_order.pays([jnp.zeros(_in_order.SMALL // 4 + 1, jnp.float32)])
    assert not _in_order.pays([])
    assert not _in_order.pays([jnp.zeros(8), np.zeros(_in_order.SMALL // 8 + 1)])  # data that stay on the host


# Bounds


def quadratic(seed, n=LARGE, dtype="float64"):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(2 * n, n))
    b = A @ np.maximum(rng.normal(size=n), 0) + 0.5 * rng.normal(size=2 * n)
    return (A.T @ A).astype(dtype), (-A.T @ b).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_box_quadratics_with_many_variables_are_solved_and_certified(dtype):
    for seed in range(3):
        P_, q = quadratic(seed, dtype=dtype)
        tol = 1e-9 if dtype == "float64" else 1e-5
        solution = box_qp(P_, q, (-0.1, 0.5), tol=tol)
        assert bool(solution.converged)
        assert bool(solution.holds)
        assert solution.value.dtype == dtype
        x, g = solution.value, P_.astype(float) @ solution.value + q
        low, high = np.float64(np.asarray(-0.1, dtype)), np.float64(np.asarray(0.5, dtype))
        left = np.where(x <= low, np.minimum(g, 0), np.where(x >= high, np.maximum(g, 0), g))
        size = np.linalg.norm(q) + np.linalg.norm(P_ @ x)
        assert np.linalg.norm(left) <= (tol + 64 * np.finfo(dtype).eps) * size
        assert int(solution.steps) <= 6


def test_nnls_with_many_columns_agrees_with_scipy_and_keeps_its_scale():
    rng = np.random.default_rng(5)
    A = rng.normal(size=(LARGE + 40, LARGE))
    b = A @ np.maximum(rng.normal(size=LARGE), 0) + rng.normal(size=len(A))
    expected = scipy.optimize.nnls(A, b)[0]
    solution = nnls(A, b)
    assert bool(solution.holds)
    np.testing.assert_allclose(solution.value, expected, atol=1e-9 * np.abs(expected).max())
    for c in (1e-12, 1e12):
        np.testing.assert_allclose(nnls(A * c, b).value * c, expected, atol=1e-9 * np.abs(expected).max())
        np.testing.assert_allclose(nnls(A, b * c).value / c, expected, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_singular_quadratics_are_followed_into_their_null_space(place, x64):
    rng = np.random.default_rng(0)
    B, q = rng.normal(size=(20, 5)), rng.normal(size=20)
    solution = box_qp(place(B @ B.T), place(q), (-1.0, 1.0))
    assert bool(solution.converged)
    assert bool(solution.holds)
    assert solution.certificates["duality_gap"].measured <= 1e-8 * abs(solution.stats["objective"])


def test_looking_for_bounds_lowers_the_objective_and_stays_inside():
    for seed, (low, high) in enumerate([(-0.1, 0.5), (0.0, np.inf), (-np.inf, np.inf), (-1e-3, 1e-3)]):
        P_, q = quadratic(seed, 40)
        lower, upper = np.full(40, low), np.full(40, high)
        x0 = np.clip(np.ones(40), lower, upper)
        x = host._looked(P_, x0, P_ @ x0 + q, lower, upper)
        assert np.all((x >= lower) & (x <= upper))
        assert x @ P_ @ x / 2 + q @ x < x0 @ P_ @ x0 / 2 + q @ x0
    nothing = np.zeros((40, 40))
    assert np.array_equal(host._looked(nothing, x0, q, lower, upper), x0)  # without curvature there is no length


@pytest.mark.parametrize(("least", "definite"), [(1.0, True), (0.0, True), (-1e-9, False), (-1e-4, False)])
def test_definiteness_is_never_claimed_of_an_indefinite_matrix(least, definite):
    rng = np.random.default_rng(3)
    Q = np.linalg.qr(rng.normal(size=(LARGE, LARGE)))[0]
    values = rng.uniform(1, 10, LARGE)
    values[0] = least
    matrix = (Q * values) @ Q.T
    for scale in (1.0, 1e-200, 1e200):
        assert host._definite((matrix + matrix.T) * scale) is definite


# Working sets of groups


def grouped(seed=0, dtype="float64", n=60, p=240):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(n, p))
    A[:, 1:] = 0.4 * A[:, :-1] + 0.6 * A[:, 1:]
    labels = np.arange(p) // 6
    x = np.where((labels % 10 == 0) & (np.arange(p) % 6 < 3), rng.normal(size=p), 0)
    return A.astype(dtype), (A @ x + 0.3 * rng.normal(size=n)).astype(dtype), labels


def penalty(kind, labels, alpha=3.0):
    weights = np.sqrt(np.bincount(labels))
    return (
        P.SparseGroupLasso(alpha, 0.5, labels, weights) if kind == "sparse" else P.GroupLasso(alpha * weights, labels)
    )


@pytest.mark.parametrize("kind", ["sparse", "group"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_working_set_reaches_the_gap_in_few_passes(kind, dtype):
    A, b, labels = grouped(dtype=dtype)
    tol = 1e-8 if dtype == "float64" else 1e-4
    problem = Composite(LeastSquares(A, b), penalty(kind, labels))
    solution = minimize(problem, solver=GroupWorkingSet(96), tol=tol)
    other = minimize(problem, solver=Fista(), tol=tol, max_steps=20_000)
    assert bool(solution.converged)
    assert bool(solution.holds)
    assert solution.value.dtype == dtype
    assert int(solution.steps) < int(other.steps) / 4
    gap = solution.certificates["duality_gap"].measured + other.certificates["duality_gap"].measured
    assert abs(solution.stats["objective"] - other.stats["objective"]) <= gap + 64 * np.finfo(dtype).eps * (b @ b)


def test_an_answer_that_does_not_fit_is_found_by_fista():
    A, b, labels = grouped(1)
    problem = Composite(LeastSquares(A, b), penalty("sparse", labels, 0.5))
    solution = minimize(problem, solver=GroupWorkingSet(8), tol=1e-7, max_steps=20_000)
    assert bool(solution.converged)
    assert np.sum(solution.value != 0) > 8
    start = np.ones(A.shape[1])  # more entries than the set holds
    assert bool(minimize(problem, start, GroupWorkingSet(96), tol=1e-7, max_steps=20_000).converged)


def test_a_working_set_keeps_the_scale():
    A, b, labels = grouped(2)
    weights = np.sqrt(np.bincount(labels))
    run = functools.partial(minimize, solver=GroupWorkingSet(96), tol=1e-9)
    expected = run(Composite(LeastSquares(A, b), P.SparseGroupLasso(3.0, 0.5, labels, weights))).value
    for c in (1e-12, 1e12):
        rescaled = Composite(LeastSquares(A, b * c), P.SparseGroupLasso(3.0 * c, 0.5, labels, weights))
        np.testing.assert_allclose(run(rescaled).value / c, expected, atol=1e-4 * np.abs(expected).max())


def test_a_step_never_raises_the_objective():
    A, b, labels = grouped(3)
    problem = Composite(LeastSquares(A, b), penalty("sparse", labels))
    objective = minimize(problem, solver=GroupWorkingSet(24), tol=1e-10, max_steps=30, history=True).history[
        "objective"
    ]
    objective = objective[np.isfinite(objective)]
    assert len(objective) > 1
    assert np.all(np.diff(objective) <= 1e-12 * objective[0])


def test_working_sets_are_the_default_of_large_group_problems_only():
    A, b, labels = grouped()
    rng = np.random.default_rng(0)
    wide = LeastSquares(rng.normal(size=(512, 2400)).astype(np.float32), rng.normal(size=512).astype(np.float32))
    many = np.arange(2400) // 6
    assert isinstance(Composite(wide, P.GroupLasso(1.0, many)).default_solver()[0], GroupWorkingSet)
    assert isinstance(Composite(wide, P.L1(1.0)).default_solver()[0], Fista)
    assert isinstance(Composite(LeastSquares(A, b), P.GroupLasso(1.0, labels)).default_solver()[0], Fista)
    inside = []

    def traced(alpha):
        inside.append(sets.suits(Composite(wide, P.GroupLasso(alpha, many))))
        return alpha

    jax.jit(traced)(1.0)
    assert inside == [False]  # both branches of a batch would be computed


@pytest.mark.parametrize(
    "problem",
    [
        lambda A, b, g: Composite(LeastSquares(A, b), P.L1(1.0)),
        lambda A, b, g: Composite(Logistic(A, b > 0), P.GroupLasso(1.0, g)),
        lambda A, b, g: Composite(LeastSquares(A, np.stack([b, b], 1)), P.GroupLasso(1.0)),
    ],
)
def test_other_problems_are_refused(problem):
    with pytest.raises(InputError, match="problem: found another, expected LeastSquares of a dense matrix"):
        minimize(problem(*grouped()), solver=GroupWorkingSet())
    with pytest.raises(InputError, match="columns: found 1"):
        GroupWorkingSet(1)
