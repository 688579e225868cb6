"""The Lasso and the elastic net with exact duality gaps.

    min_w 1/(2n) ‖y − Xw‖² + alpha (l1_ratio ‖w‖₁ + ½(1 − l1_ratio) ‖w‖²)

Use it where few of many features matter. NumPy and sparse data go through working sets and Newton steps on Gram
matrices on the host (see `_lasso_working_set`); traced, sharded and accelerator arrays through FISTA (see
`_lasso_traced`), which can be jitted, vmapped and differentiated. Cost: O(np) per outer step. Source: Tibshirani
(1996); Zou and Hastie (2005).
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input, on_host
from corollary.core.solution import Solution
from corollary.linear import _lasso_host as host
from corollary.linear import _lasso_traced as traced

Numbers = Float[Array | np.ndarray, "..."] | np.floating | float


class LassoFit(eqx.Module):
    """Coefficients and intercept, with the penalty that they belong to; a path of m alphas adds a first axis.

    Attributes
    ----------
    coef, intercept
        Of shapes (p,) and (), or (p, k) and (k,) for k targets.
    alpha, l1_ratio
        As given.
    """

    coef: Numbers
    intercept: Numbers
    alpha: Numbers
    l1_ratio: Numbers

    def predict(self, X: Any) -> Any:
        """X w + b; the path's axis first."""
        if np.ndim(self.alpha) == 0:
            return X @ self.coef + self.intercept
        if np.ndim(self.coef) == 2:
            return (X @ self.coef.T).T + self.intercept[:, None]  # type: ignore[union-attr,index]
        return X @ self.coef + self.intercept[:, None, :]  # type: ignore[index]


@follows_input
def lasso(
    X: Any,
    y: Any,
    alpha: Any,
    *,
    l1_ratio: Any = 1.0,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    positive: bool = False,
    tol: Any = 1e-6,
    max_steps: int = 100,
    init: Any = None,
    history: bool = False,
) -> Solution:
    """l1-penalised least squares to an exact duality gap.

    Use it to select few features among many. Ill-conditioned designs and small penalties are fine: Newton steps
    finish what coordinate descent begins. O(np) per outer step (about ten), O(n k²) for a working set of k features.

    Parameters
    ----------
    X : (n, p)
        NumPy, SciPy sparse (never densified) or JAX.
    y : (n,) or (n, k)
        One target or several, each fitted on its own.
    alpha
        Penalty in scikit-learn's units, where the loss is 1/(2n) ‖y − Xw‖². 0 gives the minimum-norm least squares.
    l1_ratio
        1 is the Lasso, 0 ridge, between them the elastic net.
    sample_weight : (n,), optional
        Scaled to mean one; a whole number counts as repetition.
    fit_intercept
        Add an unpenalised constant, by implicit centring.
    positive
        Only coefficients ≥ 0.
    tol
        Stop once the duality gap is at most ``tol · ‖y‖²/n``, y weighted and centred.
    max_steps
        Outer steps (for traced data: FISTA steps times a hundred).
    init : (p,) or (p, k), optional
        Coefficients to start from.
    history
        Keep the gap of every outer step in ``solution.history["duality_gap"]``.

    Returns
    -------
    Solution
        ``value`` is a `LassoFit`. Certificates: ``duality_gap`` (exact: F(w) − F* ≤ gap ≤ tol ‖y‖²/n) and ``kkt``
        (exact: the largest coordinate step, which the gap bounds).

    Raises
    ------
    InputError
        For shapes that do not match, NaN or infinity, a negative alpha, an l1_ratio outside [0, 1].

    References
    ----------
    Tibshirani (1996); Zou & Hastie (2005); the gap: Fercoq, Gramfort & Salmon (2015), eqs. 2-6; the working sets:
    Massias, Gramfort & Salmon (2018).

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.eye(3), np.array([3.0, -2.0, 0.1])
    >>> fit = lasso(X, y, alpha=1 / 3, fit_intercept=False)
    >>> np.round(fit.value.coef, 6).tolist(), bool(fit.holds)
    ([2.0, -1.0, 0.0], True)
    """
    check_settings(l1_ratio, positive, tol, max_steps)
    validation.flag("history", history)
    if not on_host(X, y, alpha, l1_ratio, sample_weight, init, tol):
        return traced.fit(X, y, alpha, l1_ratio, sample_weight, fit_intercept, positive, tol, 100 * max_steps, init)
    jax_out = host.is_jax(X, y, alpha, l1_ratio, sample_weight)
    alpha, l1_ratio = scalar("alpha", alpha), scalar("l1_ratio", l1_ratio, 1.0)
    data = host.prepare(X, y, sample_weight, fit_intercept)
    if l1_ratio == 0 and alpha > 0 and data.design.shape[1] > host.WIDEST:
        raise InputError("l1_ratio: found 0 with so many features, expected > 0 (or linear.ridge)")
    start = None if init is None else _initial(init, data)
    fits, note = host.fit(data, [(alpha, l1_ratio)], positive, float(tol), max_steps, start)
    coef = np.stack([row[0].coef for row in fits], axis=1)
    intercept = np.array([row[0].intercept for row in fits], data.dtype)
    if data.single:
        coef, intercept = coef[:, 0], intercept[0]
    value = LassoFit(coef, intercept, np.asarray(alpha), np.asarray(l1_ratio))
    return host.give_back(host.solution(value, fits, data, note, False, history), jax_out)


@follows_input
def elastic_net(X: Any, y: Any, alpha: Any, l1_ratio: Any = 0.5, **settings: Any) -> Solution:
    """Elastic net: the Lasso with a squared penalty beside it, which keeps groups of correlated features together.

    Use it where features are strongly correlated and the Lasso would pick one of each group at random. Cost,
    settings, certificates and errors are those of `lasso`.

    Parameters
    ----------
    X : (n, p)
    y : (n,) or (n, k)
    alpha
        Strength of the whole penalty alpha (l1_ratio ‖w‖₁ + ½(1 − l1_ratio) ‖w‖²); the loss is 1/(2n) ‖y − Xw‖².
    l1_ratio
        Share of the l1 norm, from 0 (ridge) to 1 (Lasso).
    **settings
        Those of `lasso`.

    Returns
    -------
    Solution
        As of `lasso`.

    References
    ----------
    Zou & Hastie (2005), section 3; their naive elastic net, as in scikit-learn.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([-1.0, 0.0, 1.0])
    >>> fit = elastic_net(np.column_stack([x, x]), 4 * x, alpha=0.1)
    >>> bool(np.isclose(*fit.value.coef)), bool(fit.holds)
    (True, True)
    """
    return lasso(X, y, alpha, l1_ratio=l1_ratio, **settings)


@follows_input
def alpha_max(
    X: Any,
    y: Any,
    *,
    l1_ratio: float = 1.0,
    sample_weight: Any = None,
    fit_intercept: bool = True,
    positive: bool = False,
) -> Any:
    """The smallest alpha at which every coefficient is zero: ‖Xᵀy‖_∞ / (n l1_ratio), X and y centred. O(np).

    Parameters
    ----------
    X : (n, p)
    y : (n,) or (n, k)
        With several targets, the largest of their values.
    l1_ratio, sample_weight, fit_intercept, positive
        As in `lasso`; `l1_ratio` > 0.

    Returns
    -------
    float
        In scikit-learn's units.

    Raises
    ------
    InputError
        As `lasso`.

    Examples
    --------
    >>> import numpy as np
    >>> float(alpha_max(np.eye(2), np.array([3.0, -4.0]), fit_intercept=False))
    2.0
    """
    validation.number(0, 1, open_low=True)("l1_ratio", l1_ratio)
    validation.flag("positive", positive)
    if not on_host(X, y, sample_weight):
        return traced.alpha_max(X, y, l1_ratio, sample_weight, fit_intercept, positive)
    data = host.prepare(X, y, sample_weight, fit_intercept)
    top = np.asarray(host.alpha_max_of(data, l1_ratio, positive), data.dtype)
    return host.give_back(top, host.is_jax(X, y, sample_weight))


def check_settings(l1_ratio: Any, positive: Any, tol: Any, max_steps: Any) -> None:
    """The checks that every function of the family makes."""
    validation.flag("positive", positive)
    validation.integer(1)("max_steps", max_steps)
    if on_host(tol):
        scalar("tol", tol)


def scalar(name: str, value: Any, high: float = np.inf) -> float:
    """A finite number in [0, high], from Python, NumPy or a concrete JAX array."""
    if isinstance(value, bool | np.bool_ | str) or np.ndim(value) != 0:
        raise InputError(f"{name}: found {value!r}, expected a number >= 0")
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: found {value!r}, expected a number >= 0") from error
    validation.number(0, high)(name, number)
    if not np.isfinite(number):
        raise InputError(f"{name}: found {value!r}, expected a finite number")
    return number


def _initial(init: Any, data: host.Data) -> np.ndarray:
    start = np.asarray(validation.vector_or_matrix("init", init, host=True))
    expected = (data.design.shape[1],) if data.single else (data.design.shape[1], len(data.targets))
    if start.shape != expected:
        raise InputError(f"init: found shape {start.shape}, expected {expected}")
    return start.reshape(expected[0], -1)
