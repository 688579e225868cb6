"""Image files: written by hand in each format's own bytes, read back, and every kind of damage told by name."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from corollary.core import InputError, read_idx, read_images, write_idx

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)
LABELS = np.arange(5, dtype=np.uint8)


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("name", ["a.idx", "a.idx.gz"])
def test_idx_round_trip(tmp_path, kind, name):
    array = RNG.integers(0, 100, (3, 2, 4)).astype(kind)
    write_idx(tmp_path / name, array)
    back = read_idx(tmp_path / name)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_idx_bytes_are_the_published_ones(tmp_path):
    write_idx(tmp_path / "a", np.asarray([[1, 2, 3]], np.int16))
    assert (tmp_path / "a").read_bytes() == bytes([0, 0, 0x0B, 2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 1, 0, 2, 0, 3])


def test_mnist_folder(tmp_path):
    for prefix, pixels in (("train", PIXELS), ("t10k", PIXELS[:2])):
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte.gz", pixels)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte", LABELS[: len(pixels)])
    train, test = read_images(tmp_path), read_images(tmp_path, "test")
    np.testing.assert_array_equal(train.pixels, PIXELS[..., None])
    np.testing.assert_array_equal(train.labels, LABELS)
    assert test.pixels.shape == (2, 4, 3, 1)
    one = read_images(tmp_path / "train-images-idx3-ubyte.gz")
    np.testing.assert_array_equal(one.labels, LABELS)


def test_cifar_batches(tmp_path):
    images = RNG.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(4, -1)
    rows = np.concatenate([np.arange(4, dtype=np.uint8)[:, None], planes], axis=1)
    (tmp_path / "data_batch_1.bin").write_bytes(rows[:3].tobytes())
    (tmp_path / "data_batch_2.bin").write_bytes(rows[3:].tobytes())
    pixels, labels = read_images(tmp_path)
    np.testing.assert_array_equal(pixels, images)
    np.testing.assert_array_equal(labels, np.arange(4))
    fine = np.concatenate([np.full((4, 1), 9, np.uint8), rows], axis=1)
    (tmp_path / "test.bin").write_bytes(fine.tobytes())
    np.testing.assert_array_equal(read_images(tmp_path, "test").labels, np.arange(4))


def test_npz(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=PIXELS, y_train=LABELS[:, None], x_test=PIXELS[:1], y_test=LABELS[:1])
    train, test = read_images(tmp_path / "a.npz"), read_images(tmp_path / "a.npz", "test")
    assert train.pixels.shape == (5, 4, 3, 1)
    np.testing.assert_array_equal(train.labels, LABELS)
    assert len(test.pixels) == 1
    np.savez(tmp_path / "b.npz", images=PIXELS.astype(np.float32))
    assert read_images(tmp_path / "b.npz").labels is None


def test_damage_is_told(tmp_path):
    def refused(message, source, split="train"):
        with pytest.raises(InputError, match=message):
            read_images(source, split)

    refused("split: found 'valid'", tmp_path, "valid")
    refused("no train images", tmp_path)
    refused("is not a file", tmp_path / "absent")
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02}")
    refused("pickled CIFAR", tmp_path)
    write_idx(tmp_path / "images.idx", PIXELS)
    whole = (tmp_path / "images.idx").read_bytes()
    for cut, message in ((3, "magic number"), (9, "within its header"), (len(whole) - 1, "expected 76")):
        (tmp_path / "cut-images").write_bytes(whole[:cut])
        refused(message, tmp_path / "cut-images")
    (tmp_path / "cut-images").write_bytes(gzip.compress(whole)[:-9])
    refused("damaged gzip", tmp_path / "cut-images")
    write_idx(tmp_path / "vector", LABELS)
    refused(r"expected images \(n, height", tmp_path / "vector")
    write_idx(tmp_path / "labels.idx", LABELS[:3])
    refused("5 images and 3 labels", tmp_path / "images.idx")
    (tmp_path / "a.bin").write_bytes(b"\0" * 3000)
    refused("multiple of 3073", tmp_path / "a.bin")
    np.savez(tmp_path / "a.npz", z=LABELS)
    refused("expected images 'x'", tmp_path / "a.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    refused("not a readable NPZ", tmp_path / "torn.npz")
    with (tmp_path / "one.npz").open("wb") as file:
        np.save(file, PIXELS)
    refused("one array, not an archive", tmp_path / "one.npz")
    with pytest.raises(InputError, match="found complex128"):
        write_idx(tmp_path / "c", np.ones(2, complex))
