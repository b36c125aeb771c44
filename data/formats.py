"""Reads labelled images from a folder, in any of the layouts that datasets of 28x28 images come in.

- IDX files, plain or gzipped, as MNIST's, EMNIST's and torchvision's are named; also in MNIST/raw and raw
- train.csv and test.csv, as Kaggle's: a line a sample, the label first
- an npz archive, as Keras's, with x_train, y_train, x_test and y_test
- train/CLASS/*.png and test/CLASS/*.png, or any other image that Pillow reads

Names may begin with anything: emnist-letters-train-images-idx3-ubyte.gz. Where several datasets lie in a folder, a
path that ends with the beginning of such names, folder/emnist-letters, tells which is meant. Files whose names begin
with emnist hold each image transposed, as EMNIST does; they are turned upright.
"""

import csv
import gzip
import io
import itertools
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from data.datasets import PIXELS, SIDE
from data.files import write_whole

Images: TypeAlias = NDArray[np.uint8]  # (N, 784), a row for each image, 0 for its background, 255 for full ink
Labels: TypeAlias = NDArray[np.integer] | NDArray[np.str_]  # (N,), as they stand in the files
SPLITS = {"train": "train", "test": "(t10k|test)"}  # how files of each are named
MAX_BYTES = 1 << 31  # of a file's content


def read_split(place: Path, split: str) -> tuple[Images, Labels | None]:
    """The images of a split, "train" or "test", and its labels, None where the files hold none.

    place: a folder, a file in it, or the beginning of their names. FileNotFoundError where there is no such split;
    ValueError that names the file, what was found and what was expected.
    """
    start = f"(.*[-_.])?{SPLITS[split]}"
    path: Path | None
    labels: Labels | None
    if (path := place / split).is_dir():
        images, labels = read_folders(path)
    elif path := find(place, rf"{start}[-_.]images[-_.]idx3[-_.]ubyte(\.gz)?"):
        beside = find(place, rf"{start}[-_.]labels[-_.]idx1[-_.]ubyte(\.gz)?")
        if beside is None:
            raise ValueError(f"beside {path} lie no labels, {path.name.replace('images-idx3', 'labels-idx1')}")
        images, labels = read_idx(path, (SIDE, SIDE)), read_idx(beside, ())
    elif path := find(place, rf"{start}\.csv(\.gz)?"):
        images, labels = read_csv(path)
    elif path := find(place, r".*\.npz"):
        images, labels = read_npz(path, split)
    else:
        raise FileNotFoundError(missing(place, split))
    if len(images) == 0 and split == "test":
        raise FileNotFoundError(f"{path} holds no test set: it is empty")
    if len(images) == 0 or labels is not None and len(images) != len(labels):
        count = 0 if labels is None else len(labels)
        raise ValueError(f"{path}: found {len(images)} images and {count} labels, expected equal numbers, at least 1")
    if path.name.lower().startswith("emnist"):
        images = images.reshape(-1, SIDE, SIDE).swapaxes(1, 2)
    return images.reshape(-1, PIXELS), labels


def find(place: Path, pattern: str) -> Path | None:
    """The file at place whose name is of that pattern, plain before gzipped. ValueError where there are several."""
    folder, prefix = (place, "") if place.is_dir() else (place.parent, place.name)
    paths = sorted(path for glob in ("*", "raw/*", "*/raw/*") for path in folder.glob(glob) if path.is_file())
    fit = [path for path in paths if path.name.startswith(prefix) and re.fullmatch(pattern, path.name, re.IGNORECASE)]
    found = {path.with_name(path.name.removesuffix(".gz")): path for path in reversed(fit)}
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in sorted(found))
        raise ValueError(f"{place} holds several datasets, {names}; name one by its path, or by how its names begin")
    return next(iter(found.values()), None)


def missing(place: Path, split: str) -> str:
    """What to say where no split was found."""
    folder = place if place.is_dir() else place.parent
    if packed := [path.name for path in sorted(folder.glob("*.zip")) if folder == place or path == place]:
        return f"{folder} holds {packed[0]}, still packed; unpack it there"
    layouts = f"IDX files, {split}.csv, an npz archive, or a folder {split}/CLASS of images for each class"
    return f"{place} holds no {split} set: found no {layouts}"


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, plain or gzipped. ValueError that names it for what goes wrong while it is read."""
    try:
        with open(path, "rb") as file:
            packed = file.peek(2).startswith(b"\x1f\x8b")
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file) if packed else file)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: {error}") from error


def read_idx(path: Path, item: tuple[int, ...]) -> NDArray[np.uint8]:
    """What an IDX file holds, plain or gzipped, (count, *item): item is (rows, columns) for images, () for labels."""
    fields = 2 + len(item)  # magic number, count and the item's axes, four bytes each
    with opened(path) as file:
        header = file.read(4 * fields)
        if len(header) < 4 * fields:
            raise ValueError(f"found {len(header)} bytes, expected a header of {4 * fields} and more")
        magic, count, *axes = struct.unpack(f">{fields}I", header)
        if magic != 2049 + len(item):
            raise ValueError(f"magic number (2051 for images, 2049 for labels) is {magic}, not {2049 + len(item)}")
        if tuple(axes) != item:
            raise ValueError(f"size of an image is {tuple(axes)}, expected {item}")
        length = count * math.prod(item)
        if length > MAX_BYTES:
            raise ValueError(f"the header says that {length} bytes follow; at most {MAX_BYTES} are read")
        content = file.read(length + 1)
        if len(content) != length:
            found = f"more than {length}" if len(content) > length else len(content)
            raise ValueError(f"after the header come {found} bytes, expected {length} for {count} entries")
    return np.frombuffer(content, np.uint8).reshape(count, *item)


def read_csv(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Images (N, 784) and labels (N,) of a CSV file; None where each line is an image alone, or begins with an id."""
    with opened(path) as file:
        lines = io.TextIOWrapper(file, "utf-8-sig", "replace")
        first = lines.readline()
        name = first.partition(",")[0].strip('" \n')
        header = not re.fullmatch(r"[-+.\d]*", name)
        columns = first.count(",") + 1
        if columns > PIXELS and name.lower().startswith("pixel"):
            raise ValueError(f"line 1 begins with {name}, expected the label first")
        if columns not in (PIXELS, PIXELS + 1):
            raise ValueError(f"line 1 has {columns} columns, expected a label and {PIXELS} grey levels")
        if not (sample := lines.readline() if header else first):
            raise ValueError("found no samples")
        try:
            table: NDArray[np.uint8] = np.loadtxt(itertools.chain([sample], lines), np.uint8, delimiter=",", ndmin=2)
        except ValueError as error:  # NumPy counts rows from 0 where it could not convert, else from 1
            counted = header + ("convert" in str(error))
            said = str(error).partition("; use ")[0]
            raise ValueError(re.sub(r"row (\d+)", lambda row: f"line {int(row[1]) + counted}", said)) from None
        if table.shape[1] != columns:
            raise ValueError(f"line 1 has {columns} columns, the others {table.shape[1]}")
    if columns > PIXELS and name.lower() not in ("id", "imageid"):
        return table[:, 1:], table[:, 0]
    return table[:, columns - PIXELS :], None


def read_npz(path: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.integer] | None]:
    """Images and labels, if any, of a split of an npz archive. Pickled objects in it are refused, never loaded."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays[f"x_{split}"]
            labels = arrays[f"y_{split}"] if split == "train" or f"y_{split}" in arrays else None
    except KeyError as error:
        raise FileNotFoundError(f"{path}: {error.args[0]}") from None
    except Exception as error:  # a damaged archive can raise nearly any
        raise ValueError(f"{path} does not hold x_{split} and y_{split} as plain arrays: {error!r:.300}") from error
    if images.shape[1:] not in ((SIDE, SIDE), (PIXELS,)):
        raise ValueError(f"{path}: x_{split} {images.shape} must be (N, {SIDE}, {SIDE})")
    if images.dtype.kind not in "iu" or ((images < 0) | (images > 255)).any():
        raise ValueError(f"{path}: x_{split} must be whole numbers in 0..255")
    if labels is not None:
        if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iu":
            raise ValueError(f"{path}: y_{split} {labels.shape} must be {len(images)} whole numbers")
        labels = labels.reshape(len(images))
    return images.astype(np.uint8), labels


def read_folders(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.str_] | None]:
    """Images (N, 28, 28) in folders that are named as their classes, and those names, None where they are in none."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ValueError(f"to read the images in {folder}, install Pillow: make .venv/demo") from None
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    names = [path.name for path in entries if path.is_dir()]
    if strange := [name for name in names if not name.isprintable()]:
        raise ValueError(f"{folder} holds a class whose name cannot be printed, {strange[0]!r}")
    if names and (loose := [path.name for path in entries if not path.is_dir()]):
        raise ValueError(f"{folder} holds folders of classes, and {loose[0]} beside them; move it into one")
    inside = [path for name in names for path in sorted((folder / name).iterdir()) if not path.name.startswith(".")]
    paths = inside if names else entries
    images = np.empty((len(paths), SIDE, SIDE), np.uint8)
    for image, path in zip(images, paths):
        try:
            with Image.open(path) as file:
                if file.size != (SIDE, SIDE):
                    raise ValueError("is {} x {} pixels, expected 28 x 28".format(*file.size))
                if file.mode[0] in "IF" or file.has_transparency_data:
                    raise ValueError("has more than 8 bits a pixel, or transparency; save it in plain grey")
                image[:] = file.convert("L")
        except UnidentifiedImageError:
            raise ValueError(f"{path} is not an image that can be read") from None
        except Exception as error:  # a damaged image can raise nearly any
            raise ValueError(f"{path} {error}") from error
    return images, np.array([path.parent.name for path in paths], np.str_) if names else None


def save_predictions(path: Path, names: Sequence[str]) -> None:
    """Writes the names of predicted classes as Kaggle takes them: a line ImageId,Label for each, counted from 1.

    FileExistsError where path holds anything else.
    """
    if path.is_file() and not path.read_bytes().startswith(b"ImageId,"):
        raise FileExistsError(f"{path} holds no predictions, and is not replaced; name another file")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("ImageId", "Label"), *enumerate(names, start=1)])
    write_whole(path, text.getvalue().encode())
