"""The batches of an epoch: an iterator over a shuffled dataset, augmented on the way."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from data.augment import NOISE, Floats, Images, Strengths, augment
from data.load import scale_pixels

Batch: TypeAlias = tuple[Images, NDArray[np.floating]]  # images (N, 784), targets (N, K)
Item = TypeVar("Item")


def make_batches(
    X: Images,
    T: NDArray[np.floating],
    batch_size: int,
    rng: Generator,
    strengths: Strengths,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[Batch]:
    """Yields this rank's rows of each batch of images X (N, 784) and targets T (N, K), in an order drawn from rng.

    Order and noise are drawn for the whole batch, so that all ranks together see what one alone would; each augments
    its own rows, in a thread of its own, while the batch before is trained on.
    """
    np.empty(30_000_000, np.uint8)  # freed, it makes glibc keep what steps free, up to 30 MB: a fifteenth less time
    order, augmented = rng.permutation(len(X)), strengths != Strengths()

    def make_batch(i: int) -> Batch:
        n = min(batch_size, len(X) - i)
        first, end = n * rank // ranks, n * (rank + 1) // ranks
        mine = slice(i + first, i + end)
        rows = order[mine] if batch_size < len(X) else mine  # a full batch needs no order, nor a copy
        if not augmented:
            return X[rows], T[rows]
        noise = 2 * rng.random((n, NOISE), np.float32) - 1
        return augment(X[rows], noise[first:end], strengths), T[rows]

    batches = map(make_batch, range(0, len(X), batch_size))
    yield from prefetch(batches) if augmented else batches


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made in another thread while the one before is used; NumPy lets both compute at once."""
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = ahead.submit(next, items, None)
            yield item


def scale_parts(X: Images, size: int = 500) -> Iterator[Floats]:
    """Grey levels (N, 784), scaled as by scale_pixels, some rows at a time to spare memory."""
    for i in range(0, len(X), size):
        yield scale_pixels(X[i : i + size])
