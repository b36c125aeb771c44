"""Tests of the API through a server of its own, with a small network of random weights."""

import asyncio
import contextlib
import functools
import http.client
import json
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

import nn
from demo import answer as answers
from demo import app as demo
from demo.photo import prepare_image
from demo.robustness import save
from demo.test_predict import keep

LAYERS = [784, 12, 6, 10]
KEY = "open-sesame"
BLANK = [0.0] * 784
BAR = [0.0] * 384 + [1.0] * 28 + [0.0] * 372
HALF = b"POST /api/predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\n"
HALF += b"Connection: close\r\n\r\nhalf"


def keep_random(path: Path, layers: list[int], **changes: object) -> Path:
    """Saves random weights that read digits, but for the changes."""
    return keep(path, nn.init_params(layers, nn.INITS["he"], np.random.default_rng(0)), **changes)


@contextlib.contextmanager
def serving(network: answers.Network, key: str | None = None) -> Iterator[str]:
    listener, stop = demo.listen("127.0.0.1", 0), threading.Event()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    wait = functools.partial(asyncio.to_thread, stop.wait)
    thread = threading.Thread(target=demo.serve, args=(demo.make_app(network, key), listener, wait))
    thread.start()
    try:
        yield url
    finally:
        stop.set()
        thread.join()


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> answers.Network:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (50, 784), np.uint8), rng.integers(0, 10, 50)
    path = keep_random(tmp_path_factory.mktemp("weights") / "w.pkl", LAYERS, measured_on="validation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "load", lambda dataset, split, classes: images)
        return answers.read_network(path)


@pytest.fixture(scope="module")
def url(network: answers.Network) -> Iterator[str]:
    with serving(network) as url:
        yield url


@pytest.fixture(scope="module")
def locked(network: answers.Network) -> Iterator[str]:
    with serving(network, KEY) as url:
        yield url


def post(url: str, content: bytes | Iterator[bytes], media_type: str, detail: str = "") -> httpx.Response:
    return httpx.post(f"{url}/api/predict{detail}", content=content, headers={"Content-Type": media_type}, timeout=60)


def body_of(pixels: object) -> bytes:
    return json.dumps({"pixels": pixels}).encode()


def ask(url: str, pixels: object, detail: str = "?detail=network") -> Any:
    return post(url, body_of(pixels), demo.JSON, detail).json()


def drawing(format: str) -> bytes:
    image = Image.new("L", (200, 300), 240)
    ImageDraw.Draw(image).line([(60, 60), (140, 60), (90, 240)], 20, 18, "curve")
    return save(image, format)


def test_an_answer_is_what_the_network_computes(url: str, network: answers.Network) -> None:
    x = np.random.default_rng(2).random(784).astype(np.float32)
    got = ask(url, x.tolist())
    W = network.weights["params"]
    A1 = np.maximum(x @ W["W1"] + W["b1"], 0)
    A2 = np.maximum(A1 @ W["W2"] + W["b2"], 0)
    E = np.exp(A2 @ W["W3"] + W["b3"])
    assert len(got["activations"]) == 2
    told = got["probabilities"], *got["activations"], got["image"]
    for values, expected in zip(told, (E / E.sum(), A1, A2, x), strict=True):
        np.testing.assert_allclose(values, expected, rtol=0, atol=6e-5)
    assert (got["label"], got["name"]) == (E.argmax(), str(E.argmax()))


def test_a_plain_answer_leaves_the_network_out(url: str) -> None:
    got = ask(url, BAR)
    slim = ask(url, BAR, "")
    assert slim == {name: got[name] for name in ("label", "name", "probabilities", "novelty")}
    wrong = post(url, body_of(BAR), demo.JSON, "?detail=all")
    assert wrong.status_code == 422 and wrong.json()["detail"] == "detail must be network, got 'all'"


@pytest.mark.parametrize("detail", ["", "?detail=network"])
def test_several_images_and_rows_of_pixels_are_read(url: str, detail: str) -> None:
    images = [BAR, BAR[::-1], BAR[7:] + BAR[:7]]
    rows = [np.reshape(image, (28, 28)).tolist() for image in images]
    alone = [ask(url, image, detail) for image in images]
    assert ask(url, images, detail) == ask(url, rows, detail) == alone
    assert ask(url, rows[1], detail) == alone[1] and ask(url, rows[:1], detail) == alone[:1]


def test_connections_are_the_strongest_of_each_unit_that_speaks(url: str, network: answers.Network) -> None:
    x = np.random.default_rng(3).random(784)
    got = ask(url, x.tolist())
    outputs = [x.tolist(), *got["activations"], got["probabilities"]]
    for l, told in enumerate(got["connections"]):
        W, b = (network.weights["params"][f"{name}{l + 1}"].tolist() for name in "Wb")
        for j, output in enumerate(outputs[l + 1]):
            every = [a * row[j] for a, row in zip(outputs[l], W, strict=True)]
            largest = sorted(map(abs, every), reverse=True)[: answers.STRONGEST] if output else []
            mine = [(i, value) for i, unit, value in told if unit == j]
            assert [abs(value) for _, value in mine if value] == pytest.approx([v for v in largest if v], abs=3e-4)
            assert all(value == pytest.approx(every[i], abs=3e-4) for i, value in mine)
            signs = [sum(v for v in every if v > 0), sum(v for v in every if v < 0), b[j]]
            assert got["sums"][l][j] == pytest.approx(signs, abs=3e-3)


def test_closest_are_the_training_images_closest_in_the_last_hidden_layer(url: str, network: answers.Network) -> None:
    assert network.memory
    x = np.random.default_rng(4).random(784)
    got = ask(url, x.tolist())
    a = np.array(got["activations"][1])
    X = network.memory.X / 255
    hidden = nn.forward_propagation(network.weights["params"], X, nn.ACTIVATIONS["relu"])["A2"]
    cosines = hidden @ a / np.linalg.norm(hidden, axis=1) / np.linalg.norm(a)
    order = (-cosines).argsort()[: answers.CLOSEST]
    assert [example["label"] for example in got["closest"]] == network.memory.Y[order].tolist()
    for example, n in zip(got["closest"], order, strict=True):
        np.testing.assert_allclose(np.array(example["image"]) * 255, network.memory.X[n], atol=0.02)
        assert example["name"] == str(example["label"])


def test_novelty_is_the_share_of_training_images_that_are_closer_to_their_own_closest(network: answers.Network) -> None:
    assert network.memory
    A = network.memory.A
    own = 1 - np.sort(A @ A.T, axis=1)[:, -2]
    for x in np.random.default_rng(5).random((5, 784), np.float32):
        a = nn.forward_propagation(network.weights["params"], x[None], nn.ACTIVATIONS["relu"])["A2"][0]
        nearest = 1 - (A @ a).max() / np.linalg.norm(a)
        assert answers.answer(network, x).novelty == pytest.approx(np.mean(own < nearest), abs=1e-3)
    seen = answers.answer(network, (network.memory.X[7] / 255).astype(np.float32))
    assert seen.novelty is not None and seen.novelty < 0.05


def test_without_training_images_nothing_is_said_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.load.HOME", tmp_path)
    network = answers.read_network(keep_random(tmp_path / "w.pkl", [784, 10]))
    got = answers.answer(network, np.zeros(784, np.float32))
    assert isinstance(got, answers.Answer) and got.novelty is None
    with serving(network) as url:
        assert httpx.get(f"{url}/api/network").json()["training_images"] == 0
    assert got.closest == [] and got.activations == [] and got.connections == [[]] and got.probabilities == [0.1] * 10


@pytest.mark.parametrize("kind", "PNG/png JPEG/jpeg JPEG/jpg WEBP/webp BMP/bmp GIF/gif HEIF/heic HEIF/heif".split())
def test_an_image_file_goes_through_the_one_door(url: str, kind: str) -> None:
    format, subtype = kind.split("/")
    content = drawing(format)
    got = post(url, content, f"image/{subtype}", "?detail=network").json()
    X = prepare_image(content, "mnist")
    np.testing.assert_allclose(np.array(got["image"]) * 255, X, atol=0.02)
    again = ask(url, (X / 255).tolist())
    assert again["probabilities"] == pytest.approx(got["probabilities"], abs=1e-4) and again["label"] == got["label"]


def test_the_network_is_described(url: str) -> None:
    names = {"dataset": "mnist", "activation": "relu", "loss": "cross_entropy", "measured_on": "validation"}
    numbers = {"layers": LAYERS, "accuracy": 0.5, "training_images": 50}
    assert httpx.get(f"{url}/api/network").json() == {**names, **numbers, "classes": list("0123456789")}
    assert httpx.get(f"{url}/api/health").json() == {"status": "ok"}


def test_outputs_that_are_no_probabilities_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.load.HOME", tmp_path)
    for activation in nn.ACTIVATIONS:
        path = keep_random(tmp_path / "w.pkl", LAYERS, activation=activation, loss="mean_squared_error")
        got = answers.answer(answers.read_network(path), np.ones(784, np.float32))
        assert sum(got.probabilities) == pytest.approx(1, abs=6e-4) and min(got.probabilities) >= 0


def changed(n: int, value: object) -> bytes:
    return body_of(BLANK[:n] + [value] + BLANK[n + 1 :])


NOT_JSON, NOT_PIXELS = "the body is not JSON", 'the body must be {"pixels": [...]} and nothing else'
NOT_784 = "pixels must be 784 numbers or 28 rows of 28, or up to 16 such images, got"
NOT_A_LEVEL = "must be a number from 0 to 1, got"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", NOT_JSON),
        (b"{pixels}", NOT_JSON),
        (b"\xff\xfe{", NOT_JSON),
        (b"[" * 100_000, NOT_JSON),
        (b"[]", NOT_PIXELS),
        (b'{"pixels": 3}', NOT_PIXELS),
        (json.dumps({"pixels": BLANK, "more": 1}).encode(), NOT_PIXELS),
        (body_of(BLANK[1:]), f"{NOT_784} 783"),
        (body_of([*BLANK, 0]), f"{NOT_784} 785"),
        (b'{"pixels": []}', f"{NOT_784} 0"),
        (body_of(17 * [BLANK[:28]]), f"{NOT_784} 17 x 28"),
        (body_of([BLANK, BLANK[1:]]), f"{NOT_784} 2"),
        (body_of(17 * [784 * [0]]), f"{NOT_784} 17 x 784"),
        (body_of([BAR, [*BLANK[1:], 2]]), f"pixels[1][783] {NOT_A_LEVEL} 2"),
        (changed(5, "1"), f"pixels[5] {NOT_A_LEVEL} '1'"),
        (changed(6, None), f"pixels[6] {NOT_A_LEVEL} None"),
        (changed(7, True), f"pixels[7] {NOT_A_LEVEL} True"),
        (changed(8, [0.5]), f"pixels[8] {NOT_A_LEVEL} [0.5]"),
        (changed(9, float("nan")), f"pixels[9] {NOT_A_LEVEL} nan"),
        (changed(10, float("inf")), f"pixels[10] {NOT_A_LEVEL} inf"),
        (changed(783, -0.001), f"pixels[783] {NOT_A_LEVEL} -0.001"),
        (changed(0, 255), f"pixels[0] {NOT_A_LEVEL} 255"),
        (changed(0, 10**400), f"pixels[0] {NOT_A_LEVEL} 1000"),
        (changed(0, "\ud800" * 10_000), f"pixels[0] {NOT_A_LEVEL} '"),
    ],
)
def test_pixels_that_are_none_are_refused(url: str, content: bytes, message: str) -> None:
    response = post(url, content, demo.JSON)
    detail = response.json()["detail"]
    assert response.status_code == 422 and detail.startswith(message) and len(detail) < 200


@pytest.mark.parametrize("content", [b"", b"GIF89a", drawing("PNG")[:200], b"<svg/>"])
def test_a_file_that_is_no_image_is_refused(url: str, content: bytes) -> None:
    response = post(url, content, "image/png")
    assert response.status_code == 422 and "image" in response.json()["detail"]


def test_a_blank_sheet_is_no_digit(url: str) -> None:
    responses = [post(url, save(Image.new("L", (280, 280), 255)), "image/png")]
    responses += [post(url, body_of(pixels), demo.JSON) for pixels in (BLANK, 784 * [0.7], [BAR, BLANK])]
    told = {(response.status_code, response.text) for response in responses}
    assert told == {(422, '{"detail":"there is no ink in the image"}')}


@pytest.mark.parametrize("media_type", ["", "text/plain", "multipart/form-data; boundary=x"])
def test_another_type_of_body_is_refused(url: str, media_type: str) -> None:
    response = post(url, b"{}", media_type)
    assert response.status_code == 415
    detail = response.json()["detail"]
    assert "--data-binary @photo.png -H 'Content-Type: image/png'" in detail and media_type[:9] in detail


@pytest.mark.parametrize("media_type", [demo.JSON, "image/png"])
@pytest.mark.parametrize("chunks", [1, 11])
def test_too_large_a_body_is_refused(url: str, media_type: str, chunks: int) -> None:
    limit = demo.MAX_JSON if media_type == demo.JSON else demo.MAX_BYTES
    size = limit // chunks + 1  # more than one chunk has no Content-Length
    response = post(url, b" " * size if chunks == 1 else (b" " * size for _ in range(chunks)), media_type)
    assert response.status_code == 413
    assert response.json()["detail"] == f"the body has {size * chunks} bytes; at most {limit} are read"


def test_the_largest_body_is_read(url: str) -> None:
    images = np.random.default_rng(6).random((demo.MAX_IMAGES, 784)).tolist()
    assert len(post(url, body_of(images).ljust(demo.MAX_JSON), demo.JSON).json()) == demo.MAX_IMAGES
    assert post(url, drawing("PNG").ljust(demo.MAX_BYTES, b"\0"), "image/png").status_code == 200


def connect(url: str, sent: bytes) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(sent)
    return connection


def test_a_body_that_does_not_come_is_given_up(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MAX_SECONDS", 0.2)
    with connect(url, HALF) as connection:
        answer = b"".join(iter(lambda: connection.recv(10_000), b"")).decode()
    assert answer.startswith("HTTP/1.1 408") and "did not arrive within 0.2 seconds" in answer


def test_a_body_cut_short_harms_nobody(url: str, caplog: pytest.LogCaptureFixture) -> None:
    connect(url, HALF).close()
    assert httpx.get(f"{url}/api/health").status_code == 200
    time.sleep(0.1)
    assert caplog.records == []


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side has closed it, at the latest when the connection times out."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:  # with bytes that nobody had read
        return True


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-H"])
def test_connections_that_ask_nothing_are_closed(
    begun: bytes, network: answers.Network, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "HEADER_SECONDS", 2.0)
    with serving(network) as url, contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(url, begun)) for _ in range(200)]
        start = time.perf_counter()
        assert httpx.get(f"{url}/api/health").status_code == 200
        with capsys.disabled():
            print(f"\nbeside 200 silent connections an answer takes {1000 * (time.perf_counter() - start):.0f} ms")
        assert all(map(is_closed, silent))


@pytest.mark.parametrize("call", ["GET /api/health", "GET /api/network", "POST /api/predict"])
def test_every_call_needs_the_key_where_there_is_one(locked: str, call: str) -> None:
    method, path = call.split()
    content = body_of(BAR) if method == "POST" else None
    keys = [b"", *(key.encode() for key in (KEY[:-1], KEY + "e", KEY.upper())), b"caf\xe9", KEY.encode()]
    for given in [], *([(b"X-API-Key", key)] for key in keys):
        headers = [(b"Content-Type", b"application/json"), *given]
        response = httpx.request(method, locked + path, headers=headers, content=content)
        right = given == [(b"X-API-Key", KEY.encode())]
        assert response.status_code == (200 if right else 401)
        assert right or response.headers["WWW-Authenticate"] == "X-API-Key"
        assert right or response.json() == {"detail": "the key in X-API-Key is missing or wrong"}


STATUS = dict.fromkeys(demo.FILES, 200) | {"/openapi.json": 200, "/api/network": 200}
STATUS |= {"/api/predict": 405, "/nothing": 404}


@pytest.mark.parametrize(("path", "status"), STATUS.items())
def test_every_response_has_the_headers(url: str, path: str, status: int) -> None:
    response = httpx.get(url + path)
    assert response.status_code == status and "Server" not in response.headers
    fixed = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    fixed |= {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY"}
    assert {name: response.headers[name] for name in fixed} == fixed
    sources = dict(part.split(maxsplit=1) for part in response.headers["Content-Security-Policy"].split("; "))
    allowed = {"script-src": "'self'", "style-src": "'self'", "connect-src": "'self'", "img-src": "data: blob:"}
    assert sources == dict.fromkeys(sources, "'none'") | allowed and "default-src" in sources


HIDDEN = """/index.html /docs.html /page/index.html /app.py /nn.py /../nn.py /%2e%2e/nn.py /..%2fnn.py //etc/passwd
    /etc/passwd /weights/mnist.pkl /.git/config /static/ /api/../../nn.py /api/health/"""


@pytest.mark.parametrize("path", HIDDEN.split())
def test_another_path_is_neither_served_nor_redirected(url: str, path: str) -> None:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))  # httpx would resolve the dots
    connection.request("GET", path)
    response = connection.getresponse()
    assert (response.status, response.read()) == (404, b'{"detail":"Not Found"}')
    connection.close()


def test_the_page_names_no_other_host() -> None:
    files = [file for file in demo.FILES.values() if file.parent == demo.PAGE]
    text = "".join(file.read_text(encoding="utf-8") for file in files).replace("http://www.w3.org/2000/svg", "")
    assert len(files) == 5 and not re.search(r"https?:|//[a-z]|@import", text)


def test_the_api_stands_up_to_schemathesis(url: str, locked: str, tmp_path: Path) -> None:
    flags = "--max-examples 30 --seed 0 --no-color --generation-database none".split()
    flags += ["--exclude-checks", "positive_data_acceptance"]  # an image may be blank
    program = str(Path(sys.executable).with_name("schemathesis"))
    for where, header in ((url, []), (locked, ["-H", f"X-API-Key: {KEY}"])):
        command = [program, "run", f"{where}/openapi.json", *header, *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
        assert done.returncode == 0, done.stdout


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of the command's, and where it says that it is."""
    command = [sys.executable, "-m", "demo.app", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=demo.PAGE.parent.parent) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, f"the server says {line!r}"
            yield process, found[0]
        finally:
            process.terminate()


def test_2000_requests_of_8_clients_are_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bodies = ("image/png", drawing("PNG")), (demo.JSON, body_of(BAR))

    def client(url: str) -> list[httpx.Response]:
        with httpx.Client(timeout=60) as session:
            asked = [bodies[n % 5 > 0] for n in range(250)]
            return [session.post(f"{url}/api/predict", content=c, headers={"Content-Type": t}) for t, c in asked]

    weights = keep_random(tmp_path / "w.pkl", [784, 256, 128, 10])
    with started("--port", 0, "--weights", weights) as (_, url), ThreadPoolExecutor(8) as clients:
        done = [response for many in clients.map(client, 8 * [url]) for response in many]
    cuts = statistics.quantiles([response.elapsed.total_seconds() * 1000 for response in done], n=100)
    with capsys.disabled():
        print(f"\n{len(done)} requests of 8 clients: median {cuts[49]:.0f} ms, 99th percentile {cuts[98]:.0f} ms")
    assert [response.status_code for response in done] == [200] * 2000


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--host a..b", "cannot listen at a..b:8000: "),
        ("--host \x1b[31mx", "cannot listen at [31mx:8000: "),
        ("--host \u202e", "cannot listen at :8000: "),
        ("--port {taken}", "cannot listen at 127.0.0.1:{taken}: "),
        ("--weights other.pkl", "other.pkl needs activation relu and loss  [2J hinge, which"),
        ("--weights none.pkl --port 0", "there are no weights at none.pkl; to make them: make train, or "),
        ("--weights none.pkl --port 65535", "there are no weights at none.pkl"),
    ],
)
def test_what_keeps_it_from_serving_is_told(
    url: str, flags: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    keep_random(Path("weights/mnist.pkl"), LAYERS)
    keep_random(Path("other.pkl"), LAYERS, loss="\x1b[2J\nhinge")
    taken = url.rpartition(":")[2]
    assert demo.main(flags.format(taken=taken).split(" ")) == 1
    error = capsys.readouterr().err.rstrip("\n")
    assert error.startswith("demo.app: " + told.format(taken=taken)) and error.isprintable()
    advice = "--host 127.0.0.1" if "--host" in flags else "--port 8001"
    assert ("cannot listen" in told) == error.endswith(f'name another: make demo ARGS="{advice}"')


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refusal:
        demo.main(["--port", port])
    assert refusal.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: --port must be from 0 to 65535, got {port}\n")


@pytest.mark.parametrize("key", ["", "two words", "clé", "line\n"])
def test_a_key_that_no_header_can_hold_is_refused(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIGIT_API_KEY", key)
    assert demo.main([]) == 1
    assert capsys.readouterr().err.startswith("demo.app: DIGIT_API_KEY must be")


def test_the_command_asks_for_the_key_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGIT_API_KEY", KEY)
    with started("--port", 0, "--weights", keep_random(tmp_path / "w.pkl", LAYERS)) as (_, url):
        assert httpx.get(url).status_code == 200  # the page itself needs none
        assert httpx.get(f"{url}/api/health").status_code == 401
        assert httpx.get(f"{url}/api/health", headers={"X-API-Key": KEY}).status_code == 200
