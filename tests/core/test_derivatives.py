"""Finite differences, smoothness at a point, Taylor polynomials, Hessian products and Jacobian chains."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import lineax as lx
import mpmath
import numpy as np
import pytest
import scipy.optimize

from corollary.core import (
    InputError,
    chain_cost,
    check_gradient,
    finite_difference,
    hessian_operator,
    jacobian_chain,
    limit,
    smoothness,
    taylor,
)


def rosen(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


X = np.array([-1.2, 1.0, 0.7])


@pytest.mark.covers("finite-differences")
@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("central", 2), ("complex", 2)])
def test_the_error_falls_at_the_schemes_order(scheme, order):
    exact = scipy.optimize.rosen_der(X)
    steps = np.array([1e-2, 1e-3])
    errors = [np.abs(finite_difference(rosen, X, scheme=scheme, step=h).gradient - exact).max() for h in steps]
    slope = np.log(errors[0] / errors[1]) / np.log(steps[0] / steps[1])
    assert slope == pytest.approx(order, abs=0.1)


@pytest.mark.covers("finite-differences")
def test_the_best_step_is_near_the_default():
    exact, u = scipy.optimize.rosen_der(X), 1.1e-16
    for scheme, best in (("forward", u ** (1 / 2)), ("central", u ** (1 / 3))):
        error = {h: np.abs(finite_difference(rosen, X, scheme=scheme, step=h).gradient - exact).max() for h in
                 (best * 1e-3, best, best * 1e3)}  # fmt: skip
        assert error[best] < error[best * 1e-3]
        assert error[best] < error[best * 1e3]


@pytest.mark.covers("finite-differences")
def test_evaluations_are_counted_and_scipy_agrees():
    d = X.size
    counts = {s: finite_difference(rosen, X, scheme=s).evaluations for s in ("forward", "central", "complex")}
    assert counts == {"forward": d + 1, "central": 2 * d, "complex": d}
    reference = scipy.optimize.approx_fprime(X, scipy.optimize.rosen, 1e-8)
    scale = np.abs(reference).max()
    assert np.abs(finite_difference(rosen, X, scheme="forward").gradient - reference).max() <= 1e-5 * scale
    assert scipy.optimize.check_grad(scipy.optimize.rosen, scipy.optimize.rosen_der, X) <= 1e-5 * scale


@pytest.mark.covers("finite-differences")
def test_linear_functions_are_exact_to_rounding_in_any_pytree(dtype):
    w = {"a": jnp.arange(1.0, 4.0, dtype=dtype), "b": jnp.asarray([[2.0, -1.0]], dtype)}

    def linear(x):
        return sum(jnp.sum(w[k].astype(x[k].dtype) * x[k]) for k in w)  # complex steps pass through it too

    x = jax.tree.map(jnp.ones_like, w)
    u = float(jnp.finfo(dtype).eps) / 2
    for scheme, amplified in (("forward", u**0.5), ("central", u ** (2 / 3)), ("complex", 4 * u)):
        gradient = finite_difference(linear, x, scheme=scheme).gradient
        for name in w:
            # Only the rounding of f is left: about |f|·u / h with |f| = 7.
            assert float(jnp.max(jnp.abs(gradient[name] - w[name]))) <= 20 * amplified


@pytest.mark.covers("finite-differences")
def test_a_planted_one_percent_error_is_found_with_its_coordinate(dtype):
    x = jnp.asarray(X, dtype)
    g = jax.grad(rosen)(x)
    assert check_gradient(rosen, x).passed
    assert check_gradient(rosen, x, jax.grad(rosen)).passed
    for j in range(3):
        wrong = g.at[j].add(0.01 * jnp.max(jnp.abs(g)))
        verdict = check_gradient(rosen, x, wrong)
        assert not verdict.passed
        assert int(verdict.coordinate) == j


def test_a_gradient_of_the_wrong_shape_is_refused():
    with pytest.raises(InputError, match="gradient: found 2 entries, expected 3"):
        check_gradient(rosen, X, X[:2])
    with pytest.raises(InputError, match="gradient: found structure"):
        check_gradient(rosen, X, {"x": X})
    with pytest.raises(InputError, match="f: returned an array of shape"):
        finite_difference(lambda x: x, X)
    with pytest.raises(InputError, match="step: found 0"):
        finite_difference(rosen, X, step=0)


def peano(x):
    s = x[0] ** 2 + x[1] ** 2
    return jnp.where(s == 0, 0.0, x[0] * x[1] * (x[0] ** 2 - x[1] ** 2) / jnp.where(s == 0, 1.0, s))


@pytest.mark.covers("differentiability-check")
def test_a_removable_hole_has_its_limit():
    hole = smoothness(lambda x: (x**2 - 1) / (x - 1), 1.0)
    assert hole.verdict == "not continuous"
    assert float(hole.left_limit) == pytest.approx(2, abs=1e-12)
    assert float(hole.right_limit) == pytest.approx(2, abs=1e-12)


@pytest.mark.covers("differentiability-check")
@pytest.mark.parametrize(
    ("f", "at", "left", "right", "verdict"),
    [
        (jnp.abs, 0.0, -1, 1, "continuous"),
        (jax.nn.relu, 0.0, 0, 1, "continuous"),
        (lambda x: x * jnp.abs(x), 0.0, 0, 0, "differentiable"),
        (jnp.sin, 0.3, np.cos(0.3), np.cos(0.3), "C2"),
        (lambda x: jnp.where(x < 0, 0.0, 1.0), 0.0, None, None, "not continuous"),
    ],
)
def test_one_sided_derivatives_and_verdicts(f, at, left, right, verdict):
    found = smoothness(f, at)
    assert found.verdict == verdict
    if left is not None:
        assert float(found.left_derivative) == pytest.approx(left, abs=1e-7)
        assert float(found.right_derivative) == pytest.approx(right, abs=1e-7)


@pytest.mark.covers("differentiability-check")
def test_peanos_function_has_mixed_partials_of_opposite_sign():
    found = smoothness(peano, np.zeros(2))
    assert found.hessian[0, 1] == pytest.approx(-1, abs=1e-5)
    assert found.hessian[1, 0] == pytest.approx(1, abs=1e-5)
    assert float(found.asymmetry) == pytest.approx(2, abs=1e-5)
    assert found.verdict == "differentiable"


@pytest.mark.covers("differentiability-check")
def test_a_smooth_function_has_symmetric_partials():
    found = smoothness(lambda x: jnp.exp(x[0]) * jnp.sin(x[1]), np.array([0.2, 0.5]))
    assert found.verdict == "C2"
    exact = np.exp(0.2) * np.array([[np.sin(0.5), np.cos(0.5)], [np.cos(0.5), -np.sin(0.5)]])
    assert np.abs(found.hessian - exact).max() <= 1e-4
    assert float(found.asymmetry) <= 1e-4


@pytest.mark.covers("differentiability-check")
@pytest.mark.parametrize(
    ("g", "reference"),
    [
        (lambda h: np.sin(h) / h, lambda h: mpmath.sin(h) / h),
        (lambda h: (np.exp(h) - 1) / h, lambda h: (mpmath.exp(h) - 1) / h),
        (lambda h: (1 - np.cos(h)) / h**2, lambda h: (1 - mpmath.cos(h)) / h**2),
    ],
)
def test_limits_agree_with_mpmath(g, reference):
    value, error = limit(g)
    assert float(value) == pytest.approx(float(mpmath.limit(reference, 0)), abs=1e-9)
    assert error <= 1e-8


def quadratic(x):
    return x[0] ** 2 + x[0] * x[1] + 3 * x[1] ** 2


@pytest.mark.covers("taylor-expansion")
def test_a_quadratic_is_its_own_second_order_polynomial():
    p = taylor(quadratic, np.array([0.4, -1.1]), 2)
    assert p.tensor(2).tolist() == [[2.0, 1.0], [1.0, 6.0]]
    for delta in np.random.default_rng(0).standard_normal((5, 2)):
        assert float(p(delta)) == pytest.approx(float(quadratic(p.x0 + delta)), rel=1e-14, abs=1e-14)


@pytest.mark.covers("taylor-expansion")
def test_the_exponential_has_coefficients_one_over_factorial():
    p = taylor(jnp.exp, 0.0, 8)
    assert [float(p.derivative(1.0, k)) for k in range(9)] == pytest.approx([1.0] * 9, rel=1e-14)
    assert float(p(1.0)) == pytest.approx(sum(1 / mpmath.factorial(k) for k in range(9)), rel=1e-15)


@pytest.mark.covers("taylor-expansion")
def test_order_one_is_the_tangent():
    p = taylor(lambda x: x**3 - 2 * x + 1, 1.0, 1)
    for x in (-1.0, 0.3, 2.0):
        assert float(p(x - 1.0)) == pytest.approx(x - 1, abs=1e-15)


def wave(x):
    return jnp.exp(x[0]) * jnp.sin(x[1])


@pytest.mark.covers("taylor-expansion")
@pytest.mark.parametrize("order", [1, 2, 3])
def test_polynomial_and_integral_remainder_make_the_function(order, x64):
    p, delta = taylor(wave, np.array([0.1, 0.2]), order), np.array([0.5, -0.3])
    exact = float(wave(p.x0 + delta))
    assert float(p(delta)) + float(p.remainder(delta)) == pytest.approx(exact, rel=1e-13)
    certificate = p.lagrange(delta)
    assert certificate.holds
    assert certificate.measured > 0
    assert not p.lagrange(delta, sup=0.0).holds


@pytest.mark.covers("taylor-expansion")
@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_error_is_of_order_k_plus_one(order, x64):
    p, direction = taylor(wave, np.array([0.1, 0.2]), order), np.array([0.6, -0.8])
    h = np.array([0.2, 0.1, 0.05])
    errors = [abs(float(p(t * direction)) - float(wave(p.x0 + t * direction))) for t in h]
    assert np.polyfit(np.log(h), np.log(errors), 1)[0] == pytest.approx(order + 1, abs=0.15)


@pytest.mark.covers("taylor-expansion")
def test_derivative_tensors_are_symmetric():
    t = taylor(wave, np.array([0.1, 0.2]), 3).tensor(3)
    for axes in itertools.permutations(range(3)):
        assert np.allclose(t, t.transpose(axes), rtol=0, atol=4e-16)


def test_taylor_refuses_a_displacement_of_another_shape():
    with pytest.raises(InputError, match="delta: found shape"):
        taylor(wave, np.zeros(2), 1)(np.zeros(3))
    with pytest.raises(InputError, match="order: found -1"):
        taylor(wave, np.zeros(2), -1)


def loss(params, data):
    return jnp.mean((jnp.tanh(data @ params["w"]) @ params["v"]) ** 2) + jnp.sum(params["v"] ** 4)


@pytest.mark.covers("hessian-operator")
@pytest.mark.parametrize("mode", ["forward-over-reverse", "reverse-over-reverse", "finite-difference"])
def test_products_equal_the_dense_hessian_and_are_symmetric(mode, dtype):
    keys = jax.random.split(jax.random.key(0), 5)
    data = jax.random.normal(keys[0], (7, 3), dtype)
    params = {"w": jax.random.normal(keys[1], (3, 2), dtype), "v": jax.random.normal(keys[2], (2,), dtype)}
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = jax.jit(jax.hessian(lambda x: loss(unravel(x), data)))(flat)
    H = hessian_operator(loss, params, data, mode=mode)
    assert lx.is_symmetric(H)

    @jax.jit
    def mv(x):
        return jax.flatten_util.ravel_pytree(H.mv(unravel(x)))[0]

    a, b = (jax.random.normal(k, flat.shape, dtype) for k in keys[3:])
    u, size = float(jnp.finfo(dtype).eps) / 2, float(jnp.linalg.norm(dense))
    # Automatic modes: rounding only. Differences of gradients with step u^(1/3): error O(u^(2/3)).
    tol = 100 * size * (u ** (2 / 3) if mode == "finite-difference" else u)
    assert float(jnp.max(jnp.abs(mv(a) - dense @ a))) <= tol * float(jnp.linalg.norm(a))
    linear = mv(2 * a - b) - (2 * mv(a) - mv(b))
    assert float(jnp.max(jnp.abs(linear))) <= 4 * tol * float(jnp.linalg.norm(a) + jnp.linalg.norm(b))
    symmetric = jnp.vdot(a, mv(b)) - jnp.vdot(b, mv(a))
    assert abs(float(symmetric)) <= 2 * tol * float(jnp.linalg.norm(a) * jnp.linalg.norm(b))


@pytest.mark.covers("hessian-operator")
def test_finite_differences_are_exact_on_quadratics(x64):
    A = np.array([[2.0, 1.0], [1.0, 6.0]])
    H = hessian_operator(lambda x: 0.5 * x @ A @ x, jnp.ones(2), mode="finite-difference")
    for v in (np.array([1.0, 0.0]), np.array([1e-3, 5.0])):
        # Only rounding of the gradients is left: u·‖∇f‖/step, step about u^(1/3).
        assert np.abs(H.mv(jnp.asarray(v)) - A @ v).max() <= 1e-9 * np.linalg.norm(v)
    assert H.mv(jnp.zeros(2)).tolist() == [0.0, 0.0]


@pytest.mark.covers("hessian-operator")
def test_the_finite_difference_error_is_quadratic_in_the_step(x64):
    # Along v the step is u^(1/3)(1+‖θ‖)/‖v‖·v: on a quartic the error of a central difference is f''''·step²/6.
    for theta in (1.0, 10.0, 100.0):
        H = hessian_operator(lambda x: jnp.sum(x**4), jnp.array([theta]), mode="finite-difference")
        step = (1.1102230246251565e-16) ** (1 / 3) * (1 + theta)
        truncation, rounding = 4 * theta * step**2, 8 * theta**3 * 2.2e-16 / step
        assert abs(float(H.mv(jnp.array([1.0]))[0]) - 12 * theta**2) <= truncation * 1.01 + rounding


def test_grad_of_grad_is_a_type_error_for_vectors_hence_the_product():
    with pytest.raises(TypeError):
        jax.grad(jax.grad(lambda x: jnp.sum(x**2)))(jnp.ones(2))
    with pytest.raises(InputError, match="mode: found 'dense'"):
        hessian_operator(jnp.sum, jnp.ones(2), mode="dense")


def brute_force(n: tuple[int, ...]) -> int:
    if len(n) == 2:
        return 0
    return min(brute_force(n[:k] + n[k + 1 :]) + n[k - 1] * n[k] * n[k + 1] for k in range(1, len(n) - 1))


@pytest.mark.covers("jacobian-chain-order")
def test_the_dynamic_programme_finds_the_cheapest_bracketing():
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = tuple(int(v) for v in rng.integers(1, 12, rng.integers(2, 7)))
        cost = chain_cost(n)
        assert cost.optimal == brute_force(n)
        assert cost.optimal <= min(cost.forward, cost.reverse)


@pytest.mark.covers("jacobian-chain-order")
def test_narrow_input_picks_forward_and_scalar_output_picks_reverse():
    assert chain_cost([3, 10, 10, 10]).mode == "forward"
    assert chain_cost([10, 10, 10, 3]).mode == "reverse"
    assert chain_cost([20, 10, 30, 1]).mode == "reverse"
    for n, m in ((3, 8), (8, 3)):
        cost = chain_cost([n, 10, 10, m])
        assert (cost.forward < cost.reverse) == (n < m)
    assert chain_cost([10, 1, 10, 1, 10]).mode == "mixed"


@pytest.mark.covers("jacobian-chain-order")
def test_a_triple_chain_needs_all_three_factors(x64):
    x = np.array([0.7, -0.2])

    def g(v):
        return jnp.stack([v[0] ** 2 + v[1]])

    def f(u):
        return jnp.sin(u) + u**2

    J, _ = jacobian_chain([g, f], x)
    u = x[0] ** 2 + x[1]
    assert J.ravel().tolist() == pytest.approx([(np.cos(u) + 2 * u) * 2 * x[0], np.cos(u) + 2 * u], rel=1e-15)

    maps = [lambda v: jnp.outer(v, v).ravel(), jnp.tanh, lambda w: jnp.stack([w.sum(), jnp.prod(w), w[0]])]
    J, cost = jacobian_chain(maps, x)
    whole = jax.jacobian(lambda v: maps[2](maps[1](maps[0](v))))(jnp.asarray(x))
    assert np.abs(J - whole).max() <= 8 * 2.3e-16 * np.abs(whole).max()
    assert cost.optimal <= min(cost.forward, cost.reverse)


@pytest.mark.covers("jacobian-chain-order")
@pytest.mark.parametrize(("n", "m"), [(3, 8), (8, 3)])
def test_a_factor_costs_n_jvps_or_m_vjps(n, m):
    seen = {"jvp": 0, "vjp": 0}
    A = jnp.asarray(np.random.default_rng(0).standard_normal((m, n)), jnp.float32)

    @jax.custom_jvp
    def counted(x):
        return A @ x

    @counted.defjvp
    def rule(primals, tangents):
        jax.debug.callback(lambda _: seen.__setitem__("jvp", seen["jvp"] + 1), tangents[0])
        return A @ primals[0], A @ tangents[0]

    @jax.custom_vjp
    def backwards(x):
        return A @ x

    def bwd(_, ct):
        jax.debug.callback(lambda _: seen.__setitem__("vjp", seen["vjp"] + 1), ct)
        return (A.T @ ct,)

    backwards.defvjp(lambda x: (A @ x, None), bwd)
    x = jnp.ones(n, jnp.float32)
    J, _ = jacobian_chain([counted if n <= m else backwards], x)
    jax.effects_barrier()
    assert seen == ({"jvp": n, "vjp": 0} if n <= m else {"jvp": 0, "vjp": m})
    assert jnp.array_equal(J, A)


def test_chains_refuse_nonsense():
    with pytest.raises(InputError, match="sizes: found 1"):
        chain_cost([3])
    with pytest.raises(InputError, match=r"sizes\[1\]: found 0"):
        chain_cost([3, 0])
    with pytest.raises(InputError, match="maps: found none"):
        jacobian_chain([], np.ones(2))
    with pytest.raises(InputError, match=r"maps\[0\]: returned an array of shape"):
        jacobian_chain([jnp.sum], np.ones(2))
