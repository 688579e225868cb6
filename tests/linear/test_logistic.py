"""Logistic and softmax regression: the certificate's theorem, oracles, invariances, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
import scipy.special
import sklearn.linear_model
import statsmodels.api

from corollary import load
from corollary.core.errors import CertificateWarning, InputError
from corollary.core.solution import Status
from corollary.linear import LogisticModel, LogisticRegression, logistic_regression, softmax_regression
from corollary.linear import _logistic_kernel as kernel
from corollary.linear import _logistic_rows as rows

N, P = 120, 5


def data(seed=0, classes=2, n=N, p=P, dtype=np.float64):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) * np.linspace(0.3, 3, p) + 0.5
    logits = (X - 0.5) @ rng.normal(size=(p, classes)) / np.sqrt(p) + rng.gumbel(size=(n, classes))
    return X.astype(dtype), logits.argmax(axis=1)


def objective(model, X, y, alpha, l1_ratio=0.0):
    """F, written plainly, for binary and softmax models."""
    Z = np.asarray(model.log_odds(X), np.float64)
    Z = np.stack([np.zeros(len(Z)), Z], axis=1) if Z.ndim == 1 else Z
    loss = np.mean(scipy.special.logsumexp(Z, axis=1) - Z[np.arange(len(y)), y])
    w = np.asarray(model.coef, np.float64)
    return loss + alpha * (l1_ratio * np.abs(w).sum() + (1 - l1_ratio) / 2 * (w**2).sum())


# --- oracles --------------------------------------------------------------------------------------------------------


@pytest.mark.covers("logistic-regression")
@pytest.mark.parametrize("name", [np.float32, np.float64])
def test_agrees_with_scikit_learn(name):
    X, y = data(dtype=name)
    ours = logistic_regression(X, y, alpha=1 / N)
    theirs = sklearn.linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X.astype(float), y)
    # F's relative rounding is eps, its curvature along w at least 1e-2: |w - w*| <= sqrt(2 gap / 1e-2).
    atol = np.sqrt(2 * float(ours.stats["gap"] + 16 * np.finfo(name).eps) / 1e-2)
    np.testing.assert_allclose(ours.value.coef, theirs.coef_[0], atol=atol)
    np.testing.assert_allclose(ours.value.intercept, theirs.intercept_[0], atol=atol)
    assert ours.value.coef.dtype == name
    assert ours.holds
    assert ours.converged


@pytest.mark.covers("logistic-regression")
def test_agrees_with_statsmodels_and_has_zero_score():
    X, y = data(1)
    fit = logistic_regression(X, y, tol=1e-13)
    theirs = statsmodels.api.Logit(y, statsmodels.api.add_constant(X)).fit(disp=0, tol=1e-14, method="newton")
    np.testing.assert_allclose(np.r_[fit.value.intercept, fit.value.coef], theirs.params, rtol=1e-6)
    p = fit.value.probabilities(X)
    np.testing.assert_allclose(np.c_[X, np.ones(N)].T @ (p - y), 0, atol=1e-6 * N)  # X(p − y) = 0 at the fit
    np.testing.assert_allclose(np.log(p / (1 - p)), fit.value.log_odds(X), rtol=1e-9, atol=1e-12)
    assert np.array_equal(p > 0.5, fit.value.log_odds(X) > 0)
    assert fit.certificates["finite_optimum"].holds
    assert fit.certificates["finite_optimum"].kind == "exact"
    assert fit.stats["objective"] == pytest.approx(-theirs.llf / N, rel=1e-10)  # the second term is (1−y) log(1−σ)


@pytest.mark.covers("softmax-regression")
@pytest.mark.parametrize("solver", ["newton-cholesky", "newton-cg"])
def test_softmax_agrees_with_scikit_learn(solver):
    X, y = data(2, 3)
    ours = softmax_regression(X, y, alpha=1 / N, solver=solver, tol=1e-12)
    theirs = sklearn.linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(ours.value.coef, theirs.coef_, atol=2e-5)
    np.testing.assert_allclose(ours.value.probabilities(X), theirs.predict_proba(X), atol=2e-5)
    assert ours.holds
    P_minus_Y = ours.value.probabilities(X) - np.eye(3)[y]
    np.testing.assert_allclose(P_minus_Y.T @ X / N + ours.value.coef / N, 0, atol=1e-5)  # gradient (P − Y)ᵀX


@pytest.mark.covers("logistic-regression")
@pytest.mark.parametrize("l1_ratio", [1.0, 0.4])
def test_l1_and_elastic_net_agree_with_saga(l1_ratio):
    X, y = data(3)
    ours = logistic_regression(X, y, alpha=0.05, l1_ratio=l1_ratio)
    C = 1 / (0.05 * N)
    theirs = sklearn.linear_model.LogisticRegression(
        solver="saga", C=C, l1_ratio=l1_ratio, tol=1e-9, max_iter=9000
    ).fit(X, y)
    np.testing.assert_allclose(ours.value.coef, theirs.coef_[0], atol=2e-4)
    assert ours.holds
    zero = ours.value.coef == 0
    g = ours.value.gradient(X, y)
    assert np.all(np.abs(g[zero]) <= 0.05 * l1_ratio + 1e-6)
    if l1_ratio == 1:
        np.testing.assert_allclose(g[~zero], -0.05 * np.sign(ours.value.coef[~zero]), atol=1e-5)


# --- theorem: the gap bounds F − F* ---------------------------------------------------------------------------------


@pytest.mark.covers("logistic-regression", "softmax-regression")
@pytest.mark.parametrize(
    ("classes", "l1_ratio", "alpha"),
    [(1, 0.0, 0.01), (1, 1.0, 0.03), (1, 0.5, 0.03), (1, 0.0, 0.0), (3, 0.0, 0.01), (3, 0.9, 0.02)],
)
def test_gap_bounds_the_distance_to_the_optimum(x64, classes, l1_ratio, alpha):
    """At every step count, over 24 instances: 0 <= F − F* <= gap, and the gap is finite and small at the end."""
    method = "cd" if l1_ratio else "cholesky"
    Xs, Ys = zip(*(data(100 + i, max(classes, 2)) for i in range(24)), strict=True)
    X = jnp.asarray(np.stack(Xs))
    Y = jnp.asarray(
        np.stack([(y[:, None] == np.arange(classes) if classes > 1 else y[:, None]).astype(float) for y in Ys])
    )
    s, l1, l2 = jnp.full(N, 1 / N), jnp.asarray(alpha * l1_ratio), jnp.asarray(alpha * (1 - l1_ratio))
    zero = jnp.zeros((P, classes)), jnp.zeros(classes)

    @jax.jit
    def fits(steps):
        def one(X, Y):
            return kernel.fit_dense(X, Y, s, l1, l2, *zero, jnp.asarray(0.0), steps, True, method)

        return jax.lax.map(lambda a: one(*a), (X, Y))

    best = fits(jnp.int32(60))
    for steps in (1, 2, 3, 4, 6):
        fit = fits(jnp.int32(steps))
        assert np.all(-fit.allowance <= fit.F - best.F)
        assert np.all(fit.gap + fit.allowance >= fit.F - best.F)
    assert np.all(best.gap <= best.allowance + 1e-10)


@pytest.mark.covers("logistic-regression", "softmax-regression")
def test_gradient_and_hessian_against_autodiff(x64):
    X, y = data(4, 3)
    key = jax.random.key(0)
    W, b = jax.random.normal(key, (3, P)), jnp.array([0.1, -0.2, 0.3])
    X, y = jnp.asarray(X), jnp.asarray(y)

    def loss(W):
        return -jnp.mean(jax.nn.log_softmax(X @ W.T + b)[jnp.arange(N), y])

    model = LogisticModel(W, b)
    np.testing.assert_allclose(model.gradient(X, y), jax.grad(loss)(W), atol=1e-13)
    np.testing.assert_allclose(model.hessian(X), jax.hessian(loss)(W), atol=1e-13)

    def binary(w):
        z = X @ w + 0.3
        return jnp.mean(jax.nn.softplus(z) - (y > 0).astype(z.dtype) * z)

    model = LogisticModel(W[0], jnp.array(0.3))
    np.testing.assert_allclose(model.gradient(X, (y > 0).astype(int)), jax.grad(binary)(W[0]), atol=1e-13)
    np.testing.assert_allclose(model.hessian(X), jax.hessian(binary)(W[0]), atol=1e-13)


def test_losses_do_not_cancel(x64):
    Z = jnp.array([[40.0, 0.0, -3.0], [1e4, 0.0, 0.0], [0.0, 1e4, 0.0]])
    Y = jnp.array([[1.0, 0.0, 0.0]] * 3)
    got = kernel.losses(Z, Y)
    assert got[0] == pytest.approx(np.exp(-40) + np.exp(-43), rel=1e-12)
    assert got[1] == 0
    assert got[2] == 1e4
    assert kernel.losses(Z[:1, :1], Y[:1, :1])[0] == pytest.approx(np.exp(-40), rel=1e-12)


# --- invariances ----------------------------------------------------------------------------------------------------


@pytest.mark.covers("softmax-regression")
def test_two_class_softmax_is_logistic_and_a_common_vector_changes_nothing():
    X, y = data(5)
    for alpha in (0.0, 0.02):
        soft, binary = (
            softmax_regression(X, y, alpha=alpha, tol=1e-12),
            logistic_regression(X, y, alpha=alpha / 2, tol=1e-12),
        )
        # with w = w₁ − w₀ and w₁ = −w₀ the penalty α/2(‖w₀‖² + ‖w₁‖²) is α/4 ‖w‖²
        np.testing.assert_allclose(soft.value.coef[1] - soft.value.coef[0], binary.value.coef, atol=1e-5)
        np.testing.assert_allclose(soft.value.probabilities(X)[:, 1], binary.value.probabilities(X), atol=1e-5)
        np.testing.assert_allclose(soft.value.coef.sum(axis=0), 0, atol=1e-10)
    moved = LogisticModel(soft.value.coef + np.arange(P), soft.value.intercept + 7)
    np.testing.assert_allclose(moved.probabilities(X), soft.value.probabilities(X), rtol=1e-10)
    assert objective(moved, X, y, 0.0) == pytest.approx(objective(soft.value, X, y, 0.0), rel=1e-12)


@pytest.mark.covers("logistic-regression")
def test_label_swap_weights_and_scales():
    X, y = data(6)
    fit = logistic_regression(X, y, alpha=0.01, tol=1e-12)
    swapped = logistic_regression(X, 1 - y, alpha=0.01, tol=1e-12)
    np.testing.assert_allclose(swapped.value.coef, -fit.value.coef, atol=1e-6)
    signs = logistic_regression(X, 2 * y - 1, alpha=0.01, tol=1e-12)
    np.testing.assert_array_equal(signs.value.coef, fit.value.coef)
    weight = np.r_[np.full(N // 2, 2.0), np.zeros(3), np.ones(N - N // 2 - 3)]
    repeated = np.repeat(np.arange(N), weight.astype(int))
    a = logistic_regression(X, y, alpha=0.01, sample_weight=weight, tol=1e-12)
    b = logistic_regression(X[repeated], y[repeated], alpha=0.01, tol=1e-12)
    np.testing.assert_allclose(a.value.coef, b.value.coef, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e8, 1e150])
def test_unpenalised_fit_follows_the_scale_of_the_data(scale):
    X, y = data(7)
    one = logistic_regression(X, y).value
    many = logistic_regression(X * scale, y)
    np.testing.assert_allclose(many.value.coef * scale, one.coef, rtol=1e-5)
    assert many.holds
    penalised = logistic_regression(X * scale, y, alpha=0.01)
    assert np.all(np.isfinite(penalised.value.coef))
    assert penalised.certificates["duality_gap"].holds
    shrunk = logistic_regression(X * scale, y, alpha=0.01, l1_ratio=1.0)
    assert np.all(np.isfinite(shrunk.value.coef))
    assert shrunk.certificates["duality_gap"].holds


def test_far_means_do_not_hurt_in_float32():
    X, y = data(8, dtype=np.float32)
    near, far = logistic_regression(X, y), logistic_regression(X + np.float32(1024), y)  # X + 1024 is known to 6e-5
    np.testing.assert_allclose(far.value.coef, near.value.coef, atol=2e-3)
    assert far.certificates["duality_gap"].holds


@pytest.mark.covers("logistic-regression", "softmax-regression")
def test_sparse_equals_dense():
    X, y = data(9, 3)
    X = np.where(np.abs(X) > 1, X, 0)
    S = scipy.sparse.csr_array(X)
    for f, labels in ((logistic_regression, (y > 0).astype(int)), (softmax_regression, y)):
        a, b = f(S, labels, alpha=0.01, tol=1e-11), f(X, labels, alpha=0.01, tol=1e-11)
        np.testing.assert_allclose(a.value.coef, b.value.coef, atol=1e-4)
        assert a.holds
        assert "sparse" in str(a.stats["solver"])
    a = logistic_regression(S, (y > 0).astype(int), alpha=0.01, l1_ratio=1.0)
    b = logistic_regression(X, (y > 0).astype(int), alpha=0.01, l1_ratio=1.0)
    np.testing.assert_allclose(a.value.coef, b.value.coef, atol=1e-4)


def test_collinear_constant_and_duplicate_columns_give_the_least_norm(x64):
    X, y = data(10)
    wide = np.c_[X, X[:, :1], np.ones(N)]
    fit, plain = logistic_regression(wide, y), logistic_regression(X, y)
    assert fit.converged
    assert fit.holds
    np.testing.assert_allclose(fit.value.log_odds(wide), plain.value.log_odds(X), atol=1e-5)
    np.testing.assert_allclose(fit.value.coef[0], fit.value.coef[P], atol=1e-8)


def test_jit_vmap_and_no_recompilation(x64):
    X, y = map(jnp.asarray, data(11))

    def coef(alpha):
        return logistic_regression(X, y, alpha=alpha).value.coef

    alphas = jnp.array([0.01, 0.1])
    batch = jax.jit(jax.vmap(coef))(alphas)
    for one, alpha in zip(batch, alphas, strict=True):
        np.testing.assert_allclose(one, coef(float(alpha)), atol=1e-5)
    before = kernel.fit_dense_jit._cache_size()
    logistic_regression(X, y, alpha=0.37, tol=1e-6, max_steps=7)
    assert kernel.fit_dense_jit._cache_size() == before


def test_wide_l1_in_working_sets():
    rng = np.random.default_rng(12)
    X = rng.normal(size=(80, 600))
    y = (X[:, :4].sum(axis=1) + rng.normal(size=80) > 0).astype(int)
    alpha = 0.2 * np.abs(X.T @ (y - y.mean())).max() / 80
    fit = logistic_regression(X, y, alpha=alpha, l1_ratio=1.0)
    assert "working sets" in str(fit.stats["solver"])
    assert fit.holds
    assert fit.converged
    F = objective(fit.value, X, y, alpha, 1.0)
    assert pytest.approx(float(fit.stats["objective"]), rel=1e-12) == F
    g = fit.value.gradient(X, y)
    assert np.all(np.abs(g[fit.value.coef == 0]) <= alpha * (1 + 1e-5))
    over = logistic_regression(X, y, alpha=alpha * 5.01, l1_ratio=1.0)  # above α_max nothing enters
    assert not np.any(over.value.coef)


def test_tall_matrices_in_row_blocks(monkeypatch):
    X, y = data(13, n=30000, p=4)
    plain = logistic_regression(X, y, alpha=1e-4, tol=1e-10)
    monkeypatch.setattr(rows, "worthwhile", lambda *a: True)
    monkeypatch.setattr(rows, "BLOCK", 4 * 7000)
    blocks = logistic_regression(X, y, alpha=1e-4, tol=1e-10)
    assert "row blocks" in str(blocks.stats["solver"])
    assert blocks.holds
    np.testing.assert_allclose(blocks.value.coef, plain.value.coef, atol=1e-4)
    assert abs(blocks.stats["objective"] - plain.stats["objective"]) <= 2e-10
    bare = logistic_regression(X, y, alpha=1e-4, fit_intercept=False)
    assert bare.holds
    assert bare.value.intercept == 0


# --- separable classes ----------------------------------------------------------------------------------------------


@pytest.mark.covers("logistic-regression", "softmax-regression")
def test_separable_classes_are_flagged():
    X, y = data(14, 3)
    complete = logistic_regression(X, (X[:, 0] > 0.5).astype(int))
    assert complete.status == Status.UNBOUNDED
    assert not complete.certificates["finite_optimum"].holds
    assert "no finite optimum" in complete.message
    # quasi-complete: one column takes both classes' common boundary value
    x = np.r_[np.linspace(-2, 2, 21), 0.0][:, None]
    quasi = logistic_regression(
        np.repeat(x, 2, axis=0)[: 2 * 21], np.repeat(x[:, 0] > 0, 2)[: 2 * 21] | (np.arange(42) == 21)
    )
    assert quasi.status == Status.UNBOUNDED
    three = softmax_regression(X, np.digitize(X[:, 0], [0.2, 0.8]))
    assert three.status == Status.UNBOUNDED
    assert logistic_regression(X, (X[:, 0] > 0.5).astype(int), alpha=1e-3).converged  # a penalty cures it
    assert softmax_regression(X, y).converged  # and overlap needs none
    with pytest.warns(CertificateWarning, match="no finite optimum"):
        LogisticRegression(C=np.inf).fit(X, X[:, 0] > 0.5)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"X": np.zeros((0, 2))}, "X"),
        ({"X": np.full((N, P), np.nan)}, "X"),
        ({"X": np.zeros(N)}, "X"),
        ({"X": np.zeros((N, P), complex)}, "X"),
        ({"X": np.full((N, P), "a", object)}, "X"),
        ({"y": np.zeros(N)}, "y.*1 class"),
        ({"y": np.arange(N)}, "y"),
        ({"y": np.zeros(3)}, "y.*3 rows"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": np.inf}, "alpha"),
        ({"l1_ratio": 1.5}, "l1_ratio"),
        ({"solver": "sag"}, "solver"),
        ({"solver": "newton-cg", "l1_ratio": 0.5}, "solver"),
        ({"sample_weight": np.full(N, -1.0)}, "sample_weight"),
        ({"sample_weight": np.ones(2)}, "sample_weight"),
        ({"max_steps": 0}, "max_steps"),
        ({"init": LogisticModel(np.zeros(2), np.zeros(()))}, "init"),
    ],
)
def test_refuses(change, match):
    X, y = data()
    X, y = change.pop("X", X), change.pop("y", y)
    with pytest.raises(InputError, match=match):
        logistic_regression(X, y, **change)
    with pytest.raises(InputError, match="y"):
        softmax_regression(data()[0], np.full(N, 2))


# --- the estimator --------------------------------------------------------------------------------------------------


def test_estimator_matches_scikit_learn_and_survives_a_save(tmp_path):
    X, y = data(15, 3)
    for labels in (np.array(["no", "yes", "yes"])[y], np.array(["a", "b", "c"])[y]):
        ours = LogisticRegression(C=2.0, class_weight="balanced", tol=1e-12).fit(X, labels)
        theirs = sklearn.linear_model.LogisticRegression(
            C=2.0, class_weight="balanced", solver="newton-cholesky", tol=1e-12
        )
        theirs.fit(X, labels)
        np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)
        np.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-4)
        assert np.array_equal(ours.classes_, theirs.classes_)
        assert ours.coef_.shape == theirs.coef_.shape
        ours.save(tmp_path / "model")
        back = load(tmp_path / "model")
        assert np.array_equal(back.predict(X), ours.predict(X))
        assert np.array_equal(back.predict_proba(X), ours.predict_proba(X))


def test_estimator_is_stable_at_large_logits():
    X, y = data(16)
    model = LogisticRegression().fit(X, y)
    far = X * 1e4 / np.abs(model.decision_function(X)).max()
    with np.errstate(all="raise", under="ignore"):
        proba, logs = model.predict_proba(far), model.predict_log_proba(far)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)
    assert np.all(np.isfinite(logs))
    assert logs.min() < -5000
    np.testing.assert_allclose(np.exp(logs), proba, atol=1e-15)


def test_estimator_warm_start_and_one_class():
    X, y = data(17)
    model = LogisticRegression(warm_start=True).fit(X, y)
    cold = int(model.n_iter_[0])
    coef = model.coef_.copy()
    assert int(model.fit(X, y).n_iter_[0]) < cold
    with pytest.raises(ValueError, match="class"):
        model.fit(X, np.zeros(N))
    assert np.abs(model.coef_ - coef).max() < 1e-4
