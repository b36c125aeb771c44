"""The batches of an epoch: an iterator over a shuffled dataset, augmented on the way."""

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from data.augment import NOISE, Floats, Images, Strengths, augment
from data.load import scale_pixels


def make_batches(
    X: Images,
    T: NDArray[np.floating],
    batch_size: int,
    rng: Generator,
    strengths: Strengths,
    rank: int = 0,
    ranks: int = 1,
) -> Iterator[tuple[Images, NDArray[np.floating]]]:
    """Yields this rank's rows of each batch of images X (N, 784) and targets T (N, K), in an order drawn from rng.

    Order and noise are drawn for the whole batch, so that all ranks together see what one alone would; each augments
    its own rows.
    """
    order = rng.permutation(len(X))
    for i in range(0, len(X), batch_size):
        n = min(batch_size, len(X) - i)
        first, end = n * rank // ranks, n * (rank + 1) // ranks
        mine = slice(i + first, i + end)
        rows = order[mine] if batch_size < len(X) else mine  # a full batch needs no order, nor a copy
        x = X[rows]
        if strengths != Strengths():
            noise = 2 * rng.random((n, NOISE), np.float32) - 1
            x = augment(x, noise[first:end], strengths)
        yield x, T[rows]


def scale_parts(X: Images, size: int = 500) -> Iterator[Floats]:
    """Grey levels (N, 784), scaled as by scale_pixels, some rows at a time to spare memory."""
    for i in range(0, len(X), size):
        yield scale_pixels(X[i : i + size])
