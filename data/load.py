"""The training, validation and test sets of a dataset, by its name in DATASETS or by its path."""

import glob
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.datasets import DATASETS
from data.formats import SPLITS, read_split

Dataset: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images X (N, 784), labels Y (N,)
HOME = Path(__file__).resolve().parent  # each published dataset has a folder of its own here
VALIDATION = 6  # the last sixth of the training set, on request: 10,000 of 60,000
MAX_CLASSES = 1000  # more are no labels, but numbers of samples, say


class Sets(NamedTuple):
    """What to train on, what to measure on, and the names of the classes."""

    training: Dataset
    measured: Dataset
    measured_on: str  # "test" or "validation"
    classes: tuple[str, ...]


def parse_dataset(text: str) -> str:
    """A flag's type: a name in DATASETS, or a path, also of files whose names begin with it."""
    path = Path(text)
    if text in DATASETS:
        return text
    try:
        if text and (path.exists() or any(path.parent.glob(f"{glob.escape(path.name)}*"))):
            return str(path.resolve() if str(path) in DATASETS else path)
    except OSError as error:
        raise ArgumentTypeError(f"cannot be read: {error.strerror}, {text[:200]!r}") from None
    raise ArgumentTypeError(f"must be {', '.join(DATASETS)} or a path to one's own samples, got {text!r}")


def load(dataset: str, split: str, classes: Sequence[str] = ()) -> Dataset:
    """The images X and the labels Y of one split, "train" or "test", of a dataset, as parse_dataset takes it.

    X: (N, 784) uint8, a row for each image, 0 for its background, 255 for full ink.
    Y: (N,) int64, places in the classes; empty where a test set of one's own has no labels.
    classes: of one's own samples; if none are given, all labels that there are.
    FileNotFoundError for what is missing, ValueError for what is not as it should be.
    """
    return load_named(dataset, split, classes)[0]


def load_named(dataset: str, split: str, classes: Sequence[str]) -> tuple[Dataset, tuple[str, ...]]:
    """As load, and the names of the classes."""
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}, only {' and '.join(SPLITS)}")
    published = DATASETS.get(dataset)
    try:
        images, labels = read_split(HOME / dataset if published else Path(dataset), split)
        if labels is None and (published or split == "train"):
            raise ValueError(f"the {split} set of {dataset} has no labels, first of 785 numbers or as names of folders")
        values, Y = np.unique(np.empty(0, np.uint8) if labels is None else labels, return_inverse=True)
        found = tuple(map(str, values.tolist()))
        if len(found) > MAX_CLASSES:
            raise ValueError(f"the {split} set of {dataset} has {len(found)} different labels, more than {MAX_CLASSES}")
        known = list(map(str, range(len(published.classes)))) if published else list(classes or found)
        if strange := sorted({*found} - {*known}):
            raise ValueError(f"the {split} set of {dataset} has the label {strange[0]}, none of {', '.join(known)}")
    except (FileNotFoundError, ValueError) as error:
        remedy = f"; to put it right: make data DATASET={dataset}" if published else ""
        raise type(error)(f"{error}{remedy}") from None
    places = np.array([known.index(name) for name in found], np.int64)
    return (images, places[Y]), published.classes if published else tuple(known)


def load_sets(dataset: str, validation: bool = False, samples: int = 0, classes: Sequence[str] = ()) -> Sets:
    """The training set, or its first samples, and the test set; with validation, its first five sixths and last sixth.

    validation: whether to measure on the last sixth of the training set, as is done where there are no test labels.
    One's own samples, where some are set apart, are shuffled first, each time alike, as they may be sorted by class.
    classes: as for load. ValueError for more samples than there are.
    """
    (X, Y), names = load_named(dataset, "train", classes)
    if len(names) < 2:
        raise ValueError(f"{dataset} has one class, {names[0]}: there is nothing to tell apart")
    test = None if validation else load_test(dataset, names)
    if dataset not in DATASETS and (test is None or samples):
        order = np.random.default_rng(0).permutation(len(X))
        X, Y = X[order], Y[order]
    N = len(X) - (len(X) // VALIDATION if test is None else 0)
    if test is None and N == len(X):
        raise ValueError(f"{dataset} has {N} training samples, too few to set a sixth apart for validation")
    if samples > N:
        raise ValueError(f"there are {N} training samples, fewer than the {samples} asked for")
    training, which = (X[: samples or N], Y[: samples or N]), "test" if test else "validation"
    return Sets(training, test or (X[N:], Y[N:]), which, names)


def load_test(dataset: str, classes: Sequence[str]) -> Dataset | None:
    """The test set with its labels, None where one's own samples have no such set."""
    try:
        test = load(dataset, "test", classes)
    except FileNotFoundError:
        if dataset in DATASETS:
            raise
        return None
    return test if len(test[1]) else None


def load_measured(dataset: str, validation: bool, classes: Sequence[str], unlabelled: bool) -> tuple[Dataset, str]:
    """What load_sets would measure on, and which set that is; or, if unlabelled, the test set, with labels or none."""
    if unlabelled and validation:
        raise ValueError("predictions are written of the test set: leave out --validation")
    if unlabelled:
        return load(dataset, "test", classes), "test"
    test = None if validation else load_test(dataset, classes)
    return (test, "test") if test else (load_sets(dataset, True, 0, classes).measured, "validation")


def weights_name(dataset: str) -> str:
    """What weights and plots of a dataset are called: its name, or the last two parts of its path, FOLDER_NAME."""
    return dataset if dataset in DATASETS else "_".join(Path(dataset).resolve().parts[-2:]).lstrip("/")


def is_same(dataset: str, other: str) -> bool:
    """Whether two names or paths are of one dataset."""
    return dataset == other or not {dataset, other} & {*DATASETS} and Path(dataset).resolve() == Path(other).resolve()


def scale_pixels(X: NDArray[np.number]) -> NDArray[np.float32]:
    """Grey levels 0 to 255, of any shape, to 0 to 1."""
    scaled: NDArray[np.float32] = np.multiply(X, 1 / 255, dtype=np.float32)
    return scaled
