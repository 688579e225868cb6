"""Hessian-free optimisation: a quadratic in one step, a deep autoencoder, its safeguards."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError
from corollary.core.solution import Status
from corollary.optim import HessianFree, NetworkLoss, minimize
from corollary.optim.curvature import Bernoulli, Categorical
from corollary.optim.curvature._cg import conjugate_gradients, marks

RNG = np.random.default_rng(0)


def squared(z, y):
    return jnp.sum((z - y) ** 2) / 2


def linear(w, x):
    return x @ w


@pytest.mark.covers("hessian-free")
def test_a_quadratic_is_solved_in_one_outer_step(dtype):
    n, d = 30, 6
    X = RNG.normal(size=(n, d)) * np.logspace(0, -1.5, d)
    best = RNG.normal(size=d)
    y = X @ best
    tol = 100 * float(jnp.finfo(dtype).eps)
    for c in (1.0, 1e-12, 1e12):  # the scale of the data, and with it of the objective and its curvature
        problem = NetworkLoss(linear, squared, (c * X).astype(dtype), (c * y).astype(dtype))
        found = minimize(problem, np.zeros(d, dtype), HessianFree(damping=0.0), tol=tol, max_steps=5)
        assert found.converged
        assert found.holds
        assert found.steps <= (1 if dtype == "float64" else 2)
        error = np.linalg.norm(X @ (found.value.astype(float) - best)) / np.linalg.norm(y)
        assert error <= 100 * tol


def autoencoder(params, x):
    for W, b in params[:-1]:
        x = jnp.tanh(W @ x + b)
    W, b = params[-1]
    return W @ x + b


@pytest.mark.covers("hessian-free")
def test_a_deep_autoencoder(x64):
    # Curves, as in Martens (2010), in small: eight points of a random cubic, through a bottleneck of three.
    t = np.linspace(-1, 1, 8)
    curves = np.tanh(RNG.normal(size=(40, 4)) @ np.stack([np.ones(8), t, t**2, t**3]))
    sizes = [8, 6, 5, 3, 5, 6, 8]
    make = np.random.default_rng(1).normal
    start = [(make(size=(b, a)) / np.sqrt(a), np.zeros(b)) for a, b in itertools.pairwise(sizes)]
    problem = NetworkLoss(autoencoder, Bernoulli(), curves, (1 + curves) / 2)
    lowest = float(np.mean(np.sum(_entropy((1 + curves) / 2), 1)))  # of the labels themselves
    run = minimize(problem, start, HessianFree(), tol=1e-9, max_steps=40, history=True)
    losses = run.history["objective"]
    losses = losses[np.isfinite(losses)]
    assert np.all(np.diff(losses) <= 1e-12 * np.abs(losses[:-1]))  # never up

    assert losses[-1] - lowest < 0.1 * (losses[0] - lowest)
    # The curvature is semidefinite where the Hessian's own would not be: every ratio was taken to a model that falls.
    assert np.all(np.isfinite(run.history["ratio"][: len(losses)]))


def _entropy(p):
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return -p * np.log(p) - (1 - p) * np.log(1 - p)


@pytest.mark.covers("hessian-free")
def test_batches_and_the_end_of_a_run(dtype):
    X = RNG.normal(size=(60, 4)).astype(dtype)
    labels = np.argmax(X @ RNG.normal(size=(4, 3)) + RNG.normal(size=(60, 3)), axis=1)
    problem = NetworkLoss(lambda W, x: x @ W, Categorical(), X, labels)
    tol = 1e-3 if dtype == "float32" else 1e-6
    found = minimize(problem, np.zeros((4, 3), dtype), HessianFree(batch=20, key=jax.random.key(1)), tol=tol)
    assert found.converged
    assert found.steps < 60
    assert np.linalg.norm(jax.grad(problem.objective)(jnp.asarray(found.value))) <= 2 * tol
    # At a stationary point it says so; beyond the precision it never claims more.
    again = minimize(problem, found.value, HessianFree(), tol=0.0, max_steps=60)
    assert again.status in (Status.CONVERGED, Status.PRECISION)
    slope = np.linalg.norm(jax.grad(problem.objective)(jnp.asarray(again.value)))
    assert slope <= 10 * float(jnp.finfo(dtype).eps) ** 0.5


def test_conjugate_gradients_on_any_scale(dtype):
    # lineax.CG refuses curvatures below 100 n eps; here only ratios count.
    for scale in (1e-12, 1.0, 1e12):
        d = scale * jnp.linspace(1, 10, 20, dtype=dtype)
        run = conjugate_gradients(lambda v, d=d: d * v, scale * jnp.ones(20, dtype), tol=1e-5, max_steps=30)
        assert run.converged
        np.testing.assert_allclose(run.x, 1 / np.linspace(1, 10, 20), rtol=1e-3)
    # Saved on the way, at the marked steps.
    keep = marks(10, 1.5)
    assert keep == (1, 2, 3, 5, 7)
    run = conjugate_gradients(lambda v: d * v, d, tol=0.0, max_steps=3, keep=keep)
    assert int(run.count) == 3
    np.testing.assert_array_equal(run.saved[2], run.x)
    # A direction without curvature, and the zero right-hand side, end it.
    flat = conjugate_gradients(lambda v: 0 * v, d, tol=1e-5, max_steps=10)
    assert int(flat.steps) == 1
    assert not flat.converged
    assert np.all(np.isfinite(flat.x))
    assert int(conjugate_gradients(lambda v: d * v, 0 * d, tol=0.0, max_steps=10).steps) == 0


@pytest.mark.covers("hessian-free")
def test_bad_input():
    for bad in (
        {"damping": -1.0},
        {"cg_steps": 0},
        {"progress": -1.0},
        {"decay": 2.0},
        {"preconditioner": "jacobi"},
        {"batch": 0},
        {"spacing": 1.0},
    ):
        with pytest.raises(InputError, match=next(iter(bad))):
            HessianFree(**bad)
    with pytest.raises(InputError, match="problem: found Composite"):
        minimize(lambda x: (x**2).sum(), jnp.ones(2), HessianFree())
    with pytest.raises(InputError, match="model: found int"):
        NetworkLoss(3, squared, np.ones((2, 1)), np.ones(2))
    with pytest.raises(InputError, match="data: found shapes"):
        NetworkLoss(linear, squared, np.ones((2, 1)), np.ones(3))
