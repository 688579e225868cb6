"""What the tensor-train methods share below the formats: sums and products core by core, and checks."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.linalg._rows import one_thread

Cores = tuple[Any, ...]
SMALL = 256


def small_blas(size: int) -> contextlib.AbstractContextManager[Any]:
    """BLAS on one thread for factorisations of matrices of that order: sharing them out costs more than it brings."""
    return one_thread() if size <= SMALL else contextlib.nullcontext()


def module(*arrays: Any) -> Any:
    """NumPy where all arrays are NumPy's, else JAX."""
    return np if all(isinstance(a, np.ndarray | np.generic) for a in arrays) else jnp


def divided(array: Any, size: Any) -> Any:
    """array / size for a real size; parts by themselves, as the squares in a complex quotient overflow or vanish."""
    if isinstance(array, jax.Array) and array.dtype.kind == "c":
        return lax.complex(array.real / size, array.imag / size)
    return array / size


def length(array: Any) -> Any:
    """Frobenius norm, whose squares neither overflow nor vanish."""
    xp = module(array)
    if array.size == 0:
        return xp.zeros((), array.real.dtype)[()]
    size = abs(array).max()
    safe = xp.where(size > 0, size, xp.ones_like(size))
    return xp.linalg.norm(divided(array, safe).ravel()) * size


def log_norms(cores: Sequence[Any]) -> list[Any]:
    """log ‖part before the bond‖ at every bond from 0 to d, by QRs whose scales are taken out: nothing overflows."""
    xp, real = module(*cores), cores[0].real.dtype
    triangle, total = xp.ones((1, 1), cores[0].dtype), xp.zeros((), real)
    found = [total]
    for core in cores:
        pushed = xp.tensordot(triangle, core, axes=([1], [0])).reshape(-1, core.shape[2])
        triangle = xp.linalg.qr(pushed, mode="r")
        size = length(triangle)
        triangle = divided(triangle, xp.where(size > 0, size, xp.ones_like(size)))
        with np.errstate(divide="ignore"):
            total = total + xp.log(size)
        found.append(total)
    return found


def summed(a: Sequence[Any], b: Sequence[Any], sign: Any = 1) -> Cores:
    """Cores of a + sign·b: block-diagonal, so that ranks add."""
    xp = module(*a, *b)
    if len(a) == 1:
        return (a[0] + sign * b[0],)
    cores = []
    for k, (x, y) in enumerate(zip(a, b, strict=True)):
        if k == 0:
            cores.append(xp.concatenate([x, y * sign], axis=2))
        elif k == len(a) - 1:
            cores.append(xp.concatenate([x, y], axis=0))
        else:
            above = xp.concatenate([x, xp.zeros((x.shape[0], x.shape[1], y.shape[2]), x.dtype)], axis=2)
            below = xp.concatenate([xp.zeros((y.shape[0], y.shape[1], x.shape[2]), y.dtype), y], axis=2)
            cores.append(xp.concatenate([above, below], axis=0))
    return tuple(cores)


def multiplied(a: Sequence[Any], b: Sequence[Any]) -> Cores:
    """Cores of the entrywise product: Kronecker products of slices, so that ranks multiply."""
    xp = module(*a, *b)
    cores = []
    for x, y in zip(a, b, strict=True):
        product = xp.einsum("anb,cnd->acnbd", x, y)
        cores.append(product.reshape(x.shape[0] * y.shape[0], x.shape[1], -1))
    return tuple(cores)


def scaled(cores: Sequence[Any], factor: Any) -> Cores:
    """Cores of factor · train."""
    first = cores[0]
    if np.ndim(factor):
        raise InputError(f"factor: found an array of shape {np.shape(factor)}, expected a number or a TensorTrain")
    if isinstance(factor, np.ndarray | np.generic | jax.Array) and factor.dtype.kind != "c":
        factor = factor.astype(first.dtype)  # what the cores are in, the result is in
    return (first * factor, *cores[1:])


def checked_cores(name: str, cores: Any, modes: int = 3) -> Cores:
    """A chain of finite floating cores whose ranks fit and are one at the ends, in one dtype; kept where they lie."""
    if not isinstance(cores, Sequence) or not cores:
        raise InputError(f"{name}: found {type(cores).__name__}, expected a sequence of at least one core")
    checked = [validation.tensor(f"{name}[{k}]", c, complex=True, host=True) for k, c in enumerate(cores)]
    shapes = [tuple(c.shape) for c in checked]
    if any(len(s) != modes for s in shapes):
        raise InputError(f"{name}: found shapes {shapes}, expected cores of {modes} modes")
    if shapes[0][0] != 1 or shapes[-1][-1] != 1 or any(s[-1] != t[0] for s, t in itertools.pairwise(shapes)):
        raise InputError(f"{name}: found shapes {shapes}, expected ranks that fit, with 1 at both ends")
    dtype = np.result_type(*[c.dtype for c in checked])
    return tuple(c.astype(dtype) for c in checked)
