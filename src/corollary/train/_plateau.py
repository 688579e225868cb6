"""Flat stretches of a run, and whether the gradient has vanished there: saturation rather than slow progress.

Over a window the loss is flat where max − min ≤ tol·max|loss|. The gradient has vanished where ‖g‖·‖θ‖ ≤ tol·|loss|: to
first order, even a change of the parameters by their own size would move the loss by no more than tol, relatively. Both
are free of scale; they depend on the loss's zero, as any relative change does. A loss whose minimum is above zero ends
flat, too: no history tells that from a plateau.
Cost: O(steps·window) on the host. To lower the rate on a plateau: `optax.contrib.reduce_on_plateau`.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool

from corollary.core import validation
from corollary.core.errors import InputError


class Plateau(eqx.Module):
    """Flags of each step, and the first step of a plateau (−1: none).

    Parameters
    ----------
    flat
        The loss did not change over the window that ends here.
    vanishing
        The gradient is too small to change it.
    plateau
        Both, where a gradient was given; else `flat`.
    first
        The first step flagged by `plateau`.
    """

    flat: Bool[np.ndarray, " steps"]
    vanishing: Bool[np.ndarray, " steps"]
    plateau: Bool[np.ndarray, " steps"]
    first: int = eqx.field(static=True)


def find_plateau(
    loss: Any, gradient_norm: Any = None, parameter_norm: Any = 1.0, *, window: int = 20, tol: float = 1e-3
) -> Plateau:
    """Flag flat stretches of a loss history, and vanished gradients.

    Use it on ``solution.history`` to tell saturated units or a dead start from slow but steady progress.

    Parameters
    ----------
    loss
        One value a step.
    gradient_norm
        ‖g‖ a step; without it only `flat` is judged.
    parameter_norm
        ‖θ‖ a step, or one number for all.
    window
        Steps over which the change is taken; the first window is never flagged.
    tol
        The relative change below which a window is flat.

    Returns
    -------
    Plateau
        A monitor of what was seen, no certificate: a flat loss proves neither a minimum nor its absence.

    Raises
    ------
    InputError
        Where histories are not vectors of equal length.

    Examples
    --------
    >>> import numpy as np
    >>> found = find_plateau(np.ones(50), np.full(50, 1e-9), window=10)
    >>> found.first
    10
    >>> find_plateau(0.9 ** np.arange(50), 0.9 ** np.arange(50), window=10).first
    -1
    """
    loss = validation.vector("loss", np.asarray(loss), host=True)
    validation.integer(1)("window", window)
    validation.number(0, open_low=True)("tol", tol)
    flat = np.zeros(len(loss), bool)
    if len(loss) > window:
        windows = np.lib.stride_tricks.sliding_window_view(loss, window + 1)
        flat[window:] = windows.max(1) - windows.min(1) <= tol * np.abs(windows).max(1)
    vanishing = np.zeros(len(loss), bool)
    if gradient_norm is not None:
        norm = validation.vector("gradient_norm", np.asarray(gradient_norm), host=True)
        if len(norm) != len(loss):
            raise InputError(f"gradient_norm: found {len(norm)} entries, expected {len(loss)} as in loss")
        vanishing = norm * np.asarray(parameter_norm) <= tol * np.abs(loss)
    plateau = flat & vanishing if gradient_norm is not None else flat
    return Plateau(flat, vanishing, plateau, int(np.argmax(plateau)) if plateau.any() else -1)
