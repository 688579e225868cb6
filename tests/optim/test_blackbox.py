"""Minimising from values alone: random search, SPSA, evolution strategies, CMA-ES, difference gradients."""

import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from corollary import optim
from corollary.core import InputError
from corollary.core.solution import Status
from corollary.optim import (
    Composite,
    FiniteDifference,
    centred_ranks,
    cma_es,
    difference_gradient,
    evolution_strategy,
    minimize,
    random_search,
    smoothed_gradient,
    spsa,
    spsa_gradient,
)

KEY = jax.random.key(5)


def sphere(x):
    return jnp.sum(x**2)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rastrigin(x):
    return jnp.sum(x**2 - 10 * jnp.cos(2 * jnp.pi * x) + 10)


@pytest.mark.covers("random-search")
def test_random_search(dtype):
    low, high = -jnp.ones(2, dtype), jnp.ones(2, dtype)

    def first(x):
        return x[0]  # uniform on [−1, 1]: the fraction that is better is (value + 1)/2

    search = functools.partial(random_search, first, (low, high), evaluations=40, fraction=0.05)
    keys = jax.random.split(KEY, 2000)
    values = jax.vmap(lambda key: search(key=key).stats["objective"])(keys)
    hit, p = np.mean((np.asarray(values) + 1) / 2 <= 0.05), 1 - 0.95**40
    assert abs(hit - p) <= 4 * np.sqrt(p * (1 - p) / 2000)
    run = search(key=KEY)
    assert run.value.dtype == dtype
    assert float(run.certificates["quantile"].confidence) == pytest.approx(p, rel=1e-5)
    assert run.holds
    again = search(key=KEY)
    np.testing.assert_array_equal(run.value, again.value)
    assert run.stats["objective"] == run.history["objective"][-1] == run.value[0]
    assert np.all(np.diff(run.history["objective"]) <= 0)


@pytest.mark.covers("random-search")
def test_random_search_evaluates_only_and_survives_nan():
    count = []

    def host(x):
        x = np.asarray(x)
        count.append(1)
        return np.where(x[0] < 0, np.nan, np.abs(x).sum()).astype(np.float32)

    def f(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct((), x["a"].dtype), x["a"], vmap_method="sequential")

    run = random_search(f, ({"a": -np.ones(2, "float32")}, {"a": np.ones(2, "float32")}), evaluations=50, key=KEY)
    assert len(count) == run.stats["evaluations"] == 50
    assert np.isfinite(run.stats["objective"])
    assert run.value["a"][0] >= 0
    lost = random_search(
        lambda x: x[0] * jnp.nan, sample=lambda key: jax.random.normal(key, (1,)), evaluations=5, key=KEY
    )
    assert lost.status == Status.NON_FINITE


@pytest.mark.covers("spsa")
def test_spsa_over_all_signs_is_the_gradient_of_a_quadratic(dtype):
    d, rng = 6, np.random.default_rng(0)
    H = rng.normal(size=(d, d))
    H, b, x = (jnp.asarray(v, dtype) for v in (H + H.T, rng.normal(size=d), rng.normal(size=d)))

    def f(x):
        return x @ H @ x / 2 + b @ x

    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=d)), dtype)
    for c in (0.5, 0.1):
        mean = jnp.mean(jax.vmap(lambda s, c=c: spsa_gradient(f, x, c, s))(signs), 0)
        np.testing.assert_allclose(mean, H @ x + b, rtol=0, atol=400 * np.finfo(dtype).eps / c)


@pytest.mark.covers("spsa")
def test_the_bias_of_spsa_is_of_second_order(x64):
    x, signs = jnp.asarray([0.5, -0.3, 0.8]), jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))

    def f(x):
        return jnp.sum(jnp.exp(x)) * jnp.exp(x[0])

    widths = np.array([0.2, 0.1, 0.05])
    bias = [
        float(jnp.linalg.norm(jnp.mean(jax.vmap(lambda s, c=c: spsa_gradient(f, x, c, s))(signs), 0) - jax.grad(f)(x)))
        for c in widths
    ]
    assert np.polyfit(np.log(widths), np.log(bias), 1)[0] == pytest.approx(2, abs=0.05)


@pytest.mark.covers("spsa")
def test_spsa_on_a_noisy_quadratic(x64):
    def f(x, key):
        return jnp.sum(jnp.asarray([1.0, 2.0, 4.0]) * (x - 1) ** 2) + 0.1 * jax.random.normal(key, (), x.dtype)

    run = spsa(f, [3.0, 0.0, -1.0], 2000, a=0.3, c=0.2, noisy=True, key=KEY)
    assert run.converged, run.certificates["stationarity"].explain()
    np.testing.assert_allclose(run.value, 1, atol=0.05)
    assert run.stats["evaluations"] == 2 * 2000 + 4 * 3 * 32
    short = spsa(f, [3.0, 0.0, -1.0], 2000, a=1e-4, c=0.2, noisy=True, key=KEY)  # hardly moves
    assert not short.converged
    assert short.status == Status.MAX_STEPS


@pytest.mark.covers("evolution-strategies")
def test_the_smoothed_gradient(dtype):
    rng = np.random.default_rng(0)
    H = rng.normal(size=(3, 3))
    H, b, x = (H + H.T).astype(dtype), rng.normal(size=3).astype(dtype), rng.normal(size=3).astype(dtype)

    def quadratic(x):
        return x @ jnp.asarray(H) @ x / 2 + jnp.asarray(b) @ x

    def quartic(x):
        return jnp.sum(x**4)

    for f, exact in (
        (quadratic, H @ x + b),  # the smoothed gradient of a quadratic is its gradient, for every σ
        (quartic, 4 * x**3 + 12 * 0.5**2 * x),  # E (x + σε)⁴ = x⁴ + 6σ²x² + 3σ⁴
    ):
        run = smoothed_gradient(f, x, 0.5, pairs=20_000, key=KEY)
        assert run.value.dtype == dtype
        assert np.all(np.abs(run.value - exact) <= 4.5 * run.stats["stderr"])
    # Exact on linear f along each ε: the directional derivatives come without an error, whatever σ.
    eps = jax.random.normal(KEY, (2, 3), jnp.float32)
    run = smoothed_gradient(lambda x: jnp.asarray(b, x.dtype) @ x, np.zeros(3, "float32"), 0.5, pairs=2, key=KEY)
    np.testing.assert_allclose(run.value, np.mean((eps @ b.astype("float32"))[:, None] * eps, 0), rtol=1e-4, atol=1e-5)
    assert centred_ranks(jnp.asarray([10.0, -1.0, 3.0])).tolist() == [0.5, -0.5, 0.0]


@pytest.mark.covers("evolution-strategies")
def test_evolution_strategy(x64):
    run = evolution_strategy(lambda x: sphere(x - 1), np.zeros(5), 0.5, 200, pairs=16, key=KEY)
    assert run.converged
    assert run.stats["objective"] < 1e-4
    same = evolution_strategy(lambda x: 1e12 * sphere(x - 1), np.zeros(5), 0.5, 200, pairs=16, key=KEY)
    np.testing.assert_allclose(same.value, run.value, rtol=1e-6)  # ranks: blind to the scale of f
    slope = evolution_strategy(lambda x: x[0] - x[1], np.zeros(5), 0.5, 200, pairs=16, key=KEY)
    assert not slope.converged  # it came to rest, but not at a stationary point


def pycma_evaluations(f, x0, sigma, target, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cma

        options = {"seed": seed, "verbose": -9, "ftarget": target, "maxfevals": 20_000}
        return cma.fmin2(f, x0, sigma, options)[1].result.evaluations


def mixed(weight, x):
    return weight * rosenbrock(x) + (1 - weight) * sphere(x)


@pytest.mark.covers("evolution-strategies")
def test_cma_es_against_pycma(x64):
    def run(weight, start, key):
        return cma_es(Partial(mixed, weight), start, 0.5, tol=1e-5, max_evaluations=6000, key=key)

    seeds = 5
    runs = jax.jit(jax.vmap(run))(
        jnp.repeat(jnp.asarray([0.0, 1.0]), seeds),
        jnp.repeat(jnp.asarray([[1.0] * 3, [0.0] * 3]), seeds, axis=0),
        jax.random.split(KEY, 2 * seeds),
    )
    assert np.all(runs.stats["objective"] < 1e-8)
    assert np.all(runs.converged)
    evaluations = np.asarray(runs.stats["evaluations"]).reshape(2, seeds)
    for k, (start, f) in enumerate(
        (
            (1.0, lambda x: float(np.sum(np.square(x)))),
            (0.0, lambda x: float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))),
        )
    ):
        target = float(np.median(np.asarray(runs.stats["objective"]).reshape(2, seeds)[k]))
        theirs = np.median([pycma_evaluations(f, np.full(3, start), 0.5, target, seed) for seed in (1, 2, 3)])
        assert 0.6 < np.median(evaluations[k]) / theirs < 1.7


def powered(power, factor, size, x):
    return factor * sphere(x / size) ** power


@pytest.mark.covers("evolution-strategies")
def test_invariances_of_cma_es(dtype):
    x0, two40 = np.array([0.5, 0.3, -0.4, 0.2], dtype), dtype.type(2.0**40)

    def run(power, factor, size):
        f = Partial(powered, *(np.asarray(v, dtype) for v in (power, factor, size)))
        return cma_es(f, x0 * dtype.type(size), 0.5 * size, tol=1e-3, key=KEY)

    plain = run(1.0, 1.0, 1.0)
    assert plain.converged
    assert plain.value.dtype == dtype
    np.testing.assert_array_equal(run(3.0, 1e3, 1.0).value, plain.value)  # only the order of the values counts
    scaled = run(1.0, 1e-12, 2.0**40)
    np.testing.assert_array_equal(scaled.value / two40, plain.value)
    assert scaled.converged


def line(slope, level, x):
    return slope * (x[0] - x[1]) + level


@pytest.mark.covers("evolution-strategies")
def test_cma_es_in_a_box_with_restarts_and_where_it_fails(x64):
    def boxed(x):
        return 10 + rastrigin(x - 2)

    # The best corner of the box, and the global minimum past its rim of local ones.
    run = cma_es(boxed, np.zeros(2), 1.0, bounds=(-1.0, [1.0, 3.0]), restarts=2, tol=1e-5, key=KEY)
    assert run.value[0] <= 1
    np.testing.assert_allclose(run.value, [1, 2], atol=0.05)
    assert run.stats["runs"] == 3

    def of(slope, level, budget):
        f = Partial(line, np.asarray(slope), np.asarray(level))
        return cma_es(f, np.zeros(2), 0.5, max_evaluations=budget, key=KEY)

    slope = of(1.0, 0.0, 600)
    assert not slope.converged  # it falls without end
    assert of(0.0, 1.0, 6000).converged  # equal values all round are a minimum as far as values can tell
    assert of(1.0, np.nan, 300).status == Status.NON_FINITE


def test_gradient_solvers_run_on_a_black_box(dtype):
    best = np.array([1.0, -2.0, 0.5], dtype)

    def host(x):
        x = np.asarray(x)
        return np.asarray(np.sum(np.array([1, 10, 3], x.dtype) * (x - best) ** 2, -1), x.dtype)

    def f(x):
        return jax.pure_callback(host, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="broadcast_all")

    for scheme in ("central", "forward"):
        problem = Composite(FiniteDifference(f, scheme=scheme, lipschitz=20.0))
        run = minimize(problem, np.zeros(3, dtype), tol=1e-2)
        assert run.converged
        np.testing.assert_allclose(run.value, best, atol=0.1)
    x = jnp.asarray([0.3, 0.2, -0.1], dtype)
    exact = 2 * np.array([1, 10, 3]) * (np.asarray(x) - best)
    wrapped = difference_gradient(f)
    error = 40 * (np.finfo(dtype).eps / 2) ** (2 / 3) * np.abs(exact).max()
    np.testing.assert_allclose(jax.grad(wrapped)(x), exact, atol=error)
    noisy = FiniteDifference(f, noise=1e-3)
    np.testing.assert_allclose(noisy.gradient(x), exact, atol=100 * error)  # exact on a quadratic, whatever the step
    np.testing.assert_allclose(
        problem.smooth.hessian_product(x, jnp.asarray([0.0, 1.0, 0.0], dtype)), [0, 20, 0], atol=2.0
    )
    # Tiny variables: with their size named the step is right, with the default of 1 it is far too long.
    tiny = FiniteDifference(lambda x: jnp.sum(jnp.cos(x / 1e-6)), scale=1e-6)
    at = jnp.asarray([0.5e-6], dtype)
    np.testing.assert_allclose(tiny.gradient(at) * 1e-6, -np.sin(0.5), rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: random_search(sphere, key=KEY), "bounds: expected either"),
        (lambda: random_search(sphere, ([1.0], [0.0]), key=KEY), "bounds: found a lower limit"),
        (lambda: random_search(sphere, ([0.0], [1.0]), evaluations=0, key=KEY), "evaluations: found 0"),
        (lambda: spsa(sphere, [1.0], a=0.0, c=0.1, key=KEY), "a: found 0.0"),
        (lambda: spsa(sphere, [np.nan], a=1.0, c=0.1, key=KEY), "x0: found NaN"),
        (lambda: smoothed_gradient(sphere, [1.0], -1.0, key=KEY), "sigma: found -1.0"),
        (lambda: evolution_strategy(sphere, [1.0], 0.1, shaping="rank", key=KEY), "shaping: found 'rank'"),
        (lambda: cma_es(sphere, [1.0], 0.1, population=2, key=KEY), "population: found 2"),
        (lambda: cma_es(sphere, [3.0], 0.1, bounds=(0.0, 1.0), key=KEY), "x0: found a point outside"),
        (lambda: cma_es(sphere, [3.0], 0.1, bounds=1.0, key=KEY), "bounds: found something else"),
        (lambda: cma_es(lambda x: x, [3.0], 0.1, key=KEY), "f: returned an array of shape"),
        (lambda: FiniteDifference(3), "function: found int"),
        (lambda: FiniteDifference(sphere, scheme="complex"), "scheme: found 'complex'"),
        (lambda: difference_gradient(sphere, scale=0.0), "scale: found 0.0"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_one_poll_is_not_enough(x64):
    def rosenbrock(x):
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    run = optim.evolution_strategy(rosenbrock, [-1.0, 1.0], 0.5, 1, pairs=8, key=jax.random.key(0))
    assert run.status != 0
    run = optim.random_search(rosenbrock, ([-1.0, -1.0], [1.0, 1.0]), evaluations=1, key=jax.random.key(0))
    assert run.status != 0


def test_differences_that_drown_prove_nothing():
    x0 = jnp.zeros(2, jnp.float32)
    run = optim.spsa(lambda x: 1e6 + 0.01 * ((x - 1) ** 2).sum(), x0, 10, a=0.1, c=0.1, key=jax.random.key(0))
    assert run.status != 0
