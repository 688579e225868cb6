"""What the dependencies give, held to the statements that this library's rooms rest on."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental.jet import jet

from corollary.core.precision import eps


def _f(p):
    x, y = p
    return x**2 * y + 3 * x * y**3 + jnp.sin(x)


def _net(x):
    return jnp.stack([jnp.sin(x[0] * x[1]) + x[2], jnp.exp(x[1]) * x[3], x[0] + x[2] * x[3]])


@pytest.mark.covers("derivatives")
def test_derivatives(x64):
    x, y = 0.7, -0.4
    gradient = jax.grad(_f)(jnp.array([x, y]))
    np.testing.assert_allclose(gradient, [2 * x * y + 3 * y**3 + np.cos(x), x**2 + 9 * x * y**2], rtol=1e-14)
    v = jnp.array([0.3, -1.0, 0.5, 2.0])
    forward, reverse = jax.jacfwd(_net)(v), jax.jacrev(_net)(v)
    assert forward.shape == (3, 4)  # numerator layout
    np.testing.assert_allclose(forward, reverse, rtol=1e-14)
    A = jnp.asarray(np.random.default_rng(0).standard_normal((4, 4)))
    np.testing.assert_allclose(jax.jacrev(lambda x: A[:3] @ x + 1)(v), A[:3], rtol=1e-15)
    hessian = jax.hessian(lambda x: x @ A @ x)(v)
    np.testing.assert_allclose(hessian, A + A.T, rtol=1e-14)
    smooth = jax.hessian(lambda x: jnp.sum(_net(x) ** 2))(v)
    np.testing.assert_allclose(smooth, smooth.T, rtol=1e-13)
    np.testing.assert_allclose(smooth, jax.jacfwd(jax.grad(lambda x: jnp.sum(_net(x) ** 2)))(v), rtol=1e-13)
    tree = jax.grad(lambda p: p["a"] * jnp.sum(p["b"] ** 2))({"a": jnp.array(2.0), "b": v})
    np.testing.assert_allclose(tree["b"], 4 * v)


@pytest.mark.covers("jvp")
def test_jvp(x64):
    u, v = jnp.array(1.3), jnp.array(-0.7)
    du, dv = jnp.array(0.5), jnp.array(2.0)
    value, tangent = jax.jvp(lambda a, b: a * b, (u, v), (du, dv))
    assert (value, tangent) == (u * v, du * v + u * dv)  # exactly: the dual number's product
    _, quotient = jax.jvp(lambda a, b: a / b, (u, v), (du, dv))
    np.testing.assert_allclose(quotient, (du * v - u * dv) / v**2, rtol=4 * eps(u))
    x = jnp.array([0.3, -1.0, 0.5, 2.0])
    pushed = jax.linearize(_net, x)[1]
    a, b = jnp.ones(4), jnp.arange(4.0)
    np.testing.assert_allclose(pushed(2 * a - 3 * b), 2 * pushed(a) - 3 * pushed(b), rtol=1e-13, atol=1e-13)
    scalar = lambda x: jnp.sum(_net(x))  # noqa: E731
    gradient = jax.grad(scalar)(x)
    np.testing.assert_allclose(jax.jvp(scalar, (x,), (b,))[1], gradient @ b, rtol=1e-13)
    directions = jax.random.normal(jax.random.key(0), (10_000, 4))
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    slopes = jax.vmap(lambda d: jax.jvp(scalar, (x,), (d,))[1])(directions)
    assert float(jnp.max(slopes)) <= float(jnp.linalg.norm(gradient)) * (1 + 1e-12)
    # In the sup norm the steepest direction is the sign instead, with the l1 norm as its slope.
    np.testing.assert_allclose(jax.jvp(scalar, (x,), (jnp.sign(gradient),))[1], jnp.sum(jnp.abs(gradient)), rtol=1e-13)


@pytest.mark.covers("vjp")
def test_vjp(x64):
    x = jnp.array([0.3, -1.0, 0.5, 2.0])
    u, v = jnp.array([1.0, -2.0, 0.5]), jnp.arange(4.0)
    pushed, (pulled,) = jax.jvp(_net, (x,), (v,))[1], jax.vjp(_net, x)[1](u)
    np.testing.assert_allclose(u @ pushed, pulled @ v, rtol=1e-13)
    fan_out = jax.vjp(lambda t: t * t + jnp.sin(t) + t, jnp.array(0.5))[1](jnp.array(1.0))[0]
    np.testing.assert_allclose(fan_out, 2 * 0.5 + np.cos(0.5) + 1, rtol=1e-14)
    h = 1e-6
    central = (_net(x + h * v) - _net(x - h * v)) / (2 * h)
    np.testing.assert_allclose(u @ central, pulled @ v, rtol=1e-6)


@pytest.mark.covers("vjp")
def test_a_gradient_costs_a_few_passes_whatever_the_dimension():
    def flops(f, x):
        return jax.jit(f).lower(x).compile().cost_analysis()["flops"]

    for n in (64, 1024):
        W = jax.random.normal(jax.random.key(0), (n, n)) / np.sqrt(n)
        loss = lambda x, W=W: jnp.sum((W @ jnp.tanh(W @ x)) ** 2)  # noqa: E731
        x = jnp.ones(n)
        assert flops(jax.grad(loss), x) <= 5 * flops(loss, x)


@pytest.mark.covers("taylor-mode")
def test_taylor_mode(x64):
    def f(x):
        return jnp.exp(jnp.sin(x)) * x

    x, order = 0.4, 4
    one, zero = jnp.ones(()), jnp.zeros(())
    _, series = jet(f, (jnp.asarray(x),), ([one, *[zero] * (order - 1)],))
    nested, derivative = [], f
    for _ in range(order):
        derivative = jax.jacfwd(derivative)
        nested.append(derivative(jnp.asarray(x)))
    np.testing.assert_allclose(series, nested, rtol=1e-12)

    def size(function):
        return sum(1 for _ in _equations(jax.make_jaxpr(function)(x).jaxpr))

    def by_jets(k):
        return size(lambda x: jet(f, (x,), ([one, *[zero] * (k - 1)],))[1][-1])

    def by_nesting(k):
        g = f
        for _ in range(k):
            g = (lambda h: lambda x: jax.jvp(h, (x,), (1.0,))[1])(g)
        return size(g)

    jets, nests = [by_jets(k) for k in (3, 6)], [by_nesting(k) for k in (3, 6)]
    assert jets[1] <= 2**3 * jets[0]  # polynomial, at most cubic
    assert nests[1] >= 2**3 * nests[0]  # exponential: it grows faster than the cube already here


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from _equations(inner.jaxpr)


@pytest.mark.covers("associative-scan")
def test_associative_scan(x64):
    n = 1000
    a = jax.random.uniform(jax.random.key(0), (n,), minval=-1.0)
    b = jax.random.normal(jax.random.key(1), (n,))

    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    states = jax.lax.associative_scan(combine, (a, b))[1]
    h, expected = 0.0, []
    for ai, bi in zip(a.tolist(), b.tolist(), strict=True):
        h = ai * h + bi
        expected.append(h)
    np.testing.assert_allclose(states, expected, rtol=1e-11, atol=1e-13)
    calls = {}
    for size in (64, 1024):
        count = itertools.count()

        def counted(left, right, count=count):
            next(count)
            return left + right

        jax.make_jaxpr(lambda x, f=counted: jax.lax.associative_scan(f, x))(jnp.zeros(size))
        calls[size] = next(count)
    assert calls[1024] - calls[64] <= 2 * 4 + 1  # two combinations a level, and four levels more
    assert calls[1024] <= 2 * 10 + 2


@pytest.mark.covers("einsum")
@pytest.mark.parametrize(
    "spec", ["ii->", "ij->ji", "ij,jk->ik", "bij,bjk->bik", "bi,bj,ijk->bk", "ij,kl->ijkl", "ij,ij->"]
)
def test_einsum(spec, dtype):
    sizes = dict(zip("bijkl", (3, 4, 4, 5, 2), strict=True))
    rng = np.random.default_rng(0)
    operands = [rng.standard_normal([sizes[c] for c in term]).astype(dtype) for term in spec.split("->")[0].split(",")]
    ours = jnp.einsum(spec, *operands, precision="highest")
    np.testing.assert_allclose(ours, np.einsum(spec, *operands), rtol=0, atol=500 * eps(dtype))
    path, _ = jnp.einsum_path(spec, *operands)
    assert len(path) >= 1


@pytest.mark.covers("einsum")
def test_tensordot(dtype):
    rng = np.random.default_rng(0)
    A, B = (jnp.asarray(rng.standard_normal(s), dtype) for s in ((2, 3, 4), (3, 4, 5)))
    np.testing.assert_allclose(jnp.tensordot(A, B, 2), A.reshape(2, 12) @ B.reshape(12, 5), atol=100 * eps(dtype))


@pytest.mark.covers("transform-equivalence")
def test_transform_equivalence(x64):
    A = jax.random.normal(jax.random.key(0), (4, 4)) / 2
    step = lambda x: jnp.tanh(A @ x) + 0.1 * x  # noqa: E731
    X = jax.random.normal(jax.random.key(1), (5, 4))
    loop = jnp.stack([step(x) for x in X])
    np.testing.assert_allclose(jax.vmap(step)(X), loop, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(jax.jit(step)(X[0]), loop[0], rtol=1e-14, atol=1e-15)
    x, trajectory = X[0], []
    for _ in range(6):
        x = step(x)
        trajectory.append(x)
    _, scanned = jax.lax.scan(lambda x, _: (step(x), step(x)), X[0], length=6)
    np.testing.assert_allclose(scanned, jnp.stack(trajectory), rtol=1e-13, atol=1e-14)


@pytest.mark.covers("vector-operations")
def test_vector_operations(dtype):
    x, y, z = jax.random.normal(jax.random.key(0), (3, 200, 6), dtype)
    a, b = jnp.asarray(1.7, dtype), jnp.asarray(-0.3, dtype)
    slack, tol = 1 + 20 * eps(dtype), {"rtol": 50 * eps(dtype), "atol": 50 * eps(dtype)}
    add = optax.tree_utils.tree_add_scale
    tree = lambda v: {"a": v[:, :2], "b": v[:, 2:]}  # noqa: E731
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, **tol), add(tree(x), a, tree(y)), tree(x + a * y))
    np.testing.assert_allclose(add(add(x, 1, y), 1, z), add(x, 1, add(y, 1, z)), **tol)
    np.testing.assert_allclose((a + b) * x, a * x + b * x, **tol)
    np.testing.assert_allclose(optax.tree_utils.tree_vdot(tree(x), tree(y)), jnp.vdot(x, y), rtol=1e3 * eps(dtype))

    norm = lambda v, p: jnp.linalg.norm(v, p, axis=1)  # noqa: E731
    one, two, sup = norm(x, 1), norm(x, 2), norm(x, jnp.inf)
    assert bool(jnp.all((sup <= two * slack) & (two <= one * slack) & (one <= np.sqrt(6) * two * slack)))
    for p in (1, 1.5, 2, 3, np.inf):
        q = np.inf if p == 1 else 1 if p == np.inf else p / (p - 1)
        inner = jnp.sum(jnp.abs(x * y), axis=1)
        assert bool(jnp.all(inner <= norm(x, p) * norm(y, q) * slack))  # Hölder
    np.testing.assert_allclose(norm(x + y, 2) ** 2 + norm(x - y, 2) ** 2, 2 * two**2 + 2 * norm(y, 2) ** 2, **tol)
    np.testing.assert_array_equal(norm(3 * x, 0), norm(x, 0))  # a count: not homogeneous, hence no norm

    M = jnp.diag(jnp.asarray([1, 2, 3, 4, 5, 6], dtype))
    weighted = jnp.einsum("ni,ij,nj->n", x, M, x)
    assert bool(jnp.all(weighted > 0))
    assert float(jnp.einsum("ni,ij,nj->n", x, M.at[0, 0].set(-50), x).min()) < 0  # an indefinite weight gives no norm
    u, v = jax.lax.complex(x[0], y[0]), jax.lax.complex(y[1], z[1])
    i = jax.lax.complex(0 * a, 2 + 0 * a)
    np.testing.assert_allclose(jnp.vdot(u, v), jnp.conj(jnp.vdot(v, u)), rtol=50 * eps(dtype))
    np.testing.assert_allclose(jnp.vdot(i * u, v), -i * jnp.vdot(u, v), rtol=50 * eps(dtype))

    cosine = optax.losses.cosine_similarity(x, y, epsilon=1e-12)
    np.testing.assert_allclose(optax.losses.cosine_similarity(1e3 * x, 1e-3 * y, epsilon=1e-12), cosine, **tol)
    assert bool(jnp.all(jnp.abs(cosine) <= slack))
    nothing = jnp.zeros(6, dtype)
    assert float(optax.losses.cosine_similarity(nothing, x[0], epsilon=1e-12)) == 0
    assert bool(
        jnp.all(jnp.isfinite(jax.grad(lambda u: optax.losses.cosine_similarity(u, x[0], epsilon=1e-12))(nothing)))
    )
