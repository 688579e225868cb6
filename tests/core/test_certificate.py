from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corollary.core import Assumption, Certificate, Note, Solution, Status, rounding
from corollary.core.errors import ConvergenceError


def claim(measured, bound, **more) -> Certificate:
    return Certificate("measured <= bound", measured=measured, bound=bound, source="by definition", **more)


def test_a_certificate_holds_exactly_when_measured_is_within_the_bound():
    assert claim(1.0, 1.0).holds
    assert not claim(1.0 + 1e-12, 1.0).holds


def test_a_nan_never_holds():
    assert not claim(np.nan, 1.0).holds
    assert not claim(1.0, np.nan).holds
    assert not Certificate("an estimate", measured=np.nan, kind="estimate").holds


def test_a_failed_checked_assumption_withdraws_the_claim_and_an_assumed_one_does_not():
    checked = Assumption("f is convex", checked=True, holds=False)
    assumed = Assumption("f is convex")
    assert not claim(0.0, 1.0, kind="theorem", assumptions=(checked,)).holds
    assert not claim(0.0, 1.0, kind="theorem", assumptions=(checked,)).applies
    assert claim(0.0, 1.0, kind="theorem", assumptions=(assumed,)).holds


@pytest.mark.parametrize(("kind", "bound"), [("estimate", 1.0), ("exact", None)])
def test_an_estimate_has_no_bound_and_every_other_kind_needs_one(kind, bound):
    with pytest.raises(ValueError, match="an estimate has no bound"):
        Certificate("a claim", measured=0.0, bound=bound, kind=kind)


@pytest.mark.parametrize(
    ("certificate", "words"),
    [
        (claim(2.0, 1.0), ["DOES NOT HOLD", "by definition"]),
        (claim(0.5, 1.0, kind="probabilistic", confidence=0.99), ["0.99", "holds"]),
        (
            claim(0.5, 1.0, assumptions=(Assumption("a", checked=True, holds=False), Assumption("b"))),
            ["a (NO)", "Assumed: b"],
        ),
        (Certificate("a mean", measured=0.5, kind="estimate", stderr=0.1), ["0.1", "claims no bound"]),
        (claim(np.array([0.5, 2.0]), np.array([1.0, 1.0])), ["values from", "DOES NOT HOLD"]),
    ],
)
def test_the_explanation_says_what_was_measured_and_whether_it_holds(certificate, words):
    for word in words:
        assert word in certificate.explain()


def test_certificates_and_solutions_survive_jit_vmap_and_pickle(dtype):
    def solve(x):
        c = claim(jnp.abs(x), jnp.ones((), dtype) + rounding(x))
        return Solution(x, {"size": c}, Status.of(c.holds), jnp.int32(1), {"solver": Note("by hand")})

    x = jnp.array([0.5, 2.0], dtype)
    one = jax.jit(solve)(x[0])
    assert bool(one.holds)
    assert bool(one.converged)
    assert str(one.stats["solver"]) == "by hand"
    batch = jax.jit(jax.vmap(solve))(x)
    assert batch.certificates["size"].holds.tolist() == [True, False]
    assert batch.status.tolist() == [Status.CONVERGED, Status.MAX_STEPS]
    again = pickle.loads(pickle.dumps(jax.tree.map(np.asarray, batch)))
    assert again.certificates["size"].holds.tolist() == [True, False]


def test_the_status_text_tells_the_remedy_and_unwrap_raises_it():
    assert Solution(1.0).unwrap() == 1.0
    stopped = Solution(1.0, status=Status.MAX_STEPS)
    assert "max_steps" in stopped.message
    with pytest.raises(ConvergenceError, match="max_steps"):
        stopped.unwrap()
    assert int(Status.of(True, False)) == Status.NON_FINITE
    assert len(Status.TEXT) == len([v for k, v in vars(Status).items() if k.isupper() and isinstance(v, int)])


def test_rounding_is_in_the_precision_of_its_scale(dtype):
    assert rounding(jnp.ones((), dtype)).dtype == dtype
    assert float(rounding(jnp.asarray(-3.0, dtype))) == pytest.approx(24 * float(jnp.finfo(dtype).eps))


def test_plotting_draws_the_bound_dashed_and_refuses_a_run_without_history():
    curve = Solution(0.0, history={"suboptimality": np.array([1.0, 0.1]), "rate_bound": np.array([2.0, 0.5])})
    ax = curve.plot()
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    with pytest.raises(ValueError, match="history"):
        Solution(0.0).plot()
