"""Tests of the page in Chromium, with the weights of `make train`. DEMO_SHOTS names a folder for the screenshots."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

from demo.robustness import save
from demo.test_app import KEY, LAYERS, keep_random, started

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "mnist.pkl"
Stroke = list[tuple[float, float]]  # points in [0, 1], from the upper left of the sheet
Launch = Callable[..., tuple[subprocess.Popen[str], str]]  # flags of the command
Visit = Callable[..., Page]  # url, width, scheme, touch

WRITTEN = {  # points x,y in hundredths of the sheet's side; a slash lifts the pen
    "0": "53,18 41,23 33,38 31,55 36,72 47,82 60,78 68,63 69,45 64,28 53,18",
    "1": "42,31 53,18 51,50 50,83",
    "2": "32,34 37,23 49,17 62,22 66,35 58,52 44,68 31,81 48,79 71,81",
    "3": "33,25 44,18 57,18 66,27 63,39 53,47 44,49 56,50 67,58 68,71 58,81 44,83 31,76",
    "4": "39,18 34,36 28,54 48,54 73,52 / 62,25 60,52 58,84",
    "5": "37,20 35,45 47,42 60,46 67,59 63,73 50,82 33,79 / 37,20 67,19",
    "6": "60,17 46,30 37,47 34,64 39,78 51,83 63,76 66,64 57,55 45,57 37,67",
    "7": "30,22 50,21 71,21 60,44 52,63 46,83",
    "8": "63,28 53,18 40,21 37,32 45,43 57,53 65,66 60,79 47,83 36,75 37,62 48,51 60,40 64,29",
    "9": "64,30 54,19 41,23 35,35 40,47 53,49 62,41 65,28 64,50 60,68 55,84",
}
DIGITS: dict[str, list[Stroke]] = {
    digit: [[(int(x) / 100, int(y) / 100) for x, y in re.findall(r"(\d+),(\d+)", stroke)] for stroke in text.split("/")]
    for digit, text in WRITTEN.items()
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if not chromium and "CI_BROWSER" not in os.environ:
        pytest.skip("there is no chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    assert WEIGHTS.exists(), "there are no weights; make train"
    with started("--port", 0, "--weights", WEIGHTS) as (_, url):
        yield url


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts servers, and stops them in the end."""
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(started(*arguments))


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    folder = Path(os.environ.get("DEMO_SHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens a page; in the end nothing was fetched from elsewhere, and no error is known but of lost connections."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []
    hosts: set[str] = set()
    homes: set[str] = set()

    def visit(url: str, width: int = 1440, scheme: Literal["light", "dark"] = "light", touch: bool = False) -> Page:
        size, sort = {"width": width, "height": 900}, {"has_touch": touch, "is_mobile": touch}
        context = browser.new_context(viewport=size, color_scheme=scheme, **sort)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(re.sub(r"(//[^/]*)?/.*", r"\1", request.url)))
        homes.add(url)
        page.goto(url)
        page.wait_for_selector("#bars li, dialog[open]")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert hosts <= homes | {"data:image"}
    assert [error for error in errors if "ERR_CONNECTION_REFUSED" not in error] == []


def path_on(page: Page, stroke: Stroke) -> Stroke:
    box = page.locator("#pad").bounding_box()
    assert box
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]


def trace(page: Page, strokes: Sequence[Stroke]) -> None:
    for stroke in strokes:
        for n, (x, y) in enumerate(path_on(page, stroke)):
            page.mouse.move(x, y, steps=3)
            if n == 0:
                page.mouse.down()
        page.mouse.up()


def draw(page: Page, strokes: Sequence[Stroke]) -> None:
    trace(page, strokes)
    settle(page)


def settle(page: Page) -> None:
    page.wait_for_selector("#answer[aria-busy=false]")


def ink(page: Page) -> int:
    """How many pixels of the sheet are drawn upon."""
    count: int = page.evaluate("""() => {
        const pad = document.getElementById("pad"), context = pad.getContext("2d");
        const alpha = context.getImageData(0, 0, pad.width, pad.height).data.filter((_, n) => n % 4 === 3);
        return alpha.filter(value => value > 128).length;
    }""")
    return count


def make_file(text: str = "7") -> bytes:
    image = Image.new("RGB", (400, 300), "white")
    for stroke in DIGITS[text]:
        ImageDraw.Draw(image).line([(50 + 300 * x, 300 * y) for x, y in stroke], "black", 22, "curve")
    return save(image)


def test_ten_drawn_digits_are_read(url: str, visit: Visit, shots: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, read = visit(url), {}
    for digit, strokes in DIGITS.items():
        draw(page, strokes)
        read[digit] = page.inner_text("#name"), page.inner_text("#bars li.first b")
        page.screenshot(path=shots / f"digit-{digit}.png")
        page.keyboard.press("Delete")
    right = sum(name == digit for digit, (name, _) in read.items())
    with capsys.disabled():
        print(f"\n{right} of {len(DIGITS)} drawn digits are read right")
    assert right == len(DIGITS), read


def test_the_answer_comes_while_one_is_drawing(url: str, visit: Visit) -> None:
    page = visit(url)
    x, y = zip(*path_on(page, DIGITS["1"][0]))
    page.mouse.move(x[0], y[0])
    page.mouse.down()
    page.mouse.move(x[-1], y[-1], steps=20)
    expect(page.locator("#name")).not_to_be_empty()
    page.mouse.up()


def test_drawing_with_a_finger_does_not_scroll(url: str, visit: Visit, shots: Path) -> None:
    page = visit(url, 375, touch=True)
    touch = page.context.new_cdp_session(page)
    for n, (x, y) in enumerate(path_on(page, DIGITS["3"][0])):
        move = "touchMove" if n else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": move, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(page)
    assert page.inner_text("#name") == "3" and page.evaluate("scrollY") == 0
    assert not page.is_visible("kbd")
    page.screenshot(path=shots / "touch.png")


def test_undo_and_clear(url: str, visit: Visit) -> None:
    page = visit(url)
    assert page.is_disabled("#undo") and page.is_disabled("#clear") and ink(page) == 0
    first, second = DIGITS["4"]
    draw(page, [first])
    one = ink(page)
    draw(page, [second])
    two = ink(page)
    assert page.inner_text("#name") == "4" and two > one > 0
    for undo, clear in (("#undo", "#clear"), ("z", "c"), ("Control+z", "Delete")):

        def do(action: str) -> None:
            page.click(action) if action.startswith("#") else page.keyboard.press(action)
            settle(page)

        do(clear)
        assert ink(page) == 0 and page.inner_text("#say") == "Draw a digit, 0 to 9." and not page.is_visible("#closest")
        do(undo)
        assert ink(page) == two and page.inner_text("#name") == "4"
        do(undo)
        assert ink(page) == one
        draw(page, [second])
    page.keyboard.press("Control+c")  # copies; it does not clear
    assert ink(page) == two


def test_an_answer_of_before_is_not_shown(url: str, visit: Visit) -> None:
    page = visit(url)
    held: list[Route] = []
    page.route("**/api/predict", lambda route: held.append(route))
    trace(page, DIGITS["1"])
    page.wait_for_timeout(300)
    assert len(held) == 1  # the others wait
    page.keyboard.press("c")
    held[0].continue_()
    settle(page)
    assert page.inner_text("#name") == "" and page.inner_text("#say") == "Draw a digit, 0 to 9." and len(held) == 1


def test_the_answer_is_there_for_a_screen_reader(url: str, visit: Visit) -> None:
    page = visit(url)
    draw(page, DIGITS["7"])
    live = page.locator("[aria-live=polite]")
    expect(live).to_have_text(re.compile(r"^7, (more than )?\d\d\.\d\s% sure"))
    page.keyboard.press("c")
    expect(live).to_be_empty()


def test_a_lost_server_is_told_and_found_again(tmp_path: Path, launch: Launch, visit: Visit, shots: Path) -> None:
    weights = keep_random(tmp_path / "w.pkl", LAYERS)
    process, url = launch("--port", 0, "--weights", weights)
    page = visit(url)
    draw(page, DIGITS["7"])
    before = page.inner_text("#name")
    process.terminate()
    process.wait()
    page.keyboard.press("c")
    trace(page, [[(0.3, 0.2), (0.6, 0.5)]])
    expect(page.locator("#status")).to_have_text("The server does not answer; trying again…")
    page.screenshot(path=shots / "lost.png")
    page.keyboard.press("z")
    page.keyboard.press("z")
    launch("--port", url.rpartition(":")[2], "--weights", weights)
    expect(page.locator("#name")).to_have_text(before, timeout=10_000)
    expect(page.locator("#status")).not_to_contain_text("server")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 375, 800, 1440])
def test_it_fits_and_can_be_read(url: str, visit: Visit, shots: Path, width: int, scheme: str) -> None:
    page = visit(url, width, scheme)
    page.screenshot(path=shots / f"empty-{width}-{scheme}.png", full_page=True)
    draw(page, DIGITS["5"])
    page.screenshot(path=shots / f"answer-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate("""() => [...document.body.querySelectorAll("*")]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)""")
    assert outside == []

    def light(colour: str) -> float:
        """The relative luminance of WCAG 2, in [0, 1]."""
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    names = ["paper", "sheet", "button", "ink", "soft", "for", "against"]
    colours = page.evaluate("names => names.map(name => colour(name).trim())", names)
    tones = dict(zip(names, map(light, colours), strict=True))
    assert (tones["paper"] > tones["ink"]) == (scheme == "light")
    pairs = [(text, "paper") for text in ("ink", "soft", "for", "against")]
    for text, ground in (*pairs, ("ink", "button"), ("soft", "button"), ("ink", "sheet")):
        dark, bright = sorted((tones[text], tones[ground]))
        assert (bright + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


GIVE = """([bytes, event]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "digit.png", {type: "image/png"}));
    dispatchEvent(event === "drop" ? new DragEvent(event, {dataTransfer: transfer})
        : new ClipboardEvent(event, {clipboardData: transfer}));
}"""


def test_an_image_is_opened(url: str, visit: Visit, shots: Path) -> None:
    page = visit(url)
    page.set_input_files("#file", {"name": "two.png", "mimeType": "image/png", "buffer": make_file("2")})
    expect(page.locator("#name")).to_have_text("2")
    page.screenshot(path=shots / "opened.png")
    for digit, event in (("3", "drop"), ("7", "paste")):
        page.evaluate(GIVE, [list(make_file(digit)), event])
        expect(page.locator("#name")).to_have_text(digit)
    page.set_input_files("#file", {"name": "notes.png", "mimeType": "image/png", "buffer": b"not an image"})
    expect(page.locator("#status")).to_have_text("notes.png is not an image that this browser can show.")
    draw(page, DIGITS["1"])  # takes the place of the image
    assert page.inner_text("#name") == "1"


@pytest.mark.parametrize("measured_on", ["test", "validation"])
def test_the_accuracy_names_its_set(measured_on: str, tmp_path: Path, launch: Launch, visit: Visit) -> None:
    _, url = launch("--port", 0, "--weights", keep_random(tmp_path / "w.pkl", LAYERS, measured_on=measured_on))
    told = f"784 – 12 – 6 – 10 units · relu · reads 50.0 % of the {measured_on} set right"
    expect(visit(url).locator("#network")).to_have_text(told)


def test_clothes_are_called_by_their_names(tmp_path: Path, launch: Launch, visit: Visit, shots: Path) -> None:
    _, url = launch("--port", 0, "--weights", keep_random(tmp_path / "w.pkl", LAYERS, dataset="fashion-mnist"))
    page = visit(url, 375)
    names = page.locator("#bars li span:first-child").all_inner_texts()
    assert names[0] == "T-shirt/top" and names[9] == "Ankle boot"
    page.set_input_files("#file", {"name": "bag.png", "mimeType": "image/png", "buffer": make_file()})
    settle(page)
    expect(page.locator("#name")).to_have_text(re.compile("|".join(names)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.screenshot(path=shots / "clothes.png", full_page=True)


def test_the_key_is_asked_for(
    tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch, browser: Browser, shots: Path
) -> None:
    monkeypatch.setenv("DIGIT_API_KEY", KEY)
    _, url = launch("--port", 0, "--weights", keep_random(tmp_path / "w.pkl", LAYERS))
    page = browser.new_page()
    page.goto(url)
    expect(page.locator("#why")).to_have_text("This server asks for a key.")
    page.screenshot(path=shots / "key.png")
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#why")).to_have_text("The server refused that key. Another?")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#bars li")).to_have_count(10)
    draw(page, DIGITS["7"])
    expect(page.locator("#name")).not_to_be_empty()
    page.close()


def test_the_keyboard_reaches_all_and_shows_where_it_is(url: str, visit: Visit) -> None:
    page = visit(url)
    draw(page, DIGITS["7"])
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("""() => [document.activeElement, document.activeElement.parentElement]
            .some(e => getComputedStyle(e).outlineStyle === "solid")""")
    assert reached == ["undo", "clear", "file", "pen"]
