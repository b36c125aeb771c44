"""Prepares a photo of one's own, any file of FORMATS, as the images of the dataset were prepared.

decode -> find the surface that is written on -> ink by its distance in colour from that surface -> connected
components -> without frames, lines and words -> one digit, scaled and centred as LeCun et al. 1998 did.

f is an image (rows, columns) in [0, 1], lab one of colours (rows, columns, 3) in CIELAB, where a distance of 2 is
just visible and black is 100 from white. Ink is 0 for paper and 1 for full ink. Lengths are in pixels.
"""

import contextlib
import io
import math
import warnings
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps, ImageSequence, UnidentifiedImageError
from pillow_heif import register_heif_opener

from data.datasets import DATASETS, SIDE

Floats: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.uint8]  # (rows, columns), 0 or 1
Points: TypeAlias = NDArray[np.int32]  # (n, 1, 2), x and y of the corners of a polygon

FORMATS = "PNG", "JPEG", "WEBP", "BMP", "GIF", "HEIF"
MAX_PIXELS, MAX_SIDE, MAX_FRAMES = 30_000_000, 30_000, 20  # of pixels, those that are decoded
DIGIT = 20  # long side of a digit in it
STROKE = 2.8, 3.2  # the mean widths of strokes that are left alone; MNIST's lie between 1.7 and 3.9, 90 in 100
FINE = 8  # times DIGIT is the long side of a digit while its strokes are measured
WORK, SURFACE, COARSE = 640, 160, 128  # longest sides: at all, to find the surface, its light
LEAST = 56  # the long side to which smaller images are enlarged, in which thin strokes would break
EDGE = 13  # the change of colour between neighbours that parts two regions, in CIELAB
SMALL = 6  # the shortest side in which a digit is looked for
CONTRAST = 9.0  # in CIELAB; below it nothing is ink
MAX_GAIN = 1.5  # of the contrast, where the paper is found too dark; more makes ink of texture
PANEL, DRAWN = 0.09, 0.008  # least shares: of the image that a panel covers, of a panel that is edges of what is on it
FREE, EVEN = 0.8, 0.5  # least shares of a panel in its own colour: of its margin, of all of it
ROUGH = 0.12  # the share of its area by which a four-sided or round shape may miss being one
SPECK = 0.03  # what is smaller than this share of the digit's area is none of it
LINE = 0.75  # frames and rules have strokes narrower than this share of the digit's
# strokes of one digit lie no further apart than these shares of its length: two of any kind, two whose boxes overlap,
# a small one, two bars in a row
GAP, OVERLAP_GAP, SMALL_GAP, BAR_GAP = 0.115, 0.25, 0.33, 0.5

register_heif_opener(thumbnails=False)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # MAX_PIXELS is lower


class ImageError(ValueError):
    """Says to people why an image cannot be read."""


def prepare_image(content: bytes, dataset: str) -> NDArray[np.uint8]:
    """The content of an image file as the image (784,) that the network sees: 0 for its ground, 255 for full ink.

    dataset: what the network was trained on, which tells a digit from a piece of clothing. With a set of one's
    own, an image of 28x28 is taken as it is, any other prepared as a digit. Nearly every image of the dataset stays
    as it is.
    ImageError where the file cannot be read, or shows no ink or several digits.
    """
    rgb = decode(content)
    f = rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    if shows_ink(dataset):
        own = dataset not in DATASETS and f.shape == (SIDE, SIDE)
        X = f if own or is_of_mnist(f) else centre(find_ink(rgb))
    else:
        X = prepare_garment(f)
    return np.rint(255 * X).astype(np.uint8).ravel()


def shows_ink(dataset: str) -> bool:
    """Whether a dataset's images show strokes of ink."""
    return dataset not in DATASETS or DATASETS[dataset].shows == "ink"


def find_stages(content: bytes) -> list[Floats]:
    """The image as found, the part of it that is surface, and the ink there unless it is refused."""
    rgb = decode(content)
    lab, surface = find_surface(cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab))
    stages = [rgb, np.clip(cv2.cvtColor(lab, cv2.COLOR_Lab2RGB) * surface[..., np.newaxis], 0, 1)]
    try:
        return [*stages, find_ink(rgb)]
    except ImageError:
        return stages


# Decode


def decode(content: bytes) -> Floats:
    """The colours (rows, columns, 3) of the first frame that shows anything, upright, its long side at most WORK."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.draft(None, (WORK, WORK))  # a large JPEG is decoded at 1/2, 1/4 or 1/8
            if image.width * image.height > MAX_PIXELS or max(image.size) > MAX_SIDE:
                raise Image.DecompressionBombError
            frames = min(MAX_FRAMES, 1 + MAX_PIXELS // (image.width * image.height))
            return first_that_shows(image, frames)
    except Image.DecompressionBombError:  # Pillow's own, where the image is larger still
        limit = f"more than {MAX_PIXELS:,} pixels, or a side of more than {MAX_SIDE:,}"
        raise ImageError(f"the image has {limit}; make it smaller") from None
    except UnidentifiedImageError:
        raise ImageError(f"this is not an image that can be read; {', '.join(FORMATS)} can") from None
    except Exception as error:  # a damaged file can raise nearly any
        raise ImageError(f"the image is damaged or cut short: {error}") from error


def first_that_shows(image: Image.Image, frames: int) -> Floats:
    """The colours of the first of so many frames that is not of one colour, or of the very first."""
    shown = None
    for frame in islice(ImageSequence.Iterator(image), frames):
        rgb = lay_on_ground(*reduce(frame))
        if max(map(np.ptp, cv2.split(rgb))) > 0.05:
            return rgb
        shown = rgb if shown is None else shown
    assert shown is not None
    return shown


def reduce(image: Image.Image) -> tuple[Floats, Floats]:
    """Colours and opacity (rows, columns, 1), both in [0, 1], upright, the long side averaged down to WORK.

    All that follows the average is small: of a large image there are never more than two copies.
    """
    if image.mode in ("1", "P", "PA") or "transparency" in image.info:  # which cannot be averaged
        image = image.convert("RGBA")
    scale = min(1, WORK / max(image.size))
    size = max(1, round(scale * image.width)), max(1, round(scale * image.height))
    image = image.convert("I") if image.mode.startswith("I") else image  # 16 bits
    image = image.resize(size, Image.Resampling.BOX)
    with contextlib.suppress(Exception):  # EXIF that is damaged is ignored
        image = ImageOps.exif_transpose(image)
    if image.mode == "I":  # convert() would clip it to 255; some writers fill the lower 8 bits alone
        grey = np.clip(np.asarray(image), 0, 65535)
        image = Image.fromarray(as_mask(grey // 257 if grey.max() > 255 else grey))
    rgba = as_floats(image.convert("RGBA")) / np.float32(255)
    return rgba[..., :3], rgba[..., 3:]


def lay_on_ground(rgb: Floats, alpha: Floats) -> Floats:
    """The colours on an opaque ground: the paper's own under holes in it, else black or white, what differs more."""
    if alpha.min() == 1:
        return rgb
    opaque = rgb[alpha[..., 0] > 0.5]
    if not len(opaque):
        return rgb * (alpha > 0)
    ground = np.median(opaque, axis=0)
    if alpha.mean() < 0.5 or opaque.std(axis=0).max() < 0.05:  # the opacity alone shows something
        ground = np.full(3, ground.mean() < 0.5, np.float32)
    return np.asarray(alpha * rgb + (1 - alpha) * ground, np.float32)


def as_mask(f: ArrayLike) -> Mask:
    """f as 0 and 1, as OpenCV takes masks."""
    return np.asarray(f, np.uint8)


def as_floats(f: ArrayLike) -> Floats:
    """f in single precision."""
    return np.asarray(f, np.float32)


def resize(f: Floats, size: tuple[int, int], how: int = cv2.INTER_AREA) -> Floats:
    """f at size (width, height), by area averaging unless how says otherwise."""
    return np.asarray(cv2.resize(f, size, interpolation=how), np.float32)


def fit(f: Floats, long: int) -> tuple[int, int]:
    """The size (width, height) of f once its long side is long."""
    height, width = (max(1, round(n * long / max(f.shape[:2]))) for n in f.shape[:2])
    return width, height


def trim(f: Floats, level: float) -> Floats:
    """The smallest box that holds what is above level."""
    rows, columns = (np.flatnonzero((f > level).any(axis=axis)) for axis in (1, 0))
    return f[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def paste(f: Floats, top: int, left: int) -> Floats:
    """f on black, SIDE x SIDE, as near to that corner as it fits."""
    top, left = (min(max(at, 0), SIDE - n) for at, n in zip((top, left), f.shape))
    X = np.zeros((SIDE, SIDE), np.float32)
    X[top : top + f.shape[0], left : left + f.shape[1]] = f
    return X


# Clothes


def prepare_garment(f: Floats) -> Floats:
    """Xiao et al. 2017: trimmed, the long side SIDE, the box in the middle, negated where the ground is light."""
    ground = np.median(np.concatenate([f[0], f[-1], f[1:-1, 0], f[1:-1, -1]]))
    f = (ground - f) / ground if ground > 0.5 else (f - ground) / (1 - ground)
    small = resize(f, fit(f, SIDE))
    if small.max() < 0.1:
        raise ImageError("there is nothing in the image that stands out from its ground")
    f = np.clip(f / small.max(), 0, 1)
    f = trim(f, 0.05 if max(f.shape) > SIDE else 0)
    X = resize(f, fit(f, SIDE))
    return paste(X, (SIDE + 1 - X.shape[0]) // 2, (SIDE + 1 - X.shape[1]) // 2)


# The surface


def find_surface(lab: Floats) -> tuple[Floats, Mask]:
    """The part of the image that is written on, and which of its pixels are surface: a sheet, note, badge or panel.

    It is the smallest panel; the whole image where there is none. Soft shadows do not part regions, edges do.
    """
    small = np.clip(resize(lab, fit(lab, SURFACE)) + (0, 128, 128), 0, 255).astype(np.uint8)
    flat = as_mask(steps(cv2.medianBlur(small, 7)) < EDGE)  # without strokes
    _, regions, stats, _ = cv2.connectedComponentsWithStats(flat, connectivity=4)
    large = [i for i in range(1, len(stats)) if stats[i, cv2.CC_STAT_AREA] > PANEL * flat.size]
    hulls = [cv2.convexHull(cv2.findNonZero(as_mask(regions == i))) for i in large]
    panels = [hull for i, hull in zip(large, hulls) if is_panel(regions == i, hull, small)]
    if not panels or min(lab.shape[:2]) < 64:
        return lab, np.ones(lab.shape[:2], np.uint8)
    inside = shrink(fill(min(panels, key=cv2.contourArea), flat.shape), 2)
    inside = as_mask(cv2.resize(inside, lab.shape[1::-1], interpolation=cv2.INTER_NEAREST))
    left, top, width, height = cv2.boundingRect(inside)
    box = slice(top, top + height), slice(left, left + width)
    return lab[box], inside[box]


def is_panel(region: NDArray[np.bool_], hull: Points, small: NDArray[np.uint8]) -> bool:
    """Whether a region of even colour is a four-sided or round shape within the image, its margin free, drawn upon."""
    area, inside = max(cv2.contourArea(hull), 1), fill(hull, region.shape)
    corners = cv2.approxPolyDP(hull, 0.05 * cv2.arcLength(hull, True), True)
    four = len(corners) == 4 and abs(cv2.contourArea(corners) / area - 1) < ROUGH
    circle = area > (1 - ROUGH) * math.pi * cv2.minEnclosingCircle(hull)[1] ** 2
    left, top, width, height = cv2.boundingRect(hull)
    within = (left > 0 and left + width < region.shape[1]) or (top > 0 and top + height < region.shape[0])
    core = shrink(inside, 3)
    free = np.count_nonzero(region & (inside > core)) > FREE * np.count_nonzero(inside > core)  # the margin
    even = np.count_nonzero(region) > EVEN * area
    drawn = np.count_nonzero((steps(small) > EDGE) & (core > 0)) > DRAWN * area
    return bool(within and (four or circle) and free and even and drawn)


def steps(small: NDArray[np.uint8]) -> Floats:
    """How much the colour (rows, columns, 3) changes about each pixel (rows, columns)."""
    change: Floats = cv2.morphologyEx(small, cv2.MORPH_GRADIENT, square(1)).max(axis=2)
    return change


def fill(hull: Points, shape: tuple[int, ...]) -> Mask:
    """The inside of a convex polygon."""
    return as_mask(cv2.fillConvexPoly(np.zeros(shape, np.uint8), hull, 1))


def square(radius: int) -> Mask:
    """A structuring element."""
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def shrink(mask: Mask, radius: int) -> Mask:
    """The mask without that margin, but at the edge of the image."""
    return as_mask(cv2.erode(mask, square(radius)))


# Ink


def find_ink(rgb: Floats) -> Floats:
    """The ink of the one digit that the image shows, whatever the light. ImageError for none, or several."""
    if min(rgb.shape[:2]) < SMALL:
        raise ImageError("there is no ink in the image: it is too small or too narrow")
    rgb = np.clip(resize(rgb, fit(rgb, max(LEAST, *rgb.shape[:2])), cv2.INTER_CUBIC), 0, 1)
    lab, surface = find_surface(cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab))
    contrast = ink_contrast(lab, surface)
    low, middle = (float(v) for v in np.percentile(contrast[surface > 0], (5, 30)))  # of the paper: its noise
    noise, contrast = middle - low, np.clip(contrast - middle, 0, None) * surface
    threshold = max(otsu(contrast), 5 * noise, CONTRAST)
    if not (contrast > threshold).any():
        raise ImageError("there is no ink in the image")
    depth = cv2.distanceTransform(as_mask(contrast > threshold), cv2.DIST_L2, 5)
    full = float(np.average(contrast, weights=depth**2))  # of the broad strokes: rules of the paper are fainter
    strokes = keep_digit(as_mask(contrast > max(threshold, full / 2)), surface)
    return as_floats(np.clip((contrast / full - 0.25) / 0.6, 0, 1) * strokes)


def ink_contrast(lab: Floats, surface: Mask) -> Floats:
    """How far each colour is from the paper's at its place, towards the ink's colour.

    By the matting equation, colour = a ink + (1 - a) paper, the share a of ink is that distance over the one from the
    paper to the ink. Where the paper is found too dark, as under ink at the edge of the image, both are too short.
    """
    if min(lab.shape[:2]) > COARSE:
        lab = cv2.GaussianBlur(lab, (0, 0), max(lab.shape[:2]) / 500)
    paper = find_paper(lab, surface)
    difference = (lab - paper) * surface[..., np.newaxis]
    distance = np.linalg.norm(difference, axis=2)
    strong = distance >= 0.6 * np.percentile(distance, 99.5)
    weights = distance[strong] + 1e-9
    ink = np.average(difference[strong], axis=0, weights=weights)
    full = max(float(np.linalg.norm(ink)), 1e-6)
    towards = ink / full
    gap = np.average(lab[strong] @ towards, weights=weights) - paper @ towards
    gain = np.clip(full / np.maximum(gap, 1e-6), 1, MAX_GAIN)
    return as_floats(gain * (difference @ towards))


def find_paper(lab: Floats, surface: Mask) -> Floats:
    """The colour of the paper alone, also under the ink, each channel turned so that ink is its low side."""
    size = fit(lab, min(COARSE, max(lab.shape[:2])))
    on = cv2.resize(surface, size, interpolation=cv2.INTER_NEAREST) > 0
    least = np.array([0, -128, -128], np.float32)
    channels = [find_level(f, on) for f in cv2.split(np.maximum(resize(lab, size) - least, 0))]
    return resize(np.stack(channels, axis=2) + least, (lab.shape[1], lab.shape[0]), cv2.INTER_LINEAR)


def find_level(f: Floats, on: NDArray[np.bool_]) -> Floats:
    """One channel of the paper's colour: the lower of two closings, which fill what is narrower than a third of f.

    One is of f, which is exact in a shadow with an edge, one of what f differs from a parabola, which is exact where
    the light falls off. Ink is rarer than paper, so what f differs from the mean about it is skewed towards it.
    Two scales have a say, as at the wide one alone a strip of light beside a shadow can pass for ink.
    """
    radius = max(1, max(f.shape) // 6)
    filled = np.sqrt(np.where(on, f, np.median(f[on])))  # the square root evens out light and shadow
    wide = np.pad(filled, max(f.shape) // 8, "edge")
    beyond_mean = (wide - cv2.GaussianBlur(wide, (0, 0), max(f.shape) / n) for n in (5, 15))
    sign = -1 if sum(map(skewness, beyond_mean)) > 0 else 1
    f = f * sign
    smooth = fit_parabola(f, on)
    closed = np.minimum(close(f, on, radius) - smooth, close(f - smooth, on, radius))
    return as_floats(sign * (smooth + cv2.GaussianBlur(closed, (0, 0), radius / 3)))


def skewness(f: Floats) -> float:
    """The third moment about 0, over the second to the power of 3/2."""
    return float(np.mean(f**3) / max(float(np.mean(f**2)) ** 1.5, 1e-12))


def close(f: Floats, on: NDArray[np.bool_], radius: int) -> Floats:
    """The morphological closing by a square of 2 radius + 1, of what is on."""
    return as_floats(cv2.morphologyEx(as_floats(np.where(on, f, f.min())), cv2.MORPH_CLOSE, square(radius)))


def fit_parabola(f: Floats, on: NDArray[np.bool_]) -> Floats:
    """The surface of second degree that fits best the lighter half, found anew five times."""
    y, x = (axis.ravel() for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in f.shape), indexing="ij"))
    A, level, on = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1), f.ravel(), on.ravel()
    fitted = np.zeros_like(level)
    for _ in range(5):
        light = on & (level - fitted >= np.median((level - fitted)[on]))
        fitted = A @ np.linalg.lstsq(A[light], level[light])[0]
    return as_floats(fitted.reshape(f.shape))


def otsu(f: Floats) -> float:
    """Otsu 1979: the threshold with the largest variance between what lies below and what lies above."""
    top = max(float(f.max()), 1e-6)
    return float(cv2.threshold((255 * f / top).astype(np.uint8), 0, 255, cv2.THRESH_OTSU)[0]) * top / 255


# Connected components


@dataclass(frozen=True, eq=False)
class Part:
    """A connected component: its mask in the whole image, its box and area, and the mean width of its strokes."""

    mask: Mask
    x: int
    y: int
    w: int
    h: int
    area: int
    width: float

    @property
    def length(self) -> int:
        return max(self.w, self.h)


def find_parts(mask: Mask, least: float) -> list[Part]:
    """The 60 largest connected components of at least that many pixels, largest first."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    order = [i for i in 1 + np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:60] if stats[i, cv2.CC_STAT_AREA] >= least]
    return [measure(as_mask(labels == i)) for i in order]


def measure(mask: Mask) -> Part:
    """The mask as one component, connected or not."""
    x, y, w, h = cv2.boundingRect(mask)
    return Part(mask, x, y, w, h, cv2.countNonZero(mask), stroke_width(mask[y : y + h, x : x + w]))


def keep_digit(mask: Mask, surface: Mask) -> Mask:
    """The strokes of one digit, and a margin of a pixel. ImageError for none, or several."""
    parts = find_parts(mask, 3e-5 * mask.size)
    if not parts or parts[0].area < 8:
        raise ImageError("there is no ink in the image, or too little to tell what it is")
    rim = surface - cv2.erode(surface, square(1), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    inner = [p for p in parts if not (p.mask & rim).any()]  # the rest goes on beyond the surface
    if inner and inner[0].area > 0.05 * parts[0].area:
        parts = inner
    parts = inside_frame(mask, parts)
    main = max(parts, key=lambda p: p.area * p.width**2)
    parts = [p for p in parts if not is_line(p, main)]
    digit, rest = join(main, parts)
    if any(is_like_a_digit(p, digit) for p in rest):
        raise ImageError("there are several digits in the image; show one alone")
    return as_mask(cv2.dilate(digit.mask, square(1)))


def inside_frame(mask: Mask, parts: list[Part]) -> list[Part]:
    """What is written inside a box or circle of thinner line, also where it touches it; parts without a frame.

    The ring of a 0 is no frame: there is nothing in it, or a slash that is thinner.
    """
    for frame in parts:
        contours, tree = cv2.findContours(frame.mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        for contour in (contour for contour, (_, _, _, parent) in zip(contours, tree[0]) if parent >= 0):  # holes
            _, _, w, h = cv2.boundingRect(contour)
            if w * h < 0.5 * frame.w * frame.h:
                continue
            hull = shrink(fill(cv2.convexHull(contour), mask.shape), 1)
            line = frame.mask & (1 - hull)
            within = find_parts(mask & hull, 0.1 * line.sum())
            if any(stroke_width(line) < LINE * p.width and p.h > 0.35 * h for p in within):
                return within
    return parts


def is_line(part: Part, main: Part) -> bool:
    """Whether a component is a rule, an underline or an open frame: thinner than the main one, and as long."""
    sparse = part.area < 0.25 * part.w * part.h or part.w > 5 * part.h
    return sparse and part.width < LINE * main.width and part.length > 0.8 * main.length


def is_like_a_digit(part: Part, main: Part) -> bool:
    """Whether a component is about as high, broad and large as the main one."""
    return part.h > 0.5 * main.h and part.width > 0.5 * main.width and part.area > 0.12 * main.area


def join(main: Part, parts: list[Part]) -> tuple[Part, list[Part]]:
    """The digit, which is the main component and, one after the other, those that belong to it; and the rest."""
    digit, strokes, rest = main, [main], [p for p in parts if p is not main and p.area > SPECK * main.area]
    while True:
        away = cv2.distanceTransform(1 - digit.mask, cv2.DIST_L2, 5)
        new = [p for p in rest if belongs(p, digit, strokes, float(away[p.mask > 0].min()))]
        if not new:
            return digit, rest
        strokes, rest = strokes + new, [p for p in rest if p not in new]
        digit = measure(merge(strokes))


def belongs(part: Part, digit: Part, strokes: list[Part], gap: float) -> bool:
    """Whether a component with that gap is one more stroke of the digit, rather than a second digit or a word."""
    if any(is_straight(part, p) for p in strokes):
        near = gap < BAR_GAP * digit.length
    elif not is_like_a_digit(part, digit):
        near = gap < SMALL_GAP * digit.length
    elif boxes_overlap(part, digit):
        near = gap < OVERLAP_GAP * digit.length
    else:
        both = measure(merge([part, digit]))
        beside = part.x > digit.x + digit.w or digit.x > part.x + part.w
        near = gap < GAP * (both.h if beside else max(both.w, digit.length))
    return near and part.width > 0.4 * digit.width


def boxes_overlap(first: Part, second: Part) -> bool:
    """Whether two components lie side by side and above each other at once, as two digits seldom do."""
    beside = max(first.x, second.x) >= min(first.x + first.w, second.x + second.w)
    above = max(first.y, second.y) >= min(first.y + first.h, second.y + second.h)
    return not (beside or above)


def merge(parts: list[Part]) -> Mask:
    """The mask of several components."""
    return as_mask(np.bitwise_or.reduce([p.mask for p in parts]))


def is_straight(first: Part, second: Part) -> bool:
    """Whether two components are bars on one line, as in a digital display."""
    sides = [cv2.minAreaRect(cv2.findNonZero(mask))[1] for mask in (first.mask, second.mask, merge([first, second]))]
    filled = all(part.area > 0.75 * w * h for part, (w, h) in zip((first, second), sides))
    return filled and min(sides[2]) < 1.3 * max(min(sides[0]), min(sides[1])) and max(sides[2]) > 4 * min(sides[2])


# Scale and centre


def centre(ink: Floats) -> Floats:
    """LeCun et al. 1998: the ink's long side DIGIT, its centre of mass in the middle of SIDE x SIDE."""
    ink = even_strokes(trim(ink, 0.2))
    X = resize(ink, fit(ink, DIGIT))
    row, column = (np.average(at, weights=X[np.nonzero(X)]) for at in np.nonzero(X))
    return paste(X, round(SIDE / 2 - row), round(SIDE / 2 - column))


def is_of_mnist(f: Floats) -> bool:
    """Whether f already is as MNIST's images are."""
    if f.shape != (SIDE, SIDE) or f.max() < 0.5:
        return False
    ink = np.nonzero(f)
    middle = [float(np.average(at, weights=f[ink])) for at in ink]
    return max(map(np.ptp, ink)) + 1 in (DIGIT - 1, DIGIT) and all(abs(c - SIDE / 2) < 0.6 for c in middle)


def even_strokes(ink: Floats) -> Floats:
    """The digit with its long side FINE * DIGIT, its strokes thickened or thinned towards the widths of STROKE."""
    how = cv2.INTER_AREA if max(ink.shape) > FINE * DIGIT else cv2.INTER_CUBIC
    ink = np.clip(resize(ink, fit(ink, FINE * DIGIT), how), 0, 1)
    width = stroke_width(cv2.GaussianBlur(ink, (0, 0), FINE / 4)) / FINE  # noise is no edge of a stroke
    change = min(max(width, STROKE[0]), STROKE[1]) - width
    radius = round(FINE * abs(change) / 2)
    ink = np.pad(ink, radius + 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    even = cv2.dilate(ink, kernel) if change > 0 else cv2.erode(ink, kernel)
    return trim(even if even.max() > 0.2 else ink, 0.2)  # specks of light can leave nothing of thick strokes


def stroke_width(ink: ArrayLike) -> float:
    """2 area / perimeter; by Cauchy and Crofton the perimeter is pi / 4 of the sum of all changes along both axes."""
    padded = np.pad(as_floats(ink), 1)
    perimeter = math.pi / 4 * sum(float(np.abs(np.diff(padded, axis=axis)).sum()) for axis in (0, 1))
    return 2 * float(padded.sum()) / max(perimeter, 1e-6)
