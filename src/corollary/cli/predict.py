"""``corollary predict``: predictions of a saved model for new rows."""

from __future__ import annotations

import os
import pathlib
import sys
from typing import Annotated

import typer


def predict(
    folder: Annotated[pathlib.Path, typer.Argument(metavar="DIR", help="What `corollary fit --out DIR` wrote.")],
    data: Annotated[str, typer.Argument(metavar="NEWDATA", help="New rows, in any of the formats that `fit` reads.")],
    out: Annotated[
        pathlib.Path | None, typer.Option(metavar="FILE", help="A CSV file; the terminal when left out.")
    ] = None,
) -> int:
    """Predict new rows with a saved model: one line of CSV for each row.

    Columns are matched by name: their order does not matter and further ones are ignored.

    Example: corollary predict runs/first new.csv --out predictions.csv
    """
    import numpy as np

    from corollary.cli import pipeline
    from corollary.cli.record import write_csv
    from corollary.cli.training import quiet
    from corollary.core import compile_cache, model_file
    from corollary.core.data import read
    from corollary.core.errors import InputError, ModelFileError

    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise InputError(f"--out: {str(out)!r} is not a file in an existing folder")
    fitted, extra = model_file.load_with_extra(folder)
    if "schema" not in extra:
        raise ModelFileError(
            f"{folder}: a saved estimator without its columns, expected a folder made by `corollary fit`"
        )
    schema = pipeline.Schema.from_plain(extra["schema"])
    table = read(data, text=schema.text)
    compile_cache.enable()
    X = pipeline.inputs(table, schema)
    X = np.ascontiguousarray(X) if isinstance(X, np.ndarray) else X
    spare = [name for name in table.names if name not in {*schema.features, schema.target}]
    notices = [f"columns ignored: {', '.join(spare[:8])}{', ...' if len(spare) > 8 else ''}"] * bool(spare)
    notices += pipeline.missing_notice(X, schema) + pipeline.unseen_notice(X, fitted, schema)
    columns = {"row": np.arange(1, table.rows + 1)}
    with quiet():
        if schema.kind == "reduction":
            scores = np.asarray(fitted.transform(X))
            columns |= {f"component_{i + 1}": scores[:, i] for i in range(scores.shape[1])}
        else:
            columns["predicted"] = np.asarray(fitted.predict(X))
            if schema.kind == "classification" and hasattr(fitted, "predict_proba"):
                probability = np.asarray(fitted.predict_proba(X))
                columns |= {f"probability_{c}": probability[:, i] for i, c in enumerate(fitted.classes_)}
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    if out is None:
        write_csv(typer.get_binary_stream("stdout"), columns)
        return 0
    import io

    buffer = io.BytesIO()
    write_csv(buffer, columns)
    model_file.write_atomically(out.absolute(), buffer.getvalue())
    print(f"{table.rows:,} predictions in {os.fspath(out)}")
    return 0
