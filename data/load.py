"""Loads the images and their labels, after checking that each file is what its place says it is."""

import math
import os
import struct
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Dataset: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images X (N, 784), labels Y (N,)
HOME = Path(__file__).resolve().parent
CLASSES: dict[str, tuple[str, ...]] = {
    "mnist": ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    "fashion-mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
}
PREFIXES = {"train": "train", "test": "t10k"}  # of the file names
VALIDATION = 10_000  # the last training images, on request
IMAGE_SIZE = 28, 28  # rows and columns, in pixels


def load(dataset: str, split: str, folder: Path | None = None) -> Dataset:
    """Returns the images X and the labels Y of one split of a dataset.

    dataset: a key of CLASSES. split: "train" or "test".
    folder: where its files lie; if None, the one named after the dataset beside this file.
    X: (N, 784) uint8, a row for each image, 0 for its background, 255 for full ink.
    Y: (N,) int64, places in CLASSES[dataset].
    Raises FileNotFoundError for a missing file, ValueError for one that is not what it should be and for an
    unknown dataset or split.
    """
    for kind, value, known in (("dataset", dataset, list(CLASSES)), ("split", split, list(PREFIXES))):
        if value not in known:
            raise ValueError(f"there is no {kind} {value!r}, only {' and '.join(known)}")
    path = (folder or HOME / dataset) / PREFIXES[split]
    try:
        X = read_idx(path.with_name(f"{path.name}-images-idx3-ubyte"), IMAGE_SIZE)
        Y = read_idx(path.with_name(f"{path.name}-labels-idx1-ubyte"), ())
        if len(X) != len(Y):
            raise ValueError(f"{path}-*: found {len(X)} images and {len(Y)} labels, expected equal numbers")
        if Y.max() >= len(CLASSES[dataset]):
            raise ValueError(
                f"{path}-labels-idx1-ubyte: found label {Y.max()}, expected at most {len(CLASSES[dataset]) - 1}"
            )
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{error}; to put it right: make data DATASET={dataset}") from None
    return X.reshape(len(X), -1), Y.astype(np.int64)


def load_sets(dataset: str, validation: bool = False, samples: int = 0) -> tuple[Dataset, Dataset]:
    """The training set, or its first samples, and the test set; or what is left of the one without its last, and these.

    validation: whether to measure on the last VALIDATION training images. ValueError for more samples than there are.
    """
    X, Y = load(dataset, "train")
    N = len(X) - VALIDATION * validation
    if samples > N:
        raise ValueError(f"there are {N} training samples, fewer than the {samples} asked for")
    measured = (X[N:], Y[N:]) if validation else load(dataset, "test")
    return (X[: samples or N], Y[: samples or N]), measured


def read_idx(path: Path, item: tuple[int, ...]) -> NDArray[np.uint8]:
    """Returns what an IDX file holds, (count, *item): item is (rows, columns) for images, () for labels.

    Raises FileNotFoundError, or ValueError that names the file, what was found and what was expected.
    """
    fields = 2 + len(item)  # magic number, count and the item's axes, four bytes each
    with open(path, "rb") as stream:
        length = os.fstat(stream.fileno()).st_size
        if length < 4 * fields:
            raise ValueError(f"{path}: found {length} bytes, expected a header of {4 * fields} and more")
        magic, count, *axes = struct.unpack(f">{fields}I", stream.read(4 * fields))
        for what, found, expected in (
            ("magic number (2051 for images, 2049 for labels)", magic, 2049 + len(item)),
            ("size of an image", tuple(axes), item),
            ("length in bytes", length, 4 * fields + count * math.prod(item)),
        ):
            if found != expected:
                raise ValueError(f"{path}: {what} is {found}, expected {expected}")
        if count == 0:
            raise ValueError(f"{path}: found nothing after the header, expected at least one entry")
        return np.fromfile(stream, np.uint8).reshape(count, *item)


def scale_pixels(X: NDArray[np.number]) -> NDArray[np.float32]:
    """Grey levels 0 to 255, of any shape, to 0 to 1."""
    scaled: NDArray[np.float32] = np.multiply(X, 1 / 255, dtype=np.float32)
    return scaled
