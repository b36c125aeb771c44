"""Tests of the page in Chromium, with the weights of `make train`. DEMO_SHOTS names a folder for screenshots."""

import contextlib
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Dialog, Page, Route, expect, sync_playwright

from demo.robustness import save
from demo.test_app import KEY, LAYERS, keep_random, started

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "mnist.pkl"
Stroke = list[tuple[float, float]]  # points in [0, 1], from the upper left of the sheet
Launch = Callable[..., tuple[subprocess.Popen[str], str]]  # port, changes of the weights
Visit = Callable[..., Page]  # url, width, height, touch, settings of the browser's context

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
LETTER = [[(0.2, 0.85), (0.5, 0.15), (0.8, 0.85)], [(0.32, 0.6), (0.68, 0.6)]]  # an A
GONE = "The server does not answer; trying again…"
PREDICT = "**/api/predict?detail=network"
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
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Starts servers of random weights, and stops them in the end."""
    with contextlib.ExitStack() as stack:

        def launch(port: object = 0, **changes: object) -> tuple[subprocess.Popen[str], str]:
            weights = keep_random(tmp_path / "w.pkl", LAYERS, **changes)
            return stack.enter_context(started("--port", port, "--weights", weights))

        yield launch


@pytest.fixture
def visit(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Opens a page; in the end nothing was fetched from elsewhere, and no error is known but of lost connections."""
    pages: list[Page] = []
    errors: list[str] = []
    hosts: set[str] = set()
    homes: set[str] = set()

    def visit(url: str, width: int = 1440, height: int = 900, touch: bool = False, **settings: Any) -> Page:
        size = {"width": width, "height": height}
        page = browser.new_page(viewport=size, has_touch=touch, is_mobile=touch, **settings)
        pages.append(page)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(re.sub(r"(//[^/]*)?/.*", r"\1", request.url)))
        homes.add(url)
        page.goto(url)
        page.wait_for_selector("#bars li")
        return page

    yield visit
    for page in pages:
        if "DEMO_SHOTS" in os.environ:
            page.screenshot(path=Path(os.environ["DEMO_SHOTS"], f"{request.node.name}.png"), full_page=True)
        page.close()
    assert hosts <= homes | {"data:image", *(f"blob:{home}" for home in homes)}
    assert [error for error in errors if "ERR_CONNECTION_REFUSED" not in error and "status of 422" not in error] == []


@pytest.fixture
def page(url: str, visit: Visit) -> Page:
    return visit(url)


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
    with Image.open(io.BytesIO(page.locator("#pad").screenshot())) as image:
        return sum(image.convert("L").histogram()[:64])


def colour(page: Page, name: str) -> str:
    value: str = page.evaluate("name => getComputedStyle(document.body).getPropertyValue(name).trim()", f"--{name}")
    return value


def make_file(digit: str) -> bytes:
    image = Image.new("RGB", (400, 300), "white")
    for stroke in DIGITS[digit]:
        ImageDraw.Draw(image).line([(50 + 300 * x, 300 * y) for x, y in stroke], "black", 22, "curve")
    return save(image)


def open_file(page: Page, content: bytes, name: str = "digit.png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})


def test_ten_drawn_digits_are_read(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    read = {}
    for digit, strokes in DIGITS.items():
        draw(page, strokes)
        read[digit] = page.inner_text("#name"), page.inner_text("#bars li.first b")
        page.keyboard.press("Delete")
    right = sum(name == digit for digit, (name, _) in read.items())
    with capsys.disabled():
        print(f"\n{right} of {len(DIGITS)} drawn digits are read right")
    assert right == len(DIGITS), read


@pytest.mark.parametrize(("right", "down"), [(-0.28, 0), (0.27, 0), (0, -0.18), (0, 0.16)])
def test_a_digit_at_the_edge_of_the_sheet_is_read(page: Page, right: float, down: float) -> None:
    draw(page, [[(x + right, y + down) for x, y in stroke] for stroke in DIGITS["4"]])
    assert page.inner_text("#name") == "4"


def test_the_answer_comes_while_one_is_drawing(page: Page) -> None:
    x, y = zip(*path_on(page, DIGITS["1"][0]))
    page.mouse.move(x[0], y[0])
    page.mouse.down()
    page.mouse.move(x[-1], y[-1], steps=20)
    expect(page.locator("#name")).not_to_be_empty()
    page.mouse.up()


def test_drawing_with_a_finger_does_not_scroll(url: str, visit: Visit) -> None:
    page = visit(url, 375, touch=True)
    touch = page.context.new_cdp_session(page)
    for n, (x, y) in enumerate(path_on(page, DIGITS["3"][0])):
        move = "touchMove" if n else "touchStart"
        touch.send("Input.dispatchTouchEvent", {"type": move, "touchPoints": [{"x": x, "y": y}]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settle(page)
    assert page.inner_text("#name") == "3" and page.evaluate("scrollY") == 0
    assert not page.is_visible("kbd")


def test_the_drawing_is_kept_over_a_reload(page: Page) -> None:
    draw(page, DIGITS["4"])
    drawn = ink(page)
    page.reload()
    expect(page.locator("#name")).to_have_text("4")
    assert ink(page) == drawn


def test_undo_redo_and_clear(page: Page) -> None:
    assert page.is_disabled("#undo") and page.is_disabled("#redo") and page.is_disabled("#clear") and ink(page) == 0
    expect(page.locator("#hint")).to_contain_text("Draw a digit, 0 to 9.")
    first, second = DIGITS["4"]
    draw(page, [first])
    one = ink(page)
    draw(page, [second])
    two = ink(page)
    assert page.inner_text("#name") == "4" and two > one > 0 and not page.is_visible("#hint")
    keys = ("#undo", "#redo", "#clear"), ("z", "y", "c"), ("Control+z", "Control+Shift+z", "Delete")
    for undo, redo, clear in keys:

        def do(action: str) -> None:
            page.click(action) if action.startswith("#") else page.keyboard.press(action)
            settle(page)

        do(clear)
        assert ink(page) == 0 and page.inner_text("#say") == "" and not page.is_visible("#closest")
        do(undo)
        assert ink(page) == two and page.inner_text("#name") == "4"
        do(undo)
        assert ink(page) == one
        do(redo)
        assert ink(page) == two and page.inner_text("#name") == "4"
        do(undo)
        draw(page, [second])
        assert page.is_disabled("#redo")
    page.keyboard.press("Control+c")  # copies; it does not clear
    assert ink(page) == two


def test_an_answer_of_before_is_not_shown(page: Page) -> None:
    held: list[Route] = []
    page.route(PREDICT, lambda route: held.append(route))
    trace(page, DIGITS["1"])
    page.wait_for_timeout(300)
    assert len(held) == 1  # the others wait
    page.keyboard.press("c")
    held[0].continue_()
    settle(page)
    assert page.inner_text("#name") == page.inner_text("#say") == "" and len(held) == 1


def test_the_answer_is_there_for_a_screen_reader(page: Page) -> None:
    draw(page, DIGITS["7"])
    live = page.get_by_role("status").first
    expect(live).to_have_text(re.compile(r"^most like a 7, (> )?\d\d\.\d\s%"))
    page.keyboard.press("c")
    expect(live).to_be_empty()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "most like a 7, 95.0 %; or else a 2, 5.0 %"),
        ({"probabilities": [0, 0, 0, 0, 0, 0, 0, 0.5, 0.45, 0.05]}, "perhaps a 7, 50.0 %; or else an 8, 45.0 %"),
        ({"novelty": 0.99}, "not like any digit it has learned; most like a 7, 95.0 %; or else a 2, 5.0 %"),
    ],
)
def test_doubt_is_shown(changes: dict[str, object], told: str, page: Page) -> None:
    sure = {"label": 7, "name": "7", "novelty": 0.5, "probabilities": [0, 0, 0.05, 0, 0, 0, 0, 0.95, 0, 0]}

    def reply(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json={**response.json(), **sure, **changes})

    page.route(PREDICT, reply)
    draw(page, DIGITS["7"])
    assert page.inner_text("#say").replace("\u00a0", " ") == told
    assert bool(changes) == ("doubt" in page.locator("#answer").evaluate("e => [...e.classList]"))


def test_a_letter_is_not_like_any_digit(page: Page) -> None:
    draw(page, LETTER)
    expect(page.locator("#say")).to_have_text(re.compile("^not like any digit it has learned; "))


def is_stale(page: Page, message: str) -> None:
    """The message stands where the answer was, which is dimmed."""
    expect(page.locator("#say")).to_have_text(message)
    expect(page.locator("#name")).to_be_hidden()
    expect(page.locator("figure")).to_have_css("opacity", "0.35")


def test_a_lost_server_is_told_and_found_again(launch: Launch, visit: Visit) -> None:
    process, url = launch()
    page = visit(url)
    draw(page, DIGITS["7"])
    before = page.inner_text("#name")
    process.terminate()
    process.wait()
    trace(page, [[(0.3, 0.2), (0.6, 0.5)]])
    is_stale(page, GONE)
    page.keyboard.press("z")
    is_stale(page, GONE)  # and no "…"
    launch(url.rpartition(":")[2])
    expect(page.locator("#name")).to_have_text(before, timeout=10_000)
    expect(page.locator("#say")).not_to_contain_text("server")
    expect(page.locator("figure")).to_have_css("opacity", "1")


def test_a_refusal_stands_where_the_answer_was(page: Page) -> None:
    draw(page, DIGITS["7"])
    page.route(PREDICT, lambda route: route.fulfill(status=422, json={"detail": "two digits"}))
    draw(page, [[(0.1, 0.1), (0.3, 0.4)]])
    is_stale(page, "Two digits.")
    page.unroute(PREDICT)
    page.keyboard.press("z")
    expect(page.locator("#name")).to_have_text("7")


@pytest.mark.parametrize(("width", "height"), [(844, 390), (667, 375), (740, 360)])
def test_a_phone_on_its_side_shows_pad_and_answer(url: str, visit: Visit, width: int, height: int) -> None:
    page = visit(url, width, touch=True, height=height)
    draw(page, DIGITS["5"])
    for part in ("#pad", "#name", "#say", "#undo", "#clear", "#bars"):
        expect(page.locator(part)).to_be_in_viewport(ratio=1)


@pytest.mark.parametrize(("width", "height"), [(375, 812), (844, 390)])
def test_what_is_tapped_is_44_pixels_large_and_tells(url: str, visit: Visit, width: int, height: int) -> None:
    page = visit(url, width, touch=True, height=height)
    for target in page.locator("button, #pen, #bars li").all():
        box = target.bounding_box()
        assert box and box["height"] >= 44 and box["width"] >= 44, target
    draw(page, DIGITS["5"])
    page.tap("#bars li:nth-child(4)")
    expect(page.locator("#because")).to_have_text(re.compile("^3: "))


def test_lines_begin_at_their_pixels_and_lie_upon_them(page: Page) -> None:
    draw(page, DIGITS["5"])
    image, figure = (page.locator(part).bounding_box() for part in ("#image", "#lines"))
    assert image and figure
    strongest = sorted(page.evaluate("answer.connections[0]"), key=lambda line: -abs(line[2]))[:64]
    left, top, side = image["x"] - figure["x"], image["y"] - figure["y"], image["width"] / 28
    expected = [(left + side * (i % 28 + 0.5), top + side * (i // 28 + 0.5)) for i, _, _ in strongest]
    paths = page.locator("#lines path").evaluate_all("all => all.map(path => path.getAttribute('d'))")
    starts = [tuple(map(float, path[1:].split("C")[0].split(","))) for path in paths]
    found = [min(abs(x - a) + abs(y - b) for a, b in starts) for x, y in expected]
    assert found == pytest.approx([0] * 64, abs=0.01)
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        x, y = expected[0]
        red, _, blue = shot.convert("RGB").getpixel((int(figure["x"] + x + 2), int(figure["y"] + y)))
    assert abs(red - blue) > 20  # as neither ink nor paper is


def test_a_class_and_a_unit_tell_what_speaks_for_them(page: Page) -> None:
    because = page.locator("#because")
    draw(page, DIGITS["5"])
    page.hover("#bars li:nth-child(4)")
    number = r"([+−]\d+\.\d\d)"
    told = f"^3: {number} for, {number} against, bias {number}: {number}, where 5 has {number}; that makes 0\\..\\s%.$"
    expect(because).to_have_text(re.compile(told))
    found = re.match(told, because.inner_text())
    assert found
    plus, minus, bias, total, best = (float(text.replace("−", "-")) for text in found.groups())
    assert plus + minus + bias == pytest.approx(total, abs=0.02) and total < best
    lines = page.evaluate("answer.connections.at(-1).filter(([, j, value]) => j === 3 && value).length")
    assert page.locator("#lines path").count() == lines > 0
    page.hover("#net > :nth-child(2) > :nth-child(101)")
    expect(because).to_have_text(re.compile(f"^Unit 101 of layer 1: {number} for, .*; its output is \\d+\\.\\d\\d.$"))
    page.mouse.move(5, 5)
    expect(because).to_be_empty()
    page.focus("#bars li:nth-child(4)")
    expect(because).to_have_text(re.compile("^3: "))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_axe_finds_no_fault(url: str, visit: Visit, scheme: str, width: int) -> None:
    page = visit(url, width, color_scheme=scheme)
    for strokes in ([], LETTER):
        draw(page, strokes)
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_forced_colours_are_taken(url: str, visit: Visit) -> None:
    page = visit(url, forced_colors="active")
    draw(page, DIGITS["5"])
    assert [colour(page, "ink"), colour(page, "paper")] == ["CanvasText", "Canvas"]
    bar, ground = (
        page.evaluate(f"getComputedStyle(document.querySelector('{e}')).backgroundColor") for e in (".first i", "body")
    )
    assert bar != ground


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 375, 800, 1440])
def test_it_fits_and_can_be_read(url: str, visit: Visit, width: int, scheme: str) -> None:
    page = visit(url, width, color_scheme=scheme)
    draw(page, DIGITS["5"])
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate("""() => [...document.body.querySelectorAll("*")]
        .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML)""")
    assert outside == []

    def light(name: str) -> float:
        """The relative luminance of WCAG 2, in [0, 1]."""
        parts = [value / 255 for value in bytes.fromhex(colour(page, name)[1:])]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    tones = {name: light(name) for name in ("paper", "sheet", "button", "ink", "soft", "line", "for", "against")}
    assert (tones["paper"] > tones["ink"]) == (scheme == "light")
    texts = [(text, "paper") for text in ("ink", "soft", "for", "against")]
    texts += [("ink", "button"), ("soft", "button"), ("ink", "sheet"), ("soft", "sheet")]
    borders = [("line", "paper"), ("line", "sheet"), ("line", "button")]
    for least, pairs in ((4.5, texts), (3, borders)):
        for text, ground in pairs:
            dark, bright = sorted((tones[text], tones[ground]))
            assert (bright + 0.05) / (dark + 0.05) >= least, (text, ground)


GIVE = """([bytes, event]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], "digit.png", {type: "image/png"}));
    dispatchEvent(event === "drop" ? new DragEvent(event, {dataTransfer: transfer})
        : new ClipboardEvent(event, {clipboardData: transfer}));
}"""


def test_an_image_is_opened(page: Page) -> None:
    open_file(page, make_file("2"))
    expect(page.locator("#name")).to_have_text("2")
    for digit, event in (("3", "drop"), ("7", "paste")):
        page.evaluate(GIVE, [list(make_file(digit)), event])
        expect(page.locator("#name")).to_have_text(digit)
    open_file(page, b"not an image", "notes.png")
    expect(page.locator("#say")).to_have_text("notes.png is not an image that this browser can show.")
    draw(page, DIGITS["1"])  # takes the place of the image
    assert page.inner_text("#name") == "1"


def test_a_large_image_is_sent_smaller(page: Page) -> None:
    with Image.open(io.BytesIO(make_file("2"))) as image:
        large = save(image.resize((4000, 3000)))
    open_file(page, large)
    expect(page.locator("#name")).to_have_text("2")
    size = "async () => { const {width, height} = await createImageBitmap(await toFile()); return [width, height]; }"
    assert page.evaluate(size) == [1024, 768]


@pytest.mark.parametrize("measured_on", ["test", "validation"])
def test_the_accuracy_names_its_set(measured_on: str, launch: Launch, visit: Visit) -> None:
    _, url = launch(measured_on=measured_on)
    told = f"784 – 12 – 6 – 10 units · relu · reads 50.0 % of the {measured_on} set right"
    expect(visit(url).locator("#network")).to_have_text(told)


def test_clothes_are_called_by_their_names(launch: Launch, visit: Visit) -> None:
    _, url = launch(dataset="fashion-mnist")
    page = visit(url, 375)
    names = page.locator("#bars li span:first-child").all_inner_texts()
    assert names[0] == "T-shirt/top" and names[9] == "Ankle boot"
    open_file(page, make_file("7"))
    settle(page)
    expect(page.locator("#name")).to_have_text(re.compile("|".join(names)))
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_key_is_asked_for(launch: Launch, monkeypatch: pytest.MonkeyPatch, browser: Browser) -> None:
    monkeypatch.setenv("DIGIT_API_KEY", KEY)
    _, url = launch()
    page = browser.new_page()
    given, asked = iter(["ключ", KEY]), []  # the first is no text of a header

    def reply(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept(next(given))

    page.on("dialog", reply)
    page.goto(url)
    expect(page.locator("#bars li")).to_have_count(10)
    assert asked == ["This server asks for a key.", "The server refused that key. Another?"]
    draw(page, DIGITS["7"])
    expect(page.locator("#name")).not_to_be_empty()
    page.close()


def test_the_keyboard_reaches_all_and_shows_where_it_is(page: Page) -> None:
    draw(page, DIGITS["7"])
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("""() => [document.activeElement, document.activeElement.parentElement]
            .some(e => getComputedStyle(e).outlineStyle === "solid")""")
    assert reached == ["undo", "clear", "open", "pen"]


def test_the_documentation_of_the_api_is_shown(url: str, visit: Visit) -> None:
    page = visit(url)
    page.goto(f"{url}/docs")
    calls = page.locator(".opblock-summary-control")
    expect(calls).to_have_text([re.compile(name) for name in ("network", "health", "predict")])
    calls.nth(1).click()
    page.click("text=Try it out")
    page.click("text=Execute")
    expect(page.locator(".live-responses-table")).to_contain_text('"status": "ok"')
