"""Every test runs against jaxtyping + beartype and strict dtype promotion; the compile cache is on."""

import gc
import importlib.metadata
import os
import pathlib
import sys

# Byte code is kept beside the compile cache, also where the environment forbids it next to the sources: without it the
# workers, and every program that a test starts, compile the sources of JAX anew, three seconds a process.
sys.dont_write_bytecode = False
sys.pycache_prefix = os.environ.setdefault("PYTHONPYCACHEPREFIX", str(pathlib.Path(".cache/bytecode").absolute()))
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

# Tests compile far more than they compute: XLA's optimisations cost more than they save here. The docs and the README's
# commands run with them. A program is compiled in one piece: cut up for threads, as it is otherwise, it costs half as
# much again. The flags' names are this release's own, and XLA ends the process over one it does not know.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

# One core a worker, before any library counts them: pools of threads of several workers that share the cores spend
# their time waiting for each other, up to thirty times the work itself where a compiled loop has many small steps.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(WORKER.removeprefix("gw")) % len(cores)]})
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

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


def pytest_collection_finish():
    """What is loaded by now stays: the garbage collector neither walks it again nor runs at every 700 new objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    """Drop a module's compiled programs when it is done: a worker that kept them all would end at many gigabytes."""
    yield
    jax.clear_caches()
