"""The numeric conjugate against closed forms, Young's inequality, and the biconjugate as convex hull."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import xlogy

from corollary.core import InputError
from corollary.optim import fenchel_biconjugate, fenchel_conjugate

INF = np.inf
# name: (f, domain, slopes, f*, its maximiser)
PAIRS = {
    "parabola": (lambda x: x**2 / 2, (-INF, INF), [-3.0, 0.0, 0.2, 7.0], lambda s: s**2 / 2, lambda s: s),
    "kl generator": (
        lambda t: xlogy(t, t) - t + 1,
        (0.0, INF),
        [-2.0, -0.1, 0.0, 1.5],
        lambda s: np.exp(s) - 1,
        np.exp,
    ),
    "js generator": (
        lambda u: xlogy(u, u) - xlogy(u + 1, u + 1) + jnp.log(jnp.asarray(4.0, u.dtype)),
        (0.0, INF),
        [-3.0, -1.0, -0.05],
        lambda s: -np.log(1 - np.exp(s)) - np.log(4),
        lambda s: np.exp(s) / (1 - np.exp(s)),
    ),
    "exponential": (jnp.exp, (-INF, INF), [0.5, 1.0, 4.0], lambda s: s * np.log(s) - s, np.log),
    "cosh on an interval": (
        lambda x: -jnp.sqrt(jnp.maximum(1 - x**2, 0)),
        (-1.0, 1.0),
        [-2.0, 0.3, 5.0],
        lambda s: np.sqrt(1 + s**2),
        lambda s: s / np.sqrt(1 + s**2),
    ),
}


@pytest.mark.covers("fenchel-conjugate")
@pytest.mark.parametrize(("name", "dtype"), [*[(n, "float64") for n in PAIRS], ("kl generator", "float32")])
def test_closed_forms(name, dtype):
    f, domain, s, conjugate, maximiser = PAIRS[name]
    s = np.asarray(s, dtype)
    found = fenchel_conjugate(f, s, domain=domain)
    eps = np.finfo(dtype).eps
    expected = conjugate(s.astype(float))
    # The value is flat at the maximiser: it is right to a few roundings of its terms, the maximiser to their root.
    x = maximiser(s.astype(float))
    np.testing.assert_allclose(found.value, expected, atol=64 * eps * np.max(np.abs(expected) + np.abs(s * x) + 1))
    np.testing.assert_allclose(found.stats["maximiser"], x, rtol=8 * np.sqrt(eps), atol=8 * np.sqrt(eps))
    assert found.value.dtype == dtype
    assert np.all(found.certificates["young"].holds)


@pytest.mark.covers("fenchel-conjugate")
def test_values_that_are_infinite_or_not_attained():
    absolute = fenchel_conjugate(jnp.abs, [-1.5, -1.0, 0.0, 0.7, 1.0, 1.01])
    np.testing.assert_allclose(absolute.value, [INF, 0.0, 0.0, 0.0, 0.0, INF], atol=1e-12)
    exponential = fenchel_conjugate(jnp.exp, [-1.0, 0.0])
    np.testing.assert_allclose(exponential.value, [INF, 0.0], atol=1e-12)


@pytest.mark.covers("fenchel-conjugate")
@pytest.mark.parametrize("c", [1e-12, 1e12])
def test_scale(c, x64):
    # (c·f)*(s) = c·f*(s/c), and f(·/c)*(s) = f*(c·s).
    f, s = (lambda x: xlogy(x, x)), jnp.asarray([0.3, 1.5])
    plain = fenchel_conjugate(f, s, domain=(0.0, INF)).value
    np.testing.assert_allclose(
        fenchel_conjugate(lambda x: c * f(x), c * s, domain=(0.0, INF)).value, c * plain, rtol=1e-12
    )
    np.testing.assert_allclose(fenchel_conjugate(lambda x: f(x / c), s / c, domain=(0.0, INF)).value, plain, rtol=1e-12)


@pytest.mark.covers("fenchel-conjugate")
@pytest.mark.parametrize("name", ["kl generator"])
def test_biconjugate_is_the_function_where_it_is_convex_and_closed(name, x64):
    f, domain = PAIRS[name][:2]
    x = jnp.asarray([0.1, 0.5, 0.9])
    found = fenchel_biconjugate(f, x, domain=domain)
    np.testing.assert_allclose(found.value, jax.vmap(f)(x), atol=1e-9)
    np.testing.assert_allclose(found.stats["slope"], jax.vmap(jax.grad(f))(x), atol=1e-4)
    assert bool(jnp.all(found.certificates["minorant"].holds))


@pytest.mark.covers("fenchel-conjugate")
def test_biconjugate_is_the_convex_hull_else(x64):
    def valleys(x):
        return jnp.minimum((x - 1) ** 2, 2 * (x + 1) ** 2)

    x = np.linspace(-2, 2, 6)
    found = fenchel_biconjugate(valleys, jnp.asarray(x)).value
    # A naive hull: the best chord over a fine grid around each point.
    grid = np.linspace(-4, 4, 1601)
    values = np.asarray(valleys(grid))
    for point, value in zip(x, found, strict=True):
        left, right = grid[grid <= point + 1e-12], grid[grid >= point - 1e-12]
        fl, fr = values[: left.size], values[-right.size :]
        width = right[None] - left[:, None]
        weight = np.where(width > 1e-9, (point - left[:, None]) / np.where(width > 1e-9, width, 1), 0.0)
        np.testing.assert_allclose(value, np.min((1 - weight) * fl[:, None] + weight * fr[None]), atol=1e-4)
    # A function that is not closed: the biconjugate repairs its value at the end of its domain.
    found = fenchel_biconjugate(
        lambda x: jnp.where(x == 0, 1.0, x), jnp.asarray([0.0, 0.5]), domain=(0.0, 1.0), slopes=(-1e6, 1e6)
    )
    np.testing.assert_allclose(found.value, [0.0, 0.5], atol=1e-9)


def test_shapes_jit_and_numpy(x64):
    s = np.asarray([[0.5, 1.0], [2.0, -1.0]])
    found = fenchel_conjugate(lambda x: x**2, s)
    assert isinstance(found.value, np.ndarray)
    np.testing.assert_allclose(found.value, s**2 / 4, atol=1e-13)
    np.testing.assert_allclose(
        jax.jit(lambda s: fenchel_conjugate(lambda x: x**2, s).value)(jnp.asarray(s)), s**2 / 4, atol=1e-13
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fenchel_conjugate(jnp.exp, [np.nan]), "s: found NaN"),
        (lambda: fenchel_conjugate(jnp.exp, [1.0], domain=(1.0, 0.0)), "expected low < high"),
        (lambda: fenchel_biconjugate(jnp.exp, [np.inf]), "x: found NaN or infinity"),
    ],
)
def test_bad_input(make, says):
    with pytest.raises(InputError, match=says):
        make()
