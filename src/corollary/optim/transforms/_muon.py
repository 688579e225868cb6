"""Muon: momentum whose matrices are orthogonalised, and NorMuon, which also evens out the rows.

When: hidden weight matrices of networks; it takes steepest descent steps in the spectral norm. Vectors, embeddings and
heads go to AdamW, as usual. Against `optax.contrib.muon`: the cheaper orthogonalisation of `orthogonalise`, NorMuon,
conv kernels and stacked layers, Equinox' layout (out, in), float32 state for bfloat16 parameters, schedules anywhere.
Memory: one buffer for a matrix (plus one number a row for NorMuon), two for the others. Cost: see `orthogonalise`.
Sources: Jordan et al., "Muon" (2024); Bernstein & Newhouse, "Old optimizer, new norm" (2024); Liu et al., "Muon is
scalable for LLM training" (2025), for the 0.2·√max scale; Li et al., "NorMuon" (2025), Algorithm 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from corollary.core import validation
from corollary.optim.transforms._matrix_settings import (
    Setting,
    adam,
    cast_like,
    check_setting,
    debias,
    finish,
    increment,
    map_leaves,
    setting,
    transformation,
    working,
    zeros,
)
from corollary.optim.transforms._newton_schulz import orthogonalise, schedule_of


class MuonState(NamedTuple):
    """Step count, momentum, and NorMuon's second moments of the rows (scalars 0 without)."""

    count: Array
    momentum: PyTree
    rows: PyTree


def scale_by_muon(
    momentum: Setting = 0.95,
    *,
    nesterov: bool = True,
    steps: int = 4,
    schedule: str = "polar_express",
    scale: str = "spectral",
    normalise: bool = False,
    row_decay: Setting = 0.95,
    eps: Setting = 1e-8,
    layout: str = "out_in",
    tensors: str = "stack",
) -> optax.GradientTransformation:
    """Orthogonalised momentum, for a pytree whose leaves are all matrices or stacks of them (`muon` sorts them).

    Parameters
    ----------
    momentum
        μ of M ← μM + (1 − μ)G.
    nesterov
        Orthogonalise μM + (1 − μ)G instead of M.
    steps, schedule
        See `orthogonalise`.
    scale
        ``"spectral"``: √max(1, out/in) (Jordan); ``"moonshot"``: 0.2 √max(out, in), so that entries are as large as
        AdamW's; ``"mup"``: √(out/in); ``"none"``.
    normalise
        NorMuon: divide each neuron's row by the root of its running mean square, then restore the Frobenius norm.
    row_decay, eps
        NorMuon's average, and what is added to the root.
    layout
        ``"out_in"`` (Equinox, PyTorch) or ``"in_out"`` (Flax, Optax): which axis is the output.
    tensors
        Leaves with more than two axes: ``"stack"``: matrices along leading axes; ``"out_first"``: all axes but the
        first are the input (OIHW kernels); ``"out_last"``: all but the last (HWIO kernels).

    Returns
    -------
    optax.GradientTransformation
        Memory: one float32 number a parameter. Does not depend on the scale of the gradients.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> transform = scale_by_muon(steps=6)
    >>> W = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> transform.update(W, transform.init(W))[0].round(2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    validation.one_of("spectral", "moonshot", "mup", "none")("scale", scale)
    validation.one_of("out_in", "in_out")("layout", layout)
    validation.one_of("stack", "out_first", "out_last")("tensors", tensors)
    validation.flag("nesterov", nesterov)
    validation.flag("normalise", normalise)
    schedule_of(schedule, steps)
    check_setting("momentum", momentum, below=1)
    check_setting("row_decay", row_decay, below=1)
    check_setting("eps", eps)

    def init(params: PyTree) -> MuonState:
        def rows(p: Array) -> Array:
            if not normalise:
                return jnp.zeros((), jnp.float32)
            shape = _as_matrices(p, tensors).shape
            out = -2 if _output_first(p, layout, tensors) else -1
            return jnp.zeros((*shape[:-2], shape[out]), zeros(p).dtype)

        return MuonState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, params), jax.tree.map(rows, params))

    def update(grads: PyTree, state: MuonState, params: Any = None) -> tuple[PyTree, MuonState]:
        count = increment(state.count)

        def leaf(g: Array, m: Array, r: Array) -> tuple[Array, Array, Array]:
            g = working(g)
            mu = setting(momentum, state.count, g.dtype)
            m = mu * m + (1 - mu) * g
            X = _as_matrices(mu * m + (1 - mu) * g if nesterov else m, tensors)
            P = orthogonalise(X, steps=steps, schedule=schedule)
            first = _output_first(g, layout, tensors)
            if normalise:
                decay = setting(row_decay, state.count, g.dtype)
                r = decay * r + (1 - decay) * jnp.mean(jnp.square(P), axis=-1 if first else -2)
                root = jnp.sqrt(r / debias(decay, count)) + setting(eps, state.count, g.dtype)
                before = jnp.linalg.norm(P, axis=(-2, -1), keepdims=True)
                P = P / jnp.expand_dims(jnp.where(root > 0, root, 1), -1 if first else -2)
                after = jnp.linalg.norm(P, axis=(-2, -1), keepdims=True)
                P = P * (before / jnp.where(after > 0, after, 1))
            out, into = P.shape[-2:] if first else P.shape[-2:][::-1]
            return (_factor(scale, out, into) * P).reshape(g.shape), m, r

        directions, moments, second = map_leaves(leaf, grads, state.momentum, state.rows)
        return cast_like(directions, grads), MuonState(count, moments, second)

    return transformation(init, update)


def muon(
    learning_rate: Setting,
    *,
    momentum: Setting = 0.95,
    nesterov: bool = True,
    steps: int = 4,
    schedule: str = "polar_express",
    scale: str = "spectral",
    normalise: bool = False,
    row_decay: Setting = 0.95,
    weight_decay: Setting = 0.0,
    layout: str = "out_in",
    tensors: str = "adam",
    mask: Any = None,
    adam_learning_rate: Setting | None = None,
    adam_b1: Setting = 0.9,
    adam_b2: Setting = 0.999,
    adam_eps: Setting = 1e-8,
    adam_weight_decay: Setting = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Muon for the matrices, AdamW for the rest.

    Use it for the hidden matrices of a network; name embeddings and the output layer in `mask` as False. It helps most
    with transformers and large batches; the rate transfers across widths (`hyperparameter_transfer`).

    Parameters
    ----------
    learning_rate
        η, a number or a schedule; about 0.02 with ``scale="spectral"``, AdamW's with ``"moonshot"``.
    momentum, nesterov, steps, schedule, scale, normalise, row_decay, layout
        See `scale_by_muon`; ``normalise=True`` is NorMuon. The defaults are Jordan's, but for four Polar Express steps.
    weight_decay
        Decoupled, times η.
    tensors
        ``"adam"``: leaves with more than two axes go to AdamW; else as in `scale_by_muon`.
    mask
        A pytree of booleans like the parameters (or a function of them): which leaves are orthogonalised. None: those
        with two axes, and with `tensors` also those with more.
    adam_learning_rate, adam_b1, adam_b2, adam_eps, adam_weight_decay
        For the rest; the rate is `learning_rate` where None.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        Memory: one float32 number a matrix entry (AdamW: two). Cost beside the gradient: see `orthogonalise`.

    Raises
    ------
    InputError
        For settings out of range.

    Examples
    --------
    >>> optimizer = muon(0.1, steps=6)
    >>> params = {"W": jnp.eye(2), "b": jnp.zeros(2)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"W": 5 * jnp.eye(2), "b": jnp.ones(2)}, state, params)
    >>> jnp.diag(updates["W"]).round(3).tolist(), updates["b"].round(3).tolist()
    ([-0.1..., -0.1...], [-0.1..., -0.1...])
    """
    validation.one_of("adam", "stack", "out_first", "out_last")("tensors", tensors)
    check_setting("weight_decay", weight_decay)
    matrices = finish(
        scale_by_muon(
            momentum,
            nesterov=nesterov,
            steps=steps,
            schedule=schedule,
            scale=scale,
            normalise=normalise,
            row_decay=row_decay,
            layout=layout,
            tensors="stack" if tensors == "adam" else tensors,
        ),
        learning_rate,
        weight_decay,
    )
    rate = learning_rate if adam_learning_rate is None else adam_learning_rate
    others = finish(
        adam(adam_b1, adam_b2, adam_eps),
        rate,
        adam_weight_decay,
    )

    def labels(params: PyTree) -> PyTree:
        if mask is None:
            chosen = jax.tree.map(lambda p: p.ndim == 2 or (p.ndim > 2 and tensors != "adam"), params)
        else:
            chosen = mask(params) if callable(mask) else mask
        return jax.tree.map(lambda yes: "matrices" if yes else "others", chosen)

    return optax.partition({"matrices": matrices, "others": others}, labels)


def _as_matrices(x: Array, tensors: str) -> Array:
    """The leaf as a matrix, or a stack of them."""
    if x.ndim <= 2 or tensors == "stack":
        return x
    return x.reshape(x.shape[0], -1) if tensors == "out_first" else x.reshape(-1, x.shape[-1])


def _output_first(x: Array, layout: str, tensors: str) -> bool:
    """Whether the rows of the matrices are the neurons."""
    if x.ndim > 2 and tensors != "stack":
        return tensors == "out_first"
    return layout == "out_in"


def _factor(scale: str, out: int, into: int) -> float:
    match scale:
        case "spectral":
            return math.sqrt(max(1.0, out / into))
        case "moonshot":
            return 0.2 * math.sqrt(max(out, into))
        case "mup":
            return math.sqrt(out / into)
        case _:
            return 1.0
