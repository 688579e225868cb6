"""Matrix multiplication by tiles, as a Pallas kernel.

C is cut into tiles; each program of the grid owns one of them and walks over K, adding the product of one tile of A and
one of B at a time. A tile that fits the fast memory is read once and used many times: with tiles of side b the traffic
to slow memory falls from O(mnk) to O(mnk/b). On a CPU the kernel runs in interpret mode, which checks it but is slow.
Source: K. Goto, R. van de Geijn, ACM Trans. Math. Softw. 34 (2008).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl


def kernel(a_ref, b_ref, c_ref):
    """C[i, j] += A[i, k] B[k, j]: the tile of C stays where it is while k runs."""

    @pl.when(pl.program_id(2) == 0)
    def _():
        c_ref[...] = jnp.zeros_like(c_ref)

    c_ref[...] += jnp.dot(a_ref[...], b_ref[...], precision="highest")


@functools.partial(jax.jit, static_argnames=("tile", "interpret"))
def matmul(a: jax.Array, b: jax.Array, tile: tuple[int, int, int] = (32, 32, 32), interpret: bool = True) -> jax.Array:
    """A B by tiles of (rows, columns, inner); shapes that no tile divides are padded with zeros, which add nothing."""
    (m, k), (_, n) = a.shape, b.shape
    bm, bn, bk = tile
    a = jnp.pad(a, ((0, -m % bm), (0, -k % bk)))
    b = jnp.pad(b, ((0, -k % bk), (0, -n % bn)))
    grid = (a.shape[0] // bm, b.shape[1] // bn, a.shape[1] // bk)
    padded = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[pl.BlockSpec((bm, bk), lambda i, j, l: (i, l)), pl.BlockSpec((bk, bn), lambda i, j, l: (l, j))],
        out_specs=pl.BlockSpec((bm, bn), lambda i, j, l: (i, j)),
        out_shape=jax.ShapeDtypeStruct((a.shape[0], b.shape[1]), a.dtype),
        interpret=interpret,
    )(a, b)
    return padded[:m, :n]


def traffic(m: int, n: int, k: int, tile: tuple[int, int, int]) -> int:
    """Numbers read from slow memory: every tile of C reads its row of A tiles and its column of B tiles."""
    bm, bn, bk = tile
    tiles = -(-m // bm) * -(-n // bn) * -(-k // bk)
    return tiles * (bm * bk + bk * bn)


def main(m: int = 40, n: int = 24, k: int = 56, dtype=jnp.float32) -> dict:
    """For several tiles: the largest error in units of its bound k·eps·(|A||B|), and the traffic."""
    a = jax.random.normal(jax.random.key(0), (m, k), dtype)
    b = jax.random.normal(jax.random.key(1), (k, n), dtype)
    reference = jnp.dot(a, b, precision="highest")
    bound = k * jnp.finfo(dtype).eps * (jnp.abs(a) @ jnp.abs(b))
    return {
        tile: {
            "error": float(jnp.max(jnp.abs(matmul(a, b, tile) - reference) / bound)),
            "traffic": traffic(m, n, k, tile),
        }
        for tile in [(8, 8, 8), (16, 8, 32), (32, 32, 32), (40, 24, 56), (13, 7, 5)]
    }


if __name__ == "__main__":
    for tile, row in main().items():
        print(f"tile {tile!s:14s} error / bound {row['error']:.3f}   numbers read {row['traffic']}")
