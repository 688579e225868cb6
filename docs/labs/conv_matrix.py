"""A convolution is a matrix: doubly block Toeplitz, and its transpose is the gradient.

The valid correlation of a 3×3 image with a 2×2 kernel is a 4×9 matrix W with y = W·vec(x): each row holds the four
weights at the places that they read, and all diagonals within and between blocks are constant (Toeplitz). Wᵀ maps the
gradient of y to that of x: the transposed convolution. Only the periodic convolution is circulant; the Fourier matrix
diagonalises it, and the eigenvalues are the transform of the kernel. (Gray, "Toeplitz and circulant matrices: a
review", 2006, section 3.1; Dumoulin & Visin, 2016, section 4.1.)
"""

from __future__ import annotations

import numpy as np


def valid_matrix(w: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """W with W·vec(x) = vec(correlate(x, w, valid)), images read row by row."""
    height, width = shape[0] - w.shape[0] + 1, shape[1] - w.shape[1] + 1
    W = np.zeros((height, width, *shape))
    for u in range(height):
        for v in range(width):
            W[u, v, u : u + w.shape[0], v : v + w.shape[1]] = w
    return W.reshape(height * width, -1)


def periodic_matrix(w: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The matrix of the circular convolution with w (flipped kernel, wrapped around)."""
    n = shape[0] * shape[1]
    kernel = np.zeros(shape)
    kernel[: w.shape[0], : w.shape[1]] = w
    columns = [np.roll(kernel, (i // shape[1], i % shape[1]), (0, 1)).ravel() for i in range(n)]
    return np.stack(columns, axis=1)


def is_block_toeplitz(W: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]) -> bool:
    """Whether W[(a, b), (i, j)] depends on (i − a, j − b) alone."""
    T = W.reshape(*rows, *columns)
    inner = all(
        np.array_equal(T[a, b, i, j], T[a + da, b + db, i + da, j + db])
        for a in range(rows[0])
        for b in range(rows[1])
        for i in range(columns[0])
        for j in range(columns[1])
        for da, db in ((1, 0), (0, 1))
        if a + da < rows[0] and b + db < rows[1] and i + da < columns[0] and j + db < columns[1]
    )
    return inner


def main(seed: int = 0) -> dict[str, object]:
    """The 4×9 example, and checks on random kernels."""
    W = valid_matrix(np.array([[1, 2], [3, 4]]), (3, 3)).astype(int)
    rng = np.random.default_rng(seed)
    shape = (5, 4)
    w = rng.standard_normal((3, 2))
    x = rng.standard_normal(shape)
    valid, circular = valid_matrix(w, shape), periodic_matrix(w, shape)
    eigenvalues = np.fft.fft2(w, s=shape).ravel()
    F = np.kron(np.fft.fft(np.eye(shape[0])), np.fft.fft(np.eye(shape[1]))) / np.sqrt(x.size)
    return {
        "example": W,
        "kernel": w,
        "image": x,
        "valid": valid,
        "circular": circular,
        "toeplitz": is_block_toeplitz(valid, (3, 3), shape),
        "diagonalised": float(np.abs(F @ circular @ F.conj().T - np.diag(eigenvalues)).max()),
    }


if __name__ == "__main__":
    numbers = main()
    print(numbers["example"])
    print("doubly block Toeplitz:", numbers["toeplitz"])
    print(f"periodic: off-diagonal in the Fourier basis {numbers['diagonalised']:.1e}")
