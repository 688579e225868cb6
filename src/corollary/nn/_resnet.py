"""Residual networks: y = relu(x + F(x)), with F two 3×3 convolutions (basic) or 1×1, 3×3, 1×1 (bottleneck).

The default choice for images. The identity skip keeps the gradient's scale through depth; with ``zero_init`` the last
normalisation of each branch starts at γ = 0, so that every block starts as the identity of relu. The stem is
torchvision's (7×7, stride 2, then pooling) or, for small images, one 3×3 convolution. Strides sit on the 3×3.
Cost per image O(Σ places·kernel²·C_in·C_out): 1.8 GMAC for ResNet-18 at 224², 0.56 at 32² with the small stem.
Source: He, Zhang, Ren & Sun, "Deep residual learning for image recognition" (2016), table 1, figures 2 and 5; Goyal et
al., "Accurate, large minibatch SGD" (2017), section 5.1 (γ = 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._batch_norm import ConvNorm
from corollary.nn._pool import global_avg_pool, max_pool

DEPTHS: dict[int, tuple[str, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}

Images = Float[Array, "batch height width channels"]
Maps = Float[Array, "batch _ _ _"]


@final
class ResidualBlock(eqx.Module):
    """One residual block: ``y, state = block(x, state, inference=...)``.

    Parameters
    ----------
    in_channels, channels
        Channels of the input and of the inner convolutions; a bottleneck puts out 4·channels.
    kind
        ``"basic"`` or ``"bottleneck"``.
    stride
        Of the (first) 3×3 convolution; the skip follows by a strided 1×1 convolution where shapes change.
    zero_init
        γ = 0 at the end of the branch.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> block, state = eqx.nn.make_with_state(ResidualBlock)(4, 4, zero_init=True, key=jax.random.key(0))
    >>> x = jnp.ones((2, 5, 5, 4))
    >>> bool((block(x, state)[0] == x).all())
    True
    """

    branch: tuple[ConvNorm, ...]
    skip: ConvNorm | None

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kind: str = "basic",
        stride: int = 1,
        zero_init: bool = False,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.one_of("basic", "bottleneck")("kind", kind)
        keys = jax.random.split(key, 4)
        out = channels * expansion(kind)
        last: dict[str, Any] = {"relu": False, "zero_scale": zero_init, "dtype": dtype}
        if kind == "basic":
            self.branch = (
                ConvNorm(in_channels, channels, 3, stride=stride, padding=1, dtype=dtype, key=keys[0]),
                ConvNorm(channels, out, 3, padding=1, key=keys[1], **last),
            )
        else:
            self.branch = (
                ConvNorm(in_channels, channels, 1, dtype=dtype, key=keys[0]),
                ConvNorm(channels, channels, 3, stride=stride, padding=1, dtype=dtype, key=keys[1]),
                ConvNorm(channels, out, 1, key=keys[2], **last),
            )
        changes = stride != 1 or in_channels != out
        self.skip = (
            ConvNorm(in_channels, out, 1, stride=stride, padding=0, relu=False, dtype=dtype, key=keys[3])
            if changes
            else None
        )

    def __call__(self, x: Images, state: eqx.nn.State, *, inference: bool = False) -> tuple[Maps, eqx.nn.State]:
        """relu(skip(x) + branch(x)) and the new state."""
        h, y = x, x
        for part in self.branch:
            h, state = part(h, state, inference=inference)
        if self.skip is not None:
            y, state = self.skip(x, state, inference=inference)
        return jax.nn.relu(h + y), state


@final
class ResNet(eqx.Module):
    """Residual network for images: ``logits, state = net(x, state, inference=...)``.

    Make it by ``net, state = equinox.nn.make_with_state(ResNet)(...)``.

    Parameters
    ----------
    depth
        18, 34 (basic), 50, 101 or 152 (bottleneck); or the number of blocks of each stage.
    classes
        Number of outputs; 1000 by default, as on ImageNet.
    in_channels
        Of the image.
    width
        Channels of the first stage; they double at every stage.
    kind
        ``"basic"`` or ``"bottleneck"``, where `depth` lists the stages.
    stem
        ``"imagenet"``: 7×7 with stride 2 and 3×3 max pooling with stride 2; ``"cifar"``: one 3×3 convolution.
    zero_init
        γ = 0 at the end of each branch, so that blocks start as the identity.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import equinox as eqx, jax, jax.numpy as jnp
    >>> net, state = eqx.nn.make_with_state(ResNet)((1, 1), 10, width=8, stem="cifar", key=jax.random.key(0))
    >>> logits, state = net(jnp.zeros((2, 8, 8, 3)), state)
    >>> logits.shape
    (2, 10)
    """

    stem: ConvNorm
    stages: tuple[tuple[ResidualBlock, ...], ...]
    head: eqx.nn.Linear
    small: bool = eqx.field(static=True)

    def __init__(
        self,
        depth: int | Sequence[int] = 18,
        classes: int = 1000,
        *,
        in_channels: int = 3,
        width: int = 64,
        kind: str = "basic",
        stem: str = "imagenet",
        zero_init: bool = False,
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        if isinstance(depth, int):
            validation.one_of(*DEPTHS)("depth", depth)
            kind, blocks = DEPTHS[depth]
        else:
            blocks = tuple(depth)
            if not blocks or min(blocks) < 1:
                raise InputError(f"depth: found {depth!r}, expected at least one block in each stage")
        validation.one_of("imagenet", "cifar")("stem", stem)
        validation.integer(1)("classes", classes)
        validation.integer(1)("width", width)
        self.small = stem == "cifar"
        keys = iter(jax.random.split(key, sum(blocks) + 2))
        size, stride, padding = (3, 1, 1) if self.small else (7, 2, 3)
        self.stem = ConvNorm(in_channels, width, size, stride=stride, padding=padding, dtype=dtype, key=next(keys))
        stages, channels = [], width
        for i, count in enumerate(blocks):
            stage = []
            for j in range(count):
                stage.append(
                    ResidualBlock(
                        channels,
                        width * 2**i,
                        kind=kind,
                        stride=2 if i > 0 and j == 0 else 1,
                        zero_init=zero_init,
                        dtype=dtype,
                        key=next(keys),
                    )
                )
                channels = width * 2**i * expansion(kind)
            stages.append(tuple(stage))
        self.stages = tuple(stages)
        self.head = eqx.nn.Linear(channels, classes, dtype=dtype, key=next(keys))

    def features(
        self, x: Images, state: eqx.nn.State, *, inference: bool = False
    ) -> tuple[Float[Array, "batch features"], eqx.nn.State]:
        """The mean of the last map, and the new state."""
        h, state = self.stem(x, state, inference=inference)
        if not self.small:
            h = max_pool(h, 3, stride=2, padding=1)
        for stage in self.stages:
            for block in stage:
                h, state = block(h, state, inference=inference)
        return global_avg_pool(h), state

    def __call__(
        self,
        x: Images,
        state: eqx.nn.State,
        *,
        key: Key[Array, ""] | None = None,
        inference: bool = False,
    ) -> tuple[Float[Array, "batch classes"], eqx.nn.State]:
        """Logits and the new state; `key` is not used."""
        h, state = self.features(x, state, inference=inference)
        return jax.vmap(self.head)(h), state


def expansion(kind: str) -> int:
    """Output channels of a block, in units of its inner channels."""
    return 1 if kind == "basic" else 4
