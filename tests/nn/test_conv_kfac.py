"""K-FAC knows `Conv`: statistics against those of Equinox' layer, and its gradient as a matrix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core.errors import InputError
from corollary.nn import Conv
from corollary.optim.curvature import Gaussian
from corollary.optim.transforms import capture_statistics, check_layers, kfac

KEY = jax.random.key(0)


class Images(eqx.Module):
    """A convolution of a batch, and the mean over the places."""

    layer: Conv

    def __call__(self, x):
        return jnp.mean(jnp.tanh(self.layer(x)), axis=tuple(range(1, x.ndim - 1)))


@pytest.mark.covers("kfac-conv")
@pytest.mark.parametrize(("dims", "use_bias"), [(2, True), (1, False)])
def test_a_convolution_of_batches_has_the_statistics_of_equinox_layer(dims, use_bias):
    settings = {"stride": 2, "dilation": 1, "use_bias": use_bias}
    ours = Images(Conv(3, 4, 3, padding=1, dims=dims, key=KEY, **settings))
    theirs = eqx.nn.Conv(dims, 3, 4, 3, padding=1, key=KEY, **settings)
    theirs = eqx.tree_at(lambda c: c.weight, theirs, jnp.moveaxis(ours.layer.kernel, (-1, -2), (0, 1)))
    if use_bias:
        theirs = eqx.tree_at(lambda c: c.bias, theirs, ours.layer.bias.reshape(4, *(1,) * dims))
    x = jax.random.normal(jax.random.key(1), (5, *(6, 7)[:dims], 3))
    last = jnp.moveaxis(x, -1, 1)

    def both(ours, theirs):
        flat = lambda m: jax.vmap(lambda one: jnp.mean(jnp.tanh(m(one)), axis=tuple(range(1, dims + 1))))(last)  # noqa: E731
        run = {"distribution": Gaussian(), "curvature": "fisher", "key": jax.random.key(2)}
        a = capture_statistics(ours, outputs_fn=lambda m: m(x), **run)
        b = capture_statistics(theirs, outputs_fn=flat, **run)
        optimizer = kfac(ours, 1.0, distribution=Gaussian(), damping=1e-3)
        grads = eqx.filter_grad(lambda m: jnp.sum(m(x) ** 2))(ours)
        twin = kfac(theirs, 1.0, distribution=Gaussian(), damping=1e-3)
        slope = eqx.filter_grad(lambda m: jnp.sum(flat(m) ** 2))(theirs)
        key = jax.random.key(3)
        first = optimizer.update(grads, optimizer.init(ours), ours, outputs_fn=lambda m: m(x), key=key)[0]
        second = twin.update(slope, twin.init(theirs), theirs, outputs_fn=flat, key=key)[0]
        return a, b, first.layer, second

    a, b, first, second = eqx.filter_jit(both)(ours, theirs)
    for name in ("A", "G", "rows"):
        np.testing.assert_allclose(a[0][name], b[0][name], rtol=1e-4, atol=1e-5 * np.max(np.abs(b[0][name])))
    moved = np.moveaxis(first.kernel, (-1, -2), (0, 1))
    np.testing.assert_allclose(moved, second.weight, atol=1e-3 * np.max(np.abs(second.weight)))
    if use_bias:
        np.testing.assert_allclose(first.bias, second.bias.reshape(-1), atol=1e-3 * np.max(np.abs(second.weight)))


def test_grouped_kernels_are_refused_by_name():
    with pytest.raises(InputError, match=r"\.layer \(groups = 3, expected 1\)"):
        check_layers(Images(Conv(3, 6, 3, groups=3, key=KEY)))
