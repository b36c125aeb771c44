"""Deforms pictures: each is turned, stretched, slanted, shifted, warped and mirrored by chances of its own."""

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Pictures: TypeAlias = NDArray[np.uint8]  # (N, 784), 0..255, 0 for the background

SIDE = 28  # of a picture, in pixels
CENTRE = (SIDE - 1) / 2
BORDER = 2  # pixels of background put around a picture: whatever lies outside is taken from there
AFFINE = 7  # chances of the affine map, mirroring among them
GRID = 7  # bumps along a side
DRAWS = AFFINE + 2 * GRID**2  # chances a picture: one more for each bump and axis


class Strengths(NamedTuple):
    """How far pictures are deformed: chances are uniform within these bounds, 0 does nothing."""

    rotation: float = 0.0  # degrees, at most, either way
    scale: float = 0.0  # width and height, each by a factor of its own between 1 / (1 + scale) and 1 + scale
    shear: float = 0.0  # pixels to a side per pixel of height, at most
    shift: float = 0.0  # pixels along each axis, at most
    elastic: float = 0.0  # pixels along each axis, root mean square
    smoothness: float = 5.0  # of the elastic displacement: standard deviation of a bump in pixels, 4 or more
    flip: float = 0.0  # the share of pictures that are mirrored, left to right


STRENGTHS = {  # that pay in a training of ten seconds; for clothes, none does
    "mnist": Strengths(rotation=10, scale=0.1, shear=0.1, shift=0.5, elastic=0.7),
    "fashion-mnist": Strengths(),
}


def deform(pictures: Pictures, draws: Floats, strengths: Strengths) -> Pictures:
    """New pictures (N, 784), each deformed by its own row of draws (N, DRAWS), numbers uniform in [-1, 1).

    A picture's result depends on nothing but its pixels, its draws and the strengths: not on the others of its batch.
    ValueError where pictures and draws do not fit.
    """
    N = len(pictures)
    if pictures.shape != (N, SIDE**2) or draws.shape != (N, DRAWS):
        raise ValueError(f"pictures {pictures.shape} and draws {draws.shape} must be (N, {SIDE**2}) and (N, {DRAWS})")
    B, C = make_basis(strengths.smoothness), make_coefficients(draws, strengths)
    places = B @ (C @ B.T)  # a product for each picture: one for the batch could round by the batch's size
    return sample(pictures, places.reshape(N, 2, SIDE**2))


def make_basis(smoothness: float) -> Floats:
    """B (28, 2 + GRID), a row for each pixel of a side: 1, its distance from the centre, and the bumps, Gaussians.

    The elastic displacement, B[:, 2:] @ noise @ B[:, 2:].T, is that of Simard, Steinkraus & Platt 2003 with noise on a
    coarse grid, a little larger than the picture, instead of on every pixel. Noise uniform in [-1, 1), of variance 1/3,
    gives it the root mean square 1 at every pixel; their alpha and sigma are elastic = alpha / (2 sqrt(3 pi) sigma).
    """
    pixels = np.arange(SIDE)[:, None]
    bumps = np.exp(-0.5 * ((pixels - np.linspace(-4, SIDE + 3, GRID)) / smoothness) ** 2)
    bumps *= 3**0.25 / np.sqrt((bumps**2).sum(axis=1, keepdims=True))
    return np.hstack([np.ones_like(pixels), pixels - CENTRE, bumps]).astype(np.float32)


def make_coefficients(draws: Floats, strengths: Strengths) -> Floats:
    """C (N, 2, 2 + GRID, 2 + GRID): pixels are taken from the places B @ C @ B.T, x and y from the centre, in pixels.

    Of C[n, axis], [0, 0] shifts, [0, 1] multiplies x, [1, 0] multiplies y, and [2:, 2:] is the noise of the elastic
    displacement.
    """
    turn, wide, high, slant, right, down, side = draws[:, :AFFINE].T
    cos, sin = (f(math.radians(strengths.rotation) * turn) for f in (np.cos, np.sin))
    a, b, c = (1 + strengths.scale) ** -wide, (1 + strengths.scale) ** -high, strengths.shear * slant
    C = np.zeros((len(draws), 2, 2 + GRID, 2 + GRID), np.float32)
    C[:, :, 0, 0] = -strengths.shift * np.stack([right, down], axis=1)
    C[:, :, 0, 1] = np.stack([a * cos, a * sin], axis=1)
    C[:, :, 1, 0] = np.stack([c * cos - b * sin, c * sin + b * cos], axis=1)
    C[:, :, 2:, 2:] = strengths.elastic * draws[:, AFFINE:].reshape(-1, 2, GRID, GRID)
    C[side < 2 * strengths.flip - 1, 0] *= -1
    return C


def sample(pictures: Pictures, places: Floats) -> Pictures:
    """The grey levels (N, 784) at places (N, 2, 784), x and y from the centre: bilinear, 0 outside of the picture."""
    N, width = len(pictures), SIDE + 2 * BORDER
    padded = np.zeros((N, width, width), np.float32)
    padded[:, BORDER:-BORDER, BORDER:-BORDER] = pictures.reshape(N, SIDE, SIDE)
    flat = padded.ravel()
    places = (places + np.float32(CENTRE + BORDER)).clip(0, width - 2)
    corners = np.floor(places)
    fx, fy = (places - corners).transpose(1, 0, 2)
    index = (corners[:, 1] * width + corners[:, 0]).astype(np.intp)
    index += np.arange(0, padded.size, width**2)[:, None]
    upper = mix(flat.take(index), flat[1:].take(index), fx)
    lower = mix(flat[width:].take(index), flat[width + 1 :].take(index), fx)
    return (mix(upper, lower, fy) + np.float32(0.5)).astype(np.uint8)


def mix(a: Floats, b: Floats, share: Floats) -> Floats:
    """a where share is 0, b where it is 1, evenly between."""
    return a + share * (b - a)
