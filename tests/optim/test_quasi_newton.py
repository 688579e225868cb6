"""L-BFGS, its box-constrained kin and Optimistix's solvers: directions, oracles, units, batches, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest
import scipy.optimize

from corollary.core import InputError, Status
from corollary.optim import (
    BFGS,
    LBFGS,
    LBFGSB,
    Composite,
    Dogleg,
    GaussNewton,
    LevenbergMarquardt,
    NonlinearLeastSquares,
    Wrapped,
    functions,
    minimize,
    penalties,
)
from corollary.optim.smooth._lbfgs import Pairs

N = 10
ROSENBROCK = functions.rosenbrock(n=N)


def test_compact_form_is_the_two_loop_recursion(x64):
    """The direction against the textbook's recursion, as the ring fills, turns over and refuses pairs."""
    rng = np.random.default_rng(0)
    memory, kept = 3, []
    A = rng.normal(size=(N, N))
    A = A @ A.T + np.eye(N)
    pairs = Pairs.empty(memory, jnp.zeros(N), jnp.asarray(0.5))
    update = jax.jit(lambda pairs, s, y, g, keep: pairs.updated(*pairs.written(s, y, g), g, keep, jnp.array(False)))
    for k in range(9):
        s, g = rng.normal(size=(2, N))
        keep = k % 4 != 2
        pairs, direction = update(pairs, jnp.asarray(s), jnp.asarray(A @ s), jnp.asarray(g), jnp.array(keep))
        kept = [*kept, (s, A @ s)][-memory:] if keep else kept
        q, alphas = g.copy(), []
        for s_i, y_i in reversed(kept):
            alphas.append(s_i @ q / (s_i @ y_i))
            q -= alphas[-1] * y_i
        s_i, y_i = kept[-1]
        q *= s_i @ y_i / (y_i @ y_i)
        for (s_i, y_i), a in zip(kept, reversed(alphas), strict=True):
            q += s_i * (a - y_i @ q / (s_i @ y_i))
        np.testing.assert_allclose(direction, -q, rtol=1e-9, atol=1e-10)


def test_lbfgs_finds_the_minimum_with_as_few_evaluations_as_scipy(dtype):
    tol = 1e-9 if dtype == "float64" else 1e-5
    solution = minimize(ROSENBROCK, ROSENBROCK.x0.astype(dtype), LBFGS(), tol=tol, max_steps=500, history=True)
    assert solution.converged
    assert solution.holds
    assert solution.value.dtype == dtype
    np.testing.assert_allclose(solution.value, 1, atol=1e-5 if dtype == "float64" else 1e-2)
    theirs = scipy.optimize.minimize(
        scipy.optimize.rosen, ROSENBROCK.x0, jac=scipy.optimize.rosen_der, method="L-BFGS-B", options={"gtol": 1e-6}
    )
    assert solution.steps <= 2 * theirs.nfev
    fall = np.diff(solution.history["objective"][: int(solution.steps)])
    assert np.all(fall <= 8 * np.finfo(dtype).eps * float(solution.history["objective"][0]))


def test_units_do_not_matter(x64):
    def solve(objective, variables):
        f = ROSENBROCK.rescaled(objective, variables)
        solution = minimize(f, jnp.asarray(ROSENBROCK.x0) * variables, LBFGS(), tol=1e-8, max_steps=500)
        return solution.value / variables, solution.steps, solution.status

    units = jnp.array([[1.0, 1.0], [2.0**40, 1.0], [2.0**-40, 1.0], [1.0, 2.0**40], [1.0, 2.0**-40]])
    value, steps, status = jax.jit(jax.vmap(solve))(units[:, 0], units[:, 1])
    assert np.all(status == Status.CONVERGED)
    np.testing.assert_array_equal(steps, np.full(5, steps[0]))  # powers of two round nothing
    np.testing.assert_array_equal(value, np.tile(value[0], (5, 1)))


def test_no_bound_below_and_no_way_on_are_told():
    falls = minimize(lambda x: -jnp.sum(x**2) * x[0] ** 2, [1.0, 2.0], LBFGS(), max_steps=500)
    assert not falls.converged
    kink = minimize(lambda x: jnp.sum(jnp.abs(x)), [1.0, 0.3], LBFGS(), tol=1e-8, max_steps=500)
    assert not kink.converged


def test_box_agrees_with_scipy(dtype):
    low, high = np.full(N, -2.0), np.where(np.arange(N) % 3 == 0, 0.5, 2.0)
    box = penalties.Box(low.astype(dtype), high.astype(dtype))
    tol = 1e-10 if dtype == "float64" else 1e-5
    solution = minimize(Composite(ROSENBROCK, box), ROSENBROCK.x0.astype(dtype), LBFGSB(), tol=tol, max_steps=1000)
    theirs = scipy.optimize.minimize(
        scipy.optimize.rosen,
        np.clip(ROSENBROCK.x0, low, high),
        jac=scipy.optimize.rosen_der,
        method="L-BFGS-B",
        bounds=np.stack([low, high], 1),
        options={"ftol": 0, "gtol": 1e-10},
    )
    assert solution.converged
    assert solution.holds
    np.testing.assert_allclose(solution.value, theirs.x, atol=1e-7 if dtype == "float64" else 1e-3)
    np.testing.assert_array_equal(solution.value == high, theirs.x == high)
    assert solution.stats["active"] == np.sum(theirs.x == high)


WRAPPED = {"Gauss-Newton": GaussNewton(), "Levenberg-Marquardt": LevenbergMarquardt(), "dogleg": Dogleg()}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_least_squares(name, x64):
    known = functions.beale()
    problem = NonlinearLeastSquares(known.residual)
    solution = minimize(problem, [2.5, 0.4], WRAPPED[name], tol=1e-10, max_steps=100)
    assert solution.converged
    np.testing.assert_allclose(solution.value, known.minimisers[0], rtol=1e-6)


def test_wrapped_bfgs(dtype):
    known = functions.beale()
    tol = 1e-9 if dtype == "float64" else 1e-5
    solution = minimize(known, known.x0.astype(dtype), BFGS(), tol=tol, max_steps=200)
    assert solution.converged
    np.testing.assert_allclose(solution.value, known.minimisers[0], rtol=100 * tol)
    assert solution.value.dtype == dtype


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LBFGS(0), "memory: found 0, expected an integer >= 1"),
        (lambda: LBFGSB(-1), "memory: found -1"),
        (lambda: Wrapped(3), "solver: found int, expected a minimiser or least-squares solver of Optimistix"),
        (lambda: minimize(ROSENBROCK, ROSENBROCK.x0, GaussNewton()), "problem: found StandardFunction, expected Nonl"),
        (lambda: NonlinearLeastSquares(1.0), "residual: found float, expected a function of x"),
        (
            lambda: minimize(Composite(ROSENBROCK, penalties.L1(1.0)), ROSENBROCK.x0, LBFGSB()),
            "problem: found the penalty L1, expected Box, Nonnegative or none",
        ),
        (lambda: minimize(Composite(ROSENBROCK, penalties.Box()), ROSENBROCK.x0, LBFGS()), "found the penalty Box"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_optimistix_can_call_a_stalled_run_a_success(x64):
    """Why its own stopping rule is not used: with its usual tolerances it stops far from stationary."""
    f = functions.rosenbrock().rescaled(1e-9)
    there = optimistix.minimise(
        lambda x, _: f.loss(x), optimistix.BFGS(rtol=1e-3, atol=1e-3), jnp.asarray(f.x0), max_steps=500, throw=False
    )
    assert there.result == optimistix.RESULTS.successful
    first, last = (np.linalg.norm(f.gradient(x)) for x in (f.x0, there.value))
    assert last > 1e-3 * first
    ours = minimize(f, f.x0, BFGS(), tol=1e-8, max_steps=50)
    assert ours.converged  # in units of its own, whatever those of f
    assert np.linalg.norm(f.gradient(ours.value)) <= 1.01e-8 * first
    assert ours.holds
    assert minimize(f, f.x0, LBFGS(), tol=1e-8).converged
