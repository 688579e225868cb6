"""What K-FAC needs of a network, captured in one backward pass: second moments of layers' inputs and output gradients.

Each supported layer is wrapped, for one trace, by a module that passes its output through an identity. Its backward
rule returns, as the "gradient" of a dummy accumulator, the second moments themselves. So every use of a layer is
counted, and sums over vmapped axes, scans, repeated calls and rematerialised blocks are what differentiation does
anyway; a rule for `vmap` turns the sum of outer products into one product of stacked rows. This needs no look into
traced code, and works on Equinox layers under any number of `vmap`s. An axis along which whole captures are mapped (an
ensemble of models) stays an axis: the accumulators carry a mark that is mapped along it too.
A layer that is never called, or whose arrays are read past it (tied weights), is an error by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Key, PyTree

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.optim.transforms._kfac_layers import LayerRule, check_layers, is_layer, layer_rule, layers_of
from corollary.optim.transforms._matrix_settings import precision

CURVATURES = ("fisher", "ggn", "empirical")
Statistics = dict[str, Array]


class _Calls:
    """The names of the layers that were called while tracing; hashed by identity."""

    def __init__(self) -> None:
        self.names: set[str] = set()


class Tapped(eqx.Module):
    """A layer whose uses are recorded in the gradient of its accumulators."""

    layer: Any
    accumulators: Statistics
    bases: tuple[Array, Array] | None
    rule: LayerRule = eqx.field(static=True)
    sharing: str = eqx.field(static=True)
    name: str = eqx.field(static=True)
    calls: _Calls = eqx.field(static=True)

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """The layer's own output."""
        self.calls.names.add(self.name)
        out = self.layer(x, *args, **kwargs)
        y, rest = (out[0], out[1:]) if isinstance(out, tuple) else (out, None)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype) if eqx.is_array(a) else a, self.layer)
        y = _tap(self.rule, shapes, self.sharing, y, x, self.accumulators, self.bases)
        return y if rest is None else (y, *rest)

    def __getattr__(self, name: str) -> Any:
        """The layer's static fields; its arrays must not be read past the recording."""
        value = getattr(object.__getattribute__(self, "layer"), name)
        if eqx.is_array(value):
            path = object.__getattribute__(self, "name")
            raise InputError(f"model: found {path}.{name} read outside its layer, expected calls of the layer only")
        return value


def _tap(rule: LayerRule, layer: Any, sharing: str, y: Array, x: Array, accumulators: Statistics, bases: Any) -> Array:
    @jax.custom_vjp
    def identity(y: Array, x: Array, accumulators: Statistics, bases: Any) -> Array:
        return y

    def forward(y: Array, x: Array, accumulators: Statistics, bases: Any) -> tuple[Array, Any]:
        mark = jax.tree.leaves(accumulators)[0].reshape(-1)[0]
        return y, (x, bases, mark, jax.tree.map(jnp.zeros_like, accumulators))

    def backward(saved: Any, g: Array) -> Any:
        x, bases, mark, accumulators = saved
        wanted = tuple(sorted(accumulators))
        moments = _moments(rule.kind, sharing, wanted, tuple(accumulators[k].shape for k in wanted))
        rows, slopes = rule.inputs(layer, x), rule.slopes(layer, g)
        extra = () if bases is None else bases
        return g, None, moments(rows, slopes, mark, *extra), None

    identity.defvjp(forward, backward)
    return identity(y, x, accumulators, bases)


@functools.cache
def _moments(kind: str, sharing: str, wanted: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]) -> Any:
    """The statistics of rows (..., T, n) and slopes (..., T, m), the examples along the first axis, if there is one."""
    core = 1 if kind == "lookup" else 2

    def total(rows: Array, slopes: Array, mark: Array, *bases: Array) -> Statistics:
        rows, slopes = _by_example(rows, core), _by_example(slopes, 2)
        found = _statistics(kind, sharing, rows, slopes, bases, dict(zip(wanted, shapes, strict=True)))
        return {name: found[name]() for name in wanted}

    summed = custom_vmap(total)

    @summed.def_vmap
    def over_an_axis(size: int, batched: Any, rows: Array, slopes: Array, mark: Array, *bases: Array) -> Any:
        if batched[2]:  # an axis of separate captures, and all further ones are, too
            axes = tuple(0 if b else None for b in batched)
            return jax.vmap(total, axes)(rows, slopes, mark, *bases), dict.fromkeys(wanted, True)
        # The sum over the axis, not a batch of results: it is what the caller would do with them.
        rows, slopes = (
            a if b else jnp.broadcast_to(a, (size, *a.shape)) for a, b in zip((rows, slopes), batched, strict=False)
        )
        return summed(rows, slopes, mark, *bases), dict.fromkeys(wanted, False)

    return summed


def _by_example(a: Array, core: int) -> Array:
    """(examples, everything shared, ...)."""
    if a.ndim == core:
        return a[None]
    return a.reshape(a.shape[0], -1, *a.shape[a.ndim - core + 1 :])


def _statistics(
    kind: str, sharing: str, x: Array, g: Array, bases: tuple[Array, ...], shapes: dict[str, tuple[int, ...]]
) -> dict[str, Callable[[], Array]]:
    """Sums over the examples, each computed where it is asked for; g still carries the loss' 1/B."""
    if kind == "affine":
        shift = shapes.get("F", shapes.get("f", (0,)))[0] != x.shape[-1]
        v = jnp.sum(g * x, axis=1)
        v = jnp.concatenate([v, jnp.sum(g, axis=1)], axis=1) if shift else v
        return {"F": lambda: v.T @ v, "f": lambda: jnp.sum(v * v, axis=0)}
    if sharing == "reduce" and kind == "dense":
        x, g = jnp.mean(x, axis=1, keepdims=True), jnp.sum(g, axis=1, keepdims=True)
    flat_g = g.reshape(-1, g.shape[-1])
    common = {
        "G": lambda: flat_g.T @ flat_g,
        "g": lambda: jnp.sum(flat_g * flat_g, axis=0),
        "rows": lambda: jnp.asarray(flat_g.shape[0], flat_g.dtype),
    }
    if kind == "lookup":
        index, size = x.reshape(-1), shapes.get("A", shapes.get("a", (0,)))[0]
        counts = lambda: jnp.zeros(size, g.dtype).at[index].add(1)  # noqa: E731

        def by_row() -> Array:
            """Σ over examples of the squared sum over the uses of a row, in the basis of G."""
            turned = g @ bases[0]

            def one(total: Array, both: tuple[Array, Array]) -> tuple[Array, None]:
                index, g = both
                return total + jnp.square(jnp.zeros_like(total).at[index].add(g)), None

            if g.shape[1] == 1:
                return jnp.zeros((size, g.shape[-1]), g.dtype).at[index].add(jnp.square(turned[:, 0])).T
            return jax.lax.scan(one, jnp.zeros((size, g.shape[-1]), g.dtype), (x.reshape(g.shape[:2]), turned))[0].T

        return common | {"A": counts, "a": counts, "S": by_row}
    flat_x = x.reshape(-1, x.shape[-1])

    def scales() -> Array:
        """Σ over examples of the squared entries of the gradient in the Kronecker eigenbasis."""
        g_turned, x_turned = g @ bases[0], x @ bases[1]
        if g.shape[1] == 1:
            return jnp.square(g_turned[:, 0]).T @ jnp.square(x_turned[:, 0])

        def one(total: Array, both: tuple[Array, Array]) -> tuple[Array, None]:
            return total + jnp.square(both[0].T @ both[1]), None

        return jax.lax.scan(one, jnp.zeros((g.shape[-1], x.shape[-1]), g.dtype), (g_turned, x_turned))[0]

    return common | {
        "A": lambda: flat_x.T @ flat_x,
        "a": lambda: jnp.sum(flat_x * flat_x, axis=0),
        "S": scales,
    }


def empty_statistics(model: PyTree, names: tuple[str, ...]) -> list[Statistics]:
    """Zeros for each layer: ``A, G, F`` (matrices), ``a, g, f`` (their diagonals), ``S`` (EKFAC's scales), ``rows``."""
    made = []
    for layer in layers_of(model)[1]:
        rule: Any = layer_rule(layer)
        M = rule.matrix(layer)
        dtype = precision(M.dtype)
        if rule.kind == "affine":
            (p,) = M.shape
            shapes: dict[str, tuple[int, ...]] = {"F": (p, p), "f": (p,)}
        else:
            m, n = M.shape
            A = (n,) if rule.kind == "lookup" else (n, n)
            shapes = {"A": A, "G": (m, m), "S": (m, n), "a": (n,), "g": (m,), "rows": ()}
        made.append({name: jnp.zeros(shapes[name], dtype) for name in names if name in shapes})
    return made


def capture_statistics(
    model: PyTree,
    *,
    outputs_fn: Callable[[Any], Any] | None = None,
    losses_fn: Callable[[Any], Any] | None = None,
    distribution: Any = None,
    curvature: str = "fisher",
    sharing: str = "expand",
    names: tuple[str, ...] = ("A", "G", "F", "rows"),
    bases: list[Any] | None = None,
    key: Key[Array, ""] | None = None,
) -> list[Statistics]:
    """Second moments of every layer's inputs and output gradients over one batch.

    Use it to build curvature approximations of your own; `kfac`, `ekfac` and `adafisher` call it. Cost: one forward and
    one backward pass (``"ggn"``: one backward a class), and 2·B·(n² + m²) flops for a layer (m, n).

    Parameters
    ----------
    model
        The module, activations and all.
    outputs_fn
        ``outputs_fn(model)``: the network's outputs for the batch, (B, ...); for ``"fisher"`` and ``"ggn"``.
    losses_fn
        ``losses_fn(model)``: the B losses; for ``"empirical"``.
    distribution
        An `OutputDistribution` of `corollary.optim.curvature`.
    curvature
        ``"fisher"``: labels drawn from the model; ``"ggn"``: the exact expectation over them (outputs (B, C)), the
        Gauss-Newton matrix of the distribution's loss; ``"empirical"``: the given labels, not the Fisher matrix.
    sharing
        ``"expand"`` or ``"reduce"``: whether the uses of one weight within an example are rows of their own, or enter
        by their mean (inputs) and sum (gradients). Examples lie along the outermost mapped axis, or the first axis of
        layers that take batches. Uses by separate calls count as examples of their own, so that ``F``, ``f`` and ``S``
        then lack the products between calls.
    names
        Which statistics.
    bases
        For ``S``: a pair (U_G, U_A) a layer, None for affine ones.
    key
        `jax.random.key`, for ``"fisher"``.

    Returns
    -------
    list of dict
        One a layer, in the order of `check_layers`, means over the batch: ``A`` = Σ aaᵀ/rows and ``G`` = (1/B) Σ ggᵀ, g
        being the gradient of one example's own loss, so that F ≈ A ⊗ G; ``F``; ``S``; diagonals ``a``, ``g``, ``f``.

    Raises
    ------
    InputError
        For parameters outside of supported layers, layers that were never called, missing arguments.

    Examples
    --------
    >>> layer = eqx.nn.Linear(2, 1, use_bias=False, key=jax.random.key(0))
    >>> x, y = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0], [0.0]])
    >>> losses = lambda model: jnp.sum((jax.vmap(model)(x) - y) ** 2, axis=1)
    >>> capture_statistics(layer, losses_fn=losses, curvature="empirical")[0]["A"].tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    validation.one_of(*CURVATURES)("curvature", curvature)
    validation.one_of("expand", "reduce")("sharing", sharing)
    function = losses_fn if curvature == "empirical" else outputs_fn
    wanted = "losses_fn" if curvature == "empirical" else "outputs_fn"
    if function is None:
        raise InputError(f"{wanted}: found None, expected a function of the model for curvature {curvature!r}")
    paths, calls = check_layers(model), _Calls()
    bases = [None] * len(paths) if bases is None else bases

    def through(accumulators: list[Statistics]) -> Any:
        rest = iter(zip(paths, accumulators, bases, strict=True))

        def wrap(node: Any) -> Any:
            if not is_layer(node):
                return node
            name, acc, base = next(rest)
            rule: Any = layer_rule(node)
            base = None if rule.kind == "affine" or "S" not in names else base
            return Tapped(node, acc, base, rule, sharing, name, calls)

        return function(jax.tree.map(wrap, model, is_leaf=is_layer))

    mark = _mark(jax.tree.leaves(function(model)), key)
    start = [{n: x + mark.astype(x.dtype) for n, x in one.items()} for one in empty_statistics(model, names)]
    out, pull = jax.vjp(through, start)
    if unused := [path for path in paths if path not in calls.names]:
        raise InputError(f"model: found layers that were never called: {', '.join(unused)}; expected all in use")
    size = jax.tree.leaves(out)[0].shape[0]
    if curvature == "empirical":
        (found,) = pull(jax.tree.map(lambda z: jnp.full(z.shape, 1 / size, z.dtype), out))
    elif curvature == "fisher":
        (found,) = pull(_drawn_slopes(distribution, out, size, key))
    else:
        roots = _fisher_roots(distribution, out)

        def add(total: list[Statistics], column: Array) -> tuple[list[Statistics], None]:
            return jax.tree.map(jnp.add, total, pull(column / size)[0]), None

        found = jax.lax.scan(add, start, jnp.moveaxis(roots, -1, 0))[0]
    return [_means(one, size) for one in found]


def _mark(outputs: list[Array], key: Key[Array, ""] | None) -> Array:
    """Zero, but mapped along every axis that the outputs or the key are mapped along; the compiler drops it."""
    seeds = [] if key is None else [jax.random.key_data(key)]
    zero = jnp.zeros((), jnp.float32)
    for x in (*outputs, *seeds):
        zero = zero + jnp.where(x.reshape(-1)[0] == 0, jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))
    return zero


def _drawn_slopes(distribution: Any, z: Any, size: int, key: Key[Array, ""] | None) -> Any:
    if distribution is None or key is None:
        missing = "distribution" if distribution is None else "key"
        raise InputError(f"{missing}: found None, expected one to draw the model's own labels with")

    def slope(key: Key[Array, ""], z: Any) -> Any:
        return jax.grad(distribution)(z, jax.lax.stop_gradient(distribution.sample(key, z)))

    slopes = jax.vmap(slope)(jax.random.split(key, size), jax.lax.stop_gradient(z))
    return jax.tree.map(lambda u: u / size, slopes)


def _fisher_roots(distribution: Any, z: Any) -> Array:
    """(B, C, C): S with S Sᵀ the Fisher matrix of each output."""
    if distribution is None:
        raise InputError("distribution: found None, expected an OutputDistribution for curvature 'ggn'")
    if not isinstance(z, jax.Array) or z.ndim != 2:
        raise InputError("outputs: found a pytree or more than two axes, expected (batch, outputs) for curvature 'ggn'")
    dtype, z = z.dtype, jax.lax.stop_gradient(z).astype(precision(z.dtype))
    eye = jnp.eye(z.shape[1], dtype=z.dtype)
    F = jax.vmap(lambda z: jax.vmap(lambda v: distribution.fisher(z, v))(eye))(z)
    values, U = jnp.linalg.eigh(F)
    return (U * jnp.sqrt(jnp.maximum(values, 0))[:, None, :]).astype(dtype)


def _means(one: Statistics, size: int) -> Statistics:
    """Sums to means: inputs over their rows, gradients over the examples, with the loss' 1/B undone."""
    rows = one.get("rows")
    out = {}
    for name, value in one.items():
        if name in ("A", "a") and rows is not None:
            value = value / jnp.where(rows > 0, rows, 1).astype(value.dtype)
        elif name != "rows":
            value = value * size
        out[name] = value
    return out
