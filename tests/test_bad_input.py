"""Bad and extreme input, over every estimator: a clear error that changes nothing, or a finite answer; never NaN."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tests.tables import estimators

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.1 * RNG.standard_normal(20)
NAN, INF = X.copy(), X.copy()
NAN[3, 1], INF[3, 1] = np.nan, np.inf

REFUSED = {
    "no rows": (X[:0], Y[:0]),
    "no columns": (X[:, :0], Y),
    "NaN": (NAN, Y),
    "infinity": (INF, Y),
    "three dimensions": (X[:, :, None], Y),
    "a vector": (X[:, 0], Y),
    "text": (X.astype(str).astype(object) + "x", Y),
    "complex": (X + 1j, Y),
    "ragged": ([[1.0, 2.0], [3.0]], Y[:2]),
}
REFUSED_TARGETS = {
    "another length": Y[:-1],
    "NaN in y": np.where(np.arange(20) == 5, np.nan, Y),
    "no target": None,
}
ANSWERED = {
    "integers": np.round(10 * X).astype(int),
    "booleans": X > 0,
    "float32": X.astype(np.float32),
    "a constant column": np.column_stack([X, np.full(20, 7.0)]),
    "a zero column": np.column_stack([X, np.zeros(20)]),
    "duplicate columns": np.column_stack([X, X]),
    "all columns constant": np.ones((20, 3)),
    "more columns than rows": RNG.standard_normal((20, 40)),
    "a large offset": X + 1e6,
    "huge": X * 1e150,
    "tiny": X * 1e-150,
    "columns of unlike scales": X * np.array([1e-8, 1.0, 1e8]),
}
MODELS = estimators()
SUPERVISED = [m for m in MODELS if hasattr(m, "predict")]


def name(model) -> str:
    return repr(model)[:40]


def targets(model, y=Y):
    """y for a regressor; two classes of it for a classifier; nothing for a decomposition."""
    kind = model.__sklearn_tags__().estimator_type
    if y is None or kind is None or kind == "transformer":
        return None
    if kind == "classifier":
        return np.where(np.isnan(y), np.nan, y > 0) if np.isnan(y).any() else (y > 0).astype(int)
    return y


def finite_or_refused(model, data, y):
    """Fit; then the model is either fitted with finite answers, or refused with a message and untouched."""
    before, message = dict(vars(model)), None
    try:
        model.fit(data, y)
    except ValueError as error:
        message = str(error)
    if message is None:
        assert np.isfinite(answer(model, data)).all()
    else:
        assert vars(model) == before
        assert len(message) > 10


def answer(model, data):
    return model.predict(data) if hasattr(model, "predict") else model.transform(data)


def takes(model, case: str) -> bool:
    """What is bad input for most is the point of some: missing entries, and samples that are matrices."""
    tags = model.__sklearn_tags__().input_tags
    return (case == "NaN" and tags.allow_nan) or (case == "three dimensions" and tags.three_d_array)


@pytest.mark.parametrize(
    ("model", "case"), [pytest.param(m, c, id=f"{name(m)}-{c}") for m in MODELS for c in REFUSED if not takes(m, c)]
)
def test_refused_input_names_the_trouble_and_changes_nothing(model, case):
    data, y = REFUSED[case]
    for fitted in (False, True):
        fresh = clone(model)
        if fitted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                fresh.fit(X, targets(model))
        before = dict(vars(fresh))
        with pytest.raises((ValueError, TypeError), match=r".{10,}"):
            fresh.fit(data, targets(model, y))
        assert vars(fresh).keys() == before.keys()
        assert all(vars(fresh)[k] is v for k, v in before.items())


@pytest.mark.parametrize("case", REFUSED_TARGETS)
@pytest.mark.parametrize("model", SUPERVISED, ids=name)
def test_refused_targets(model, case):
    fresh = clone(model)
    before = dict(vars(fresh))
    with pytest.raises((ValueError, TypeError)):
        fresh.fit(X, targets(model, REFUSED_TARGETS[case]))
    assert vars(fresh) == before


@pytest.mark.filterwarnings("ignore")  # a certificate may say that the answer is not as good as asked
@pytest.mark.parametrize("case", ANSWERED)
@pytest.mark.parametrize("model", MODELS, ids=name)
def test_extreme_but_finite_input_gives_finite_answers_or_a_clear_error(model, case):
    data = ANSWERED[case]
    finite_or_refused(clone(model), data, targets(model))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", MODELS, ids=name)
def test_one_row_is_answered_or_refused_clearly(model):
    finite_or_refused(clone(model), X[:1], targets(model, Y[:1]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model", MODELS, ids=name)
def test_an_unfitted_model_and_a_wrong_width_are_refused(model):
    fresh = clone(model)
    with pytest.raises(NotFittedError):
        answer(fresh, X)
    fresh.fit(X, targets(model))
    with pytest.raises(ValueError, match="2 features"):
        answer(fresh, X[:, :2])


@pytest.mark.parametrize("model", [m for m in MODELS if hasattr(m, "alpha")], ids=name)
@pytest.mark.parametrize("alpha", [-1.0, np.nan, np.inf, "1", None])
def test_a_senseless_penalty_is_refused_by_name(model, alpha):
    fresh = clone(model).set_params(alpha=alpha)
    with pytest.raises((ValueError, TypeError), match="alpha"):
        fresh.fit(X, targets(model))


@pytest.mark.parametrize("model", MODELS, ids=name)
def test_an_unknown_option_is_refused(model):
    with pytest.raises(ValueError, match="Invalid parameter"):
        clone(model).set_params(nonsense=1)
    with pytest.raises(TypeError, match="nonsense"):
        type(model)(nonsense=1)


@pytest.mark.parametrize("model", [m for m in SUPERVISED if hasattr(m, "predict_proba")], ids=name)
def test_one_class_is_refused(model):
    with pytest.raises(ValueError, match=r"class"):
        clone(model).fit(X, np.zeros(20, int))
