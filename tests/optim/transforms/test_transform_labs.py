"""The labs on Adam run, and their numbers are what they claim."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from tests.core.test_labs import lab


@pytest.mark.covers("adam-counterexample")
def test_adam_walks_to_the_worst_point(x64):
    module = lab("adam_counterexample")
    table = module.main(C=3.0, steps=3000)
    assert table["adam"]["last x"] > 0.95
    assert table["adam"]["regret per step"] == pytest.approx((3 - 2) / 3 * 2, rel=0.05)  # linear: f(1) − f(−1) a step
    assert table["adam"]["exponent"] == pytest.approx(1, abs=0.05)
    for method in ("amsgrad", "sgd"):
        assert table[method]["last x"] < -0.95
        assert table[method]["exponent"] < 0.7  # √t
    # The same points in plain NumPy.
    C, b2, x, v = 3.0, 0.1, 0.0, 0.0
    found = np.asarray(module.run(jnp.asarray(C), "adam", 30)["x"])
    for t in range(1, 31):
        g = C if t % 3 == 1 else -1.0
        v = b2 * v + (1 - b2) * g * g
        x = np.clip(x - g / np.sqrt(t * v), -1, 1)
        assert found[t - 1] == pytest.approx(x, abs=1e-12)
    assert module.main(C=5.0, steps=1500)["adam"]["last x"] > 0.9


@pytest.mark.covers("adam-curvature-relation")
def test_adam_divides_by_the_root_of_the_fisher_diagonal(x64):
    module = lab("adam_curvature_relation")
    table = module.main()
    right, away, wrong = (table[name] for name in ("optimum", "away", "misspecified"))
    assert right["largest error"] < 0.05  # E[g²] = diag H, up to sampling over 20 000 examples
    assert right["v / hessian"] == pytest.approx(1, abs=0.15)
    assert right["correlation"] > 0.99
    for case in (right, wrong):
        assert case["slope of log sqrt v"] == pytest.approx(0.5, abs=0.03)  # √v ~ (diag H)^{1/2}, not diag H
    assert away["largest error"] > 1  # away from the optimum it does not hold
    assert wrong["fisher / hessian"] == pytest.approx(4, rel=0.05)  # the noise is twice the assumed: E[g²] = 4 diag H
