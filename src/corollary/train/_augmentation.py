"""Image augmentation: flips, padded crops, brightness and contrast, and colour along the data's principal axes.

Each function takes one image (height, width, channels) and a key, and is vmapped over a batch by `augment`; shapes
stay, so labels do. Cost: O(pixels).

Source: Krizhevsky, Sutskever & Hinton, "ImageNet classification with deep convolutional neural networks" (2012), §4.1
(crops, flips, PCA colour); He et al., "Deep residual learning" (2016), §4.2 (pad by 4 and crop).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.core.precision import follows_input

Image = Float[Array, "height width channels"]


def flip(image: Image) -> Image:
    """Left and right exchanged; twice is the image itself.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> flip(jnp.arange(2.0).reshape(1, 2, 1)).ravel().tolist()
    [1.0, 0.0]
    """
    return image[:, ::-1]


def random_flip(image: Image, key: Key[Array, ""], *, probability: float = 0.5) -> Image:
    """Flip with a probability.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> random_flip(jnp.arange(2.0).reshape(1, 2, 1), jax.random.key(0), probability=1.0).ravel().tolist()
    [1.0, 0.0]
    """
    return jnp.where(jax.random.bernoulli(key, probability), flip(image), image)


def random_crop(image: Image, key: Key[Array, ""], *, padding: int = 4, mode: str = "constant") -> Image:
    """A crop of the image's own size from the padded image, every offset equally likely.

    Parameters
    ----------
    image
        One image.
    key
        Same key, same crop.
    padding
        Pixels on every side; static.
    mode
        Of `jax.numpy.pad`: ``"constant"`` (zeros), ``"reflect"`` or ``"edge"``.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> random_crop(jnp.ones((8, 8, 3)), jax.random.key(0)).shape
    (8, 8, 3)
    """
    validation.integer(0)("padding", padding)
    validation.one_of("constant", "reflect", "edge")("mode", mode)
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)), mode=mode)
    at = jax.random.randint(key, (2,), 0, 2 * padding + 1)
    return jax.lax.dynamic_slice(padded, (at[0], at[1], jnp.zeros_like(at[0])), image.shape)


def colour_jitter(
    image: Image, key: Key[Array, ""], *, brightness: float = 0.2, contrast: float = 0.2, saturation: float = 0.2
) -> Image:
    """Brightness, contrast and saturation, each scaled by a factor uniform in 1 ± its setting.

    Contrast scales about the image's mean, saturation about each pixel's mean over channels; values are not clipped.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> x = jnp.ones((2, 2, 3))
    >>> bool(jnp.all(colour_jitter(x, jax.random.key(0), brightness=0.0) == x))
    True
    """
    for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation)):
        validation.number(0, 1)(name, value)
    spread = jnp.asarray([brightness, contrast, saturation]).astype(image.dtype)
    factor = 1 + spread * jax.random.uniform(key, (3,), image.dtype, -1, 1)
    image = image * factor[0]
    middle = jnp.mean(image)
    image = middle + factor[1] * (image - middle)
    grey = jnp.mean(image, axis=-1, keepdims=True)
    return grey + factor[2] * (image - grey)


@follows_input
def colour_covariance(images: Any) -> Float[Array, "channels channels"]:
    """The covariance of the channels over all pixels of a set of images (n, height, width, channels).

    Examples
    --------
    >>> import numpy as np
    >>> colour_covariance(np.stack([np.zeros((1, 1, 2)), np.ones((1, 1, 2))])).tolist()
    [[0.25, 0.25], [0.25, 0.25]]
    """
    images = validation.tensor("images", images, low=4)
    pixels = jnp.reshape(images, (-1, images.shape[-1]))
    pixels = pixels - jnp.mean(pixels, axis=0)
    return pixels.T @ pixels / pixels.shape[0]


def pca_jitter(image: Image, key: Key[Array, ""], covariance: Float[Array, "..."], *, scale: float = 0.1) -> Image:
    """Add one random colour to all pixels: normal with covariance scale²·C, along the principal axes of C.

    Parameters
    ----------
    image
        One image.
    key
        Same key, same colour.
    covariance
        C of the channels, from `colour_covariance`; symmetric, positive semidefinite.
    scale
        Standard deviation along each axis, in units of the data's own; 0.1 in the paper.

    Source: Krizhevsky et al. (2012), §4.1: it adds Σ p_i α_i λ_i with α ~ N(0, 0.1²) and λ the *eigenvalues* of C,
    whose covariance would be 0.01·C²; here the factor is √λ_i, so that a change of the pixels' unit changes nothing.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> pca_jitter(jnp.zeros((2, 2, 3)), jax.random.key(0), jnp.eye(3)).shape
    (2, 2, 3)
    """
    if covariance.shape != (image.shape[-1],) * 2:
        raise InputError(f"covariance: found shape {covariance.shape}, expected {(image.shape[-1],) * 2}")
    values, vectors = jnp.linalg.eigh(covariance)
    draw = jax.random.normal(key, values.shape, values.dtype)
    colour = vectors @ (jnp.sqrt(jnp.maximum(values, 0)) * draw)
    return image + (jnp.asarray(scale).astype(values.dtype) * colour).astype(image.dtype)


def augment(
    images: Float[Array, "..."],
    key: Key[Array, ""],
    steps: Sequence[Callable[..., Any]] = (random_flip, random_crop),
) -> Float[Array, "batch height width channels"]:
    """Apply augmentations to a batch, every image with its own randomness.

    Use it inside the loss of a `Trainer`, whose key changes at every step. Cost: O(pixels).

    Parameters
    ----------
    images
        (batch, height, width, channels).
    key
        Same key, same batch.
    steps
        Functions ``(image, key) -> image``, in order; settings by `functools.partial`.

    Returns
    -------
    Array
        Of the same shape and dtype. No certificate.

    Raises
    ------
    InputError
        For something that is not a batch of images.

    Source: He et al. (2016), §4.2 (the default steps).

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> augment(jnp.ones((5, 8, 8, 3)), jax.random.key(0)).shape
    (5, 8, 8, 3)
    """
    if images.ndim != 4:
        raise InputError(f"images: found shape {images.shape}, expected (batch, height, width, channels)")
    for k, step in enumerate(steps):
        images = jax.vmap(step)(images, jax.random.split(jax.random.fold_in(key, k), images.shape[0]))
    return images
