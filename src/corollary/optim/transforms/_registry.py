"""The table of optimizers: `optimizer(name, ...)` builds one, `optimizer_cost` says what it costs before it runs.

Every number of an optimizer built here lies in its state (``state.hyperparams``), so that changing one, by
`with_hyperparameters` or in a sweep, compiles nothing new; moments are float32 where parameters are bfloat16. The step
of a second-order-like method costs from about AdamW's (Sophia) to 2 to 10 times as much.
Cost of the table: none; modules are imported when a name is first asked for.
Source of the counts: each optimizer's own page; they are held against the actual states and calls by the tests.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from corollary.core.errors import InputError
from corollary.optim.transforms._transform import check, rule

HOME = "corollary.optim.transforms"


@final
class OptimizerEntry(eqx.Module):
    """One optimizer: where it is built, and what it costs.

    Attributes
    ----------
    path
        ``module:constructor``.
    order
        1 (gradients), 2 (curvature), or between (structure of gradients).
    floats
        State numbers a parameter; None where they depend on the shapes.
    gradients
        Gradients a step, the one that is handed in included.
    products
        Hessian-vector products a step, at defaults.
    needs
        Extra arguments of `update`.
    helps
        When it helps.
    defaults
        Settings that differ from the constructor's.
    """

    path: str = eqx.field(static=True)
    order: float = eqx.field(static=True)
    floats: float | None = eqx.field(static=True)
    gradients: int = eqx.field(static=True, default=1)
    products: float = eqx.field(static=True, default=0.0)
    needs: tuple[str, ...] = eqx.field(static=True, default=())
    helps: str = eqx.field(static=True, default="")
    defaults: tuple[tuple[str, Any], ...] = eqx.field(static=True, default=())


def _ours(module: str, name: str, *args: Any, **more: Any) -> OptimizerEntry:
    return OptimizerEntry(f"{HOME}.{module}:{name}", *args, **more)


def _sharp(name: str, floats: float, helps: str) -> OptimizerEntry:
    return _ours("_presets", f"_{name}", 1, floats, 2, needs=("grad_fn",), helps=helps)


OPTIMIZERS = {
    "sgd": OptimizerEntry("optax:sgd", 1, 1, helps="vision with tuned rates", defaults=(("momentum", 0.9),)),
    "adam": OptimizerEntry("optax:adam", 1, 2, helps="small problems without decay"),
    "adamw": OptimizerEntry("optax:adamw", 1, 2, helps="the default"),
    "amsgrad": OptimizerEntry("optax:amsgrad", 1, 3, helps="where Adam does not settle"),
    "radam": OptimizerEntry("optax:radam", 1, 2, helps="no warm-up"),
    "yogi": OptimizerEntry("optax:yogi", 1, 2, helps="sparse, uneven gradients"),
    "rmsprop": OptimizerEntry("optax:rmsprop", 1, 1, helps="recurrent networks, reinforcement learning"),
    "adagrad": OptimizerEntry("optax:adagrad", 1, 1, helps="sparse gradients"),
    "adadelta": OptimizerEntry("optax:adadelta", 1, 2, helps="no rate to tune"),
    "adafactor": OptimizerEntry("optax:adafactor", 1, None, helps="memory is short"),
    "lion": OptimizerEntry("optax:lion", 1, 1, helps="memory is short, batches are large"),
    "signum": OptimizerEntry("optax:signum", 1, 1, helps="one bit a coordinate"),
    "refined_lion": _ours("_rlion", "refined_lion", 1, 1, helps="Lion's constant step keeps the loss from settling"),
    "curvature_scaled_lion": _ours(
        "_lion_curvature", "curvature_scaled_lion", 1.5, 2, helps="a cheap curvature is at hand"
    ),
    "mars": _ours("_mars", "mars", 1, 3, helps="language models"),
    "pid": _ours("_pid", "pid", 1, 3, helps="momentum overshoots"),
    "positive_negative_momentum": _ours(
        "_positive_negative_momentum", "positive_negative_momentum", 1, 2, helps="large batches"
    ),
    "stable_weight_decay": _ours("_stable_weight_decay", "stable_weight_decay", 1, 2, helps="decay without a scale"),
    "ranger": _ours("_ranger", "ranger", 1, 3, helps="safe without warm-up"),
    "ranger21": _ours("_ranger21", "ranger21", 1, 4, helps="vision, fixed length, little tuning"),
    "momentum_sam": _ours("_momentum_sam", "momentum_sam", 1, 1, helps="SAM at the price of SGD"),
    "barzilai_borwein": _ours("_presets", "_barzilai_borwein", 1.5, 3, helps="full batches"),
    "sam": _sharp("sam", 1, "networks that overfit"),
    "asam": _sharp("asam", 1, "networks that overfit, layers of unlike scale"),
    "unified_sam": _sharp("unified_sam", 1, "SAM that should settle"),
    "friendly_sam": _sharp("friendly_sam", 2, "SAM with small batches"),
    "zsharp": _sharp("zsharp", 1, "SAM along few coordinates"),
    "mnsam": _ours("_mnsam", "mnsam", 1, 2, 2, needs=("grad_fn",), helps="SAM with noisy batches"),
    "diloco": _ours("_presets", "_diloco", 1, 4, helps="slow links; smoother paths"),
    "muon": _ours("_muon", "muon", 1.5, None, helps="hidden matrices of transformers"),
    "shampoo": _ours("_shampoo", "shampoo", 1.5, None, helps="matrices and large batches"),
    "soap": _ours("_soap", "soap", 1.5, None, helps="large batches; AdamW's rate carries over"),
    "adahessian": _ours(
        "_adahessian", "adahessian", 2, 2, 1, 1, needs=("value_fn", "key"), helps="ill-conditioned, small noise"
    ),
    "sassha": _ours("_sassha", "sassha", 2, 2, 2, 0.1, needs=("value_fn", "key"), helps="curvature that generalises"),
    "sophia": _ours("_presets", "_sophia", 1.5, 2, 1, 0.1, needs=("value_fn",), helps="language models"),
}


# What Optax's constructors take without a look: each number is at least 0 and at most this.
RANGES = {
    "learning_rate": float("inf"),
    "initial_step": float("inf"),
    "weight_decay": float("inf"),
    "eps": float("inf"),
    "b1": 1.0,
    "b2": 1.0,
    "momentum": 1.0,
    "decay": 1.0,
}


class HyperState(NamedTuple):
    """The numbers of an optimizer, free to be changed between steps, and its own state."""

    hyperparams: dict[str, Any]
    inner: Any


def available_optimizers() -> tuple[str, ...]:
    """The names that `optimizer` takes.

    Returns
    -------
    tuple[str, ...]
        Sorted.

    Examples
    --------
    >>> {"adamw", "ranger", "sam"} <= set(available_optimizers())
    True
    """
    return tuple(sorted(name for name in OPTIMIZERS if _exists(name)))


def optimizer(name: str, **settings: Any) -> optax.GradientTransformationExtraArgs:
    """Any optimizer of the table by its name: Optax's and those of this room.

    Parameters
    ----------
    name
        See `available_optimizers`.
    **settings
        Of its constructor: ``learning_rate``, ``b1``, ... Floats go into the state, where they can be changed without
        a new compilation; schedules are followed; integers, texts and flags are structure.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        With float32 moments for bfloat16 parameters. SAM's family wants ``grad_fn`` at each update, curvature methods
        ``value_fn`` and ``key``; `optimizer_cost` names them.

    Raises
    ------
    InputError
        For an unknown name (with the nearest one) or setting, and values out of range.

    Notes
    -----
    Memory and cost: `optimizer_cost`. Defaults: each constructor's page. When: the entry's ``helps``.

    Examples
    --------
    >>> opt, x = optimizer("lion", learning_rate=0.1, weight_decay=0.0), jnp.array([1.0])
    >>> state = with_hyperparameters(opt.init(x), learning_rate=0.5)
    >>> print(opt.update(x, state, x)[0])
    [-0.5]
    """
    entry = _entry(name)
    build = _constructor(entry)
    signature = inspect.signature(build)
    settings = {**dict(entry.defaults), **settings}
    for setting in settings:
        if setting not in signature.parameters:
            known = ", ".join(signature.parameters)
            raise InputError(f"{setting}: found a setting that {name!r} does not have, expected one of {known}")
    missing = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name not in settings
    ]
    if missing:
        raise InputError(f"{missing[0]}: found None, expected it for {name!r}")
    for setting, value in settings.items():
        if setting in RANGES and isinstance(value, int | float):
            check(setting, value, 0.0, RANGES[setting])
    build(**settings)  # refuse bad numbers now, by the constructor's own words
    return _injected(build, settings, signature)


def with_hyperparameters(state: Any, **numbers: Any) -> Any:
    """A state of `optimizer` (alone or in a chain) with other numbers, nothing recompiled.

    Parameters
    ----------
    state
        The state.
    **numbers
        New values by name.

    Returns
    -------
    The state, changed.

    Raises
    ------
    InputError
        For a name that the state does not hold.

    Examples
    --------
    >>> state = optimizer("adamw", learning_rate=0.1).init(jnp.ones(2))
    >>> float(with_hyperparameters(state, b1=0.5).hyperparams["b1"])
    0.5
    """
    used: set[str] = set()

    def replace(node: Any) -> Any:
        if not isinstance(node, HyperState):
            return node
        new = {k: jnp.asarray(numbers[k]).astype(v.dtype) for k, v in node.hyperparams.items() if k in numbers}
        used.update(new)
        return HyperState({**node.hyperparams, **new}, node.inner)

    changed = jax.tree.map(replace, state, is_leaf=lambda node: isinstance(node, HyperState))
    if unknown := set(numbers) - used:
        raise InputError(f"{sorted(unknown)[0]}: found no such number in the state, expected one of its hyperparams")
    return changed


@final
class OptimizerCost(eqx.Module):
    """What an optimizer costs: its order, state bytes, gradients and Hessian products a step, extra arguments."""

    order: float = eqx.field(static=True)
    state_bytes: int | None = eqx.field(static=True)
    bytes_per_parameter: float | None = eqx.field(static=True)
    gradients: int = eqx.field(static=True)
    products: float = eqx.field(static=True)
    needs: tuple[str, ...] = eqx.field(static=True)
    helps: str = eqx.field(static=True)


def optimizer_cost(name: str, parameters: int | PyTree, **settings: Any) -> OptimizerCost:
    """State bytes and evaluations a step of an optimizer, for a number of parameters or for actual ones.

    Parameters
    ----------
    name
        See `available_optimizers`.
    parameters
        How many float32 parameters; or the parameters (or their shapes), which gives the exact bytes of any optimizer.
    **settings
        As handed to `optimizer`; ``learning_rate`` may be left out.

    Returns
    -------
    OptimizerCost
        Bytes are None where they depend on shapes and only a number was given. Counters (a few bytes) are left out of
        the count from a number, and in for actual parameters.

    Raises
    ------
    InputError
        For an unknown name.

    Examples
    --------
    >>> optimizer_cost("adamw", 1000).state_bytes, optimizer_cost("sam", 10).gradients
    (8000, 2)
    """
    entry = _entry(name)
    per = None if entry.floats is None else 4.0 * entry.floats

    def measured(params: Any) -> int:
        needed = inspect.signature(_constructor(entry)).parameters
        stand_in = {"learning_rate": 1e-3, "initial_step": 1e-3, "total_steps": 1000}
        given = {k: v for k, v in stand_in.items() if k in needed and k not in settings}
        state = jax.eval_shape(optimizer(name, **given, **settings).init, params)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))

    if isinstance(parameters, int | np.integer):
        if per is not None and settings:  # they may add or drop a buffer; counters cancel in the difference
            few, many = (jax.ShapeDtypeStruct((n,), jnp.float32) for n in (1000, 2000))
            per = (measured(many) - measured(few)) / 1000
        total = None if per is None else int(per * int(parameters))
    else:
        total = measured(parameters)
    return OptimizerCost(entry.order, total, per, entry.gradients, entry.products, entry.needs, entry.helps)


def _entry(name: str) -> OptimizerEntry:
    if name not in OPTIMIZERS or not _exists(name):
        near = difflib.get_close_matches(str(name), available_optimizers(), 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"name: found {name!r}, expected one of {', '.join(available_optimizers())}{hint}")
    return OPTIMIZERS[name]


def _exists(name: str) -> bool:
    try:
        _constructor(OPTIMIZERS[name])
    except (ImportError, AttributeError):
        return False
    return True


def _constructor(entry: OptimizerEntry) -> Callable[..., Any]:
    module, name = entry.path.split(":")
    return getattr(importlib.import_module(module), name)


def _injected(
    build: Callable[..., Any], settings: dict[str, Any], signature: inspect.Signature
) -> optax.GradientTransformationExtraArgs:
    """The optimizer with all its floats, given or default, in the state."""
    floats, fixed = {}, {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        value = settings.get(name, parameter.default)
        if value is parameter.empty:
            continue
        as_float = isinstance(parameter.default, float) or name in ("learning_rate", "initial_step")
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if isinstance(value, float | np.floating) or (whole and as_float) or eqx.is_array(value):
            floats[name] = value
        elif name in settings:
            fixed[name] = value

    def make(numbers_now: dict[str, Any]) -> optax.GradientTransformationExtraArgs:
        return optax.with_extra_args_support(build(**fixed, **numbers_now))

    def init(params: PyTree) -> HyperState:
        kind = jnp.result_type(*(x for x in jax.tree.leaves(params)))
        now = {name: jnp.asarray(value, kind) for name, value in floats.items()}
        with jax.numpy_dtype_promotion("standard"):
            return HyperState(now, make(now).init(params))

    def update(grads: PyTree, state: HyperState, params: Any = None, **extra: Any) -> tuple[PyTree, HyperState]:
        updates, inner = make(state.hyperparams).update(grads, state.inner, params, **extra)
        return updates, HyperState(state.hyperparams, inner)

    return rule(init, update)
