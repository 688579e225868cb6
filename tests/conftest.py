"""Every test runs against jaxtyping + beartype and strict dtype promotion; the compile cache is on."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  (loaded before the hook names it)

install_import_hook("corollary", "tests.typecheck.checked")

import jax
import pytest

from corollary.core import compile_cache

compile_cache.enable(os.environ.get("COROLLARY_CACHE", ".cache/xla"))
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """Both precisions; float64 with JAX's switch on for the duration of the test."""
    with jax.enable_x64(request.param == "float64"):
        yield jax.numpy.dtype(request.param)


@pytest.fixture
def x64():
    """A test that computes in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Drop a module's compiled programs when it is done: a worker that kept them all would end at many gigabytes."""
    yield
    jax.clear_caches()
