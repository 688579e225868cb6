"""How rounding error grows with depth in a feed-forward network: a bound by condition numbers, and the measured error.

With layers h_l = φ(W_l h_{l−1} + b_l), φ of Lipschitz constant 1, unit roundoff u and γ_n = nu/(1 − nu), the error of
h_l computed in a precision is at most

    E_l = ‖W_l‖₂E_{l−1} + γ_{n+1}(‖|W_l||h_{l−1}| + |b_l|‖ + ‖W_l‖_F E_{l−1}) + u_φ(‖h_l‖ + what precedes),

so relative errors grow by κ_l = ‖W_l‖₂‖h_{l−1}‖/‖h_l‖ a layer: the product of the κ bounds what a rounding in the first
layer becomes. Weights and inputs are first rounded to the precision and then taken as exact.

Cost: an SVD per layer and two passes. Source: Higham, "Accuracy and stability of numerical algorithms" (2002), chapter
3 (matrix-vector products; condition numbers multiply along a chain); Beuzeville et al., "Deterministic and
probabilistic backward error analysis of neural networks in floating-point arithmetic" (2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corollary.core import validation
from corollary.core.certificate import Assumption, Certificate
from corollary.core.errors import InputError
from corollary.core.precision import float64
from corollary.core.solution import Solution

# Rounding of the activation itself, in units of the roundoff: ReLU and the identity are exact, tanh is not.
ACTIVATIONS = {"identity": (lambda z: z, 0.0), "relu": (jax.nn.relu, 0.0), "tanh": (jnp.tanh, 16.0)}


def rounding_depth(
    weights: Sequence[Any], biases: Sequence[Any], x: Any, *, dtype: str = "float32", activation: str = "tanh"
) -> Solution:
    """The rounding error of a network in a precision, layer by layer, measured against float64 and bounded.

    Use it to see whether a deep network can be evaluated in bfloat16, and which layer spoils it.

    Parameters
    ----------
    weights
        W_l (n_l, n_{l−1}) per layer.
    biases
        b_l (n_l,) per layer.
    x
        One input (n_0,).
    dtype
        ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    activation
        ``"tanh"``, ``"relu"`` or ``"identity"``, after every layer.

    Returns
    -------
    `Solution` whose value is the relative errors ‖ĥ_l − h_l‖/‖h_l‖ (layers,); ``stats["bound"]`` their bounds,
    ``stats["kappa"]`` the condition numbers κ_l, ``stats["growth"]`` their running product. The bound is infinite
    where nu >= 1, and over a layer whose outputs are all 0 (a relative error has no meaning there).

    Certificates: ``error`` (theorem: measured <= bound in every layer).

    Raises
    ------
    InputError
        For layers that do not fit together, or an unknown dtype or activation.

    Source: Higham (2002), chapter 3.

    Examples
    --------
    >>> import numpy as np
    >>> W = [np.eye(4)[::-1] * 0.7] * 3
    >>> run = rounding_depth(W, [np.zeros(4)] * 3, np.ones(4), dtype="bfloat16")
    >>> bool(run.certificates["error"].holds.all())
    True
    """
    validation.one_of("float32", "bfloat16", "float16")("dtype", dtype)
    validation.one_of(*ACTIVATIONS)("activation", activation)
    start = validation.vector("x", np.asarray(x))
    n = start.shape[0]
    if len(weights) != len(biases) or not weights:
        raise InputError(f"biases: found {len(biases)} for {len(weights)} weights, expected one per layer")
    for k, (W, b) in enumerate(zip(weights, biases, strict=True)):
        validation.matrix(f"weights[{k}]", np.asarray(W))
        validation.vector(f"biases[{k}]", np.asarray(b))
        if np.shape(W)[1] != n or np.shape(b) != (np.shape(W)[0],):
            raise InputError(f"weights[{k}]: found shape {np.shape(W)} with bias {np.shape(b)}, expected (any, {n})")
        n = np.shape(W)[0]
    low = jnp.dtype(dtype)
    u = float(jnp.finfo(low).eps) / 2
    function, units = ACTIVATIONS[activation]
    with float64():
        cast = [np.asarray(a, dtype=float) for a in (x, *weights, *biases)]
        cast = [jnp.asarray(a).astype(low) for a in cast]
        h_low, Ws, bs = cast[0], cast[1 : 1 + len(weights)], cast[1 + len(weights) :]
        h = np.asarray(h_low, dtype=float)
        E, tiny, finite = 0.0, float(jnp.finfo(low).tiny), True
        errors, bounds, kappas = [], [], []
        for W, b in zip(Ws, bs, strict=True):
            # Full products: an accelerator's default may be a shorter format than the one asked for.
            h_low = function(jnp.matmul(W, h_low, precision="highest") + b)
            W64, b64 = np.asarray(W, dtype=float), np.asarray(b, dtype=float)
            size = np.linalg.norm(W64, 2)
            m = W64.shape[1] + 1
            gamma = m * u / (1 - m * u) if m * u < 1 else np.inf
            local = np.linalg.norm(np.abs(W64) @ np.abs(h) + np.abs(b64)) + np.linalg.norm(W64) * E
            before = np.linalg.norm(h)
            h = np.asarray(function(jnp.asarray(W64 @ h + b64)))
            E = size * E + gamma * local
            after = np.linalg.norm(h)
            # Underflow adds at most the smallest normal number per operation.
            E = E + units * u * (after + E) + 2 * m * tiny * np.sqrt(h.size)
            errors.append(_over(np.linalg.norm(np.asarray(h_low, dtype=float) - h), after))
            bounds.append(_over(E, after))
            kappas.append(_over(size * before, after))
            finite &= bool(jnp.isfinite(h_low).all())
    with np.errstate(invalid="ignore"):
        growth = np.nan_to_num(np.cumprod(kappas), nan=np.inf, posinf=np.inf)
    certificate = Certificate(
        "relative error of every layer <= sum of local roundings times the products of condition numbers",
        measured=np.asarray(errors),
        # The float64 reference has its own rounding, far below.
        bound=np.asarray(bounds) * (1 + 1e-6) + 1e-13,
        kind="theorem",
        source="Higham (2002), chapter 3",
        assumptions=(
            Assumption("the activation is computed to 16 units of roundoff"),
            Assumption("no layer overflows the precision", True, finite),
        ),
    )
    stats = {"bound": np.asarray(bounds), "kappa": np.asarray(kappas), "growth": growth}
    return Solution(np.asarray(errors), {"error": certificate}, stats=stats)


def _over(part: Any, whole: Any) -> float:
    """part/whole; over 0 it is 0 or infinite."""
    if whole > 0:
        with np.errstate(over="ignore"):
            return float(np.float64(part) / whole)
    return np.inf if part > 0 else 0.0
