"""Tune ridge and lasso penalties by gradient descent on the validation loss.

The solution x(α) of a penalised regression is a function of the penalty; by the implicit function theorem its
derivative costs one linear solve. So a penalty, or one penalty per feature, which no grid could search, is tuned like
any other parameter: by gradients of the loss on held-out data. scikit-learn's diabetes data serve as the example.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

from corollary.optim import Composite, LeastSquares, minimize, penalties

TRAIN, VALIDATION = slice(0, 200), slice(200, 320)


def data():
    """Training and validation rows, standardised by the training rows."""
    X, y = load_diabetes(return_X_y=True)
    X, y = (X - X[TRAIN].mean(0)) / X[TRAIN].std(0), (y - y[TRAIN].mean()) / y[TRAIN].std()
    return X[TRAIN], y[TRAIN], X[VALIDATION], y[VALIDATION]


PENALTIES = {"ridge": penalties.SquaredL2, "lasso": penalties.L1}


def validation_loss(log_alpha, arrays, name):
    """The mean squared error on the validation rows, of the fit with one penalty α = exp(log_alpha) a feature."""
    X, y, V, w = arrays
    fit = minimize(Composite(LeastSquares(X, y), PENALTIES[name](jnp.exp(log_alpha))), tol=1e-13, max_steps=2000)
    return jnp.mean((V @ fit.value - w) ** 2)


@functools.partial(jax.jit, static_argnames="name")
def value_and_slope(log_alpha, arrays, name):
    """The loss and its hypergradient: one fit, and one linear solve."""
    return jax.value_and_grad(validation_loss)(log_alpha, arrays, name)


def tune(name, arrays, *, shared=True, steps=30):
    """Descent by the sign of the gradient, with steps that grow while it stays and halve when it turns (Rprop)."""
    at, step, before, losses = np.zeros(10), np.full(10, 0.5), np.zeros(10), []
    for _ in range(steps):
        loss, slope = value_and_slope(at, arrays, name)
        losses.append(float(loss))
        sign = np.sign(np.full(10, np.sum(slope)) if shared else np.asarray(slope))
        step = np.clip(step * np.where(sign * before > 0, 1.2, np.where(sign * before < 0, 0.5, 1.0)), 1e-4, 1.0)
        at, before = np.clip(at - step * sign, -6, 8), sign
    return at, losses


def finite_difference(name, log_alpha=2.0, h=1e-2):
    """The slope along a shared penalty by the hypergradient, and by a central difference."""
    with jax.enable_x64(True):
        arrays = data()
        slope = value_and_slope(np.full(10, log_alpha), arrays, name)[1]
        ends = [value_and_slope(np.full(10, log_alpha + s * h), arrays, name)[0] for s in (1, -1)]
        return float(np.sum(slope)), float((ends[0] - ends[1]) / (2 * h))


def main():
    """Validation losses: at α = 1, with one penalty tuned, on a grid of 41, and with one penalty a feature."""
    table = {}
    with jax.enable_x64(True):
        arrays = data()
        for name in PENALTIES:
            at, losses = tune(name, arrays)
            grid = [float(value_and_slope(np.full(10, a), arrays, name)[0]) for a in np.linspace(-4, 6, 41)]
            each = tune(name, arrays, shared=False)[1]
            table[name] = {
                "penalty": float(np.exp(at[0])),
                "start": losses[0],
                "tuned": min(losses),
                "grid": min(grid),
                "one a feature": min(each),
            }
    return table


if __name__ == "__main__":
    for name, row in main().items():
        print(f"{name:6}", "  ".join(f"{key} {value:.5f}" for key, value in row.items()))
    for name in PENALTIES:
        found, expected = finite_difference(name)
        print(f"{name:6} hypergradient {found:.8f}, by differences {expected:.8f}")
