"""Tests of demo/photo.py, with Pillow's drawings; the last tests are demo/robustness.py with fewer samples."""

import struct
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import train
from data.load import load
from data.weights import Weights
from demo import photo
from demo.photo import ImageError, prepare_image
from demo.predict import load_network
from demo.robustness import CONDITIONS, TURNS, as_it_is, count_right, read_back, save, table

Line = list[tuple[int, int]]  # (x, y) from 0 to 100
SEVEN: list[Line] = [[(30, 20), (70, 20), (45, 80)]]
FIVE: list[Line] = [[(40, 22), (38, 48), (60, 48), (64, 65), (50, 78), (34, 74)], [(52, 20), (70, 20)]]  # in two parts
FOUR: list[Line] = [[(40, 20), (30, 52), (58, 52)], [(70, 25), (68, 80)]]  # its two strokes do not touch
SLANTED_FOUR: list[Line] = [[(46, 20), (26, 50), (40, 50)], [(71, 24), (48, 80)]]  # as far apart as two digits
RNG = np.random.default_rng(0)
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def drawn(lines: list[Line] = SEVEN, side: int = 300, width: int = 7, paper: int = 255, pen: int = 0) -> Image.Image:
    """Lines with round ends, smooth at the edges; width in hundredths of the side."""
    sheet = Image.new("L", (4 * side, 4 * side), paper)
    draw, r = ImageDraw.Draw(sheet), 2 * side * width // 100
    for line in lines:
        points = [(x * side // 25, y * side // 25) for x, y in line]
        draw.line(points, fill=pen, width=2 * r)
        for x, y in points:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=pen)
    return sheet.resize((side, side), Image.Resampling.BOX)


def read_file(content: bytes, dataset: str = "mnist") -> NDArray[np.int64]:
    return prepare_image(content, dataset).reshape(28, 28).astype(np.int64)


def read(sheet: Image.Image, dataset: str = "mnist", format: str = "PNG") -> NDArray[np.int64]:
    return read_file(save(sheet, format), dataset)


def far(X: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """The mean difference of two images where either has ink, in grey levels."""
    return float(np.abs(X - other)[(X > 0) | (other > 0)].mean())


def check_form(X: NDArray[np.int64]) -> None:
    """What all 60,000 training images of MNIST fulfil."""
    ink = np.nonzero(X)
    assert max(np.ptp(at) + 1 for at in ink) == 20
    assert all(abs(np.average(at, weights=X[ink]) - 14) <= 0.51 for at in ink)
    assert X.max() == 255


def on_nothing(sheet: Image.Image, mode: str) -> Image.Image:
    """The ink alone, what is paper being transparent."""
    clear = Image.new(mode, sheet.size, 0)
    clear.putalpha(sheet.point(lambda v: 255 - v))
    return clear


MODES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "1": lambda p: p.convert("1", dither=Image.Dither.NONE),
    "L": lambda p: p,
    "P": lambda p: p.convert("P"),
    "RGB": lambda p: p.convert("RGB"),
    "RGBA": lambda p: p.convert("RGBA"),
    "LA on nothing": lambda p: on_nothing(p, "L"),
    "RGBA on nothing": lambda p: on_nothing(p, "RGB"),
    "16 bit": lambda p: Image.fromarray(np.asarray(p).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_of_png_gives_the_same(mode: str) -> None:
    sheet = drawn(width=11 if mode == "1" else 7)  # of jagged strokes, those of a width that is left alone
    X = read(MODES[mode](sheet))
    check_form(X)
    assert far(X, read(sheet)) < (20 if mode == "1" else 1)


FORMATS = "JPEG L, JPEG RGB, JPEG CMYK, WEBP RGB, WEBP RGBA, BMP L, BMP RGB, BMP 1, GIF L, GIF P, HEIF RGB"


@pytest.mark.parametrize("format, mode", [pair.split() for pair in FORMATS.split(", ")])
def test_every_format_gives_the_same(format: str, mode: str) -> None:
    assert far(read(drawn().convert(mode), format=format), read(drawn())) < (25 if mode == "1" else 5)


def test_of_a_film_the_first_image_is_read() -> None:
    content = save(drawn(), "GIF", save_all=True, append_images=[drawn(FOUR)])
    assert far(read_file(content), read(drawn())) < 5


def test_damaged_exif_is_ignored() -> None:
    content = save(drawn(), "JPEG", exif=b"Exif\0\0garbage")
    assert far(read_file(content), read(drawn())) < 5


@pytest.mark.parametrize("turn", TURNS)
def test_exif_is_obeyed(turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    content = save(drawn().transpose(TURNS[turn]), "JPEG", exif=exif)
    assert far(read_file(content), read(drawn())) < 5


@pytest.mark.parametrize("format", photo.FORMATS)
def test_a_file_cut_short_is_refused(format: str) -> None:
    content = save(drawn(), format)
    for length in (len(content) // 2, len(content) // 10 + 20):
        with pytest.raises(ImageError, match="damaged or cut short|not an image"):
            prepare_image(content[:length], "mnist")


@pytest.mark.parametrize("format", photo.FORMATS)
def test_damaged_bytes_raise_nothing_else(format: str) -> None:
    content = np.frombuffer(save(drawn(side=60), format), np.uint8)
    refused = 0
    for _ in range(100):
        damaged = content.copy()
        damaged[RNG.integers(len(content), size=5)] = RNG.integers(0, 256, 5)
        try:
            assert prepare_image(damaged.tobytes(), "mnist").shape == (784,)
        except ImageError:
            refused += 1
    assert refused


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"<!DOCTYPE html>", RNG.bytes(5000), save(drawn(), "TIFF")])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(ImageError, match="not an image that can be read; PNG, JPEG, WEBP, BMP, GIF, HEIF can"):
        prepare_image(content, "mnist")


def header_of_png(width: int, height: int) -> bytes:
    """A PNG that ends where its pixels should begin."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    checked = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + checked + struct.pack(">I", 100) + b"IDAT"


@pytest.mark.parametrize("width, height", [(8000, 8000), (10_000, 10_000), (40_000, 40_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_of_too_many_pixels_is_refused_by_its_header(width: int, height: int) -> None:
    with pytest.raises(ImageError, match="more than 30,000,000 pixels"):
        prepare_image(header_of_png(width, height), "mnist")


BLANKS: dict[str, Callable[[int], NDArray[np.generic]]] = {
    "white": lambda n: np.full((n, n), 255, np.uint8),
    "black": lambda n: np.zeros((n, n), np.uint8),
    "grey": lambda n: np.full((n, n, 3), 130, np.uint8),
    "transparent": lambda n: np.zeros((n, n, 4), np.uint8),
    "transparent white": lambda n: np.full((n, n, 4), (255, 255, 255, 0), np.uint8),
    "faint noise": lambda n: np.clip(RNG.normal(240, 4, (n, n)), 0, 255).astype(np.uint8),
    "dark noise": lambda n: np.clip(RNG.normal(5, 4, (n, n)), 0, 255).astype(np.uint8),
    "strong noise": lambda n: RNG.integers(0, 256, (n, n), np.uint8),
    "texture": lambda n: (255 * cv2.GaussianBlur(RNG.uniform(0.5, 1, (n, n)), (0, 0), 2)).astype(np.uint8),
    "light that falls off": lambda n: np.tile(np.linspace(60, 230, n), (n, 1)).astype(np.uint8),
    "vignette": lambda n: (220 * (1 - 0.3 * np.add.outer(*2 * [np.linspace(-1, 1, n) ** 2]) / 2)).astype(np.uint8),
}


@pytest.mark.parametrize("side", [1, 4, 28, 200, 900])
@pytest.mark.parametrize("blank", BLANKS)
def test_an_empty_image_is_never_a_digit(blank: str, side: int) -> None:
    with pytest.raises(ImageError, match="no ink|several digits" if side == 28 else "no ink"):
        read(Image.fromarray(BLANKS[blank](side)))


@pytest.mark.parametrize("size", [(1, 1), (2, 28), (28, 2), (3000, 2), (6, 40), (40, 6)])
@pytest.mark.parametrize("level", [0, 130, 255])
def test_an_empty_strip_is_no_digit(size: tuple[int, int], level: int) -> None:
    with pytest.raises(ImageError, match="no ink"):
        read(Image.new("L", size, level))


@pytest.mark.parametrize("blank", ["white", "black", "grey", "transparent", "faint noise", "dark noise"])
def test_an_empty_image_is_no_clothing(blank: str) -> None:
    with pytest.raises(ImageError, match="nothing in the image"):
        read(Image.fromarray(BLANKS[blank](200)), "fashion-mnist")


def test_several_digits_are_refused() -> None:
    for pair in ((drawn(), drawn(FOUR)), (drawn(FIVE), drawn())):
        with pytest.raises(ImageError, match="several digits"):
            read(Image.fromarray(np.hstack(pair)))


@pytest.mark.parametrize(
    ("lines", "width"), [(FIVE, 9), (FOUR, 9), (SLANTED_FOUR, 11), ([*SEVEN, [(38, 50), (38, 51)]], 9)]
)
def test_strokes_close_by_are_one_digit(lines: list[Line], width: int) -> None:
    """Nothing is lost: as much ink as in the drawing, trimmed and averaged down."""
    sheet = drawn(lines, width=width)
    X, ink = read(sheet), 255 - np.asarray(sheet).astype(np.float32)
    check_form(X)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    scale = 20 / max(np.ptp(rows) + 1, np.ptp(columns) + 1)
    assert X.sum() == pytest.approx(ink.sum() * scale**2, rel=0.1)


def test_specks_and_what_the_edge_cuts_off_are_no_ink() -> None:
    sheet = drawn()
    draw = ImageDraw.Draw(sheet)
    draw.ellipse((20, 250, 25, 255), fill=0)
    draw.rectangle((250, 0, 300, 200), fill=0)
    assert far(read(sheet), read(drawn())) < 15


def test_thick_strokes_full_of_specks_of_light_are_ink() -> None:
    sheet = np.array(drawn([[(30, 20), (70, 20), (45, 80)]], side=200, width=20))
    for a, b in np.ndindex(2, 2):
        sheet[a::5, b::5] = 255
    assert read(Image.fromarray(sheet)).max() > 200


def test_a_digit_is_averaged_down_and_centred_by_its_mass() -> None:
    """Ink of 160 x 96 pixels: its blocks of 8 x 8 are the pixels of the 20 x 12, whole pixels from the middle."""
    L = np.zeros((160, 96))
    L[:, :20], L[-20:] = 1, 1
    small = L.reshape(20, 8, 12, 8).mean(axis=(1, 3))
    top, left = (round(14 - np.average(np.arange(n), weights=small.sum(axis=1 - k))) for k, n in enumerate((20, 12)))
    expected = np.pad(small, [(top, 8 - top), (left, 16 - left)])
    sheet = np.full((400, 300), 230, np.uint8)
    sheet[37:197, 151:247] -= (200 * L).astype(np.uint8)
    X = read(Image.fromarray(sheet))
    check_form(X)
    assert far(X, np.rint(255 * expected).astype(np.int64)) < 16


@pytest.mark.parametrize("width", [2, 6, 14, 20])
def test_strokes_come_out_as_wide_as_those_of_mnist(width: int) -> None:
    X = read(drawn(side=600, width=width))
    check_form(X)
    assert 1.7 < photo.stroke_width(X / 255) < 3.9


@pytest.mark.parametrize("side", [100, 640, 2000])
@pytest.mark.parametrize("paper, pen", [(255, 0), (0, 255), (200, 120), (40, 90)])
def test_size_and_polarity_do_not_matter(side: int, paper: int, pen: int) -> None:
    X = read(drawn(side=side, paper=paper, pen=pen))
    assert far(X, read(drawn())) < 25


def test_transparent_corners_are_paper() -> None:
    sheet = drawn().convert("RGBA")
    corners = Image.new("L", sheet.size, 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 299, 299), 40, fill=255)
    sheet.putalpha(corners)
    assert far(read(sheet), read(drawn())) < 1


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_what_is_prepared_stays_as_it_is(dataset: str) -> None:
    X = read(drawn(FIVE), dataset)
    assert (read(Image.fromarray(X.astype(np.uint8)), dataset) == X).all()


def test_clothes_are_trimmed_centred_and_negated() -> None:
    """A block of 140 x 70 pixels, dark above and grey below, on a light ground: 28 x 14 pixels in the middle."""
    sheet = np.full((300, 400, 3), 250, np.uint8)
    sheet[20:90, 300:370], sheet[90:160, 300:370] = 10, 106
    X = read(Image.fromarray(sheet), "fashion-mnist")
    assert (X[:14, 7:21] == 255).all() and (X[14:, 7:21] == 153).all()
    assert not X[:, :7].any() and not X[:, 21:].any()
    assert (read(Image.fromarray(255 - sheet), "fashion-mnist") == X).all()


@pytest.mark.parametrize("angle", [0, 20, 45, 70])
def test_stroke_width_of_a_bar(angle: int) -> None:
    bar = Image.new("L", (400, 400))
    ImageDraw.Draw(bar).rectangle((50, 190, 349, 209), fill=255)
    f = np.asarray(bar.rotate(angle, Image.Resampling.BICUBIC)) / 255
    assert photo.stroke_width(f) == pytest.approx(20, rel=0.3)


def test_stroke_width_of_a_ring() -> None:
    y, x = np.mgrid[-100:101, -100:101]
    f = (np.abs(np.hypot(x, y) - 70) < 6).astype(np.float64)
    assert photo.stroke_width(f) == pytest.approx(12, rel=0.05)


def test_the_paper_is_found_under_the_ink() -> None:
    y, x = np.mgrid[-1:1:100j, -1:1:120j]
    light = 70 + 10 * x - 15 * y - 10 * x * y
    ink = np.abs(np.hypot(x, y) - 0.4) < 0.06
    lab = np.stack([np.where(ink, 10, light), np.where(ink, 20, 5), np.full_like(x, 9)], axis=2).astype(np.float32)
    paper = photo.find_paper(lab, np.ones(x.shape, np.uint8))
    assert np.abs(paper - np.stack([light, np.full_like(x, 5), np.full_like(x, 9)], axis=2)).max() < 5


# Scenes: a digit with something about it is read as the digit alone

PAPER = (235, 235, 230)
Pen = str | tuple[int, int, int]


def scene(
    draw_about: Callable[[ImageDraw.ImageDraw], None], pen: Pen = "black", ground: tuple[int, int, int] = PAPER
) -> Image.Image:
    """SEVEN in the middle of 400 x 400, after what else is drawn."""
    sheet = Image.new("RGB", (400, 400), ground)
    draw_about(ImageDraw.Draw(sheet))
    sheet.paste(pen, (50, 50), drawn(paper=0, pen=255))
    return sheet


def note(draw: ImageDraw.ImageDraw) -> None:
    draw.polygon([(60, 70), (340, 50), (350, 340), (70, 350)], fill=(250, 235, 115))


def badge(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((40, 40, 360, 360), fill=(180, 25, 25))


def box(draw: ImageDraw.ImageDraw) -> None:
    draw.rectangle((115, 80, 285, 320), outline=(60, 60, 60), width=4)


def open_box(draw: ImageDraw.ImageDraw) -> None:
    draw.line([(110, 80), (285, 80), (285, 330), (110, 330)], fill="black", width=4)


def ring(draw: ImageDraw.ImageDraw) -> None:
    draw.ellipse((70, 70, 330, 330), outline="black", width=5)


def underline(draw: ImageDraw.ImageDraw) -> None:
    draw.line((60, 330, 340, 335), fill="black", width=5)


def words(draw: ImageDraw.ImageDraw) -> None:
    draw.text((20, 100), "Answer:", fill=(70, 70, 70), font_size=22)


SCENES = {
    "note": scene(note, ground=(60, 40, 30)),
    "badge": scene(badge, "white", (200, 200, 200)),
    "box": scene(box),
    "open box": scene(open_box),
    "ring": scene(ring),
    "underline": scene(underline),
    "words": scene(words),
    "equal grey": scene(lambda draw: None, (190, 60, 60), (60, 115, 60)),
}


@pytest.mark.parametrize("name", SCENES)
def test_the_digit_is_found_in_the_scene(name: str) -> None:
    assert far(read(SCENES[name]), read(drawn())) < 30


@pytest.mark.parametrize("seed", [26, 149])  # which throw such a shadow
def test_a_strip_of_light_between_a_dark_table_and_a_shadow_is_no_ink(seed: int) -> None:
    X = read(drawn(FOUR, width=5))
    content = CONDITIONS["paper on a dark table"](X.astype(np.uint8), np.random.default_rng(seed))
    assert far(read_file(content), X) < 40


def test_a_slash_in_a_zero_is_part_of_it() -> None:
    sheet = Image.new("L", (300, 300), 255)
    draw = ImageDraw.Draw(sheet)
    draw.ellipse((90, 60, 210, 240), outline=0, width=24)
    draw.line((130, 185, 170, 115), fill=0, width=16)
    X = read(sheet)
    check_form(X)
    assert np.ptp(np.nonzero(X)[1]) + 1 > 12 and X[13:15, 13:15].max() > 128


def test_a_hole_in_what_is_opaque_is_ink() -> None:
    sheet = Image.new("RGB", (300, 300), (20, 40, 130))
    sheet.putalpha(drawn())
    assert far(read(sheet), read(drawn())) < 5


def test_16_bits_of_which_the_lower_8_are_used_are_read() -> None:
    assert far(read(Image.fromarray(np.asarray(drawn()).astype(np.uint16))), read(drawn())) < 1


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_that_shows_anything_is_read(format: str) -> None:
    blank = Image.new("RGB", (300, 300), "white")
    content = save(blank, format, save_all=True, append_images=[drawn().convert("RGB")], duration=100)
    assert far(read_file(content), read(drawn())) < 5


def test_a_side_of_too_many_pixels_is_refused_by_its_header() -> None:
    with pytest.raises(ImageError, match="a side of more than 30,000"):
        prepare_image(header_of_png(1, 50_000_000), "mnist")


def test_stages_end_where_no_digit_is_found() -> None:
    assert [stage.shape[:2] for stage in photo.find_stages(save(drawn()))] == 3 * [(300, 300)]
    assert len(photo.find_stages(save(Image.new("L", (300, 300), 255)))) == 2


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A network that has not seen the validation set."""
    path = tmp_path_factory.mktemp("weights") / "mnist.pkl"
    assert train.main(["--validation", "--epochs", "3", "--layers", "784", "128", "10", "--weights", str(path)]) == 0
    return load_network(path)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_digits_are_read_under_every_condition(condition: str, weights: Weights) -> None:
    X, Y = load("mnist", "train")
    some = slice(-5 if condition == "12-megapixel photo" else -30, None)
    back, refused = read_back(CONDITIONS[condition], X[some], "mnist", seed=1)
    allowed = 3 if condition == "thin pen" else 1  # it breaks some digits into parts, which may be refused as several
    assert count_right(weights, back, Y[some]) >= count_right(weights, X[some], Y[some]) - allowed, refused


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_images_of_the_dataset_stay_as_they_are(dataset: str) -> None:
    X = load(dataset, "train")[0][-1000:]
    back, refused = read_back(as_it_is, X, dataset, seed=0)
    assert not refused and (np.abs(back.astype(int) - X).max(axis=1) <= 1).mean() > 0.97


def test_the_table_tells_a_condition_that_loses_too_much(weights: Weights, capsys: pytest.CaptureFixture[str]) -> None:
    X, Y = load("mnist", "train")
    X, Y = X[-50:], Y[-50:]
    blank = {"good": as_it_is, "blank": lambda x, rng: save(Image.new("L", (50, 50)))}
    assert table(weights, X, Y, {"good": as_it_is}, 0.0)
    assert not table(weights, X, Y, blank, 2.0)
    assert "| blank | 50 |" in capsys.readouterr().out
