"""Where metrics go: CSV, JSON lines, or TensorBoard's event files; each survives a kill and a resume.

A resumed run repeats the steps since its last checkpoint. Text logs drop those rows when they are opened (to a new
name, then renamed); an event file says from which step on earlier events are void, as TensorBoard's readers expect.
The event format is a TFRecord (length, masked CRC-32C, payload, masked CRC-32C) around a protocol-buffer message of
three fields, written by hand.
Source: TensorFlow, ``core/lib/io/record_writer``, ``core/util/event.proto``, ``core/framework/summary.proto``.
"""

from __future__ import annotations

import abc
import csv
import io
import json
import math
import os
import pathlib
import struct
import time
from collections.abc import Mapping
from typing import Any, final

from corollary.core.errors import InputError
from corollary.core.model_file import write_atomically


class Log(abc.ABC):
    """A place for rows of (step, values): opened at a step, written, closed."""

    @abc.abstractmethod
    def open(self, step: int) -> None:
        """Begin, or go on, at `step`: rows of later steps are void."""

    @abc.abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One row, on disk when this returns but for the system's own cache."""

    def close(self) -> None:  # noqa: B027
        """Nothing more comes."""


@final
class CSVLog(Log):
    """Metrics as a table: a header, and a row per logged step; columns that come late widen the table.

    Parameters
    ----------
    path
        The file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.csv"
    >>> log = CSVLog(path)
    >>> log.open(0)
    >>> log.write(10, {"loss": 0.5})
    >>> path.read_text().split()
    ['step,loss', '10,0.5']
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self._rows: list[dict[str, Any]] = []
        self._columns: list[str] = ["step"]

    def open(self, step: int) -> None:
        """Keep the rows up to `step`; a torn last line goes."""
        self._rows, self._columns = [], ["step"]
        if self.path.exists():
            with self.path.open(newline="") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or ["step"])
                if self._columns[0] != "step":
                    raise InputError(f"path: found {self.path} with columns {self._columns}, expected a metrics file")
                self._rows = [row for row in reader if _whole_number(row["step"]) <= step and None not in row.values()]
        self._rewrite()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append, or write anew where a column is new."""
        row = {"step": step, **{name: repr(float(value)) for name, value in values.items()}}
        self._rows.append(row)
        new = [name for name in row if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite()
            return
        text = io.StringIO()
        csv.DictWriter(text, self._columns, restval="").writerow(row)
        with self.path.open("a", newline="") as file:
            file.write(text.getvalue())

    def _rewrite(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns, restval="")
        writer.writeheader()
        writer.writerows(self._rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, text.getvalue().encode())


@final
class JSONLog(Log):
    """Metrics as JSON lines, one object a logged step; a number that JSON lacks is null.

    Parameters
    ----------
    path
        The file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> log = JSONLog(path)
    >>> log.open(0)
    >>> log.write(10, {"loss": 0.5})
    >>> path.read_text()
    '{"step": 10, "loss": 0.5}\\n'
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)

    def open(self, step: int) -> None:
        """Keep the lines up to `step`; a torn last line goes."""
        kept = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                row = json.loads(line)
                if row["step"] <= step:
                    kept.append(line + b"\n")
            except (ValueError, KeyError, TypeError):
                continue
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, b"".join(kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append."""
        row = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **row}) + "\n")


@final
class TensorBoardLog(Log):
    """Metrics as scalars of a TensorBoard event file; TensorBoard itself is not needed to write it.

    Parameters
    ----------
    folder
        Where the file goes; each start makes one more.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> log = TensorBoardLog(folder)
    >>> log.open(0)
    >>> log.write(10, {"loss": 0.5})
    >>> log.close()
    >>> len(list(folder.glob("events.out.tfevents.*")))
    1
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = pathlib.Path(folder)
        self._file: Any = None

    def open(self, step: int) -> None:
        """A new file; where it goes on from `step`, it says so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        started = time.time()
        name = f"events.out.tfevents.{int(started):010d}.corollary.{os.getpid()}.{time.monotonic_ns()}"
        self._file = (self.folder / name).open("wb")
        self._record(_double(1, started) + _bytes(3, b"brain.Event:2"))
        if step > 0:  # SessionLog.START: a reader drops earlier events of this step and later
            self._record(_double(1, started) + _varint_field(2, step) + _bytes(7, _varint_field(1, 1)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One event with a scalar a name."""
        summary = b"".join(
            _bytes(1, _bytes(1, name.encode()) + _float(2, float(value))) for name, value in values.items()
        )
        self._record(_double(1, time.time()) + _varint_field(2, step) + _bytes(5, summary))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _record(self, payload: bytes) -> None:
        header = struct.pack("<Q", len(payload))
        self._file.write(header + _masked_crc(header) + payload + _masked_crc(payload))


def _whole_number(text: Any) -> float:
    try:
        return int(text)
    except (TypeError, ValueError):
        return math.inf


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)  # the Castagnoli polynomial, reflected
        table.append(byte)
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli) checksum.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _masked_crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
