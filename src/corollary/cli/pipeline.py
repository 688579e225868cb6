"""From a table to numbers and back: the scikit-learn pipeline that travels with a model, and the schema beside it.

Numbers are standardised on the training rows and a missing one becomes the column's training mean; text becomes one
indicator per category, a missing one being a category of its own and an unseen one none of them. Sparse columns are
scaled but not centred, so that they stay sparse.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from corollary.core.data import Table
from corollary.core.errors import InputError

MAX_CATEGORIES = 100


@dataclasses.dataclass(frozen=True)
class Schema:
    """What a saved model must know of its columns."""

    features: tuple[str, ...]
    text: tuple[str, ...]
    target: str | None
    kind: str
    sparse: bool

    def plain(self) -> dict[str, Any]:
        """As plain data, for the model file."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Schema:
        """From the model file."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()}
        return cls(**values)


def schema_of(table: Table, target: str | None, kind: str) -> tuple[Schema, list[str]]:
    """The columns to learn from, which of them are text, and what to tell the person."""
    notices = list(table.notices)
    empty = [name for name in table.empty() if name != target]
    if empty:
        notices.append(f"left out, since every entry is missing: {', '.join(empty)}")
    features = [name for name in table.names if name not in {target, *empty}]
    text = [name for name in features if table.is_text(name)]
    if not features:
        raise InputError(f"DATA: {table.name} has no column to learn from besides {target!r}")
    return Schema(tuple(features), tuple(text), target, kind, table.sparse), notices


def inputs(table: Table, schema: Schema) -> Any:
    """The model's input columns of any table, in the order and of the types that it was trained with."""
    if schema.sparse and not table.sparse:
        raise InputError(f"DATA: {table.name} has named columns, expected an svmlight file as in training")
    return table.select(schema.features, schema.text)


def pipeline(model: Any, schema: Schema, penalised: bool = True) -> Pipeline:
    """Preparation and model as one estimator; without a penalty one category of each column is the reference."""
    if schema.sparse:
        return Pipeline([("prepare", StandardScaler(with_mean=False)), ("model", model)])
    numbers = Pipeline([("scale", StandardScaler()), ("fill", SimpleImputer(strategy="constant", fill_value=0.0))])
    if not schema.text:
        return Pipeline([("prepare", numbers), ("model", model)])
    categories = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        max_categories=MAX_CATEGORIES,
        drop=None if penalised else "first",
        sparse_output=False,
    )
    columns = [name for name in schema.features if name not in schema.text]
    parts = [("number", numbers, columns)] * bool(columns) + [("text", categories, list(schema.text))]
    prepare = ColumnTransformer(parts, sparse_threshold=0.0, verbose_feature_names_out=False)
    return Pipeline([("prepare", prepare), ("model", model)])


def prepared_names(fitted: Pipeline, schema: Schema) -> list[str]:
    """A name for each column that the model itself sees."""
    prepare = fitted.named_steps["prepare"]
    if isinstance(prepare, ColumnTransformer):
        return [str(name) for name in prepare.get_feature_names_out()]
    return list(schema.features)


def check_scales(fitted: Pipeline, schema: Schema) -> None:
    """Refuse columns whose variance overflowed: standardising would turn them into zeros."""
    prepare = fitted.named_steps["prepare"]
    names = [name for name in schema.features if name not in schema.text]
    if isinstance(prepare, ColumnTransformer):
        prepare = prepare.named_transformers_.get("number")
    scaler = prepare.named_steps["scale"] if isinstance(prepare, Pipeline) else prepare
    if scaler is not None and not np.isfinite(scaler.scale_).all():
        name = names[int(np.flatnonzero(~np.isfinite(scaler.scale_))[0])]
        raise InputError(f"column {name!r}: found values whose variance overflows, expected a smaller unit")


def missing_notice(X: Any, schema: Schema) -> list[str]:
    """How many missing numbers will be filled, and in which columns."""
    if schema.sparse:
        return []
    if isinstance(X, np.ndarray):
        counts = dict(zip(schema.features, np.isnan(X).sum(axis=0).tolist(), strict=True))
    else:
        counts = {n: int(np.isnan(X.column(n).to_numpy()).sum()) for n in schema.features if n not in schema.text}
    filled = [f"{name} ({count})" for name, count in counts.items() if count]
    more = f" and {len(filled) - 8} more" if len(filled) > 8 else ""
    return [f"missing entries filled with the training mean: {', '.join(filled[:8])}{more}"] * bool(filled)


def unseen_notice(X: Any, fitted: Pipeline, schema: Schema) -> list[str]:
    """Categories that the training rows did not have."""
    if not schema.text:
        return []
    categories = fitted.named_steps["prepare"].named_transformers_["text"].categories_
    unseen = []
    for name, known in zip(schema.text, categories, strict=True):
        new = sorted(str(v) for v in set(X.column(name).unique().to_pylist()) - set(known.tolist()))
        if new:
            unseen.append(f"{name}: {', '.join(new[:4])}{', ...' if len(new) > 4 else ''}")
    return [f"categories unseen in training count as none of the known ones ({'; '.join(unseen)})"] * bool(unseen)


def rows_of(X: Any, index: np.ndarray) -> Any:
    """Some rows of a matrix or an Arrow table."""
    if isinstance(X, np.ndarray):  # row by row in memory, as `predict` has it: the same layout gives the same bits
        return np.ascontiguousarray(X[index])
    return X[index] if scipy.sparse.issparse(X) else X.take(index)
