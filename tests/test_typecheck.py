"""The suite's own type checks find what jaxtyping's decorator finds."""

from __future__ import annotations

import beartype.roar
import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float

from tests.typecheck import jaxtyped

WRONG = beartype.roar.BeartypeCallHintViolation


def product(A: Float[Array, "m n"], x: Float[Array, " n"], /, scale: float = 1.0, *rest: int, **more: str):
    return scale * (A @ x)


def squared(x: Float[Array, " n"]) -> Float[Array, " n"]:
    return x if x.size == 2 else x[:1]


def within(kind):
    def inner(x: int, *, y: NotAName = None) -> float:  # a name that cannot be found
        return kind(x)

    return jaxtyped(inner, typechecker=None)


def test_shapes_bind_over_the_arguments_and_the_result():
    checked = jaxtyped(typechecker=None)(product)
    A, x = jnp.ones((2, 3)), jnp.ones(3)
    assert checked(A, x).tolist() == [3, 3]
    assert checked(A, x, 2, 1, 1, name="a").tolist() == [6, 6]  # an int is a float
    for arguments, more in (
        ((A, A), {}),
        ((A, x[:2]), {}),
        ((A, x, "a"), {}),
        ((A, x, 1.0, "b"), {}),
        ((A, x), {"c": 1}),
    ):
        with pytest.raises(WRONG):
            checked(*arguments, **more)
    with pytest.raises(TypeError, match="missing"):
        checked(A)
    assert jaxtyped(squared)(jnp.ones(2)).size == 2
    with pytest.raises(WRONG):
        jaxtyped(squared)(x)
    with pytest.raises(WRONG):
        jaxtyped(squared)(jnp.arange(2))


def test_functions_within_functions_are_checked_each_time():
    assert within(float)(3) == 3.0
    assert within(float)(3, y="anything") == 3.0
    with pytest.raises(WRONG):
        within(str)(3)
    with pytest.raises(WRONG):
        within(float)("3")


def test_the_library_is_checked():
    from corollary.core import Status

    with pytest.raises(WRONG):
        Status.text("x")
