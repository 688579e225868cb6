"""The models that the command line knows, and how ``--set key=value`` becomes a setting of the right type."""

from __future__ import annotations

import ast
import difflib
import importlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from corollary.core.errors import InputError


class Spec(NamedTuple):
    """A model's place, what it predicts, and what to set for a command line where the library's default differs."""

    path: str
    kind: str  # "regression", "classification" or "reduction" (no target)
    summary: str
    penalised: bool = True
    defaults: tuple[str, ...] = ()


MODELS: dict[str, Spec] = {
    "cnn": Spec(
        "corollary.train:ConvNetClassifier",
        "classification",
        "convolutional network: a row is an image",
        penalised=False,
    ),
    "elastic-net": Spec("corollary.linear:ElasticNet", "regression", "least squares, |w| and w² penalised"),
    "lasso": Spec("corollary.linear:Lasso", "regression", "least squares, |w| penalised: few columns kept"),
    "lasso-cv": Spec("corollary.linear:LassoCV", "regression", "lasso, its penalty chosen by cross-validation"),
    "linear": Spec("corollary.linear:LinearRegression", "regression", "least squares", penalised=False),
    "logistic": Spec("corollary.linear:LogisticRegression", "classification", "logistic or softmax regression"),
    "mlp": Spec("corollary.train:MLPClassifier", "classification", "multilayer perceptron", penalised=False),
    "mlp-regressor": Spec("corollary.train:MLPRegressor", "regression", "multilayer perceptron", penalised=False),
    "ols": Spec("corollary.linear:LinearRegression", "regression", "the same as linear", penalised=False),
    "pca": Spec(
        "corollary.factor:PCA", "reduction", "principal components (no target)", defaults=("n_components=0.95",)
    ),
    "ridge": Spec("corollary.linear:Ridge", "regression", "least squares, w² penalised"),
    "ridge-cv": Spec("corollary.linear:RidgeCV", "regression", "ridge, its penalty chosen by leave-one-out"),
}


def spec_of(name: str, option: str = "--model") -> Spec:
    """The spec of a model's name, or an error that lists the names."""
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"{option}: found {name!r}{hint}, expected one of {', '.join(MODELS)}")
    return MODELS[name]


def build(name: str, settings: Iterable[str] = (), seed: int | None = None, option: str = "--model") -> Any:
    """An unfitted model with its settings parsed, checked and, where it takes one, the seed."""
    spec = spec_of(name, option)
    module, _, attribute = spec.path.partition(":")
    cls = getattr(importlib.import_module(module), attribute)
    model = cls()
    defaults = model.get_params(deep=False)
    chosen: dict[str, Any] = {}
    for text in (*spec.defaults, *settings):
        key, equals, value = text.partition("=")
        if not equals or key not in defaults:
            found = f"{key!r}" if equals else f"{text!r} without '='"
            raise InputError(
                f"--set: found {found}, expected key=value with a setting of {name}: {', '.join(sorted(defaults))}"
            )
        chosen[key] = _parse(key, value, defaults[key], cls)
    if "random_state" in defaults and "random_state" not in chosen:
        chosen["random_state"] = seed
    return model.set_params(**chosen)


def _parse(key: str, text: str, default: Any, cls: type) -> Any:
    """The value that the text spells: of the default's type where it has one, else as Python would read it."""
    word = text.strip()
    lowered = word.lower()
    value: Any
    if lowered in ("true", "false"):
        value = lowered == "true"
    elif lowered in ("none", "null"):
        value = None
    else:
        try:
            value = ast.literal_eval(word)
        except (ValueError, SyntaxError):
            value = word
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    check = getattr(cls, "_settings", {}).get(key)
    try:
        if check is not None:
            check(key, value)
        elif default is not None and type(default) is not type(value) and isinstance(default, bool | int | float):
            raise InputError(f"{key}: found {word!r}, expected a value like {default!r}")
    except InputError as error:
        raise InputError(f"--set {error}") from error
    return value
