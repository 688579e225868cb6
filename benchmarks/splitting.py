"""Splitting methods: TV denoising against scikit-image and PyProximal, linear programmes against HiGHS, bounded least
squares against SciPy."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pylops
import pyproximal
import scipy.optimize
import scipy.sparse
from harness import Entry, main
from skimage.restoration import denoise_tv_chambolle
from sklearn.datasets import load_sample_image

from corollary.optim import LinearProgram, QuadraticProgram, TVDenoise, box_qp, lsq_linear, minimize, nnls

SMALL = bool(os.environ.get("SMALL"))  # sizes for a smoke test
GAP = 1e-4


def _picture(n: int) -> np.ndarray:
    image = load_sample_image("china.jpg").mean(axis=2).astype(np.float32) / 255
    image = np.pad(image, ((0, max(n - image.shape[0], 0)), (0, max(n - image.shape[1], 0))), mode="reflect")[:n, :n]
    return image + 0.1 * np.random.default_rng(0).standard_normal((n, n)).astype(np.float32)


def tv_denoising() -> Entry:
    n, alpha = 64 if SMALL else 512, 0.1
    y = _picture(n)
    problem = TVDenoise(y.astype(np.float64), alpha)
    exact = minimize(problem, tol=1e-9, max_steps=10_000)
    lower = exact.stats["objective"] - exact.certificates["duality_gap"].measured
    data, op = y.ravel(), pylops.Gradient((n, n), edge=False, kind="forward", dtype="float32")

    def excess(x: Any) -> float:
        objective = problem.objective(np.asarray(x, np.float64).reshape(n, n))
        return float((objective - lower) / lower)

    def scikit_image(eps: float, steps: int) -> np.ndarray:
        return denoise_tv_chambolle(y, weight=alpha, eps=eps, max_num_iter=steps)

    def proximal(steps: int) -> np.ndarray:
        fit, norm = pyproximal.L2(b=data), pyproximal.L21(ndim=2, sigma=alpha)
        step = 0.99 / np.sqrt(8)
        return pyproximal.optimization.primaldual.PrimalDual(
            fit, norm, op, x0=np.zeros_like(data), tau=step, mu=step, niter=steps, show=False
        )

    # Each peer gets the fewest iterations (by doubling) that bring it to the same objective, 1e-4 above the minimum.
    counts = [100 * 2**k for k in range(1 if SMALL else 7)]
    enough = next((k for k in counts if excess(scikit_image(0.0, k)) <= GAP), counts[-1])
    enough_pp = next((k for k in counts if excess(proximal(k)) <= GAP), counts[-1])
    return Entry(
        name=f"TV denoising, {n} x {n}, float32, alpha 0.1, to 1e-4",
        quality="F(x) - F* over F*",
        runs={
            "corollary": lambda: minimize(TVDenoise(y, np.float32(alpha)), tol=GAP).value,
            f"scikit-image ({enough} iterations)": lambda: scikit_image(0.0, enough),
            "scikit-image (its own stop)": lambda: denoise_tv_chambolle(y, weight=alpha),
            f"pyproximal ({enough_pp} iterations)": lambda: proximal(enough_pp),
        },
        measure=excess,
        bar=1.0,
        against=f"scikit-image ({enough} iterations)",
        note="Ours stops on its own duality gap, relative to F; the peers run the fewest iterations, by doubling, that "
        "bring the objective within 1e-4 (or 6400, if none does).",
        repeats=3,
    )


def _programme(m: int, n: int, density: float) -> tuple[np.ndarray, Any, np.ndarray]:
    """min c·x, A x ≤ b, x ≥ 0 with a known pair of solutions behind it."""
    rng = np.random.default_rng(0)
    A = scipy.sparse.random(m, n, density, random_state=rng, data_rvs=rng.standard_normal, format="csr")
    x, y = np.maximum(rng.standard_normal(n), 0), np.maximum(rng.standard_normal(m), 0)
    b = A @ x + np.where(y > 0, 0, rng.random(m))
    return -(A.T @ y) + np.where(x > 0, 0, rng.random(n)), A, b


def linear_programme() -> Entry:
    m, n, density = (60, 120, 0.1) if SMALL else (2000, 4000, 0.01)
    c, A, b = _programme(m, n, density)
    best = scipy.optimize.linprog(c, A, b, method="highs-ipm").fun

    def quality(x: Any) -> float:
        x = np.asarray(x)
        violated = np.linalg.norm(np.maximum(A @ x - b, 0)) / np.linalg.norm(b)
        return float(max(violated, abs(c @ x - best) / abs(best)))

    return Entry(
        name=f"linear programme, sparse, m = {m}, n = {n}, {density:.0%} nonzero, to 1e-4",
        quality="max of row violation and |c.x - best|, relative",
        runs={
            "corollary": lambda: minimize(LinearProgram(c, A, b), tol=5e-5).value,
            "HiGHS interior point": lambda: scipy.optimize.linprog(c, A, b, method="highs-ipm").x,
        },
        measure=quality,
        bar=1 / 3,
        repeats=1,
        note="Ours is asked for 5e-5, to be within 1e-4 in all three numbers. "
        "HiGHS solves to a vertex, more than is asked for; its dual simplex took longer than its interior point.",
    )


def _regression(m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((m, n))
    return A, A @ np.maximum(rng.standard_normal(n), 0) + 0.5 * rng.standard_normal(m)


def _nnls(m: int, n: int) -> Entry:
    A, b = _regression(m, n)
    best = np.linalg.norm(A @ scipy.optimize.nnls(A, b)[0] - b)
    return Entry(
        name=f"NNLS, {m} x {n}, float64",
        quality="|A x - b| over the least, minus 1",
        runs={"corollary": lambda: nnls(A, b).value, "scipy nnls": lambda: scipy.optimize.nnls(A, b)[0]},
        measure=lambda x: float(np.linalg.norm(A @ np.asarray(x) - b) / best - 1),
        bar=1.0,
    )


def nnls_small() -> Entry:
    return _nnls(400, 100)


def nnls_large() -> Entry:
    return _nnls(400, 100) if SMALL else _nnls(4000, 800)


def bounded_least_squares() -> Entry:
    m, n = (100, 30) if SMALL else (1000, 300)
    A, b = _regression(m, n)
    lower, upper = np.full(n, -0.1), np.full(n, 0.5)
    best = lsq_linear(A, b, (lower, upper), tol=1e-12).stats["objective"]
    return Entry(
        name=f"least squares within bounds, {m} x {n}, float64",
        quality="F / F* - 1",
        runs={
            "corollary": lambda: lsq_linear(A, b, (lower, upper)).value,
            "scipy lsq_linear": lambda: scipy.optimize.lsq_linear(A, b, (lower, upper)).x,
            "scipy lsq_linear, bvls": lambda: scipy.optimize.lsq_linear(A, b, (lower, upper), method="bvls").x,
        },
        measure=lambda x: float(np.sum((A @ np.asarray(x) - b) ** 2) / 2 / best - 1),
        bar=1.0,
        repeats=1,
    )


def box_quadratic() -> Entry:
    n = 50 if SMALL else 500
    A, b = _regression(2 * n, n)
    P, q = A.T @ A, -A.T @ b
    best = box_qp(P, q, (-0.1, 0.5), tol=1e-12).stats["objective"]
    bounds = scipy.optimize.Bounds(np.full(n, -0.1), np.full(n, 0.5))

    def peer() -> Any:
        return scipy.optimize.minimize(
            lambda x: (x @ (P @ x) / 2 + q @ x, P @ x + q),
            np.zeros(n),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-12, "gtol": 1e-8, "maxiter": 10_000},
        ).x

    return Entry(
        name=f"quadratic function in a box, n = {n}, float64",
        quality="(F - F*) / |F*|",
        runs={"corollary": lambda: box_qp(P, q, (-0.1, 0.5)).value, "scipy L-BFGS-B": peer},
        measure=lambda x: float((x @ (P @ np.asarray(x)) / 2 + q @ np.asarray(x) - best) / abs(best)),
        bar=1.0,
    )


def quadratic_programme() -> Entry:
    import clarabel

    m, n = (30, 60) if SMALL else (500, 1000)
    c, A, b = _programme(m, n, 0.1 if SMALL else 0.02)
    root = scipy.sparse.random(n // 2, n, 0.01, random_state=np.random.default_rng(1), format="csr")
    P = scipy.sparse.csc_matrix(root.T @ root)
    rows = scipy.sparse.csc_matrix(scipy.sparse.vstack([A, -scipy.sparse.identity(n)]))
    cones, side = [clarabel.NonnegativeConeT(m + n)], np.concatenate([b, np.zeros(n)])
    settings = clarabel.DefaultSettings()
    settings.verbose = False

    def peer() -> np.ndarray:
        return np.array(clarabel.DefaultSolver(P, c, rows, side, cones, settings).solve().x)

    def value(x: Any) -> float:
        return float(x @ (P @ x) / 2 + c @ x)

    best = value(peer())
    return Entry(
        name=f"quadratic programme, sparse, m = {m}, n = {n}, to 1e-4",
        quality="max of row violation and |F - best|, relative",
        runs={
            "corollary": lambda: minimize(QuadraticProgram(P, c, A, b, bounds=(0, None)), tol=5e-5).value,
            "clarabel": peer,
        },
        measure=lambda x: max(
            float(np.linalg.norm(np.maximum(A @ np.asarray(x) - b, 0)) / np.linalg.norm(b)),
            abs(value(np.asarray(x)) - best) / abs(best),
        ),
        repeats=3,
    )


if __name__ == "__main__":
    main(
        "splitting",
        [
            tv_denoising,
            linear_programme,
            nnls_small,
            nnls_large,
            bounded_least_squares,
            box_quadratic,
            quadratic_programme,
        ],
    )
