"""Image files: IDX (MNIST and its kin), CIFAR's binary batches and NPZ, as pixels and labels.

`read_images` takes a file or a folder and finds the labels that belong to the pixels; `read_idx` reads one IDX file of
any type and shape. Nothing is unpickled: CIFAR's "python version" is refused by name. Cost: one pass over the file.
"""

from __future__ import annotations

import gzip
import os
import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

from corollary.core.errors import InputError

# IDX: the third byte of the magic number names the type of the entries, all big-endian.
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class Images(NamedTuple):
    """Pixels of shape ``(n, height, width, channels)`` as they lie in the file, and their labels (n,), or None."""

    pixels: np.ndarray
    labels: np.ndarray | None


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """One IDX file, plain or gzipped, as an array of the file's own shape and type.

    Raises
    ------
    InputError
        Where the file is missing, is no IDX file, or is shorter or longer than its header says.
    """
    path = pathlib.Path(path)
    data = _content(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES:
        raise InputError(f"path: {path.name} begins with {data[:4]!r}, expected an IDX file's magic number")
    kind, dimensions = np.dtype(IDX_TYPES[data[2]]), data[3]
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise InputError(f"path: {path.name} ends within its header, expected {dimensions} sizes")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", dimensions, offset=4))
    expected = start + kind.itemsize * int(np.prod(shape, dtype=object))
    if len(data) != expected:
        raise InputError(f"path: found {len(data)} bytes in {path.name}, expected {expected} for shape {shape}")
    return np.frombuffer(data, kind, offset=start).reshape(shape).astype(kind.newbyteorder("="))


def write_idx(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Write an array as an IDX file, gzipped where the name ends in ``.gz``: the inverse of `read_idx`.

    Raises
    ------
    InputError
        Where the array's type has no IDX code (8-bit, int16, int32, float32 and float64 have one).
    """
    array = np.asarray(array)
    big = array.dtype.newbyteorder(">")
    code = next((code for code, kind in IDX_TYPES.items() if np.dtype(kind) == big), None)
    if code is None or array.ndim > 255:
        raise InputError(f"array: found {array.dtype}, expected uint8, int8, int16, int32, float32 or float64")
    header = bytes([0, 0, code, array.ndim]) + np.asarray(array.shape, ">u4").tobytes()
    data = header + array.astype(big).tobytes()
    pathlib.Path(path).write_bytes(gzip.compress(data) if str(path).endswith(".gz") else data)


def read_images(source: str | os.PathLike[str], split: str = "train") -> Images:
    """Images and labels from a folder or a file, in the format that they have.

    Parameters
    ----------
    source
        - a folder with MNIST's pair of IDX files (``train-images-idx3-ubyte``, ``t10k-...`` for the test split, gzipped
          or not), or with CIFAR-10's or CIFAR-100's binary batches (``data_batch_1.bin`` ..., ``train.bin``);
        - one IDX file of images: the labels are read from the file beside it, where there is one;
        - one CIFAR binary batch;
        - an NPZ file with an array of images (``x``, ``X``, ``images`` or ``x_train``) and, if any, labels (``y``,
          ``labels`` or ``y_train``).
    split
        ``"train"`` or ``"test"``, where the source holds both.

    Returns
    -------
    Images
        Pixels as stored (uint8 mostly), ``(n, height, width, channels)``; CIFAR-100's labels are the fine ones.

    Raises
    ------
    InputError
        Where nothing readable is found, a file is truncated, or counts of images and labels differ.
    """
    path = pathlib.Path(source)
    if split not in ("train", "test"):
        raise InputError(f"split: found {split!r}, expected 'train' or 'test'")
    if path.is_dir():
        images = _folder(path, split)
    elif path.suffix == ".npz":
        images = _npz(path, split)
    elif path.suffix == ".bin":
        images = _cifar(path)
    else:
        images = _idx_pair(path)
    if images.labels is not None and len(images.labels) != len(images.pixels):
        raise InputError(
            f"source: found {len(images.pixels)} images and {len(images.labels)} labels, expected as many of each"
        )
    return images


def _content(path: pathlib.Path) -> bytes:
    if not path.is_file():
        raise InputError(f"path: {str(path)!r} is not a file, expected one")
    data = path.read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"path: {path.name} is a damaged gzip file ({error})") from error


def _folder(path: pathlib.Path, split: str) -> Images:
    mnist = "train" if split == "train" else "t10k"
    for name in (f"{mnist}-images-idx3-ubyte", f"{mnist}-images.idx3-ubyte"):
        for file in (path / name, path / f"{name}.gz"):
            if file.is_file():
                return _idx_pair(file)
    batches = sorted(path.glob("data_batch_*.bin")) if split == "train" else [path / "test_batch.bin"]
    batches = [b for b in batches if b.is_file()] or [path / f"{split}.bin"]
    if all(b.is_file() for b in batches):
        parts = [_cifar(b) for b in batches]
        return Images(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    pickled = next(path.glob("*_batch*"), None)
    hint = "; a pickled CIFAR version is not read, take the binary one" if pickled else ""
    raise InputError(
        f"source: found no {split} images in {str(path)!r}, expected IDX files or CIFAR binary batches{hint}"
    )


def _idx_pair(path: pathlib.Path) -> Images:
    pixels = read_idx(path)
    if pixels.ndim not in (3, 4):
        raise InputError(f"source: found shape {pixels.shape} in {path.name}, expected images (n, height, width)")
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    twins = [beside, beside.with_suffix("") if beside.suffix == ".gz" else beside.with_name(beside.name + ".gz")]
    labels = next((read_idx(t) for t in twins if t != path and t.is_file()), None)
    return Images(pixels if pixels.ndim == 4 else pixels[..., None], labels)


def _cifar(path: pathlib.Path) -> Images:
    data = np.frombuffer(_content(path), np.uint8)
    # A record is the label (CIFAR-100: coarse, then fine) and 3072 bytes, plane by plane: red, green, blue.
    hundred = int(path.name in ("train.bin", "test.bin"))
    record = 3072 + 1 + hundred
    if len(data) == 0 or len(data) % record:
        raise InputError(f"source: found {len(data)} bytes in {path.name}, expected a multiple of {record}")
    rows = data.reshape(-1, record)
    pixels = rows[:, 1 + hundred :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(np.ascontiguousarray(pixels), rows[:, hundred].astype(np.int64))


def _npz(path: pathlib.Path, split: str) -> Images:
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("one array, not an archive")
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        raise InputError(f"source: {path.name} is not a readable NPZ file of plain arrays ({error})") from error
    pixels = next((arrays[n] for n in (f"x_{split}", "x", "X", "images", "pixels") if n in arrays), None)
    labels = next((arrays[n] for n in (f"y_{split}", "y", "labels", "target") if n in arrays), None)
    if pixels is None or pixels.ndim not in (3, 4) or pixels.dtype.kind not in "uif":
        shapes = {name: a.shape for name, a in arrays.items()}
        raise InputError(f"source: found {shapes} in {path.name}, expected images 'x' (n, height, width[, channels])")
    return Images(pixels if pixels.ndim == 4 else pixels[..., None], None if labels is None else labels.ravel())
