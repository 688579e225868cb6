"""Settings of Muon, Shampoo and SOAP for a wider and deeper network than the one that they were tuned on.

A layer's features should move by as much in every step whatever the width. The updates of the three have a spectral
norm of order 1, and inputs of entries of order 1 have norm √in, so that outputs move by η‖ΔW‖√in/√out an entry: η is to
be proportional to √(out/in), layer by layer. Grafted to Adam's length, √(in·out), that becomes 1/in. Weight decay
(times η, decoupled) falls as 1/width, where η is that of the hidden layers; residual branches are multiplied by 1/L.
Finite widths drift from the rule where the gradient's rank grows with the width; blocks of fixed size, or updates of
spectral norm 1 (Muon's are), keep it. The width is taken to have grown as the axis that grew most. Cost: none.
Sources: Qiu et al., "Hyperparameter transfer enables consistent gains of matrix-preconditioned optimizers across
scales" (2025); Yang, Simon & Bernstein, "A spectral condition for feature learning" (2023), condition 1.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._tree import at_least_zero
from corollary.optim.transforms._matrix_settings import transformation


class TransferredSettings(eqx.Module):
    """What `transfer_hyperparameters` returns."""

    learning_rate: Any
    multipliers: PyTree
    weight_decay: Any
    residual: float

    def scale(self) -> optax.GradientTransformation:
        """Multiplies every leaf's update by its factor: chain it behind an optimizer made with ``learning_rate``."""
        factors = self.multipliers

        def update(updates: PyTree, state: Any, params: Any = None) -> tuple[PyTree, Any]:
            del params
            return jax.tree.map(lambda u, f: u * jnp.asarray(f).astype(u.dtype), updates, factors), state

        return transformation(lambda params: optax.EmptyState(), update)


def transfer_hyperparameters(
    optimizer: str,
    params: PyTree,
    base: PyTree,
    *,
    learning_rate: Any,
    weight_decay: Any = 0.0,
    depth: int = 1,
    base_depth: int = 1,
    graft: str = "none",
    scale: str = "none",
    layout: str = "out_in",
) -> TransferredSettings:
    """Learning rates a leaf, weight decay and residual multiplier for a network, from those of a smaller one like it.

    Use it to tune on a narrow, shallow network and train a large one.

    Parameters
    ----------
    optimizer
        ``"muon"``, ``"shampoo"`` or ``"soap"``.
    params, base
        The parameters (or `jax.eval_shape` of them) of the network, and of the small one; of one structure.
    learning_rate, weight_decay
        As tuned on `base`.
    depth, base_depth
        Numbers of residual blocks; the branches of the small network carry 1/base_depth times some constant.
    graft
        ``"none"`` or ``"adam"`` (also ``"rmsprop"``): see the module's head; for Shampoo.
    scale
        Muon's own: with ``"mup"`` it scales by √(out/in) already and all factors are 1; with ``"spectral"`` by
        √max(1, out/in), and the rest is left.
    layout
        ``"out_in"`` or ``"in_out"``.

    Returns
    -------
    TransferredSettings
        ``learning_rate`` as given; ``multipliers`` a leaf, chained by ``scale()``; ``weight_decay``; ``residual``.
        Leaves that are no matrices (the Adam part of the three) keep factor 1.

    Raises
    ------
    InputError
        For unknown names, or trees that differ.

    Examples
    --------
    >>> small = {"in": jnp.ones((8, 3)), "out": jnp.ones((1, 8))}
    >>> large = {"in": jnp.ones((32, 3)), "out": jnp.ones((1, 32))}
    >>> found = transfer_hyperparameters("muon", large, small, learning_rate=0.1, weight_decay=0.4)
    >>> float(found.multipliers["in"]), float(found.multipliers["out"]), round(float(found.weight_decay), 3)
    (2.0, 0.5, 0.1)
    """
    validation.one_of("muon", "shampoo", "soap")("optimizer", optimizer)
    validation.one_of("none", "adam", "rmsprop")("graft", graft)
    validation.one_of("none", "spectral", "mup")("scale", scale)
    validation.one_of("out_in", "in_out")("layout", layout)
    validation.integer(1)("depth", depth)
    validation.integer(1)("base_depth", base_depth)
    at_least_zero("learning_rate", learning_rate)
    at_least_zero("weight_decay", weight_decay)
    if graft != "none" and optimizer != "shampoo":
        raise InputError(f"graft: found {graft!r} for {optimizer!r}, expected 'none' (Shampoo alone is grafted)")
    if jax.tree.structure(params) != jax.tree.structure(base):
        raise InputError("base: found a pytree of another structure, expected that of params")

    def wanted(shape: tuple[int, ...]) -> float:
        out, into = shape if layout == "out_in" else shape[::-1]
        if graft != "none":
            return 1 / into
        given = {"none": 1.0, "spectral": max(1.0, out / into) ** 0.5, "mup": (out / into) ** 0.5}[scale]
        return (out / into) ** 0.5 / given

    def factor(p: Any, b: Any) -> float:
        if len(p.shape) != len(b.shape):
            raise InputError(f"base: found a leaf of shape {b.shape}, expected as many axes as {p.shape}")
        return wanted(p.shape) / wanted(b.shape) if len(p.shape) == 2 else 1.0

    pairs = [(p.shape, b.shape) for p, b in zip(jax.tree.leaves(params), jax.tree.leaves(base), strict=True)]
    multipliers = jax.tree.map(factor, params, base)
    growth = max((n / m for p, b in pairs for n, m in zip(p, b, strict=True) if len(p) == 2), default=1.0)
    return TransferredSettings(learning_rate, multipliers, weight_decay / growth, base_depth / depth)
