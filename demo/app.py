"""The page on which to draw, and the API behind it: `python -m demo.app` serves both.

The page lies in page/: it asks the API alone, and nothing of other hosts. The API is described at /docs. Where
DIGIT_API_KEY is set, every call of it needs that in X-API-Key. For a phone in the same network to reach the page:
DIGIT_API_KEY=... python -m demo.app --host 0.0.0.0, and in its browser this machine's address with :8000.
"""

import argparse
import asyncio
import contextlib
import hmac
import json
import os
import re
import reprlib
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import fastapi_offline
import hypercorn.asyncio
import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse
from fastapi.security import APIKeyHeader
from hypercorn.config import Config
from numpy.typing import NDArray
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import ClientDisconnect

from data.datasets import PIXELS, SIDE
from data.flags import printable
from data.load import scale_pixels
from demo.answer import Answer, Network, Prediction, answer, read_network
from demo.photo import ImageError, prepare_image
from demo.predict import weights_path

PAGE = Path(__file__).resolve().parent / "page"
SWAGGER = Path(fastapi_offline.__file__).parent / "static"
FILES = {  # by the path that serves it
    "/": PAGE / "index.html",
    "/page.css": PAGE / "page.css",
    "/page.js": PAGE / "page.js",
    "/docs": PAGE / "docs.html",
    "/docs.js": PAGE / "docs.js",
    "/swagger-ui.css": SWAGGER / "swagger-ui.css",
    "/swagger-ui-bundle.js": SWAGGER / "swagger-ui-bundle.js",
}
JSON = "application/json"
IMAGES = [f"image/{name}" for name in ("png", "jpeg", "webp", "bmp", "gif", "heic")]  # and any that prepare_image reads
MAX_BYTES = 10_000_000  # of an image file
MAX_JSON, MAX_IMAGES = 320_000, 16  # bytes: 16 images of 784 numbers, 25 characters each
MAX_SECONDS = 30.0  # for a body to arrive
HEADER_SECONDS = 5.0  # for a header to arrive, after the connection or the answer before
SPOOLED = 100_000  # bytes of a body kept in memory while it arrives; more go to a temporary file
FAINT = 0.1  # levels that differ by less show no ink
USAGE = f"the body must be an image or {JSON}; with curl: --data-binary @photo.png -H 'Content-Type: image/png'"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
ERRORS = {
    400: "The body did not arrive whole",
    401: "The key in X-API-Key is missing or wrong",
    408: f"The body took longer than {MAX_SECONDS:g} seconds",
    413: f"An image file has more than {MAX_BYTES} bytes, or JSON more than {MAX_JSON}",
    415: f"The body is neither {JSON} nor an image",
    422: "The pixels are not what they should be, nothing can be read in the image, or detail is unknown",
}


@dataclass(frozen=True)
class Description:
    """The network: units of its layers, functions, and the share of a set that it read right, in [0, 1].

    measured_on: that set, "test" or "validation". training_images: 0 where they are not at hand.
    """

    dataset: str
    classes: list[str]
    layers: list[int]
    activation: str
    loss: str
    accuracy: float
    measured_on: str
    training_images: int


@dataclass(frozen=True)
class Failure:
    """What was wrong with a call."""

    detail: str


def read_pixels(body: bytes) -> NDArray[np.float32]:
    """{"pixels": an image, or a list of images} to (784,) or (N, 784). ImageError for anything else."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"the body is not JSON: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"pixels"} or not isinstance(content["pixels"], list):
        raise ImageError('the body must be {"pixels": [...]} and nothing else')
    pixels = shape_pixels(content["pixels"])
    for n, pixel in enumerate(pixels.ravel().tolist()):
        if type(pixel) not in (int, float) or not 0 <= pixel <= 1:  # NaN is not
            place = "".join(f"[{i}]" for i in np.unravel_index(n, pixels.shape))
            raise ImageError(f"pixels{place} must be a number from 0 to 1, got {reprlib.repr(pixel)}")
    images = pixels.astype(np.float32)
    if (np.ptp(images, axis=-1) < FAINT).any():
        raise ImageError("there is no ink in the image")
    return images


def shape_pixels(pixels: list[object]) -> NDArray[np.object_]:
    """784 items, 28 rows of 28, or a list of such, as (784,) or (N, 784). ImageError for other shapes."""
    try:
        images = np.array(pixels, object)
    except ValueError:  # lists of unlike lengths
        images = np.array(len(pixels) * [None])
    if images.shape[-2:] == (SIDE, SIDE):
        images = images.reshape(*images.shape[:-2], PIXELS)
    if images.shape != (PIXELS,) and images.shape not in [(n, PIXELS) for n in range(1, MAX_IMAGES + 1)]:
        form = f"{PIXELS} numbers or {SIDE} rows of {SIDE}, or up to {MAX_IMAGES} such images"
        raise ImageError(f"pixels must be {form}, got {' x '.join(map(str, images.shape))}")
    return images


async def read_body(request: Request, limit: int) -> IO[bytes]:
    """The body of a request, to be read. HTTPException where it is over the limit in bytes, too slow or cut short.

    What is too much is read, for the client to hear the answer, but not kept.
    """
    body, size = tempfile.SpooledTemporaryFile(SPOOLED), 0
    try:
        async with asyncio.timeout(MAX_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                body.write(chunk if size <= limit else b"")
    except TimeoutError:
        raise HTTPException(408, f"the body did not arrive within {MAX_SECONDS:g} seconds") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body was cut short") from None
    if size > limit:
        raise HTTPException(413, f"the body has {size} bytes; at most {limit} are read")
    body.seek(0)
    return body


async def add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Gives every response the HEADERS, but one of status 500: that is made outside."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def describe_body() -> dict[str, object]:
    """What OpenAPI says of the body of a prediction."""
    level = {"type": "number", "minimum": 0, "maximum": 1}
    image = {"type": "array", "items": level, "minItems": PIXELS, "maxItems": PIXELS}
    images = {"type": "array", "items": image, "minItems": 1, "maxItems": MAX_IMAGES}
    array = {"anyOf": [image, images], "description": f"an image, or several; {SIDE} rows of {SIDE} are an image, too"}
    pixels = {"type": "object", "properties": {"pixels": array}, "required": ["pixels"], "additionalProperties": False}
    file = {"type": "string", "format": "binary"}
    content = {JSON: {"schema": pixels}} | {media_type: {"schema": file} for media_type in IMAGES}
    return {"requestBody": {"required": True, "content": content}}


def make_app(network: Network, key: str | None) -> FastAPI:
    """The page and its API; where there is a key, the API needs it."""
    worker = ThreadPoolExecutor(1)  # one image is decoded at a time: its memory is that of the server

    def check_key(given: str | None = Depends(APIKeyHeader(name="X-API-Key", auto_error=False))) -> None:
        if not hmac.compare_digest((given or "").encode(), (key or "").encode()):
            raise HTTPException(401, "the key in X-API-Key is missing or wrong", {"WWW-Authenticate": "X-API-Key"})

    def think(media_type: str, body: IO[bytes], whole: bool) -> Prediction | list[Prediction]:
        try:
            with body:
                content = body.read()
            if media_type != JSON:
                return answer(network, scale_pixels(prepare_image(content, network.weights["dataset"])), whole)
            X = read_pixels(content)
            return answer(network, X, whole) if X.ndim == 1 else [answer(network, x, whole) for x in X]
        except ImageError as error:
            raise HTTPException(422, str(error)) from error

    async def predict(request: Request, detail: str = "") -> Answer | Prediction | list[Answer] | list[Prediction]:
        """Reads an image: 784 numbers in [0, 1], row by row, 0 for the ground and 1 for ink; or an image file.

        detail=network tells how the network comes to its answer.
        """
        if detail not in ("", "network"):
            raise HTTPException(422, f"detail must be network, got {reprlib.repr(detail)}")
        media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if media_type != JSON and not media_type.startswith("image/"):
            raise HTTPException(415, f"{USAGE}; got Content-Type {reprlib.repr(media_type)}")
        body = await read_body(request, MAX_JSON if media_type == JSON else MAX_BYTES)
        return await asyncio.get_running_loop().run_in_executor(worker, think, media_type, body, bool(detail))

    def describe_network() -> dict[str, object]:
        """What the network is."""
        return {**network.weights, "training_images": len(network.memory.X) if network.memory else 0}

    def health() -> dict[str, str]:
        """Says that the server is there."""
        return {"status": "ok"}

    def errors(*codes: int) -> dict[int | str, dict[str, object]]:
        return {code: {"model": Failure, "description": ERRORS[code]} for code in codes if key or code != 401}

    app = FastAPI(title="What does the image show?", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(BaseHTTPMiddleware, dispatch=add_headers)
    locks = [Depends(check_key)] if key else []
    options = {"dependencies": locks, "responses": errors(401)}
    app.add_api_route("/api/network", describe_network, response_model=Description, **options)
    app.add_api_route("/api/health", health, **options)
    options = {"dependencies": locks, "responses": errors(*ERRORS), "openapi_extra": describe_body()}
    app.add_api_route("/api/predict", predict, methods=["POST"], **options)
    for path, file in FILES.items():
        app.add_route(path, lambda request, file=file: FileResponse(file))
    return app


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. OSError where it cannot."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return socket.create_server(address[:2], family=family)


def serve(app: FastAPI, listener: socket.socket, stop: Callable[[], Awaitable[object]] | None = None) -> None:
    """Serves the app on a socket that listens, until a signal or stop() ends it; logs warnings and errors alone."""
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.keep_alive_timeout = HEADER_SECONDS  # it ends half a header, too
    config.loglevel, config.include_server_header, config.graceful_timeout = "WARNING", False, 2
    asyncio.run(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0 once it is stopped, 1 for an error; argparse ends with 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataset", default="mnist", help="what it was trained on: a name or a path")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the network, if not the one of --dataset")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen; 0.0.0.0 is every address of this machine")
    parser.add_argument("--port", type=int, default=8000, help="from 1 to 65535; 0 takes any that is free")
    options = parser.parse_args(arguments)
    if not 0 <= options.port < 2**16:
        parser.error(f"--port must be from 0 to 65535, got {options.port}")
    key = os.environ.get("DIGIT_API_KEY")
    try:
        if key is not None and not re.fullmatch(r"[!-~]+", key):  # what can stand in a header
            raise ValueError("DIGIT_API_KEY must be one or more letters, digits or signs of ASCII; unset it for no key")
        app = make_app(read_network(options.weights or weights_path(options.dataset)), key)
    except (OSError, ValueError) as error:
        print("demo.app:", printable(error), file=sys.stderr)
        return 1
    host = f"[{options.host}]" if ":" in options.host else options.host
    try:
        listener = listen(options.host, options.port)
    except (OSError, UnicodeError) as error:
        other = "--host 127.0.0.1" if isinstance(error, socket.gaierror | UnicodeError) else "--port 8001"
        place = printable(f"{host}:{options.port}: {error}")
        print(f'demo.app: cannot listen at {place}; name another: make demo ARGS="{other}"', file=sys.stderr)
        return 1
    with contextlib.suppress(BrokenPipeError):  # it serves, whether or not anyone reads this
        print(f"draw at http://{host}:{listener.getsockname()[1]} (the API: /docs); Ctrl-C stops it", flush=True)
        if options.host == "127.0.0.1":
            print("for a phone in the same network: --host 0.0.0.0, with a key in DIGIT_API_KEY", flush=True)
    serve(app, listener)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
