"""The page on which to draw, and the API behind it: `python -m demo.app` serves both.

The page is index.html, beside this file: it asks the API alone, and nothing of other hosts. The API is described at
/docs, whose scripts come from cdn.jsdelivr.net. Where DIGIT_API_KEY is set, every call of it needs that in X-API-Key.
"""

import argparse
import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import reprlib
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.security import APIKeyHeader
from numpy.typing import NDArray
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect

import nn
from data.batches import scale_parts
from data.datasets import PIXELS
from data.image import ImageError, prepare_image
from data.load import load, scale_pixels
from data.weights import Weights
from demo.predict import PROBABILITIES, load_network, printable, weights_path

PAGE = Path(__file__).resolve().parent / "index.html"
JSON = "application/json"
IMAGES = "image/png", "image/jpeg", "image/webp", "image/bmp", "image/gif"
MAX_BYTES = 10_000_000  # of a body
MAX_SECONDS = 30.0  # for a body to arrive
MAX_CLIENTS = 64  # connections at a time; the next is answered 503
STRONGEST, CLOSEST = 64, 5  # connections told of each layer, training images told of each answer
KEY = r"[!-~]+"  # what can stand in a header

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
POLICY = "connect-src 'self'; default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
ERRORS = {
    400: "The body did not arrive whole",
    401: "The key in X-API-Key is missing or wrong",
    408: f"The body took longer than {MAX_SECONDS:g} seconds",
    413: f"The body has more than {MAX_BYTES} bytes",
    415: f"The body is neither {JSON} nor one of {', '.join(IMAGES)}",
    422: "The pixels are not what they should be, or nothing can be read in the image",
}


@dataclass(frozen=True)
class Description:
    """The network: units of its layers, functions, and the share of a set that it read right, in [0, 1].

    measured_on: that set, "test" or "validation". training_images: 0 where they are not at hand. max_bytes: of a body.
    """

    dataset: str
    classes: list[str]
    layers: list[int]
    activation: str
    loss: str
    accuracy: float
    measured_on: str
    training_images: int
    max_bytes: int


@dataclass(frozen=True)
class Example:
    """A training image, its 784 pixels in [0, 1] row by row, and its label."""

    label: int
    name: str
    image: list[float]


@dataclass(frozen=True)
class Answer:
    """What the network makes of an image; its numbers are rounded to four decimals.

    label: the likeliest class, counted from 0. probabilities: one a class. activations: each hidden layer's outputs.
    image: the 784 pixels that the network saw, in [0, 1], row by row. connections: for each layer, the strongest as
    (unit before, unit, activation x weight), strongest first. closest: the training images whose activations in the
    last hidden layer are closest, closest first.
    """

    label: int
    name: str
    probabilities: list[float]
    image: list[float]
    activations: list[list[float]]
    connections: list[list[tuple[int, int, float]]]
    closest: list[Example]


@dataclass(frozen=True)
class Failure:
    """What was wrong with a call."""

    detail: str


class Memory(NamedTuple):
    """The training images X (N, 784), their labels, the last hidden layer's outputs A (N, H) and |A_n|^2 / 2 (N,)."""

    X: NDArray[np.uint8]
    Y: nn.Labels
    A: nn.Array
    half: nn.Array


class Network(NamedTuple):
    """All that an answer needs; memory is None where the training images are not at hand."""

    weights: Weights
    memory: Memory | None


def read_network(path: Path) -> Network:
    """The network of a file of weights. OSError, or ValueError for weights that do not read 28x28 images."""
    weights = load_network(path)
    return Network(weights, remember(weights))


def remember(weights: Weights) -> Memory | None:
    """The training images as the network sees them, or None where they were not fetched."""
    try:
        X, Y = load(weights["dataset"], "train", weights["classes"])
    except FileNotFoundError:
        return None
    params, activation = weights["params"], nn.ACTIVATIONS[weights["activation"]]
    last_hidden = f"A{len(params) // 2 - 1}"
    A = np.concatenate([nn.forward_propagation(params, x, activation)[last_hidden] for x in scale_parts(X)])
    return Memory(X, Y, A, (A * A).sum(axis=1) / 2)


def describe(network: Network) -> Description:
    """What the network is."""
    weights, memory = network
    return Description(
        dataset=weights["dataset"],
        classes=weights["classes"],
        layers=weights["layers"],
        activation=weights["activation"],
        loss=weights["loss"],
        accuracy=weights["accuracy"],
        measured_on=weights["measured_on"],
        training_images=len(memory.X) if memory else 0,
        max_bytes=MAX_BYTES,
    )


def answer(network: Network, x: NDArray[np.float32]) -> Answer:
    """What the network makes of the image x (784,) in [0, 1]."""
    (weights, memory), params, classes = network, network.weights["params"], network.weights["classes"]
    cache, L = nn.forward_propagation(params, x[None], nn.ACTIVATIONS[weights["activation"]]), len(params) // 2
    outputs = [cache[f"A{l}"][0] for l in range(L)] + [PROBABILITIES[weights["loss"]](cache[f"Z{L}"])[0]]
    label, hidden = int(outputs[L].argmax()), [plain(a) for a in outputs[1:L]]
    connections = [strongest(outputs[l - 1], params[f"W{l}"], outputs[l]) for l in range(1, L + 1)]
    examples = closest(memory, outputs[L - 1], classes) if memory else []
    return Answer(label, classes[label], plain(outputs[L]), plain(x), hidden, connections, examples)


def plain(A: nn.Array) -> list[float]:
    """A (n,) for JSON."""
    numbers: list[float] = A.astype(np.float64).round(4).tolist()
    return numbers


def strongest(A: nn.Array, W: nn.Array, B: nn.Array) -> list[tuple[int, int, float]]:
    """The largest A_i W_ij, by size, between the units of A (m,) and B (n,) that are not silent; W is (m, n)."""
    rows, columns = np.flatnonzero(A), np.flatnonzero(B)
    C = A[rows, None] * W[np.ix_(rows, columns)]
    i, j = np.unravel_index(np.argsort(-abs(C), axis=None)[:STRONGEST], C.shape)
    return list(zip(rows[i].tolist(), columns[j].tolist(), plain(C[i, j])))


def closest(memory: Memory, a: nn.Array, classes: Sequence[str]) -> list[Example]:
    """The training images whose A_n are closest to a (H,): |A_n - a|^2 / 2 = |A_n|^2 / 2 - A_n . a + |a|^2 / 2."""
    distance = memory.half - memory.A @ a
    rows = np.argpartition(distance, min(CLOSEST, len(distance) - 1))[:CLOSEST]
    return [
        Example(int(memory.Y[n]), classes[memory.Y[n]], plain(scale_pixels(memory.X[n])))
        for n in rows[np.argsort(distance[rows])]
    ]


def read_pixels(body: bytes) -> NDArray[np.float32]:
    """{"pixels": [784 numbers in [0, 1]]} to an array (784,). ImageError for anything else."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"pixels"} or not isinstance(content["pixels"], list):
        raise ImageError('the body must be {"pixels": [...]} and nothing else')
    pixels = content["pixels"]
    if len(pixels) != PIXELS:
        raise ImageError(f"pixels must be {PIXELS} numbers, 28 rows of 28, got {len(pixels)}")
    for n, pixel in enumerate(pixels):
        if type(pixel) not in (int, float) or not 0 <= pixel <= 1:  # NaN is not
            raise ImageError(f"pixels[{n}] must be a number from 0 to 1, got {reprlib.repr(pixel)}")
    return np.array(pixels, np.float32)


async def read_body(request: Request) -> bytes:
    """The body of a request. HTTPException where it is too large, too slow or cut short.

    What is too much is read, for the client to hear the answer, but not kept.
    """
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(MAX_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                body += chunk if size <= MAX_BYTES else b""
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {MAX_SECONDS:g} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body was cut short") from None
    if size > MAX_BYTES:
        raise HTTPException(413, f"the body has {size} bytes; at most {MAX_BYTES} are read")
    return bytes(body)


def policy(page: str, script: str = "", style: str = "", image: str = "") -> dict[str, str]:
    """The Content-Security-Policy of a page: its inline scripts and styles, known by their hashes, and some sources."""

    def own(tag: str) -> str:
        texts = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts)
        return " ".join(f"'sha256-{value.decode()}'" for value in hashes)

    inline = f"script-src {own('script')} {script}; style-src {own('style')} {style}"
    return {"Content-Security-Policy": f"{inline}; img-src data: {image}; {POLICY}"}


async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Gives every response the HEADERS that it does not have."""
    response = await call_next(request)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


def describe_body() -> dict[str, object]:
    """What OpenAPI says of the body of a prediction."""
    level = {"type": "number", "minimum": 0, "maximum": 1}
    array = {"type": "array", "items": level, "minItems": PIXELS, "maxItems": PIXELS}
    pixels = {"type": "object", "properties": {"pixels": array}, "required": ["pixels"], "additionalProperties": False}
    file = {"type": "string", "format": "binary"}
    content = {JSON: {"schema": pixels}} | {media_type: {"schema": file} for media_type in IMAGES}
    return {"requestBody": {"required": True, "content": content}}


def make_app(network: Network, key: str | None) -> FastAPI:
    """The page and its API; where there is a key, the API needs it."""
    page = PAGE.read_text(encoding="utf-8")
    workers = ThreadPoolExecutor(os.cpu_count())  # at most so many images are decoded at a time

    def check_key(given: str | None = Depends(APIKeyHeader(name="X-API-Key", auto_error=False))) -> None:
        if not hmac.compare_digest((given or "").encode(), (key or "").encode()):
            raise HTTPException(401, "the key in X-API-Key is missing or wrong", {"WWW-Authenticate": "X-API-Key"})

    def think(media_type: str, body: bytes) -> Answer:
        try:
            if media_type == JSON:
                return answer(network, read_pixels(body))
            return answer(network, scale_pixels(prepare_image(body, network.weights["dataset"])))
        except ImageError as error:
            raise HTTPException(422, str(error)) from error

    async def predict(request: Request) -> Answer:
        """Reads an image: 784 numbers in [0, 1], row by row, 0 for the ground and 1 for ink; or an image file."""
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type not in (JSON, *IMAGES):
            raise HTTPException(415, f"Content-Type must be {JSON} or one of {', '.join(IMAGES)}, got {media_type!r}")
        body = await read_body(request)
        return await asyncio.get_running_loop().run_in_executor(workers, think, media_type, body)

    def describe_network() -> Description:
        """What the network is."""
        return describe(network)

    def health() -> dict[str, str]:
        """Says that the server is there."""
        return {"status": "ok"}

    def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers=policy(page))

    def show_docs() -> HTMLResponse:
        docs = get_swagger_ui_html(openapi_url="/openapi.json", title="API")
        elsewhere = "https://cdn.jsdelivr.net"
        docs.headers.update(policy(bytes(docs.body).decode(), elsewhere, f"{elsewhere} 'unsafe-inline'", "https:"))
        return docs

    def errors(*codes: int) -> dict[int | str, dict[str, object]]:
        return {code: {"model": Failure, "description": ERRORS[code]} for code in codes if key or code != 401}

    app = FastAPI(title="What does the image show?", docs_url=None, redoc_url=None)
    app.add_middleware(BaseHTTPMiddleware, dispatch=add_headers)
    locks = [Depends(check_key)] if key else []
    app.add_api_route("/api/network", describe_network, dependencies=locks, responses=errors(401))
    app.add_api_route("/api/health", health, dependencies=locks, responses=errors(401))
    options = {"responses": errors(*ERRORS), "openapi_extra": describe_body()}
    app.add_api_route("/api/predict", predict, methods=["POST"], dependencies=locks, **options)
    app.add_api_route("/", show_page, include_in_schema=False)
    app.add_api_route("/docs", show_docs, include_in_schema=False)
    return app


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. OSError where it cannot."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family)


def make_server(app: FastAPI) -> uvicorn.Server:
    """What runs the app on a socket that listens; it logs warnings and errors alone."""
    limits = {"limit_concurrency": MAX_CLIENTS, "timeout_graceful_shutdown": 2}
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, **limits))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0 once it is stopped, 1 for an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", default="mnist", help="what it was trained on: a name or a path")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the network, if not the one of --dataset")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; 0.0.0.0 is every address of this machine")
    parser.add_argument("--port", type=int, default=8000, help="from 1 to 65535; 0 takes any that is free")
    options = parser.parse_args(arguments)
    key = os.environ.get("DIGIT_API_KEY")
    try:
        if key is not None and not re.fullmatch(KEY, key):
            raise ValueError("DIGIT_API_KEY must be one or more letters, digits or signs of ASCII; unset it for no key")
        app = make_app(read_network(options.weights or weights_path(options.dataset)), key)
    except (OSError, ValueError) as error:
        print("demo.app:", printable(error), file=sys.stderr)
        return 1
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        listener = listen(options.host, options.port)
    except (OSError, OverflowError) as error:
        place = f"{host}:{options.port}: {error}"
        print(f"demo.app: cannot listen at {place}; name another --port or --host", file=sys.stderr)
        return 1
    print(f"draw at http://{host}:{listener.getsockname()[1]} (the API: /docs); Ctrl-C stops it", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        make_server(app).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
