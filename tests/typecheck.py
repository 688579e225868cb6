"""The run-time type checks of the test suite: jaxtyping's shapes by beartype, with Python's numeric tower.

`jaxtyping.jaxtyped`, which the import hook puts on every function, binds the arguments by `inspect` each time (50 µs)
and builds the checks of a nested function anew each time that its `def` is executed (a millisecond): together a fifth
of the suite's time. `jaxtyped` below makes the same checks, in the same scope of shape names, built once for each piece
of code; classes it leaves to jaxtyping.
"""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_theirs = jaxtyping.jaxtyped
_checks: dict[int, tuple[Any, Any, Any]] = {}  # code's id → the code (kept alive), checks of arguments and of result


def jaxtyped(thing: Any = None, *, typechecker: Any = None) -> Any:
    """jaxtyping's decorator, quicker on functions."""
    if thing is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if not inspect.isfunction(thing):
        return _theirs(thing, typechecker=typechecker)
    code = thing.__code__
    if id(code) not in _checks:
        _checks[id(code)] = (code, *_built(thing))
    _, arguments, result = _checks[id(code)]

    @functools.wraps(thing)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _theirs("context"):
            if arguments is not None:
                arguments(*args, **kwargs)
            value = thing(*args, **kwargs)
            return value if result is None else result(value)

    return wrapped


def _built(function: Callable) -> tuple[Any, Any]:
    """Functions of the arguments and of the result that do nothing but be checked."""
    signature, empty = inspect.signature(function), inspect.Parameter.empty
    hints = {p.name: _resolved(p.annotation, function) for p in signature.parameters.values()}
    bare = [
        p.replace(annotation=empty, default=empty if p.default is empty else None)
        for p in signature.parameters.values()
    ]
    scope: dict[str, Any] = {}
    exec(f"def arguments{inspect.Signature(bare)}: pass\ndef result(value): return value", scope)
    arguments, result = scope["arguments"], scope["result"]
    arguments.__defaults__, arguments.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    arguments.__annotations__ = {name: hint for name, hint in hints.items() if hint is not Any}
    answer = _resolved(signature.return_annotation, function)
    result.__annotations__ = {} if answer is Any else {"return": answer}
    for part in (arguments, result):
        part.__module__, part.__qualname__ = function.__module__, function.__qualname__
    return tuple(checked(part) if part.__annotations__ else None for part in (arguments, result))


def _resolved(annotation: Any, function: Callable) -> Any:
    """The type that an annotation names; Any where there is none, or where it cannot be found, as jaxtyping has it."""
    if annotation is inspect.Parameter.empty:
        return Any

    def carrier(value: Any) -> None: ...

    carrier.__annotations__ = {"value": annotation}
    try:
        return typing.get_type_hints(carrier, function.__globals__, include_extras=True)["value"]
    except Exception:
        return Any


jaxtyping.jaxtyped = jaxtyped
