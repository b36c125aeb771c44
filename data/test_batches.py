"""Tests of the batches of an epoch, on made-up images, each of them told by its first pixels."""

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

import data.batches
from data.augment import NOISE, Floats, Images, Strengths, augment
from data.batches import make_batches, prefetch

each = pytest.mark.parametrize
N = 10
X: Images = np.random.default_rng(0).integers(0, 256, (N, 784), np.uint8)
X[:, 0] = np.arange(N)
T = np.arange(N)[:, None] / np.array([1, 10], np.float32)  # the targets of an image hold its number, too
NONE, ALL = Strengths(), Strengths(rotation=20, scale=0.3, shear=0.2, shift=4, elastic=1.5, flip=0.5)
Batches = list[tuple[Images, NDArray[np.floating]]]


def epoch(batch_size: int, strengths: Strengths = NONE, rank: int = 0, ranks: int = 1, seed: int = 5) -> Batches:
    return list(make_batches(X, T, batch_size, np.random.default_rng([seed, 1]), strengths, rank, ranks))


def numbers(batches: Batches) -> list[list[int]]:
    """The numbers of the images in each batch, by their targets."""
    return [t[:, 0].astype(int).tolist() for _, t in batches]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Images, Floats]]:
    """What augment is called with: images and noise."""
    calls: list[tuple[Images, Floats]] = []

    def recording(images: Images, noise: Floats, strengths: Strengths) -> Images:
        calls.append((images, noise))
        return augment(images, noise, strengths)

    monkeypatch.setattr(data.batches, "augment", recording)
    return calls


@each(("batch_size", "sizes"), [(4, [4, 4, 2]), (1, [1] * N), (5, [5, 5]), (9, [9, 1]), (10, [10]), (11, [10])])
def test_an_epoch_holds_every_image_once_with_its_targets(batch_size: int, sizes: list[int]) -> None:
    batches = epoch(batch_size)
    assert [len(x) for x, _ in batches] == [len(t) for _, t in batches] == sizes
    assert sorted(sum(numbers(batches), [])) == list(range(N))
    for x, t in batches:
        chosen = t[:, 0].astype(int)
        assert x.dtype == np.uint8 and np.array_equal(x, X[chosen]) and np.array_equal(t, T[chosen])


@each("strengths", [NONE, ALL])
def test_the_order_is_the_generator_s_with_augmentation_and_without(strengths: Strengths) -> None:
    expected = np.random.default_rng([5, 1]).permutation(N).tolist()
    assert sum(numbers(epoch(4, strengths)), []) == sum(numbers(epoch(3, strengths)), []) == expected
    assert len({str(numbers(epoch(4, strengths, seed=seed))) for seed in range(20)}) == 20


def test_a_full_batch_is_the_dataset_itself() -> None:
    ((x, t),) = epoch(N)
    assert np.shares_memory(x, X) and np.shares_memory(t, T) and numbers([(x, t)]) == [list(range(N))]


def test_every_image_has_noise_of_its_own(asked: list[tuple[Images, Floats]]) -> None:
    batches, rng = epoch(4, ALL), np.random.default_rng([5, 1])
    rng.permutation(N)
    for (x, t), (images, noise) in zip(batches, asked, strict=True):
        assert np.array_equal(images, X[t[:, 0].astype(int)]) and np.array_equal(x, augment(images, noise, ALL))
        assert noise.dtype == np.float32 and np.array_equal(noise, 2 * rng.random((len(t), NOISE), np.float32) - 1)
    assert len(np.unique(np.concatenate([noise for _, noise in asked]), axis=0)) == N


def test_without_augmentation_no_image_is_touched(asked: list[tuple[Images, Floats]]) -> None:
    epoch(4)
    assert asked == []


@each("strengths", [NONE, ALL])
@each(("ranks", "batch_size"), [(2, 4), (3, 4), (3, 10), (7, 4), (2, 1)])
def test_all_ranks_together_see_what_one_alone_would(ranks: int, batch_size: int, strengths: Strengths) -> None:
    """Shards of unequal size, some of none."""
    alone, shards = epoch(batch_size, strengths), [epoch(batch_size, strengths, rank, ranks) for rank in range(ranks)]
    for whole, *parts in zip(alone, *shards, strict=True):
        sizes = [len(x) for x, _ in parts]
        assert max(sizes) - min(sizes) <= 1
        for of_one, of_ranks in zip(whole, zip(*parts, strict=True), strict=True):
            assert np.array_equal(np.concatenate(of_ranks), of_one)


def test_each_rank_augments_its_own_rows_alone(asked: list[tuple[Images, Floats]]) -> None:
    shards = [epoch(4, ALL, rank, 3) for rank in range(3)]
    assert [len(images) for images, _ in asked] == [len(x) for shard in shards for x, _ in shard]
    assert sum(len(images) for images, _ in asked) == N


def test_arguments_are_untouched() -> None:
    before = X.tobytes(), T.tobytes()
    for batch_size in (4, N):
        epoch(batch_size, ALL)
    assert (X.tobytes(), T.tobytes()) == before


def test_items_are_made_one_ahead_in_another_thread() -> None:
    made, here, three = list[tuple[int, int]](), threading.get_ident(), threading.Event()

    def make(i: int) -> int:
        made.append((i, threading.get_ident()))
        if i == 2:
            three.set()
        return i

    items = prefetch(map(make, range(1, 6)))
    assert next(items) == 1 and three.wait(10) and [i for i, _ in made] == [1, 2]
    assert list(items) == [2, 3, 4, 5]
    assert here not in {thread for _, thread in made}


def test_what_fails_in_making_an_item_fails_where_it_is_used() -> None:
    items = prefetch(map(lambda i: 1 // i, [1, 0, 1]))
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError):
        next(items)
