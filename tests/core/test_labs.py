"""The core's labs run, and their numbers are what they claim."""

from __future__ import annotations

import importlib.util
import itertools
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy

LABS = pathlib.Path(__file__).parents[2] / "docs" / "labs"


def lab(name):
    spec = importlib.util.spec_from_file_location(f"lab_{name}", LABS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.covers("computational-graph-paths")
def test_computational_graph_paths():
    module = lab("computational_graph_paths")
    numbers = module.main()
    np.testing.assert_allclose(numbers["sums"], numbers["jax"], rtol=1e-13)
    np.testing.assert_allclose(numbers["reverse"], numbers["jax"], rtol=1e-13)
    assert numbers["counts"] == numbers["powers"]
    assert numbers["visited"] == numbers["edges"]
    for depth, (paths, edges) in numbers["ladder"].items():
        assert paths == 2**depth  # exponential
        assert edges == 3 * depth  # linear: one pass


@pytest.mark.covers("matrix-calculus-table")
def test_matrix_calculus_table():
    numbers = lab("matrix_calculus_table").main()
    assert max(numbers["right"].values()) < 1e-10, numbers["right"]
    assert min(numbers["wrong"].values()) > 1e-3, numbers["wrong"]
    assert max(numbers["layouts"]) < 1e-13


@pytest.mark.covers("symbolic-differentiation")
def test_symbolic_differentiation(x64):
    module = lab("symbolic_differentiation")
    numbers = module.main()
    points = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, 20))
    for name, row in numbers["derivatives"].items():
        assert sympy.simplify(row["symbolic"] - row["sympy"]) == 0, name
        e = module.EXAMPLES[name]
        ours = jnp.broadcast_to(module.evaluate(row["expression"], points), points.shape)
        by_ad = jax.vmap(jax.grad(lambda x, e=e: module.evaluate(e, x)))(points)
        np.testing.assert_allclose(ours, by_ad, rtol=1e-12, atol=1e-14)
        assert row["nodes"][2] <= row["nodes"][1]
    swell = numbers["swell"]
    depths = sorted(swell)
    growth = [swell[b]["nodes"] / swell[a]["nodes"] for a, b in itertools.pairwise(depths)]
    assert min(growth) > 1.9  # exponential in the depth
    steps = {swell[b]["ad"] - swell[a]["ad"] for a, b in itertools.pairwise(depths)}
    assert max(steps) <= 5  # a few operations a level
    assert all(row["ad"] <= 5 * row["program"] + 5 for row in swell.values())


@pytest.mark.covers("tiled-gemm")
def test_tiled_gemm(dtype):
    module = lab("tiled_gemm")
    numbers = module.main(dtype=dtype)
    assert all(row["error"] <= 2 for row in numbers.values())  # both products carry rounding of at most k eps |A||B|
    assert numbers[(32, 32, 32)]["traffic"] < numbers[(8, 8, 8)]["traffic"]
    a, b = jnp.ones((1, 3), dtype), jnp.ones((3, 2), dtype)
    assert module.matmul(a, b, (8, 8, 8)).tolist() == [[3.0, 3.0]]
