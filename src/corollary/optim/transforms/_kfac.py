"""K-FAC: natural gradient steps with each layer's Fisher block taken as a Kronecker product A ⊗ G.

A = E[āāᵀ] over a layer's inputs (a 1 appended for the bias), G = E[ggᵀ] over its output gradients, so that the block's
inverse is G⁻¹ ∇W A⁻¹: two products. With the damping λ spread over the factors, (A + π√λ I) ⊗ (G + (√λ/π) I),
π² = (tr A/d_A)/(tr G/d_G). (A ⊗ G)⁻¹ = A⁻¹ ⊗ G⁻¹ is exact; what approximates is E[aaᵀ ⊗ ggᵀ] ≈ A ⊗ G, the dropped
blocks between layers, and the damping. When: layered networks and large batches, where a step's worth counts. Memory:
2(n² + m²) numbers a layer (m, n). Cost of a step: 2(m²n + mn²) flops a layer, a capture (see `capture_statistics`) and
(m³ + n³) every so many steps.
Sources: Martens & Grosse (2015), sections 3, 4.2, 6.2-6.7, Algorithm 2; Grosse & Martens (2016), for convolutions;
Eschenhagen et al., "Kronecker-factored approximate curvature for modern neural network architectures" (2023), for
``expand`` and ``reduce``; George et al. (2018), for `ekfac`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim._tree import dtype as dtype_of
from corollary.optim.transforms._capture import CURVATURES, Statistics, capture_statistics, empty_statistics
from corollary.optim.transforms._kfac_layers import check_layers, is_layer, layer_rule
from corollary.optim.transforms._kfac_step import adapt, best_step, combine
from corollary.optim.transforms._matrix_settings import (
    Setting,
    cast_like,
    check_every,
    check_setting,
    increment,
    setting,
    with_extra,
    working_tree,
    zeros,
)


class KFacState(NamedTuple):
    """Step count, factors and their inverses a layer, the last update, the damping, captures since the last inverse."""

    count: Array
    factors: list[Statistics]
    inverses: list[Statistics]
    previous: PyTree
    damping: Array
    captures: Array


def kfac(
    model: PyTree,
    learning_rate: Setting | None = None,
    *,
    distribution: Any = None,
    curvature: str = "fisher",
    momentum: Setting = 0.9,
    damping: Setting = 1e-3,
    adaptive_damping: bool = False,
    factor_decay: Setting = 0.95,
    statistics_every: Setting = 10,
    inverse_every: Setting = 20,
    sharing: str = "expand",
    norm_constraint: Setting | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """K-FAC for Equinox modules, their layers under any `vmap`.

    Use it for networks of linear, convolutional, embedding and norm layers with large batches. ``update`` takes the
    functions that K-FAC sees the batch through::

        optimizer.update(grads, state, params, outputs_fn=lambda model: jax.vmap(model)(x))

    Parameters
    ----------
    model
        The module; its layers are checked here, its static part is kept. Parameters are `eqx.filter`ed arrays of it.
    learning_rate
        η, a number or a schedule. None: η and μ minimise the exact quadratic model ½δᵀ(F + λI)δ + ∇ᵀδ over
        δ = −ηP∇ + μδ₀ each step, at the cost of two JVPs; `momentum` is then not used.
    distribution
        `OutputDistribution` of the outputs; for all but the empirical Fisher with a given rate.
    curvature
        ``"fisher"``: labels drawn from the model; ``"ggn"``: the exact expectation; ``"empirical"``: the given labels
        (``losses_fn`` instead of ``outputs_fn``).
    momentum
        μ of δ ← μδ₀ − ηP∇.
    damping
        λ in the units of F; the start where adaptive.
    adaptive_damping
        Levenberg-Marquardt: every 5 steps λ falls by (19/20)⁵ where the loss fell by more than 3/4 of what the model
        promised, and grows where by less than 1/4. Needs ``learning_rate=None`` and ``losses_fn``.
    factor_decay
        Of the factors' averages; the first captures are averaged evenly.
    statistics_every, inverse_every
        Steps between captures, and between inversions.
    sharing
        ``"expand"`` or ``"reduce"``, see `capture_statistics`.
    norm_constraint
        c: the step is shortened to η²∇ᵀP∇ ≤ c; None: not.
    seed
        Of the drawn labels, where ``update`` gets no ``key``.

    Returns
    -------
    optax.GradientTransformationExtraArgs
        ``update(grads, state, params, outputs_fn=..., losses_fn=..., key=...)``, functions of the module. Weight decay:
        chain `optax.add_decayed_weights` before it, as the loss' own.

    Raises
    ------
    InputError
        For parameters that lie in no supported layer, by name; settings out of range; missing functions.

    Examples
    --------
    >>> from corollary.optim.curvature import Gaussian
    >>> layer = eqx.nn.Linear(2, 1, use_bias=False, key=jax.random.key(0))
    >>> x, y = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[4.0], [3.0]])
    >>> outputs = lambda model: jax.vmap(model)(x)
    >>> grads = jax.grad(lambda model: jnp.sum((outputs(model) - y) ** 2) / 4)(layer)
    >>> optimizer = kfac(layer, 1.0, distribution=Gaussian(), curvature="ggn", damping=1e-9)
    >>> updates, _ = optimizer.update(grads, optimizer.init(layer), layer, outputs_fn=outputs)
    >>> (layer.weight + updates.weight).round(2).tolist()  # one natural gradient step solves least squares
    [[2.0, 3.0]]
    """
    return kronecker(
        _Factored(),
        model=model,
        learning_rate=learning_rate,
        distribution=distribution,
        curvature=curvature,
        momentum=momentum,
        damping=damping,
        adaptive_damping=adaptive_damping,
        factor_decay=factor_decay,
        statistics_every=statistics_every,
        inverse_every=inverse_every,
        sharing=sharing,
        norm_constraint=norm_constraint,
        seed=seed,
    )


class _Factored(eqx.Module):
    """K-FAC's inverse: of the two damped factors."""

    names: tuple[str, ...] = eqx.field(static=True, default=("A", "G", "F", "rows"))
    scaled: bool = eqx.field(static=True, default=False)

    def identity(self, factors: Statistics) -> Statistics:
        """Before the first inversion."""
        return {
            name: jnp.ones_like(x) if x.ndim == 1 else jnp.eye(x.shape[0], dtype=x.dtype)
            for name, x in factors.items()
            if name != "rows"
        }

    def invert(self, factors: Statistics, inverses: Statistics, damping: Array, first: Array) -> Statistics:
        """Both inverses, or that of the full block."""
        del inverses, first
        if "F" in factors:
            return {"F": _inverse(factors["F"], damping)}
        A, G = factors["A"], factors["G"]
        mean_A = jnp.mean(A if A.ndim == 1 else jnp.diagonal(A))
        mean_G = jnp.trace(G) / G.shape[0]
        usable = (mean_A > 0) & (mean_G > 0)
        pi = jnp.sqrt(jnp.where(usable, mean_A / jnp.where(usable, mean_G, 1), 1))
        root = jnp.sqrt(damping.astype(A.dtype))
        return {"A": _inverse(A, pi * root), "G": _inverse(G, root / pi)}

    def apply(self, factors: Statistics, inverses: Statistics, M: Array, damping: Array) -> Array:
        """G⁻¹ M A⁻¹."""
        del factors, damping
        if "F" in inverses:
            return inverses["F"] @ M
        A, G = inverses["A"], inverses["G"]
        return G @ (M * A if A.ndim == 1 else M @ A)


def kronecker(
    method: Any,
    *,
    model: PyTree,
    learning_rate: Setting | None,
    distribution: Any,
    curvature: str,
    momentum: Setting,
    damping: Setting,
    adaptive_damping: bool,
    factor_decay: Setting,
    statistics_every: Setting,
    inverse_every: Setting,
    sharing: str,
    norm_constraint: Setting | None,
    seed: int,
) -> optax.GradientTransformationExtraArgs:
    """What `kfac` and `ekfac` share: captures, inversions, the step's length."""
    check_layers(model)
    static = eqx.partition(model, eqx.is_inexact_array)[1]
    validation.one_of(*CURVATURES)("curvature", curvature)
    validation.one_of("expand", "reduce")("sharing", sharing)
    validation.flag("adaptive_damping", adaptive_damping)
    validation.integer(0)("seed", seed)
    quadratic = learning_rate is None
    if not quadratic:
        check_setting("learning_rate", learning_rate)
    check_setting("momentum", momentum, below=1)
    check_setting("damping", damping, positive=True)
    check_setting("factor_decay", factor_decay, below=1)
    if norm_constraint is not None:
        check_setting("norm_constraint", norm_constraint, positive=True)
    check_every("statistics_every", statistics_every)
    check_every("inverse_every", inverse_every)
    if (curvature != "empirical" or quadratic) and distribution is None:
        raise InputError("distribution: found None, expected the OutputDistribution whose Fisher matrix is meant")
    if adaptive_damping and not quadratic:
        raise InputError("adaptive_damping: found True with a given learning_rate, expected learning_rate=None")

    def init(params: PyTree) -> KFacState:
        params = eqx.filter(params, eqx.is_inexact_array)
        factors = empty_statistics(eqx.combine(params, static), method.names)
        return KFacState(
            jnp.zeros((), jnp.int32),
            factors,
            [method.identity(one) for one in factors],
            jax.tree.map(zeros, params),
            setting(damping, jnp.zeros((), jnp.int32), dtype_of(jax.tree.map(zeros, params))),
            jnp.zeros((), jnp.int32),
        )

    def update(
        grads: PyTree,
        state: KFacState,
        params: Any = None,
        *,
        outputs_fn: Callable[[Any], Any] | None = None,
        losses_fn: Callable[[Any], Any] | None = None,
        key: Key[Array, ""] | None = None,
        **_: Any,
    ) -> tuple[PyTree, KFacState]:
        if params is None:
            raise InputError("params: found None, expected the parameters")
        if quadratic and outputs_fn is None:
            raise InputError("outputs_fn: found None, expected a function of the model for learning_rate=None")
        if adaptive_damping and losses_fn is None:
            raise InputError("losses_fn: found None, expected a function of the model for adaptive_damping")
        t = state.count
        params = eqx.filter(params, eqx.is_inexact_array)
        whole = eqx.combine(params, static)
        key = jax.random.fold_in(jax.random.key(seed), t) if key is None else key
        damped = state.damping if adaptive_damping else setting(damping, t, state.damping.dtype)
        renew = t % _interval(inverse_every, t) == 0
        captured = t % _interval(statistics_every, t) == 0
        factors, inverses, captures = state.factors, state.inverses, state.captures

        def invert(factors: list[Statistics], inverses: list[Statistics]) -> list[Statistics]:
            both = zip(factors, inverses, strict=True)
            return [method.invert(f, i, damped, t <= 1) for f, i in both]

        if method.scaled:  # the scales are taken in the new bases; the first factors are only known at the second step
            renew = renew | (t == 1)
            captured = captured | renew
            inverses = jax.lax.cond(renew & (t > 0), invert, lambda f, i: i, factors, inverses)
            captures = jnp.where(renew, 0, captures)

        def capture(factors: list[Statistics]) -> list[Statistics]:
            bases = [(i["UG"], i["UA"]) if "UG" in i else None for i in inverses] if method.scaled else None
            new = capture_statistics(
                whole,
                outputs_fn=outputs_fn,
                losses_fn=losses_fn,
                distribution=distribution,
                curvature=curvature,
                sharing=sharing,
                names=method.names,
                bases=bases,
                key=key,
            )
            real = damped.dtype
            limit = setting(factor_decay, t, real)
            total = t.astype(real) / _interval(statistics_every, t).astype(real)
            return [_average(f, n, limit, total, captures.astype(real)) for f, n in zip(factors, new, strict=True)]

        factors = jax.lax.cond(captured, capture, lambda f: f, factors)
        captures = captures + captured.astype(jnp.int32)
        if not method.scaled:
            inverses = jax.lax.cond(renew, invert, lambda f, i: i, factors, inverses)
        direction = _precondition(method, working_tree(grads), factors, inverses, damped)
        grads32 = working_tree(grads)
        if quadratic:
            outputs: Any = outputs_fn
            forward = lambda p: outputs(eqx.combine(p, static))  # noqa: E731
            step, promised = best_step(forward, params, distribution, grads32, direction, state.previous, damped)
        else:
            rate = setting(learning_rate, t, damped.dtype)
            if norm_constraint is not None:
                size = rate**2 * optax.tree.vdot(direction, grads32)
                limit = setting(norm_constraint, t, damped.dtype)
                rate = rate * jnp.minimum(1, jnp.sqrt(limit / jnp.where(size > 0, size, limit)))
            mu = setting(momentum, t, damped.dtype)
            step, promised = combine(-rate, direction, mu, state.previous), None
        after = damped
        if adaptive_damping:
            after = jax.lax.cond(
                t % 5 == 4,
                lambda: adapt(losses_fn, static, params, step, promised, damped),
                lambda: damped,
            )
        new = KFacState(increment(t), factors, inverses, step, after, captures)
        return cast_like(step, grads), new

    return with_extra(init, update)


def _interval(every: Setting, t: Array) -> Array:
    return setting(every, t).astype(jnp.int32)


def _average(old: Statistics, new: Statistics, limit: Array, total: Array, since: Array) -> Statistics:
    """ρ·old + (1 − ρ)·new with ρ = min(1 − 1/k, limit) at the k-th capture; scales count from the last new basis."""

    def decay(k: Array, dtype: Any) -> Array:
        return jnp.minimum(1 - 1 / (k + 1), limit).astype(dtype)

    out = {}
    for name, value in new.items():
        rho = decay(since if name == "S" else total, value.dtype)
        out[name] = rho * old[name] + (1 - rho) * value
    return out


def _inverse(A: Array, ridge: Array) -> Array:
    """(A + ridge·I)⁻¹ by Cholesky, the ridge being no smaller than A's rounding; a vector is a diagonal."""
    ridge = ridge.astype(A.dtype)
    if A.ndim == 1:
        return 1 / (A + ridge)
    eye = jnp.eye(A.shape[0], dtype=A.dtype)
    L = jnp.linalg.cholesky(A + jnp.maximum(ridge, 4 * float(jnp.finfo(A.dtype).eps) * jnp.trace(A)) * eye)
    half = jax.scipy.linalg.solve_triangular(L, eye, lower=True)
    return half.T @ half


def _precondition(
    method: Any, grads: PyTree, factors: list[Statistics], inverses: list[Statistics], damping: Array
) -> PyTree:
    rest = iter(zip(factors, inverses, strict=True))

    def one(node: Any) -> Any:
        if not is_layer(node):
            return node
        f, i = next(rest)
        rule: Any = layer_rule(node)
        return rule.unmatrix(node, method.apply(f, i, rule.matrix(node), damping))

    return jax.tree.map(one, grads, is_leaf=is_layer)
