"""Stopping rules on hand-made histories, and the plateau detector on a saturated unit and on a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from corollary.core.errors import InputError
from corollary.train import (
    ArrayFeed,
    EarlyStopping,
    GeneralizationLoss,
    GeneratedFeed,
    SuccessiveRises,
    TargetReached,
    Trainer,
    find_plateau,
)


def first_stop(rule, history):
    """The index at which a run that asks after each value would end, and the best index then."""
    for i in range(len(history)):
        verdict = rule.check(history[: i + 1])
        if verdict.stop:
            return i, verdict.best
    return None, rule.check(history).best


CASES = [
    (EarlyStopping(2), [5, 4, 3, 3.5, 3.2, 2], (4, 2)),
    (EarlyStopping(3), [5, 4, 3, 3.5, 3.2, 2], (None, 5)),
    (EarlyStopping(1), [1, 1], (1, 0)),  # a tie is not better
    (EarlyStopping(2, min_delta=0.1), [10, 9.5, 9.2, 8], (2, 2)),  # better, but by less than a tenth
    (EarlyStopping(2, mode="max"), [0.5, 0.7, 0.6, 0.65], (3, 1)),
    (EarlyStopping(2), [np.nan, 3, np.nan, np.nan], (3, 1)),
    (TargetReached(1.0), [3, 2, 1, 0.5], (2, 2)),
    (TargetReached(0.9, mode="max"), [0.5, 0.95], (1, 1)),
    (GeneralizationLoss(0.05), [2, 1, 1.04, 1.06], (3, 1)),
    (GeneralizationLoss(0.05), [2, 1, 0.9, 0.94], (None, 2)),
    (SuccessiveRises(2), [3, 2, 2.1, 2.0, 2.2, 2.3], (5, 1)),
    (SuccessiveRises(2, strip=2), [3, 9, 2, 9, 2.1, 9, 2.2], (6, 2)),
]


@pytest.mark.covers("early-stopping")
@pytest.mark.parametrize(("rule", "history", "expected"), CASES)
def test_hand_made_histories(rule, history, expected):
    assert first_stop(rule, history) == expected
    if isinstance(rule, TargetReached):
        return
    for scale in (1e-12, 1e12):
        assert first_stop(rule, np.asarray(history) * scale) == expected


@pytest.mark.covers("early-stopping")
def test_the_best_checkpoint_is_returned():
    """Ten steps towards 1 and then past it: the validation prefers the step nearest to 0.35."""
    feed = GeneratedFeed(jax.random.normal, steps_per_epoch=1)
    trainer = Trainer(jnp.zeros(()), lambda w, batch, key: -w, optax.sgd(0.1))
    solution = trainer.fit(
        feed,
        steps=50,
        validation=feed,
        metric=lambda w, batch: jnp.abs(w - 0.35),
        validate_every=1,
        stop=EarlyStopping(4),
    )
    assert float(solution.value) in (pytest.approx(0.3), pytest.approx(0.4))
    assert solution.steps in (7, 8)
    assert float(solution.stats["train_state"].params) == pytest.approx(0.1 * solution.steps)


@pytest.mark.covers("plateau-detector")
def test_a_saturated_unit_is_flagged_and_gradient_descent_on_a_quadratic_is_not():
    """σ(wx) with w = 25 and the wrong label: the loss is flat at its worst. A quadratic under η = 1/L crawls on."""
    x = np.array([[1.0], [-1.0]], np.float32)
    y = np.array([0.0, 1.0], np.float32)

    def wrong(w, batch, key):
        del key
        return jnp.mean((jax.nn.sigmoid(batch[0] @ w) - batch[1]) ** 2)

    run = Trainer(jnp.array([25.0]), wrong, optax.sgd(0.1)).fit(ArrayFeed((x, y), 2), steps=60)
    found = find_plateau(run.history["loss"], run.history["gradient_norm"], 25.0)
    assert found.first == 20
    assert found.plateau[20:].all()

    for condition in (10.0, 1000.0):
        curvature = np.array([1.0, 1 / condition])
        w = np.array([1.0, 1.0])
        losses, norms, sizes = [], [], []
        for _ in range(int(12 * condition)):
            g = curvature * w
            losses.append(w @ g / 2)
            norms.append(np.linalg.norm(g))
            sizes.append(np.linalg.norm(w))
            w = w - g
        for scale in (1e-12, 1.0, 1e12):
            found = find_plateau(scale * np.array(losses), scale * np.array(norms), np.array(sizes))
            assert found.first == -1


def test_the_detector_needs_both_signs_and_refuses_what_it_cannot_read():
    steady = np.ones(50)
    assert find_plateau(steady).first == 20
    assert find_plateau(steady, steady).first == -1  # flat, but the gradient could still move it
    assert find_plateau(0.9 ** np.arange(50.0)).first == -1
    with pytest.raises(InputError, match="gradient_norm: found 3 entries"):
        find_plateau(steady, np.ones(3))
    with pytest.raises(InputError, match="window"):
        find_plateau(steady, window=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EarlyStopping(0), "patience: found 0"),
        (lambda: EarlyStopping(1, min_delta=-0.1), "min_delta: found -0.1"),
        (lambda: GeneralizationLoss(-1.0), "alpha: found -1.0"),
        (lambda: SuccessiveRises(0), "rises: found 0"),
        (lambda: EarlyStopping().check(np.ones((2, 2))), "history: found an array of shape"),
    ],
)
def test_bad_rules_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
