"""Tests of the augmentation, on made-up images: beside plain loops over their definitions, and from the outside."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from data.augment import GRID, NOISE, Floats, Images, Strengths, augment, sample, usual_strengths
from data.datasets import DATASETS

TURN, WIDE, HIGH, SLANT, RIGHT, DOWN, SIDE, WARP = range(8)  # places in a row of noise
ALL = Strengths(rotation=20, scale=0.3, shear=0.2, shift=4, elastic=1.5, smoothness=4, flip=0.5)
Float64s = NDArray[np.float64]


def made_up(count: int) -> Images:
    """Images of noise, ink up to the edges."""
    return np.random.default_rng(count).integers(0, 256, (count, 784), np.uint8)


def made_noise(count: int) -> Floats:
    return np.random.default_rng(count).random((count, NOISE), np.float32) * 2 - 1


def noise_of(count: int, values: dict[int, float]) -> Floats:
    """The same noise for each image: values, by place, and 0.5 for the others."""
    row = [values.get(place, 0.5) for place in range(NOISE)]
    return np.tile(np.array(row, np.float32), (count, 1))


def places_of(noise: Floats, strengths: Strengths) -> Float64s:
    """Where each pixel (row, column) of an image is taken from: (28, 28, 2), column and row, in float64."""
    places = np.zeros((28, 28, 2))
    angle = math.radians(strengths.rotation) * float(noise[TURN])
    points = [-4 + 35 * i / (GRID - 1) for i in range(GRID)]
    warp = noise[WARP:].reshape(2, -1)
    for row, column in np.ndindex(28, 28):
        bump = np.array(
            [
                math.exp(-((row - v) ** 2 + (column - u) ** 2) / (2 * strengths.smoothness**2))
                for v in points
                for u in points
            ]
        )
        right, down = strengths.elastic * (warp @ bump) / math.sqrt(np.sum(bump**2) / 3)
        x, y = column - 13.5, row - 13.5
        x = x / (1 + strengths.scale) ** float(noise[WIDE]) + y * strengths.shear * float(noise[SLANT])
        y = y / (1 + strengths.scale) ** float(noise[HIGH])
        turned = complex(x, y) * complex(math.cos(angle), math.sin(angle))
        x = turned.real - strengths.shift * float(noise[RIGHT]) + right
        y = turned.imag - strengths.shift * float(noise[DOWN]) + down
        places[row, column] = 13.5 + (-x if noise[SIDE] < 2 * strengths.flip - 1 else x), 13.5 + y
    return places


def bilinear(image: Images, places: Float64s) -> Float64s:
    """The sum of all pixels, each weighted by a tent over its place: (784,) at places (28, 28, 2) to (28, 28)."""
    columns, rows = (np.maximum(0, 1 - np.abs(places[..., axis, None] - np.arange(28))) for axis in (0, 1))
    levels: Float64s = np.einsum("rc,yxr,yxc->yx", image.reshape(28, 28), rows, columns)
    return levels


def test_every_map_agrees_with_plain_loops() -> None:
    images, noise = made_up(6), made_noise(6)
    for strengths in (ALL, ALL._replace(flip=0, smoothness=6), *map(usual_strengths, DATASETS)):
        augmented = augment(images, noise, strengths).reshape(-1, 28, 28)
        for image, row, result in zip(images, noise, augmented, strict=True):
            expected = bilinear(image, places_of(row, strengths))
            assert np.abs(result - expected).max() < 0.51  # 0.5 is the rounding to whole grey levels


def test_places_far_outside_are_background() -> None:
    images, rng = made_up(40), np.random.default_rng(0)
    spread = 10.0 ** np.arange(-2, 6).repeat(5)[:, None, None]  # pixels
    middles = rng.choice([-14.5, -13.5, 0, 13.5, 14.5], (40, 2, 784))
    places = (middles + rng.normal(0, spread, (40, 2, 784))).astype(np.float32)
    levels = sample(images, places)
    for image, place, result in zip(images, places.astype(np.float64), levels, strict=True):
        expected = bilinear(image, place.T.reshape(28, 28, 2) + 13.5)
        assert np.abs(result.reshape(28, 28) - expected).max() < 0.51
    assert (levels == 0).mean() > 0.5 and (levels > 0).mean() > 0.2


@pytest.mark.parametrize("image", [made_up(5), np.full((5, 784), 255, np.uint8), np.zeros((5, 784), np.uint8)])
def test_zero_strengths_are_the_identity(image: Images) -> None:
    result = augment(image, made_noise(5), Strengths())
    assert result.dtype == np.uint8 and np.array_equal(result, image)
    assert not np.shares_memory(result, image)


def test_arguments_are_untouched() -> None:
    images, noise = made_up(9), made_noise(9)
    before = images.tobytes(), noise.tobytes()
    result = augment(images, noise, ALL)
    assert (images.tobytes(), noise.tobytes()) == before
    assert result.shape == (9, 784) and result.dtype == np.uint8


def test_range_is_kept() -> None:
    levels = augment(np.full((50, 784), 255, np.uint8), made_noise(50), ALL._replace(scale=0.0, shift=0.0))
    assert (levels.reshape(-1, 28, 28)[:, 12:16, 12:16] == 255).all()


@pytest.mark.parametrize("right, down", [(0, 0), (1, 0), (0, 1), (-3, 2), (8, -8), (28, 0), (5, -32)])
def test_a_shift_of_whole_pixels_moves_pixels(right: int, down: int) -> None:
    images = made_up(3)
    wide = np.zeros((3, 28 * 3 + 10, 28 * 3 + 10), np.uint8)
    wide[:, 33:61, 33:61] = images.reshape(-1, 28, 28)
    moved = wide[:, 33 - down : 61 - down, 33 - right : 61 - right]
    result = augment(images, noise_of(3, {RIGHT: right / 32, DOWN: down / 32}), Strengths(shift=32))
    assert np.array_equal(result.reshape(-1, 28, 28), moved)


def test_half_a_pixel_is_the_mean_of_two() -> None:
    images = np.random.default_rng(0).integers(0, 128, (3, 28, 28)).astype(np.uint8) * 2
    result = augment(images.reshape(3, -1), noise_of(3, {RIGHT: -0.5, DOWN: 0}), Strengths(shift=1)).reshape(3, 28, 28)
    assert np.array_equal(result[:, :, :-1], (images[:, :, :-1] // 2 + images[:, :, 1:] // 2))
    assert np.array_equal(result[:, :, -1], images[:, :, -1] // 2)  # the other half is background


@pytest.mark.parametrize("flip", [0.25, 0.5, 1])
def test_flip_mirrors_its_share_of_images_left_to_right(flip: float) -> None:
    images, noise = made_up(200), made_noise(200)
    result = augment(images, noise, Strengths(flip=flip)).reshape(-1, 28, 28)
    mirrored = noise[:, SIDE] < 2 * flip - 1
    assert abs(mirrored.mean() - flip) < 0.12
    assert np.array_equal(result[mirrored], images.reshape(-1, 28, 28)[mirrored][:, :, ::-1])
    assert np.array_equal(result[~mirrored], images.reshape(-1, 28, 28)[~mirrored])


@pytest.mark.parametrize("degrees, quarters", [(90, 1), (180, 2), (-90, 3), (360, 4)])
def test_quarter_turns(degrees: float, quarters: int) -> None:
    images = made_up(4)
    result = augment(images, noise_of(4, {TURN: 1}), Strengths(rotation=degrees)).reshape(-1, 28, 28)
    assert np.array_equal(result, np.rot90(images.reshape(-1, 28, 28), quarters, axes=(1, 2)))


@pytest.mark.parametrize("axis, place", [(0, HIGH), (1, WIDE)])
def test_scale_is_a_factor_of_one_side(axis: int, place: int) -> None:
    square = np.zeros((28, 28), np.uint8)
    square[9:19, 9:19] = 200  # 10 pixels a side
    for value, side in ((1, 12.5), (-1, 8), (0, 10)):
        noise = noise_of(1, {WIDE: 0, HIGH: 0, place: value})
        result = augment(square.reshape(1, -1), noise, Strengths(scale=0.25)).reshape(28, 28)
        sides = [result.sum(axis=k).max() / 200 for k in (0, 1)]  # of columns: the height, of rows: the width
        assert sides[axis] == pytest.approx(side, abs=0.3) and sides[1 - axis] == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("elastic, smoothness", [(1.1, 5.0), (0.5, 4.0), (1.5, 6.0)])
@pytest.mark.parametrize("across", [True, False])
def test_elastic_displacement_is_that_of_smoothed_noise(elastic: float, smoothness: float, across: bool) -> None:
    """On a ramp of 9 grey levels a pixel, what a pixel shows tells where it was taken from."""
    ramp = np.tile(np.arange(28, dtype=np.uint8) * 9, (28, 1))
    images = np.tile((ramp if across else ramp.T).ravel(), (3000, 1))
    result = augment(images, made_noise(3000), Strengths(elastic=elastic, smoothness=smoothness))
    moved = ((result - images.astype(float)) / 9).reshape(-1, 28, 28)[:, 7:21, 7:21]  # edges show background
    assert np.abs(moved.mean(axis=0)).max() < 0.1 * elastic
    rms = np.sqrt((moved**2).mean(axis=0))
    assert np.abs(rms / elastic - 1).max() < 0.06 and rms.mean() == pytest.approx(elastic, rel=0.02)
    for apart in range(1, 14):  # Gaussian smoothing of white noise correlates by exp(-d^2 / 4 sigma^2)
        expected = math.exp(-(apart**2) / (4 * smoothness**2))
        for a, b in ((moved[:, apart:], moved[:, :-apart]), (moved[:, :, apart:], moved[:, :, :-apart])):
            assert (a * b).mean() / elastic**2 == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("strengths", [ALL, *map(usual_strengths, DATASETS)])
def test_a_result_does_not_depend_on_the_batch(strengths: Strengths) -> None:
    images, noise = made_up(131), made_noise(131)
    whole = augment(images, noise, strengths)
    for cuts in (range(1, 131), [64], [1, 4, 7, 100], [128]):
        parts = zip(np.split(images, cuts), np.split(noise, cuts), strict=True)
        assert np.array_equal(np.concatenate([augment(x, u, strengths) for x, u in parts]), whole)
    order = np.random.default_rng(0).permutation(131)
    assert np.array_equal(augment(images[order], noise[order], strengths), whole[order])
    assert augment(images[:0], noise[:0], strengths).shape == (0, 784)


@pytest.mark.parametrize("strengths", [usual_strengths("mnist"), Strengths(scale=0.05, shift=1.5, flip=0.5)])
def test_modest_strengths_change_images_and_keep_their_ink(strengths: Strengths) -> None:
    rows, columns = np.indices((28, 28)) - 13.5
    ring = np.where(abs(np.hypot(rows / 9, columns / 6) - 0.85) < 0.15, 255, 0).astype(np.uint8)
    images = np.tile(ring.ravel(), (1000, 1))
    result = augment(images, made_noise(1000), strengths)
    assert len(np.unique(result, axis=0)) == 1000
    ink = result.sum(axis=1) / ring.sum()
    assert ink.mean() == pytest.approx(1, abs=0.03) and 0.5 < ink.min() and ink.max() < 1.6


def test_each_dataset_has_strengths_and_digits_are_not_mirrored() -> None:
    assert all(usual_strengths(name) == Strengths(**each.augmentation) for name, each in DATASETS.items())
    assert (
        not usual_strengths("mnist").flip and usual_strengths("mnist") != usual_strengths("own/folder") == Strengths()
    )


@pytest.mark.parametrize(
    "images, noise",
    [
        ((3, 784), (2, NOISE)),
        ((3, 784), (3, NOISE + 1)),
        ((3, 784), (NOISE,)),
        ((3, 28, 28), (3, NOISE)),
        ((3, 783), (3, NOISE)),
        ((784,), (784, NOISE)),
    ],
)
def test_what_does_not_fit_is_refused(images: tuple[int, ...], noise: tuple[int, ...]) -> None:
    with pytest.raises(ValueError) as raised:
        augment(np.zeros(images, np.uint8), np.zeros(noise, np.float32), ALL)
    assert str(raised.value) == f"images {images} and noise {noise} must be (N, 784) and (N, {NOISE})"


def test_strengths_fade_over_the_last_share_of_training() -> None:
    strengths = ALL._replace(fade=0.4)
    assert strengths.at(0) == strengths.at(0.6) == ALL.at(0.9) == ALL
    halfway, end = strengths.at(0.8), strengths.at(1)
    assert halfway == pytest.approx(ALL._replace(**{name: getattr(ALL, name) / 2 for name in ALL._fields[:5]}))
    assert end == Strengths(smoothness=ALL.smoothness, flip=ALL.flip)
