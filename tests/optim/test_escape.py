"""Saddle escape: the octopus, stable manifolds, the Hamiltonian, rates in κ, calibrated noise, and networks."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import InputError, Status
from corollary.optim import (
    clipped_distributed_escape,
    curvature_calibrated_escape,
    curvature_probe,
    occupation_time_pgd,
    perturbed_agd,
    perturbed_gd,
    second_order_stationarity,
)
from corollary.optim.escape._noise import ball, right_chance
from corollary.optim.theory._extremes import extremes

D, SEEDS = 4, 8
ASKED = {"lipschitz": 3.0, "rho": 8.0, "eps": 0.1, "lower": -0.25}
DEPTH = (ASKED["rho"] * ASKED["eps"]) ** 0.5
METHODS = {
    "gd": perturbed_gd,
    "agd": perturbed_agd,
    "occupation-gd": functools.partial(occupation_time_pgd, window=16),
    "occupation-agd": functools.partial(occupation_time_pgd, window=16, accelerated=True),
    "calibrated": curvature_calibrated_escape,  # with differences of gradients
}


def saddle(x):
    """A strict saddle at 0 with λ_min = −1 along the last coordinate, minima at (0, ..., 0, ±1) of value −1/4."""
    return jnp.sum(x[:-1] ** 2) / 2 - x[-1] ** 2 / 2 + x[-1] ** 4 / 4


@functools.cache
def batch(name, dtype="float64"):
    """One run per seed, from the stable manifold of the saddle."""
    x0 = jnp.ones(D, dtype).at[-1].set(0)
    keys = jax.random.split(jax.random.key(1), SEEDS)
    more = {"difference": 1e-3} if name == "calibrated" else {"history": True, "max_steps": 1500}

    def run(key, **also):
        return METHODS[name](saddle, x0, key=key, **ASKED, **more, **also)

    if name == "gd" and dtype == "float64":  # one program for the seeds and the rescaled runs
        return jax.tree.map(lambda leaf: leaf[:SEEDS], rescaled())
    if not name.startswith("occupation"):
        return jax.jit(jax.vmap(run))(keys)
    both = jax.vmap(lambda aversion: jax.vmap(lambda key: run(key, aversion=aversion))(keys))
    return jax.jit(both)(jnp.asarray([0.0, 1.0], dtype))


SCALES = np.array([[1, 1]] * SEEDS + [[1e12, 1], [1e-12, 1], [1, 1e12], [1, 1e-12]], float)


@functools.cache
def rescaled():
    """The seeds' runs, then the first of them with f times c, or x times u, and the constants that follow."""

    def run(key, scale):
        c, u = scale
        x0 = u * jnp.ones(D).at[-1].set(0)
        asked = {"lipschitz": 3 * c / u**2, "rho": 8 * c / u**3, "eps": 0.1 * c / u, "lower": -0.25 * c}
        return perturbed_gd(lambda x: c * saddle(x / u), x0, key=key, max_steps=1500, **asked)

    keys = jax.random.split(jax.random.key(1), SEEDS)
    keys = keys[np.r_[np.arange(SEEDS), np.zeros(len(SCALES) - SEEDS, int)]]
    return jax.jit(jax.vmap(run))(keys, jnp.asarray(SCALES))


def escaped(run):
    """Converged, certified, at a minimum, on either side of the saddle in different runs."""
    assert np.all(run.status == Status.CONVERGED)
    assert np.all(run.holds)
    assert np.all(run.stats["lambda_min"] >= -DEPTH)
    np.testing.assert_allclose(np.abs(run.value[:, -1]), 1, atol=0.1)
    assert len(set(np.sign(run.value[:, -1]).tolist())) == 2


@pytest.mark.covers("perturbed-gd")
def test_perturbed_gd_leaves_the_stable_manifold(dtype):
    run = batch("gd", str(dtype))
    assert run.value.dtype == dtype
    escaped(run)
    x = np.ones(D)
    x[-1] = 0
    for _ in range(5000):  # gradient descent from the same start goes to the saddle, and stays
        x = x - np.r_[x[:-1], x[-1] ** 3 - x[-1]] / 3
    np.testing.assert_allclose(x, 0, atol=1e-12)
    np.testing.assert_array_equal(run.certificates["steps"].measured, np.asarray(run.steps, dtype))


@pytest.mark.covers("perturbed-gd")
def test_the_algorithm_of_the_paper_step_by_step(x64):
    """A naive twin, fed with the same noise, agrees with the compiled loop."""
    run = jax.tree.map(lambda leaf: leaf[0], batch("gd"))
    key = jax.random.split(jax.random.key(1), SEEDS)[0]
    c, L, rho, eps = 1.0, ASKED["lipschitz"], ASKED["rho"], ASKED["eps"]
    x = np.r_[np.ones(D - 1), 0.0]
    f0 = float(saddle(x))
    chi = 3 * max(np.log(D * L * (f0 + 0.25) / (c * eps**2 * 0.1)), 4)
    eta, r, g_thres = c / L, np.sqrt(c) / chi**2 * eps / L, np.sqrt(c) / chi**2 * eps
    f_thres, t_thres = c / chi**3 * np.sqrt(eps**3 / rho), int(np.ceil(chi / c**2 * L / np.sqrt(rho * eps)))
    gradient = jax.jit(jax.grad(saddle))
    key, t, t_noise, before = jax.random.split(key)[1], 0, -t_thres - 1, x
    while True:
        key, now = jax.random.split(key)
        if t - t_noise == t_thres and saddle(x) - saddle(before) > -f_thres:
            break
        if np.linalg.norm(gradient(x)) <= g_thres and t - t_noise > t_thres:
            before, t_noise = x, t
            x = x + np.asarray(ball(now, jnp.asarray(x), r))
        x = x - eta * np.asarray(gradient(x))
        t += 1
    assert t == int(run.steps)
    np.testing.assert_allclose(run.value, before, atol=1e-12)


def octopus(x, legs, tau=np.e, L=np.e, gamma=1.0):
    """Du et al. (2017), section 4: a chain of saddles, of which gradient descent leaves each later than the last."""
    x = jnp.abs(x)
    index = jnp.arange(x.size)
    k = jnp.minimum(jnp.sum(jnp.cumprod(x >= 2 * tau)), legs)

    def g1(s):
        return (
            -gamma * s**2
            + (-14 * L + 10 * gamma) / (3 * tau) * (s - tau) ** 3
            + (5 * L - 3 * gamma) / (2 * tau**2) * (s - tau) ** 4
        )

    def g2(s):
        t = (s - 2 * tau) / tau
        return -gamma - (L + gamma) * (10 * t**3 + 15 * t**4 + 6 * t**5)

    nu = -g1(2 * tau) + 4 * L * tau**2
    at = jnp.where(index == k, x, 0).sum()
    here = jnp.where(k < legs, jnp.where(at <= tau, -gamma * at**2, g1(at)), 0)
    weight = jnp.where((k < legs - 1) & (at > tau), g2(at), L)
    passed = jnp.sum(jnp.where(index < k, L * (x - 4 * tau) ** 2, 0))
    ahead = jnp.sum(jnp.where(index > k, jnp.where(index == k + 1, weight, L) * x**2, 0))
    rest = jnp.sum(jnp.where((index == k) & (k >= legs), L * x**2, 0))
    return passed + here + ahead + rest - k.astype(x.dtype) * nu


@pytest.mark.covers("perturbed-gd")
def test_octopus(x64):
    """Steps to leave the chain: exponential in its length for descent, linear for the perturbed method."""
    legs, limit = jnp.asarray([2, 4, 6]), 20_000
    x0 = jnp.full(6, 1e-3)
    goal = jax.vmap(lambda m: octopus(jnp.where(jnp.arange(6) < m, 4 * np.e, 0.0), m))(legs)
    eta = 1 / (12 * np.e)

    def descend(m, goal):
        def body(carry):
            x, k = carry
            return x - eta * jax.grad(octopus)(x, m), k + 1

        def going(carry):
            return (octopus(carry[0], m) > goal + 1) & (carry[1] < limit)

        return jax.lax.while_loop(going, body, (x0, 0))[1]

    def perturbed(m, key):
        return perturbed_gd(
            lambda x: octopus(x, m), x0, lipschitz=12 * np.e, rho=40.0, eps=1.0, lower=-1000.0, key=key, max_steps=limit
        )

    plain = np.asarray(jax.jit(jax.vmap(descend))(legs, goal))
    run = jax.jit(jax.vmap(perturbed))(legs, jax.random.split(jax.random.key(0), 3))
    assert np.all(run.status == Status.CONVERGED)
    np.testing.assert_allclose(run.stats["objective"], goal, atol=1e-2)
    steps = np.asarray(run.steps)
    assert plain[2] == limit
    assert plain[1] > 3 * plain[0]
    assert steps[2] - steps[1] < 2 * (steps[1] - steps[0])


@pytest.mark.covers("perturbed-agd")
def test_hamiltonian_falls_at_every_step_but_by_noise(x64):
    run = batch("agd")
    escaped(run)
    energy, pushed = np.asarray(run.history["hamiltonian"]), np.asarray(run.history["perturbed"])
    for i in range(SEEDS):
        n = int(run.steps[i])
        rises = np.diff(energy[i, :n])[pushed[i, : n - 1] == 0]
        assert rises.size > 20
        assert np.all(rises <= 1e-14)
    assert int(np.max(run.stats["exploitations"])) > 0


@pytest.mark.covers("perturbed-agd")
def test_acceleration_takes_the_root_of_the_condition(x64):
    """Escape steps against λ_min = −√(ρε): slope −1 for descent, −1/2 or less with momentum."""
    depths = jnp.asarray([0.1, 0.03, 0.01])

    def count(method, depth):
        def f(x):
            return x[0] ** 2 / 2 + depth * (x[1] ** 4 / 4 - x[1] ** 2 / 2)

        asked = {"lipschitz": 1.0, "rho": 8 * depth, "eps": depth / 8, "lower": -1.0}
        run = method(f, jnp.zeros(2), key=jax.random.key(3), max_steps=2_500, history=True, **asked)
        return jnp.argmax(run.history["objective"] < -depth / 8)

    slopes = []
    for method in (perturbed_gd, perturbed_agd):
        steps = np.asarray(jax.jit(jax.vmap(functools.partial(count, method)))(depths))
        assert np.all(steps > 0)
        slopes.append(np.polyfit(np.log(depths), np.log(steps), 1)[0])
    assert -1.25 <= slopes[0] <= -0.85
    assert -0.75 <= slopes[1] <= -0.2


@pytest.mark.covers("occupation-time-pgd")
@pytest.mark.parametrize("name", ["gd", "agd"])
def test_without_aversion_it_is_the_plain_method(name, x64):
    plain, both = batch(name), batch(f"occupation-{name}")
    uniform, averse = (jax.tree.map(lambda leaf: leaf[i], both) for i in range(2))  # noqa: B023
    np.testing.assert_array_equal(plain.steps, uniform.steps)
    np.testing.assert_allclose(plain.value, uniform.value, atol=1e-12)
    escaped(averse)
    error = np.sqrt((np.var(plain.steps) + np.var(averse.steps)) / SEEDS)
    assert np.mean(averse.steps) <= np.mean(plain.steps) + 3 * error


@pytest.mark.covers("occupation-time-pgd")
def test_noise_avoids_visited_half_lines(x64):
    past = jnp.asarray([[-1.0, 1.0, jnp.nan], [-2.0, -1.0, jnp.nan], [-3.0, 2.0, jnp.nan]])
    right = right_chance(past, jnp.zeros(3), jnp.asarray(1.0))
    np.testing.assert_allclose(right, [4 / 5, 2 / 5, 1 / 2], rtol=1e-12)  # w = 1/(1 + n), visits (3, 0), (1, 2), none
    np.testing.assert_allclose(right_chance(past, jnp.zeros(3), jnp.asarray(0.0)), 0.5)
    noise = jax.vmap(lambda k: ball(k, jnp.zeros(3), 2.0, right))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(jnp.mean(noise > 0, 0), right, atol=4 * 0.5 / 4000**0.5)
    radii = jnp.linalg.norm(noise, axis=1) / 2
    assert float(jnp.max(radii)) <= 1
    assert float(jnp.mean(radii**3)) == pytest.approx(0.5, abs=4 / (12 * 4000) ** 0.5)  # r³ is uniform


@pytest.mark.covers("curvature-calibrated-perturbation")
def test_calibrated_noise_and_decrease(x64):
    run = batch("calibrated")
    escaped(run)
    np.testing.assert_array_equal(run.stats["episodes"], 1)
    np.testing.assert_allclose(run.stats["curvature"][:, 0], -1, rtol=1e-5)
    np.testing.assert_allclose(run.stats["radius"][:, 0], 1 / (8 * ASKED["rho"]), rtol=1e-5)
    assert np.all(run.stats["decrease"][:, 0] >= 1 / (128 * ASKED["lipschitz"] * ASKED["rho"] ** 2))
    assert np.all(np.isnan(run.stats["decrease"][:, 1:]))


@pytest.mark.covers("curvature-calibrated-perturbation")
def test_difference_probe_errs_by_h_squared(x64):
    def f(x):
        return jnp.sum(jnp.sin(x)) * jnp.exp(x[0]) - x[1] ** 2

    rng = np.random.default_rng(0)
    x, v = rng.normal(size=(2, D))
    exact = curvature_probe(f, x, v)
    u = v / np.linalg.norm(v)
    np.testing.assert_allclose(exact, u @ jax.hessian(f)(jnp.asarray(x)) @ u, rtol=1e-12)
    lengths = np.array([0.1, 0.05, 0.025])
    errors = [abs(float(curvature_probe(f, x, v, h=h) - exact)) for h in lengths]
    assert np.polyfit(np.log(lengths), np.log(errors), 1)[0] == pytest.approx(2, abs=0.05)


RING = np.array([[0.5, 0.25, 0, 0.25], [0.25, 0.5, 0.25, 0], [0, 0.25, 0.5, 0.25], [0.25, 0, 0.25, 0.5]])
TILTS = np.array([0.3, -0.1, -0.3, 0.1])


def tilted(datum, x):
    return saddle(x) + datum * x[0]


@pytest.mark.covers("clipped-distributed-escape")
def test_network_without_clipping_is_gradient_tracking(x64):
    x0, rounds = np.array([0.5, -1.0, 0.2, 0.3]), 12
    run = clipped_distributed_escape(tilted, TILTS, x0, RING, key=jax.random.key(0), max_steps=rounds, **ASKED)
    sigma = np.linalg.svd(RING - 0.25)[1][0]
    eta = (1 - sigma) ** 2 / ASKED["lipschitz"]

    def gradients(X):
        g = X.copy()
        g[:, -1] = X[:, -1] ** 3 - X[:, -1]
        g[:, 0] += TILTS
        return g

    X = np.tile(x0, (4, 1))
    Y = gradients(X)
    for _ in range(rounds):
        new = RING @ (X - eta * Y)
        Y = RING @ Y + gradients(new) - gradients(X)
        X = new
    assert run.status == Status.MAX_STEPS
    assert not run.holds  # a run that is cut short says so
    np.testing.assert_allclose(run.stats["workers"], X, atol=1e-13)


@pytest.mark.covers("clipped-distributed-escape")
def test_network_agrees_and_leaves_the_saddle(x64):
    def after(steps):
        more = {"key": jax.random.key(0), "clip": 0.05, "max_steps": steps}
        return clipped_distributed_escape(tilted, TILTS, np.zeros(D), RING, **more, **ASKED)

    run, early = after(20_000), after(5)
    assert run.converged
    assert run.holds
    assert run.stats["clipped"] > 0
    np.testing.assert_allclose(np.abs(run.value), [0, 0, 0, 1], atol=1e-3)
    apart = [np.max(np.abs(r.stats["workers"] - r.value)) for r in (early, run)]
    assert apart[0] > 1e-3
    assert apart[1] < 1e-6 * apart[0]


@pytest.mark.covers("clipped-distributed-escape")
def test_one_worker_is_perturbed_gd(x64):
    alone = jax.tree.map(lambda leaf: leaf[0], batch("gd"))
    key = jax.random.split(jax.random.key(1), SEEDS)[0]
    x0 = jnp.ones(D).at[-1].set(0)
    run = clipped_distributed_escape(
        tilted, np.zeros(1), x0, np.eye(1), key=key, max_steps=20_000, history=True, **ASKED
    )
    assert int(run.steps) == int(alone.steps)
    np.testing.assert_allclose(run.value, alone.value, atol=1e-12)


def test_accelerated_constants_are_free_of_scale(x64):
    """x in other units: the same waits, radii in those units."""

    def constants(u):
        asked = {"lipschitz": 3 / u**2, "rho": 8 / u**3, "eps": 0.1 / u, "lower": -0.25}
        run = perturbed_agd(lambda x: saddle(x / u), jnp.zeros(D), key=jax.random.key(0), max_steps=1, **asked)
        return run.stats["constants"].wait, run.stats["constants"].radius / u

    waits, radii = jax.jit(jax.vmap(constants))(jnp.asarray([1.0, 1e-6, 1e6]))
    assert np.ptp(waits) == 0
    np.testing.assert_allclose(radii, radii[0], rtol=1e-9)


def test_no_saddle_found_is_no_proof(x64):
    """One direction of 400 goes down, by little: Lanczos does not see it, and nothing is claimed."""
    h = (jnp.linspace(0.0, 1.0, 400) ** 4).at[0].set(-1e-6)
    asked = {"lipschitz": 2.0, "rho": 1.0, "eps": 2.5e-13, "lower": -1.0}
    run = curvature_calibrated_escape(Bowl(h), jnp.zeros(400), key=jax.random.key(3), max_steps=2, **asked)
    assert not run.stats["saddle"]
    assert not run.certificates["curvature"].holds
    assert not run.converged


def test_a_start_that_nearly_misses_a_direction_is_allowed_for(monkeypatch):
    """Lanczos breaks down after one step, and drops what the start holds of the direction that goes down."""
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.ones(shape, dtype).at[-1].set(3e-5))
    with jax.enable_x64(False):
        h = jnp.ones(50).at[-1].set(-1)
        found = jax.jit(lambda c: extremes(lambda v: h * v, h, 40, None, c))(jnp.asarray(1e-6))
    assert int(found.count) < 50
    assert float(found.lower) <= -1


def test_another_chance_of_failure_compiles_nothing_new():
    traced = []

    def f(x):
        traced.append(1)
        return jnp.sum(x**2)

    confidences = [
        float(
            second_order_stationarity(f, np.ones(2), eps=1.0, rho=1.0, failure=p).certificates["curvature"].confidence
        )
        for p in (1e-3, 1e-2)
    ]
    assert confidences == pytest.approx([0.999, 0.99], rel=1e-6)
    count = len(traced)
    second_order_stationarity(f, np.ones(2), eps=1.0, rho=1.0, failure=1e-1)
    assert len(traced) == count


class Bowl(eqx.Module):
    """A function that carries its array: a run takes it as it stands."""

    h: jax.Array

    def __call__(self, x):
        return jnp.sum(self.h * x**2) / 2 + jnp.sum(x**4) / 4


def test_rescaling_changes_only_the_scale(x64):
    runs = rescaled()
    np.testing.assert_array_equal(runs.status[SEEDS:], Status.CONVERGED)
    np.testing.assert_allclose(runs.steps[SEEDS:], int(runs.steps[0]), atol=1)
    for value, (_, u) in zip(runs.value[SEEDS:], SCALES[SEEDS:], strict=True):
        np.testing.assert_allclose(value / u, runs.value[0], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lipschitz": 0.0}, "lipschitz"),
        ({"rho": -1.0}, "rho"),
        ({"eps": np.nan}, "eps"),
        ({"lower": np.nan}, "lower: found nan"),
        ({"failure": 0.0}, "failure: found 0.0"),
        ({"c": 0.0}, "c: found 0.0"),
        ({"max_steps": 0}, "max_steps: found 0"),
    ],
)
def test_bad_settings(change, says):
    for method in (perturbed_gd, perturbed_agd, occupation_time_pgd):
        with pytest.raises(InputError, match=says):
            method(saddle, np.zeros(D), key=jax.random.key(0), **(ASKED | change))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda k: perturbed_gd(saddle, [np.inf], key=k, **ASKED), "x0: found NaN"),
        (lambda k: occupation_time_pgd(saddle, [0.0], key=k, aversion=-1.0, **ASKED), "aversion"),
        (lambda k: occupation_time_pgd(saddle, [0.0], key=k, window=0, **ASKED), "window: found 0"),
        (lambda k: curvature_calibrated_escape(saddle, [0.0], key=k, max_episodes=0, **ASKED), "max_episodes: found 0"),
        (lambda k: curvature_probe(saddle, [0.0], [1.0], h=0.0), "h: found 0.0"),
        (lambda k: curvature_probe(saddle, [0.0, 1.0], [0.0, 0.0]), "direction: found zeros"),
        (lambda k: curvature_probe(saddle, [0.0, 1.0], [1.0]), "direction: found shape"),
        (lambda k: clipped_distributed_escape(tilted, TILTS, [0.0], np.eye(3), key=k, **ASKED), "expected .n, n. for"),
        (lambda k: clipped_distributed_escape(tilted, TILTS, [0.0], np.eye(4), key=k, **ASKED), "not connected"),
        (lambda k: clipped_distributed_escape(tilted, TILTS, [0.0], 2 * RING, key=k, **ASKED), "doubly stochastic"),
        (lambda k: clipped_distributed_escape(tilted, TILTS, [0.0], RING, key=k, clip=0.0, **ASKED), "clip: found 0.0"),
    ],
)
def test_bad_input(call, says):
    with pytest.raises(InputError, match=says):
        call(jax.random.key(0))
