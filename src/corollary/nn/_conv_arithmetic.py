"""Sizes of convolutions: outputs of plain and transposed ones, and the padding that keeps a size.

O = ⌊(I + 2P − d(K − 1) − 1)/S⌋ + 1 for a convolution, (I − 1)S − 2P + d(K − 1) + 1 + A for its transpose, where A tells
apart the S inputs that lead to one output. Padding for "same" means the same OUTPUT size, so the stride enters:
p = ⌈(m(s − 1) + d(a − 1) + 1 − s)/2⌉ keeps m for odd a. O(1).
Source: Dumoulin & Visin, "A guide to convolution arithmetic for deep learning" (2016), relationships 6, 14 and 15.
"""

from __future__ import annotations

from corollary.core import validation
from corollary.core.errors import InputError


def conv_output_size(size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Output size of a convolution along one axis.

    Parameters
    ----------
    size, kernel
        Of input and kernel.
    stride, dilation
        Distance between outputs, between taps.
    padding
        Zeros on each side.

    Raises
    ------
    InputError
        Where the padded input is shorter than the kernel's reach.

    Examples
    --------
    >>> conv_output_size(32, 5), conv_output_size(224, 11, stride=4, padding=2), conv_output_size(227, 11, stride=4)
    (28, 55, 55)
    """
    _check(size, kernel, stride, padding, dilation)
    reach = dilation * (kernel - 1) + 1
    if size + 2 * padding < reach:
        raise InputError(f"size: found {size} with padding {padding}, expected at least the kernel's reach {reach}")
    return (size + 2 * padding - reach) // stride + 1


def conv_transpose_output_size(
    size: int, kernel: int, *, stride: int = 1, padding: int = 0, dilation: int = 1, output_padding: int = 0
) -> int:
    """Output size of a transposed convolution along one axis: an input size of the convolution that gives `size`.

    Parameters
    ----------
    size, kernel, stride, padding, dilation
        As in `conv_output_size`, of the convolution that is transposed; `size` is that one's output.
    output_padding
        Which of the stride's inputs is meant, 0 to stride − 1.

    Examples
    --------
    >>> conv_transpose_output_size(14, 4, stride=2, padding=1)
    28
    """
    _check(size, kernel, stride, padding, dilation)
    validation.integer(0)("output_padding", output_padding)
    if output_padding >= stride:
        raise InputError(f"output_padding: found {output_padding}, expected less than the stride {stride}")
    out = (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1 + output_padding
    if out < 1:
        raise InputError(f"padding: found {padding}, which leaves no output")
    return out


def same_padding(size: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> int:
    """Zeros on each side such that as many outputs come out as inputs went in; exact for odd d(a − 1) + 1.

    Parameters
    ----------
    size, kernel, stride, dilation
        As in `conv_output_size`.

    Examples
    --------
    >>> same_padding(28, 5), same_padding(28, 5, stride=2), conv_output_size(28, 5, stride=2, padding=16)
    (2, 16, 28)
    """
    _check(size, kernel, stride, 0, dilation)
    reach = dilation * (kernel - 1) + 1
    return -(-(size * (stride - 1) + reach - stride) // 2)


def _check(size: int, kernel: int, stride: int, padding: int, dilation: int) -> None:
    for name, value in (("size", size), ("kernel", kernel), ("stride", stride), ("dilation", dilation)):
        validation.integer(1)(name, value)
    validation.integer(0)("padding", padding)
