"""Model files: arrays in ``model.safetensors``, everything else in ``model.json`` with a schema version.

Loading never runs code from the file: the JSON may only name this library's estimators and a short list of
scikit-learn's preprocessing classes, and the arrays' SHA-256 is checked before they are read. Both files are written to
new names, synced and renamed, the JSON last, so that a torn write is noticed and the last good model survives it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import pathlib
import tempfile
from typing import Any

import equinox as eqx
import numpy as np
import safetensors.numpy

from corollary.core.errors import ModelFileError

FORMAT, SCHEMA = "corollary-model", 1
ROOMS = ("factor", "linalg.tensor", "linear", "train")
FOREIGN = {
    "sklearn.compose": ("ColumnTransformer", "TransformedTargetRegressor"),
    "sklearn.impute": ("SimpleImputer",),
    "sklearn.pipeline": ("Pipeline",),
    "sklearn.preprocessing": (
        "LabelEncoder",
        "MaxAbsScaler",
        "MinMaxScaler",
        "OneHotEncoder",
        "OrdinalEncoder",
        "RobustScaler",
        "StandardScaler",
    ),
}
RECORDS = {
    "corollary.core.certificate": ("Assumption", "Certificate"),
    "corollary.core.solution": ("Note", "Solution"),
}


def save(model: Any, folder: str | os.PathLike[str], **extra: Any) -> None:
    """Write a fitted estimator (or a scikit-learn pipeline around one) into `folder`, which is made where missing.

    Parameters
    ----------
    model
        An estimator of this library or an allowed scikit-learn class; see `FOREIGN`.
    folder
        Where ``model.safetensors`` and ``model.json`` go.
    **extra
        More values to travel with it (column names, say): plain data and arrays.

    Raises
    ------
    ModelFileError
        Where something in the model cannot be written as plain data; the message names it.
    """
    folder = pathlib.Path(folder)
    tensors: dict[str, np.ndarray] = {}
    tree = _encode(model, "model", tensors)
    extras = {key: _encode(value, key, tensors) for key, value in extra.items()}
    blob = safetensors.numpy.save(tensors)
    header = {"format": FORMAT, "schema": SCHEMA, "sha256": hashlib.sha256(blob).hexdigest()}
    text = json.dumps({**header, "model": tree, "extra": extras}, indent=1, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "model.safetensors", blob)
    write_atomically(folder / "model.json", text.encode())


def load(folder: str | os.PathLike[str]) -> Any:
    """The model saved in `folder`.

    Raises
    ------
    ModelFileError
        Where a file is missing, truncated, foreign, of a newer schema, or names a class that is not allowed.
    """
    return load_with_extra(folder)[0]


def load_with_extra(folder: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """The model saved in `folder` and the extra values that travelled with it."""
    folder = pathlib.Path(folder)
    try:
        text, blob = (folder / "model.json").read_bytes(), (folder / "model.safetensors").read_bytes()
    except OSError as error:
        raise ModelFileError(f"{error.filename}: cannot be read ({error.strerror}); expected a saved model") from error
    try:
        head = json.loads(text)
    except ValueError as error:
        raise ModelFileError(f"{folder / 'model.json'}: truncated or not JSON ({error})") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ModelFileError(f"{folder / 'model.json'}: not a {FORMAT} file")
    schema = head.get("schema")
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise ModelFileError(
            f"{folder / 'model.json'}: found schema {schema!r}, at most {SCHEMA} is known; upgrade corollary"
        )
    if hashlib.sha256(blob).hexdigest() != head.get("sha256"):
        raise ModelFileError(
            f"{folder / 'model.safetensors'}: truncated or not the one that model.json was written with"
        )
    try:
        tensors = safetensors.numpy.load(blob)
        extra = {key: _decode(value, tensors) for key, value in head["extra"].items()}
        return _decode(head["model"], tensors), extra
    except ModelFileError:
        raise
    except Exception as error:
        raise ModelFileError(f"{folder / 'model.json'}: malformed ({type(error).__name__}: {error})") from error


def write_atomically(path: pathlib.Path, data: bytes) -> None:
    """Write to a new name beside `path`, sync, rename: a reader sees the old file or the whole new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise


def _encode(value: Any, where: str, tensors: dict[str, np.ndarray]) -> Any:
    match value:
        case None | bool() | str():
            return value
        case int():
            return value
        case float():
            return value if math.isfinite(value) else {"float": repr(value)}
        case np.generic() if value.dtype.kind in "biuf":
            return {"scalar": _encode(value.item(), where, tensors), "dtype": value.dtype.name}
        case np.str_():
            return str(value)
        case np.ndarray() if value.dtype.kind in "biuf":
            tensors[where] = np.ascontiguousarray(value).reshape(value.shape)
            return {"tensor": where}
        case np.ndarray() if value.dtype.kind in "UO":
            items = [_encode(v, f"{where}.{i}", tensors) for i, v in enumerate(value.ravel().tolist())]
            return {"array": items, "shape": list(value.shape), "kind": value.dtype.kind}
        case list() | tuple():
            items = [_encode(v, f"{where}.{i}", tensors) for i, v in enumerate(value)]
            return {type(value).__name__: items}
        case dict() if all(isinstance(k, str | int) for k in value):
            return {"dict": [[k, _encode(v, f"{where}.{k}", tensors)] for k, v in value.items()]}
        case slice():
            return {"slice": [value.start, value.stop, value.step]}
        case type() if issubclass(value, np.generic):
            return {"dtype": np.dtype(value).name}
        case np.dtype():
            return {"dtype": value.name, "instance": True}
    path = _public_path(type(value))
    if path is None:
        raise ModelFileError(
            f"{where}: a {type(value).__module__}.{type(value).__qualname__} cannot be saved as plain data"
        )
    params = value.get_params(deep=False) if hasattr(value, "get_params") else {}
    state = {k: v for k, v in vars(value).items() if k not in params}
    return {
        "class": path,
        "params": {k: _encode(v, f"{where}.{k}", tensors) for k, v in params.items()},
        "state": {k: _encode(v, f"{where}.{k}", tensors) for k, v in state.items()},
    }


def _decode(tree: Any, tensors: dict[str, np.ndarray]) -> Any:
    if not isinstance(tree, dict):
        return tree
    match tree:
        case {"float": text}:
            return float(text)
        case {"scalar": value, "dtype": name}:
            return np.dtype(name).type(_decode(value, tensors))
        case {"tensor": where}:
            return tensors[where]
        case {"array": items, "shape": shape, "kind": kind}:
            flat = np.empty(len(items), dtype=object)
            flat[:] = [_decode(v, tensors) for v in items]
            return (flat.astype(str) if kind == "U" else flat).reshape(shape)
        case {"list": items}:
            return [_decode(v, tensors) for v in items]
        case {"tuple": items}:
            return tuple(_decode(v, tensors) for v in items)
        case {"dict": items}:
            return {k: _decode(v, tensors) for k, v in items}
        case {"slice": parts}:
            return slice(*parts)
        case {"class": path, "params": params, "state": state}:
            cls = _allowed_class(path)
            values = {k: _decode(v, tensors) for k, v in (*params.items(), *state.items())}
            instance = object.__new__(cls)
            for name, value in values.items():
                if not name.isidentifier() or name.startswith("__"):
                    raise ModelFileError(f"{path}: {name!r} is not an attribute's name")
                object.__setattr__(instance, name, value)
            return instance
        case {"dtype": name, "instance": True}:
            return np.dtype(name)
        case {"dtype": name}:
            return np.dtype(name).type
    raise ModelFileError(f"found an entry with keys {sorted(tree)}, expected one of this format's")


def _public_path(cls: type) -> str | None:
    for room in ROOMS:
        if cls.__module__.startswith(f"corollary.{room}."):
            public = getattr(importlib.import_module(f"corollary.{room}"), cls.__name__, None)
            return f"corollary.{room}:{cls.__name__}" if public is cls else None
    for module, names in {**FOREIGN, **RECORDS}.items():
        if cls.__name__ in names and (cls.__module__ == module or cls.__module__.startswith(f"{module}.")):
            return f"{module}:{cls.__name__}"
    return None


def _allowed_class(path: Any) -> type:
    from corollary.core.estimator import Estimator

    module, _, name = str(path).partition(":")
    if name in {**FOREIGN, **RECORDS}.get(module, ()):
        return getattr(importlib.import_module(module), name)
    if module in {f"corollary.{room}" for room in ROOMS}:
        cls = getattr(importlib.import_module(module), name, None)
        if isinstance(cls, type) and issubclass(cls, Estimator | eqx.Module):  # a module is a record: fields only
            return cls
    raise ModelFileError(
        f"found class {path!r}, expected an estimator of this library or an allowed preprocessing class"
    )
