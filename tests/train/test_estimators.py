"""Networks as estimators: the mathematics of the objective, saved models that train on, partial fits, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_iris

import corollary
from corollary.core import InputError
from corollary.train import ArrayFeed, Autoencoder, MLPClassifier, MLPRegressor, SequenceForecaster, windows
from corollary.train.estimators._base import Fit, classification_loss
from corollary.train.estimators._standard import standard

RNG = np.random.default_rng(0)
X, Y = load_iris(return_X_y=True)
FEW = {"max_iter": 3, "random_state": 0, "n_iter_no_change": 99}
QUIET = pytest.mark.filterwarnings("ignore::corollary.core.CertificateWarning")  # three epochs converge nowhere


@pytest.fixture(scope="module")
def fitted():
    with pytest.warns(corollary.core.CertificateWarning, match="stopped at the step limit"):
        return MLPClassifier((8, 5), activation="tanh", learning_rate=1e-2, **FEW).fit(X, Y)


@pytest.mark.covers("mlp-classifier")
def test_probabilities_are_those_of_the_forward_pass(fitted):
    """Against the layers written out in NumPy."""
    hidden = (X - X.mean(0)) / X.std(0)
    W1, b1, W2, b2, W3, b3 = fitted.weights_
    logits = np.tanh(np.tanh(hidden @ W1.T + b1) @ W2.T + b2) @ W3.T + b3
    expected = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(fitted.predict_proba(X), expected / expected.sum(1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(fitted.predict_log_proba(X), np.log(fitted.predict_proba(X)), rtol=1e-9, atol=1e-12)
    assert (fitted.predict(X) == fitted.classes_[logits.argmax(1)]).all()


@pytest.mark.covers("mlp-classifier")
def test_the_gradient_at_the_logits_is_p_minus_y_and_two_classes_are_a_sigmoid(x64):
    logits, labels = RNG.standard_normal((6, 3)), RNG.integers(0, 3, 6)

    def loss(z, y):
        network = jax.tree_util.Partial(lambda z, x, state, key, inference: (z, state), z)
        batch = ({"x": None, "y": jnp.asarray(y, jnp.int32), "w": jnp.ones(6)}, jnp.ones(6))
        return classification_loss(Fit(network, {"alpha": 0.0}), None, batch, None, True)[0]

    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(logits), labels), (p - np.eye(3)[labels]) / 6, rtol=1e-12)
    two, binary = logits[:, :2], labels % 2
    sign = 2 * binary - 1
    logistic = np.mean(np.log1p(np.exp(-sign * (two[:, 1] - two[:, 0]))))
    np.testing.assert_allclose(loss(jnp.asarray(two), binary), logistic, rtol=1e-12)


@QUIET
def test_two_classes(dtype):
    model = MLPClassifier(6, **FEW).fit(X[:100].astype(dtype), Y[:100])
    z, p = model.decision_function(X[:100].astype(dtype)), model.predict_proba(X[:100].astype(dtype))
    assert z.dtype == p.dtype == dtype
    np.testing.assert_allclose(p[:, 1], 1 / (1 + np.exp(-z)), rtol=1e-5)


@pytest.mark.covers("mlp-classifier")
def test_one_step_is_that_of_torch():
    """The same weights, batch and optimizer in PyTorch, where it is at hand; its twin in NumPy always."""
    model = MLPClassifier(
        4, activation="tanh", optimizer="sgd", learning_rate=0.1, alpha=0.3, batch_size=150, standardize=False, **FEW
    )
    model.max_iter = 1
    start = MLPClassifier(**{**model.get_params(), "learning_rate": 1e-300})
    with pytest.warns(corollary.core.CertificateWarning):
        before, after = start.fit(X, Y).weights_, model.fit(X, Y).weights_
    W1, b1, W2, b2 = before
    h = np.tanh(X @ W1.T + b1)
    z = h @ W2.T + b2
    p = np.exp(z - z.max(1, keepdims=True))
    d = (p / p.sum(1, keepdims=True) - np.eye(3)[Y]) / 150
    e = (d @ W2) * (1 - h**2)
    gradient = [e.T @ X + 0.3 * W1 / 150, e.sum(0), d.T @ h + 0.3 * W2 / 150, d.sum(0)]
    for a, b, g in zip(after, before, gradient, strict=True):
        np.testing.assert_allclose(a, b - 0.1 * g, rtol=1e-9, atol=1e-12)
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(w, requires_grad=True) for w in before]
    out = torch.tanh(torch.tensor(X) @ tensors[0].T + tensors[1]) @ tensors[2].T + tensors[3]
    loss = torch.nn.functional.cross_entropy(out, torch.tensor(Y))
    (loss + 0.15 / 150 * (tensors[0].square().sum() + tensors[2].square().sum())).backward()
    for a, t in zip(after, tensors, strict=True):
        np.testing.assert_allclose(a, (t - 0.1 * t.grad).detach().numpy(), rtol=1e-9, atol=1e-12)


@QUIET
def test_a_saved_model_answers_and_trains_on_to_the_same_bits(tmp_path, fitted):
    fitted.save(tmp_path)
    loaded = corollary.load(tmp_path)
    np.testing.assert_array_equal(loaded.predict_proba(X), fitted.predict_proba(X))
    other = corollary.load(tmp_path).partial_fit(X, Y)
    loaded.partial_fit(X, Y)
    np.testing.assert_array_equal(loaded.predict_proba(X), other.predict_proba(X))
    assert loaded.n_iter_ == fitted.n_iter_ + 1
    assert loaded.loss_curve_[-1] < fitted.loss_curve_[-1]


@QUIET
def test_epochs_in_parts_are_epochs_at_once():
    """partial_fit keeps the optimizer's state: three calls over one full batch are three epochs."""
    settings = {"hidden_layer_sizes": 8, "activation": "tanh", "learning_rate": 1e-2, "batch_size": 150, **FEW}
    at_once = MLPClassifier(**settings).fit(X, Y)
    parts = MLPClassifier(**settings)
    for _ in range(3):
        parts.partial_fit(X, Y, classes=[0, 1, 2])
    np.testing.assert_allclose(parts.predict_proba(X), at_once.predict_proba(X), rtol=1e-10)
    with pytest.raises(InputError, match="classes"):
        parts.partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(InputError, match="not in classes"):
        parts.partial_fit(X, Y + 1)


@QUIET
def test_units_of_inputs_and_targets_do_not_matter():
    y = np.sin(X[:, 0]) + X[:, 1]
    model = MLPRegressor(8, **FEW).fit(X, y)
    scaled = MLPRegressor(8, **FEW).fit(X * [1e-8, 1e150, 1, 1e3] + [0, 0, 0, 1e6], 1e100 * y)
    np.testing.assert_allclose(
        scaled.predict(X * [1e-8, 1e150, 1, 1e3] + [0, 0, 0, 1e6]), 1e100 * model.predict(X), rtol=1e-6
    )


@QUIET
def test_early_stopping_keeps_the_best_and_bounds_the_error():
    model = MLPClassifier(16, learning_rate=0.05, max_iter=40, early_stopping=True, n_iter_no_change=5, random_state=1)
    model.fit(X, Y)
    bound = model.certificates_["generalization"]
    assert bound.kind == "probabilistic"
    radius = np.sqrt(np.log(2 * len(model.validation_curve_) / 0.05) / (2 * 15))
    np.testing.assert_allclose(bound.bound, min(1, bound.measured + radius), rtol=1e-6)
    held_loss = model.validation_curve_
    assert np.argmin(held_loss) >= len(held_loss) - 6 or model.n_iter_ == 40


@QUIET
def test_weights_are_counts():
    """A full batch: weight 2 is a row twice, weight 0 a row left out."""
    weight = RNG.integers(0, 3, 60)
    settings = {"batch_size": 200, "activation": "tanh", "optimizer": "sgd", "learning_rate": 0.1, "alpha": 0.0, **FEW}
    y = X[:60, 2]
    weighted = MLPRegressor(5, **settings).fit(X[:60], y, sample_weight=weight)
    repeated = MLPRegressor(5, **settings).fit(np.repeat(X[:60], weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), rtol=1e-9)


@QUIET
def test_an_autoencoder_beats_pca_on_a_curve_and_says_so_where_it_does_not():
    t = np.linspace(-1, 1, 120)
    curve = np.column_stack([t, t**2, np.sin(3 * t)])
    model = Autoencoder(1, 16, learning_rate=2e-2, max_iter=150, n_iter_no_change=150, random_state=0).fit(curve)
    beaten = model.certificates_["beats_pca"]
    Z = (curve - curve.mean(0)) / curve.std(0)
    rest = np.linalg.svd(Z, compute_uv=False)[1:]
    np.testing.assert_allclose(beaten.bound, rest @ rest / Z.size, rtol=1e-6)
    assert beaten.holds
    np.testing.assert_allclose(model.inverse_transform(model.transform(curve)), model.reconstruct(curve), rtol=1e-9)
    np.testing.assert_allclose(model.score(curve), -model.reconstruction_error_, rtol=1e-9)
    assert model.set_params(max_iter=1).fit(curve).certificates_["beats_pca"].holds in (False, np.False_)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_layer_sizes": (5, 0)}, "hidden_layer_sizes: found 0"),
        ({"hidden_layer_sizes": 1.5}, "hidden_layer_sizes: found 1.5"),
        ({"activation": "step"}, "activation: found 'step'"),
        ({"dropout": 1.0}, "dropout: found 1.0"),
        ({"learning_rate": 0}, "learning_rate: found 0"),
        ({"optimizer": "lbfgs"}, "optimizer: found 'lbfgs'"),
        ({"early_stopping": True, "validation_fraction": 1e-9}, "validation_fraction"),
    ],
)
def test_refusals(settings, message):
    model = MLPClassifier(**settings)
    before = dict(vars(model))
    with pytest.raises(InputError, match=message):
        model.fit(X, Y)
    assert vars(model) == before


def test_changed_settings_after_the_fit_are_told(fitted):
    changed = MLPClassifier(**fitted.get_params()).set_params(hidden_layer_sizes=(9, 5))
    vars(changed).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    with pytest.raises(InputError, match="shape was changed"):
        changed.predict(X)


@QUIET
@pytest.mark.parametrize("rows", [150, 70])
def test_a_partial_fit_takes_each_of_its_rows_once(monkeypatch, rows):
    """Also where the calls before had more steps, or fewer: the epoch begins with its first batch."""
    model = MLPRegressor(2, batch_size=40, **FEW).partial_fit(X[:100], Y[:100])
    batches, original = {}, ArrayFeed.indices

    def watched(feed, k):
        batches[k] = original(feed, k)[: max(0, feed.examples - 40 * (k % feed.steps_per_epoch))]
        return batches[k]

    with monkeypatch.context() as patch:
        patch.setattr(ArrayFeed, "indices", lambda feed, k: np.resize(watched(feed, k), 40))
        model.partial_fit(X[:rows], Y[:rows])
    assert np.array_equal(np.sort(np.concatenate(list(batches.values()))), np.arange(rows))


@QUIET
def test_rows_of_weight_zero_are_rows_left_out():
    """In the batches, in the moments, and among the rows held out."""
    weight = np.tile([0.0, 1.0, 1.0], 50)
    settings = {"hidden_layer_sizes": 4, "early_stopping": True, "class_weight": "balanced", **FEW}
    weighted = MLPClassifier(**settings).fit(X, Y, sample_weight=weight)
    left_out = MLPClassifier(**settings).fit(X[weight > 0], Y[weight > 0])
    np.testing.assert_allclose(weighted.predict_proba(X), left_out.predict_proba(X), rtol=1e-9)
    np.testing.assert_allclose(weighted.validation_curve_, left_out.validation_curve_, rtol=1e-9)
    assert not hasattr(left_out.set_params(early_stopping=False).fit(X, Y), "validation_curve_")
    part = MLPClassifier(4, class_weight="balanced", **FEW)
    assert part.partial_fit(X[:100], Y[:100], classes=[0, 1, 2]).n_iter_ == 1  # a part without the third class


def test_float32_moments_of_many_rows_do_not_come_to_a_halt():
    """In float32, adding 2⁻²⁶ to 1/2 changes nothing: one row weighs so much here, that is quicker than many rows."""
    rows = np.ones((2**16 + 1, 2), np.float32)
    rows[1:] = 2
    weight = np.ones(len(rows), np.float32)
    weight[0] = 2**26
    mean, scale = standard(rows, weight)
    share = 2.0**16 / (2.0**26 + 2.0**16)
    np.testing.assert_allclose(mean, 1 + share, rtol=1e-7)
    np.testing.assert_allclose(scale, np.sqrt(share * (1 - share)), rtol=1e-6)
    mean, scale = standard(np.float32([[1, 3, 1, 5], [1, 3, 1, 5]]), np.ones(2, np.float32), channels=2)
    np.testing.assert_allclose(mean, [1, 4, 1, 4])
    np.testing.assert_allclose(scale, [1, 1, 1, 1])  # a constant channel's size, the deviation of the other


def test_a_loss_that_rises_is_told():
    with pytest.warns(corollary.core.CertificateWarning, match="descent"):
        MLPRegressor(
            2, activation="identity", optimizer="sgd", learning_rate=2.0, max_iter=4, random_state=0, n_iter_no_change=1
        ).fit(X, 1.0 * Y)


@QUIET
def test_a_forecast_feeds_each_prediction_back_once():
    rows, y = windows(np.sin(np.arange(40) / 3), 6)
    model = SequenceForecaster(3, cell="elman", **FEW).fit(rows, y)
    series = list(rows[-1])
    for _ in range(4):
        series.append(model.predict([series[-6:]])[0])
    np.testing.assert_allclose(model.forecast(rows[-1], 4), series[6:], rtol=1e-12)


@QUIET
def test_prediction_in_float32_of_a_float64_fit_divides_by_no_zero():
    model = MLPRegressor(4, **FEW).fit(X * [1, 1e-100, 1, 1], X[:, 0])
    expected = model.predict(X * [1, 0, 1, 1])
    np.testing.assert_allclose(model.predict((X * [1, 0, 1, 1]).astype(np.float32)), expected, rtol=1e-4)
