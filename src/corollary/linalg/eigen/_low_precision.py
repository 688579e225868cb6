"""What a low precision does to a spectrum: the errors of eigen- or singular values, and Weyl's bound of them.

When: before storing or decomposing a matrix in float16, bfloat16 or float32. By Weyl's inequality no value moves by
more than ‖E‖₂, whatever the size of the value: those below u‖A‖ are lost, however many of them there are. Cost: two
dense decompositions and an SVD of the error, O(n³).
Source: Golub & Van Loan, Matrix Computations, 4th ed., Corollaries 8.1.6 and 8.6.2; Higham (2002), §2.2.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from corollary.core import validation
from corollary.core.certificate import Certificate
from corollary.core.errors import InputError
from corollary.core.float_formats import FORMATS, FloatFormat, round_to
from corollary.core.operator import as_operator
from corollary.core.precision import float64, to_numpy
from corollary.linalg.eigen._iteration import is_symmetric, require_symmetric

NAMES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "tfloat32": "tf32"} | {
    name: name for name in FORMATS
}
WEYL = "Weyl: Golub & Van Loan, Matrix Computations, 4th ed., Corollaries 8.1.6 and 8.6.2"
Values = Float[Array | np.ndarray, " r"]
Number = Float[Array, ""] | np.ndarray | np.floating


class LowPrecisionSpectrum(eqx.Module):
    """The values in float64 and in the low precision, falling, with their errors; `.plot()` draws them."""

    values: Values
    low_values: Values
    errors: Values  # low − exact, each with its own sign
    perturbation: Number  # ‖E‖₂, which bounds every |error|
    noise_level: Number  # u‖A‖₂: values below it may be lost
    lost: Int[Array, ""] | np.ndarray | np.integer  # how many are
    shift: Number  # mean |error|: the Wasserstein-1 distance of the two histograms
    bias: Number  # mean error: where the histogram's centre went
    certificates: dict[str, Certificate]

    def plot(self, ax: Any = None) -> Any:
        """|values| in both precisions on a logarithmic axis, with the noise level and Weyl's bound."""
        from corollary.core import draw

        ax = draw.axes(ax, title="Spectrum in low precision", xlabel="index", ylabel="|value|")
        for values, label, style, color in (
            (self.values, "float64", "-", draw.INK),
            (self.low_values, "low precision", ".", draw.ACCENT),
        ):
            size = np.abs(np.asarray(values, dtype=float))
            index = np.arange(1, len(size) + 1)
            ax.plot(index[size > 0], size[size > 0], style, color=color, label=label)
        for value, label, style in ((self.perturbation, "‖E‖₂", "--"), (self.noise_level, "u‖A‖₂", ":")):
            if float(value) > 0:
                ax.axhline(float(value), color=draw.BOUND, linestyle=style, label=label)
        ax.set_yscale("log")
        ax.legend(frameon=False)
        return ax


def low_precision_spectrum(
    A: Any, dtype: Any = "bfloat16", *, values: Any = "singular", arithmetic: Any = "storage"
) -> LowPrecisionSpectrum:
    """Errors of eigen- or singular values when A is stored, or decomposed, in a low precision.

    Use it to see which part of a spectrum survives. Cost: O(n³), all in float64 but for "computed". The work is done in
    float64 whatever JAX's settings; not under `jit`.

    Parameters
    ----------
    A
        (m, n) matrix; symmetric for eigenvalues. A float32 matrix is taken as exact.
    dtype
        "float32", "bfloat16", "float16", "tfloat32" or a name of `corollary.core.FORMATS`.
    values
        "singular" or "eigen" (symmetric matrices).
    arithmetic
        "storage": A is rounded to the format, then decomposed in float64. "computed" (float32 only): the rounded A is
        also decomposed in float32.

    Returns
    -------
    LowPrecisionSpectrum
        ``values``, ``low_values``, ``errors``, ``perturbation`` ‖E‖₂, ``noise_level`` u‖A‖₂, ``lost``, ``shift``,
        ``bias``, ``certificates``. NumPy, float64.

    Raises
    ------
    InputError
        For entries beyond the format's largest number, "computed" in a format without LAPACK, a matrix that is not
        symmetric where eigenvalues are wanted.

    Notes
    -----
    Certificates: ``weyl`` (exact): every |error| ≤ ‖E‖₂ with E = fl(A) − A as it is; for "computed" plus the backward
    error p(n)·u·‖A‖ of the decomposition. ``rounding`` (theorem): ‖E‖₂ ≤ u‖A‖_F ≤ √r·u·‖A‖₂ with the unit roundoff u
    = eps/2 (and half a subnormal an entry below the normal range): the c in c·u·‖A‖ is √rank at worst.
    Source: Golub & Van Loan, 4th ed., Corollaries 8.1.6, 8.6.2; Higham, Accuracy and Stability, 2nd ed., Theorem 2.2.

    Examples
    --------
    >>> import numpy as np
    >>> found = low_precision_spectrum(np.diag([1.0, 0.3, 0.1]) + 1e-3, "bfloat16")
    >>> bool(found.certificates["weyl"].holds), bool(found.perturbation < 0.3 * 2**-8)
    (True, True)
    """
    validation.one_of(*NAMES)("dtype", dtype)
    validation.one_of("singular", "eigen")("values", values)
    validation.one_of("storage", "computed")("arithmetic", arithmetic)
    form = FORMATS[NAMES[dtype]]
    if arithmetic == "computed" and form.name != "fp32":
        raise InputError(
            f"arithmetic: found 'computed' with dtype {dtype!r}, expected 'storage' (no LAPACK below float32)"
        )
    if isinstance(A, Tracer):
        raise InputError("A: found a traced matrix, expected a concrete one: the reference is computed in float64")
    A = np.asarray(validation.matrix("A", A, host=True)).astype(np.float64)
    if np.abs(A).max() > form.max:
        found = f"found entries up to {np.abs(A).max():.3g}"
        raise InputError(f"A: {found}, expected at most {form.max:.6g} for {dtype}; scale the matrix first")
    with float64():
        if values == "eigen":
            require_symmetric(as_operator(A), bool(A.shape[0] == A.shape[1] and is_symmetric(as_operator(A))))
            A = (A + A.T) / 2
        low = round_to(jnp.asarray(A), form.name)
        return to_numpy(_compare(form, values == "eigen", arithmetic == "computed", jnp.asarray(A), low))


@partial(jax.jit, static_argnums=(0, 1, 2))
def _compare(form: FloatFormat, eigen: bool, computed: bool, A: Array, low: Array) -> LowPrecisionSpectrum:
    def spectrum(M: Array) -> Array:
        return jnp.linalg.eigvalsh(M)[::-1] if eigen else jnp.linalg.svd(M, compute_uv=False)

    exact = spectrum(A)
    found = spectrum(low.astype(jnp.float32)).astype(A.dtype) if computed else spectrum(low)
    E, u = low - A, form.eps / 2
    perturbation = jnp.linalg.norm(E, 2)
    norm, errors = jnp.max(jnp.abs(exact)), found - exact
    n, eps = max(A.shape), jnp.finfo(A.dtype).eps
    # LAPACK's values are exact for A + F, ‖F‖ <= p(n)·eps·‖A‖ with a modest p (LAPACK Users' Guide, §4.7, §4.9).
    p = 8 * math.sqrt(n)
    bound = perturbation + 2 * p * eps * norm + (p * u * norm if computed else 0)
    absolute = jnp.where(jnp.any(jnp.abs(A) < form.smallest_normal), math.sqrt(A.size) * form.smallest_subnormal / 2, 0)
    frobenius = jnp.linalg.norm(A)
    certificates = {
        "weyl": Certificate(
            "every |error| <= ‖fl(A) − A‖₂" + (" + p(n) u ‖A‖₂ of float32's LAPACK" if computed else ""),
            jnp.max(jnp.abs(errors)),
            bound,
            "exact",
            WEYL,
        ),
        "rounding": Certificate(
            "‖fl(A) − A‖₂ <= u ‖A‖_F",
            perturbation,
            u * frobenius + absolute + p * eps * perturbation,
            "theorem",
            "Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. (2002), Theorem 2.2",
        ),
    }
    noise = u * norm
    lost = jnp.sum(jnp.abs(exact) < noise)
    shift, bias = jnp.mean(jnp.abs(errors)), jnp.mean(errors)
    return LowPrecisionSpectrum(exact, found, errors, perturbation, noise, lost, shift, bias, certificates)
