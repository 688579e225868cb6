"""Where `cp_als` begins: random factors, leading singular vectors, or the decomposition of a compressed tensor.

A large tensor of low rank is known from its leading subspaces. Two passes find them with a Khatri-Rao structured
sketch, two more the core in their bases; all sweeps that a bad start would cost are then done on the core, and only the
last ones on the data. Cost: 4 passes over the tensor, with r + 8 columns.

Source: Bro & Andersson, Improving the speed of multiway algorithms II: compression, Chemometr. Intell. Lab. 42 (1998).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.linalg.tensor._basics import apply_modes
from corollary.linalg.tensor._cp_loop import Plan, gram, run
from corollary.linalg.tensor._cp_mttkrp import DenseData, SparseData
from corollary.linalg.tensor._formats import CP

Data = DenseData | SparseData
EXTRA = 8  # columns of a sketch beyond the rank
CORE_STEPS = 200  # sweeps on the compressed tensor, whose cost is nothing beside one pass over the data
LARGE = 100_000  # entries, from which on compression pays for its compilation


def checked_init(init: Any, shape: tuple[int, ...], rank: int, dtype: Any, words: tuple[str, ...]) -> None:
    """Refuse a start that is neither one of `words` nor a finite `CP` of that shape, rank and kind of numbers."""
    if not isinstance(init, CP):
        if not isinstance(init, str) or init not in words:
            raise InputError(f"init: found {init!r}, expected {', '.join(map(repr, words))} or a CP")
        return
    parts = [
        validation.tensor(f"init: {name}", part, complex=True, host=True)
        for name, part in (("weights", init.weights), *((f"factors[{k}]", f) for k, f in enumerate(init.factors)))
    ]
    found, expected = [p.shape for p in parts], [(rank,), *((n, rank) for n in shape)]
    if found != expected:
        raise InputError(
            f"init: found a CP of shapes {', '.join(map(str, found))}, "
            f"expected weights and factors of shapes {', '.join(map(str, expected))}"
        )
    if np.dtype(dtype).kind != "c" and any(np.dtype(p.dtype).kind == "c" for p in parts):
        raise InputError("init: found complex numbers, expected real ones as in the tensor")


def start_factors(
    data: Data, scale: Array, rank: int, starts: int, init: Any, nonnegative: bool, key: Key[Array, ""]
) -> tuple[list[Array], str]:
    """(n_k, starts · rank) for data divided by `scale`, and in a word how they were found; `init` has been checked."""
    how = init if isinstance(init, str) else "given"
    if how == "svd" and not isinstance(data, DenseData):
        raise InputError("init: found 'svd' for sparse data, expected 'auto', 'random' or a CP")
    if how == "auto":
        dense = isinstance(data, DenseData) and not nonnegative
        compressible = dense and data.mask is None and math.prod(data.shape) >= LARGE and _narrow(data.shape, rank)
        how = "compressed" if compressible else "svd" if dense else "random"
    if isinstance(data, DenseData) and how == "compressed":
        return _from_core(data, rank, starts, key), how
    if isinstance(init, CP):
        begin = _given(init, data, scale, nonnegative)
        if starts == 1:
            return begin, how
        blocks = _start(data, rank, starts - 1, nonnegative, False, key)
        return [jnp.concatenate([f, b], axis=1) for f, b in zip(begin, blocks, strict=True)], how
    return _start(data, rank, starts, nonnegative, how == "svd", key), how


@eqx.filter_jit
def _start(data: Data, rank: int, starts: int, nonnegative: bool, svd: bool, key: Key[Array, ""]) -> list[Array]:
    """Random starts, the first one from singular vectors where asked."""
    first, others = jax.random.split(key)
    blocks = _random(data, rank, starts, nonnegative, others)
    if svd and isinstance(data, DenseData):
        begin = _leading(data, rank, [b[:, 0] for b in blocks], nonnegative, first)
        blocks = [b.at[:, 0].set(f) for b, f in zip(blocks, begin, strict=True)]
    return [b.reshape(b.shape[0], -1) for b in blocks]


def _random(data: Data, rank: int, starts: int, nonnegative: bool, key: Key[Array, ""]) -> list[Array]:
    """Gaussian columns, each start of the data's norm."""
    keys = jax.random.split(key, len(data.shape))
    blocks = [jax.random.normal(k, (n, starts, rank), data.dtype) for k, n in zip(keys, data.shape, strict=True)]
    blocks = [jnp.abs(b) for b in blocks] if nonnegative else blocks
    total = _norm(data)
    product = functools.reduce(lambda a, b: a * b, [gram(b) for b in blocks])
    size = jnp.sqrt(jnp.maximum(jnp.sum(product, axis=(1, 2)).real, jnp.finfo(total.dtype).tiny))
    root = (jnp.where(total > 0, total, 1) / size) ** (1 / len(blocks))
    return [b * root[None, :, None].astype(b.dtype) for b in blocks]


def _given(init: CP, data: Data, scale: Array, nonnegative: bool) -> list[Array]:
    weights, factors = jax.tree.map(lambda a: jnp.asarray(a).astype(data.dtype), (init.weights, list(init.factors)))
    factors[0] = factors[0] * (weights / scale.astype(data.dtype))
    return [jnp.maximum(f, 0) for f in factors] if nonnegative else factors


def _leading(data: DenseData, rank: int, filler: list[Array], nonnegative: bool, key: Key[Array, ""]) -> list[Array]:
    """Leading left singular vectors of the unfoldings, with random columns where there are too few."""
    if _narrow(data.shape, rank):
        bases, core = compressed(data.tensor, rank, key)
        factors = [U @ _singular(core, k, rank) for k, U in enumerate(bases)]
    else:
        factors = [_singular(data.tensor, k, rank) for k in range(len(data.shape))]
    factors = [jnp.abs(f) for f in factors] if nonnegative else factors
    total = _norm(data)
    factors[0] = factors[0] * jnp.where(total > 0, total / math.sqrt(rank), 1).astype(data.dtype)
    return [jnp.concatenate([f, other[:, f.shape[1] :]], axis=1) for f, other in zip(factors, filler, strict=True)]


def _from_core(data: DenseData, rank: int, starts: int, key: Key[Array, ""]) -> list[Array]:
    """The best of all starts on the core, in the full space: one start."""
    first, second = jax.random.split(key)
    bases, tensor = compressed(data.tensor, rank, first)
    core = DenseData(tensor, None)
    blocks = _start(core, rank, starts, False, True, second)
    real = tensor.real.dtype
    tol = jnp.full((), 64 * float(jnp.finfo(real).eps), real)
    limits = (jnp.ones((), real), tol, jnp.zeros((), real), jnp.asarray(True), jnp.asarray(CORE_STEPS))
    found = run(core, blocks, *limits, Plan(rank, False, 0, False))
    factors = [U @ B for U, B in zip(bases, found.factors, strict=True)]
    factors[0] = factors[0] * found.weights
    return factors


def compressed(tensor: Array, rank: int, key: Key[Array, ""]) -> tuple[list[Array], Array]:
    """Orthonormal bases of the leading subspaces of all modes, and the tensor's core in them."""
    return _compressed(tensor, key, width=rank + EXTRA)


@functools.partial(jax.jit, static_argnames="width")
def _compressed(tensor: Array, key: Key[Array, ""], width: int) -> tuple[list[Array], Array]:
    keys = jax.random.split(key, tensor.ndim)
    sketch = [jax.random.normal(k, (n, width), tensor.dtype) for k, n in zip(keys, tensor.shape, strict=True)]

    def basis(mode: int, products: tuple[Array, ...], current: list[Array]) -> Array:
        return jnp.linalg.qr(products[0])[0]

    bases = DenseData(tensor, None).sweep(sketch, basis, (jnp.conj, jnp.conj))
    return bases, apply_modes(tensor, bases, transpose=True)


def squared_spectrum(tensor: Array, mode: int) -> Array:
    """The squared singular values of X_(k), falling, from the smaller of its two Gram matrices."""
    if _tall(tensor, mode):
        A = _unfolded(tensor, mode)
        gram = A.conj().T @ A
    else:
        gram = _unfolded_gram(tensor, mode)
    return jnp.linalg.eigvalsh(gram)[::-1]


def _singular(tensor: Array, mode: int, rank: int) -> Array:
    """Leading left singular vectors of X_(k): `rank` of them, or all that it has."""
    if _tall(tensor, mode):
        return jnp.linalg.svd(_unfolded(tensor, mode), full_matrices=False)[0][:, :rank]
    return jnp.linalg.eigh(_unfolded_gram(tensor, mode))[1][:, ::-1][:, :rank]


def _tall(tensor: Array, mode: int) -> bool:
    """Whether X_(k) has more rows than columns."""
    return tensor.shape[mode] ** 2 > tensor.size


def _unfolded(tensor: Array, mode: int) -> Array:
    return jnp.moveaxis(tensor, mode, 0).reshape(tensor.shape[mode], -1)


def _unfolded_gram(tensor: Array, mode: int) -> Array:
    """X_(k) X_(k)ᴴ."""
    axes = [m for m in range(tensor.ndim) if m != mode]
    return jnp.tensordot(tensor, tensor.conj(), axes=(axes, axes))


def _narrow(shape: tuple[int, ...], rank: int) -> bool:
    """Whether every mode is much longer than the rank."""
    return min(shape) >= 2 * (rank + EXTRA)


def _norm(data: Data) -> Array:
    entries = data.tensor if isinstance(data, DenseData) else data.values[0]
    return jnp.linalg.norm(entries.ravel())
