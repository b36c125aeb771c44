"""Prepares an image of one's own, any file of FORMATS, as the images of the dataset were prepared.

f is a grey image (rows, columns) in [0, 1], 0 for black; ink is one of 0 for paper and 1 for full ink. Lengths are
in pixels.
"""

import io
import math
import warnings
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from data.datasets import DATASETS, SIDE

Grey: TypeAlias = NDArray[np.floating]
Mask: TypeAlias = NDArray[np.bool_]
Value = TypeVar("Value", bound=np.generic)

FORMATS = "PNG", "JPEG", "WEBP", "BMP", "GIF"
MAX_PIXELS = 50_000_000
DIGIT = 20  # long side of a digit in it
STROKE = 1.9, 3.4  # the mean widths of strokes that are left alone; MNIST's lie between 1.7 and 3.9, 90 in 100
FINE = 8  # times DIGIT is the long side of a digit while its strokes are measured
WORK, COARSE, MAP = 640, 128, 250  # longest sides: at all, to find the paper, to tell strokes apart
SMALL = 6  # the shortest side in which a digit is looked for
CONTRAST = 0.1  # below it nothing is ink

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is lower


class ImageError(ValueError):
    """Says to people why an image cannot be read."""


def prepare_image(content: bytes, dataset: str) -> NDArray[np.uint8]:
    """The content of an image file as the image (784,) that the network sees: 0 for its ground, 255 for full ink.

    dataset: what the network was trained on, which tells a digit from a piece of clothing. With a set of one's
    own, an image of 28x28 is taken as it is, any other prepared as a digit. An image of the dataset stays as it is.
    ImageError where the file cannot be read, or shows no ink or several digits.
    """
    f, alpha = read_image(content)
    if dataset not in DATASETS and f.shape == (SIDE, SIDE):
        return np.rint(255 * f).astype(np.uint8).ravel()
    X = prepare_digit(lay_on_ground(f, alpha)) if shows_ink(dataset) else prepare_garment(alpha * f + 1 - alpha)
    return np.rint(255 * X).astype(np.uint8).ravel()


def shows_ink(dataset: str) -> bool:
    """Whether a dataset's images show strokes of ink."""
    return dataset not in DATASETS or DATASETS[dataset].shows == "ink"


def read_image(content: bytes) -> tuple[Grey, Grey]:
    """Grey levels and opacity of a file's first frame, upright, its long side at most WORK. ImageError if not one."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.draft(None, (WORK, WORK))  # a large JPEG is decoded at 1/2, 1/4 or 1/8
            ImageOps.exif_transpose(image, in_place=True)
            return grey_levels(image)
    except Image.DecompressionBombError:  # Pillow's own, where the image is larger still
        raise ImageError(f"the image has more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except UnidentifiedImageError:
        raise ImageError(f"this is not an image that can be read; {', '.join(FORMATS)} can") from None
    except Exception as error:  # a damaged file can raise nearly any
        raise ImageError(f"the image is damaged or cut short: {error}") from error


def grey_levels(image: Image.Image) -> tuple[Grey, Grey]:
    """Grey levels and opacity, both in [0, 1], the long side averaged down to WORK."""
    scale = min(1, WORK / max(image.size))
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    if image.mode.startswith("I"):  # 16 bits, which convert() clips to 255
        f = np.clip(resize(np.asarray(image, np.float32) / 65535, size), 0, 1)
        return f, np.ones_like(f)
    both = np.asarray(image.convert("LA").resize(size, Image.Resampling.BOX), np.float32) / 255
    return both[..., 0], both[..., 1]


def lay_on_ground(f: Grey, alpha: Grey) -> Grey:
    """The image on an opaque ground: black or white under what is drawn on nothing, else the colour of the paper."""
    if alpha.min() == 1 or alpha.max() == 0:
        return f * alpha
    ground = np.average(f, weights=alpha) < 0.5 if alpha.mean() < 0.5 else np.median(f[alpha > 0.5])
    return alpha * f + (1 - alpha) * np.float32(ground)


def resize(f: Grey, size: tuple[int, int], how: Image.Resampling = Image.Resampling.BOX) -> Grey:
    """f at size (width, height), by area averaging unless how says otherwise."""
    return np.asarray(Image.fromarray(f.astype(np.float32)).resize(size, how))


def fit(f: Grey, long: int) -> tuple[int, int]:
    """The size (width, height) of f once its long side is long."""
    height, width = (max(1, round(n * long / max(f.shape))) for n in f.shape)
    return width, height


def trim(f: Grey, level: float) -> Grey:
    """The smallest box that holds what is above level."""
    rows, columns = (np.flatnonzero((f > level).any(axis=axis)) for axis in (1, 0))
    return f[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paste(f: Grey, top: int, left: int) -> Grey:
    """f on black, SIDE x SIDE, as near to that corner as it fits."""
    top, left = (min(max(at, 0), SIDE - n) for at, n in zip((top, left), f.shape))
    X = np.zeros((SIDE, SIDE), np.float32)
    X[top : top + f.shape[0], left : left + f.shape[1]] = f
    return X


# Clothes


def prepare_garment(f: Grey) -> Grey:
    """Xiao et al. 2017: trimmed, the long side SIDE, the box in the middle, negated where the ground is light."""
    ground = np.median(np.concatenate([f[0], f[-1], f[1:-1, 0], f[1:-1, -1]]))
    f = (ground - f) / ground if ground > 0.5 else (f - ground) / (1 - ground)
    small = resize(f, fit(f, SIDE))
    if small.max() < CONTRAST:
        raise ImageError("there is nothing in the image that stands out from its ground")
    f = np.clip(f / small.max(), 0, 1)
    f = trim(f, CONTRAST / 2 if max(f.shape) > SIDE else 0)
    X = resize(f, fit(f, SIDE))
    return paste(X, (SIDE + 1 - X.shape[0]) // 2, (SIDE + 1 - X.shape[1]) // 2)


# Digits


def prepare_digit(f: Grey) -> Grey:
    """LeCun et al. 1998: the ink alone, its long side DIGIT, its centre of mass in the middle of SIDE x SIDE."""
    if is_of_mnist(f):
        return f
    ink = even_strokes(trim(find_ink(f), 0.2))
    X = resize(ink, fit(ink, DIGIT))
    row, column = (np.average(at, weights=X[np.nonzero(X)]) for at in np.nonzero(X))
    return paste(X, round(SIDE / 2 - row), round(SIDE / 2 - column))


def is_of_mnist(f: Grey) -> bool:
    """Whether f already is as MNIST's images are."""
    if f.shape != (SIDE, SIDE) or f.max() < 0.5:
        return False
    ink = np.nonzero(f)
    centre = [float(np.average(at, weights=f[ink])) for at in ink]
    return max(map(np.ptp, ink)) + 1 in (DIGIT - 1, DIGIT) and all(abs(c - SIDE / 2) < 0.6 for c in centre)


def find_ink(f: Grey) -> Grey:
    """The ink of the one digit that f shows, whatever the light on the paper. ImageError for none, or several."""
    if min(f.shape) < SMALL:
        raise ImageError("there is no ink in the image: it is too small or too narrow")
    coarse = resize(f, fit(f, min(COARSE, max(f.shape))))
    if is_light_on_dark(coarse):
        f, coarse = 1 - f, 1 - coarse
    if min(f.shape) > COARSE:  # enough pixels to average the noise of four
        f = 0.25 * (f[:-1, :-1] + f[:-1, 1:] + f[1:, :-1] + f[1:, 1:])
    paper = resize(find_paper(coarse), (f.shape[1], f.shape[0]), Image.Resampling.BICUBIC)
    darkness = 1 - f / np.maximum(paper, CONTRAST)  # the light on the paper cancels out
    low, middle = (float(v) for v in np.percentile(darkness, (5, 30)))  # of the paper: the noise about its level
    darkness = np.clip(darkness - middle, 0, 1)
    threshold = max(otsu(darkness), 5 * (middle - low), CONTRAST)
    if not (darkness > threshold).any():
        raise ImageError("there is no ink in the image")
    full = float(np.percentile(darkness[darkness > threshold], 75))
    strokes = keep_digit(darkness > max(threshold, full / 2))  # rules of the paper are fainter
    return np.clip((darkness / full - 0.25) / 0.6, 0, 1) * strokes


def is_light_on_dark(f: Grey) -> bool:
    """Ink is rarer than paper: it lies further from the mean about it, on one side.

    The square root evens out light and shadow; the margin gives paper to a digit that fills the image.
    """
    wide = np.pad(np.sqrt(f), max(f.shape) // 8, "edge")
    return float(np.mean((wide - blur(wide, max(f.shape) / 5)) ** 3)) > 0


def find_paper(f: Grey) -> Grey:
    """The light of the paper alone, also where there is ink on it.

    It is below two closings, which fill what is dark and narrower than a third of the image: of f, which is exact
    in a shadow with an edge, and of what f differs from a parabola, which is exact where the light falls off.
    """
    radius = max(1, max(f.shape) // 6)
    smooth = fit_parabola(f)
    return smooth + blur(np.minimum(close(f, radius) - smooth, close(f - smooth, radius)), radius / 3)


def close(f: Grey, radius: int) -> Grey:
    """The morphological closing by a square of 2 radius + 1."""
    return -dilate(-dilate(f, radius), radius)


def fit_parabola(f: Grey) -> Grey:
    """The surface of second degree that fits best the lighter half, found anew five times."""
    y, x = (np.linspace(-1, 1, n) for n in f.shape)
    y, x = (axis.ravel() for axis in np.meshgrid(y, x, indexing="ij"))
    A, level = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1), f.ravel()
    surface = np.zeros_like(level)
    for _ in range(5):
        light = level - surface >= np.median(level - surface)
        surface = A @ np.linalg.lstsq(A[light], level[light])[0]
    return surface.reshape(f.shape)


def blur(f: Grey, sigma: float) -> Grey:
    """f with each pixel the Gaussian mean of those about it."""
    for _ in f.shape:
        at = np.arange(len(f), dtype=np.float32)
        K = np.exp(-0.5 * ((at[:, np.newaxis] - at) / sigma) ** 2)
        K /= K.sum(axis=1, keepdims=True)
        f = (K @ f).T
    return f


def dilate(f: NDArray[Value], radius: int) -> NDArray[Value]:
    """The maximum over the square of 2 radius + 1 about each pixel, by windows that double."""
    for _ in f.shape:
        f, width = np.pad(f, [(radius, radius), (0, 0)], "edge"), 1
        while width <= 2 * radius:
            step = min(width, 2 * radius + 1 - width)
            f, width = np.maximum(f[:-step], f[step:]), width + step
        f = f.T
    return f


def otsu(f: Grey) -> float:
    """Otsu 1979: the threshold with the largest variance between what lies below and what lies above."""
    p = np.bincount((255 * f).astype(np.uint8).ravel(), minlength=256) / f.size
    below, moment = np.cumsum(p)[:-1], np.cumsum(p * np.arange(256))
    between = (moment[-1] * below - moment[:-1]) ** 2 / np.maximum(below * (1 - below), 1e-9)
    return (int(np.argmax(between)) + 1) / 255


def keep_digit(mask: Mask) -> Mask:
    """The strokes of one digit: the largest and those near it, without specks. ImageError for none, or several."""
    block = math.ceil(max(mask.shape) / MAP)
    padded = np.pad(mask, [(0, -n % block) for n in mask.shape])
    parts = label(np.any(padded.reshape(len(padded) // block, block, -1, block), axis=(1, 3)))
    sizes = inner_sizes(parts)
    if sizes.max() < 8:
        raise ImageError("there is no ink in the image, or too little to tell what it is")
    length = max(int(np.ptp(at)) + 1 for at in np.nonzero(parts == sizes.argmax()))
    strokes = (sizes > 0.03 * sizes.max())[parts]
    groups = label(dilate(strokes, length // 6 + 1)) * strokes  # of strokes at most a third of that length apart
    sizes = inner_sizes(groups)
    if np.count_nonzero(sizes > 0.25 * sizes.max()) > 1:
        raise ImageError("there are several digits in the image; show one alone")
    grown = dilate(groups == sizes.argmax(), 1)
    return np.kron(grown, np.ones((block, block), np.bool_))[: mask.shape[0], : mask.shape[1]]


def inner_sizes(parts: NDArray[np.intp]) -> NDArray[np.intp]:
    """How large each numbered part is; 0 for what is cut off at the edge, unless next to nothing else is there."""
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    inner = sizes.copy()
    inner[np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])] = 0
    return inner if inner.max() > 0.05 * sizes.max() else sizes


def label(mask: Mask) -> NDArray[np.intp]:
    """Numbers the connected parts of mask from 1, with 0 for what is not in it."""
    parts = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:  # each pixel takes the highest number about it, then the one that pixel has come to
        grown = np.where(mask, dilate(parts, 1), 0)
        grown = np.where(mask, grown.ravel()[grown - 1], 0)
        if (grown == parts).all():
            return np.unique(np.append(0, parts), return_inverse=True)[1][1:].reshape(mask.shape)
        parts = grown


def even_strokes(ink: Grey) -> Grey:
    """The digit with its long side FINE * DIGIT, its strokes thickened or thinned towards the widths of STROKE."""
    how = Image.Resampling.BOX if max(ink.shape) > FINE * DIGIT else Image.Resampling.BICUBIC
    ink = np.clip(resize(ink, fit(ink, FINE * DIGIT), how), 0, 1)
    width = stroke_width(ink) / FINE
    change = min(max(width, STROKE[0]), STROKE[1]) - width
    radius = round(FINE * abs(change) / 2)
    ink = np.pad(ink, radius)
    return trim(dilate(ink, radius) if change > 0 else -dilate(-ink, radius), 0.2)


def stroke_width(ink: Grey) -> float:
    """2 area / perimeter; by Cauchy and Crofton the perimeter is pi / 4 of the sum of all changes along both axes."""
    padded = np.pad(ink, 1)
    perimeter = math.pi / 4 * sum(float(np.abs(np.diff(padded, axis=axis)).sum()) for axis in (0, 1))
    return 2 * float(ink.sum()) / perimeter
