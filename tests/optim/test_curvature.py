"""Curvature operators against dense Jacobians, Fisher matrices against closed forms, natural and Gauss-Newton steps."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from corollary import optim
from corollary.core import InputError
from corollary.optim import minimize
from corollary.optim.curvature import (
    Bernoulli,
    Categorical,
    ExponentialFamily,
    Gaussian,
    GaussNewtonStep,
    NaturalGradient,
    NetworkLoss,
    Poisson,
    curvature_step,
    damped,
    empirical_fisher,
    fisher_information,
    gauss_newton_step,
    ggn_operator,
    hessian_operator,
    nystrom_curvature,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 3))
LABELS = RNG.integers(0, 2, size=7)


def network(params, x):
    return params["out"] @ jnp.tanh(params["in"] @ x)


def parameters(dtype):
    make = np.random.default_rng(1).normal
    return {"in": jnp.asarray(make(size=(3, 3)), dtype), "out": jnp.asarray(make(size=(2, 3)), dtype)}


def squared(z, y):
    return jnp.sum((z - y) ** 2) / 2


def linear(w, x):
    return w @ x


def dense(model, params, loss, X, y):
    """The naive twin: every Jacobian and every output Hessian, multiplied out."""
    flat, unravel = ravel_pytree(params)
    total = 0
    for x, target in zip(X, y, strict=True):
        output = lambda p, x=x: model(unravel(p), x)  # noqa: E731
        J = np.asarray(jax.jacobian(output)(flat)).reshape(-1, flat.size)
        H = np.asarray(jax.hessian(loss)(output(flat), target)).reshape(J.shape[0], J.shape[0])
        total = total + J.T @ H @ J
    return total / len(X)


@pytest.mark.covers("ggn-operator")
def test_ggn_is_the_product_of_jacobians(dtype):
    params, x = parameters(dtype), jnp.asarray(X, dtype)
    G = ggn_operator(network, params, Categorical(), x, LABELS)
    matrix = np.asarray(G.as_matrix())
    expected = dense(network, params, Categorical(), x, LABELS)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(matrix, expected, atol=50 * eps * np.abs(expected).max())
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
    assert values[0] >= -50 * eps * values[-1]
    assert lx.is_positive_semidefinite(G)
    assert lx.is_symmetric(G)
    # For a likelihood in its natural parameters it is the Fisher matrix.
    fisher = fisher_information(network, params, Categorical(), x).as_matrix()
    np.testing.assert_allclose(fisher, matrix, atol=50 * eps * np.abs(matrix).max())
    # A pytree in, a pytree out; inside jit as outside; damped it keeps its tag.
    C = damped(G, 0.5)
    assert lx.is_positive_semidefinite(C)
    v = jax.tree.map(jnp.ones_like, params)
    image = jax.jit(lambda p, v: damped(ggn_operator(network, p, Categorical(), x, LABELS), 0.5).mv(v))(params, v)
    assert jax.tree.structure(image) == jax.tree.structure(params)
    np.testing.assert_allclose(ravel_pytree(image)[0], matrix.sum(1) + 0.5, atol=100 * eps * np.abs(matrix).sum())


@pytest.mark.covers("ggn-operator")
def test_ggn_and_the_hessian(x64):
    W, y = jnp.asarray(RNG.normal(size=(2, 3))), LABELS

    def loss(model, at):
        return lambda p: jnp.mean(jax.vmap(at)(jax.vmap(model, (None, 0))(p, jnp.asarray(X)), y))

    for at in (Categorical(), lambda z, y: jnp.sum(jax.nn.softplus(z)) - z[y]):
        G = ggn_operator(linear, W, at, X, y).as_matrix()
        np.testing.assert_allclose(G, hessian_operator(loss(linear, at), W).as_matrix(), atol=1e-13)
    # Off a linear model the Hessian may have negative curvature, the Gauss-Newton matrix none.
    params = parameters("float64")
    H = np.linalg.eigvalsh(np.asarray(hessian_operator(loss(network, Categorical()), params).as_matrix()))
    G = np.linalg.eigvalsh(np.asarray(ggn_operator(network, params, Categorical(), X, y).as_matrix()))
    assert H[0] < -1e-3
    assert G[0] > -1e-13


@pytest.mark.covers("fisher-information")
def test_fisher_closed_forms(x64):
    one = np.ones((4, 1))
    # The mean of a Gaussian: 1/σ².
    F = fisher_information(lambda m, x: m * x, jnp.asarray(0.3), Gaussian(0.5), one).as_matrix()
    np.testing.assert_allclose(F, [[4.0]], rtol=1e-14)
    # The probability of a coin: 1/(p(1 − p)).
    p = 0.2
    logit = lambda p, x: x * jnp.log(p / (1 - p))  # noqa: E731
    F = fisher_information(logit, jnp.asarray(p), Bernoulli(), one).as_matrix()
    np.testing.assert_allclose(F, [[1 / (p * (1 - p))]], rtol=1e-13)
    # Logits of a category: diag(p) − p pᵀ, singular along (1, ..., 1).
    z = jnp.asarray([0.1, -0.4, 1.2])
    q = np.asarray(jax.nn.softmax(z))
    F = fisher_information(lambda z, x: z, z, Categorical(), one).as_matrix()
    np.testing.assert_allclose(F, np.diag(q) - np.outer(q, q), atol=1e-15)
    # The rate of a Poisson law: 1/rate.
    F = fisher_information(lambda r, x: jnp.log(r) * x, jnp.asarray(3.0), Poisson(), one).as_matrix()
    np.testing.assert_allclose(F, [[1 / 3]], rtol=1e-13)


@pytest.mark.covers("fisher-information")
def test_both_definitions_of_the_fisher_matrix_agree(x64):
    # E[∇log p ∇log pᵀ] = −E[∇²log p], the expectation taken as a sum over all labels; the model is not linear.
    params, x = parameters("float64"), jnp.asarray(X)
    flat, unravel = ravel_pytree(params)
    score, bend = 0, 0
    for row in x:
        q = jax.nn.softmax(network(params, row))
        for label in (0, 1):
            nll = lambda p, row=row, label=label: Categorical()(network(unravel(p), row), label)  # noqa: E731
            g = jax.grad(nll)(flat)
            score = score + q[label] * jnp.outer(g, g) / len(x)
            bend = bend + q[label] * jax.hessian(nll)(flat) / len(x)
    F = np.asarray(fisher_information(network, params, Categorical(), x).as_matrix())
    np.testing.assert_allclose(score, F, atol=1e-14)
    np.testing.assert_allclose(bend, F, atol=1e-14)


@pytest.mark.covers("fisher-information")
def test_sampled_labels_estimate_the_fisher_matrix(x64):
    x = jnp.asarray(X)
    cases = (
        (Categorical(), jnp.asarray(RNG.normal(size=(2, 3)))),
        (Bernoulli(), jnp.asarray(RNG.normal(size=(2, 3)))),
        (Poisson(), jnp.asarray(0.2 * RNG.normal(size=(2, 3)))),
        (Gaussian(2.0), jnp.asarray(RNG.normal(size=(2, 3)))),
    )
    v = jnp.asarray(RNG.normal(size=(2, 3)))
    for distribution, W in cases:

        def along(key, W=W, distribution=distribution):
            return jnp.sum(v * fisher_information(linear, W, distribution, x, samples=20, key=key).mv(v))

        drawn = jax.lax.map(along, jax.random.split(jax.random.key(3), 100))
        exact = jnp.sum(v * fisher_information(linear, W, distribution, x).mv(v))
        assert abs(drawn.mean() - exact) < 4.5 * drawn.std() / 10
        assert drawn.std() < exact


@pytest.mark.covers("fisher-information", "empirical-fisher", "ggn-operator", "full-gauss-newton")
def test_bad_input():
    W = jnp.zeros((2, 3), "float32")
    x = X.astype("float32")
    with pytest.raises(InputError, match="data: found shapes"):
        ggn_operator(linear, W, squared, x, x[:3])
    with pytest.raises(InputError, match="data: found nothing"):
        empirical_fisher(linear, W, squared)
    with pytest.raises(InputError, match="distribution: found function"):
        fisher_information(linear, W, squared, x)
    with pytest.raises(InputError, match="key: found None"):
        fisher_information(linear, W, Gaussian(), x, samples=2)
    with pytest.raises(InputError, match="scale"):
        Gaussian(-1.0)
    with pytest.raises(InputError, match="damping"):
        gauss_newton_step(linear, W, squared, x, x[:, :2], damping=-1.0)
    with pytest.raises(InputError, match="operator"):
        curvature_step(lx.DiagonalLinearOperator(jnp.ones(3)), jnp.ones(3))
    G = ggn_operator(linear, W, squared, x, x[:, :2])
    with pytest.raises(InputError, match="gradient: found other shapes"):
        curvature_step(G, jnp.ones(3))
    with pytest.raises(InputError, match="rank: found 7"):
        nystrom_curvature(G, 7, key=jax.random.key(0))
    with pytest.raises(InputError, match="OutputDistribution"):
        minimize(NetworkLoss(linear, squared, x, x[:, :2]), W, NaturalGradient())
    with pytest.raises(InputError, match="NetworkLoss"):
        minimize(lambda x: (x**2).sum(), jnp.ones(2), GaussNewtonStep())
    for bad in ({"learning_rate": 0.0}, {"damping": -1.0}, {"cg_steps": 0}, {"batch": 0}, {"samples": 0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            NaturalGradient(**bad)


@pytest.mark.covers("empirical-fisher")
def test_empirical_fisher_is_the_second_moment_of_gradients(dtype):
    params, x = parameters(dtype), jnp.asarray(X, dtype)
    E = np.asarray(empirical_fisher(network, params, Categorical(), x, LABELS).as_matrix())
    flat, unravel = ravel_pytree(params)
    grads = jax.vmap(jax.grad(lambda p, x, y: Categorical()(network(unravel(p), x), y)), (None, 0, 0))
    g = np.asarray(grads(flat, x, jnp.asarray(LABELS)))
    np.testing.assert_allclose(E, g.T @ g / len(x), atol=50 * float(jnp.finfo(dtype).eps) * np.abs(E).max())


@pytest.mark.covers("empirical-fisher")
def test_empirical_fisher_is_the_fisher_only_at_a_well_specified_optimum(x64):
    # Kunstner, Balles & Hennig (2019), section 3: linear regression, y = θ x + noise of the model's own variance.
    n, theta = 20_000, 2.0
    x = RNG.normal(size=(n, 1))
    scale = lambda m, x: (m * x)[0]  # noqa: E731
    y = theta * x[:, 0] + RNG.normal(size=n)
    best = jnp.asarray((x[:, 0] @ y) / (x[:, 0] @ x[:, 0]))

    def both(at, y):
        F = fisher_information(scale, at, Gaussian(), x).mv(jnp.ones(()))
        return float(F), float(empirical_fisher(scale, at, Gaussian(), x, y).mv(jnp.ones(())))

    F, E = both(best, y)
    assert abs(E - F) < 5 * np.sqrt(20 / n)  # Var(x²ε²) = 3·3 − 1 = 8
    # Away from the optimum: E = E[x²(ε + 3x)²] = 1 + 27, F = 1: the step is 28 times too short.
    F, E = both(best + 3, y)
    assert abs(F - 1) < 0.05
    assert E > 20 * F
    # Noise of another variance than the model's, at the optimum: E is σ² too large (misspecified).
    wrong = theta * x[:, 0] + 3 * RNG.normal(size=n)
    F, E = both(jnp.asarray((x[:, 0] @ wrong) / (x[:, 0] @ x[:, 0])), wrong)
    assert abs(E / F - 9) < 1
    # Without noise it vanishes where the curvature does not.
    F, E = both(jnp.asarray(theta), theta * x[:, 0])
    assert E < 1e-20 * F


@pytest.mark.covers("full-gauss-newton")
def test_gauss_newton_step(dtype):
    eps = float(jnp.finfo(dtype).eps)
    x, W = X.astype(dtype), RNG.normal(size=(2, 3)).astype(dtype)
    y = RNG.normal(size=(7, 2)).astype(dtype)
    # One step solves a linear model.
    one = gauss_newton_step(linear, W, squared, x, y, tol=10 * eps)
    assert one.converged
    assert one.holds
    best = np.linalg.lstsq(x, y)[0].T
    np.testing.assert_allclose(W + one.value, best, atol=1e3 * eps)
    # Any damping: the dense solve. A large one: −g/λ.
    params = parameters(dtype)
    G = dense(network, params, squared, jnp.asarray(x), jnp.asarray(y))
    flat, unravel = ravel_pytree(params)
    g = np.asarray(jax.grad(lambda p: jnp.mean(jax.vmap(lambda x, y: squared(network(unravel(p), x), y))(x, y)))(flat))
    for damping in (0.1, 1e6):
        step = gauss_newton_step(network, params, squared, x, y, damping=damping, tol=10 * eps)
        assert step.holds
        expected = np.linalg.solve(G + damping * np.eye(len(g)), -g)
        np.testing.assert_allclose(ravel_pytree(step.value)[0], expected, atol=1e3 * eps * np.abs(expected).max())
    np.testing.assert_allclose(ravel_pytree(step.value)[0], -g / damping, rtol=1e-4)
    # Scales: a loss of 1e±12 changes nothing but λ.
    for c in (1e-12, 1e12):
        scaled = lambda z, y, c=c: c * squared(z, y)  # noqa: E731
        again = gauss_newton_step(linear, W, scaled, x, y, tol=10 * eps)
        np.testing.assert_allclose(again.value, one.value, atol=1e3 * eps)
        assert again.holds


@pytest.mark.covers("full-gauss-newton")
def test_cg_says_when_it_fell_short(x64):
    d = jnp.logspace(-8, 0, 50)
    C = lx.FunctionLinearOperator(lambda v: d * v, jax.eval_shape(lambda: d), lx.positive_semidefinite_tag)
    short = curvature_step(C, jnp.ones(50), max_steps=3)
    assert not short.converged
    assert not short.certificates["residual"].holds
    assert float(short.stats["decrease"]) > 0
    # A gradient outside the range has no step; zero has the zero step.
    singular = lx.FunctionLinearOperator(lambda v: v.at[0].set(0), C.in_structure(), lx.positive_semidefinite_tag)
    assert not curvature_step(singular, jnp.ones(50)).converged
    assert np.all(curvature_step(C, jnp.zeros(50)).value == 0)


@pytest.mark.covers("natural-gradient")
def test_natural_gradient_is_maximum_likelihood_in_one_step_in_mean_parameters(x64):
    solver = NaturalGradient(tol=1e-13)
    y = np.asarray([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    counts = np.asarray([3.0, 1.0, 4.0, 1.0, 5.0, 0.0, 2.0, 6.0])
    values = RNG.normal(size=8) + 2
    moments = np.asarray([values.mean(), (values**2).mean()])

    # A Gaussian with both parameters unknown: T = (y, y²), A(z) = −z₁²/(4z₂) − ½log(−2z₂), means (m, m²+v).
    def both(m, x):
        variance = m[1] - m[0] ** 2
        return jnp.stack([m[0] / variance, -1 / (2 * variance)])

    normal = ExponentialFamily(
        lambda y: jnp.stack([y, y**2]), lambda z: -(z[0] ** 2) / (4 * z[1]) - jnp.log(-2 * z[1]) / 2
    )
    for model, family, data, start, best in (
        (lambda p, x: jnp.log(p / (1 - p)), Bernoulli(), y, np.asarray(0.7), y.mean()),
        (lambda r, x: jnp.log(r), Poisson(), counts, np.asarray(1.0), counts.mean()),
        (lambda m, x: m, Gaussian(3.0), values, np.asarray(0.0), values.mean()),
        (both, normal, values, np.asarray([0.5, 2.0]), moments),
    ):
        one = minimize(NetworkLoss(model, family, data, data), start, solver, tol=1e-9, max_steps=3)
        assert one.converged
        assert one.steps == 1
        np.testing.assert_allclose(one.value, best, rtol=1e-8)


@pytest.mark.covers("natural-gradient")
def test_natural_gradient_and_reparametrisation(x64):
    x = X
    A = jnp.asarray(RNG.normal(size=(3, 3)) + 3 * np.eye(3))
    w = np.asarray([0.3, -0.2, 0.5])
    start = {"plain": w, "affine": np.linalg.solve(np.asarray(A), w - 1), "cubic": np.cbrt(w)}
    maps = {"plain": lambda u: u, "affine": lambda u: A @ u + 1, "cubic": lambda u: u**3}

    models = {name: (lambda u, x, into=into: into(u) @ x) for name, into in maps.items()}
    problems = {name: NetworkLoss(model, Bernoulli(), x, LABELS) for name, model in models.items()}

    def step(name, rate):
        one = minimize(problems[name], start[name], NaturalGradient(learning_rate=rate, tol=1e-13), max_steps=1)
        return np.asarray(maps[name](jnp.asarray(one.value)))

    plain = step("plain", 0.1)
    np.testing.assert_allclose(step("affine", 0.1), plain, atol=1e-11)  # exactly
    errors = [np.linalg.norm(step("cubic", rate) - step("plain", rate)) for rate in (0.02, 0.01)]
    assert errors[0] > 1e-8  # not exactly,
    assert 3.5 < errors[0] / errors[1] < 4.5  # but to O(η²)


@pytest.mark.covers("natural-gradient")
def test_natural_gradient_trains_with_sampled_labels_and_batches(x64):
    y = (X @ np.asarray([1.0, -1.0, 0.5]) > 0.2).astype(float)
    y[0] = 1 - y[0]
    problem = NetworkLoss(lambda w, x: w @ x, Bernoulli(), X, y)
    exact = minimize(problem, np.zeros(3), NaturalGradient(), tol=1e-9, max_steps=50)
    assert exact.converged
    assert abs(np.linalg.norm(jax.grad(problem.objective)(jnp.asarray(exact.value)))) < 1e-8
    sampled = NaturalGradient(learning_rate=0.3, damping=0.05, samples=5, batch=5, key=jax.random.key(1))
    found = minimize(problem, np.zeros(3), sampled, tol=1e-6, max_steps=300)
    assert problem.objective(found.value) <= problem.objective(exact.value) + 1e-4


@pytest.mark.covers("nystrom-curvature")
def test_nystrom(dtype):
    eps = float(jnp.finfo(dtype).eps)
    params, x = parameters(dtype), jnp.asarray(X, dtype)
    G = ggn_operator(network, params, squared, x, jnp.zeros((7, 2), dtype))
    matrix = np.asarray(G.as_matrix(), float)
    n, top = len(matrix), np.linalg.norm(matrix, 2)
    v = jax.tree.map(jnp.ones_like, params)
    flat = np.ones(n)
    sketch = jax.jit(
        lambda rank: nystrom_curvature(G, rank, damping=0.1 * top, trace=np.trace(matrix), key=jax.random.key(0)),
        static_argnums=0,
    )
    # Exact at full sketch, solves included.
    full = sketch(n)
    assert full.holds
    np.testing.assert_allclose(ravel_pytree(full.value.mv(v))[0], matrix @ flat + 0.1 * top, atol=500 * eps * top)
    solved = np.linalg.solve(matrix + 0.1 * top * np.eye(n), flat)
    np.testing.assert_allclose(ravel_pytree(full.value.solve(v))[0], solved, atol=5e3 * eps * np.abs(solved).max())
    # Woodbury's solve is the dense solve of the low-rank plus diagonal matrix, whatever the rank.
    low = sketch(4).value
    U = np.asarray(low.U, float)
    approximate = (U * np.asarray(low.eigenvalues, float)) @ U.T + float(low.damping) * np.eye(n)
    np.testing.assert_allclose(
        ravel_pytree(low.solve(v))[0], np.linalg.solve(approximate, flat), atol=200 * eps / (0.1 * top)
    )
    half = low.sqrt_solve(low.sqrt_solve(v))
    np.testing.assert_allclose(ravel_pytree(half)[0], ravel_pytree(low.solve(v))[0], atol=200 * eps / (0.1 * top))
    assert lx.is_positive_semidefinite(low.inverse)


@pytest.mark.covers("nystrom-curvature")
def test_nystrom_error_stays_below_its_bound(x64):
    # Mean over 40 sketches against Frangella, Tropp & Udell (2023), proposition 2.2, and each against its certificates.
    n, rank, p = 40, 6, 6
    spectrum = jnp.asarray(1.0 / np.arange(1, n + 1) ** 2)
    Q = jnp.asarray(np.linalg.qr(RNG.normal(size=(n, n)))[0])
    matrix = (Q * spectrum) @ Q.T
    C = lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)

    def one(key):
        # `rank` counts the kept pairs: keep the whole sketch of rank + p columns, as the proposition does.
        found = nystrom_curvature(C, rank + p, oversampling=0, trace=spectrum.sum(), key=key)
        U, d = found.value.U, found.value.eigenvalues
        error = jnp.linalg.norm(matrix - (U * d) @ U.T, 2)
        return error, found.certificates["spectral_error"].bound, found.certificates["trace_error"].bound

    errors, likely, traced = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(5), 40))
    s = rank + p
    tail = spectrum[rank:]
    bound = (1 + 2 * rank / (p - 1)) * tail[0] + 2 * np.e**2 * s / (p**2 - 1) * tail.sum()
    assert errors.mean() + 3 * errors.std() / 40**0.5 <= bound
    assert np.all(errors <= traced)
    assert np.mean(errors <= likely) == 1.0


@pytest.mark.covers("nystrom-curvature")
def test_nystrom_says_when_the_curvature_is_indefinite(x64):
    H = hessian_operator(lambda x: x[0] ** 2 - 2 * x[1] ** 2 + x[2] ** 2, jnp.zeros(3))
    found = jax.jit(lambda: nystrom_curvature(H, 2, key=jax.random.key(0)))()
    assert not found.certificates["psd"].holds


def test_refused_or_told():
    from corollary.optim.curvature import Categorical

    assert np.isnan(Categorical()(jnp.zeros(3), 3))
    assert np.isnan(Categorical()(jnp.zeros(3), -1))
    with pytest.raises(InputError, match="noise_variance: found a negative"):
        optim.sgd_momentum_variance(0.1, 0.9, 1.0, -1.0, key=jax.random.key(0))
    with pytest.raises(InputError, match="at most lipschitz"):
        optim.nesterov_rate(lambda x: x @ x, [1.0], [0.0], 1.0, 3, strong_convexity=4.0)
    with pytest.raises(InputError, match="momentum"):
        optim.HeavyBall(momentum=1.0)
    with pytest.raises(InputError, match="errors: found equal"):
        optim.fit_convergence([1.0] * 8)
    with pytest.raises(InputError, match="confidence"):
        optim.fit_convergence([0.5, 0.4, 0.3, 0.2], confidence=1.5)
    with pytest.raises(InputError, match="points: found no two members"):
        optim.set_convexity_check(lambda x: x[0] > 5, np.zeros((4, 2)))
    with pytest.raises(InputError, match="points: found points outside region"):
        optim.lipschitz_estimate(lambda x: x**2, [10.0, 20.0], region=(0.0, 1.0))
    f = optim.functions.beale().rescaled(1e6, 10.0)
    np.testing.assert_allclose(np.sum(np.asarray(f.residual(jnp.asarray(f.x0))) ** 2), f(f.x0), rtol=1e-5)
