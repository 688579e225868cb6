"""The standard test functions: known minima, derivatives against SciPy's, units, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from corollary.core import InputError
from corollary.optim import Composite, functions

COLLECTION = functions.collection()


@pytest.fixture(scope="module")
def measured():
    """Value and gradient of every function at its start and its minimisers, each compiled once."""
    found = {}
    with jax.enable_x64(True):
        for name, f in COLLECTION.items():
            points = jnp.asarray(np.concatenate([f.x0[None], f.minimisers]))
            found[name] = [np.asarray(a) for a in jax.jit(jax.vmap(f.value_and_gradient))(points)]
    return found


@pytest.mark.covers("rosenbrock")
def test_minimisers_are_stationary_and_have_the_least_value(measured):
    for name, f in COLLECTION.items():
        value, gradient = measured[name]
        scale = np.linalg.norm(gradient[0]) + 1
        assert np.all(np.abs(value[1:] - f.minimum) <= 1e-13 * (1 + abs(value[0]) + abs(f.minimum))), name
        assert np.all(np.linalg.norm(gradient[1:], axis=1) <= 1e-9 * scale), name
        assert value[0] > f.minimum, name


@pytest.mark.covers("rosenbrock")
@pytest.mark.parametrize("n", [2, 7])
def test_rosenbrock_is_scipys(n, dtype):
    f = functions.rosenbrock(n=n)
    x = np.random.default_rng(n).normal(size=n).astype(dtype)
    eps = np.finfo(dtype).eps
    exact = x.astype(float)
    np.testing.assert_allclose(f(x), scipy.optimize.rosen(exact), rtol=64 * eps)
    expected = scipy.optimize.rosen_der(exact)
    np.testing.assert_allclose(f.gradient(x), expected, atol=64 * eps * np.abs(expected).max())
    expected = scipy.optimize.rosen_hess(exact)
    np.testing.assert_allclose(f.hessian(x), expected, atol=64 * eps * np.abs(expected).max())
    assert f(x).dtype == f.gradient(x).dtype == f.hessian(x).dtype == dtype


@pytest.mark.covers("rosenbrock")
def test_rosenbrocks_hessian_at_its_minimum():
    H = functions.rosenbrock().hessian([1.0, 1.0])
    np.testing.assert_allclose(H, [[802, -400], [-400, 200]], rtol=1e-13)
    low, high = np.linalg.eigvalsh(H)
    assert round(low, 5) == 0.39936
    assert round(high, 2) == 1001.60
    assert round(high / low, 2) == 2508.01
    np.testing.assert_allclose(np.linalg.det(H), 400, rtol=1e-9)


@pytest.mark.covers("rosenbrock")
def test_rosenbrock_with_other_constants():
    f = functions.rosenbrock(2.0, 7.0)
    assert f.minimisers.tolist() == [[2.0, 4.0]]
    assert float(f([2.0, 4.0])) == 0
    np.testing.assert_array_equal(f.gradient([2.0, 4.0]), 0)
    x = np.array([0.3, -1.2])
    assert np.isclose(f(x), 7 * (x[1] - x[0] ** 2) ** 2 + (2 - x[0]) ** 2, rtol=1e-14)
    assert isinstance(f.problem, Composite)
    assert float(f.problem.objective(x)) == float(f(x))


@pytest.mark.covers("rosenbrock")
def test_its_constants_are_traced(x64):
    compiled = []

    @jax.jit
    def value(a, b, x):
        compiled.append(1)
        return functions.rosenbrock(a, b).loss(x)

    x = jnp.array([0.5, 2.0])
    for a, b in ((1.0, 100.0), (2.0, 3.0)):
        np.testing.assert_allclose(value(a, b, x), b * (2 - 0.25) ** 2 + (a - 0.5) ** 2, rtol=1e-14)
    assert len(compiled) == 1


def test_units_scale_value_start_and_minimisers():
    f = functions.beale()
    for objective, variables in ((1e12, 1.0), (1e-12, 1e12), (1.0, 1e-12)):
        g = f.rescaled(objective, variables)
        x = np.array([0.4, -0.7])
        np.testing.assert_allclose(g(variables * x), objective * f(x), rtol=1e-13)
        np.testing.assert_allclose(g.gradient(variables * x), objective / variables * f.gradient(x), rtol=1e-12)
        np.testing.assert_allclose(g.minimisers, f.minimisers * variables)
        assert float(g(g.minimisers[0])) <= 1e-28 * objective


def test_quadratic_has_its_condition_number():
    H = functions.quadratic(6, 1e6).hessian(np.ones(6))
    values = np.linalg.eigvalsh(H)
    np.testing.assert_allclose(values[-1] / values[0], 1e6, rtol=1e-6)


def test_nesterovs_function_is_l_smooth():
    H = functions.nesterov_worst(12, 3.0).hessian(np.zeros(12))
    values = np.linalg.eigvalsh(H)
    assert values[0] > 0
    assert values[-1] < 3.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: functions.rosenbrock(n=1), "n: found 1, expected an integer >= 2"),
        (lambda: functions.rosenbrock(2.0, n=3), "a: found 2.0, expected 1 for n > 2"),
        (lambda: functions.rosenbrock(b=-1.0), "b: found -1.0, expected a finite number > 0"),
        (lambda: functions.more_garbow_hillstrom("Woods"), "name: found 'Woods', expected one of 'Freudenstein-Roth'"),
        (lambda: functions.beale().rescaled(0.0), "objective: found 0.0"),
        (lambda: functions.quadratic(3, 0.5), "condition: found 0.5"),
        (lambda: functions.beale()([np.nan, 1.0]), "x: found NaN or infinity"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace(".", r"\.")):
        call()
