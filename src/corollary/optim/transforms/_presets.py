"""Presets: an optimizer with rate, schedule, warm-up, clipping and weight decay that are known to go together.

`preset(name, total_steps)` is a starting point, to be tuned by the rate first. Lion wants a rate 3 to 10 times smaller
and a weight decay 3 to 10 times larger than AdamW's. Cost: that of the optimizer.
Source: named in `PRESETS`, one by one.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import optax

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._barzilai_borwein import barzilai_borwein
from corollary.optim.transforms._diloco_outer import diloco, diloco_outer
from corollary.optim.transforms._friendly_sam import friendly_sam
from corollary.optim.transforms._registry import available_optimizers, optimizer
from corollary.optim.transforms._sam import sam
from corollary.optim.transforms._schedules import wsd_schedule
from corollary.optim.transforms._transform import check, descend, needs, rule
from corollary.optim.transforms._unified_sam import unified_sam
from corollary.optim.transforms._zsharp import zsharp


@final
class Preset(eqx.Module):
    """Rate, schedule, warm-up (share of the run), clipping and settings of one optimizer, and where they come from."""

    optimizer: str = eqx.field(static=True)
    learning_rate: float = eqx.field(static=True)
    schedule: str = eqx.field(static=True)
    warmup: float = eqx.field(static=True)
    clip: float | None = eqx.field(static=True)
    settings: tuple[tuple[str, Any], ...] = eqx.field(static=True)
    source: str = eqx.field(static=True)


PRESETS = {
    "sgd": Preset("sgd", 0.1, "cosine", 0.05, None, (("momentum", 0.9), ("nesterov", True)), "Goyal et al. (2017)"),
    "adamw": Preset("adamw", 1e-3, "cosine", 0.05, 1.0, (("weight_decay", 0.1),), "Touvron et al. (2023), β2 kept"),
    "lion": Preset("lion", 2e-4, "cosine", 0.05, 1.0, (("weight_decay", 0.5),), "Chen et al. (2023), section 5"),
    "refined_lion": Preset("refined_lion", 2e-4, "cosine", 0.0, 1.0, (("weight_decay", 0.5),), "Rong et al. (2025)"),
    "mars": Preset("mars", 3e-3, "cosine", 0.02, 1.0, (("weight_decay", 0.1),), "Yuan et al. (2024), section 4"),
    "ranger": Preset("ranger", 1e-3, "warmdown", 0.0, None, (), "Wright (2019)"),
    "ranger21": Preset("ranger21", 1e-3, "own", 0.0, None, (), "Wright & Demeure (2021)"),
    "sam": Preset("sam", 0.1, "cosine", 0.05, None, (("momentum", 0.9), ("rho", 0.05)), "Foret et al. (2021)"),
    "muon": Preset("muon", 2e-2, "wsd", 0.0, None, (), "Jordan et al. (2024)"),
    "soap": Preset("soap", 3e-3, "cosine", 0.05, 1.0, (), "Vyas et al. (2024), section 4"),
    "shampoo": Preset("shampoo", 1e-3, "cosine", 0.05, None, (), "Shi et al. (2023)"),
}


def preset(
    name: str,
    total_steps: int,
    *,
    learning_rate: Any = None,
    schedule: str | None = None,
    warmup: float | None = None,
    clip: Any = "default",
    floor: float = 0.0,
    **settings: Any,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer ready for a run of `total_steps`: clipping, rate with warm-up and schedule, weight decay.

    Parameters
    ----------
    name
        A name of `PRESETS`, or any of `available_optimizers` (then with ``cosine``, 5 % warm-up, no clipping).
    total_steps
        Length of the run.
    learning_rate
        Peak η; the preset's if left out.
    schedule
        ``"cosine"``, ``"wsd"`` (last 10 %), ``"warmdown"`` (last 28 %), ``"constant"``; ``"own"`` for Ranger21.
    warmup
        Share of the steps.
    clip
        Largest global gradient norm, None: no clipping. What `grad_fn` gives is clipped, too.
    floor
        η at the end over the peak.
    **settings
        Of the optimizer, over the preset's.

    Returns
    -------
    optax.GradientTransformationExtraArgs

    Raises
    ------
    InputError
        For an unknown name or setting, and values out of range.

    Notes
    -----
    Memory, cost: `optimizer_cost`. Defaults: ``PRESETS[name].source``. When: a first run.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> opt, x = preset("lion", 100, learning_rate=0.1, warmup=0.0, weight_decay=0.0), jnp.array([1.0])
    >>> print(opt.update(x, opt.init(x), x)[0])
    [-0.1]
    """
    validation.integer(1)("total_steps", total_steps)
    plan = PRESETS.get(name)
    if plan is None and name in available_optimizers():
        if learning_rate is None:
            raise InputError(f"learning_rate: found None, expected it for {name!r}, which has no preset")
        plan = Preset(name, learning_rate, "cosine", 0.05, None, (), "none")
    if plan is None:
        raise InputError(
            f"name: found {name!r}, expected one of {', '.join(sorted({*PRESETS, *available_optimizers()}))}"
        )
    peak = plan.learning_rate if learning_rate is None else learning_rate
    if callable(peak):
        raise InputError("learning_rate: found a schedule, expected the peak as a number (schedule=... shapes it)")
    check("learning_rate", peak, 0.0)
    kind = plan.schedule if schedule is None else schedule
    validation.one_of("cosine", "wsd", "warmdown", "constant", "own")("schedule", kind)
    share = plan.warmup if warmup is None else warmup
    validation.number(0.0, 1.0)("warmup", share)
    limit = plan.clip if isinstance(clip, str) else clip
    given = {**dict(plan.settings), **settings}
    if plan.optimizer == "barzilai_borwein":
        if schedule is not None or warmup is not None or floor:
            raise InputError(f"schedule, warmup, floor: found one for {name!r}, expected none: its steps are its own")
        rate: Any = peak  # the first step
    elif kind == "own":
        rate = peak
        asked = {} if warmup is None else {"warmup_steps": round(warmup * total_steps)}
        asked |= {"floor": floor * peak} if floor else {}
        given = {"total_steps": total_steps, **asked, **given}
    else:
        rate = preset_schedule(kind, peak, total_steps, share, floor)
    method = optimizer(plan.optimizer, learning_rate=rate, **given)
    if limit is None:
        return method
    check("clip", limit, 0.0, open_low=True)
    return optax.chain(optax.clip_by_global_norm(limit), _clipped(method, limit))


def _clipped(method: optax.GradientTransformationExtraArgs, limit: Any) -> optax.GradientTransformationExtraArgs:
    """`method` with its gradient function clipped: SAM's step is along that, not along the gradient handed in."""
    clip = optax.clip_by_global_norm(limit)

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        if (gradient := extra.get("grad_fn")) is not None:
            extra["grad_fn"] = lambda *args: clip.update(gradient(*args), optax.EmptyState())[0]
        return method.update(grads, state, params, **extra)

    pair: Any = (method.init, update)
    return optax.GradientTransformationExtraArgs(*pair)


def preset_schedule(kind: str, peak: Any, total_steps: int, warmup: float, floor: float) -> Any:
    """The rate of a preset: linear warm-up from 0, then the schedule to ``floor·peak``.

    Parameters
    ----------
    kind
        ``"cosine"``, ``"wsd"``, ``"warmdown"`` or ``"constant"``.
    peak, total_steps, warmup, floor
        As in `preset`.

    Returns
    -------
    Schedule

    Examples
    --------
    >>> s = preset_schedule("cosine", 1.0, 100, 0.1, 0.0)
    >>> [round(float(s(t)), 3) for t in (5, 10, 55, 100)]
    [0.5, 1.0, 0.5, 0.0]
    """
    start = min(round(warmup * total_steps), total_steps - 1)
    if kind == "constant":
        return optax.warmup_constant_schedule(0.0, peak, start) if start else optax.constant_schedule(peak)
    if kind == "cosine":
        fraction = (total_steps - start) / total_steps
        return wsd_schedule(peak, total_steps, start, floor * peak, decay_fraction=fraction, shape="cosine")
    decay = 0.28 if kind == "warmdown" else 0.1
    return wsd_schedule(peak, total_steps, start, floor * peak, decay_fraction=decay)


# What the table's names with a base of their own are built by: SAM and its kin around SGD with momentum.


def _sgd(learning_rate: Any, momentum: Any, weight_decay: Any) -> optax.GradientTransformationExtraArgs:
    return descend(optax.trace(momentum), learning_rate, weight_decay)


def _sam(learning_rate: Any, rho: Any = 0.05, momentum: Any = 0.9, weight_decay: Any = 0.0) -> Any:
    return sam(_sgd(learning_rate, momentum, weight_decay), rho)


def _asam(learning_rate: Any, rho: Any = 0.5, momentum: Any = 0.9, weight_decay: Any = 0.0, eta: Any = 0.01) -> Any:
    return sam(_sgd(learning_rate, momentum, weight_decay), rho, adaptive=True, eta=eta)


def _unified_sam(
    learning_rate: Any, rho: Any = 0.1, weight: Any = 0.5, momentum: Any = 0.9, weight_decay: Any = 0.0
) -> Any:
    return unified_sam(_sgd(learning_rate, momentum, weight_decay), rho, weight)


def _friendly_sam(
    learning_rate: Any,
    rho: Any = 0.05,
    sigma: Any = 1.0,
    decay: Any = 0.9,
    momentum: Any = 0.9,
    weight_decay: Any = 0.0,
) -> Any:
    return friendly_sam(_sgd(learning_rate, momentum, weight_decay), rho, sigma, decay)


def _zsharp(
    learning_rate: Any, rho: Any = 0.05, percentile: Any = 0.95, momentum: Any = 0.9, weight_decay: Any = 0.0
) -> Any:
    return zsharp(_sgd(learning_rate, momentum, weight_decay), rho, percentile)


def _barzilai_borwein(learning_rate: Any, kind: str = "bb1", period: int = 1) -> Any:
    return barzilai_borwein(learning_rate, kind=kind, period=period)


def _diloco(
    learning_rate: Any,
    outer_learning_rate: Any = 0.7,
    outer_momentum: Any = 0.9,
    weight_decay: Any = 0.0,
    period: int = 10,
) -> Any:
    inner = optax.adamw(learning_rate, weight_decay=weight_decay)
    return diloco(inner, diloco_outer(outer_learning_rate, outer_momentum), period=period)


def _sophia(
    learning_rate: Any,
    b1: Any = 0.965,
    b2: Any = 0.99,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    gamma: Any = 0.01,
    update_interval: int = 10,
) -> Any:
    """Optax's, with this room's `value_fn` for its `obj_fn`."""
    inner = optax.contrib.sophia(learning_rate, b1, b2, eps, weight_decay, gamma=gamma, update_interval=update_interval)

    def update(grads: Any, state: Any, params: Any = None, value_fn: Any = None, **extra: Any) -> Any:
        needs("value_fn", value_fn, "the loss of this batch as a function of the parameters")
        return inner.update(grads, state, params, obj_fn=value_fn, **extra)

    return rule(inner.init, update, params=True)
