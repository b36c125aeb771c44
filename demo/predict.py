"""The command that says what an image of one's own shows: python -m demo.predict photo.png."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import nn
from data.augment import Images
from data.batches import scale_parts
from data.datasets import DATASETS, PIXELS, SIDE
from data.flags import printable
from data.load import weights_name
from data.weights import Weights, load_weights
from demo.photo import ImageError, find_stages, prepare_image

SHADES = " .:-=+*#%@"
STAGE = 320  # pixels, the side of each stage that --show saves
BAR = 40  # characters, for a probability of 1


def shared_sigmoid(Z: nn.Array) -> nn.Array:
    """sigmoid(Z) (N, K), each row divided by its sum; no output counts as less than 1e-9, lest all be 0."""
    A: nn.Array = np.maximum(nn.sigmoid(Z), 1e-9)
    A /= A.sum(axis=1, keepdims=True)
    return A


PROBABILITIES: dict[str, Callable[[nn.Array], nn.Array]] = {  # by loss: logits (N, K) -> rows that sum to 1
    "cross_entropy": nn.softmax,
    "mean_squared_error": shared_sigmoid,
}


def weights_path(dataset: str) -> Path:
    """Where train.py keeps the weights of a dataset."""
    return Path("weights") / f"{weights_name(dataset)}.pkl"


def load_network(path: Path) -> Weights:
    """The weights at path. OSError where there are none, ValueError unless they read their dataset's images."""
    weights = load_weights(path)
    activation, loss = weights["activation"], weights["loss"]
    if activation not in nn.ACTIVATIONS or loss not in PROBABILITIES:
        raise ValueError(f"{path} needs activation {activation} and loss {loss}, which are not known here")
    published = DATASETS.get(weights["dataset"])
    needed = PIXELS, len(published.classes if published else weights["classes"])
    if (weights["layers"][0], weights["layers"][-1]) != needed:
        raise ValueError(f"{path} has layers {weights['layers']}; from {needed[0]} to {needed[1]} are needed")
    with np.errstate(all="ignore"):
        finite = np.isfinite(predict(weights, np.full((1, PIXELS), 255, np.uint8))).all()
    if not finite:
        raise ValueError(f"{path} has numbers too large to compute with")
    return weights


def predict(weights: Weights, X: Images) -> nn.Array:
    """The probabilities (N, K) of the classes of images X (N, 784)."""
    params, activation = weights["params"], nn.ACTIVATIONS[weights["activation"]]
    caches = (nn.forward_propagation(params, x, activation) for x in scale_parts(X))
    return PROBABILITIES[weights["loss"]](np.concatenate([cache[f"Z{len(params) // 2}"] for cache in caches]))


def draw(image: NDArray[np.uint8]) -> str:
    """An image (784,) as text, two characters a pixel, which makes it about square."""
    rows = image.reshape(SIDE, SIDE).tolist()
    return "\n".join("".join(2 * SHADES[v * len(SHADES) // 256] for v in row).rstrip() for row in rows)


def describe(probabilities: nn.Array, classes: Sequence[str]) -> str:
    """The answer, and each class with its probability as a bar."""
    names, values = [printable(name) for name in classes], probabilities.tolist()
    width = max(map(len, names))
    bars = [f"{name:{width}} {p:6.1%} {'#' * round(BAR * p)}".rstrip() for name, p in zip(names, values, strict=True)]
    return "\n".join([names[int(probabilities.argmax())], "", *bars])


def save_stages(path: Path, content: bytes) -> Path:
    """Saves the image as found, the surface in it and the ink that is read, side by side. Returns where."""
    target = path.with_name(f"{path.name}.stages.png")
    sheet = Image.new("RGB", (3 * STAGE, STAGE))
    for k, stage in enumerate(find_stages(content)):
        tile = Image.fromarray(np.rint(255 * stage).astype(np.uint8)).convert("RGB")
        tile.thumbnail((STAGE, STAGE))
        sheet.paste(tile, (k * STAGE, 0))
    sheet.save(target)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0, or 1 where an image or the weights could not be read."""
    parser = argparse.ArgumentParser(prog="python -m demo.predict", description=__doc__)
    parser.add_argument("images", type=Path, nargs="+", metavar="FILE", help="PNG, JPEG, WebP, BMP, GIF or HEIC")
    parser.add_argument(
        "--show", action="store_true", help="save the stages of reading a photo of a digit, as FILE.stages.png"
    )
    parser.add_argument("--dataset", default="mnist", help="mnist (the default), fashion-mnist or a path to one's own")
    parser.add_argument("--weights", type=Path, help="weights/DATASET.pkl if not given")
    options = parser.parse_args(arguments)
    try:
        weights = load_network(options.weights or weights_path(options.dataset))
    except (ValueError, OSError) as error:
        print("predict:", printable(error), file=sys.stderr)
        return 1
    status = 0
    for path in options.images:
        try:
            content = path.read_bytes()
            if options.show:
                print("stages:", printable(save_stages(path, content)))
            image = prepare_image(content, weights["dataset"])
        except (ImageError, OSError) as error:
            failed = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else f"{path}: {error}"
            print(printable(failed), file=sys.stderr)
            status = 1
        else:
            (probabilities,) = predict(weights, image[np.newaxis])
            print(printable(path), draw(image), describe(probabilities, weights["classes"]), "", sep="\n")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
