"""LeNet-5: the first convolutional network in wide use, for 32×32 images of one channel.

C1 6@28×28, S2 6@14×14, C3 16@10×10, S4 16@5×5, C5 120, F6 84, then 10 outputs, dense or as squared distances to a code
for each class. C3 is connected to all six maps (the paper connects subsets), the poolings have no weights of their own.
Cost 0.42 M multiply-adds an image. Source: LeCun, Bottou, Bengio & Haffner (1998), section II.B and figure 2.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from corollary.core import validation
from corollary.core.errors import InputError
from corollary.nn._conv import Conv
from corollary.nn._pool import avg_pool

Images = Float[Array, "batch height width channels"]


@final
class LeNet(eqx.Module):
    """LeNet-5 for images (batch, 32, 32, channels): ``logits = net(x)``; 61,706 weights with a dense end.

    Parameters
    ----------
    classes
        Number of outputs.
    in_channels
        Of the image.
    output
        ``"dense"``; or ``"rbf"``: logits are −Σ(x − w)², the codes w start at random signs and are learnt.
    activation
        ``"tanh"``, the paper's 1.7159·tanh(2x/3), or ``"relu"``.
    dtype, key
        Precision and key of the weights.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> LeNet(key=jax.random.key(0))(jnp.zeros((2, 32, 32, 1))).shape
    (2, 10)
    """

    convs: tuple[Conv, Conv, Conv]
    dense: eqx.nn.Linear
    head: eqx.nn.Linear | None
    codes: Float[Array, "classes 84"] | None
    activation: str = eqx.field(static=True)

    def __init__(
        self,
        classes: int = 10,
        *,
        in_channels: int = 1,
        output: str = "dense",
        activation: str = "tanh",
        dtype: Any = None,
        key: Key[Array, ""],
    ):
        validation.integer(1)("classes", classes)
        validation.one_of("dense", "rbf")("output", output)
        validation.one_of("tanh", "relu")("activation", activation)
        keys = jax.random.split(key, 5)
        plain: dict[str, Any] = {"padding": "VALID", "dtype": dtype}
        self.convs = (
            Conv(in_channels, 6, 5, key=keys[0], **plain),
            Conv(6, 16, 5, key=keys[1], **plain),
            Conv(16, 120, 5, key=keys[2], **plain),
        )
        self.dense = eqx.nn.Linear(120, 84, dtype=dtype, key=keys[3])
        self.head = eqx.nn.Linear(84, classes, dtype=dtype, key=keys[4]) if output == "dense" else None
        dtype = self.dense.weight.dtype
        self.codes = None if output == "dense" else jax.random.rademacher(keys[4], (classes, 84), dtype)
        self.activation = activation

    def maps(self, x: Images) -> list[Array]:
        """The maps C1, S2, C3, S4, C5."""
        if x.shape[1:3] != (32, 32):
            raise InputError(f"x: found images of {x.shape[1]} x {x.shape[2]}, expected 32 x 32")
        c1 = self._act(self.convs[0](x))
        s2 = avg_pool(c1)
        c3 = self._act(self.convs[1](s2))
        s4 = avg_pool(c3)
        return [c1, s2, c3, s4, self._act(self.convs[2](s4))]

    def features(self, x: Images) -> Float[Array, "batch 84"]:
        """The layer F6."""
        return self._act(jax.vmap(self.dense)(self.maps(x)[-1][:, 0, 0]))

    def __call__(
        self, x: Images, *, key: Key[Array, ""] | None = None, inference: bool = False
    ) -> Float[Array, "batch classes"]:
        """Logits; `key` and `inference` are not used."""
        h = self.features(x)
        if self.codes is not None:
            return -jnp.sum((h[:, None] - self.codes) ** 2, axis=-1)
        assert self.head is not None
        return jax.vmap(self.head)(h)

    def _act(self, x: Any) -> Any:
        return jax.nn.relu(x) if self.activation == "relu" else 1.7159 * jnp.tanh(x * (2 / 3))
