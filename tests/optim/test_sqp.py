"""SQP: eigenpairs, SciPy's SLSQP, multipliers as sensitivities, KKT residuals, units, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.tree_util import Partial

from corollary import optim
from corollary.core import InputError
from corollary.optim import SQP, Composite, EqualityConstrained, minimize

N = 4


def sphere(x):
    return x @ x - 1


def rayleigh(S, x):
    return -(x @ S @ x)


@pytest.mark.covers("sqp")
def test_top_eigenpair(dtype):
    rng = np.random.default_rng(0)
    S = rng.normal(size=(6, N, N))
    S = (S + S.transpose(0, 2, 1)).astype(dtype)
    starts = rng.normal(size=(6, N)).astype(dtype)
    eps = np.finfo(dtype).eps

    def solve(S, x0):
        return minimize(EqualityConstrained(Partial(rayleigh, S), sphere), x0, SQP(), tol=1e3 * eps, max_steps=100)

    solution = jax.jit(jax.vmap(solve))(jnp.asarray(S), jnp.asarray(starts))
    values, vectors = np.linalg.eigh(S.astype(float))
    assert np.all(solution.converged)
    assert np.all(solution.holds)
    gap = (values[:, -1] - values[:, -2]).min()
    limit = 1e4 * eps * np.abs(values).max() / gap
    np.testing.assert_allclose(np.abs(np.einsum("ki,ki->k", solution.value, vectors[:, :, -1])), 1, atol=limit)
    # −Sx·2 + ν·2x = 0: the multiplier is the eigenvalue
    np.testing.assert_allclose(solution.stats["multipliers"][:, 0], values[:, -1], rtol=limit)
    assert np.all(np.asarray(solution.stats["violation"]) <= 1e5 * eps)


def cost(x):
    return jnp.exp(x[0] * x[1] * x[2] * x[3] * x[4]) - (x[0] ** 3 + x[1] ** 3 + 1) ** 2 / 2


def powell(shift, x):
    c = [x @ x - 10, x[1] * x[2] - 5 * x[3] * x[4], x[0] ** 3 + x[1] ** 3 + 1]
    return jnp.stack(c) - shift


@pytest.mark.covers("sqp")
def test_slsqp_and_sensitivity(x64):
    """Nocedal & Wright's problem 18.3; the multiplier is the change of the minimum per unit of the constraint."""
    x0 = jnp.array([-1.71, 1.59, 1.82, -0.763, -0.763])

    @jax.jit
    def solve(shift):
        return minimize(EqualityConstrained(cost, Partial(powell, shift)), x0, tol=1e-12, max_steps=50)

    solution = solve(jnp.zeros(3))
    assert solution.converged
    assert solution.steps <= 10
    theirs = scipy.optimize.minimize(
        cost, x0, method="SLSQP", constraints={"type": "eq", "fun": lambda x: np.asarray(powell(0.0, x))}, tol=1e-12
    )
    np.testing.assert_allclose(solution.value, theirs.x, atol=1e-5)
    assert np.linalg.norm(powell(0.0, solution.value)) <= 1e-10
    J = jax.jacfwd(Partial(powell, 0.0))(solution.value)
    np.testing.assert_allclose(jax.grad(cost)(solution.value) + J.T @ solution.stats["multipliers"], 0, atol=1e-10)
    for i in range(3):
        h = 1e-4 * jnp.eye(3)[i]
        slope = (solve(h).stats["objective"] - solve(-h).stats["objective"]) / 2e-4
        np.testing.assert_allclose(slope, -solution.stats["multipliers"][i], atol=1e-6)


@pytest.mark.covers("sqp")
def test_maratos_effect_does_not_slow_it(x64):
    """The full step raises both f and ‖c‖ near the answer; the correction takes it all the same."""

    def f(x):
        return 2 * (x @ x - 1) - x[0]

    angle = 0.4
    solution = minimize(EqualityConstrained(f, sphere), [np.cos(angle), np.sin(angle)], SQP(), tol=1e-12, max_steps=20)
    assert solution.converged
    assert solution.steps <= 6
    np.testing.assert_allclose(solution.value, [1, 0], atol=1e-10)
    np.testing.assert_allclose(solution.stats["multipliers"], [-1.5], rtol=1e-9)


@pytest.mark.covers("sqp")
def test_units_and_redundant_constraints(x64):
    def solve(a, b):
        f = Partial(lambda a, b, x: a * jnp.sum((x / b - jnp.arange(1.0, 4.0)) ** 2), a, b)
        c = Partial(lambda b, x: jnp.stack([jnp.sum(x / b) - 1, 2 * jnp.sum(x / b) - 2]), b)
        return minimize(EqualityConstrained(f, c), jnp.zeros(3) + 0.1 * b, SQP(), tol=1e-10, max_steps=20)

    units = jnp.array([[1.0, 1.0], [1e12, 1.0], [1e-12, 1.0], [1.0, 1e12], [1.0, 1e-12]])
    solution = jax.jit(jax.vmap(solve))(units[:, 0], units[:, 1])
    assert np.all(solution.converged)
    expected = np.arange(1.0, 4.0) - 5 / 3
    np.testing.assert_allclose(solution.value / units[:, 1:], np.tile(expected, (5, 1)), atol=1e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EqualityConstrained(3, sphere), "function: found int"),
        (lambda: EqualityConstrained(sphere, None), "constraints: found NoneType"),
        (lambda: minimize(Composite(sphere), [1.0], SQP()), "problem: found Composite, expected EqualityConstrained"),
        (
            lambda: minimize(EqualityConstrained(sphere, lambda x: jnp.stack([x[0], x[0] - 1])), [1.0]),
            "constraints: found 2, expected at most 1",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_no_success_without_feasibility(x64):
    run = optim.minimize(
        optim.EqualityConstrained(lambda x: x @ x, lambda x: x @ x + 1), [1e4], optim.SQP(), max_steps=100
    )
    assert run.status != 0
    assert not run.holds
    run = optim.minimize(
        optim.EqualityConstrained(lambda x: x[1] ** 2 + x[0], lambda x: (x[0] - 1) ** 2 + x[1] ** 2 - 1),
        [1.0, -1.5],
        optim.SQP(),
        tol=1e-10,
        max_steps=100,
    )
    assert run.status == 0
