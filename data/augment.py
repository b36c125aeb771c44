"""Augmentation: each image is rotated, scaled, sheared, shifted, warped and mirrored at random, anew each epoch."""

import math
from argparse import ArgumentTypeError
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from data.datasets import DATASETS, PIXELS, SIDE

Floats: TypeAlias = NDArray[np.float32]
Images: TypeAlias = NDArray[np.uint8]  # (N, 784), 0..255, 0 for the background

CENTRE = (SIDE - 1) / 2
BORDER = 2  # pixels of background put around an image: whatever lies outside is taken from there
AFFINE = 7  # random numbers for the affine map, mirroring among them
GRID = 7  # bumps along a side
NOISE = AFFINE + 2 * GRID**2  # random numbers an image takes: one more for each bump and axis
CHUNK = 1000  # images at a time, to spare memory


class Strengths(NamedTuple):
    """How far images are changed, uniformly at random within these bounds; 0 does nothing."""

    rotation: float = 0.0  # degrees, at most, either way
    scale: float = 0.0  # width and height, each by a factor of its own between 1 / (1 + scale) and 1 + scale
    shear: float = 0.0  # pixels to a side per pixel of height, at most
    shift: float = 0.0  # pixels along each axis, at most
    elastic: float = 0.0  # pixels along each axis, root mean square
    smoothness: float = 5.0  # of the elastic displacement: standard deviation of a bump in pixels, 4 or more
    flip: float = 0.0  # the share of images that are mirrored, left to right
    fade: float = 0.0  # the last share of training, in which all but smoothness and flip fall linearly to 0

    def at(self, progress: float) -> "Strengths":
        """The strengths when so much of training, from 0 to 1, is done."""
        factor = min(1.0, (1 - progress) / self.fade) if self.fade else 1.0
        fading = {name: factor * getattr(self, name) for name in ("rotation", "scale", "shear", "shift", "elastic")}
        return self._replace(**fading, fade=0.0)


def usual_strengths(dataset: str) -> Strengths:
    """Those of a published dataset that are used unless others are given; of any other dataset, none."""
    return Strengths(**DATASETS[dataset].augmentation) if dataset in DATASETS else Strengths()


def parse_strengths(text: str) -> dict[str, float]:
    """A flag's type: strengths by name, as in rotation=10,shift=2, or none of any."""
    if text == "none":
        return Strengths()._asdict()
    try:
        values = {name: float(value) for name, value in (pair.split("=") for pair in text.split(","))}
    except ValueError:
        raise ArgumentTypeError(f"must be NAME=VALUE,... as in rotation=10,shift=2, or none, got {text!r}") from None
    if not values.keys() <= set(Strengths._fields) or not all(0 <= value <= 1000 for value in values.values()):
        known = ", ".join(Strengths._fields)
        raise ArgumentTypeError(f"must give numbers in 0..1000 to some of {known}, got {text!r}")
    if values.get("smoothness", 4.0) < 4 or max(values.get("fade", 0.0), values.get("flip", 0.0)) > 1:
        raise ArgumentTypeError(f"smoothness must be 4 or more, fade and flip at most 1, got {text!r}")
    return values


def augment(images: Images, noise: Floats, strengths: Strengths) -> Images:
    """New images (N, 784), each changed by its own row of noise (N, NOISE), numbers uniform in [-1, 1).

    An image's result depends on nothing but its pixels, its noise and the strengths: not on the others of its batch.
    ValueError where images and noise do not fit.
    """
    N = len(images)
    if images.shape != (N, PIXELS) or noise.shape != (N, NOISE):
        raise ValueError(f"images {images.shape} and noise {noise.shape} must be (N, {PIXELS}) and (N, {NOISE})")
    B, augmented = make_basis(strengths.smoothness), np.empty_like(images)
    for rows in (slice(i, i + CHUNK) for i in range(0, N, CHUNK)):
        C = make_coefficients(noise[rows], strengths)
        places = B @ (C @ B.T)  # a product for each image: one for the batch could round by the batch's size
        augmented[rows] = sample(images[rows], places.reshape(-1, 2, PIXELS))
    return augmented


def make_basis(smoothness: float) -> Floats:
    """B (28, 2 + GRID), a row for each pixel of a side: 1, its distance from the centre, and the bumps, Gaussians.

    The elastic displacement, B[:, 2:] @ noise @ B[:, 2:].T, is that of Simard, Steinkraus & Platt 2003 with noise on a
    coarse grid, a little larger than the image, instead of on every pixel. Noise uniform in [-1, 1), of variance 1/3,
    gives it the root mean square 1 at every pixel; their alpha and sigma are elastic = alpha / (2 sqrt(3 pi) sigma).
    """
    pixels = np.arange(SIDE)[:, None]
    bumps = np.exp(-0.5 * ((pixels - np.linspace(-4, SIDE + 3, GRID)) / smoothness) ** 2)
    bumps *= 3**0.25 / np.sqrt((bumps**2).sum(axis=1, keepdims=True))
    return np.hstack([np.ones_like(pixels), pixels - CENTRE, bumps]).astype(np.float32)


def make_coefficients(noise: Floats, strengths: Strengths) -> Floats:
    """C (N, 2, 2 + GRID, 2 + GRID): pixels are taken from the places B @ C @ B.T, x and y from the centre, in pixels.

    Of C[n, axis], [0, 0] shifts, [0, 1] multiplies x, [1, 0] multiplies y, and [2:, 2:] is the noise of the elastic
    displacement.
    """
    turn, wide, high, slant, right, down, side = noise[:, :AFFINE].T
    cos, sin = (f(math.radians(strengths.rotation) * turn) for f in (np.cos, np.sin))
    a, b, c = (1 + strengths.scale) ** -wide, (1 + strengths.scale) ** -high, strengths.shear * slant
    C = np.zeros((len(noise), 2, 2 + GRID, 2 + GRID), np.float32)
    C[:, :, 0, 0] = -strengths.shift * np.stack([right, down], axis=1)
    C[:, :, 0, 1] = np.stack([a * cos, a * sin], axis=1)
    C[:, :, 1, 0] = np.stack([c * cos - b * sin, c * sin + b * cos], axis=1)
    C[:, :, 2:, 2:] = strengths.elastic * noise[:, AFFINE:].reshape(-1, 2, GRID, GRID)
    C[side < 2 * strengths.flip - 1, 0] *= -1
    return C


def sample(images: Images, places: Floats) -> Images:
    """The grey levels (N, 784) at places (N, 2, 784), x and y from the centre: bilinear, 0 outside of the image."""
    N, width = len(images), SIDE + 2 * BORDER
    padded = np.zeros((N, width, width), np.float32)
    padded[:, BORDER:-BORDER, BORDER:-BORDER] = images.reshape(N, SIDE, SIDE)
    flat = padded.ravel()
    places = (places + np.float32(CENTRE + BORDER)).clip(0, width - 2)
    corners = np.floor(places)
    fx, fy = (places - corners).transpose(1, 0, 2)
    index = (corners[:, 1] * width + corners[:, 0]).astype(np.intp)
    index += np.arange(0, padded.size, width**2)[:, None]
    corner: list[Floats] = [flat[k:].take(index, mode="wrap") for k in (0, 1, width, width + 1)]  # none is outside
    upper, lower = mix(corner[0], corner[1], fx), mix(corner[2], corner[3], fx)
    return (mix(upper, lower, fy) + np.float32(0.5)).astype(np.uint8)


def mix(a: Floats, b: Floats, share: Floats) -> Floats:
    """a + share (b - a): a where share is 0, b where it is 1, evenly between."""
    mixed: Floats = b - a
    mixed *= share
    mixed += a
    return mixed
