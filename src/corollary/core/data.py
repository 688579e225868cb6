"""Data files: CSV, TSV, Parquet, NPZ and svmlight files, and scikit-learn's shipped data sets, as one `Table`.

A table keeps what it was given: an Arrow table for files of named columns (read by pyarrow, in parallel), a dense or
sparse matrix for NPZ and svmlight. Nothing is densified and text is not encoded here; `Table.select` hands the chosen
columns over as one matrix where all of them are numbers, and as an Arrow table where some are text.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from corollary.core.errors import InputError

SHIPPED = ("breast_cancer", "diabetes", "digits", "iris", "wine")
SUFFIXES = (".csv", ".tsv", ".parquet", ".npz", ".svmlight")


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows with named columns.

    Parameters
    ----------
    name
        What people call the data: a file's stem, or a shipped data set's name.
    frame
        A ``pyarrow.Table``, or a dense or sparse matrix whose columns are `names`.
    names
        Column names of `frame`.
    labels
        Columns kept beside the frame (``y`` of an NPZ file, an svmlight file's labels): targets, never features.
    notices
        What the reader did that a person should know.
    """

    name: str
    frame: Any
    names: tuple[str, ...]
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notices: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows."""
        return int(self.frame.shape[0])

    @property
    def sparse(self) -> bool:
        """Whether the frame is a sparse matrix."""
        return scipy.sparse.issparse(self.frame)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that can be asked for by name."""
        return (*self.names, *self.labels)

    def is_text(self, name: str) -> bool:
        """Whether a column holds text rather than numbers."""
        if name in self.labels or not _is_arrow(self.frame):
            return self.labels[name].dtype.kind in "UO" if name in self.labels else False
        import pyarrow as pa

        return pa.types.is_string(self.frame.schema.field(name).type)

    def empty(self) -> list[str]:
        """Columns of the frame in which every entry is missing."""
        if _is_arrow(self.frame):
            return [
                n for n, column in zip(self.names, self.frame.columns, strict=True) if column.null_count == self.rows
            ]
        return [] if self.sparse else [self.names[j] for j in np.flatnonzero(np.isnan(self.frame).all(axis=0))]

    def column(self, name: str) -> np.ndarray:
        """One column as a vector: floating numbers (missing: NaN), booleans, integers, or objects (missing: None)."""
        if name in self.labels:
            return self.labels[name]
        self._require([name])
        if _is_arrow(self.frame):
            return _vector(self.frame.column(name))
        part = self.frame[:, [self.names.index(name)]]
        return (part.toarray() if self.sparse else np.asarray(part)).ravel()

    def select(self, names: Sequence[str], text: Iterable[str] = ()) -> Any:
        """The named columns: one floating matrix, or an Arrow table where any of them is `text`.

        float32 columns stay float32 when all are; everything else becomes float64, a missing entry NaN.

        Raises
        ------
        InputError
            Where a column is missing, holds text but was not announced as `text`, or holds an infinity.
        """
        if not self.sparse:
            self._require(names)
        if _is_arrow(self.frame):
            return _select(self.frame, list(names), set(text))
        if tuple(names) == self.names:
            return self.frame
        position = {name: i for i, name in enumerate(self.names)}
        if self.sparse:  # an svmlight file names only what it stores: an absent column is a column of zeros
            kept = [name for name in names if name in position]
            place = {name: i for i, name in enumerate(names)}
            part = self.frame[:, [position[n] for n in kept]].tocoo()
            columns = np.asarray([place[n] for n in kept], dtype=np.int64)[part.col]
            return scipy.sparse.csr_matrix((part.data, (part.row, columns)), shape=(self.rows, len(names)))
        return self.frame[:, [position[n] for n in names]]

    def _require(self, names: Sequence[str]) -> None:
        if missing := sorted(set(names) - set(self.columns)):
            listed = ", ".join(repr(n) for n in missing[:5]) + (
                f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            )
            near = difflib.get_close_matches(missing[0], self.columns, n=3) or self.columns[:6]
            s = "s" if len(missing) > 1 else ""
            hint = ", ".join(repr(n) for n in near) + ("" if len(near) == len(self.columns) else ", ...")
            raise InputError(f"column{s} {listed}: not in {self.name}, which has {hint}")


def read(source: str | os.PathLike[str], text: Iterable[str] = ()) -> Table:
    """Read a data file by its suffix, or one of scikit-learn's shipped data sets by its name.

    Costs one pass over the file, O(rows · columns); CSV and Parquet are parsed in parallel by pyarrow.

    Parameters
    ----------
    source
        A ``.csv``, ``.tsv``, ``.parquet``, ``.npz``, ``.svmlight`` (or ``.libsvm``, ``.svm``) file, text ones also
        compressed (``.csv.gz``), or ``"breast_cancer"``, ``"diabetes"``, ``"digits"``, ``"iris"``, ``"wine"``.
    text
        Columns to be read as text whatever they look like (codes such as ``00123``).

    Raises
    ------
    InputError
        Where the file is missing, empty, ragged, of an unknown kind or holds a column that is neither numbers nor text.

    Examples
    --------
    >>> table = read("iris")
    >>> table.rows, table.names[0]
    (150, 'sepal length (cm)')
    >>> str(table.column("target")[0])
    'setosa'
    """
    path = pathlib.Path(source)
    if str(source) in SHIPPED and not path.is_file():
        return _shipped(str(source))
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(
            f"DATA: {str(source)!r} {found}; expected a file ({', '.join(SUFFIXES)}) or one of {', '.join(SHIPPED)}"
        )
    suffix = path.with_suffix("").suffix if path.suffix in (".gz", ".bz2") else path.suffix
    reader = _READERS.get(suffix.lower())
    if reader is None:
        raise InputError(f"DATA: found {path.name!r}, expected a file ending in {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise InputError(f"DATA: {path.name} is empty, expected a header line and rows")
    table = reader(path, tuple(text))
    if len(set(table.columns)) < len(table.columns):
        twice = next(n for i, n in enumerate(table.columns) if n in table.columns[:i])
        raise InputError(f"column {twice!r}: found twice in {path.name}, expected distinct names")
    if table.rows == 0:
        raise InputError(f"DATA: found no rows in {path.name}, expected at least one")
    return table


def _csv(path: pathlib.Path, text: tuple[str, ...]) -> Table:
    import pyarrow as pa
    import pyarrow.csv

    header = _first_line(path)
    delimiter = "\t" if ".tsv" in path.suffixes else max(",;\t", key=header.count)
    cells = next(csv.reader([header], delimiter=delimiter))
    nameless = all(_is_number(cell) for cell in cells)  # numbers all along: data, not names
    names = [f"column_{i}" if nameless or not cell.strip() else cell.strip() for i, cell in enumerate(cells)]
    notices = ("the first line holds only numbers: columns are named column_0, column_1, ...",) if nameless else ()
    types: dict[str, Any] = {name: pa.string() for name in text if name in names}
    # A block must hold many rows even of a very wide file: a cell costs tens of bytes, a chunk of a column thousands.
    block = max(1 << 20, 2560 * len(names))
    while True:  # Arrow infers a column's type from the first block; a later misfit widens the type and reads again
        try:
            frame = pyarrow.csv.read_csv(
                path,
                read_options=pyarrow.csv.ReadOptions(
                    column_names=names, skip_rows=0 if nameless else 1, block_size=min(block, 1 << 30)
                ),
                parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
                convert_options=pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True),
            )
            break
        except pa.ArrowInvalid as error:
            misfit = re.search(r"In CSV column #(\d+): .*conversion error to (\w+)", str(error))
            if misfit is None:
                raise InputError(f"DATA: {path.name}: {_csv_reason(str(error), len(names))}") from error
            block *= 16  # so that the next inference sees more of the file
            name, was = names[int(misfit[1])], misfit[2]
            types[name] = pa.float64() if was.startswith(("int", "null")) and name not in types else pa.string()
    return _from_arrow(path, frame, notices)


def _parquet(path: pathlib.Path, text: tuple[str, ...]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet

    try:
        return _from_arrow(path, pyarrow.parquet.read_table(path), (), text)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"DATA: {path.name} is not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _npz(path: pathlib.Path, text: tuple[str, ...]) -> Table:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"DATA: {path.name} is not a readable NPZ file of plain arrays ({error})") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "biufU":
            raise InputError(f"column {name!r}: found an array of {array.dtype}, expected numbers or text")
    matrices = {name: a for name, a in arrays.items() if a.ndim == 2}
    vectors = {name: a for name, a in arrays.items() if a.ndim == 1}
    if not matrices:
        lengths = {name: len(a) for name, a in vectors.items()}
        if not vectors or len(set(lengths.values())) > 1:
            raise InputError(f"DATA: {path.name}: found arrays of lengths {lengths}, expected equal ones")
        import pyarrow as pa

        return _from_arrow(path, pa.table(vectors), (), text)
    name = "X" if "X" in matrices else next(iter(matrices))
    matrix = matrices[name]
    if matrix.dtype.kind not in "biuf":
        raise InputError(f"column {name!r}: found an array of {matrix.dtype}, expected numbers")
    matrix = matrix if matrix.dtype in (np.float32, np.float64) else matrix.astype(np.float64)
    _refuse_infinities(matrix, [f"{name}{i}" for i in range(matrix.shape[1])])
    labels = {key: a for key, a in vectors.items() if len(a) == len(matrix)}
    ragged = {key: len(a) for key, a in vectors.items() if len(a) != len(matrix) and key in ("y", "target")}
    if ragged:
        raise InputError(f"DATA: {path.name}: found {name} of {len(matrix)} rows and {ragged}, expected equal lengths")
    names = next(
        (a for key, a in vectors.items() if a.dtype.kind == "U" and "names" in key and len(a) == matrix.shape[1]), None
    )
    names = tuple(f"{name}{i}" for i in range(matrix.shape[1])) if names is None else tuple(names.tolist())
    return Table(path.stem, matrix, names, labels)


def _svmlight(path: pathlib.Path, text: tuple[str, ...]) -> Table:
    from sklearn.datasets import load_svmlight_file

    try:
        # Columns are called by their index in the file, so that two files agree whether counted from zero or one.
        matrix, y = load_svmlight_file(str(path), zero_based=True)  # type: ignore[arg-type]
    except (ValueError, OSError) as error:
        raise InputError(f"DATA: {path.name} is not a readable svmlight file ({error})") from error
    if not (np.isfinite(matrix.data).all() and np.isfinite(y).all()):
        raise InputError(f"DATA: {path.name}: found NaN or infinity, expected finite numbers")
    first = 1 if matrix.shape[1] > 1 and matrix[:, [0]].nnz == 0 else 0
    names = tuple(str(i) for i in range(first, matrix.shape[1]))
    return Table(path.stem.split(".")[0], scipy.sparse.csr_matrix(matrix[:, first:]), names, {"target": y})


def _shipped(name: str) -> Table:
    import sklearn.datasets

    bunch = getattr(sklearn.datasets, f"load_{name}")()
    y = bunch.target
    if name != "digits" and "target_names" in bunch:
        y = bunch.target_names[y].astype(object)
    return Table(name, bunch.data, tuple(str(n) for n in bunch.feature_names), {"target": y})


_READERS: dict[str, Callable[[pathlib.Path, tuple[str, ...]], Table]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".pq": _parquet,
    ".npz": _npz,
    ".svmlight": _svmlight,
    ".libsvm": _svmlight,
    ".svm": _svmlight,
}


def _from_arrow(path: pathlib.Path, frame: Any, notices: tuple[str, ...], text: tuple[str, ...] = ()) -> Table:
    """Plain columns only: numbers, booleans, text; a date becomes its day since 1970."""
    import pyarrow as pa
    import pyarrow.compute as pc

    dates, columns, changed = [], [], False
    for i, field in enumerate(frame.schema):
        kind, column = field.type, frame.column(i)
        if pa.types.is_dictionary(kind):
            kind, column = kind.value_type, column.cast(kind.value_type)
        if field.name in text or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            kind, column = pa.string(), column.cast(pa.string())
        elif pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            stamps = (
                column.cast(pa.timestamp("us", getattr(kind, "tz", None)))
                .cast(pa.int64())
                .cast(pa.float64(), safe=False)
            )
            kind, column = pa.float64(), pc.divide(stamps, 86400e6)  # type: ignore[attr-defined]
            dates.append(field.name)
        elif pa.types.is_null(kind) or pa.types.is_decimal(kind) or pa.types.is_float16(kind):
            kind, column = pa.float64(), column.cast(pa.float64())
        if not (_is_numeric(kind) or pa.types.is_string(kind)):
            raise InputError(f"column {field.name!r}: found {field.type}, expected numbers or text")
        changed |= column.type != field.type
        columns.append(column)
    if changed:
        frame = pa.table(columns, names=frame.column_names)
    if dates:
        notices += (f"dates are counted in days since 1970: {', '.join(dates)}",)
    return Table(path.stem.split(".")[0], frame, tuple(frame.column_names), {}, notices)


def _select(frame: Any, names: list[str], text: set[str]) -> Any:
    import pyarrow as pa

    for name in names:
        if (pa.types.is_string(frame.schema.field(name).type)) and name not in text:
            example = next((v for v in frame.column(name).to_pylist() if v is not None), None)
            if example is not None:
                raise InputError(f"column {name!r}: found text ({example!r}), expected numbers")
            frame = frame.set_column(frame.column_names.index(name), name, pa.nulls(len(frame), pa.float64()))
    numbers = [name for name in names if name not in text]
    single = numbers and all(frame.schema.field(name).type == pa.float32() for name in numbers)
    matrix = np.empty((len(frame), len(numbers)), np.float32 if single else np.float64, order="F")
    for j, name in enumerate(numbers):
        matrix[:, j] = _vector(frame.column(name))
    _refuse_infinities(matrix, numbers)
    if not text.intersection(names):
        return matrix
    place = {name: j for j, name in enumerate(numbers)}
    columns = [frame.column(n).cast(pa.string()) if n in text else pa.array(matrix[:, place[n]]) for n in names]
    return pa.table(columns, names=names)


def _vector(column: Any) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_boolean(column.type) and column.null_count:
        column = column.cast(pa.uint8())
    return column.to_numpy()


def _refuse_infinities(matrix: np.ndarray, names: Sequence[str]) -> None:
    for j, name in enumerate(names):
        if np.isinf(matrix[:, j]).any():
            row = int(np.flatnonzero(np.isinf(matrix[:, j]))[0])
            raise InputError(f"column {name!r}: found an infinity in data row {row + 1}, expected finite numbers")


def _is_arrow(frame: Any) -> bool:
    return not isinstance(frame, np.ndarray) and not scipy.sparse.issparse(frame)


def _is_numeric(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _first_line(path: pathlib.Path) -> str:
    import bz2
    import gzip

    opener: Any = {".gz": gzip.open, ".bz2": bz2.open}.get(path.suffix, open)
    try:
        with opener(path, "rt", encoding="utf-8-sig") as file:
            line = file.readline().rstrip("\r\n")
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise InputError(f"DATA: {path.name} is not UTF-8 text ({error})") from error
    if not line.strip():
        raise InputError(f"DATA: {path.name} begins with an empty line, expected a header line")
    return line


def _csv_reason(reason: str, columns: int) -> str:
    if ragged := re.search(r"(Row #\d+: )?Expected (\d+) columns, got (\d+)(: .*)?", reason):
        where = f" in the row that begins {ragged[4][2:40]!r}" if ragged[4] else ""
        return f"found {ragged[3]} cells{where}, expected {columns} as in the header line"
    return reason.splitlines()[0]
