"""The room's labs run, and their numbers are what they claim."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import sympy

from tests.core.test_labs import lab


@pytest.mark.covers("gaussian-elimination")
def test_exact_elimination_is_sympys():
    module, rng = lab("gaussian_elimination"), np.random.default_rng(0)
    for _ in range(3):
        A, b = rng.integers(-4, 5, size=(4, 4)), rng.integers(-4, 5, size=4)
        exact = sympy.Matrix(A).LUsolve(sympy.Matrix(b))
        fractions = np.vectorize(Fraction, otypes=[object])
        for name in module.PIVOTING:
            run = module.eliminate(fractions(A), fractions(b), name)
            assert [sympy.Rational(v.numerator, v.denominator) for v in run.x] == list(exact)
            permuted = fractions(A)[run.rows][:, run.columns]
            assert np.all(run.lower @ run.upper == permuted)
            assert name == "none" or max(abs(v) for v in run.lower.ravel()) <= 1


@pytest.mark.covers("gaussian-elimination")
def test_growth_and_failures():
    module = lab("gaussian_elimination")
    numbers = module.main(n=24)
    assert numbers["epsilon"]["none"] == 1  # x₁ = 0 instead of 1, although κ = 2.6
    assert numbers["epsilon"]["partial"] <= 4 * np.finfo(float).eps
    assert numbers["epsilon"]["complete"] <= 4 * np.finfo(float).eps
    assert numbers["wilkinson"]["partial"] == 2.0**23
    assert numbers["wilkinson"]["complete"] <= 2
    assert numbers["wilkinson error"]["partial"] > 1e3 * numbers["wilkinson error"]["complete"]
    assert numbers["random"]["partial"] < 24 ** (2 / 3)
    assert numbers["random"]["none"] > 2 * numbers["random"]["partial"]
    rng = np.random.default_rng(1)
    for n in (2, 6, 12):
        assert all(
            module.eliminate(rng.normal(size=(n, n)), np.ones(n), "partial").growth <= 2 ** (n - 1) for _ in range(20)
        )
        assert module.eliminate(module.wilkinson(n), np.ones(n), "partial").growth == 2 ** (n - 1)
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(module.eliminate(swap, np.array([2.0, 3.0])).x, [3.0, 2.0])
    with pytest.raises(ZeroDivisionError, match="zero pivot in step 1"):
        module.eliminate(swap, np.ones(2), "none")
    with pytest.raises(ValueError, match="pivoting: found"):
        module.eliminate(swap, np.ones(2), "rook")


@pytest.mark.covers("vec-trace-identities")
def test_vec_and_trace_identities():
    module = lab("vec_trace_identities")
    numbers = module.main()
    assert set(numbers["right"].values()) == {0}  # integers: exactly
    # An error may hide on one draw; on the witness draw each wrong identity fails.
    assert all(
        max(module.residual(module.wrong(module.draws(s))[text]) for s in range(3)) > 0 for text in numbers["wrong"]
    )
    assert numbers["eigenvalues"] < 1e-12
    np.testing.assert_array_equal(module.vec(np.array([[1, 2], [3, 4]])), [1, 2, 3, 4])
